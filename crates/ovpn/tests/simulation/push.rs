//! What servers push and clients take, and the addresses that go with it.

use std::cell::RefCell;
use std::net::Ipv6Addr;
use std::rc::Rc;

use ovpn::data::Cipher;
use ovpn::drops::DropReason;
use ovpn::endpoint::{EndReason, Endpoint, Event};
use ovpn::key_method2::KeyMethod2;
use ovpn::keys::KeyDerivation;
use ovpn::push::{Configured, FilterAction, PullFilter, PullRules, PushError, PushSet};
use ovpn::server::{BetweenPeers, ServerConfig};

use crate::network::{Edit, Network, SERVER, client_config, listed, packet, server_config};
use crate::{assert_carries, seconds};

const SERVER6: &str = "fd00:8::1";

/// With IPv6 inside, next to IPv4 or alone.
fn with_ipv6(ipv4: bool) -> ServerConfig {
    let mut config = server_config();
    config.network_ipv6 = Some(format!("{SERVER6}/64").parse().unwrap());
    config.pool_ipv6 = Some("fd00:8::1000".parse().unwrap()..="fd00:8::1fff".parse().unwrap());
    if !ipv4 {
        (config.network, config.pool) = (None, None);
    }
    config
}

/// An IPv6 packet of `size` bytes.
fn packet6(source: Ipv6Addr, destination: Ipv6Addr, size: u16) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..size).map(|at| at as u8).collect();
    packet[0] = 0x60;
    packet[4..6].copy_from_slice(&(size - 40).to_be_bytes());
    packet[8..24].copy_from_slice(&source.octets());
    packet[24..40].copy_from_slice(&destination.octets());
    packet
}

fn configured(net: &Network, at: usize) -> Configured {
    let found = net.events[at].iter().rev().find_map(|event| match event {
        Event::Configured(configured) => Some(configured.clone()),
        _ => None,
    });
    found.expect("configured")
}

fn address6(net: &Network, at: usize) -> Ipv6Addr {
    configured(net, at).ipv6.expect("an IPv6 address").address
}

fn drops(net: &Network, reason: DropReason) -> u64 {
    net.server.counters().drops.of(reason)
}

/// Records the messages that go into TLS.
fn recorder() -> (Rc<RefCell<Vec<Vec<u8>>>>, Edit) {
    let said = Rc::new(RefCell::new(Vec::new()));
    let copy = Rc::clone(&said);
    let edit = move |message: Vec<u8>| {
        copy.borrow_mut().push(message.clone());
        vec![message]
    };
    (said, Box::new(edit))
}

fn beginning_with(said: &Rc<RefCell<Vec<Vec<u8>>>>, text: &str) -> Vec<String> {
    let said = said.borrow();
    let fitting = said.iter().filter(|message| message.starts_with(text.as_bytes()));
    fitting.map(|message| String::from_utf8(message.clone()).unwrap()).collect()
}

/// Replaces text in the server's push replies.
fn replacing(from: &'static str, to: &'static str) -> Option<Edit> {
    Some(Box::new(move |message: Vec<u8>| match std::str::from_utf8(&message) {
        Ok(text) if text.starts_with("PUSH_REPLY") => {
            assert!(text.contains(from), "{text}");
            vec![text.replacen(from, to, 1).into_bytes()]
        }
        _ => vec![message],
    }))
}

/// Changes what clients tell about themselves.
fn telling(change: impl Fn(&str) -> String + 'static) -> Option<Edit> {
    Some(Box::new(move |message: Vec<u8>| match KeyMethod2::decode(&message, true) {
        Ok(mut exchange) => {
            exchange.peer_info = change(&exchange.peer_info);
            vec![exchange.encode(true)]
        }
        Err(_) => vec![message],
    }))
}

fn announcing(protocol: u32) -> Option<Edit> {
    telling(move |info| {
        let others = info.lines().filter(|line| !line.starts_with("IV_PROTO="));
        others.map(|line| format!("{line}\n")).collect::<String>() + &format!("IV_PROTO={protocol}\n")
    })
}

