//! Decides who may open what across the tunnel's edges, in one nftables table of ours.
//!
//! - **Neighbours.** Linux answers on any link for any address of the host. Whoever shares a network with this host could
//!   therefore route a tunnel address to it and reach what is published there for the tunnel only: dropped.
//! - **The tunnel.** The opposite agent's host reaches this host's open ports and the ports that containers publish. The host's other
//!   services and the networks behind it are not its business: dropped. Devices in the tunnel get to what they are permitted, and to
//!   nothing else.

use std::fmt::Write as _;
use std::io;
use std::net::Ipv4Addr;
use std::process::Output;
use std::time::Duration;

use ipnet::Ipv4Net;

const TABLE: &str = "inet cloudathome";
const DEADLINE: Duration = Duration::from_secs(10);

/// A tunnel's link and address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guarded {
    /// The link that carries the address.
    pub device: String,
    /// The address, which is reached from its own link and from the host itself only. Only itself is guarded: dropping
    /// the whole subnet would drop the containers' replies as well.
    pub address: Ipv4Addr,
    /// The only address in the tunnel that may open anything here.
    pub opposite: Ipv4Addr,
    /// TCP ports of this host itself that it may open.
    pub open_tcp: Vec<u16>,
    /// What others in the tunnel may open.
    pub permits: Vec<Permit>,
}

/// Something that may be opened from somewhere in the tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permit {
    /// From where. The opposite agent's address is never meant.
    pub from: Ipv4Net,
    /// What.
    pub to: Goal,
}

/// What may be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Goal {
    /// A TCP port of this host itself.
    Tcp(u16),
    /// A UDP port of this host itself.
    Udp(u16),
    /// Ports that containers publish on this host.
    Published,
    /// The opposite agent's host, which decides for itself.
    Opposite,
    /// The others in the tunnel.
    Others(Ipv4Net),
    /// Everything that is on neither end a private network, by this host's own address.
    Internet,
}

/// Networks that are not the internet: those of this host, its provider and its containers among them.
const PRIVATE: &str =
    "{ 0.0.0.0/8, 10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12, 192.168.0.0/16, 224.0.0.0/3 }";

/// Why the guard could not be put in place or removed.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// The device's name cannot stand in a rule.
    #[error("{0:?} is no name for a network device: use 1 to 15 of letters, digits, '-', '_' and '.'")]
    DeviceName(String),
    /// The program `nft` did not run.
    #[error("cannot run nft (install the package nftables)")]
    Run(#[source] io::Error),
    /// It did not come back.
    #[error("nft gave no answer within {} s", DEADLINE.as_secs())]
    Timeout,
    /// It refused.
    #[error("nft refused to {what}: {reason}")]
    Refused {
        /// What it was asked to do.
        what: &'static str,
        /// Its own words.
        reason: String,
    },
}

/// Puts the guard in place for exactly these addresses, in one transaction. Returns whether anything had to be
/// changed.
///
/// # Errors
/// When `nft` is missing, refuses, or hangs.
pub async fn ensure(guarded: &[Guarded]) -> Result<bool, GuardError> {
    let wanted = render(guarded)?;
    let listed = nft(&["--stateless", "list", "table", "inet", "cloudathome"], "").await?;
    // The rules are written as nft prints them. Should another version print them otherwise, they are set once more,
    // which does no harm.
    if listed.status.success() && words(&String::from_utf8_lossy(&listed.stdout)) == words(&wanted) {
        return Ok(false);
    }
    run("set the guard of the tunnel", &format!("table {TABLE}\ndelete table {TABLE}\n{wanted}")).await?;
    Ok(true)
}

/// Removes the guard; nothing happens when there is none.
///
/// # Errors
/// When `nft` is missing, refuses, or hangs.
pub async fn remove() -> Result<(), GuardError> {
    run("remove the guard of the tunnel", &format!("table {TABLE}\ndelete table {TABLE}\n")).await
}

