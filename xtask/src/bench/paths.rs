//! The ways from one host to the other that can be measured.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::topology::{LEFT, RIGHT};
use lab::{Host, Process, wait_until};

use super::bed::Bed;
use super::programs::Programs;
use super::tunnel::Tunnel;

/// The right end's address in the tunnel.
pub(crate) const INSIDE: &str = "10.9.0.1";
const DEVICE: &str = "tun0";
/// Time that a tunnel has to come up.
const LIMIT: Duration = Duration::from_secs(30);

/// A way from `left` to `right`.
#[derive(Debug, Clone)]
pub(crate) struct Path {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// Whether super-packets stay whole on the cable.
    pub(crate) whole: bool,
}

/// What carries the packets.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// Nothing: the cable itself.
    Bare,
    /// The left end connects to the right one.
    OpenVpn {
        left: End,
        right: End,
        tcp: bool,
    },
    WireGuard(WireGuard),
    /// Commands that somebody gave, and the right end's address.
    Given {
        address: String,
        left: String,
        right: String,
    },
}

/// An end that speaks OpenVPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Ours,
    /// Ours without encryption, which is never in what ships: the limit of all but the cipher.
    OursNull,
    /// Debian's own.
    Stock26,
    /// Sid's.
    Stock27,
}

/// WireGuard in user space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WireGuard {
    Go,
    Boring,
}

const fn openvpn(left: End, right: End) -> Kind {
    Kind::OpenVpn { left, right, tcp: false }
}

const fn over_tcp(end: End) -> Kind {
    Kind::OpenVpn { left: end, right: end, tcp: true }
}

/// All but those that are given. Super-packets stay whole in the first list and not in the second.
const WHOLE: [(&str, &str, Kind); 12] = [
    ("veth", "the bare cable, without a tunnel", Kind::Bare),
    ("ours", "our tunnel at both ends, over UDP", openvpn(End::Ours, End::Ours)),
    ("ours-tcp", "the same over TCP", over_tcp(End::Ours)),
    ("ours-null", "ours over UDP, built without encryption", openvpn(End::OursNull, End::OursNull)),
    ("openvpn-2.6", "Debian's openvpn, over UDP", openvpn(End::Stock26, End::Stock26)),
    ("openvpn-2.6-tcp", "the same over TCP", over_tcp(End::Stock26)),
    ("openvpn-2.7", "sid's openvpn, over UDP", openvpn(End::Stock27, End::Stock27)),
    ("openvpn-2.7-tcp", "the same over TCP", over_tcp(End::Stock27)),
    ("wireguard-go", "sid's wireguard-go", Kind::WireGuard(WireGuard::Go)),
    ("boringtun", "boringtun-cli", Kind::WireGuard(WireGuard::Boring)),
    ("ours-to-2.6", "our dialer, Debian's openvpn listens", openvpn(End::Ours, End::Stock26)),
    ("2.6-to-ours", "Debian's openvpn dials, ours listens", openvpn(End::Stock26, End::Ours)),
];
const SEGMENTED: [(&str, &str, Kind); 2] = [
    ("ours-segmented", "our tunnel where super-packets do not survive the cable", openvpn(End::Ours, End::Ours)),
    ("openvpn-2.6-segmented", "Debian's openvpn there", openvpn(End::Stock26, End::Stock26)),
];

fn known() -> impl Iterator<Item = (Path, &'static str)> {
    let all = WHOLE.map(|path| (path, true)).into_iter().chain(SEGMENTED.map(|path| (path, false)));
    all.map(|((name, what, kind), whole)| (Path { name: name.to_owned(), kind, whole }, what))
}

/// The names of all paths and what they are.
pub(crate) fn help() -> String {
    let lines: Vec<String> = known().map(|(path, what)| format!("  {:<22} {what}", path.name)).collect();
    format!("Only these paths, with commas between them. All there are:\n{}", lines.join("\n"))
}

/// The paths of these names (all if there are none), and those that are given as name, address and two commands each.
///
/// # Errors
/// When there is no such path, or one twice.
pub(crate) fn selected(names: &[String], given: &[String]) -> Result<Vec<Path>> {
    let all: Vec<Path> = known().map(|(path, _)| path).collect();
    for name in names {
        ensure!(all.iter().any(|path| path.name == *name), "there is no path `{name}`: see --help");
    }
    let mut paths: Vec<Path> = all.into_iter().filter(|path| names.is_empty() || names.contains(&path.name)).collect();
    for words in given.chunks_exact(4) {
        let [name, address, left, right] = words else { continue };
        ensure!(paths.iter().all(|path| path.name != *name), "`{name}` is the name of two paths");
        let kind = Kind::Given { address: address.clone(), left: left.clone(), right: right.clone() };
        paths.push(Path { name: name.clone(), kind, whole: true });
    }
    Ok(paths)
}

