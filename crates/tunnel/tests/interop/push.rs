//! Pushed addresses, routes and more, in both roles with the stock peer.

use super::{Lab, POOL, Side, cannot_run};

const ROUTES: usize = 45;
const SERVER6: &str = "fd00:8::1";
const OURS_IPV6: [&str; 2] = ["address6=fd00:8::1/64", "pool6=fd00:8::1000-fd00:8::1fff"];

/// A lab with our listener in it and a stock client that is connected.
fn stock_client(ours: &[&str], stock: &[&str]) -> Option<Lab> {
    if cannot_run() {
        return None;
    }
    let mut lab = Lab::new();
    let key = lab.path("ta.key");
    lab.spawn_ours(Side::Server, "ours", "server", &[&[format!("tls_crypt={key}").as_str()], ours].concat());
    lab.wait_for("ours", "Listening");
    lab.spawn_stock(Side::Client, "stock", "client", &[&["--tls-crypt", &key], stock].concat());
    lab.wait_for("stock", "Initialization Sequence Completed");
    lab.wait_for("ours", "PeerConnected");
    Some(lab)
}

/// A lab with a stock server in it and our dialer that is connected.
fn stock_server(ours: &[&str], stock: &[&str]) -> Option<Lab> {
    if cannot_run() {
        return None;
    }
    let mut lab = Lab::new();
    let key = lab.path("ta.key");
    lab.spawn_stock(Side::Server, "stock", "server", &[&["--tls-crypt", &key], stock].concat());
    lab.wait_for("stock", "Initialization Sequence Completed");
    lab.spawn_ours(Side::Client, "ours", "client", &[&[format!("tls_crypt={key}").as_str()], ours].concat());
    lab.wait_for("ours", "PeerConnected");
    Some(lab)
}

