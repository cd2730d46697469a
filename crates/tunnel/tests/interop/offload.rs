//! What the kernel joins and cuts for us, with each kind of peer: the hosts inside see what they would see without it.

use std::io::{IoSliceMut, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use lab::capability;
use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};

use crate::POOL;
use crate::data::echo_every_size;
use crate::support::{Lab, SERVER, SERVER6, Side, cannot_run};

/// Of devices, bytes; of them those that a tunnel may have.
const MTUS: [u16; 5] = [1500, 1492, 1420, 1280, 9000];
/// Bytes of a TCP transfer.
const TRANSFER: u64 = 50_000_000;
const SERVER_INSIDE: [&str; 2] = ["10.8.0.1", "fd00:8::1"];
const CLIENT_INSIDE: [&str; 2] = ["10.8.0.10", "fd00:8::1000"];
/// Of a stock server's first client.
const CLIENT_OF_STOCK: [&str; 2] = ["10.8.0.2", "fd00:8::1000"];
const OURS: [&str; 3] = [POOL, "address6=fd00:8::1/64", "pool6=fd00:8::1000-fd00:8::1fff"];
const STOCK: [&str; 2] = ["--server-ipv6", "fd00:8::/64"];

fn two_of_ours(server: &[&str], client: &[&str]) -> Lab {
    join_ours(Lab::new(), server, client)
}

fn join_ours(mut lab: Lab, server: &[&str], client: &[&str]) -> Lab {
    lab.spawn_ours(Side::Server, "ours", "server", &[&OURS, server].concat());
    lab.wait_for("ours", "Listening");
    lab.spawn_ours(Side::Client, "client", "client", client);
    lab.wait_for("client", "PeerConnected");
    lab.ping(Side::Client, SERVER_INSIDE[0], 56);
    lab
}

fn with_stock_client(ours: &[&str], stock: &[&str]) -> Lab {
    let mut lab = Lab::new();
    lab.spawn_ours(Side::Server, "ours", "server", &[&OURS, ours].concat());
    lab.wait_for("ours", "Listening");
    lab.spawn_stock(Side::Client, "stock", "client", stock);
    lab.wait_for("stock", "Initialization Sequence Completed");
    lab
}

fn with_stock_server(ours: &[&str], stock: &[&str]) -> Lab {
    let mut lab = Lab::new();
    lab.spawn_stock(Side::Server, "stock", "server", &[&STOCK, stock].concat());
    lab.wait_for("stock", "Initialization Sequence Completed");
    lab.spawn_ours(Side::Client, "ours", "client", ours);
    lab.wait_for("ours", "PeerConnected");
    lab
}

/// Transfers both ways: there over IPv4, and back over IPv6.
#[track_caller]
fn transfer(lab: &Lab, client: [&str; 2]) {
    lab.transfer_of(TRANSFER, Side::Client, SERVER_INSIDE[0]);
    lab.transfer_of(TRANSFER, Side::Server, client[1]);
}

/// The other two.
#[track_caller]
fn transfer_the_rest(lab: &Lab, client: [&str; 2]) {
    lab.transfer_of(TRANSFER, Side::Client, SERVER_INSIDE[1]);
    lab.transfer_of(TRANSFER, Side::Server, client[0]);
}

/// Calls of one of our ends and the packets that they carried, from its log.
fn carried(log: &str, what: &str) -> (u64, u64) {
    let (_, rest) = log.split_once(&format!("{what}: IoCount {{ calls: ")).unwrap();
    let (calls, rest) = rest.split_once(", packets: ").unwrap();
    let (packets, _) = rest.split_once(' ').unwrap();
    (calls.parse().unwrap(), packets.parse().unwrap())
}

/// Ends one of ours, which says that it went by this path; gives its log.
#[track_caller]
fn ends_on(lab: &mut Lab, log: &str, path: &str) -> String {
    let log = lab.finish(log);
    assert!(log.contains(&format!("Path {path}\n")), "not by {path}:\n{log}");
    assert!(!log.contains("dropped authentication") && !log.contains("dropped malformed"), "{log}");
    log
}

/// Ends one of ours that read large packets of the device and wrote them to it, where that is not switched off for all
/// tests.
#[track_caller]
fn ends_on_the_best(lab: &mut Lab, log: &str, joins: bool) {
    if !lab.has_offload() {
        ends_on(lab, log, "plain, UDP single");
        return;
    }
    let log = ends_on(lab, log, "virtio-uso, UDP segmented");
    for what in ["device_read", "udp_send", "device_write"] {
        let (calls, packets) = carried(&log, what);
        assert!(packets > 2 * calls || (what == "device_write" && !joins), "{what}: {packets} in {calls}:\n{log}");
    }
}

