//! Both roles in one thread, with a clock that only moves when told, a network that loses, repeats and reorders, and a
//! byte pipe in place of TLS.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod auth;
mod data;
mod float;
mod histories;
mod network;
mod path_mtu;
mod probes;
mod protection;
mod push;
mod renewal;
mod replacement;

use std::time::Duration;

use network::{Fault, Network, SERVER, client_config, identity, packet, server_config};
use ovpn::data::Cipher;
use ovpn::drops::DropReason;
use ovpn::endpoint::{EndReason, Endpoint, Event};
use ovpn::keys::KeyDerivation;
use ovpn::protection::{ClientProtection, ServerProtection, SharedKey};
use ovpn::static_key::StaticKey;
use ovpn::tls_crypt_v2::Metadata;
use proptest::prelude::*;

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Data goes both ways between the server and client `at`.
#[track_caller]
fn assert_carries(net: &mut Network, at: usize) {
    let address = net.address(at).expect("connected");
    for (size, to_server) in [(20, true), (1400, false), (700, true), (21, false)] {
        let inner = if to_server { packet(address, SERVER, size) } else { packet(SERVER, address, size) };
        let got = if to_server { net.client_sends(at, &inner) } else { net.server_sends(&inner) };
        assert_eq!(got.as_deref(), Some(inner.as_slice()));
    }
}

#[test]
fn connects_and_carries() {
    for (cipher, derivation) in [
        (Cipher::Aes256Gcm, KeyDerivation::Ekm),
        (Cipher::Aes128Gcm, KeyDerivation::Prf),
        (Cipher::ChaCha20Poly1305, KeyDerivation::Ekm),
    ] {
        let mut config = client_config();
        (config.ciphers, config.key_derivation) = (vec![cipher], derivation);
        let mut net = Network::new(1, server_config());
        let client = net.add_client("a", config);
        net.run(seconds(2));
        let peers = net.server.peers();
        assert_eq!((peers.len(), peers[0].connected.cipher), (1, cipher));
        assert_eq!(peers[0].connected.key_derivation, derivation);
        assert!(matches!(net.events[client].as_slice(), [Event::Configured(_), Event::Connected(_)]));
        assert_carries(&mut net, client);
    }
}

#[test]
fn gets_through_a_network_that_loses_40_percent() {
    let mut attempts = 0;
    for seed in 0..40 {
        let mut net = Network::new(seed, server_config());
        net.fault = Fault { loss: 0.4, repeat: 0.1, delay: Duration::from_millis(150), ..Fault::default() };
        let client = (0..10)
            .find_map(|_| {
                attempts += 1;
                let client = net.add_client("a", client_config());
                net.run_until(seconds(75), |net| net.has_ended(client) || net.is_connected(client));
                net.is_connected(client).then_some(client)
            })
            .unwrap_or_else(|| panic!("seed {seed}: ten attempts failed"));
        net.run(seconds(20));
        net.fault = Fault::default();
        net.run(seconds(1));
        assert_eq!(net.server.peers().len(), 1, "seed {seed}");
        assert_carries(&mut net, client);
    }
    assert!(attempts < 100, "{attempts} attempts for 40 connections");
}

#[test]
fn a_new_session_replaces_the_old_one_only_when_it_is_authenticated() {
    let mut net = Network::new(3, server_config());
    let live = net.add_client("a", client_config());
    net.run(seconds(2));
    // Somebody with the control channel's key sends from the same address but cannot finish TLS.
    let spoof = net.add_client("mute", client_config());
    net.share_address(spoof, live);
    net.run(seconds(5));
    assert_carries(&mut net, live);
    net.run(seconds(60));
    assert_eq!(net.server.counters().handshakes_failed, 1);
    assert_carries(&mut net, live);
    // The same identity elsewhere does replace it, and gets the same address.
    let old_address = net.address(live);
    let newer = net.add_client("a", client_config());
    net.run(seconds(2));
    assert!(
        net.server_events
            .iter()
            .any(|event| { matches!(event, Event::Disconnected { reason: EndReason::Replaced, .. }) })
    );
    assert_eq!((net.server.peers().len(), net.address(newer)), (1, old_address));
    assert_carries(&mut net, newer);
}