fn render(guarded: &[Guarded]) -> Result<String, GuardError> {
    let (mut prerouting, mut input, mut forward) = (String::new(), String::new(), String::new());
    let mut masqueraded = String::new();
    for Guarded { device, address, opposite, open_tcp, permits } in guarded {
        let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if device.is_empty() || device.len() > 15 || !device.chars().all(valid) {
            return Err(GuardError::DeviceName(device.clone()));
        }
        // Writing to a String cannot fail.
        let _ = writeln!(prerouting, "iifname != \"lo\" iifname != \"{device}\" ip daddr {address} counter drop");
        let known = format!("iifname \"{device}\" ct state established,related accept\n");
        input += &known;
        let _ = writeln!(input, "iifname \"{device}\" icmp type echo-request accept");
        for port in open_tcp {
            let _ = writeln!(input, "iifname \"{device}\" ip saddr {opposite} tcp dport {port} accept");
        }
        forward += &known;
        // What Docker has translated is on its way to a published port.
        let _ = writeln!(forward, "iifname \"{device}\" ip saddr {opposite} ct status dnat accept");
        for Permit { from, to } in permits {
            let from = format!("iifname \"{device}\" ip saddr {} ip saddr != {opposite}", shown(*from));
            let _ = match to {
                Goal::Tcp(port) => writeln!(input, "{from} tcp dport {port} accept"),
                Goal::Udp(port) => writeln!(input, "{from} udp dport {port} accept"),
                Goal::Published => writeln!(forward, "{from} ct status dnat accept"),
                Goal::Opposite => writeln!(forward, "{from} oifname \"{device}\" ip daddr {opposite} accept"),
                Goal::Others(others) => writeln!(
                    forward,
                    "{from} oifname \"{device}\" ip daddr {} ip daddr != {opposite} accept",
                    shown(*others)
                ),
                Goal::Internet => writeln!(forward, "{from} oifname != \"{device}\" ip daddr != {PRIVATE} accept"),
            };
        }
        for Permit { from, .. } in permits.iter().filter(|permit| permit.to == Goal::Internet) {
            let _ = writeln!(masqueraded, "ip saddr {} oifname != \"{device}\" masquerade", shown(*from));
        }
        for chain in [&mut input, &mut forward] {
            let _ = writeln!(chain, "iifname \"{device}\" counter drop");
        }
    }
    let postrouting = match masqueraded.as_str() {
        "" => String::new(),
        rules => {
            format!("chain postrouting {{\ntype nat hook postrouting priority srcnat; policy accept;\n{rules}}}\n")
        }
    };
    // Before routing, right after connection tracking and before any translation of addresses, only what opens a
    // connection, or belongs to none, is judged: when the host itself asks a container by the tunnel address, the replies
    // come from the container's bridge and must pass.
    Ok(format!(
        "table {TABLE} {{\n\
         chain prerouting {{\ntype filter hook prerouting priority mangle; policy accept;\n\
         ct direction reply accept\n{prerouting}}}\n\
         chain input {{\ntype filter hook input priority filter; policy accept;\n{input}}}\n\
         chain forward {{\ntype filter hook forward priority filter; policy accept;\n{forward}}}\n\
         {postrouting}}}\n"
    ))
}

/// As nft prints it.
fn shown(net: Ipv4Net) -> String {
    if net.prefix_len() == 32 { net.addr().to_string() } else { net.trunc().to_string() }
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

async fn run(what: &'static str, script: &str) -> Result<(), GuardError> {
    let output = nft(&["--file", "-"], script).await?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(GuardError::Refused { what, reason })
}

async fn nft(arguments: &[&str], script: &str) -> Result<Output, GuardError> {
    match crate::program::run("nft", arguments, script, DEADLINE).await {
        Ok(Some(output)) => Ok(output),
        Ok(None) => Err(GuardError::Timeout),
        Err(error) => Err(GuardError::Run(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_name_cannot_carry_a_rule() {
        for bad in ["", "tun0\" } accept #", "a-name-far-too-long", "tun 0"] {
            let address = Ipv4Addr::new(10, 86, 0, 2);
            let guarded =
                Guarded { device: bad.to_owned(), address, opposite: address, open_tcp: vec![], permits: vec![] };
            assert!(matches!(render(&[guarded]), Err(GuardError::DeviceName(_))), "{bad}");
        }
    }
}
