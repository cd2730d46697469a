//! Clients that change their address, with stock peers.

use std::time::Duration;

use crate::support::{Lab, Side, cannot_run};

/// Echoes for 15 seconds, while the client sends from another of its addresses every three.
fn echo_while_moving(lab: &Lab) -> (u32, u32) {
    let ip = |words: String| {
        let status = lab.command(Side::Client, "ip").args(words.split(' ')).status().unwrap();
        assert!(status.success(), "ip {words}");
    };
    for last in 3..=6 {
        ip(format!("address add 192.0.2.{last}/24 dev wire"));
    }
    std::thread::scope(|scope| {
        let echo = scope.spawn(|| lab.echo(Side::Client, "10.8.0.1", 15));
        for last in 3..=6 {
            std::thread::sleep(Duration::from_secs(3));
            ip(format!("route replace 192.0.2.0/24 dev wire src 192.0.2.{last}"));
        }
        echo.join().unwrap()
    })
}

#[test]
fn a_stock_client_floats() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    let key = lab.path("ta.key");
    let pool = "pool=10.8.0.10-10.8.0.20";
    lab.spawn_ours(Side::Server, "ours", "server", &[pool, "reneg=4", &format!("tls_crypt={key}")]);
    lab.wait_for("ours", "Listening");
    lab.spawn_stock(Side::Client, "stock", "client", &["--tls-crypt", &key, "--explicit-exit-notify", "1"]);
    lab.wait_for("stock", "Initialization Sequence Completed");
    lab.ping(Side::Client, "10.8.0.1", 56);
    let (sent, answered) = echo_while_moving(&lab);
    assert!(answered * 100 >= sent * 99, "{answered} of {sent}\n{}", lab.log("ours"));
    lab.finish("stock");
    lab.wait_for("ours", "PeerDisconnected");
    let log = lab.finish("ours");
    assert!(log.contains("handshakes_completed=1 handshakes_failed=0"), "{log}");
    assert!(log.contains("renewals_failed=0") && !log.contains("renewals_completed=0"), "{log}");
}

#[test]
fn our_dialer_floats() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    let key = lab.path("ta.key");
    lab.spawn_stock(Side::Server, "stock", "server", &["--tls-crypt", &key, "--reneg-sec", "4", "4"]);
    lab.wait_for("stock", "Initialization Sequence Completed");
    lab.spawn_ours(Side::Client, "ours", "client", &[&format!("tls_crypt={key}")]);
    lab.wait_for("ours", "PeerConnected");
    lab.ping(Side::Client, "10.8.0.1", 56);
    let (sent, answered) = echo_while_moving(&lab);
    assert!(answered * 100 >= sent * 99, "{answered} of {sent}\n{}", lab.log("stock"));
    lab.wait_for_count("stock", "floated from", 4);
    let log = lab.finish("ours");
    assert!(log.contains("handshakes_completed=1 handshakes_failed=0"), "{log}");
    assert!(log.contains("renewals_failed=0") && !log.contains("renewals_completed=0"), "{log}");
}
