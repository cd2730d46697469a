//! Decides who may open what across the tunnel's edges, in one nftables table of ours.
//!
//! - **Neighbours.** Linux answers on any link for any address of the host. Whoever shares a network with this host could
//!   therefore route a tunnel address to it and reach what is published there for the tunnel only: dropped.
//! - **The tunnel.** The opposite agent's host reaches this host's open ports and the ports that containers publish. The host's other
//!   services and the networks behind it are not its business, and devices in the tunnel get to none of it: dropped.

use std::fmt::Write as _;
use std::io;
use std::net::Ipv4Addr;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

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
}

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
    for Guarded { device, address, opposite, open_tcp } in guarded {
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
        let _ = writeln!(input, "iifname \"{device}\" counter drop");
        forward += &known;
        // What Docker has translated is on its way to a published port.
        let _ = writeln!(forward, "iifname \"{device}\" ip saddr {opposite} ct status dnat accept");
        let _ = writeln!(forward, "iifname \"{device}\" counter drop");
    }
    // Before routing, right after connection tracking and before any translation of addresses, only what opens a
    // connection, or belongs to none, is judged: when the host itself asks a container by the tunnel address, the replies
    // come from the container's bridge and must pass.
    Ok(format!(
        "table {TABLE} {{\n\
         chain prerouting {{\ntype filter hook prerouting priority mangle; policy accept;\n\
         ct direction reply accept\n{prerouting}}}\n\
         chain input {{\ntype filter hook input priority filter; policy accept;\n{input}}}\n\
         chain forward {{\ntype filter hook forward priority filter; policy accept;\n{forward}}}\n\
         }}\n"
    ))
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
    let run = async {
        let mut child = Command::new("nft")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(script.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    match tokio::time::timeout(DEADLINE, run).await {
        Ok(output) => output.map_err(GuardError::Run),
        Err(_) => Err(GuardError::Timeout),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_name_cannot_carry_a_rule() {
        for bad in ["", "tun0\" } accept #", "a-name-far-too-long", "tun 0"] {
            let address = Ipv4Addr::new(10, 86, 0, 2);
            let guarded = Guarded { device: bad.to_owned(), address, opposite: address, open_tcp: vec![] };
            assert!(matches!(render(&[guarded]), Err(GuardError::DeviceName(_))), "{bad}");
        }
    }
}