#[test]
fn ipv6_is_carried_alone_and_beside_ipv4() {
    for ipv4 in [true, false] {
        let mut net = Network::new(1, with_ipv6(ipv4));
        let clients = ["a", "b"].map(|name| net.add_client(name, client_config()));
        net.run(seconds(2));
        for (at, expected) in clients.into_iter().zip(["fd00:8::1000", "fd00:8::1001"]) {
            let own = address6(&net, at);
            assert_eq!(own, expected.parse::<Ipv6Addr>().unwrap());
            assert_eq!(configured(&net, at).gateway_ipv6, SERVER6.parse().ok());
            let server = SERVER6.parse().unwrap();
            for size in [40, 41, 1280, 1420] {
                let inner = packet6(own, server, size);
                assert_eq!(net.client_sends(at, &inner).as_deref(), Some(inner.as_slice()));
                let inner = packet6(server, own, size);
                assert_eq!(net.server_sends(&inner).as_deref(), Some(inner.as_slice()));
            }
            assert_eq!(configured(&net, at).ipv4.is_some(), ipv4);
            if ipv4 {
                assert_carries(&mut net, at);
            } else {
                let inner = packet("10.8.0.10".parse().unwrap(), SERVER, 60);
                assert_eq!(net.client_sends(at, &inner), None);
            }
        }
        // Foreign sources are dropped; what a host sends to find its neighbours is too, but it is no forgery.
        let (a, b) = (clients[0], address6(&net, clients[1]));
        let before = drops(&net, DropReason::Source);
        assert_eq!(net.client_sends(a, &packet6(b, SERVER6.parse().unwrap(), 60)), None);
        assert_eq!(drops(&net, DropReason::Source), before + 1);
        for of_the_link in ["fe80::1", "::"] {
            assert_eq!(
                net.client_sends(a, &packet6(of_the_link.parse().unwrap(), "ff02::2".parse().unwrap(), 60)),
                None
            );
        }
        assert_eq!((drops(&net, DropReason::Source), drops(&net, DropReason::LinkLocal)), (before + 1, 2));
        assert_eq!(net.server_sends(&packet6(b, "fd00:8::77".parse().unwrap(), 60)), None);
    }
}

#[test]
fn peers_reach_each_other_only_where_that_is_allowed() {
    for between_peers in [BetweenPeers::Drop, BetweenPeers::Forward, BetweenPeers::Host] {
        let mut config = with_ipv6(true);
        config.between_peers = between_peers;
        let mut net = Network::new(2, config);
        let [a, b] = ["a", "b"].map(|name| net.add_client(name, client_config()));
        net.run(seconds(2));
        let inner = [
            packet(net.address(a).unwrap(), net.address(b).unwrap(), 100),
            packet6(address6(&net, a), address6(&net, b), 100),
        ];
        for inner in &inner {
            let device = (between_peers == BetweenPeers::Host).then(|| inner.clone());
            assert_eq!(net.client_sends(a, inner), device, "what leaves by the server's device");
        }
        let forwarded = net.received_by(b);
        let (reach, dropped) = match between_peers {
            BetweenPeers::Drop => (&inner[..0], 2),
            BetweenPeers::Forward => (&inner[..], 0),
            BetweenPeers::Host => (&inner[..0], 0),
        };
        assert_eq!(forwarded, reach);
        assert_eq!(drops(&net, DropReason::PeerToPeer), dropped);
        assert_carries(&mut net, a);
        assert_carries(&mut net, b);
    }
}

#[test]
fn some_peers_are_told_more() {
    let mut config = with_ipv6(true);
    config.push.routes = vec!["10.9.0.0/16".parse().unwrap()];
    let mut home = listed("urn:test:home", "10.8.0.2");
    home.address_ipv6 = "fd00:8::2".parse().ok();
    home.push = PushSet {
        routes: vec!["10.10.0.0/16".parse().unwrap()],
        options: vec!["inactive 100".to_owned()],
        ..PushSet::default()
    };
    let phone = listed("urn:test:phone", "10.8.0.3");
    config.peers = vec![home, phone];
    let mut net = Network::new(3, config);
    let [home, phone, other] = ["home", "phone", "other"].map(|name| net.add_client(name, client_config()));
    net.run(seconds(2));
    let routes =
        |at: usize| configured(&net, at).routes.iter().map(|route| route.prefix.to_string()).collect::<Vec<_>>();
    assert_eq!(routes(home), ["10.9.0.0/16", "10.10.0.0/16"]);
    assert_eq!(configured(&net, home).ignored, ["inactive 100"]);
    assert_eq!((routes(phone), routes(other)), (vec!["10.9.0.0/16".to_owned()], vec!["10.9.0.0/16".to_owned()]));
    let addresses =
        [home, phone, other].map(|at| (net.address(at).unwrap().to_string(), address6(&net, at).to_string()));
    let expected = [("10.8.0.2", "fd00:8::2"), ("10.8.0.3", "fd00:8::1000"), ("10.8.0.10", "fd00:8::1001")];
    assert_eq!(addresses, expected.map(|(ipv4, ipv6)| (ipv4.to_owned(), ipv6.to_owned())));
}