#[test]
fn every_mtu_with_ours() {
    if cannot_run() {
        return;
    }
    for mtu in MTUS.into_iter().filter(|&mtu| mtu <= tunnel::MAX_MTU) {
        let lab = Lab::new();
        let mut words = vec![format!("mtu={mtu}")];
        if mtu > 1500 {
            lab.set_wire_mtu(mtu + 200);
            words.push("mssfix=0".to_owned());
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut lab = join_ours(lab, &words, &words);
        transfer(&lab, CLIENT_INSIDE);
        if mtu == MTUS[0] {
            transfer_the_rest(&lab, CLIENT_INSIDE);
        }
        ends_on_the_best(&mut lab, "client", true);
        ends_on_the_best(&mut lab, "ours", true);
    }
}

#[test]
fn over_tcp_with_ours() {
    if cannot_run() {
        return;
    }
    let remote = format!("remote={SERVER}:1194/tcp");
    let mut lab = two_of_ours(&["tcp=0.0.0.0:1194"], &[&remote]);
    transfer(&lab, CLIENT_INSIDE);
    let log = lab.finish("ours");
    for what in ["device_read", "device_write"].into_iter().filter(|_| lab.has_offload()) {
        let (calls, packets) = carried(&log, what);
        assert!(packets > 2 * calls, "{what}: {packets} in {calls}:\n{log}");
    }
}

#[test]
fn mtus_with_a_stock_client() {
    if cannot_run() {
        return;
    }
    for mtu in ["1500", "1280"] {
        let mut lab = with_stock_client(&[&format!("mtu={mtu}")], &[]);
        if mtu == "1500" {
            transfer(&lab, CLIENT_INSIDE);
        } else {
            transfer_the_rest(&lab, CLIENT_INSIDE);
        }
        ends_on_the_best(&mut lab, "ours", false);
    }
}

#[test]
fn mtus_with_a_stock_server() {
    if cannot_run() {
        return;
    }
    for mtu in ["1500", "1280"] {
        let mut lab = with_stock_server(&[], &["--tun-mtu", mtu, "--push", &format!("tun-mtu {mtu}")]);
        if mtu == "1500" {
            transfer(&lab, CLIENT_OF_STOCK);
        } else {
            transfer_the_rest(&lab, CLIENT_OF_STOCK);
        }
        ends_on_the_best(&mut lab, "ours", false);
    }
}

#[test]
fn every_size_with_ours() {
    if cannot_run() {
        return;
    }
    for mtu in ["1500", "1280"] {
        let lab = two_of_ours(&[&format!("mtu={mtu}")], &[]);
        echo_every_size(&lab, CLIENT_INSIDE[0]);
    }
}

/// One end has it, the other has not.
#[test]
fn between_the_paths() {
    if cannot_run() {
        return;
    }
    for (server, client) in [("auto", "off"), ("off", "auto")] {
        let mut lab = two_of_ours(&[&format!("offload={server}")], &[&format!("offload={client}")]);
        transfer(&lab, CLIENT_INSIDE);
        for (log, offload) in [("client", client), ("ours", server)] {
            let path = if offload == "off" { "plain, UDP single" } else { "virtio-uso, UDP segmented" };
            ends_on(&mut lab, log, path);
        }
    }
}

/// Datagrams on a wire that takes no large packets are as long as the wire allows.
#[test]
fn a_wire_without_offload() {
    if cannot_run() || capability::missing(&["ethtool"]).inspect(|reason| capability::skip(reason)).is_some() {
        return;
    }
    let lab = Lab::new();
    for side in [Side::Server, Side::Client] {
        for feature in ["tso", "gso", "gro", "tx-udp-segmentation"] {
            let status = lab.command(side, "ethtool").args(["-K", "wire", feature, "off"]).status().unwrap();
            assert!(status.success(), "{feature}");
        }
        let rules =
            [("large", "iifname wire udp dport 1194 ip length > 1500"), ("full", "iifname wire ip length > 1400")];
        lab.count_packets(side, "input", &rules);
    }
    let mut lab = join_ours(lab, &["offload=auto"], &["offload=auto"]);
    transfer(&lab, CLIENT_INSIDE);
    for side in [Side::Server, Side::Client] {
        assert!(lab.packets(side, "full") > TRANSFER / 1500, "nothing was counted");
        assert_eq!(lab.packets(side, "large"), 0);
    }
    ends_on(&mut lab, "client", "virtio-uso, UDP segmented");
    ends_on(&mut lab, "ours", "virtio-uso, UDP segmented");
}

/// Where whole datagrams are longer than the wire takes, the kernel does not cut them; they go one by one, in fragments.
#[test]
fn a_narrow_wire() {
    if cannot_run() {
        return;
    }
    for server in [format!("{SERVER}:1194"), format!("[{SERVER6}]:1194")] {
        let lab = Lab::new();
        lab.set_wire_mtu(1400);
        let words = [&format!("remote={server}"), "offload=auto", "mtu=1420"];
        let mut lab = join_ours(lab, &["bind=[::]:1194", "offload=auto", "mtu=1420"], &words);
        transfer(&lab, CLIENT_INSIDE);
        lab.wait_for("ours", "no longer by virtio-uso, UDP segmented");
        ends_on(&mut lab, "client", "virtio-uso, UDP single out and segmented in");
        ends_on(&mut lab, "ours", "virtio-uso, UDP single out and segmented in");
    }
}

/// DSCP with each of the four marks of ECN.
const MARKS: [u8; 8] = [0, 1, 2, 3, 0xb8, 0xb9, 0xba, 0xbb];
/// Datagrams that are sent at once, and bytes of each.
const RUN: (usize, usize) = (20, 600);

/// Sends runs of datagrams with each mark, which the kernel joins for the device, and looks at each that arrives.
#[track_caller]
fn marks_of_datagrams_survive(lab: &Lab, from: Side, source: &str, destination: &str) {
    let to = if from == Side::Client { Side::Server } else { Side::Client };
    let socket = |side, address: &str| {
        let address = SocketAddr::new(address.parse().unwrap(), 0);
        lab.inside(side, || UdpSocket::bind(address).unwrap())
    };
    let (sender, receiver) = (socket(from, source), socket(to, destination));
    let at = receiver.local_addr().unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    match at {
        SocketAddr::V4(_) => setsockopt(&receiver, sockopt::IpRecvTos, &true).unwrap(),
        SocketAddr::V6(_) => setsockopt(&receiver, sockopt::Ipv6RecvTClass, &true).unwrap(),
    }
    let (packets, size) = RUN;
    setsockopt(&sender, sockopt::UdpGsoSegment, &(size as i32)).unwrap();
    for mark in MARKS {
        match at {
            SocketAddr::V4(_) => setsockopt(&sender, sockopt::Ipv4Tos, &mark.into()).unwrap(),
            SocketAddr::V6(_) => setsockopt(&sender, sockopt::Ipv6TClass, &mark.into()).unwrap(),
        }
        let run: Vec<u8> = (0..packets * size - 1).map(|at| (at / size) as u8 ^ mark).collect();
        sender.send_to(&run, at).unwrap();
        for expected in run.chunks(size) {
            let mut buf = [0; 2000];
            let mut control = nix::cmsg_space!(i32);
            let mut parts = [IoSliceMut::new(&mut buf)];
            let message = recvmsg::<()>(receiver.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty());
            let message = message.unwrap_or_else(|error| panic!("{mark:#x} to {at}: {error}\n{}", lab.all_logs()));
            let seen = message.cmsgs().unwrap().find_map(|message| match message {
                ControlMessageOwned::Ipv4Tos(mark) => Some(mark),
                ControlMessageOwned::Ipv6TClass(mark) => u8::try_from(mark).ok(),
                _ => None,
            });
            let length = message.bytes;
            assert_eq!((seen, &buf[..length]), (Some(mark), expected), "to {at}");
        }
    }
}

#[test]
fn marks_survive() {
    if cannot_run() {
        return;
    }
    let ours = two_of_ours(&[], &[]);
    let stock_client = with_stock_client(&[], &[]);
    let stock_server = with_stock_server(&[], &[]);
    for (lab, client) in [(ours, CLIENT_INSIDE), (stock_client, CLIENT_INSIDE), (stock_server, CLIENT_OF_STOCK)] {
        for (server, client) in SERVER_INSIDE.into_iter().zip(client) {
            lab.ping(Side::Client, server, 56);
            marks_of_datagrams_survive(&lab, Side::Client, client, server);
            marks_of_datagrams_survive(&lab, Side::Server, server, client);
        }
    }
}

/// A connection with ECN and a DSCP, of whose packets some are marked before they come to the tunnel: the other end sees
/// the marks and says so, and the sender answers.
#[test]
fn connections_are_told_of_congestion() {
    if cannot_run() {
        return;
    }
    let lab = Lab::new();
    for side in [Side::Server, Side::Client] {
        lab.inside(side, || std::fs::write("/proc/sys/net/ipv4/tcp_ecn", "1").unwrap());
    }
    let lab = join_ours(lab, &[], &[]);
    let mark = "add table ip marks; add chain ip marks sent { type filter hook output priority 0; };
        add rule ip marks sent oifname tun0 tcp dport 7200 ip ecn ect0 numgen inc mod 20 == 0 ip ecn set ce";
    assert!(lab.command(Side::Client, "nft").arg(mark).status().unwrap().success());
    let there = "iifname tun0 tcp dport 7200";
    lab.count_packets(
        Side::Server,
        "input",
        &[
            ("marked", &format!("{there} ip ecn ce")),
            ("capable", &format!("{there} ip ecn ect0")),
            ("answered", &format!("{there} tcp flags & (syn | cwr) == cwr")),
            ("other", &format!("{there} ip dscp != af11")),
        ],
    );
    lab.count_packets(
        Side::Client,
        "input",
        &[("echoed", "iifname tun0 tcp sport 7200 tcp flags & (syn | ecn) == ecn")],
    );

    let address: SocketAddr = "10.8.0.1:7200".parse().unwrap();
    let listener = lab.inside(Side::Server, || TcpListener::bind(address).unwrap());
    let mut sender = lab.inside(Side::Client, || TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap());
    setsockopt(&sender, sockopt::Ipv4Tos, &0x28).unwrap();
    let (mut receiver, _) = listener.accept().unwrap();
    let block: Vec<u8> = (0..65_521).map(|at| (at * 31 + at / 256) as u8).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..200 {
                sender.write_all(&block).unwrap();
            }
        });
        let mut received = vec![0; block.len()];
        for _ in 0..200 {
            receiver.read_exact(&mut received).unwrap();
            assert!(received == block);
        }
    });
    for (side, name) in
        [(Side::Server, "marked"), (Side::Server, "capable"), (Side::Server, "answered"), (Side::Client, "echoed")]
    {
        assert!(lab.packets(side, name) > 0, "none is {name}");
    }
    // But for those of the handshake, before the socket had it.
    assert!(lab.packets(Side::Server, "other") <= 2, "{}", lab.packets(Side::Server, "other"));
}

