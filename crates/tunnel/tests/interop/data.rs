//! The data channel with stock peers: old ciphers, framings, sizes, segments, pings.
//!
//! Sockets are made here, each in the namespace of its side, and so the tests see what passes without programs between.

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt};

use crate::support::{Lab, SERVER, SERVER6, Side, cannot_run};

const POOL: &str = "pool=10.8.0.10-10.8.0.20";
const US: &str = "10.8.0.1:7000";

/// A stock client with our listener, connected.
fn stock_client(ours: &[&str], stock: &[&str]) -> Lab {
    let lab = Lab::new();
    lab.prepare_devices();
    connect_stock_client(lab, ours, stock)
}

fn connect_stock_client(mut lab: Lab, ours: &[&str], stock: &[&str]) -> Lab {
    lab.spawn_ours(Side::Server, "ours", "server", &[&[POOL], ours].concat());
    lab.wait_for("ours", "Listening");
    lab.spawn_stock(Side::Client, "stock", "client", stock);
    lab.wait_for("stock", "Initialization Sequence Completed");
    lab.ping(Side::Client, "10.8.0.1", 56);
    lab
}

/// Our dialer with a stock server, connected.
fn stock_server(ours: &[&str], stock: &[&str]) -> Lab {
    let lab = Lab::new();
    lab.prepare_devices();
    connect_stock_server(lab, ours, stock)
}

fn connect_stock_server(mut lab: Lab, ours: &[&str], stock: &[&str]) -> Lab {
    lab.spawn_stock(Side::Server, "stock", "server", stock);
    lab.wait_for("stock", "Initialization Sequence Completed");
    lab.spawn_ours(Side::Client, "ours", "client", ours);
    lab.wait_for("ours", "PeerConnected");
    lab.ping(Side::Client, "10.8.0.1", 56);
    lab
}

/// Nothing is wrong in the log of the stock peer, and we dropped nothing that we received.
#[track_caller]
fn assert_clean(lab: &mut Lab) {
    let log = lab.log("stock");
    assert!(!log.contains("used inconsistently"), "{log}");
    assert_no_errors(lab);
}

#[track_caller]
fn assert_no_errors(lab: &mut Lab) {
    let log = lab.log("stock");
    for error in ["TLS Error", "decrypt packet error", "AEAD Decrypt error", "Bad LZO"] {
        assert!(!log.contains(error), "{error} in\n{log}");
    }
    let ours = lab.finish("ours");
    assert!(ours.contains("handshakes_completed=1 handshakes_failed=0"), "{ours}");
    for reason in ["authentication", "replay", "compressed", "malformed", "too_large"] {
        assert!(!ours.contains(&format!("dropped {reason}=")), "{ours}");
    }
}

impl Lab {
    /// Devices that are made from now on have no IPv6 and so send nothing of themselves, and connections have no options
    /// that take place in segments.
    fn prepare_devices(&self) {
        for side in [Side::Server, Side::Client] {
            self.inside(side, || {
                std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
                std::fs::write("/proc/sys/net/ipv4/tcp_timestamps", "0").unwrap();
            });
        }
    }

    /// Counts what goes out at a side: control packets, and those of them that make more than `bytes` of an IP datagram.
    fn count_control(&self, side: Side, bytes: u16) {
        let rules = format!(
            "add table inet sizes; add chain inet sizes out {{ type filter hook output priority 0; }};
             add rule inet sizes out meta l4proto udp @th,64,5 != {{ 6, 9 }} counter comment \"all\";
             add rule inet sizes out meta l4proto udp @th,64,5 != {{ 6, 9 }} ip length > {bytes} counter comment \"large\""
        );
        assert!(self.command(side, "nft").arg(rules).status().unwrap().success());
    }