#[test]
fn an_exhausted_pool_says_so_and_gives_out_the_addresses_of_the_dead() {
    let mut config = with_ipv6(true);
    config.pool = Some("10.8.0.10".parse().unwrap()..="10.8.0.11".parse().unwrap());
    let mut net = Network::new(4, config);
    let [a, b] = ["a", "b"].map(|name| net.add_client(name, client_config()));
    net.run(seconds(2));
    let refused = net.add_client("c", client_config());
    net.run(seconds(2));
    let Some(EndReason::RefusedForNow { text, .. }) = net.last_reason(refused) else {
        panic!("{:?}", net.last_reason(refused));
    };
    assert!(text.contains("all addresses or places are taken"), "{text}");
    let full = |event: &Event| matches!(event, Event::HandshakeFailed { reason: EndReason::Full, .. });
    assert!(net.server_events.iter().any(full));

    // A client that dies without a word keeps its address for twice the time of ping-restart, and no longer.
    let address = (net.address(a), address6(&net, a));
    net.forget_client(a);
    net.run(seconds(34));
    assert_eq!(net.server.peers().len(), 2);
    net.run(seconds(10));
    assert_eq!(net.server.peers().len(), 1);
    // Its name gets it again.
    let again = net.add_client("a", client_config());
    net.run(seconds(2));
    assert_eq!((net.address(again), address6(&net, again)), address);
    net.client_shuts_down(again);
    net.run(seconds(1));
    let other = net.add_client("c", client_config());
    net.run(seconds(2));
    assert_eq!(net.address(other), address.0);
    assert_carries(&mut net, b);
    assert_carries(&mut net, other);
}

#[test]
fn a_name_has_its_address_whoever_comes_first() {
    let mut net = Network::new(5, with_ipv6(true));
    let names = ["a", "b", "c"];
    let first = names.map(|name| net.add_client(name, client_config()));
    net.run(seconds(2));
    let addresses = first.map(|at| (net.address(at), address6(&net, at)));
    first.into_iter().for_each(|at| net.client_shuts_down(at));
    net.run(seconds(1));
    let newcomer = net.add_client("d", client_config());
    net.run(seconds(2));
    assert!(!addresses.iter().any(|(address, _)| *address == net.address(newcomer)));
    for at in [2, 0, 1] {
        let again = net.add_client(names[at], client_config());
        net.run(seconds(2));
        assert_eq!((net.address(again), address6(&net, again)), addresses[at]);
    }
}

#[test]
fn a_client_asks_every_five_seconds_and_gives_up() {
    let mut net = Network::new(6, server_config());
    net.edit_server =
        Some(Box::new(|message: Vec<u8>| if message.starts_with(b"PUSH_REPLY") { Vec::new() } else { vec![message] }));
    let (said, edit) = recorder();
    net.edit_client = Some(edit);
    let client = net.add_client("a", client_config());
    for (after, requests) in [(990, 0), (500, 1), (4500, 1), (500, 2), (5000, 3), (5000, 4), (40_000, 12)] {
        net.run(std::time::Duration::from_millis(after));
        assert_eq!(beginning_with(&said, "PUSH_REQUEST\0").len(), requests);
    }
    assert!(!net.has_ended(client));
    net.run(seconds(5));
    assert_eq!(net.last_reason(client), Some(EndReason::HandshakeTimeout));
}

#[test]
fn who_asks_for_a_push_is_told_once_and_who_need_not_ask_does_not() {
    let mut net = Network::new(7, server_config());
    let (asked, edit) = recorder();
    net.edit_client = Some(edit);
    let unasked = net.add_client("a", client_config());
    net.run(seconds(1));
    assert!(net.is_connected(unasked) && beginning_with(&asked, "PUSH_REQUEST").is_empty());

    // One that says nothing about itself asks after a second, and here again and again.
    net.edit_client = Some(Box::new(|message: Vec<u8>| {
        let times = if message == b"PUSH_REQUEST\0" { 5 } else { 1 };
        vec![message; times]
    }));
    let (said, edit) = recorder();
    net.edit_server = Some(edit);
    let mut silent = client_config();
    silent.peer_ids = false;
    let asking = net.add_client("b", silent);
    net.run(std::time::Duration::from_millis(900));
    assert!(!net.is_connected(asking) && beginning_with(&said, "PUSH_REPLY").is_empty());
    net.run(seconds(31));
    assert_eq!(beginning_with(&said, "PUSH_REPLY").len(), 1);
    assert_carries(&mut net, asking);
}

