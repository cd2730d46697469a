//! Changes between UDP and TCP in the middle of a transfer.

use std::io::{self, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::support::{Lab, SERVER, Side, cannot_run, run};

/// 1 GB.
const SIZE: u64 = 1_000_000_000;
const CONNECTED: &str = "PeerConnected(PeerConnected";

/// What a pipe gives at a time, and how long each of them takes at least: slow enough for both changes.
const CHUNK: usize = 64 * 1024;
const TICK: Duration = Duration::from_micros(1100);
/// More than pipes and sockets hold.
const FLOWS: u64 = 20_000_000;

/// Sends a pattern of [`SIZE`] bytes over TCP to `address` at the other side of `from`; the sums are compared at the end.
struct Transfer {
    source: JoinHandle<io::Result<()>>,
    sent: Arc<AtomicU64>,
    sender: Child,
    receiver: Child,
}

impl Transfer {
    fn start(lab: &Lab, from: Side, address: &str) -> Self {
        let to = if from == Side::Client { Side::Server } else { Side::Client };
        let receive = format!("socat -u TCP-LISTEN:5001,bind={address},reuseaddr - | sha256sum");
        let receiver = lab.command(to, "bash").args(["-c", &receive]).stdout(Stdio::piped()).spawn().unwrap();
        let send = ["-u", "-", &format!("TCP:{address}:5001,retry=100,interval=0.05")];
        let mut sender = lab.command(from, "socat").args(send).stdin(Stdio::piped()).spawn().unwrap();
        let mut sink = sender.stdin.take().unwrap();
        let sent = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&sent);
        let source = std::thread::spawn(move || {
            let mut pattern = Command::new("bash").args(["-c", &pattern()]).stdout(Stdio::piped()).spawn()?;
            let mut bytes = pattern.stdout.take().unwrap();
            let mut chunk = vec![0; CHUNK];
            loop {
                let begun = Instant::now();
                match bytes.read(&mut chunk)? {
                    0 => break,
                    count => sink.write_all(&chunk[..count])?,
                }
                counter.fetch_add(CHUNK as u64, Ordering::Relaxed);
                std::thread::sleep(TICK.saturating_sub(begun.elapsed()));
            }
            pattern.wait().map(drop)
        });
        Self { source, sent, sender, receiver }
    }

    /// Waits until more has been sent than buffers hold: the connection carries.
    #[track_caller]
    fn wait_until_it_flows(&self, lab: &Lab) {
        let deadline = Instant::now() + Duration::from_secs(25);
        while self.sent.load(Ordering::Relaxed) < FLOWS {
            assert!(Instant::now() < deadline, "nothing is carried\n{}", lab.all_logs());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn is_running(&self) -> bool {
        !self.source.is_finished()
    }

    #[track_caller]
    fn finish(mut self, lab: &Lab) {
        let deadline = Instant::now() + Duration::from_secs(120);
        while self.sender.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                let _ = self.sender.kill();
                let _ = self.receiver.kill();
                panic!("the transfer does not end\n{}", lab.all_logs());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.source.join().unwrap().unwrap();
        assert!(self.sender.wait().unwrap().success(), "{}", lab.all_logs());
        let output = self.receiver.wait_with_output().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            run("bash", &["-c", &format!("{} | sha256sum", pattern())])
        );
    }
}

/// A command that writes the bytes of a transfer.
fn pattern() -> String {
    format!("openssl enc -aes-128-ctr -nosalt -K 00 -iv 00 -in /dev/zero 2>/dev/null | head -c {SIZE}")
}

fn transports(log: &str) -> Vec<&'static str> {
    let connected = log.lines().filter(|line| line.contains(CONNECTED));
    connected.map(|line| if line.contains("transport: Tcp") { "tcp" } else { "udp" }).collect()
}