/// What `ip` says in the client's namespace.
fn ip(lab: &Lab, words: &[&str]) -> String {
    let output = lab.command(Side::Client, "ip").args(words).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn routes_to_77(lab: &Lab) -> usize {
    ip(lab, &["route"]).lines().filter(|line| line.starts_with("10.77.")).count()
}

fn many_routes() -> Vec<String> {
    (0..ROUTES).map(|at| format!("route 10.77.{at}.0 255.255.255.0")).collect()
}

#[test]
fn stock_server_with_ipv6() {
    let Some(lab) = stock_server(&[], &["--server-ipv6", "fd00:8::/64"]) else { return };
    lab.ping(Side::Client, SERVER6, 56);
    lab.ping(Side::Client, SERVER6, 1400);
    lab.ping(Side::Server, "fd00:8::1000", 56);
    lab.ping(Side::Client, "10.8.0.1", 56);
}

#[test]
fn stock_client_with_ipv6() {
    let Some(lab) = stock_client(&[&[POOL], &OURS_IPV6[..]].concat(), &[]) else { return };
    lab.ping(Side::Client, SERVER6, 56);
    lab.ping(Side::Client, SERVER6, 1350);
    lab.ping(Side::Server, "fd00:8::1000", 56);
    lab.ping(Side::Client, "10.8.0.1", 56);
    lab.ping(Side::Server, "10.8.0.10", 56);
}

#[test]
fn stock_client_with_ipv6_only() {
    let Some(lab) = stock_client(&[&["address="], &OURS_IPV6[..]].concat(), &[]) else { return };
    lab.ping(Side::Client, SERVER6, 56);
    lab.ping(Side::Server, "fd00:8::1000", 1300);
    assert!(!ip(&lab, &["-4", "address"]).contains("10.8.0."));
}

#[test]
fn stock_server_with_other_topologies() {
    for topology in ["net30", "p2p"] {
        let Some(lab) = stock_server(&[], &["--topology", topology]) else { return };
        let log = lab.log("ours");
        let address = log.split_once("PointToPoint { local: ").and_then(|(_, rest)| rest.split_once(','));
        let Some((address, _)) = address else { panic!("no pair of addresses in\n{log}") };
        lab.ping(Side::Client, "10.8.0.1", 56);
        lab.ping(Side::Server, address, 1200);
    }
}

#[test]
fn stock_server_pushes_45_routes() {
    let routes = many_routes();
    let options: Vec<&str> = routes.iter().flat_map(|route| ["--push", route.as_str()]).collect();
    let Some(lab) = stock_server(&[], &options) else { return };
    lab.ping(Side::Client, "10.8.0.1", 56);
    assert_eq!(routes_to_77(&lab), ROUTES);
}

#[test]
fn stock_client_takes_45_routes() {
    let push = format!("push={}", many_routes().join(";"));
    let Some(lab) = stock_client(&[POOL, &push], &[]) else { return };
    lab.ping(Side::Client, "10.8.0.1", 56);
    assert_eq!(routes_to_77(&lab), ROUTES, "{}", lab.log("stock"));
}

/// A listener tells everybody some options, and one peer more.
#[test]
fn stock_client_is_told_what_is_for_it() {
    let ours = [
        "static=urn:test:client/10.8.0.5",
        "push=route 10.9.0.0 255.255.0.0;dhcp-option DNS 10.8.0.1;block-ipv6",
        "static_push=route 10.10.0.0 255.255.0.0",
    ];
    let Some(lab) = stock_client(&[&ours, &OURS_IPV6[..]].concat(), &[]) else { return };
    lab.ping(Side::Client, "10.8.0.1", 56);
    let routes = ip(&lab, &["route"]);
    assert!(routes.contains("10.9.0.0/16") && routes.contains("10.10.0.0/16"), "{routes}");
    let log = lab.log("stock");
    assert!(log.contains("dhcp-option DNS 10.8.0.1") && log.contains("block-ipv6"), "{log}");
    assert!(!log.contains("Options error"), "{log}");
}

/// What a server may not say has no effect, and is told.
#[test]
fn stock_server_pushes_what_is_not_its_business() {
    if cannot_run() {
        return;
    }
    let touched = std::env::temp_dir().join(format!("pushed-{}", std::process::id()));
    let up = format!("up \"/usr/bin/touch {}\"", touched.display());
    let plugin = "plugin /nonexistent.so";
    let pushes = [up.as_str(), plugin, "ca /etc/passwd", "remote 192.0.2.99 1194", "foo bar", "script-security 3"];
    let options: Vec<&str> = pushes.iter().flat_map(|option| ["--push", option]).collect();
    let Some(mut lab) = stock_server(&[], &options) else { return };
    lab.ping(Side::Client, "10.8.0.1", 56);
    let log = lab.log("ours");
    let told = log.split_once("ignored: [").map_or("", |(_, rest)| rest.split_once(']').map_or(rest, |(list, _)| list));
    for name in ["up ", "plugin ", "ca /etc", "remote 192.0.2.99", "foo bar", "script-security"] {
        assert!(told.contains(name), "no '{name}' in {told}");
    }
    assert!(!touched.exists());
    // Where the server is is ours to know: the dialer comes back to it, and still trusts nobody else.
    lab.kill("stock");
    lab.wait_for("ours", "PingTimeout");
    let key = lab.path("ta.key");
    lab.spawn_stock(Side::Server, "stock2", "server", &["--tls-crypt", &key]);
    lab.wait_for_count("ours", "PeerConnected(", 2);
    assert!(!lab.log("ours").contains("192.0.2.99:1194"), "{}", lab.log("ours"));
}

#[test]
fn stock_server_sets_the_mtu() {
    let Some(lab) = stock_server(&[], &["--tun-mtu", "1400"]) else { return };
    lab.ping(Side::Client, "10.8.0.1", 1372);
    assert!(ip(&lab, &["link", "show", "tun0"]).contains("mtu 1400"), "{}", lab.log("ours"));
    drop(lab);
    let Some(lab) = stock_server(&[], &["--tun-mtu", "9000"]) else { return };
    lab.ping(Side::Client, "10.8.0.1", 8972);
    drop(lab);
    // More than can be is not taken.
    let Some(lab) = stock_server(&[], &["--tun-mtu", "9500"]) else { return };
    lab.ping(Side::Client, "10.8.0.1", 1400);
    let log = lab.log("ours");
    assert!(log.contains("mtu: 9000") && log.contains("tun-mtu 9500 (larger than 9000"), "{log}");
}

/// Packets of the first format, both ways.
#[test]
fn stock_server_without_peer_id() {
    let Some(lab) = stock_server(&["peer_ids=off"], &[]) else { return };
    lab.ping(Side::Client, "10.8.0.1", 56);
    lab.ping(Side::Server, "10.8.0.2", 1400);
    let log = lab.log("stock");
    assert!(log.contains("IV_PROTO=0") && !log.contains("peer-id 0"), "{log}");
    assert!(lab.log("ours").contains("Prf"));
}

#[test]
fn stock_client_without_peer_id() {
    let Some(lab) = stock_client(&[POOL, "peer_ids=off"], &[]) else { return };
    lab.ping(Side::Client, "10.8.0.1", 56);
    lab.ping(Side::Server, "10.8.0.10", 1300);
    let log = lab.log("stock");
    assert!(log.contains("PUSH_REPLY") && !log.contains("peer-id"), "{log}");
}

/// Filters decide what of the push is taken; one that rejects ends the session.
#[test]
fn our_dialer_filters_what_is_pushed() {
    let push = ["--push", "route 10.9.0.0 255.255.0.0", "--push", "route 10.10.0.0 255.255.0.0"];
    let Some(lab) = stock_server(&["pull_filter=accept:route 10.9.;ignore:route 10."], &push) else { return };
    lab.ping(Side::Client, "10.8.0.1", 56);
    let routes = ip(&lab, &["route"]);
    assert!(routes.contains("10.9.0.0/16") && !routes.contains("10.10.0.0/16"), "{routes}");
    drop(lab);
    let Some(lab) = stock_server(&["route_nopull=on"], &push) else { return };
    lab.ping(Side::Client, "10.8.0.1", 56);
    assert!(!ip(&lab, &["route"]).contains("/16"));
    drop(lab);
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    let key = lab.path("ta.key");
    lab.spawn_stock(Side::Server, "stock", "server", &[&["--tls-crypt", &key], &push[..]].concat());
    lab.wait_for("stock", "Initialization Sequence Completed");
    let crypt = format!("tls_crypt={key}");
    lab.spawn_ours(Side::Client, "ours", "client", &[&crypt, "pull_filter=reject:route 10.9."]);
    let log = lab.wait_for("ours", "HandshakeFailed");
    assert!(log.contains("Rejected(\"route 10.9.0.0 255.255.0.0\")") && !log.contains("PeerConnected"), "{log}");
}
