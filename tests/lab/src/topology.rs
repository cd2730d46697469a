//! How the hosts of a lab are joined.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The internet's own address: its name service and ACME server answer here.
pub const INTERNET: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The VPS's public address.
pub const VPS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
/// The public address that home shares with the provider's other customers.
pub const PROVIDER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 130);
/// The home router's address, inside the provider's network (100.64.0.0/10, not routed on the internet).
pub const HOME_ROUTER: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 2);
/// Home's address in the flat.
pub const HOME_PRIVATE: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 10);
/// Home's address where it has a public one.
pub const HOME_PUBLIC: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 200);
/// The visitor's address.
pub const VISITOR: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);

/// One end of the cable between two hosts.
pub const LEFT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The other end of that cable.
pub const RIGHT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// What a lab consists of: usually where home stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topology {
    /// Behind its router's NAT and the provider's (carrier-grade): only home can open connections.
    HomeBehindNat,
    /// On a public address of its own, so that the VPS can dial.
    HomePublic,
    /// Two hosts, `left` and `right`, whose `eth0` are the ends of one cable. No internet, no names: for measuring.
    Pair,
    /// One host, `host`, which reaches nobody but itself and its containers: the cheapest place for an engine.
    Alone,
}

/// A host as the topology knows it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Station {
    pub(crate) name: &'static str,
    pub(crate) address: Ipv4Addr,
    routes: bool,
    /// Interface towards the internet behind which everything else is hidden.
    hides_behind: Option<&'static str>,
    /// Where packets to elsewhere go.
    gateway: Option<Ipv4Addr>,
}

