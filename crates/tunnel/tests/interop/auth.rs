//! Passwords, tokens, refusals, commands and goodbyes with stock peers.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::{Lab, SERVER, Side, cannot_run, stock};

const POOL: &str = "pool=10.8.0.10-10.8.0.20";
/// How goodbyes go, and what a stock peer says of them.
const GOODBYES: [(&str, &str); 2] =
    [("exit=off", "OCC exit message received"), ("exit=on", "CC-EEN exit message received")];

/// Files: `users` for ours, `check.sh` for a stock server, `right.txt` and others for a stock client.
fn lab_with_users() -> Lab {
    let lab = Lab::new();
    fs::write(lab.path("users"), "alice:secret\nlater:secret:later 7\npending:secret:pending 40 30\n").unwrap();
    let script = "#!/bin/sh\n[ \"$username\" = alice ] && [ \"$password\" = secret ]\n";
    fs::write(lab.path("check.sh"), script).unwrap();
    fs::set_permissions(lab.path("check.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    for (file, contents) in [
        ("right.txt", "alice\nsecret\n"),
        ("wrong.txt", "alice\nguess\n"),
        ("later.txt", "later\nsecret\n"),
        ("pending.txt", "pending\nsecret\n"),
    ] {
        fs::write(lab.path(file), contents).unwrap();
    }
    lab
}

fn spawn_stock_server(lab: &mut Lab, more: &[&str]) {
    let script = lab.path("check.sh");
    let words = ["--auth-user-pass-verify", &script, "via-env", "--script-security", "3"];
    lab.spawn_stock(Side::Server, "stock", "server", &[&words[..], more].concat());
    lab.wait_for("stock", "Initialization Sequence Completed");
}

fn spawn_our_server(lab: &mut Lab, more: &[&str]) {
    let (check, orders) = (format!("check={}", lab.path("users")), format!("orders={}", lab.path("orders")));
    lab.spawn_ours(Side::Server, "ours", "server", &[&[POOL, &check, &orders], more].concat());
    lab.wait_for("ours", "Listening");
}

/// A stock client with the user name and password of a file.
fn spawn_stock_client(lab: &mut Lab, log: &str, file: &str, more: &[&str]) {
    let file = lab.path(&format!("{file}.txt"));
    lab.spawn_stock(Side::Client, log, "client", &[&["--auth-user-pass", &file], more].concat());
}

fn order(lab: &Lab, text: &str) {
    UnixDatagram::unbound().unwrap().send_to(text.as_bytes(), lab.path("orders")).unwrap();
}

#[test]
fn our_dialer_shows_a_password() {
    if cannot_run() {
        return;
    }
    let mut lab = lab_with_users();
    spawn_stock_server(&mut lab, &[]);
    lab.spawn_ours(Side::Client, "right", "client", &["login=alice:secret"]);
    lab.wait_for("right", "PeerConnected");
    lab.wait_for("stock", "authentication succeeded for username 'alice'");
    lab.ping(Side::Client, "10.8.0.1", 56);
    lab.finish("right");

    // The server tells a stranger so, who then gives up.
    lab.spawn_ours(Side::Client, "wrong", "client", &["login=alice:guess"]);
    let log = lab.wait_for("wrong", "Error: Refused(AuthFailed(");
    assert_eq!((log.matches("Connecting").count(), log.contains("PeerConnected")), (1, false), "{log}");
    assert!(!log.contains("guess"), "{log}");
    lab.wait_for("stock", "AUTH_FAILED");
}

#[test]
fn our_dialer_without_certificate() {
    if cannot_run() {
        return;
    }
    let mut lab = lab_with_users();
    spawn_stock_server(&mut lab, &["--verify-client-cert", "none", "--username-as-common-name"]);
    let words = ["mode=dial", &format!("remote={SERVER}:1194"), &format!("ca={}", lab.path("ca.pem"))];
    let words = words.map(str::to_owned).into_iter().chain(["login=alice:secret".to_owned()]).collect::<Vec<_>>();
    lab.spawn_example(Side::Client, "ours", &words);
    lab.wait_for("ours", "PeerConnected");
    lab.ping(Side::Client, "10.8.0.1", 56);
    assert!(lab.log("stock").contains("alice/"), "{}", lab.log("stock"));
}

#[test]
fn our_listener_asks_for_a_password() {
    if cannot_run() {
        return;
    }
    let mut lab = lab_with_users();
    spawn_our_server(&mut lab, &[]);
    spawn_stock_client(&mut lab, "right", "right", &[]);
    lab.wait_for("right", "Initialization Sequence Completed");
    lab.ping(Side::Client, "10.8.0.1", 56);
    lab.finish("right");

    spawn_stock_client(&mut lab, "wrong", "wrong", &[]);
    lab.wait_for("wrong", "AUTH_FAILED,wrong password");
    lab.wait_for("wrong", "process exiting");
    lab.wait_for("ours", "LoginRefused(\"wrong password\")");
    // Who shows no password is told that it takes one.
    lab.spawn_stock(Side::Client, "none", "client", &[]);
    lab.wait_for("none", "AUTH_FAILED,a user name and a password are needed");
    let log = lab.finish("ours");
    assert!(log.contains("handshakes_completed=1 handshakes_failed=2"), "{log}");
    assert!(!log.contains("secret\"") && !log.contains("guess"), "{log}");
}

/// Without a certificate nobody gets in, unless only a password is asked for.
#[test]
fn stock_client_without_certificate() {
    if cannot_run() {
        return;
    }
    let mut lab = lab_with_users();
    let words = |lab: &Lab, file: &str| {
        let words = format!(
            "--client --dev tun --proto udp --nobind --verb 4 --remote {SERVER} 1194 --remote-cert-tls server --ca {} \
             --auth-user-pass {}",
            lab.path("ca.pem"),
            lab.path(&format!("{file}.txt"))
        );
        words.split(' ').map(str::to_owned).collect::<Vec<_>>()
    };
    spawn_our_server(&mut lab, &[]);
    let right = words(&lab, "right");
    lab.spawn(Side::Client, "refused", &stock(), &right);
    let log = lab.wait_for("ours", "HandshakeFailed");
    assert!(log.contains("peer did not return a certificate"), "{log}");
    assert!(!lab.finish("refused").contains("Initialization Sequence Completed"));
    lab.finish("ours");

    for demand in ["none", "optional"] {
        let _ = fs::remove_file(lab.path("orders"));
        spawn_our_server(&mut lab, &[&format!("certificate={demand}")]);
        lab.spawn(Side::Client, demand, &stock(), &right);
        lab.wait_for(demand, "Initialization Sequence Completed");
        lab.wait_for("ours", "common_name: \"alice\"");
        lab.ping(Side::Client, "10.8.0.1", 56);
        let wrong = words(&lab, "wrong");
        lab.spawn(Side::Client, "wrong", &stock(), &wrong);
        lab.wait_for("wrong", "AUTH_FAILED,wrong password");
        lab.finish(demand);
        lab.finish("ours");
    }
}

/// Both a stock client and ours come back after the time that our listener tells them, not before.
#[test]
fn clients_wait_as_long_as_they_are_told() {
    if cannot_run() {
        return;
    }
    for ours in [false, true] {
        let mut lab = lab_with_users();
        spawn_our_server(&mut lab, &[]);
        if ours {
            lab.spawn_ours(Side::Client, "client", "client", &["login=later:secret"]);
        } else {
            spawn_stock_client(&mut lab, "client", "later", &[]);
        }
        lab.wait_for("ours", "LoginRequest");
        let asked = Instant::now();
        lab.wait_for(
            "client",
            if ours { "backoff: Some(7s)" } else { "AUTH_FAILED,TEMP[backoff 7,advance no]:not now" },
        );
        lab.wait_for_count("ours", "LoginRequest", 2);
        let waited = asked.elapsed();
        assert!((Duration::from_millis(5500)..Duration::from_secs(15)).contains(&waited), "{waited:?}");
    }
}

/// A stock server's token stands for the password at a renewal and at a new session. When it is over, our dialer shows
/// the password again.
#[test]
fn our_dialer_uses_the_token_of_a_stock_server() {
    if cannot_run() {
        return;
    }
    let mut lab = lab_with_users();
    // The first renewal falls well within the token's life, the second well after it.
    spawn_stock_server(&mut lab, &["--auth-gen-token", "22", "--reneg-sec", "15", "15", "--hand-window", "7"]);
    let orders = format!("orders={}", lab.path("orders"));
    lab.spawn_ours(Side::Client, "ours", "client", &["login=alice:secret", "reneg=0", &orders]);
    lab.wait_for("ours", "PeerConnected");
    let token = "auth-token authentication succeeded for username 'alice'";
    let first = lab.log("stock").matches(token).count();
    order(&lab, "reconnect 0");
    lab.wait_for_count("ours", "PeerConnected", 2);
    lab.ping(Side::Client, "10.8.0.1", 56);
    // The script is asked once: what else succeeds is a token.
    lab.wait_for_count("stock", token, first + 2);
    // Past the lifetime the server refuses, and the password gets us in again.
    lab.wait_for_count("ours", "TokenRefused", 1);
    lab.wait_for_count("ours", "PeerConnected", 3);
    lab.ping(Side::Client, "10.8.0.1", 56);
    let log = lab.log("ours");
    assert!(!log.contains("SESS_ID_AT"), "a token in\n{log}");
}

/// The same with our token and a stock client.
#[test]
fn a_stock_client_uses_the_token_of_our_listener() {
    if cannot_run() {
        return;
    }
    let mut lab = lab_with_users();
    spawn_our_server(&mut lab, &["tokens=16/6", "reneg=6"]);
    spawn_stock_client(&mut lab, "stock", "right", &["--reneg-sec", "0", "--connect-retry", "1"]);
    lab.wait_for("stock", "Initialization Sequence Completed");
    // A new session shows the token: nobody is asked.
    lab.signal("stock", Signal::SIGUSR1);
    lab.wait_for_count("ours", "PeerConnected(", 2);
    assert_eq!(lab.log("ours").matches("LoginRequest").count(), 1);
    // Renewals show it too, until it is over.
    lab.wait_for("stock", "AUTH_FAILED,SESSION:the token is over");
    assert_eq!(lab.log("ours").matches("LoginRequest").count(), 1);
    lab.wait_for_count("ours", "LoginRequest", 2);
    lab.wait_for_count("ours", "PeerConnected(", 3);
    lab.ping(Side::Client, "10.8.0.1", 56);
    let log = lab.finish("ours");
    assert!(!log.contains("renewals_completed=0"), "{log}");
}

/// A login that waits half a minute for a second factor, with a stock client and with ours.
#[test]
fn a_login_waits_for_a_second_factor() {
    if cannot_run() {
        return;
    }
    let mut labs = [lab_with_users(), lab_with_users()];
    for lab in &mut labs {
        spawn_our_server(lab, &[]);
    }
    let started = Instant::now();
    let [stock, ours] = &mut labs;
    spawn_stock_client(stock, "client", "pending", &[]);
    ours.spawn_ours(Side::Client, "client", "client", &["login=pending:secret"]);
    stock.wait_for("client", "AUTH_PENDING received, extending handshake timeout from 60s to 40s");
    stock.wait_for("client", "WEB_AUTH::https://example.com/second-factor");
    let log = ours.wait_for("client", "Info(\"WEB_AUTH::https://example.com/second-factor\")");
    assert!(log.contains("LoginPending { timeout: 40s }"), "{log}");
    // Half a minute, which is what the listener is told to take.
    stock.wait_long_for("client", "Initialization Sequence Completed", 1, Duration::from_secs(60));
    ours.wait_for("client", "PeerConnected");
    assert!(started.elapsed() > Duration::from_secs(29));
    for lab in [stock, ours] {
        lab.ping(Side::Client, "10.8.0.1", 56);
        assert_eq!(lab.log("ours").matches("LoginRequest").count(), 1);
    }
}

/// What our listener says takes effect in a stock client.
#[test]
fn a_stock_client_obeys_our_commands() {
    if cannot_run() {
        return;
    }
    let mut lab = lab_with_users();
    spawn_our_server(&mut lab, &[]);
    spawn_stock_client(&mut lab, "stock", "right", &["--connect-retry", "1"]);
    lab.wait_for("stock", "Initialization Sequence Completed");
    order(&lab, "info 0 all is well");
    lab.wait_for("stock", "all is well");
    for (count, (said, seen)) in
        [("restart 0 [P]new address", "server-pushed-connection-reset"), ("exit 0", "CC-EEN exit message received")]
            .into_iter()
            .enumerate()
    {
        lab.wait_for_count("ours", "PeerConnected(", count + 1);
        order(&lab, said);
        lab.wait_for("stock", seen);
        lab.wait_for_count("ours", "PeerConnected(", count + 2);
        lab.ping(Side::Client, "10.8.0.1", 56);
    }
    order(&lab, "halt 0 no more");
    lab.wait_for("stock", "server-pushed-halt");
    lab.wait_for("stock", "process exiting");
}

/// And in ours.
#[test]
fn our_dialer_obeys_commands() {
    if cannot_run() {
        return;
    }
    let mut lab = lab_with_users();
    spawn_our_server(&mut lab, &[]);
    // The second remote is the same server.
    let remotes = format!("remote={SERVER}:1194,{SERVER}:1194");
    lab.spawn_ours(Side::Client, "client", "client", &["login=alice:secret", &remotes]);
    lab.wait_for("client", "PeerConnected(");
    order(&lab, "info 0 all is well");
    lab.wait_for("client", "Info(\"all is well\")");
    for (sessions, (said, seen)) in [
        ("restart 0 new address", "ServerRestart { text: \"new address\", next_remote: false }"),
        ("restart 0 [PN]elsewhere", "ServerRestart { text: \"elsewhere\", next_remote: true }"),
        ("exit 0", "reason: PeerExit"),
    ]
    .into_iter()
    .enumerate()
    {
        lab.wait_for_count("ours", "PeerConnected(", sessions + 1);
        order(&lab, said);
        lab.wait_for("client", seen);
    }
    lab.wait_for_count("client", "PeerConnected(", 4);
    lab.ping(Side::Client, "10.8.0.1", 56);
    order(&lab, "halt 0 no more");
    lab.wait_for("client", "Error: Refused(ServerHalt(\"no more\"))");
}

/// Goodbyes over the data channel, where `EXIT` is not agreed upon, and their effect on either side.
#[test]
fn goodbyes_over_the_data_channel() {
    if cannot_run() {
        return;
    }
    let mut lab = lab_with_users();
    spawn_stock_server(&mut lab, &[]);
    for (count, (form, seen)) in GOODBYES.into_iter().enumerate() {
        lab.spawn_ours(Side::Client, form, "client", &["login=alice:secret", form]);
        lab.wait_for(form, "PeerConnected");
        lab.ping(Side::Client, "10.8.0.1", 56);
        let left = Instant::now();
        lab.finish(form);
        lab.wait_for("stock", seen);
        lab.wait_for_count("stock", "received, client-instance ", count + 1);
        assert!(left.elapsed() < Duration::from_secs(6));
    }
    drop(lab);

    for (form, seen) in GOODBYES {
        let mut lab = lab_with_users();
        spawn_our_server(&mut lab, &[form]);
        let words = ["--explicit-exit-notify", "1", "--connect-retry", "1"];
        spawn_stock_client(&mut lab, "leaves", "right", &words);
        lab.wait_for("leaves", "Initialization Sequence Completed");
        lab.ping(Side::Client, "10.8.0.1", 56);
        let left = Instant::now();
        lab.finish("leaves");
        lab.wait_for("ours", "reason: PeerExit");
        assert!(left.elapsed() < Duration::from_secs(6));

        spawn_stock_client(&mut lab, "stays", "right", &words);
        lab.wait_for("stays", "Initialization Sequence Completed");
        lab.ping(Side::Client, "10.8.0.1", 56);
        lab.finish("ours");
        lab.wait_for("stays", seen);
        lab.wait_for("stays", "SIGUSR1[soft,remote-exit] received");
        lab.kill("stays");
    }
}

/// Two clients with one certificate.
#[test]
fn duplicate_names_live_side_by_side_only_when_allowed() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    lab.spawn_ours(Side::Server, "ours", "server", &[POOL, "duplicates=on"]);
    lab.wait_for("ours", "Listening");
    for (log, device) in [("first", "tun7"), ("second", "tun8")] {
        lab.spawn_stock(Side::Client, log, "client", &["--dev", device]);
        lab.wait_for(log, "Initialization Sequence Completed");
    }
    // Answers leave by the device whose address was asked.
    for (address, device) in [("10.8.0.10", "tun7"), ("10.8.0.11", "tun8")] {
        for words in [
            ["rule", "add", "from", address, "table", &device[3..]].as_slice(),
            &["route", "add", "10.8.0.0/24", "dev", device, "table", &device[3..]],
        ] {
            assert!(lab.command(Side::Client, "ip").args(words).status().unwrap().success(), "{words:?}");
        }
    }
    lab.ping(Side::Server, "10.8.0.10", 56);
    lab.ping(Side::Server, "10.8.0.11", 56);
    assert!(!lab.log("ours").contains("PeerDisconnected"));
    lab.finish("ours");
    ["first", "second"].into_iter().for_each(|log| lab.kill(log));

    lab.spawn_ours(Side::Server, "ours", "server", &[POOL]);
    lab.wait_for("ours", "Listening");
    for (log, device) in [("first", "tun7"), ("second", "tun8")] {
        lab.spawn_stock(Side::Client, log, "client", &["--dev", device]);
        lab.wait_for(log, "Initialization Sequence Completed");
    }
    lab.wait_for("ours", "reason: Replaced");
}

