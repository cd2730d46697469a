//! What wear does to a session.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::{Desk, Live, Terms};
use crate::channel::ControlChannel;
use crate::data::{Cipher, DataSettings, Framing, KeyExhausted, OVERHEAD};
use crate::endpoint::{Counters, Identity, Keepalive, RenewalLimits};
use crate::keys::{KeyBlock, KeyDerivation};
use crate::packet::{Header, Opcode, SessionId};
use crate::protection::ClientProtection;
use crate::underlay::Underlay;
use crate::wrap::Role;

fn live(now: Instant, role: Role, cipher: Cipher) -> Live {
    let terms = Terms {
        role,
        peer: 0,
        identity: Identity::default(),
        sends_peer_id: Some(0),
        cipher,
        framing: Framing::None,
        data: DataSettings::default(),
        remote: Underlay::udp("192.0.2.1:1194".parse().unwrap()),
        epochs: false,
        derivation: KeyDerivation::Ekm,
        options: String::new(),
        credentials: None,
        peer_info: String::new(),
        limits: RenewalLimits::default(),
        path_mtu: false,
    };
    let keepalive = Keepalive { ping: Duration::ZERO, ping_restart: Duration::ZERO };
    Live::new(now, terms, &KeyBlock::from_exporter([7; 256]), keepalive, &mut StdRng::seed_from_u64(1)).unwrap()
}

/// Does what is due, and gives the first bytes of what goes out then.
fn sent(now: Instant, live: &mut Live, channel: &mut ControlChannel) -> Vec<Header> {
    let (mut tls, mut events, mut counters) = (VecDeque::new(), VecDeque::new(), Counters::default());
    let rng = &mut StdRng::seed_from_u64(2);
    let mut desk = Desk { channel, tls: &mut tls, rng, events: &mut events, counters: &mut counters };
    assert!(live.handle_timeout(now, &mut desk).is_none());
    let (mut out, mut headers) = (Vec::new(), Vec::new());
    while channel.poll_transmit(now, &mut out) {
        headers.push(Header::decode(out[0]).unwrap());
    }
    headers
}

/// Near the last packet id a soft reset goes out, once, and data goes on; after the last id nothing is sealed any more.
#[test]
fn a_key_near_its_last_packet_id_is_renewed_and_never_wraps() {
    let soft_reset = Header { opcode: Opcode::SoftReset, key_id: 1 };
    for role in [Role::Client, Role::Server] {
        for cipher in [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305, Cipher::Aes256Cbc] {
            let now = Instant::now();
            let mut live = live(now, role, cipher);
            let mut channel = ControlChannel::client(0, now, SessionId([1; 8]), &ClientProtection::None, 0);
            // The reset of the session itself.
            sent(now, &mut live, &mut channel);
            let seal = |live: &mut Live| live.seal(now, &mut [0x45; 40], &mut [0; 40 + OVERHEAD]).map(drop);

            live.keys[0].channel.preset(0xff00_0000 - 2);
            seal(&mut live).unwrap();
            assert!(!live.is_renewal_due(now));
            assert_eq!(sent(now, &mut live, &mut channel), []);
            seal(&mut live).unwrap();
            assert!(live.is_renewal_due(now));
            assert_eq!(sent(now, &mut live, &mut channel), [soft_reset]);
            seal(&mut live).unwrap();
            assert_eq!(sent(now, &mut live, &mut channel), []);

            live.keys[0].channel.preset(u32::MAX);
            seal(&mut live).unwrap();
            assert_eq!(seal(&mut live), Err(KeyExhausted));
            assert_eq!(live.message(now, b"ping"), Err(KeyExhausted));
        }
    }
}