#[test]
fn long_pushes_are_cut_into_records_that_every_peer_can_read() {
    let mut config = server_config();
    config.push.routes = (0..45).map(|at| format!("10.77.{at}.0/24").parse().unwrap()).collect();
    let mut net = Network::new(8, config);
    let (said, edit) = recorder();
    net.edit_server = Some(edit);
    let client = net.add_client("a", client_config());
    net.run(seconds(2));
    assert_eq!(configured(&net, client).routes.len(), 45);
    // One message is one record: the driver gets them one by one.
    let messages = beginning_with(&said, "PUSH_REPLY,");
    assert!(messages.len() > 1);
    for (at, message) in messages.iter().enumerate() {
        assert!(message.len() <= 1024 && message.ends_with('\0') && message.matches('\0').count() == 1, "{message:?}");
        let last = at + 1 == messages.len();
        assert!(message.contains(if last { "push-continuation 1" } else { "push-continuation 2" }), "{message:?}");
    }
    assert_carries(&mut net, client);
}

#[test]
fn key_derivation_alone_means_the_exporter() {
    let mut config = server_config();
    (config.epochs, config.dynamic_tls_crypt) = (false, false);
    let mut net = Network::new(9, config);
    net.edit_server = replacing("protocol-flags cc-exit tls-ekm", "key-derivation tls-ekm");
    let client = net.add_client("a", client_config());
    net.run(seconds(2));
    assert_eq!(net.server.peers()[0].connected.key_derivation, KeyDerivation::Ekm);
    assert_carries(&mut net, client);
}

#[test]
fn a_cipher_outside_of_the_list_is_refused() {
    for (pushed, named) in [("cipher AES-128-GCM", "AES-128-GCM"), ("cipher none", "none"), ("cipher x", "x")] {
        let mut net = Network::new(10, server_config());
        net.edit_server = replacing("cipher AES-256-GCM", pushed);
        let mut config = client_config();
        config.ciphers = vec![Cipher::Aes256Gcm];
        let client = net.add_client("a", config);
        net.run(seconds(2));
        assert_eq!(net.last_reason(client), Some(EndReason::Push(PushError::Cipher(named.to_owned()))));
    }
}

#[test]
fn a_client_is_told_only_of_what_it_announced() {
    let (data_v2, unasked, exporter, cc_exit) = (1 << 1, 1 << 2, 1 << 3, 1 << 7);
    let (dynamic, epochs) = (1 << 9, 1 << 10);
    for choice in 0..64_u32 {
        let bits = [data_v2, unasked, exporter, cc_exit, dynamic, epochs];
        let protocol: u32 = (0..6).filter(|at| choice >> at & 1 == 1).map(|at| bits[at]).sum();
        let mut net = Network::new(11, server_config());
        net.edit_client = announcing(protocol);
        let (said, edit) = recorder();
        net.edit_server = Some(edit);
        net.add_client("a", client_config());
        net.run(seconds(2));
        let pushed = beginning_with(&said, "PUSH_REPLY");
        assert_eq!(pushed.len(), 1, "{protocol}");
        let options: Vec<&str> = pushed[0].trim_end_matches('\0').split(',').collect();
        let has = |bit: u32| protocol & bit != 0;
        let flags = options.iter().find_map(|option| option.strip_prefix("protocol-flags "));
        assert_eq!(flags.is_some(), has(cc_exit), "{protocol}: {options:?}");
        for flag in flags.unwrap_or_default().split(' ').filter(|flag| !flag.is_empty()) {
            let needed = match flag {
                "cc-exit" => cc_exit,
                "tls-ekm" => exporter,
                "dyn-tls-crypt" => dynamic,
                "aead-epoch" => epochs,
                other => panic!("{other}"),
            };
            assert!(has(needed), "{protocol}: {flag}");
        }
        let derivation = options.contains(&"key-derivation tls-ekm");
        assert_eq!(derivation, has(exporter) && !has(cc_exit), "{protocol}: {options:?}");
        let peer_id = options.iter().any(|option| option.starts_with("peer-id "));
        assert_eq!(peer_id, has(data_v2), "{protocol}: {options:?}");
    }
}