impl Lab {
    fn set_wire_mtu(&self, mtu: u16) {
        for side in [Side::Server, Side::Client] {
            let words = ["link", "set", "wire", "mtu", &mtu.to_string()];
            assert!(self.command(side, "ip").args(words).status().unwrap().success());
        }
    }

    /// Counts packets at a side's hook (`input`, `output`), those of each rule by its name.
    fn count_packets(&self, side: Side, hook: &str, rules: &[(&str, &str)]) {
        let mut script =
            format!("add table inet seen; add chain inet seen packets {{ type filter hook {hook} priority 10; }};");
        for (name, rule) in rules {
            script += &format!("add rule inet seen packets {rule} counter comment \"{name}\";");
        }
        assert!(self.command(side, "nft").arg(script).status().unwrap().success());
    }

    fn packets(&self, side: Side, name: &str) -> u64 {
        let output = self.command(side, "nft").args(["list", "table", "inet", "seen"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text.lines().find(|line| line.contains(&format!("\"{name}\""))).unwrap();
        let (_, rest) = line.split_once("counter packets ").unwrap();
        rest.split(' ').next().unwrap().parse().unwrap()
    }
}

/// Frames that piled up while the tunnel did not run all come out at once, although nothing comes back that would wake it.
#[test]
fn a_pile_of_frames_goes_out_at_once() {
    if cannot_run() {
        return;
    }
    let lab = two_of_ours(&[], &[]);
    let socket = |side, address: &str| lab.inside(side, || UdpSocket::bind(format!("{address}:0")).unwrap());
    let (sender, receiver) = (socket(Side::Client, CLIENT_INSIDE[0]), socket(Side::Server, SERVER_INSIDE[0]));
    receiver.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    // For all of it, however late this test gets its turn.
    setsockopt(&receiver, sockopt::RcvBufForce, &4_000_000).unwrap();
    setsockopt(&sender, sockopt::UdpGsoSegment, &300).unwrap();
    lab.signal("client", Signal::SIGSTOP);
    // Fewer than the link's queue takes, also one by one, and more than are sent in one turn.
    let frames = 44;
    for _ in 0..frames {
        sender.send_to(&[7; 4 * 300], receiver.local_addr().unwrap()).unwrap();
    }
    lab.signal("client", Signal::SIGCONT);
    let mut arrived = 0;
    while arrived < frames * 4 && receiver.recv(&mut [0; 2000]).is_ok() {
        arrived += 1;
    }
    assert_eq!(arrived, frames * 4, "{}", lab.all_logs());
}
