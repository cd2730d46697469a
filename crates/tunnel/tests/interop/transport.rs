//! Every transport and family against the stock peer, in both roles.

use super::support::{Lab, SERVER, SERVER6, Side, cannot_run};
use super::{POOL, stock_client, stock_server};

const TCP: &str = "tcp=0.0.0.0:1194";

#[test]
fn stock_client_over_tcp() {
    stock_client(&[TCP], &["--proto", "tcp-client"], &["Aes256Gcm", "transport: Tcp"], true);
}

#[test]
fn stock_server_over_tcp() {
    let remote = format!("remote={SERVER}:1194/tcp");
    stock_server(&[&remote], &["--proto", "tcp-server"], &["Aes256Gcm", "transport: Tcp"], true);
}

#[test]
fn stock_client_over_ipv6() {
    let ours = ["bind=[::]:1194", "tcp=[::]:1194"];
    for (proto, transport) in [("udp6", "transport: Udp"), ("tcp6-client", "transport: Tcp")] {
        let exit: &[&str] = if proto == "udp6" { &["--explicit-exit-notify", "1"] } else { &[] };
        let stock = [&["--proto", proto, "--remote", SERVER6, "1194"], exit].concat();
        stock_client(&ours, &stock, &[transport, "[2001:db8::2]"], true);
    }
}

#[test]
fn stock_server_over_ipv6() {
    for (proto, word) in [("udp6", "udp"), ("tcp6-server", "tcp")] {
        let remote = format!("remote=[{SERVER6}]:1194/{word}");
        stock_server(&[&remote], &["--proto", proto], &["[2001:db8::1]:1194"], true);
    }
}

/// One listener on the unspecified IPv6 address serves stock clients over IPv4, too.
#[test]
fn stock_client_over_ipv4_of_a_listener_for_both_families() {
    let ours = ["bind=[::]:1194", "tcp=[::]:1194"];
    let stock = ["--explicit-exit-notify", "1"];
    stock_client(&ours, &stock, &["transport: Udp", "[::ffff:192.0.2.2]"], false);
    stock_client(&ours, &["--proto", "tcp-client"], &["transport: Tcp", "[::ffff:192.0.2.2]"], false);
}

/// A stream that arrives in pieces of any size is the same stream, for us as for the stock peer.
#[test]
fn stock_over_a_stream_cut_anywhere() {
    if cannot_run() {
        return;
    }
    for size in ["1", "2", "3", "61"] {
        let mut lab = Lab::new();
        let key = lab.path("ta.key");
        lab.spawn_ours(Side::Server, "ours", "server", &[POOL, &format!("tls_crypt={key}"), TCP]);
        lab.wait_for("ours", "Listening");
        spawn_cutter(&mut lab, size);
        let words = ["--tls-crypt", &key, "--proto", "tcp-client", "--remote", SERVER, "1300"];
        lab.spawn_stock(Side::Client, "stock", "client", &words);
        lab.wait_for("stock", "Initialization Sequence Completed");
        lab.ping(Side::Client, "10.8.0.1", 1300);
        lab.ping(Side::Server, "10.8.0.10", 1300);
        drop(lab);

        let mut lab = Lab::new();
        let key = lab.path("ta.key");
        lab.spawn_stock(Side::Server, "stock", "server", &["--tls-crypt", &key, "--proto", "tcp-server"]);
        lab.wait_for("stock", "Initialization Sequence Completed");
        spawn_cutter(&mut lab, size);
        let words = [format!("tls_crypt={key}"), format!("remote={SERVER}:1300/tcp")];
        lab.spawn_ours(Side::Client, "ours", "client", &words.each_ref().map(String::as_str));
        lab.wait_for("ours", "PeerConnected");
        lab.ping(Side::Client, "10.8.0.1", 1300);
        lab.ping(Side::Server, "10.8.0.2", 1300);
    }
}

/// Starts a relay before the server that writes `size` bytes at a time.
fn spawn_cutter(lab: &mut Lab, size: &str) {
    let words = ["-b", size, "TCP-LISTEN:1300,fork,reuseaddr,nodelay", "TCP:127.0.0.1:1194,nodelay"];
    lab.spawn(Side::Server, "cutter", "socat", &words.map(str::to_owned));
}