impl Path {
    /// Brings it up.
    ///
    /// # Errors
    /// When no packet passes within half a minute.
    pub(crate) fn start(&self, bed: &Bed, programs: &Programs) -> Result<Tunnel> {
        let (address, mut ends) = match &self.kind {
            Kind::Bare => (RIGHT.to_string(), vec![]),
            Kind::OpenVpn { left, right, tcp } => {
                let right = bed.right.spawn("tunnel", listener(bed, programs, *right, *tcp)?)?;
                let left = bed.left.spawn("tunnel", dialer(bed, programs, *left, *tcp)?)?;
                (INSIDE.to_owned(), vec![left, right])
            }
            Kind::WireGuard(which) => (INSIDE.to_owned(), wireguard(bed, programs, *which)?),
            Kind::Given { address, left, right } => {
                let shell = |host: &Host, command: &str| {
                    let mut shell = host.command("sh");
                    shell.args(["-c", command]).env("DIR", bed.dir());
                    host.spawn("tunnel", shell)
                };
                (address.clone(), vec![shell(&bed.left, left)?, shell(&bed.right, right)?])
            }
        };
        let reached = wait_until("a packet through the tunnel", LIMIT, || {
            for end in &mut ends {
                ensure!(end.is_running(), "an end has stopped");
            }
            bed.left.exec(&["ping", "-n", "-c", "1", "-W", "1", &address]).map(|_| true)
        });
        let logs = || ends.iter().map(|end| end.log_tail(10)).collect::<Vec<_>>().join("\n");
        reached.with_context(logs)?;
        Ok(Tunnel { address, ends })
    }
}

/// Our end's words for its role and its identity. It is the one without encryption if `end` says so.
pub(crate) fn ours(bed: &Bed, programs: &Programs, end: End, host: &Host, words: &[&str]) -> Command {
    let program = if end == End::OursNull { &programs.ours_null } else { &programs.ours };
    let mut command = host.command(&program.display().to_string());
    command.args(words).arg(format!("tun={DEVICE}"));
    command.arg(format!("ca={}", bed.file("ca.pem")));
    command.arg(format!("cert={}", bed.file(&format!("{}.pem", host.name()))));
    command.arg(format!("key={}", bed.file(&format!("{}.key", host.name()))));
    command
}

/// A stock end's. The kernel's own data channel is another thing than these programs.
pub(crate) fn stock(bed: &Bed, programs: &Programs, host: &Host, end: End, words: &str) -> Result<Command> {
    let program = if end == End::Stock27 { programs.openvpn_2_7(bed)? } else { "openvpn".to_owned() };
    let mut command = host.command(&program);
    command.args(words.split_whitespace()).args(["--dev", DEVICE, "--dev-type", "tun", "--disable-dco"]);
    command.args(["--ca", &bed.file("ca.pem")]);
    command.args(["--cert", &bed.file(&format!("{}.pem", host.name()))]);
    command.args(["--key", &bed.file(&format!("{}.key", host.name()))]);
    Ok(command)
}

fn listener(bed: &Bed, programs: &Programs, end: End, tcp: bool) -> Result<Command> {
    if matches!(end, End::Ours | End::OursNull) {
        let (bind, pool) = ("bind=0.0.0.0:1194", "pool=10.9.0.10-10.9.0.20");
        let words = ["mode=listen", bind, "tcp=0.0.0.0:1194", "address=10.9.0.1/24", pool];
        return Ok(ours(bed, programs, end, &bed.right, &words));
    }
    let proto = if tcp { "tcp-server" } else { "udp" };
    let words =
        format!("--server 10.9.0.0 255.255.255.0 --topology subnet --dh none --keepalive 10 60 --proto {proto}");
    stock(bed, programs, &bed.right, end, &words)
}

pub(crate) fn dialer(bed: &Bed, programs: &Programs, end: End, tcp: bool) -> Result<Command> {
    if matches!(end, End::Ours | End::OursNull) {
        let remote = format!("remote={RIGHT}:1194{}", if tcp { "/tcp" } else { "" });
        return Ok(ours(bed, programs, end, &bed.left, &["mode=dial", &remote]));
    }
    let proto = if tcp { "tcp-client" } else { "udp" };
    let words =
        format!("--client --nobind --remote {RIGHT} 1194 --proto {proto} --remote-cert-tls server --connect-retry 1 1");
    stock(bed, programs, &bed.left, end, &words)
}

/// Both ends of a WireGuard, as `wg-quick` sets them up.
fn wireguard(bed: &Bed, programs: &Programs, which: WireGuard) -> Result<Vec<Process>> {
    let keys: Vec<(String, String)> = (0..2)
        .map(|_| {
            let private = bed.left.exec(&["wg", "genkey"])?.trim().to_owned();
            let public = bed.left.exec(&["sh", "-c", &format!("echo {private} | wg pubkey")])?.trim().to_owned();
            Ok((private, public))
        })
        .collect::<Result<_>>()?;
    let [left, right] = keys.as_slice() else { return Ok(vec![]) };
    let sides = [(&bed.left, left, right, RIGHT, "10.9.0.2/24"), (&bed.right, right, left, LEFT, "10.9.0.1/24")];
    let mut ends = Vec::new();
    for (host, (private, _), (_, public), other, inside) in sides {
        let file = bed.file(&format!("{}.conf", host.name()));
        let text = format!(
            "[Interface]\nPrivateKey = {private}\nListenPort = 51820\n\
             [Peer]\nPublicKey = {public}\nEndpoint = {other}:51820\nAllowedIPs = 10.9.0.0/24\n"
        );
        fs::write(&file, text)?;
        let [program, arguments @ ..] = &*programs.wireguard(which, bed)? else { continue };
        let mut command = host.command(program);
        command.args(arguments).args([DEVICE, &file]);
        let mut end = host.spawn("tunnel", command)?;
        end.wait_until("the device", LIMIT, || host.exec(&["ip", "link", "show", DEVICE]).map(|_| true))?;
        host.exec(&["ip", "address", "add", inside, "dev", DEVICE])?;
        host.exec(&["ip", "link", "set", DEVICE, "mtu", "1420", "up"])?;
        ends.push(end);
    }
    Ok(ends)
}