#[test]
fn an_mtu_is_pushed_to_those_who_can_take_it() {
    let told = |change: fn(&str) -> String| {
        let mut net = Network::new(12, server_config());
        net.edit_client = telling(change);
        let (said, edit) = recorder();
        net.edit_server = Some(edit);
        let client = net.add_client("a", client_config());
        net.run(seconds(2));
        let pushed = beginning_with(&said, "PUSH_REPLY").concat().contains("tun-mtu 1420");
        (pushed, configured(&net, client).mtu)
    };
    assert_eq!(told(str::to_owned), (true, 1420));
    assert_eq!(told(|info| info.replace("IV_MTU=1600\n", "")), (false, 1500));
    assert_eq!(told(|info| info.replace("IV_MTU=1600\n", "IV_MTU=1419\n")), (false, 1500));

    // A client takes no more than it can.
    let mut config = server_config();
    config.tun_mtu = 1600;
    let mut net = Network::new(12, config);
    let mut small = client_config();
    small.max_mtu = 1500;
    net.edit_client = telling(|info| info.replace("IV_MTU=1500\n", "IV_MTU=1600\n"));
    let client = net.add_client("a", small);
    net.run(seconds(2));
    let configured = configured(&net, client);
    assert_eq!(configured.mtu, 1500);
    assert_eq!(configured.ignored, ["tun-mtu 1600 (larger than 1500, which is used)"]);
}

/// Whether data packets of a client, and of the server to it, carry a peer id.
fn carry_peer_ids(net: &mut Network, at: usize) -> (bool, bool) {
    let address = net.address(at).unwrap();
    let ours = net.client_seals(at, &packet(address, SERVER, 60));
    let theirs = net.server_seals(&packet(SERVER, address, 60));
    assert!(net.deliver_to_server(at, &ours).is_some() && net.deliver_to_client(at, &theirs).is_some());
    (ours[0] >> 3 == 9, theirs[0] >> 3 == 9)
}

#[test]
fn without_a_peer_id_packets_are_of_the_first_format() {
    let mut net = Network::new(13, server_config());
    let mut old = client_config();
    old.peer_ids = false;
    let [new, old] = [("a", client_config()), ("b", old)].map(|(name, config)| net.add_client(name, config));
    net.run(seconds(3));
    assert_eq!(carry_peer_ids(&mut net, new), (true, true));
    assert_eq!(carry_peer_ids(&mut net, old), (false, false));
    let mut config = server_config();
    config.peer_ids = false;
    let mut net = Network::new(13, config);
    let clients = ["a", "b"].map(|name| net.add_client(name, client_config()));
    net.run(seconds(2));
    for at in clients {
        assert_eq!(carry_peer_ids(&mut net, at), (false, false));
        assert_carries(&mut net, at);
    }
}

#[test]
fn a_client_takes_what_its_rules_let_through() {
    let mut config = server_config();
    config.push.routes = vec!["10.9.0.0/16".parse().unwrap()];
    config.push.options = vec!["dhcp-option DNS 10.8.0.1".to_owned()];
    let connect = |pull: PullRules| {
        let mut net = Network::new(14, config.clone());
        let mut client = client_config();
        client.pull = pull;
        let client = net.add_client("a", client);
        net.run(seconds(2));
        (net, client)
    };
    let filter = |action, prefix: &str| PullRules {
        filters: vec![PullFilter { action, prefix: prefix.to_owned() }],
        route_nopull: false,
    };
    let (net, client) = connect(PullRules { route_nopull: true, ..PullRules::default() });
    let told = configured(&net, client);
    assert!(told.routes.is_empty() && told.dns.is_empty() && told.ipv4.is_some() && told.gateway.is_some());
    let (net, client) = connect(filter(FilterAction::Ignore, "route "));
    let told = configured(&net, client);
    assert!(told.routes.is_empty() && !told.dns.is_empty());
    let (net, client) = connect(filter(FilterAction::Reject, "dhcp-option DNS"));
    let rejected = PushError::Rejected("dhcp-option DNS 10.8.0.1".to_owned());
    assert_eq!(net.last_reason(client), Some(EndReason::Push(rejected)));
}