#[test]
fn a_session_over_tcp_ends_with_its_connection_and_disturbs_no_other() {
    let mut net = Network::new(4, server_config());
    let datagrams = net.add_client("a", client_config());
    let stream = net.add_client_over_tcp("b", client_config());
    // Cut off in the middle of the handshake, it leaves nothing behind.
    let early = net.add_client_over_tcp("c", client_config());
    net.run(Duration::from_millis(17));
    assert!(net.server.needs(net.client_place(early)));
    net.close(early);
    assert!(!net.server.needs(net.client_place(early)));
    assert_eq!(net.last_reason(early), None, "polled later");
    net.run(seconds(2));
    assert_eq!(net.last_reason(early), Some(EndReason::ConnectionClosed));
    assert_eq!(net.server.peers().len(), 2);
    for at in [datagrams, stream] {
        assert_carries(&mut net, at);
    }
    assert_eq!(net.server.peers()[1].connected.remote, net.client_place(stream));

    // A stream never floats: what it carries comes from where its session is, or not at all.
    let address = net.address(stream).unwrap();
    let sealed = net.client_seals(stream, &packet(address, SERVER, 100));
    assert!(net.deliver_to_server(datagrams, &sealed).is_none());
    let address = net.address(datagrams).unwrap();
    let sealed = net.client_seals(datagrams, &packet(address, SERVER, 100));
    assert!(net.deliver_to_server(stream, &sealed).is_none());

    net.close(stream);
    net.run(seconds(1));
    assert!(net.has_ended(stream) && !net.server.needs(net.client_place(stream)));
    assert_eq!(net.server.peers().len(), 1);
    assert_carries(&mut net, datagrams);
    // Its address inside is free again.
    let again = net.add_client_over_tcp("b", client_config());
    net.run(seconds(2));
    assert_eq!(net.address(again), net.address(stream));
    assert_carries(&mut net, again);
}

#[test]
fn listed_peers_have_their_address_and_others_the_pool() {
    let mut config = server_config();
    config.peers = vec![network::listed("urn:test:home", "10.8.0.2")];
    let mut net = Network::new(4, config.clone());
    let clients = ["x", "home", "y"].map(|name| net.add_client(name, client_config()));
    net.run(seconds(2));
    let addresses = clients.map(|at| net.address(at).unwrap().to_string());
    assert_eq!(addresses, ["10.8.0.10", "10.8.0.2", "10.8.0.11"]);
    for client in clients {
        assert_carries(&mut net, client);
    }
    config.pool = None;
    let mut net = Network::new(4, config);
    let (home, other) = (net.add_client("home", client_config()), net.add_client("x", client_config()));
    net.run(seconds(2));
    assert!(net.is_connected(home));
    assert!(matches!(net.last_reason(other), Some(EndReason::AuthFailed(_))));
    let failed = |event: &Event| matches!(event, Event::HandshakeFailed { reason: EndReason::NotListed, .. });
    assert!(net.server_events.iter().any(failed));
}

#[test]
fn refuses_what_it_has_no_cipher_or_place_for() {
    let mut config = server_config();
    config.ciphers = vec![Cipher::ChaCha20Poly1305];
    config.max_peers = 1;
    let mut net = Network::new(5, config);
    let mut other = client_config();
    other.ciphers = vec![Cipher::Aes256Gcm];
    let (first, other) = (net.add_client("a", client_config()), net.add_client("b", other));
    net.run(seconds(2));
    assert!(net.is_connected(first));
    assert_eq!(net.last_reason(other), Some(EndReason::AuthFailed("no shared data cipher".to_owned())));
    let third = net.add_client("c", client_config());
    net.run(seconds(2));
    assert!(matches!(net.last_reason(third), Some(EndReason::RefusedForNow { .. })));
    assert_carries(&mut net, first);
    net.run(seconds(10));
    assert_eq!(net.server.counters().handshakes_failed, 2);
}

#[test]
fn goodbyes_take_effect_at_once() {
    let mut net = Network::new(6, server_config());
    let clients = ["a", "b"].map(|name| net.add_client(name, client_config()));
    net.run(seconds(2));
    net.client_shuts_down(clients[0]);
    net.run(Duration::from_millis(500));
    assert!(net.client_is_flushed(clients[0]));
    assert_eq!(net.server.peers().len(), 1);
    net.server_shuts_down();
    net.run(Duration::from_millis(500));
    assert!(net.server.is_flushed());
    assert_eq!(net.last_reason(clients[1]), Some(EndReason::PeerExit));
}

#[test]
fn pings_keep_alive_and_silence_ends() {
    let mut net = Network::new(7, server_config());
    let client = net.add_client("a", client_config());
    net.run(seconds(300));
    assert_carries(&mut net, client);
    net.fault.loss = 1.0;
    net.run(seconds(21));
    assert_eq!(net.last_reason(client), Some(EndReason::PingTimeout));
    assert_eq!(net.server.peers().len(), 1);
    net.run(seconds(20));
    assert!(net.server.peers().is_empty(), "the server waits twice as long");
    let ended = |event: &Event| matches!(event, Event::Disconnected { reason: EndReason::PingTimeout, .. });
    assert!(net.server_events.iter().any(ended));
}

