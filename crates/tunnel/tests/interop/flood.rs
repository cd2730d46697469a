//! Floods of malformed, truncated, oversized, replayed, spoofed and random packets against sessions that go on.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ::relay::{Faults, Recorded, Relay};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use socket2::{Domain, Protocol, Socket, Type};

use crate::relay::{self, RELAY};
use crate::support::{Lab, SERVER, Side, cannot_run};

const POOL: &str = "pool=10.8.0.10-10.8.0.20";
/// Packets of a flood.
const PACKETS: u64 = 600_000;
/// Aimed at; a busy machine takes longer.
const PER_SECOND: u64 = 100_000;
/// Sent before memory is looked at for the first time.
const WARM_UP: u64 = 50_000;
/// Growth of memory that is none: the allocator's own.
const FLAT: u64 = 2 * 1024 * 1024;
/// Echo requests of one round.
const ECHOES: u32 = 40;

/// Who is flooded in whose name.
#[derive(Clone, Copy)]
struct Aim {
    target: SocketAddrV4,
    /// The address of the target's live peer.
    peer: SocketAddrV4,
}

/// Sends packets from any address.
struct Gun {
    raw: Socket,
    /// For what is larger than the raw socket takes.
    plain: std::net::UdpSocket,
    rng: StdRng,
    packet: Vec<u8>,
}

impl Gun {
    fn new(namespace: &str) -> Self {
        // IPPROTO_RAW: the IP header is ours to write.
        let open = || {
            let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).unwrap();
            (raw, std::net::UdpSocket::bind("0.0.0.0:0").unwrap())
        };
        let (raw, plain) = ::relay::in_namespace(namespace, open).unwrap();
        Self { raw, plain, rng: StdRng::seed_from_u64(100), packet: Vec::new() }
    }

    fn send(&mut self, from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> bool {
        let length = (28 + payload.len()) as u16;
        self.packet.clear();
        // Identification and checksum are filled in by the kernel; a UDP checksum of zero is none.
        self.packet.extend_from_slice(&[0x45, 0]);
        self.packet.extend_from_slice(&length.to_be_bytes());
        self.packet.extend_from_slice(&[0, 0, 0, 0, 64, 17, 0, 0]);
        self.packet.extend_from_slice(&from.ip().octets());
        self.packet.extend_from_slice(&to.ip().octets());
        self.packet.extend_from_slice(&from.port().to_be_bytes());
        self.packet.extend_from_slice(&to.port().to_be_bytes());
        self.packet.extend_from_slice(&(length - 20).to_be_bytes());
        self.packet.extend_from_slice(&[0, 0]);
        self.packet.extend_from_slice(payload);
        self.raw.send_to(&self.packet, &SocketAddr::from(to).into()).is_ok()
    }

    /// One packet of some kind; whether it went out.
    fn shoot(&mut self, aim: Aim, recorded: &[Recorded]) -> bool {
        let mut buf = [0; 1472];
        let known = &recorded[self.rng.random_range(0..recorded.len())].bytes;
        let stranger = match aim.target.ip().is_loopback() {
            true => Ipv4Addr::new(127, 0, 0, self.rng.random_range(2..=254)),
            false => Ipv4Addr::new(192, 0, 2, self.rng.random_range(3..=254)),
        };
        let stranger = SocketAddrV4::new(stranger, self.rng.random_range(1024..=u16::MAX));
        let from = if self.rng.random_bool(0.5) { aim.peer } else { stranger };
        let length = self.rng.random_range(0..buf.len());
        match self.rng.random_range(0..100) {
            // Random, also with the first byte of something that exists.
            0..20 => {
                self.rng.fill_bytes(&mut buf);
                buf[0] = if self.rng.random_bool(0.5) { buf[0] } else { known[0] };
                self.send(from, aim.target, &buf[..length])
            }
            // Malformed: opcodes that do not exist, and nothing at all.
            20..30 => {
                buf[0] = [0, 1 << 3, 2 << 3, 12 << 3, 31 << 3][length % 5];
                self.send(from, aim.target, &buf[..length % 60])
            }
            30..45 => self.send(from, aim.target, &known[..self.packet.len() % known.len()]),
            45..46 => {
                let size = self.rng.random_range(usize::from(tunnel::MAX_MTU) + 200..20_000);
                self.plain.send_to(&vec![known[0]; size], aim.target).is_ok()
            }
            46..70 => self.send(from, aim.target, known),
            // Spoofed: what the peer sent, with a byte changed.
            _ => {
                let packet = &mut buf[..known.len().min(1472)];
                packet.copy_from_slice(&known[..packet.len()]);
                let at = self.rng.random_range(0..packet.len());
                packet[at] ^= self.rng.random_range(1..=u8::MAX);
                self.send(from, aim.target, packet)
            }
        }
    }

    /// Shoots at all of `aims` in turn, `count` packets at the rate aimed at; gives how many went out.
    fn flood(&mut self, aims: &[Aim], recorded: &[Recorded], count: u64) -> u64 {
        let (start, mut sent) = (Instant::now(), 0);
        for number in 0..count {
            sent += u64::from(self.shoot(aims[number as usize % aims.len()], recorded));
            let due = Duration::from_micros(number * 1_000_000 / PER_SECOND);
            if number % 64 == 0 && start.elapsed() < due {
                std::thread::sleep(due.saturating_sub(start.elapsed()));
            }
        }
        println!("{sent} packets, {:.0} a second", sent as f64 / start.elapsed().as_secs_f64());
        sent
    }
}

