//! `agentctl connect` against the stock server, compared with the stock client on the same push.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a helper that fails is a failed test")]

mod profiles;
mod support;

use nix::sys::signal::Signal;
use support::{Lab, RESOLV_CONF, cannot_run};

const ROUTES: [&str; 7] = [
    "route 10.77.1.0 255.255.255.0",
    "route 10.77.2.0 255.255.255.0 vpn_gateway 50",
    "route 10.77.3.0 255.255.255.0 10.8.0.9",
    "route 203.0.113.0 255.255.255.0 net_gateway",
    "route 10.77.4.4",
    "route-ipv6 fd00:77::/64",
    "route-ipv6 fd00:78::/64 fd00:8::5 70",
];

/// Connects the stock client, then ours, and compares what either makes of the host; and that ours leaves it as it was.
#[track_caller]
fn same_as_stock(server: &[&str], pushes: &[&str], lines: &str) -> Lab {
    let mut lab = Lab::new();
    lab.serve(server, pushes);
    let profile = lab.profile("work.ovpn", lines);
    let before = lab.state();

    lab.connect_stock(&profile);
    let mut stock = lab.state();
    lab.end("client.log", Signal::SIGTERM);
    lab.must_become(&before);

    lab.connect(&profile, &[]);
    // Stock has no hand in name resolution.
    let ours = lab.state();
    stock.resolv_conf.clone_from(&ours.resolv_conf);
    assert_eq!(ours, stock, "{}", lab.read("client.log"));
    assert!(lab.on_host("ping -n -q -c 3 -i 0.05 -W 2 10.8.0.1").status.success());
    assert_eq!(lab.end("client.log", Signal::SIGINT), Some(0));
    lab.must_become(&before);
    lab
}

#[test]
fn routes_and_two_halves_and_names() {
    if cannot_run() {
        return;
    }
    let mut pushes = ROUTES.to_vec();
    pushes.extend([
        "redirect-gateway def1 ipv6",
        "dhcp-option DNS 10.8.0.53",
        "dhcp-option DOMAIN corp.example",
        "route-metric 33",
    ]);
    let words = ["--topology", "subnet", "--tun-mtu", "1400"];
    let mut lab = same_as_stock(&words, &pushes, "");

    lab.connect(&lab.path("work.ovpn"), &[]);
    let names = lab.state().resolv_conf;
    assert!(names.contains("search corp.example\nnameserver 10.8.0.53\noptions edns0\n"), "{names}");
    assert!(!names.contains("192.0.2.53"), "{names}");
    lab.end("client.log", Signal::SIGTERM);
    assert_eq!(lab.state().resolv_conf, RESOLV_CONF);
}

#[test]
fn pairs_of_addresses_and_the_default_route_itself() {
    if cannot_run() {
        return;
    }
    same_as_stock(&["--topology", "net30"], &["redirect-gateway", "route 10.77.1.0 255.255.255.0"], "");
}

#[test]
fn point_to_point_without_the_local_network() {
    if cannot_run() {
        return;
    }
    same_as_stock(&["--topology", "p2p"], &["redirect-gateway def1 block-local autolocal"], "");
}

#[test]
fn what_the_profile_says_itself() {
    if cannot_run() {
        return;
    }
    let lines = "route 10.99.0.0 255.255.0.0\nroute-ipv6 fd00:99::/64\nredirect-gateway def1\nroute-metric 7";
    let pushes = [ROUTES[0], "route-gateway 10.8.0.7", "dhcp-option DNS 10.8.0.53", "dns server 1 address 10.8.0.54"];
    let mut lab = same_as_stock(&["--topology", "subnet"], &pushes, lines);

    lab.connect(&lab.path("work.ovpn"), &[]);
    let names = lab.state().resolv_conf;
    assert!(names.contains("nameserver 10.8.0.54\n") && !names.contains("10.8.0.53"), "{names}");
    lab.end("client.log", Signal::SIGTERM);
}

#[test]
fn filters_and_no_routes_at_all() {
    if cannot_run() {
        return;
    }
    let mut pushes = ROUTES.to_vec();
    pushes.extend(["redirect-gateway def1", "dhcp-option DNS 10.8.0.53"]);
    let filters = "pull-filter accept \"route 10.77.1.\"\npull-filter ignore \"route 10.77\"\n\
                   pull-filter ignore redirect-gateway\npull-filter ignore dhcp-option";
    let mut lab = same_as_stock(&["--topology", "subnet"], &pushes, filters);
    lab.connect(&lab.path("work.ovpn"), &[]);
    let filtered = lab.state();
    assert_eq!(filtered.routes.iter().filter(|route| route.contains("10.77.")).count(), 1, "{filtered:?}");
    assert_eq!(filtered.resolv_conf, RESOLV_CONF);
    lab.end("client.log", Signal::SIGTERM);

    let profile = lab.profile("nopull.ovpn", "route-nopull\nroute 10.99.0.0 255.255.0.0");
    lab.connect_stock(&profile);
    let stock = lab.state();
    lab.end("client.log", Signal::SIGTERM);
    lab.connect(&profile, &[]);
    assert_eq!(lab.state(), stock);
    assert!(stock.routes.iter().any(|route| route.contains("10.99.0.0")));
    assert!(!stock.routes.iter().any(|route| route.contains("10.77.")));
    lab.end("client.log", Signal::SIGTERM);

    let profile = lab.profile("reject.ovpn", "pull-filter reject \"route 10.77.1.\"");
    lab.start(&profile, &[]);
    let log = lab.wait_for("client.log", "pull-filter");
    assert!(log.contains("route 10.77.1.0"), "{log}");
}