    /// What [`Self::count_control`] has counted: all, and the large ones.
    fn counted(&self, side: Side) -> (u64, u64) {
        let output = self.command(side, "nft").args(["list", "table", "inet", "sizes"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let count = |which: &str| -> u64 {
            let line = text.lines().find(|line| line.contains(which)).unwrap();
            let (_, rest) = line.split_once("counter packets ").unwrap();
            rest.split(' ').next().unwrap().parse().unwrap()
        };
        (count("\"all\""), count("\"large\""))
    }

    fn udp(&self, side: Side, address: &str) -> UdpSocket {
        let socket = self.inside(side, || UdpSocket::bind(address).unwrap());
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    }

    /// Packets and bytes that were written to the only tunnel device of a side.
    fn delivered(&self, side: Side) -> u64 {
        let output = self.command(side, "cat").arg("/proc/net/dev").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text.lines().find_map(|line| line.trim().strip_prefix("tun")).unwrap();
        let (_, counters) = line.split_once(':').unwrap();
        counters.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

/// Every size of UDP payload up to 1500 bytes, there and back, twenty on their way at a time. The last ones are in packets
/// larger than the MTU, and so in two.
#[track_caller]
pub(crate) fn echo_every_size(lab: &Lab, client: &str) {
    let (server, client) = (lab.udp(Side::Server, US), lab.udp(Side::Client, &format!("{client}:7000")));
    let payload = |size: usize| -> Vec<u8> { (0..size).map(|at| (at * 31 + size * 7) as u8).collect() };
    let mut buf = [0; 2000];
    for first in (0..=1500).step_by(20) {
        let sizes = first..(first + 20).min(1501);
        for size in sizes.clone() {
            client.send_to(&payload(size), US).unwrap();
        }
        for size in sizes.clone() {
            let (length, from) = server.recv_from(&mut buf).unwrap_or_else(|error| panic!("{size} there: {error}"));
            assert_eq!(buf[..length], payload(size), "{size} bytes there");
            server.send_to(&buf[..length], from).unwrap();
        }
        for size in sizes {
            let (length, _) = client.recv_from(&mut buf).unwrap_or_else(|error| panic!("{size} back: {error}"));
            assert_eq!(buf[..length], payload(size), "{size} bytes back");
        }
    }
}

#[test]
fn every_size_with_a_stock_client() {
    if cannot_run() {
        return;
    }
    let mut lab = stock_client(&["mtu=1500"], &[]);
    echo_every_size(&lab, "10.8.0.10");
    assert_clean(&mut lab);
}

#[test]
fn every_size_with_a_stock_server() {
    if cannot_run() {
        return;
    }
    let mut lab = stock_server(&[], &[]);
    echo_every_size(&lab, "10.8.0.2");
    assert_clean(&mut lab);
}

/// CBC where both name it: 256, 192 and 128 bits, by exported keys and by the PRF, with and without peer id.
#[test]
fn cbc_with_a_stock_client() {
    if cannot_run() {
        return;
    }
    for (ours, stock) in [
        (&["ciphers=AES-256-CBC", "auth=SHA256"][..], &["--data-ciphers", "AES-256-CBC", "--auth", "SHA256"][..]),
        (&["ciphers=AES-128-CBC", "derive=prf"], &["--data-ciphers", "AES-128-CBC"]),
    ] {
        let mut lab = stock_client(&[&["mtu=1500"], ours].concat(), stock);
        echo_every_size(&lab, "10.8.0.10");
        assert!(lab.log("ours").contains("Cbc"));
        assert_clean(&mut lab);
    }
}

#[test]
fn cbc_with_a_stock_server() {
    if cannot_run() {
        return;
    }
    for (ours, stock) in [
        (&["ciphers=AES-256-CBC", "auth=SHA256"][..], &["--data-ciphers", "AES-256-CBC", "--auth", "SHA256"][..]),
        (&["ciphers=AES-192-CBC", "auth=SHA512", "derive=prf"], &["--data-ciphers", "AES-192-CBC", "--auth", "SHA512"]),
    ] {
        let mut lab = stock_server(ours, stock);
        echo_every_size(&lab, "10.8.0.2");
        assert!(lab.log("ours").contains("Cbc"));
        assert_clean(&mut lab);
    }
}

/// CBC is not used unless it is named here, whatever the other end wants.
#[test]
fn cbc_is_not_used_unless_named() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    lab.spawn_ours(Side::Server, "ours", "server", &[POOL]);
    lab.wait_for("ours", "Listening");
    lab.spawn_stock(Side::Client, "stock", "client", &["--data-ciphers", "AES-256-CBC"]);
    lab.wait_for("stock", "AUTH_FAILED");
    lab.wait_for("ours", "NoSharedCipher");
    lab.finish("ours");
    lab.finish("stock");
    lab.spawn_stock(Side::Server, "stock-server", "server", &["--data-ciphers", "AES-256-CBC"]);
    lab.wait_for("stock-server", "Initialization Sequence Completed");
    lab.spawn_ours(Side::Client, "dialer", "client", &[]);
    lab.wait_for("dialer", "HandshakeFailed");
    assert!(!lab.log("dialer").contains("PeerConnected"));
}

/// What a stock server frames without compressing it is understood, and what it would compress is refused with a reason.
#[test]
fn framings_of_a_stock_server() {
    if cannot_run() {
        return;
    }
    for option in ["compress stub-v2", "compress stub", "comp-lzo no"] {
        let words: Vec<&str> = option.split(' ').collect();
        let (name, value) = (format!("--{}", words[0]), words[1]);
        let mut lab =
            stock_server(&["mtu=1500"], &[&name, value, "--keepalive", "1", "8", "--push", option, "--verb", "7"]);
        echo_every_size(&lab, "10.8.0.2");
        // Pings are framed too.
        lab.wait_for("stock", "RECEIVED PING PACKET");
        // Stock counts the byte of the older framings in its options, of which we know only after they are compared.
        assert_no_errors(&mut lab);
    }
}

#[test]
fn compression_of_a_stock_server_is_refused() {
    if cannot_run() {
        return;
    }
    for option in ["compress lz4-v2", "comp-lzo adaptive"] {
        let mut lab = Lab::new();
        lab.spawn_stock(Side::Server, "stock", "server", &["--push", option]);
        lab.wait_for("stock", "Initialization Sequence Completed");
        lab.spawn_ours(Side::Client, "ours", "client", &[]);
        let log = lab.wait_for("ours", "HandshakeFailed");
        assert!(log.contains(&format!("Compression(\"{option}\")")), "{log}");
    }
}

/// The largest segments of a connection from `from` to the address, as each end was told.
#[track_caller]
fn segments(lab: &Lab, from: Side, to: &str) -> (u32, u32) {
    let other = if from == Side::Client { Side::Server } else { Side::Client };
    let address: SocketAddr = to.parse().unwrap();
    let listener = lab.inside(other, || TcpListener::bind(address).unwrap());
    let connecting = lab.inside(from, || TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap());
    let (accepted, _) = listener.accept().unwrap();
    let of = |stream: &TcpStream| getsockopt(&stream.as_fd(), sockopt::TcpMaxSeg).unwrap();
    (of(&connecting), of(&accepted))
}

/// Segments with `value` at both ends and a listener or dialer of ours: what is lowered is lowered both ways.
#[test]
fn segments_are_clamped_as_stock_does_it_with_a_stock_client() {
    if cannot_run() {
        return;
    }
    let tcp = format!("{SERVER} 1194 tcp-client");
    let tcp: Vec<&str> = ["--remote"].into_iter().chain(tcp.split(' ')).collect();
    let v6 = ["--remote", SERVER6, "1194", "udp6"];
    let cbc = ["--data-ciphers", "AES-256-CBC", "--auth", "SHA256"];
    for (ours, stock, expected) in [
        (&[][..], &[][..], 1400),
        (&["bind=[::]:1194"], &v6[..], 1380),
        (&["tcp=0.0.0.0:1194"], &tcp, 1386),
        (&["ciphers=AES-256-CBC", "auth=SHA256"], &cbc, 1363),
        (&["mssfix=1300"], &[], 1236),
        (&["mssfix=1300/fixed"], &[], 1260),
    ] {
        // The stock client clamps nothing: what is seen is ours.
        let mut lab = stock_client(&[&["mtu=1500"], ours].concat(), &[&["--mssfix", "0"], stock].concat());
        assert_eq!(segments(&lab, Side::Client, US), (expected, expected), "{ours:?}");
        assert_eq!(segments(&lab, Side::Server, "10.8.0.10:7000"), (expected, expected), "{ours:?}");
        assert_clean(&mut lab);
    }
    // And the other way round: this is what stock makes of it.
    let mut lab = stock_client(&["mtu=1500", "mssfix=0"], &[]);
    assert_eq!(segments(&lab, Side::Client, US), (1400, 1400));
    assert_clean(&mut lab);
}

#[test]
fn segments_are_clamped_as_stock_does_it_with_a_stock_server() {
    if cannot_run() {
        return;
    }
    for (ours, stock, expected) in [
        (&[][..], &["--mssfix", "0"][..], 1400),
        (&["mssfix=0"], &[], 1400),
        (
            &["ciphers=AES-256-CBC", "auth=SHA256"],
            &["--mssfix", "0", "--data-ciphers", "AES-256-CBC", "--auth", "SHA256"],
            1363,
        ),
        (
            &["mssfix=0", "ciphers=AES-256-CBC", "auth=SHA256"],
            &["--data-ciphers", "AES-256-CBC", "--auth", "SHA256"],
            1363,
        ),
        (&["mssfix=0"], &["--mssfix", "0"], 1460),
    ] {
        let mut lab = stock_server(ours, stock);
        assert_eq!(segments(&lab, Side::Client, US), (expected, expected), "{ours:?} {stock:?}");
        assert_eq!(segments(&lab, Side::Server, "10.8.0.2:7000"), (expected, expected), "{ours:?} {stock:?}");
        assert_clean(&mut lab);
    }
}

/// What is set for ours and for stock, and what no control packet of ours may exceed.
const SIZES: [(&[&str], &[&str], u16); 4] = [
    (&[], &[], 1250),
    (&[], &["--max-packet-size", "600"], 1250),
    (&["max_packet_size=600"], &[], 600),
    (&["max_packet_size=154"], &["--max-packet-size", "154"], 154),
];

/// Whole packets of 1500 bytes pass although what carries them is larger than the wire's 1500, both ways; and peers whose
/// control packets are small, or ours that are, shake hands and renew.
#[test]
fn small_control_packets_and_large_packets_with_a_stock_client() {
    if cannot_run() {
        return;
    }
    for (ours, stock, largest) in SIZES {
        let lab = Lab::new();
        lab.count_control(Side::Server, largest);
        let mut lab = connect_stock_client(lab, &[&["mtu=1500", "reneg=2"], ours].concat(), stock);
        // Of the second key.
        lab.wait_for_count("stock", "Control Channel: TLS", 2);
        lab.ping(Side::Client, "10.8.0.1", 1472);
        lab.ping(Side::Server, "10.8.0.10", 1472);
        let (all, large) = lab.counted(Side::Server);
        assert!(all > 5 && large == 0, "{large} of {all} are larger than {largest}");
        assert_clean(&mut lab);
    }
}

#[test]
fn small_control_packets_and_large_packets_with_a_stock_server() {
    if cannot_run() {
        return;
    }
    for (ours, stock, largest) in SIZES {
        let lab = Lab::new();
        lab.count_control(Side::Client, largest);
        let mut lab = connect_stock_server(lab, &[&["reneg=2"], ours].concat(), stock);
        // Of the second key.
        lab.wait_for_count("stock", "Control Channel: TLS", 2);
        lab.ping(Side::Client, "10.8.0.1", 1472);
        lab.ping(Side::Server, "10.8.0.2", 1472);
        let (all, large) = lab.counted(Side::Client);
        assert!(all > 5 && large == 0, "{large} of {all} are larger than {largest}");
        assert_clean(&mut lab);
    }
}

/// Pings go out after silence and come to no device: neither ours nor stock's.
#[track_caller]
fn pings_stay_outside(lab: &Lab) {
    let before = [Side::Server, Side::Client].map(|side| lab.delivered(side));
    let seen = lab.log("stock").matches("RECEIVED PING PACKET").count();
    let silent_since = Instant::now();
    lab.wait_for_count("stock", "RECEIVED PING PACKET", seen + 3);
    assert!(silent_since.elapsed() >= Duration::from_millis(1900), "pings without silence");
    assert_eq!([Side::Server, Side::Client].map(|side| lab.delivered(side)), before);
    let log = lab.log("ours");
    assert!(!log.contains("PeerDisconnected"), "{log}");
}

#[test]
fn pings_with_a_stock_client() {
    if cannot_run() {
        return;
    }
    let mut lab = stock_client(&["ping=1/4", "mtu=1500"], &["--verb", "7"]);
    pings_stay_outside(&lab);
    // Nothing but pings keeps the session alive.
    assert_clean(&mut lab);
}

#[test]
fn pings_with_a_stock_server() {
    if cannot_run() {
        return;
    }
    let mut lab = stock_server(&["mtu=1500"], &["--keepalive", "1", "4", "--verb", "7"]);
    pings_stay_outside(&lab);
    assert_clean(&mut lab);
}
