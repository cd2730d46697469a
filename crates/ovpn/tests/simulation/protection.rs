//! Control channels under tls-auth and tls-crypt-v2.

use std::time::Duration;

use ovpn::drops::DropReason;
use ovpn::endpoint::{EndReason, Endpoint};
use ovpn::packet::{ControlBody, Opcode};
use ovpn::protection::{AuthDigest, ClientProtection, KeyDirection, ServerProtection, ServerV2, SharedKey, TlsAuth};
use ovpn::static_key::StaticKey;
use ovpn::tls_crypt_v2::{Metadata, ServerKey};
use ovpn::underlay::Underlay;
use ovpn::wrap::{Role, WrapKeys};

use crate::network::{Fault, Network, client_config, server_config, shared_key};
use crate::{assert_carries, seconds};

/// When the simulated server was made, seconds since 1970.
const STARTED: i64 = 1_700_000_000;

fn network(server: ServerProtection) -> Network {
    let mut config = server_config();
    config.protection = server;
    config.renewal.after = seconds(10);
    Network::new(40, config)
}

fn add(net: &mut Network, name: &str, protection: ClientProtection) -> usize {
    net.add_client(name, ovpn::client::ClientConfig { protection, ..client_config() })
}

fn server_key() -> ServerKey {
    ServerKey::from_bytes(std::array::from_fn(|at| at as u8 ^ 0x5a))
}

pub(crate) fn v2(max_age: Option<Duration>, beside: Option<SharedKey>) -> ServerProtection {
    ServerProtection::TlsCryptV2(ServerV2 {
        key: server_key(),
        older: Vec::new(),
        max_age,
        allow_noncookie: false,
        beside,
    })
}

pub(crate) fn client_key(mark: u8, metadata: &Metadata) -> ClientProtection {
    ClientProtection::TlsCryptV2(server_key().issue(StaticKey::from_bytes([mark; 256]), metadata).unwrap())
}

#[test]
fn tls_auth_in_every_form() {
    let key = StaticKey::from_bytes(std::array::from_fn(|at| at as u8));
    let auth = |direction, digest| SharedKey::TlsAuth(TlsAuth { key: key.clone(), direction, digest });
    for digest in [AuthDigest::Sha1, AuthDigest::Sha256, AuthDigest::Sha512] {
        for (ours, theirs) in [(None, None), (Some(KeyDirection::Zero), Some(KeyDirection::One))] {
            let mut net = network(ServerProtection::Shared(auth(ours, digest)));
            let client = add(&mut net, "a", ClientProtection::Shared(auth(theirs, digest)));
            net.run(seconds(25));
            assert_carries(&mut net, client);
            assert_eq!(net.server.counters().renewals_completed, 2);
        }
    }
    let mut net = network(ServerProtection::Shared(auth(Some(KeyDirection::Zero), AuthDigest::Sha1)));
    let same_direction = ClientProtection::Shared(auth(Some(KeyDirection::Zero), AuthDigest::Sha1));
    let other_digest = ClientProtection::Shared(auth(Some(KeyDirection::One), AuthDigest::Sha256));
    for wrong in [same_direction, other_digest] {
        let client = add(&mut net, "a", wrong);
        net.run(seconds(11));
        assert_eq!(net.last_reason(client), Some(EndReason::NoAnswer));
    }
}

#[test]
fn tls_crypt_v2_shows_the_key_twice_and_no_more() {
    let mut net = network(v2(None, None));
    let client = add(&mut net, "a", client_key(1, &Metadata::User(vec![7; 733])));
    net.run(seconds(25));
    assert_carries(&mut net, client);
    assert_eq!(net.server.counters().renewals_completed, 2);
    let from_client = net.recorded.iter().map(|datagram| datagram[0]).filter(|first| first >> 3 != 8);
    let first: Vec<u8> = from_client.take(2).collect();
    assert_eq!(first, [0x50, 0x58]);
    assert_eq!(net.recorded.iter().filter(|datagram| matches!(datagram[0] >> 3, 10 | 11)).count(), 2);
    // Another client with a key of its own.
    let other = add(&mut net, "b", client_key(2, &Metadata::Timestamp(STARTED)));
    net.run(seconds(2));
    assert_carries(&mut net, other);
    assert_carries(&mut net, client);
}

#[test]
fn tls_crypt_v2_gets_through_loss() {
    let mut net = network(v2(None, None));
    net.fault = Fault { loss: 0.2, repeat: 0.2, delay: Duration::from_millis(100), ..Fault::default() };
    let clients: Vec<usize> =
        (0..10).map(|at| add(&mut net, &format!("c{at}"), client_key(at, &Metadata::Other))).collect();
    net.run(seconds(60));
    net.fault = Fault::default();
    net.run(seconds(5));
    let connected: Vec<usize> = clients.into_iter().filter(|&at| net.is_connected(at)).collect();
    assert!(connected.len() >= 8, "only {} of 10", connected.len());
    for at in connected {
        assert_carries(&mut net, at);
    }
}