#[test]
fn blocked_ipv6_does_not_leak() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    lab.serve(&["--topology", "subnet"], &["redirect-gateway def1 ipv6", "block-ipv6"]);
    let profile = lab.profile("work.ovpn", "");
    let before = lab.state();
    let ping6 = "ping -n -c 1 -W 2 2001:db8:1::1";
    for stock in [true, false] {
        if stock {
            lab.connect_stock(&profile);
        } else {
            lab.connect(&profile, &[]);
        }
        let started = std::time::Instant::now();
        let output = lab.on_host(ping6);
        let text = String::from_utf8_lossy(&output.stdout).to_lowercase() + &String::from_utf8_lossy(&output.stderr);
        assert!(text.to_lowercase().contains("unreachable") || text.to_lowercase().contains("no route"), "{text}");
        assert!(started.elapsed().as_secs() < 2, "it is refused at once: {text}");
        assert!(lab.on_host("ping -n -q -c 1 -W 2 10.8.0.1").status.success(), "IPv4 goes on");
        lab.end("client.log", Signal::SIGTERM);
        lab.must_become(&before);
    }
}

#[test]
fn a_crash_leaves_nothing_behind_the_next_connection() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    lab.serve(&["--topology", "subnet"], &["redirect-gateway", "dhcp-option DNS 10.8.0.53", ROUTES[3]]);
    let profile = lab.profile("work.ovpn", "");
    let before = lab.state();
    lab.connect(&profile, &[]);
    let connected = lab.state();
    lab.end("client.log", Signal::SIGKILL);
    let left = lab.state();
    assert!(left.resolv_conf.contains("10.8.0.53"), "the test shows nothing otherwise: {left:?}");
    assert!(!left.routes.iter().any(|route| route.contains("\"default\"")), "{left:?}");

    // Another device than before: what is left is found all the same.
    lab.start(&profile, &["--device", "tun8"]);
    let log = lab.wait_for("client.log", "\nconnected to server at ");
    assert!(log.contains("did not come to its end: brought the default route back"), "{log}");
    assert_eq!(lab.state().routes.len(), connected.routes.len());
    assert_eq!(lab.end("client.log", Signal::SIGTERM), Some(0));
    lab.must_become(&before);
    assert_eq!(std::fs::read_dir(lab.path("journals")).unwrap().count(), 0);
}

#[test]
fn a_lost_server_is_found_again_with_everything_in_place() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    let serve = |lab: &mut Lab| lab.serve(&["--topology", "subnet"], &["redirect-gateway", ROUTES[0]]);
    serve(&mut lab);
    let profile = lab.profile("work.ovpn", "persist-tun");
    let before = lab.state();
    lab.connect(&profile, &[]);
    let connected = lab.state();
    lab.end("server.log", Signal::SIGKILL);
    lab.wait_for("client.log", "\ndisconnected: ");
    assert_eq!(lab.state(), connected, "nothing leaves past the tunnel meanwhile");
    serve(&mut lab);
    let log = lab.wait_for("client.log", "\ndisconnected: ");
    let after =
        |log: &str| log.rsplit_once("\ndisconnected: ").is_some_and(|(_, rest)| rest.contains("\nconnected to "));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    let mut log = log;
    while !after(&log) {
        assert!(std::time::Instant::now() < deadline, "{log}");
        std::thread::sleep(std::time::Duration::from_millis(50));
        log = lab.read("client.log");
    }
    assert_eq!(lab.state(), connected);
    lab.end("client.log", Signal::SIGTERM);
    lab.must_become(&before);
}

#[test]
fn a_closed_terminal_ends_it_as_anything_else_does() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    lab.serve(&["--topology", "subnet"], &["redirect-gateway", "dhcp-option DNS 10.8.0.53"]);
    let profile = lab.profile("work.ovpn", "");
    let before = lab.state();
    lab.connect(&profile, &[]);
    assert_ne!(lab.state(), before);
    assert_eq!(lab.end("client.log", Signal::SIGHUP), Some(0));
    lab.must_become(&before);
}