/// Resident memory in bytes, and open files.
fn memory_and_files(pid: u32) -> (u64, usize) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    (kilobytes * 1024, fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count())
}

/// Datagrams that sockets of a namespace had no room for.
fn overflowed(lab: &Lab, side: Side) -> u64 {
    let output = lab.command(side, "cat").arg("/proc/net/snmp").output().unwrap().stdout;
    let text = String::from_utf8(output).unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("Udp:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut columns = names.split(' ').zip(values.split(' '));
    columns.find(|(name, _)| *name == "RcvbufErrors").unwrap().1.parse().unwrap()
}

/// Counters of dropped packets by reason, as our end prints them.
fn drops(log: &str) -> Vec<(&str, u64)> {
    let lines = log.lines().filter_map(|line| line.strip_prefix("dropped "));
    lines.filter_map(|line| line.split_once('=')).map(|(reason, count)| (reason, count.parse().unwrap())).collect()
}

/// Floods the process `ours`, which runs on `side`, while echoes go through its tunnels, which are these devices of the
/// client's side; then ends it and looks at what it counted. The gun stands on the client's side.
fn flood(lab: &mut Lab, side: Side, devices: &[&str], aims: &[Aim], relay: &Relay) {
    devices.iter().for_each(|device| assert_eq!(echo(lab, device), ECHOES));
    let mut gun = Gun::new(lab.namespace(Side::Client));
    let recorded: Vec<Recorded> =
        relay.recorded().into_iter().filter(|datagram| datagram.from_client == (side == Side::Server)).collect();
    assert!(recorded.len() > 30, "{} recorded", recorded.len());
    gun.flood(aims, &recorded, WARM_UP);
    let before = memory_and_files(lab.pid("ours"));
    let over = AtomicBool::new(false);
    let (sent, rounds) = std::thread::scope(|scope| {
        let lab = &*lab;
        let echo = scope.spawn(|| {
            let mut rounds = Vec::new();
            while !over.load(Ordering::Relaxed) {
                rounds.extend(devices.iter().map(|device| echo(lab, device)));
            }
            rounds
        });
        let sent = gun.flood(aims, &recorded, PACKETS);
        over.store(true, Ordering::Relaxed);
        (sent, echo.join().unwrap())
    });
    let after = memory_and_files(lab.pid("ours"));
    println!("{rounds:?} echoes of {ECHOES} during it; memory and files before {before:?}, after {after:?}");
    assert!(sent >= PACKETS * 9 / 10, "only {sent} packets went out");
    assert!(rounds.iter().all(|&answered| answered > 0), "nothing got through: {rounds:?}");
    assert!(after.0 <= before.0 + FLAT && after.1 == before.1, "before {before:?}, after {after:?}");
    for device in devices {
        // What still waits of the flood may push one out.
        assert!((0..3).any(|_| echo(lab, device) == ECHOES), "echoes are lost after it, over {device}");
    }

    let overflowed = overflowed(lab, side);
    assert!(!lab.log("ours").contains("PeerDisconnected"), "{}", lab.log("ours"));
    let log = lab.finish("ours");
    let drops = drops(&log);
    let dropped: u64 = drops.iter().map(|(_, count)| count).sum();
    println!("{drops:?}, and {overflowed} that the socket had no room for");
    for reason in ["malformed", "wrap", "replay", "authentication", "unknown_peer", "too_large"] {
        assert!(drops.iter().any(|(name, _)| *name == reason), "nothing was dropped as {reason}: {drops:?}");
    }
    // What is neither is an answered first packet, or was lost as a fragment.
    assert!(dropped + overflowed >= (sent + WARM_UP) * 9 / 10, "{dropped} and {overflowed} of {sent}");
    assert!(log.contains("handshakes_failed=0"), "{log}");
}

/// Sends [`ECHOES`] requests to the server over a device, and gives how many were answered.
fn echo(lab: &Lab, device: &str) -> u32 {
    let count = ECHOES.to_string();
    let words = ["-n", "-q", "-I", device, "-c", &count, "-i", "0.02", "-W", "1", "10.8.0.1"];
    let output = lab.command(Side::Client, "ping").args(words).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let before = text.split_once(" received").and_then(|(before, _)| before.rsplit(' ').next());
    before.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("no result of ping:\n{text}"))
}

