//! The MTU inside follows the path between our own ends, on real kernels, through a router that says nothing.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use lab::{capability, wait_until};

use crate::POOL;
use crate::mtu::fragmented;
use crate::router::Router;
use crate::support::{Lab, SERVER, SERVER6, Side, cannot_run};

/// For a whole search: at most twelve sizes, three seconds each.
const SEARCH: Duration = Duration::from_secs(40);
/// Bytes around an inner packet, in the format with epochs, over UDP and IPv4.
const HEADERS: u16 = 20 + 8 + 28;
/// The same over IPv6.
const HEADERS6: u16 = HEADERS + 20;
const ANY: &str = "bind=[::]:1194";

fn cannot_route() -> bool {
    cannot_run() || capability::missing(&["nft", "sysctl"]).inspect(|reason| capability::skip(reason)).is_some()
}

/// The MTU of the tunnel's link at this end.
fn mtu(lab: &Lab, side: Side, link: &str) -> u16 {
    let output = lab.command(side, "cat").arg(format!("/sys/class/net/{link}/mtu")).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().parse().unwrap()
}

#[track_caller]
fn wait_for_mtu_at(lab: &Lab, side: Side, expected: u16) {
    let waited = wait_until("the MTU", SEARCH, || Ok(mtu(lab, side, "tun0") == expected));
    assert!(waited.is_ok(), "the MTU is not {expected} at {}\n{}", lab.namespace(side), lab.all_logs());
}

#[track_caller]
fn wait_for_mtu(lab: &Lab, expected: u16) {
    for side in [Side::Server, Side::Client] {
        wait_for_mtu_at(lab, side, expected);
    }
}

fn connect(lab: &mut Lab, remote: &str) {
    lab.spawn_ours(Side::Server, "ours", "server", &[POOL, ANY]);
    lab.wait_for("ours", "Listening");
    lab.spawn_ours(Side::Client, "client", "client", &[&format!("remote={remote}:1194")]);
    lab.wait_for("client", "PeerConnected");
}

/// A path with this MTU through links with that one, over IPv4 or IPv6.
fn finds(path: u16, link: u16, v6: bool) {
    let mut lab = Lab::new();
    let router = Router::between(&lab, link);
    router.carries(path, path);
    let remote = if v6 { format!("[{SERVER6}]") } else { SERVER.to_owned() };
    connect(&mut lab, &remote);
    let inside = path - if v6 { HEADERS6 } else { HEADERS };
    for log in ["ours", "client"] {
        lab.wait_long_for(log, &format!("outside={path} inside={inside}"), 1, SEARCH);
    }
    wait_for_mtu(&lab, inside.max(1280));
    let cut = |lab: &Lab| fragmented(lab, Side::Server) + fragmented(lab, Side::Client);
    let before = cut(&lab);
    lab.transfer_of(5_000_000, Side::Client, "10.8.0.1");
    lab.transfer_of(5_000_000, Side::Server, "10.8.0.10");
    if inside >= 1280 {
        // The largest packets of another kind too.
        lab.ping(Side::Client, "10.8.0.1", u32::from(inside) - 28);
    }
    assert_eq!(cut(&lab), before, "fragments on a path of {path}, IPv6: {v6}\n{}", lab.all_logs());
}

#[test]
fn every_path_is_found() {
    if cannot_route() {
        return;
    }
    // They mostly wait.
    std::thread::scope(|scope| {
        for (path, link) in [(1500, 1500), (1492, 1500), (1400, 9000), (1280, 1500), (9000, 9000)] {
            for v6 in [false, true] {
                scope.spawn(move || finds(path, link, v6));
            }
        }
    });
}

/// A TCP connection that sends until it is told to stop, and compares what arrives.
struct Stream {
    stop: AtomicBool,
    arrived: AtomicU64,
}

impl Stream {
    fn run(&self, lab: &Lab) {
        let address: SocketAddr = "10.8.0.1:7300".parse().unwrap();
        let listener = lab.inside(Side::Server, || TcpListener::bind(address).unwrap());
        let sender = lab.inside(Side::Client, || TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap());
        let (mut receiver, _) = listener.accept().unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let block: Vec<u8> = (0..65_521).map(|at| (at * 31 + at / 256) as u8).collect();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut sender = sender;
                while !self.stop.load(Ordering::Relaxed) {
                    sender.write_all(&block).unwrap();
                    // Slow enough for a machine that does other things.
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
            let mut received = vec![0; block.len()];
            loop {
                let mut length = 0;
                while length < received.len() {
                    match receiver.read(&mut received[length..]).unwrap() {
                        0 => break,
                        more => length += more,
                    }
                }
                assert!(received[..length] == block[..length], "the stream is not what was sent");
                if length == 0 {
                    break;
                }
                self.arrived.fetch_add(length as u64, Ordering::Relaxed);
            }
        });
    }

    /// Waits until more has arrived.
    #[track_caller]
    fn goes_on(&self) {
        let before = self.arrived.load(Ordering::Relaxed);
        let more = || Ok(self.arrived.load(Ordering::Relaxed) > before + 1_000_000);
        wait_until("the stream", Duration::from_secs(20), more).unwrap();
    }
}

/// Stops the stream also when the test fails, so that its threads end.
struct StopOnDrop<'a>(&'a Stream);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