/// One cable: host, interface and address of either end.
type Link = [(&'static str, &'static str, &'static str); 2];

const fn host(name: &'static str, address: Ipv4Addr, gateway: Ipv4Addr) -> Station {
    Station { name, address, routes: false, hides_behind: None, gateway: Some(gateway) }
}

const fn nat(name: &'static str, address: Ipv4Addr, gateway: Ipv4Addr) -> Station {
    Station { name, address, routes: true, hides_behind: Some("wan"), gateway: Some(gateway) }
}

const INTERNET_STATION: Station =
    Station { name: "internet", address: INTERNET, routes: true, hides_behind: None, gateway: None };
const VPS_STATION: Station = host("vps", VPS, INTERNET);
const VISITOR_STATION: Station = host("visitor", VISITOR, Ipv4Addr::new(203, 0, 113, 1));
const TO_ISP: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 129);

const LEFT_STATION: Station = Station { name: "left", address: LEFT, routes: false, hides_behind: None, gateway: None };
const ALONE_STATION: Station = Station { name: "host", address: Ipv4Addr::LOCALHOST, ..LEFT_STATION };
const RIGHT_STATION: Station = Station { name: "right", address: RIGHT, ..LEFT_STATION };

const VPS_LINK: Link = [("internet", "to-vps", "198.51.100.1/25"), ("vps", "eth0", "198.51.100.10/25")];
const VISITOR_LINK: Link = [("internet", "to-visitor", "203.0.113.1/24"), ("visitor", "eth0", "203.0.113.5/24")];

impl Topology {
    pub(crate) fn stations(self) -> Vec<Station> {
        let internet = [INTERNET_STATION, VPS_STATION, VISITOR_STATION];
        let homes = match self {
            Self::HomeBehindNat => vec![
                nat("isp", PROVIDER, TO_ISP),
                nat("cpe", HOME_ROUTER, Ipv4Addr::new(100, 64, 0, 1)),
                host("home", HOME_PRIVATE, Ipv4Addr::new(192, 168, 1, 1)),
            ],
            Self::HomePublic => vec![host("home", HOME_PUBLIC, TO_ISP)],
            Self::Pair => return vec![LEFT_STATION, RIGHT_STATION],
            Self::Alone => return vec![ALONE_STATION],
        };
        internet.into_iter().chain(homes).collect()
    }

    fn links(self) -> Vec<Link> {
        let homes = match self {
            Self::HomeBehindNat => vec![
                [("internet", "to-isp", "198.51.100.129/25"), ("isp", "wan", "198.51.100.130/25")],
                [("isp", "lan", "100.64.0.1/24"), ("cpe", "wan", "100.64.0.2/24")],
                [("cpe", "lan", "192.168.1.1/24"), ("home", "eth0", "192.168.1.10/24")],
            ],
            Self::HomePublic => {
                vec![[("internet", "to-home", "198.51.100.129/25"), ("home", "eth0", "198.51.100.200/25")]]
            }
            Self::Alone => return vec![],
            Self::Pair => return vec![[("left", "eth0", "192.0.2.1/24"), ("right", "eth0", "192.0.2.2/24")]],
        };
        [VPS_LINK, VISITOR_LINK].into_iter().chain(homes).collect()
    }
}

/// Makes the namespaces under `dir`, one file each, and joins them. Whatever exists when this fails is under `dir`.
pub(crate) fn build(topology: Topology, dir: &Path) -> Result<()> {
    let ns = |name: &str| dir.join(name);
    for station in topology.stations() {
        let file = ns(station.name);
        std::fs::write(&file, "").with_context(|| format!("make {}", file.display()))?;
        let mut unshare = Command::new("unshare");
        unshare.arg(format!("--net={}", file.display())).arg("true");
        run(unshare, "make a network namespace")?;
        // A new namespace may take the machine's settings over; a host must start like a freshly installed one, so that
        // its engine is the one to switch forwarding on and guards it then.
        let forward = u8::from(station.routes);
        let start = format!("echo {forward} > /proc/sys/net/ipv4/ip_forward && ip link set lo up");
        run(inside(&file, &["sh", "-c", &start]), "start a network namespace")?;
    }
    for [(a, a_interface, a_address), (b, b_interface, b_address)] in topology.links() {
        // Made inside the namespaces at once: the machine's own never sees an interface of a lab.
        let far = ns(b).display().to_string();
        let cable =
            ["ip", "link", "add", a_interface, "type", "veth", "peer", "name", b_interface, "netns", far.as_str()];
        run(inside(&ns(a), &cable), "lay a cable")?;
        for (end, interface, address) in [(a, a_interface, a_address), (b, b_interface, b_address)] {
            let set = format!("ip address add {address} dev {interface} && ip link set {interface} up");
            run(inside(&ns(end), &["sh", "-c", &set]), "set an address")?;
        }
    }
    for station in topology.stations() {
        if let Some(gateway) = station.gateway {
            let gateway = gateway.to_string();
            run(inside(&ns(station.name), &["ip", "route", "add", "default", "via", &gateway]), "set a route")?;
        }
        if let Some(wan) = station.hides_behind {
            run(inside(&ns(station.name), &["nft", &nat_rules(wan)]), "set up NAT")?;
        }
    }
    Ok(())
}

/// A NAT router as providers and homes have them: what comes from inside goes out under the router's own address, port
/// kept where it can be; what comes from outside unasked is dropped without an answer. Inbound TCP openings are counted
/// before anything else sees them.
fn nat_rules(wan: &str) -> String {
    format!(
        r#"table ip router {{
    counter inbound_syn {{ }}
    chain early {{
        type filter hook prerouting priority raw; policy accept;
        iifname "{wan}" tcp flags & (fin | syn | rst | ack) == syn counter name "inbound_syn" drop
    }}
    chain own {{
        type filter hook input priority filter; policy drop;
        ct state established,related accept
        iifname != "{wan}" accept
    }}
    chain through {{
        type filter hook forward priority filter; policy drop;
        ct state established,related accept
        iifname != "{wan}" oifname "{wan}" accept
    }}
    chain outward {{
        type nat hook postrouting priority srcnat; policy accept;
        oifname "{wan}" masquerade
    }}
}}"#
    )
}

fn inside(namespace: &Path, argv: &[&str]) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", namespace.display())).args(argv);
    command
}

/// Runs one building step; none of them waits for anything.
pub(crate) fn run(mut command: Command, doing: &str) -> Result<()> {
    let output = command.output().with_context(|| format!("{doing}: run {command:?}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{doing}: {command:?} ended with {}: {}", output.status, stderr.trim());
    }
    Ok(())
}
