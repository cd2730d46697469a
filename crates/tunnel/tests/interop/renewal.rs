//! Renewal of keys with stock peers, under load.

use crate::support::{Lab, Side, cannot_run, stock_has_epochs};

const POOL: &str = "pool=10.8.0.10-10.8.0.20";
/// Long enough for ten renewals of a key that is renewed every three seconds.
const TIME: u32 = 36;

/// Key ids of the soft resets in a log of verbosity 6, each renewal once.
fn soft_resets(log: &str) -> Vec<u8> {
    let mut ids: Vec<u8> = log
        .lines()
        .filter_map(|line| line.split_once("P_CONTROL_SOFT_RESET_V1 kid="))
        .filter_map(|(_, rest)| rest.get(..1)?.parse().ok())
        .collect();
    ids.dedup();
    ids
}

#[track_caller]
fn check(lab: &mut Lab, dynamic: bool, (sent, answered): (u32, u32)) {
    let (stock, ours) = ("stock", "ours");
    let log = lab.log(stock);
    assert_eq!(log.contains("dyn-tls-crypt"), dynamic, "{log}");
    assert_eq!((sent, answered), (TIME * 60, TIME * 60), "lost echoes\n{}\n{}", lab.log(ours), log);
    let epochs = log.contains("tls-ekm") && stock_has_epochs();
    assert_eq!(log.contains("aead-epoch"), epochs, "{log}");
    for error in ["TLS Error", "decrypt packet error", "AEAD Decrypt error", "used inconsistently"] {
        assert!(!log.contains(error), "{error} in\n{log}");
    }
    if log.contains("kid=") {
        assert_eq!(soft_resets(&log).get(..10), Some([1, 2, 3, 4, 5, 6, 7, 1, 2, 3].as_slice()));
    }
    let ours = lab.finish(ours);
    assert!(ours.contains("handshakes_completed=1 handshakes_failed=0"), "{ours}");
    let (_, rest) = ours.split_once("renewals_completed=").unwrap();
    let (count, failed) = rest.split_once(" renewals_failed=").unwrap();
    assert!(count.parse::<u32>().unwrap() >= 10 && failed.starts_with("0\n"), "{ours}");
}

fn with_stock_client(wrapped: bool, ours: &[&str], stock: &[&str]) {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    let (key, crypt) = (lab.path("ta.key"), format!("tls_crypt={}", lab.path("ta.key")));
    let (wrap, stock_wrap): (&[&str], &[&str]) = if wrapped { (&[&crypt], &["--tls-crypt", &key]) } else { (&[], &[]) };
    lab.spawn_ours(Side::Server, "ours", "server", &[&[POOL], wrap, ours].concat());
    lab.wait_for("ours", "Listening");
    lab.spawn_stock(Side::Client, "stock", "client", &[stock_wrap, stock].concat());
    lab.wait_for("stock", "Initialization Sequence Completed");
    lab.ping(Side::Client, "10.8.0.1", 56);
    let echo = lab.echo(Side::Client, "10.8.0.1", TIME);
    check(&mut lab, !ours.contains(&"dyn=off"), echo);
}

fn with_stock_server(wrapped: bool, ours: &[&str], stock: &[&str]) {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    let (key, crypt) = (lab.path("ta.key"), format!("tls_crypt={}", lab.path("ta.key")));
    let (wrap, stock_wrap): (&[&str], &[&str]) = if wrapped { (&[&crypt], &["--tls-crypt", &key]) } else { (&[], &[]) };
    lab.spawn_stock(Side::Server, "stock", "server", &[stock_wrap, stock].concat());
    lab.wait_for("stock", "Initialization Sequence Completed");
    lab.spawn_ours(Side::Client, "ours", "client", &[wrap, ours].concat());
    lab.wait_for("ours", "PeerConnected");
    lab.ping(Side::Client, "10.8.0.1", 56);
    let echo = lab.echo(Side::Client, "10.8.0.1", TIME);
    check(&mut lab, !ours.contains(&"dyn=off"), echo);
}

#[test]
fn our_listener_renews_with_a_stock_client() {
    with_stock_client(true, &["reneg=3"], &["--reneg-sec", "0", "--verb", "6"]);
}

#[test]
fn our_listener_renews_with_a_stock_client_unwrapped() {
    with_stock_client(false, &["reneg=3"], &["--reneg-sec", "0"]);
}

#[test]
fn our_listener_renews_with_a_stock_client_by_the_prf() {
    with_stock_client(true, &["reneg=3", "derive=prf"], &["--reneg-sec", "0", "--tls-version-max", "1.2"]);
}

#[test]
fn a_stock_client_renews_with_our_listener() {
    with_stock_client(true, &["reneg=0"], &["--reneg-sec", "3", "--verb", "6"]);
}

#[test]
fn our_dialer_renews_with_a_stock_server() {
    with_stock_server(true, &["reneg=3"], &["--reneg-sec", "0", "--verb", "6"]);
}

#[test]
fn a_stock_server_renews_with_our_dialer() {
    with_stock_server(true, &["reneg=0"], &["--reneg-sec", "3", "3", "--verb", "6"]);
}

#[test]
fn a_stock_server_renews_with_our_dialer_unwrapped() {
    with_stock_server(false, &["reneg=0"], &["--reneg-sec", "3", "3"]);
}

#[test]
fn our_listener_without_dynamic_tls_crypt() {
    with_stock_client(false, &["reneg=3", "dyn=off"], &["--reneg-sec", "0"]);
}

#[test]
fn our_dialer_without_dynamic_tls_crypt() {
    with_stock_server(true, &["reneg=0", "dyn=off"], &["--reneg-sec", "3", "3"]);
}