/// Peers that set other things than we do connect nonetheless.
#[test]
fn stock_peers_with_other_options() {
    if cannot_run() {
        return;
    }
    for options in [["--tun-mtu", "1400"], ["--auth", "SHA512"]] {
        let mut lab = Lab::new();
        lab.spawn_ours(Side::Server, "ours", "server", &[POOL]);
        lab.wait_for("ours", "Listening");
        lab.spawn_stock(Side::Client, "stock", "client", &options);
        lab.wait_for("stock", "Initialization Sequence Completed");
        lab.ping(Side::Client, "10.8.0.1", 56);
        drop(lab);

        let mut lab = Lab::new();
        lab.spawn_stock(Side::Server, "stock", "server", &options);
        lab.wait_for("stock", "Initialization Sequence Completed");
        lab.spawn_ours(Side::Client, "ours", "client", &[]);
        lab.wait_for("ours", "PeerConnected");
        lab.ping(Side::Client, "10.8.0.1", 56);
    }
}

/// What a stock server reads of what we are.
#[test]
fn our_peer_info_in_the_log_of_a_stock_server() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    lab.spawn_stock(Side::Server, "stock", "server", &[]);
    lab.wait_for("stock", "Initialization Sequence Completed");
    lab.spawn_ours(Side::Client, "ours", "client", &["ciphers=CHACHA20-POLY1305:AES-256-GCM"]);
    lab.wait_for("ours", "PeerConnected");
    let log = lab.log("stock");
    // Peer id, push unasked, exporter, AUTH_PENDING, protocol-flags, temporary refusals, dynamic tls-crypt, epochs, dns.
    let protocol = 2 + 4 + 8 + 16 + 128 + 256 + 512 + 1024 + 2048;
    for line in [&format!("IV_PROTO={protocol}"), "IV_CIPHERS=CHACHA20-POLY1305:AES-256-GCM", "IV_PLAT=linux"] {
        assert!(log.contains(&format!("peer info: {line}")), "no '{line}' in\n{log}");
    }
}