/// Connections that break off or carry nonsense cost the stock client beside them nothing.
#[test]
fn stock_client_beside_broken_connections() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    let key = lab.path("ta.key");
    lab.spawn_ours(Side::Server, "ours", "server", &[POOL, &format!("tls_crypt={key}"), TCP]);
    lab.wait_for("ours", "Listening");
    let words = ["--tls-crypt", &key, "--proto", "tcp-client", "--dev", "tun7"];
    lab.spawn_stock(Side::Client, "stock", "client", &words);
    lab.wait_for("stock", "Initialization Sequence Completed");
    // Nothing, half a length, half a packet, lengths of 0 and 65535, TLS, and a packet that is none.
    for bytes in [r"", r"\0", r"\0\x20\x38abc", r"\0\0", r"\xff\xff", r"\x16\x03\x01\x02\0\x01", r"\0\x03abc"] {
        let script = format!("printf '{bytes}' | socat -t1 - TCP:{SERVER}:1194");
        for _ in 0..20 {
            let _ = lab.command(Side::Client, "bash").args(["-c", &script]).output().unwrap();
        }
        lab.ping(Side::Client, "10.8.0.1", 56);
    }
    // A client that is cut off in the middle of its handshake, again and again.
    for at in 0..5 {
        let log = format!("cut-{at}");
        let words = ["--tls-crypt", &key, "--proto", "tcp-client", "--dev", "tun8", "--connect-retry", "1"];
        lab.spawn_stock(Side::Client, &log, "expired", &words);
        lab.wait_for(&log, "TCP connection established");
        lab.kill(&log);
    }
    lab.ping(Side::Client, "10.8.0.1", 1300);
    lab.transfer(Side::Client, "10.8.0.1");
    assert!(!lab.log("stock").contains("Connection reset"));
    let log = lab.finish("ours");
    assert!(log.contains("handshakes_completed=1"), "{log}");
}

/// When UDP is silent, our dialer is connected over TCP within seconds, and over UDP again when that works.
#[test]
fn our_dialer_falls_back_to_tcp() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    let key = format!("tls_crypt={}", lab.path("ta.key"));
    lab.spawn_ours(Side::Server, "server", "server", &["static=urn:test:client/10.8.0.2", &key, TCP, "ping=1/3"]);
    lab.wait_for("server", "Listening");
    lab.block_udp(true);
    let remotes = format!("remote={SERVER}:1194,{SERVER}:1194/tcp");
    let started = std::time::Instant::now();
    lab.spawn_ours(Side::Client, "client", "client", &[&key, "peer=urn:test:server", &remotes]);
    let connected = "PeerConnected(PeerConnected";
    lab.wait_for("client", connected);
    assert!(started.elapsed().as_secs() < 8, "{:?}", started.elapsed());
    lab.ping(Side::Client, "10.8.0.1", 56);
    lab.block_udp(false);
    // The listener is replaced: the connection ends with it at once.
    lab.finish("server");
    lab.spawn_ours(Side::Server, "server2", "server", &["static=urn:test:client/10.8.0.2", &key, TCP, "ping=1/3"]);
    let log = lab.wait_for_count("client", connected, 2);
    let transports: Vec<bool> =
        log.lines().filter(|line| line.contains(connected)).map(|line| line.contains("transport: Tcp")).collect();
    assert_eq!(transports, [true, false], "{log}");
    lab.ping(Side::Client, "10.8.0.1", 56);
    // UDP goes silent in the middle of a session.
    let silent = std::time::Instant::now();
    lab.block_udp(true);
    lab.wait_for_count("client", connected, 3);
    assert!(silent.elapsed().as_secs() < 12, "{:?}", silent.elapsed());
    lab.ping(Side::Client, "10.8.0.1", 56);
    // It works again, and is used again, although the session over TCP has no fault.
    lab.block_udp(false);
    let log = lab.wait_for_count("client", connected, 4);
    assert!(log.lines().rfind(|line| line.contains(connected)).unwrap().contains("transport: Udp"), "{log}");
    lab.ping(Side::Client, "10.8.0.1", 56);
}
