//! Addresses that go away, and NATs that forget.

use std::time::{Duration, Instant};

use ::relay::{Faults, Relay};

use crate::relay::{self, RELAY};
use crate::support::{Lab, Side, cannot_run};

const POOL: &str = "pool=10.8.0.10-10.8.0.20";
/// The address that the client's host loses.
const OLD: &str = "192.0.2.2/24";
/// How long traffic may be interrupted.
const PATIENCE: Duration = Duration::from_secs(3);

fn ip(lab: &Lab, words: &str) {
    let status = lab.command(Side::Client, "ip").args(words.split(' ')).status().unwrap();
    assert!(status.success(), "ip {words}");
}

/// Takes away the client's only address and gives it another, twice. The first time the client has something to send,
/// the second time only the server has.
fn loses_its_address(lab: &Lab, inner: &str) {
    ip(lab, &format!("address del {OLD} dev wire"));
    // It has none for a while.
    let (_, answered) = lab.echo(Side::Client, "10.8.0.1", 1);
    assert_eq!(answered, 0);
    for (last, from, to) in [(7, Side::Client, "10.8.0.1"), (8, Side::Server, inner)] {
        if last == 8 {
            ip(lab, "address del 192.0.2.7/24 dev wire");
        }
        ip(lab, &format!("address add 192.0.2.{last}/24 dev wire"));
        let since = Instant::now();
        lab.ping(from, to, 56);
        assert!(since.elapsed() < PATIENCE, "{:?} until traffic went on", since.elapsed());
    }
}

#[test]
fn our_dialer_loses_its_address_with_a_stock_server() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    let key = lab.path("ta.key");
    lab.spawn_stock(Side::Server, "stock", "server", &["--tls-crypt", &key]);
    lab.wait_for("stock", "Initialization Sequence Completed");
    lab.spawn_ours(Side::Client, "ours", "client", &[&format!("tls_crypt={key}")]);
    lab.wait_for("ours", "PeerConnected");
    lab.ping(Side::Client, "10.8.0.1", 56);
    loses_its_address(&lab, "10.8.0.2");
    lab.wait_for_count("stock", "floated from", 2);
    let log = lab.finish("ours");
    assert!(log.contains("handshakes_completed=1 handshakes_failed=0"), "{log}");
}

#[test]
fn our_dialer_loses_its_address_with_our_listener() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    let key = format!("tls_crypt={}", lab.path("ta.key"));
    lab.spawn_ours(Side::Server, "server", "server", &[POOL, "ping=2/8", &key]);
    lab.wait_for("server", "Listening");
    lab.spawn_ours(Side::Client, "ours", "client", &[&key]);
    lab.wait_for("ours", "PeerConnected");
    lab.ping(Side::Client, "10.8.0.1", 56);
    loses_its_address(&lab, "10.8.0.10");
    for log in ["ours", "server"] {
        let log = lab.finish(log);
        assert!(log.contains("handshakes_completed=1 handshakes_failed=0"), "{log}");
    }
}

/// A NAT that forgets after three idle seconds, and a minute without traffic: a tenth of what homes have, as is the time
/// between pings.
fn start_nat(lab: &Lab) -> Relay {
    relay::start(lab, 94, Faults { forgets: Some(Duration::from_secs(3)), ..Faults::default() })
}

#[track_caller]
fn idle_for_a_minute(lab: &Lab, relay: &Relay, inner: &str) {
    std::thread::sleep(Duration::from_secs(60));
    // Before the client has sent anything of its own the server reaches it: the mapping is the first one still.
    lab.ping(Side::Server, inner, 56);
    lab.ping(Side::Client, "10.8.0.1", 56);
    assert_eq!(relay.counts().mappings, 1);
}

#[test]
fn our_dialer_idles_behind_a_nat() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    let key = lab.path("ta.key");
    lab.spawn_stock(Side::Server, "stock", "server", &["--tls-crypt", &key, "--keepalive", "1", "6"]);
    lab.wait_for("stock", "Initialization Sequence Completed");
    let relay = start_nat(&lab);
    lab.spawn_ours(Side::Client, "ours", "client", &[&format!("remote={RELAY}"), &format!("tls_crypt={key}")]);
    lab.wait_for("ours", "PeerConnected");
    idle_for_a_minute(&lab, &relay, "10.8.0.2");
    let log = lab.finish("ours");
    assert!(log.contains("handshakes_completed=1 handshakes_failed=0"), "{log}");
}

#[test]
fn a_stock_client_idles_behind_a_nat() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    let key = lab.path("ta.key");
    lab.spawn_ours(Side::Server, "ours", "server", &[POOL, "ping=1/6", &format!("tls_crypt={key}")]);
    lab.wait_for("ours", "Listening");
    let relay = start_nat(&lab);
    let words = ["--remote", "127.0.0.1", "1195", "--tls-crypt", &key];
    lab.spawn_stock(Side::Client, "stock", "client", &words);
    lab.wait_for("stock", "Initialization Sequence Completed");
    idle_for_a_minute(&lab, &relay, "10.8.0.10");
    let log = lab.finish("ours");
    assert!(log.contains("handshakes_completed=1 handshakes_failed=0"), "{log}");
}
