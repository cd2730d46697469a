//! The data channel: old ciphers, framing of sizes, and what nobody sealed.

use std::time::Duration;

use ovpn::data::Cipher;
use ovpn::endpoint::{EndReason, Endpoint};
use ovpn::keys::KeyDerivation;
use ovpn::protection::AuthDigest;
use ovpn::push::Ipv4Prefix;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use super::network::{Network, SERVER, client_config, is_control, packet, server_config};

#[track_caller]
fn connected(net: &mut Network, config: ovpn::client::ClientConfig) -> usize {
    let client = net.add_client("a", config);
    net.run(Duration::from_secs(3));
    assert!(net.is_connected(client), "{:?}", net.last_reason(client));
    client
}

#[test]
fn cbc_carries_every_size_both_ways() {
    for &cipher in Cipher::CBC {
        for (digest, derivation) in [
            (AuthDigest::Sha1, KeyDerivation::Prf),
            (AuthDigest::Sha256, KeyDerivation::Ekm),
            (AuthDigest::Sha512, KeyDerivation::Ekm),
        ] {
            let (mut server, mut client) = (server_config(), client_config());
            (server.ciphers, server.data.digest, server.key_derivation) = (vec![cipher], digest, derivation);
            (client.ciphers, client.data.digest) = (vec![cipher, Cipher::Aes256Gcm], digest);
            let mut net = Network::new(1, server);
            let client = connected(&mut net, client);
            let address = net.address(client).unwrap();
            assert_eq!(net.server.peers()[0].connected.cipher, cipher);
            for size in 20..=1500 {
                let inner = packet(address, SERVER, size);
                assert_eq!(net.client_sends(client, &inner), Some(inner), "{size}");
                let inner = packet(SERVER, address, size);
                assert_eq!(net.server_sends(&inner), Some(inner), "{size}");
            }
        }
    }
}

#[test]
fn cbc_is_used_only_where_both_name_it() {
    for (ours, theirs) in [(Cipher::ALL, Cipher::CBC), (Cipher::CBC, Cipher::ALL)] {
        let (mut server, mut client) = (server_config(), client_config());
        (server.ciphers, client.ciphers) = (ours.to_vec(), theirs.to_vec());
        let mut net = Network::new(1, server);
        let client = net.add_client("a", client);
        net.run(Duration::from_secs(3));
        assert!(matches!(net.last_reason(client), Some(EndReason::AuthFailed(_))));
    }
}

/// Packets of the control channel keep to the size that is set, headers outside included, however much there is to say.
#[test]
fn control_packets_keep_to_the_size_that_is_set() {
    for size in [154, 600, 1250] {
        let (mut server, mut client) = (server_config(), client_config());
        (server.max_packet_size, client.max_packet_size) = (size, size);
        let route = |at| Ipv4Prefix { address: [10, 77, at, 0].into(), prefix_len: 24 };
        server.push.routes = (0..100).map(route).collect();
        let mut net = Network::new(1, server);
        connected(&mut net, client);
        let control = net.recorded.iter().filter(|datagram| is_control(datagram[0]));
        let largest = control.map(|datagram| datagram.len() + 48).max().unwrap();
        assert!(largest <= size.into(), "{largest} bytes at {size}");
    }
}

/// Ten million data packets that nobody sealed: too short, of unknown keys and peers, or random behind a good beginning.
/// Nothing comes out, and the session goes on.
#[test]
fn ten_million_packets_that_nobody_sealed() {
    let mut net = Network::new(1, server_config());
    let client = connected(&mut net, client_config());
    let address = net.address(client).unwrap();
    let mut rng = StdRng::seed_from_u64(1);
    let mut bytes = [0; 64];
    for _ in 0..5_000_000 {
        rng.fill_bytes(&mut bytes);
        let length = usize::from(bytes[63]) % 61;
        if rng.random_bool(0.75) {
            // The first or second format, mostly under the key and of the peer that are there.
            bytes[0] =
                if bytes[62] & 1 == 0 { 6 << 3 } else { 9 << 3 } | if bytes[62] & 6 == 0 { bytes[0] & 7 } else { 0 };
            if bytes[62] & 24 != 0 {
                bytes[1..4].fill(0);
            }
        }
        // What is no data packet is none for here.
        if is_control(bytes[0]) {
            bytes[0] = 9 << 3;
        }
        assert_eq!(net.deliver_to_server(client, &bytes[..length]), None);
        assert_eq!(net.deliver_to_client(client, &bytes[..length]), None);
    }
    let inner = packet(address, SERVER, 100);
    assert_eq!(net.client_sends(client, &inner), Some(inner));
    let inner = packet(SERVER, address, 100);
    assert_eq!(net.server_sends(&inner), Some(inner));
    assert!(net.server.counters().drops.iter().map(|(_, count)| count).sum::<u64>() >= 5_000_000);
}
