use proptest::prelude::*;

use super::*;
use crate::session::settings::Dns;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// As a stock server pushes it with `--server` and `--server-ipv6`.
fn settings() -> Settings {
    Settings {
        device: "tun7".to_owned(),
        mtu: 1500,
        tx_queue_len: 64,
        addresses: vec![
            Address { net: net("10.8.0.2/24"), peer: None },
            Address { net: net("fd00:8::1000/64"), peer: None },
        ],
        gateway4: Some(Ipv4Addr::new(10, 8, 0, 1)),
        server: ip("198.51.100.1"),
        routes: Vec::new(),
        metric: None,
        redirect: None,
        block_ipv6: false,
        dns: Dns::default(),
    }
}

fn facts() -> Facts {
    let way = |gateway: &str| Way { gateway: Some(ip(gateway)), device: "wire".to_owned(), onlink: false };
    Facts {
        default4: Some(DefaultRoute { way: way("192.0.2.1"), message: vec![1, 2, 3] }),
        default6: Some(way("2001:db8::1")),
        server: Some(way("192.0.2.1")),
        local4: vec!["192.0.2.0/24".parse().unwrap()],
        routes: [(net("0.0.0.0/0"), 0), (net("192.0.2.0/24"), 0), (net("::/0"), 1024)].into(),
        name_servers: vec![ip("192.0.2.53"), ip("203.0.113.53"), ip("127.0.0.53")],
    }
}

fn route(destination: &str, via: Via, metric: Option<u32>) -> Route {
    Route { destination: net(destination), via, metric }
}

/// The routes of a plan as people read them.
fn routes(settings: &Settings, facts: &Facts) -> Vec<String> {
    let shown = |step: Step| match step {
        Step::Route(route) => Some(route.to_string()),
        Step::RemoveDefault(_) => Some("remove default".to_owned()),
        Step::Link { .. } | Step::Address(_) => None,
    };
    plan(settings, facts).steps.into_iter().filter_map(shown).collect()
}

fn redirected(redirect: Redirect) -> Settings {
    Settings { redirect: Some(redirect), ..settings() }
}

const DEF1: Redirect = Redirect {
    ipv4: true,
    ipv6: false,
    def1: true,
    local: false,
    autolocal: false,
    bypass_dns: false,
    bypass_dhcp: false,
    block_local: false,
};

#[test]
fn the_device_comes_first() {
    let plan = plan(&settings(), &facts());
    let shown: Vec<String> = plan.steps.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["device up, mtu 1500, queue length 64", "address 10.8.0.2/24", "address fd00:8::1000/64"]);
    assert!(plan.notes.is_empty());
}

#[test]
fn routes_go_their_ways() {
    let mut wanted = settings();
    wanted.metric = Some(33);
    wanted.routes = vec![
        route("10.77.1.9/24", Via::Tunnel, None),
        route("10.77.3.0/24", Via::Router(ip("10.8.0.9")), Some(50)),
        route("203.0.113.0/24", Via::Past, None),
        route("fd00:77::/64", Via::Tunnel, None),
        route("fd00:78::/64", Via::Router(ip("fd00:8::5")), Some(70)),
        route("fd00:79::/64", Via::Past, Some(5)),
    ];
    assert_eq!(
        routes(&wanted, &facts()),
        [
            "route 10.77.1.0/24 via 10.8.0.1 dev tun7 metric 33",
            "route 10.77.3.0/24 via 10.8.0.9 metric 50",
            "route 203.0.113.0/24 via 192.0.2.1 dev wire metric 33",
            "route fd00:77::/64 dev tun7 metric 33",
            "route fd00:78::/64 dev tun7 metric 70",
            "route fd00:79::/64 via 2001:db8::1 dev wire metric 5",
        ]
    );
}