fn follows_changes(v6: bool) {
    let mut lab = Lab::new();
    let router = Router::between(&lab, 1500);
    let (remote, headers) = if v6 { (format!("[{SERVER6}]"), HEADERS6) } else { (SERVER.to_owned(), HEADERS) };
    connect(&mut lab, &remote);
    wait_for_mtu(&lab, 1500 - headers);
    let stream = Stream { stop: AtomicBool::new(false), arrived: AtomicU64::new(0) };
    std::thread::scope(|scope| {
        let _stop = StopOnDrop(&stream);
        scope.spawn(|| stream.run(&lab));
        stream.goes_on();
        router.carries(1400, 1400);
        wait_for_mtu(&lab, 1400 - headers);
        stream.goes_on();
        router.carries(1500, 1500);
        // Another address of the client's host: the server notices, and asks for a search.
        let (old, new) = if v6 {
            ("2001:db8:1::2/64 dev wire", "2001:db8:1::3/64 dev wire nodad")
        } else {
            ("198.51.100.2/24 dev wire", "198.51.100.3/24 dev wire")
        };
        for words in [format!("address delete {old}"), format!("address add {new}")] {
            assert!(lab.command(Side::Client, "ip").args(words.split(' ')).status().unwrap().success());
        }
        let gateway = if v6 { "2001:db8:1::fe" } else { "198.51.100.254" };
        let route = ["route", "replace", "default", "via", gateway];
        assert!(lab.command(Side::Client, "ip").args(route).status().unwrap().success());
        wait_for_mtu(&lab, 1500 - headers);
        stream.goes_on();
    });
    assert!(!lab.log("client").contains("PeerDisconnected"), "{}", lab.all_logs());
}

#[test]
fn changes_of_the_path_are_followed_under_a_stream() {
    if cannot_route() {
        return;
    }
    std::thread::scope(|scope| {
        for v6 in [false, true] {
            scope.spawn(move || follows_changes(v6));
        }
    });
}

/// The listener's link has what the narrowest path carries, for as long as that peer is there.
#[test]
fn the_narrowest_of_several_peers_counts() {
    if cannot_route() {
        return;
    }
    let mut lab = Lab::new();
    lab.issue_clients(&["other".to_owned()]);
    let router = Router::between(&lab, 1500);
    router.carries(1500, 1400);
    connect(&mut lab, SERVER);
    wait_for_mtu(&lab, 1500 - HEADERS);
    lab.spawn_ours(Side::Client, "other", "other", &[&format!("remote=[{SERVER6}]:1194"), "tun=tun1"]);
    wait_for_mtu_at(&lab, Side::Server, 1400 - HEADERS6);
    assert_eq!(mtu(&lab, Side::Client, "tun0"), 1500 - HEADERS, "a dialer has one peer");
    lab.finish("other");
    wait_for_mtu_at(&lab, Side::Server, 1500 - HEADERS);
    lab.finish("client");
    // Nobody is left.
    wait_for_mtu_at(&lab, Side::Server, 1420);
}

/// A stock client sees nothing of it and changes nothing.
#[test]
fn a_stock_client_is_left_alone() {
    if cannot_route() {
        return;
    }
    let mut lab = Lab::new();
    lab.issue_clients(&["other".to_owned()]);
    lab.spawn_ours(Side::Server, "ours", "server", &[POOL]);
    lab.wait_for("ours", "Listening");
    lab.spawn_stock(Side::Client, "stock", "client", &["--explicit-exit-notify", "1", "--dev", "tun1"]);
    let log = lab.wait_for("stock", "Initialization Sequence Completed");
    assert!(log.contains("tun-mtu 1420") && !log.contains("path-mtu"), "{log}");
    lab.transfer_of(5_000_000, Side::Client, "10.8.0.1");
    assert_eq!(mtu(&lab, Side::Server, "tun0"), 1420);
    lab.finish("stock");
    lab.wait_for("ours", "PeerDisconnected");
    lab.spawn_ours(Side::Client, "client", "other", &[]);
    wait_for_mtu(&lab, 1500 - HEADERS);
}

/// Neither does a stock server.
#[test]
fn a_stock_server_is_left_alone() {
    if cannot_route() {
        return;
    }
    let mut lab = Lab::new();
    lab.spawn_stock(Side::Server, "server", "server", &[]);
    lab.wait_for("server", "Initialization Sequence Completed");
    lab.spawn_ours(Side::Client, "dialer", "client", &[]);
    lab.wait_for("dialer", "PeerConnected");
    lab.transfer_of(5_000_000, Side::Client, "10.8.0.1");
    assert_eq!(mtu(&lab, Side::Client, "tun0"), 1500, "what stock pushes");
    let log = lab.finish("dialer");
    assert!(!log.contains("the path to the peer"), "{log}");
}

/// An end with a number is left alone, and the other takes it.
#[test]
fn a_number_is_kept() {
    if cannot_route() {
        return;
    }
    for (server, client) in [(Some("mtu=1300"), None), (None, Some("mtu=1420"))] {
        let mut lab = Lab::new();
        lab.spawn_ours(Side::Server, "ours", "server", &[&[POOL][..], server.as_slice()].concat());
        lab.wait_for("ours", "Listening");
        lab.spawn_ours(Side::Client, "client", "client", client.as_slice());
        lab.wait_for("client", "PeerConnected");
        lab.transfer_of(5_000_000, Side::Client, "10.8.0.1");
        let expected = if server.is_some() { 1300 } else { 1420 };
        wait_for_mtu(&lab, expected);
        assert!(!lab.finish("client").contains("the path to the peer"));
    }
}