#[test]
fn inner_addresses_and_replays_are_checked() {
    let mut net = Network::new(8, server_config());
    let clients = ["a", "b"].map(|name| net.add_client(name, client_config()));
    net.run(seconds(2));
    let [a, b] = clients.map(|at| net.address(at).unwrap());
    let drops = |net: &Network, reason| net.server.counters().drops.of(reason);

    assert_eq!(net.client_sends(clients[0], &packet(b, SERVER, 60)), None);
    assert_eq!(drops(&net, DropReason::Source), 1);
    assert_eq!(net.server_sends(&packet(SERVER, "10.8.0.99".parse().unwrap(), 60)), None);
    assert_eq!(drops(&net, DropReason::NoRoute), 1);
    let mut ipv6 = packet(a, SERVER, 60);
    ipv6[0] = 0x60;
    assert_eq!(net.server_sends(&ipv6), None);

    let sealed = net.client_seals(clients[0], &packet(a, SERVER, 60));
    assert!(net.deliver_to_server(clients[0], &sealed).is_some());
    assert!(net.deliver_to_server(clients[0], &sealed).is_none());
    assert_eq!(drops(&net, DropReason::Replay), 1);
    let sealed = net.client_seals(clients[0], &packet(a, SERVER, 60));
    assert!(net.deliver_to_server(clients[1], &sealed).is_none(), "from another peer's address");
    assert_eq!(drops(&net, DropReason::UnknownPeer), 1);
    let mut other_key = net.client_seals(clients[0], &packet(a, SERVER, 60));
    other_key[0] |= 1;
    assert!(net.deliver_to_server(clients[0], &other_key).is_none());
    assert_eq!(drops(&net, DropReason::UnknownKey), 1);
    clients.iter().for_each(|&at| assert_carries(&mut net, at));
}

#[test]
fn another_wrapping_key_gets_no_answer() {
    let mut net = Network::new(9, server_config());
    let mut config = client_config();
    config.protection = ClientProtection::Shared(SharedKey::TlsCrypt(StaticKey::from_bytes([9; 256])));
    let client = net.add_client("a", config);
    net.run(seconds(11));
    assert_eq!(net.last_reason(client), Some(EndReason::NoAnswer));
    assert!(net.server.counters().drops.of(DropReason::Wrap) >= 4);
    assert_eq!(net.server.counters().handshakes_failed, 0);
    // Without wrapping at all on both sides it does connect.
    let (mut server, mut config) = (server_config(), client_config());
    (server.protection, config.protection) = (ServerProtection::None, ClientProtection::None);
    let mut net = Network::new(9, server);
    let client = net.add_client("a", config);
    net.run(seconds(2));
    assert_carries(&mut net, client);
}

#[test]
fn first_packets_and_handshakes_in_progress_are_bounded() {
    let mut config = server_config();
    config.max_handshakes = 8;
    let mut net = Network::new(10, config);
    for _ in 0..20 {
        net.add_client("mute", client_config());
    }
    net.run(seconds(5));
    assert!(net.server.counters().drops.of(DropReason::HandshakeLimit) > 0);
    net.run(seconds(70));
    assert!(net.server.counters().handshakes_failed >= 8);
    for _ in 0..150 {
        net.add_client("mute", client_config());
    }
    net.run(Duration::from_millis(900));
    assert_eq!(net.server.counters().drops.of(DropReason::InitialRate), 50);
    // It serves on when the storm is over.
    net.forget_clients();
    net.run(seconds(90));
    let client = net.add_client("a", client_config());
    net.run(seconds(2));
    assert_carries(&mut net, client);
}

#[test]
fn exchange_is_refused_for_failed_tls() {
    let mut net = Network::new(11, server_config());
    let client = net.add_client("bad", client_config());
    net.run(seconds(2));
    assert_eq!(net.last_reason(client), Some(EndReason::Tls("refused".to_owned())));
    let failed = |event: &Event| matches!(event, Event::HandshakeFailed { reason: EndReason::Tls(_), .. });
    assert!(net.server_events.iter().any(failed));
    assert_eq!(identity("bad").common_name, "bad");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever comes from the network, nothing panics, nothing is carried, and who is connected stays so.
    #[test]
    fn hostile_datagrams_change_nothing(
        noise in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..200), 0u8..12), 0..60),
        flips in proptest::collection::vec((any::<usize>(), 1u8..), 0..60),
        mode in 0..3,
    ) {
        let (mut server, mut config) = (server_config(), client_config());
        let wrapped = mode > 0;
        match mode {
            0 => (server.protection, config.protection) = (ServerProtection::None, ClientProtection::None),
            1 => {}
            _ => {
                server.protection = protection::v2(None, None);
                config.protection = protection::client_key(1, &Metadata::Other);
            }
        }
        let mut net = Network::new(12, server);
        let client = net.add_client("a", config);
        net.run(seconds(2));
        for (mut bytes, opcode) in noise {
            if let Some(first) = bytes.first_mut() {
                *first = opcode << 3 | *first & 1;
            }
            prop_assert!(net.deliver_to_server(client, &bytes).is_none());
            prop_assert!(net.deliver_to_client(client, &bytes).is_none());
        }
        let recorded = net.recorded.clone();
        for (at, flip) in flips {
            let mut bytes = recorded[at % recorded.len()].clone();
            let place = 9 + at % (bytes.len() - 9).max(1);
            if let Some(byte) = bytes.get_mut(place) {
                *byte ^= flip;
            }
            prop_assert!(net.deliver_to_server(client, &bytes).is_none());
            prop_assert!(net.deliver_to_client(client, &bytes).is_none());
        }
        if wrapped {
            assert_carries(&mut net, client);
        }
    }
}