#[test]
fn both_renew_at_the_same_time() {
    with_stock_server(true, &["reneg=3"], &["--reneg-sec", "3", "3"]);
}

/// Stock begins a renewal every three seconds, and ours would seal on with the key before for four and a half.
#[test]
fn our_listener_seals_with_no_key_that_a_stock_client_forgot() {
    with_stock_client(true, &["reneg=9"], &["--reneg-sec", "3"]);
}

#[test]
fn our_dialer_seals_with_no_key_that_a_stock_server_forgot() {
    with_stock_server(true, &["reneg=9"], &["--reneg-sec", "3", "3"]);
}

/// A renewal that does not get through costs nothing, and the next one works. What is lost are the packets of key ids
/// other than 0 from `side`.
fn survives_a_failed_renewal(lab: &mut Lab, side: Side) {
    let nft = |words: &str| {
        let status = lab.command(side, "nft").arg(words).status().unwrap();
        assert!(status.success(), "nft {words}");
    };
    nft("add table inet loss");
    nft("add chain inet loss out { type filter hook output priority 0; }");
    nft("add rule inet loss out udp dport 1194 @th,64,8 & 7 != 0 drop");
    nft("add rule inet loss out udp sport 1194 @th,64,8 & 7 != 0 drop");
    let (sent, answered) = lab.echo(Side::Client, "10.8.0.1", 8);
    assert_eq!(sent, answered, "{}\n{}", lab.finish("ours"), lab.log("stock"));
    nft("delete table inet loss");
    let (sent, answered) = lab.echo(Side::Client, "10.8.0.1", 14);
    assert_eq!(sent, answered, "{}\n{}", lab.finish("ours"), lab.log("stock"));
    let log = lab.finish("ours");
    assert!(log.contains("handshakes_completed=1 handshakes_failed=0"), "{log}");
    assert!(log.contains("renewals_failed=1") && !log.contains("renewals_completed=0"), "{log}");
}

#[test]
fn our_listener_outlives_a_failed_renewal() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    lab.spawn_ours(Side::Server, "ours", "server", &[POOL, "reneg=4", "hand_window=3"]);
    lab.wait_for("ours", "Listening");
    lab.spawn_stock(Side::Client, "stock", "client", &["--reneg-sec", "0"]);
    lab.wait_for("stock", "Initialization Sequence Completed");
    lab.ping(Side::Client, "10.8.0.1", 56);
    survives_a_failed_renewal(&mut lab, Side::Server);
}

#[test]
fn our_dialer_outlives_a_failed_renewal() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    lab.spawn_stock(Side::Server, "stock", "server", &["--reneg-sec", "0"]);
    lab.wait_for("stock", "Initialization Sequence Completed");
    lab.spawn_ours(Side::Client, "ours", "client", &["reneg=4", "hand_window=3"]);
    lab.wait_for("ours", "PeerConnected");
    lab.ping(Side::Client, "10.8.0.1", 56);
    survives_a_failed_renewal(&mut lab, Side::Client);
}

/// Renewals get through although one in seven control packets is lost each way; data is not concerned. How many fit
/// into the time depends on the stock peer, whose retransmissions are 2, 4, 8 and 16 seconds apart.
fn renews_under_loss(lab: &mut Lab, side: Side) {
    let nft = |words: &str| {
        let status = lab.command(side, "nft").arg(words).status().unwrap();
        assert!(status.success(), "nft {words}");
    };
    nft("add table inet loss");
    for hook in ["input", "output"] {
        nft(&format!("add chain inet loss {hook} {{ type filter hook {hook} priority 0; }}"));
        // The opcode is in the upper five bits of the first byte.
        for port in ["dport", "sport"] {
            let rule = format!("udp {port} 1194 @th,64,5 {{ 3, 4, 5 }} numgen random mod 100 < 15 drop");
            nft(&format!("add rule inet loss {hook} {rule}"));
        }
    }
    let (sent, answered) = lab.echo(Side::Client, "10.8.0.1", 40);
    assert_eq!(sent, answered, "{}\n{}", lab.finish("ours"), lab.log("stock"));
    let log = lab.finish("ours");
    assert!(log.contains("handshakes_completed=1 handshakes_failed=0"), "{log}");
    let (_, rest) = log.split_once("renewals_completed=").unwrap();
    let completed: u32 = rest.split(' ').next().unwrap().parse().unwrap();
    assert!(completed >= 1, "{log}");
}

#[test]
fn our_listener_renews_under_loss() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    let key = lab.path("ta.key");
    let pool = [POOL, "reneg=6", &format!("tls_crypt={key}")];
    lab.spawn_ours(Side::Server, "ours", "server", &pool);
    lab.wait_for("ours", "Listening");
    lab.spawn_stock(Side::Client, "stock", "client", &["--reneg-sec", "0", "--tls-crypt", &key]);
    lab.wait_for("stock", "Initialization Sequence Completed");
    lab.ping(Side::Client, "10.8.0.1", 56);
    renews_under_loss(&mut lab, Side::Server);
}

#[test]
fn our_dialer_renews_under_loss() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    let key = lab.path("ta.key");
    lab.spawn_stock(Side::Server, "stock", "server", &["--reneg-sec", "6", "6", "--tls-crypt", &key]);
    lab.wait_for("stock", "Initialization Sequence Completed");
    lab.spawn_ours(Side::Client, "ours", "client", &["reneg=0", &format!("tls_crypt={key}")]);
    lab.wait_for("ours", "PeerConnected");
    lab.ping(Side::Client, "10.8.0.1", 56);
    renews_under_loss(&mut lab, Side::Client);
}
