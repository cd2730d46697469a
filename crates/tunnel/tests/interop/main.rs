//! Both roles against the stock `openvpn`, in network namespaces. Needs root.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod auth;
mod certificates;
mod data;
mod failover;
mod float;
mod flood;
mod goodbye;
mod identity;
mod mtu;
mod nat;
mod offload;
mod path_mtu;
mod probes;
mod protection;
mod push;
mod relay;
mod renewal;
mod router;
mod support;
mod transport;
mod versions;

use support::{Lab, Side, cannot_run};

const POOL: &str = "pool=10.8.0.10-10.8.0.20";

/// A stock client connects to our listener and pings it. `stock` are its further options, `expect` what our event says;
/// `transfer` adds 100 MB each way.
fn stock_client(ours: &[&str], stock: &[&str], expect: &[&str], transfer: bool) {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    let key = lab.path("ta.key");
    lab.spawn_ours(Side::Server, "ours", "server", &[&[POOL, &format!("tls_crypt={key}")], ours].concat());
    lab.wait_for("ours", "Listening");
    lab.spawn_stock(Side::Client, "stock", "client", &[&["--tls-crypt", &key], stock].concat());
    lab.wait_for("stock", "Initialization Sequence Completed");
    let log = lab.wait_for("ours", "PeerConnected");
    for text in expect.iter().chain(&["common_name: \"client\"", "urn:test:client", "10.8.0.10"]) {
        assert!(log.contains(text), "no '{text}' in\n{log}");
    }
    lab.ping(Side::Client, "10.8.0.1", 56);
    lab.ping(Side::Client, "10.8.0.1", 1350);
    lab.ping(Side::Server, "10.8.0.10", 56);
    if transfer {
        lab.transfer(Side::Client, "10.8.0.1");
        lab.transfer(Side::Server, "10.8.0.10");
    }
    let warnings = lab.log("stock");
    assert!(!warnings.contains("is used inconsistently"), "{warnings}");

    // The client's exit notice takes effect at once, without waiting for ping-restart.
    lab.finish("stock");
    lab.wait_for("ours", "PeerDisconnected");
    assert!(lab.finish("ours").contains("handshakes_completed=1 handshakes_failed=0"));
}

#[test]
fn stock_client_aes_256_gcm_tls_1_3_ekm() {
    stock_client(&[], &["--explicit-exit-notify", "1"], &["Aes256Gcm", "Ekm", "TLSv1.3"], true);
}

#[test]
fn stock_client_chacha20_tls_1_2() {
    let stock = ["--tls-version-max", "1.2", "--explicit-exit-notify", "1"];
    stock_client(&["ciphers=CHACHA20-POLY1305:AES-256-GCM"], &stock, &["ChaCha20Poly1305", "Ekm", "TLSv1.2"], false);
}

#[test]
fn stock_client_prf() {
    stock_client(&["derive=prf"], &["--explicit-exit-notify", "1"], &["Prf"], false);
}

#[test]
fn stock_client_aes_128_gcm() {
    let stock = ["--data-ciphers", "AES-128-GCM", "--explicit-exit-notify", "1"];
    stock_client(&[], &stock, &["Aes128Gcm"], false);
}

#[test]
fn stock_client_aes_192_gcm() {
    let stock = ["--data-ciphers", "AES-192-GCM", "--explicit-exit-notify", "1"];
    stock_client(&[], &stock, &["Aes192Gcm"], false);
}

/// Our dialer connects to a stock server and pings it.
fn stock_server(ours: &[&str], stock: &[&str], expect: &[&str], transfer: bool) {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    let key = lab.path("ta.key");
    let status = lab.path("status");
    let options = ["--tls-crypt", &key, "--status", &status, "1", "--explicit-exit-notify", "1"];
    lab.spawn_stock(Side::Server, "stock", "server", &[&options, stock].concat());
    lab.wait_for("stock", "Initialization Sequence Completed");
    let crypt = format!("tls_crypt={key}");
    let ours = [&[&crypt, "peer=urn:test:server"], ours].concat();
    lab.spawn_ours(Side::Client, "ours", "client", &ours);
    let log = lab.wait_for("ours", "PeerConnected");
    for text in expect.iter().chain(&["Configured", "10.8.0.2", "common_name: \"server\""]) {
        assert!(log.contains(text), "no '{text}' in\n{log}");
    }
    lab.ping(Side::Client, "10.8.0.1", 56);
    lab.ping(Side::Client, "10.8.0.1", 1472);
    lab.ping(Side::Server, "10.8.0.2", 56);
    if transfer {
        lab.transfer(Side::Client, "10.8.0.1");
        lab.transfer(Side::Server, "10.8.0.2");
    }
    let warnings = lab.log("stock");
    assert!(!warnings.contains("is used inconsistently"), "{warnings}");

    assert!(lab.finish("ours").contains("handshakes_completed=1 handshakes_failed=0"));
    lab.wait_for("stock", "exit");
}

#[test]
fn stock_server_aes_256_gcm_tls_1_3_ekm() {
    stock_server(&[], &[], &["Aes256Gcm", "Ekm", "TLSv1.3"], true);
}

#[test]
fn stock_server_prf() {
    stock_server(&["derive=prf"], &[], &["Prf"], false);
}

#[test]
fn stock_server_chacha20_tls_1_2() {
    let stock = ["--data-ciphers", "CHACHA20-POLY1305", "--tls-version-max", "1.2"];
    stock_server(&[], &stock, &["ChaCha20Poly1305", "Ekm", "TLSv1.2"], false);
}