fn v4(address: SocketAddr) -> SocketAddrV4 {
    let SocketAddr::V4(address) = address else { panic!("{address} is not IPv4") };
    address
}

/// Our listener has a stock client and one of ours.
#[test]
fn our_listener_in_a_flood() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    let key = lab.path("ta.key");
    lab.issue_clients(&["other".to_owned()]);
    lab.spawn_ours(Side::Server, "ours", "server", &[POOL, "reneg=5", &format!("tls_crypt={key}")]);
    lab.wait_for("ours", "Listening");
    let relay = relay::start(&lab, 1, Faults::default());
    relay.record(1000);
    let words = [&format!("remote={RELAY}"), "tun=tun7", &format!("tls_crypt={key}")];
    lab.spawn_ours(Side::Client, "client", "other", &words);
    lab.wait_for("client", "PeerConnected(");
    let words = ["--remote", "127.0.0.1", "1195", "--dev", "tun8", "--tls-crypt", &key];
    lab.spawn_stock(Side::Client, "stock", "client", &words);
    lab.wait_for("stock", "Initialization Sequence Completed");
    let target: SocketAddrV4 = format!("{SERVER}:1194").parse().unwrap();
    let aims: Vec<Aim> = relay.mappings().into_iter().map(|(_, peer)| Aim { target, peer: v4(peer) }).collect();
    assert_eq!(aims.len(), 2);
    flood(&mut lab, Side::Server, &["tun7", "tun8"], &aims, &relay);
    assert_eq!(lab.log("stock").matches("Initialization Sequence Completed").count(), 1);
    assert_eq!(lab.log("client").matches("PeerConnected(").count(), 1);
}

/// Our dialer is connected with a stock server.
#[test]
fn our_dialer_in_a_flood() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    let key = lab.path("ta.key");
    lab.spawn_stock(Side::Server, "stock", "server", &["--tls-crypt", &key, "--reneg-sec", "5", "5"]);
    lab.wait_for("stock", "Initialization Sequence Completed");
    let relay = relay::start(&lab, 1, Faults::default());
    relay.record(1000);
    lab.spawn_ours(Side::Client, "ours", "client", &[&format!("remote={RELAY}"), &format!("tls_crypt={key}")]);
    lab.wait_for("ours", "PeerConnected(");
    let (client, _) = relay.mappings()[0];
    // Towards its socket, in the name of the relay, which is its server.
    let aim = Aim { target: v4(client), peer: RELAY.parse().unwrap() };
    flood(&mut lab, Side::Client, &["tun0"], &[aim], &relay);
}