/// A transfer goes on while UDP is blocked and while it works again, in either direction, and the address stays.
fn survives(from: Side) {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    let key = format!("tls_crypt={}", lab.path("ta.key"));
    let ours = ["pool=10.8.0.10-10.8.0.20", &key, "tcp=0.0.0.0:1194", "ping=2/8"];
    lab.spawn_ours(Side::Server, "server", "server", &ours);
    lab.wait_for("server", "Listening");
    let remotes = format!("remote={SERVER}:1194,{SERVER}:1194/tcp");
    lab.spawn_ours(Side::Client, "client", "client", &[&key, "peer=urn:test:server", &remotes, "ping=2/8"]);
    lab.wait_for("client", CONNECTED);
    let address = if from == Side::Client { "10.8.0.1" } else { "10.8.0.10" };
    lab.ping(from, address, 56);

    let transfer = Transfer::start(&lab, from, address);
    transfer.wait_until_it_flows(&lab);
    lab.block_udp(true);
    let blocked = Instant::now();
    lab.wait_for_count("client", CONNECTED, 2);
    // Before ping-restart, which is 8 s.
    assert!(blocked.elapsed() < Duration::from_secs(8), "{:?}", blocked.elapsed());
    lab.ping(from, address, 56);
    assert!(transfer.is_running(), "the transfer was too fast");
    lab.block_udp(false);
    lab.wait_for_count("client", CONNECTED, 3);
    assert!(transfer.is_running(), "the transfer was too fast");
    transfer.finish(&lab);

    let log = lab.finish("client");
    assert_eq!(transports(&log), ["udp", "tcp", "udp"], "{log}");
    let mut configured = log.lines().filter(|line| line.starts_with("Configured("));
    assert!(configured.all(|line| line.contains("10.8.0.10")), "{log}");
    assert_eq!(log.matches("PeerDisconnected").count(), 1, "{log}");
    assert!(log.contains("handshakes_completed=3 handshakes_failed=0"), "{log}");
    // The listener never was without a session of the peer's.
    let log = lab.finish("server");
    let news = log.lines().filter_map(|line| line.split(['(', ' ']).next());
    let expected = ["PeerConnected", "PeerConnected", "PeerDisconnected", "PeerConnected"];
    let news: Vec<&str> = news.filter(|event| event.starts_with("Peer")).collect();
    assert_eq!(news.get(..4), Some(&expected[..]), "{log}");
}

#[test]
fn a_transfer_to_our_listener_survives_changes_of_transport() {
    survives(Side::Client);
}

#[test]
fn a_transfer_from_our_listener_survives_changes_of_transport() {
    survives(Side::Server);
}

/// Stock servers are a process for each transport, with networks of their own: the tunnel goes on with the other's
/// address, without an end in between.
#[test]
fn our_dialer_goes_from_one_stock_server_to_the_other_and_back() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    let key = lab.path("ta.key");
    lab.spawn_stock(Side::Server, "udp", "server", &["--tls-crypt", &key]);
    let tcp = ["--tls-crypt", &key, "--proto", "tcp-server", "--server", "10.9.0.0", "255.255.255.0"];
    lab.spawn_stock(Side::Server, "tcp", "server", &tcp);
    for log in ["udp", "tcp"] {
        lab.wait_for(log, "Initialization Sequence Completed");
    }
    let remotes = format!("remote={SERVER}:1194,{SERVER}:1194/tcp");
    lab.spawn_ours(Side::Client, "ours", "client", &[&format!("tls_crypt={key}"), &remotes]);
    lab.wait_for("ours", CONNECTED);
    lab.ping(Side::Client, "10.8.0.1", 56);
    lab.block_udp(true);
    let blocked = Instant::now();
    lab.wait_for_count("ours", CONNECTED, 2);
    // The server's ping-restart is 8 s.
    assert!(blocked.elapsed() < Duration::from_secs(8), "{:?}", blocked.elapsed());
    lab.ping(Side::Client, "10.9.0.1", 56);
    lab.block_udp(false);
    lab.wait_for_count("ours", CONNECTED, 3);
    lab.ping(Side::Client, "10.8.0.1", 56);
    // The one that was left is told so.
    lab.wait_for("tcp", "CC-EEN exit message received");
    let log = lab.finish("ours");
    assert_eq!(transports(&log), ["udp", "tcp", "udp"], "{log}");
    assert_eq!(log.matches("PeerDisconnected").count(), 1, "{log}");
}
