//! Goodbyes from a host whose own link is slower than what it has to send.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::POOL;
use super::support::{Lab, Side, cannot_run};

/// Bytes that wait for the link at least when the socket's buffer is full: 8 MiB with the kernel's overhead, which is up to as
/// much again where each packet goes alone.
const FULL: u64 = 2_500_000;
/// A socket that is full is not fuller after so long.
const PAUSE: Duration = Duration::from_millis(200);
const DEADLINE: Duration = Duration::from_secs(30);

/// Nothing repeats a goodbye in the data channel, and no room for it is no reason to leave without.
#[test]
fn a_full_socket_does_not_swallow_it() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    // Silence would take longer to be noticed than the test waits.
    let words = ["ping=60/240", "exit=off"];
    lab.spawn_ours(Side::Server, "listener", "server", &[&[POOL][..], &words].concat());
    lab.wait_for("listener", "Listening");
    lab.spawn_ours(Side::Client, "dialer", "client", &words);
    lab.wait_for("dialer", "PeerConnected");
    let tc = |words: &str| {
        let output = lab.command(Side::Client, "tc").args(words.split(' ')).output().unwrap();
        assert!(output.status.success(), "tc {words}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    // It queues more than the socket may have unsent, so that the socket is full before anything is lost.
    tc("qdisc add dev wire root tbf rate 50mbit burst 100k limit 100000000");
    let backlog = || {
        let text = tc("-s -j qdisc show dev wire");
        let after = text.split_once("\"backlog\":").unwrap().1;
        after.split(|sign: char| !sign.is_ascii_digit()).next().unwrap().parse::<u64>().unwrap()
    };
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            lab.inside(Side::Client, || {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                // Also when the test fails.
                let until = Instant::now() + 2 * DEADLINE;
                while !over.load(Ordering::Relaxed) && Instant::now() < until {
                    // What the tunnel does not take is lost.
                    let _ = socket.send_to(&[0; 1300], "10.8.0.1:9");
                }
            });
        });
        let (since, mut before) = (Instant::now(), 0);
        loop {
            std::thread::sleep(PAUSE);
            let now = backlog();
            if now >= FULL && now <= before {
                break;
            }
            assert!(since.elapsed() < DEADLINE, "the socket was never full: {now} bytes wait");
            before = now;
        }
        lab.signal("dialer", nix::sys::signal::Signal::SIGTERM);
        lab.wait_for("listener", "reason: PeerExit");
        over.store(true, Ordering::Relaxed);
    });
    lab.finish("listener");
}