#[test]
fn stock_server_aes_192_and_128_gcm() {
    stock_server(&[], &["--data-ciphers", "AES-192-GCM"], &["Aes192Gcm"], false);
    stock_server(&[], &["--data-ciphers", "AES-128-GCM"], &["Aes128Gcm"], false);
}

#[test]
fn stock_server_tls_1_3_only() {
    stock_server(&["tls_min=1.3"], &["--tls-version-min", "1.3"], &["TLSv1.3"], false);
}

#[test]
fn stock_server_pushes_many_routes() {
    let routes: Vec<String> = (0..60).map(|i| format!("route 10.77.{i}.0 255.255.255.0")).collect();
    let options: Vec<&str> = routes.iter().flat_map(|route| ["--push", route.as_str()]).collect();
    stock_server(&[], &options, &["10.77.0.0", "10.77.59.0"], false);
}

/// Two of ours, both ways, and a restart of each.
#[test]
fn ours_with_ours() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    let key = format!("tls_crypt={}", lab.path("ta.key"));
    let listener = ["static=urn:test:client/10.8.0.2", &key, "ping=1/3"];
    lab.spawn_ours(Side::Server, "server", "server", &listener);
    lab.wait_for("server", "Listening");
    lab.spawn_ours(Side::Client, "client", "client", &[&key, "peer=urn:test:server"]);
    lab.wait_for("client", "PeerConnected");
    lab.ping(Side::Client, "10.8.0.1", 56);
    lab.ping(Side::Server, "10.8.0.2", 1300);

    // A dialer that dies without a word is replaced as soon as it comes back.
    lab.kill("client");
    lab.spawn_ours(Side::Client, "client2", "client", &[&key, "peer=urn:test:server"]);
    lab.wait_for("client2", "PeerConnected");
    lab.wait_for("server", "Replaced");
    lab.ping(Side::Client, "10.8.0.1", 56);

    // A listener that leaves says so: the dialer starts over at once and is back when the listener is.
    lab.finish("server");
    lab.wait_for("client2", "PeerExit");
    lab.spawn_ours(Side::Server, "server2", "server", &listener);
    lab.wait_for_count("client2", "PeerConnected(", 2);
    lab.ping(Side::Server, "10.8.0.2", 56);

    // One that dies without a word is noticed by its silence.
    lab.kill("server2");
    lab.wait_for("client2", "PingTimeout");
    lab.spawn_ours(Side::Server, "server3", "server", &listener);
    lab.wait_for_count("client2", "PeerConnected(", 3);
    lab.ping(Side::Server, "10.8.0.2", 56);
}

/// Nobody gets in with a certificate of another authority, an expired one, or another tls-crypt key; each is counted,
/// and the listener serves on.
#[test]
fn our_listener_refuses_and_serves_on() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    let (key, other) = (lab.path("ta.key"), lab.path("other-ta.key"));
    lab.spawn_ours(Side::Server, "ours", "server", &[POOL, &format!("tls_crypt={key}")]);
    lab.wait_for("ours", "Listening");
    for (at, name) in ["stranger", "expired"].into_iter().enumerate() {
        lab.spawn_stock(Side::Client, name, name, &["--tls-crypt", &key]);
        lab.wait_for_count("ours", "HandshakeFailed", at + 1);
        lab.wait_for(name, "alert");
        assert!(!lab.finish(name).contains("Initialization Sequence Completed"));
    }
    let log = lab.log("ours");
    assert!(log.contains("certificate has expired") && log.contains("unable to get local issuer"), "{log}");

    lab.spawn_stock(Side::Client, "wrong-key", "client", &["--tls-crypt", &other]);
    lab.wait_for("wrong-key", "link remote");
    lab.spawn_stock(Side::Client, "right", "client", &["--tls-crypt", &key, "--dev", "tun7"]);
    lab.wait_for("right", "Initialization Sequence Completed");
    lab.ping(Side::Client, "10.8.0.1", 56);
    assert!(!lab.finish("wrong-key").contains("Peer Connection Initiated"));
    let log = lab.finish("ours");
    assert!(log.contains("dropped wrap="), "{log}");
    assert!(log.contains("handshakes_completed=1"), "{log}");
}

/// The dialer takes no server of another name, with a client's certificate, or an expired one.
#[test]
fn our_dialer_refuses_wrong_servers() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    let key = lab.path("ta.key");
    let crypt = format!("tls_crypt={key}");
    for (name, expected, reason) in [
        ("server", "peer=urn:test:somebody-else", "not that of"),
        ("expired-server", "peer=urn:test:expired-server", "certificate has expired"),
        ("client", "peer=urn:test:client", "certificate purpose"),
        ("stranger", "peer=urn:test:stranger", "unable to get local issuer"),
    ] {
        let (server, ours) = (format!("{name}-server"), format!("{name}-ours"));
        lab.spawn_stock(Side::Server, &server, name, &["--tls-crypt", &key]);
        lab.wait_for(&server, "Initialization Sequence Completed");
        lab.spawn_ours(Side::Client, &ours, "client", &[&crypt, expected]);
        let log = lab.wait_for(&ours, "HandshakeFailed");
        assert!(log.contains(reason), "{log}");
        assert!(!lab.finish(&ours).contains("PeerConnected"));
        lab.finish(&server);
    }
}