#[test]
fn tls_crypt_v2_stands_beside_a_shared_key() {
    let mut net = network(v2(None, Some(shared_key())));
    let own = add(&mut net, "a", client_key(1, &Metadata::Other));
    let shared = add(&mut net, "b", ClientProtection::Shared(shared_key()));
    let none = add(&mut net, "c", ClientProtection::None);
    net.run(seconds(11));
    assert_carries(&mut net, own);
    assert_carries(&mut net, shared);
    assert_eq!(net.last_reason(none), Some(EndReason::NoAnswer));
    let mut net = network(v2(None, None));
    let shared = add(&mut net, "b", ClientProtection::Shared(shared_key()));
    net.run(seconds(11));
    assert_eq!(net.last_reason(shared), Some(EndReason::NoAnswer));
}

#[test]
fn keys_that_are_too_old_or_of_another_server_get_no_session() {
    let mut net = network(v2(Some(seconds(3600)), None));
    let young = add(&mut net, "young", client_key(1, &Metadata::Timestamp(STARTED - 3000)));
    let old = add(&mut net, "old", client_key(2, &Metadata::Timestamp(STARTED - 4000)));
    let ageless = add(&mut net, "ageless", client_key(3, &Metadata::User(Vec::new())));
    let other = ServerKey::from_bytes([1; 128]).issue(StaticKey::from_bytes([4; 256]), &Metadata::Timestamp(STARTED));
    let foreign = add(&mut net, "foreign", ClientProtection::TlsCryptV2(other.unwrap()));
    net.run(seconds(12));
    assert_carries(&mut net, young);
    for refused in [old, ageless, foreign] {
        assert!(!net.is_connected(refused));
    }
    assert!(net.server.counters().drops.of(DropReason::KeyAge) >= 2);
    assert!(net.server.counters().drops.of(DropReason::Wrap) >= 2);
    assert_eq!(net.server.counters().handshakes_failed, 0);
    // Time goes on: a key that was good is not good for ever.
    net.run(seconds(600));
    let late = add(&mut net, "late", client_key(5, &Metadata::Timestamp(STARTED - 3000)));
    net.run(seconds(12));
    assert!(!net.is_connected(late));
}

#[test]
fn wrapped_keys_with_impossible_lengths_are_dropped() {
    let mut net = network(v2(None, None));
    let client = add(&mut net, "a", client_key(1, &Metadata::Other));
    net.run(seconds(2));
    let recorded: Vec<Vec<u8>> = net.recorded.iter().filter(|datagram| datagram[0] >> 3 == 10).cloned().collect();
    let sent = net.recorded.len();
    let from = ovpn::underlay::Underlay::udp("203.0.113.7:1000".parse().unwrap());
    for length in [0u16, 1, 2, 289, 290, 1025, 0xffff] {
        let mut forged = recorded[0].clone();
        let at = forged.len() - 2;
        forged[at..].copy_from_slice(&length.to_be_bytes());
        if length != 290 {
            assert_eq!(net.deliver_to_server_from(from, &forged), None);
        }
        for size in 0..60 {
            assert_eq!(
                net.deliver_to_server_from(from, &[&[0x50], &vec![1; size][..], &length.to_be_bytes()].concat()),
                None
            );
        }
    }
    net.run(Duration::from_millis(100));
    assert_eq!(net.recorded.len(), sent, "nothing is answered");
    assert_carries(&mut net, client);
}

/// A client of before 2.6, of which the vectors have a session: no answer unless it is allowed, and then no question for
/// its key.
#[test]
fn clients_that_cannot_send_their_key_again_are_served_only_when_allowed() {
    let file: serde_json::Value = serde_json::from_str(include_str!("../vectors/tls_crypt_v2.json")).unwrap();
    let hex = |value: &serde_json::Value| -> Vec<u8> {
        let text = value.as_str().unwrap();
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    };
    let key = ServerKey::parse(file["server_key_file_text"].as_str().unwrap()).unwrap();
    let from = Underlay::udp("203.0.113.7:1000".parse().unwrap());
    for allow_noncookie in [false, true] {
        let key = key.clone();
        let mut net = network(ServerProtection::TlsCryptV2(ServerV2 {
            key,
            older: Vec::new(),
            max_age: None,
            allow_noncookie,
            beside: None,
        }));
        for _ in 0..2 {
            assert_eq!(net.deliver_to_server_from(from, &hex(&file["session_no_early"][0]["wire"])), None);
            net.run(Duration::from_millis(100));
        }
        if !allow_noncookie {
            assert!(net.recorded.is_empty());
            continue;
        }
        let client = StaticKey::from_bytes(hex(&file["clients"][0]["Kc"]).try_into().unwrap());
        let mut reset = net.recorded[0].clone();
        let opened = WrapKeys::new(Role::Client, Some(&client)).open(&mut reset).unwrap();
        let body = ControlBody::decode(Opcode::HardResetServer, opened.body).unwrap();
        assert_eq!((body.acks.as_slice(), body.message_id, body.payload), (&[0][..], Some(0), &[][..]));
        assert_eq!(net.recorded[0][0], 0x40);
        net.run(seconds(70));
        assert_eq!(net.server.counters().handshakes_failed, 1);
    }
}