#[test]
fn everything_by_two_halves() {
    let shown = routes(&redirected(Redirect { ipv6: true, ..DEF1 }), &facts());
    assert_eq!(
        shown,
        [
            "route 198.51.100.1/32 via 192.0.2.1 dev wire",
            "route 0.0.0.0/1 via 10.8.0.1 dev tun7",
            "route 128.0.0.0/1 via 10.8.0.1 dev tun7",
            "route ::/3 dev tun7",
            "route 2000::/4 dev tun7",
            "route 3000::/4 dev tun7",
            "route fc00::/7 dev tun7",
        ]
    );
}

#[test]
fn everything_in_place_of_the_default_route() {
    let shown = routes(&redirected(Redirect { def1: false, ..DEF1 }), &facts());
    assert_eq!(
        shown,
        ["route 198.51.100.1/32 via 192.0.2.1 dev wire", "remove default", "route 0.0.0.0/0 via 10.8.0.1 dev tun7"]
    );
}

#[test]
fn a_private_redirect_keeps_the_way_to_the_server_only() {
    let shown = routes(&redirected(Redirect { ipv4: false, ..DEF1 }), &facts());
    assert_eq!(shown, ["route 198.51.100.1/32 via 192.0.2.1 dev wire"]);
}

#[test]
fn a_server_nearby_needs_no_route_of_its_own() {
    let mut near = facts();
    near.server = Some(Way { gateway: None, device: "wire".to_owned(), onlink: false });
    let auto = Redirect { autolocal: true, ..DEF1 };
    assert_eq!(routes(&redirected(auto), &near).len(), 2);
    assert_eq!(routes(&redirected(auto), &facts()).len(), 3, "it is not nearby");
    assert_eq!(routes(&redirected(Redirect { local: true, ..DEF1 }), &facts()).len(), 2);
    assert_eq!(routes(&redirected(DEF1), &near)[0], "route 198.51.100.1/32 dev wire");
}

#[test]
fn the_server_stays_reachable_also_when_a_route_would_swallow_it() {
    let mut wanted = settings();
    wanted.routes = vec![route("198.51.0.0/16", Via::Tunnel, None)];
    assert_eq!(routes(&wanted, &facts())[0], "route 198.51.100.1/32 via 192.0.2.1 dev wire");
    wanted.routes = vec![route("198.51.0.0/16", Via::Past, None)];
    assert_eq!(routes(&wanted, &facts()).len(), 1);
    wanted.server = ip("2001:db8:5::1");
    wanted.redirect = Some(Redirect { ipv4: false, ipv6: true, ..DEF1 });
    let shown = routes(
        &wanted,
        &Facts { server: Some(Way { gateway: Some(ip("2001:db8::1")), ..facts().server.unwrap() }), ..facts() },
    );
    assert_eq!(shown[0], "route 2001:db8:5::1/128 via 2001:db8::1 dev wire");
}

#[test]
fn the_local_network_is_blocked_but_for_the_router_and_dns_bypassed() {
    let shown = routes(&redirected(Redirect { block_local: true, bypass_dns: true, ..DEF1 }), &facts());
    assert_eq!(
        shown[1..5],
        [
            "route 203.0.113.53/32 via 192.0.2.1 dev wire",
            "route 192.0.2.1/32 via 192.0.2.1 dev wire",
            "route 192.0.2.0/25 via 10.8.0.1 dev tun7",
            "route 192.0.2.128/25 via 10.8.0.1 dev tun7",
        ]
    );
}

#[test]
fn blocked_ipv6_is_unreachable_and_does_not_leak() {
    let mut wanted = redirected(Redirect { ipv6: true, ..DEF1 });
    wanted.block_ipv6 = true;
    wanted.routes = vec![route("fd00:77::/64", Via::Tunnel, None)];
    let shown = routes(&wanted, &facts());
    let ipv6: Vec<&String> = shown.iter().filter(|route| route.contains("::")).collect();
    assert_eq!(ipv6.len(), 5);
    assert!(ipv6.iter().all(|route| route.starts_with("route unreachable ")), "{ipv6:?}");
    // Also where the server has no IPv6 to offer.
    wanted.addresses.truncate(1);
    assert_eq!(routes(&wanted, &facts()), shown);
}

#[test]
fn pairs_of_addresses_lead_to_the_other_end() {
    let mut wanted = redirected(DEF1);
    wanted.gateway4 = None;
    wanted.addresses = vec![Address { net: net("10.8.0.6/32"), peer: Some(Ipv4Addr::new(10, 8, 0, 5)) }];
    let plan = plan(&wanted, &facts());
    assert_eq!(plan.steps[1].to_string(), "address 10.8.0.6 peer 10.8.0.5");
    assert_eq!(plan.steps[3].to_string(), "route 0.0.0.0/1 via 10.8.0.5 dev tun7");
}

#[test]
fn what_cannot_be_done_is_told() {
    let mut wanted = redirected(Redirect { ipv6: true, bypass_dhcp: true, ..DEF1 });
    wanted.addresses.truncate(1);
    wanted.routes = vec![
        route("192.0.2.0/24", Via::Tunnel, None),
        route("203.0.113.0/24", Via::Past, None),
        route("fd00::/8", Via::Past, None),
    ];
    let nothing = Facts { routes: facts().routes, ..Facts::default() };
    let plan = plan(&wanted, &nothing);
    let notes = plan.notes.join("\n");
    for part in [
        "no way to the server",
        "bypass-dhcp changes nothing",
        "192.0.2.0/24 is there already",
        "no route to 203.0.113.0/24: there is no IPv4 default route",
        "no route to fd00::/8: there is no IPv6 default route",
        "no route to 2000::/4: the server gave no IPv6 address",
    ] {
        assert!(notes.contains(part), "{part} in\n{notes}");
    }
}

proptest! {
    /// Whatever is pushed: packets to the server never enter the tunnel, no destination is set twice, and nothing that
    /// was there is set or taken away but the default route, which is kept.
    #[test]
    fn the_server_is_never_swallowed(
        flags: [bool; 6],
        destinations in prop::collection::vec((any::<u32>(), 0u8..=32, any::<bool>(), prop::option::of(0u32..3)), 0..20),
        server: u32,
        some_metric in prop::option::of(0u32..3),
    ) {
        let [redirect, ipv4, ipv6, def1, block_local, bypass_dns] = flags;
        let mut wanted = settings();
        wanted.server = Ipv4Addr::from(server).into();
        wanted.metric = some_metric;
        wanted.redirect = redirect.then_some(Redirect { ipv4, ipv6, def1, block_local, bypass_dns, ..Redirect::default() });
        wanted.routes = destinations
            .iter()
            .map(|&(address, length, past, metric)| Route {
                destination: Ipv4Net::new(address.into(), length).unwrap().into(),
                via: if past { Via::Past } else { Via::Tunnel },
                metric,
            })
            .collect();
        let facts = facts();
        let plan = plan(&wanted, &facts);
        let mut set = facts.routes.clone();
        let mut bypassed = false;
        for step in &plan.steps {
            match step {
                Step::RemoveDefault(message) => {
                    prop_assert_eq!(message, &[1, 2, 3]);
                    set.remove(&(net("0.0.0.0/0"), 0));
                }
                Step::Route(route) => {
                    let v6 = route.destination.addr().is_ipv6();
                    let metric = route.metric.filter(|&metric| metric > 0).unwrap_or(if v6 { 1024 } else { 0 });
                    prop_assert!(set.insert((route.destination, metric)), "{} twice", route);
                    bypassed |= route.destination == IpNet::from(wanted.server)
                        && route.device.as_deref() == Some("wire");
                }
                Step::Link { .. } | Step::Address(_) => {}
            }
        }
        let itself = wanted.routes.iter().any(|route| route.destination.prefix_len() == 32);
        prop_assert!(!swallows(&wanted, wanted.server) || bypassed || itself);
    }
}
