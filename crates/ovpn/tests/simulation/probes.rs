//! What strangers send: packets made by hand against one end, which is looked at from outside.

use std::time::{Duration, Instant};

use ovpn::client::{Client, ClientConfig};
use ovpn::drops::DropReason;
use ovpn::endpoint::{EndReason, Endpoint, Event, TlsInput};
use ovpn::packet::{Acks, ControlBody, Header, Opcode, SessionId};
use ovpn::protection::{AuthDigest, ClientProtection, ServerProtection, SharedKey, TlsAuth};
use ovpn::server::Server;
use ovpn::static_key::StaticKey;
use ovpn::tls_crypt_v2::Metadata;
use ovpn::underlay::Underlay;
use ovpn::wrap::{Role, WrapKeys};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::network::{Network, client_config, server_config, shared_key};
use crate::protection::{client_key, v2};
use crate::{assert_carries, seconds};

const UNIX_TIME: u32 = 1_700_000_000;
/// Replay ids of a client that can send its wrapped key again begin behind this.
const EARLY_NEGOTIATION: u32 = 0x0f00_0000;

fn auth() -> SharedKey {
    SharedKey::TlsAuth(TlsAuth { key: StaticKey::from_bytes([3; 256]), direction: None, digest: AuthDigest::Sha256 })
}

/// Without wrapping, tls-auth, tls-crypt, tls-crypt-v2.
fn modes() -> [(ServerProtection, ClientProtection); 4] {
    [
        (ServerProtection::None, ClientProtection::None),
        (ServerProtection::Shared(auth()), ClientProtection::Shared(auth())),
        (ServerProtection::Shared(shared_key()), ClientProtection::Shared(shared_key())),
        (v2(None, None), client_key(1, &Metadata::Other)),
    ]
}

fn rng(seed: u64) -> Box<StdRng> {
    Box::new(StdRng::seed_from_u64(seed))
}

fn place(port: u16) -> Underlay {
    Underlay::udp(([198, 51, 100, 7], port).into())
}

/// One end's hand on the wrapping.
struct Hand {
    keys: WrapKeys,
    /// The wrapped key, with tls-crypt-v2.
    wrapped: Vec<u8>,
    id: SessionId,
    replay: u32,
}

impl Hand {
    fn client(protection: &ClientProtection, id: u8) -> Self {
        let (keys, wrapped, replay) = match protection {
            ClientProtection::None => (WrapKeys::new(Role::Client, None), Vec::new(), 0),
            ClientProtection::Shared(shared) => (WrapKeys::shared(Role::Client, shared), Vec::new(), 0),
            ClientProtection::TlsCryptV2(key) => {
                (WrapKeys::new(Role::Client, Some(key.key())), key.wrapped().to_vec(), EARLY_NEGOTIATION)
            }
        };
        Self { keys, wrapped, id: SessionId([id; 8]), replay }
    }

    fn server(shared: &SharedKey, id: u8) -> Self {
        let keys = WrapKeys::shared(Role::Server, shared);
        Self { keys, wrapped: Vec::new(), id: SessionId([id; 8]), replay: 0 }
    }

    fn packet(&mut self, opcode: Opcode, key_id: u8, body: &ControlBody<'_>) -> Vec<u8> {
        self.replay += 1;
        let (mut clear, mut out) = (Vec::new(), Vec::new());
        body.encode(&mut clear);
        self.keys.seal(Header { opcode, key_id }, self.id, (UNIX_TIME, self.replay), &clear, &mut out).unwrap();
        if matches!(opcode, Opcode::HardResetClientV3 | Opcode::ControlWkc) {
            out.extend_from_slice(&self.wrapped);
        }
        out
    }

    fn reset(&mut self) -> Vec<u8> {
        let opcode = if self.wrapped.is_empty() { Opcode::HardResetClient } else { Opcode::HardResetClientV3 };
        self.packet(opcode, 0, &body(None, Some(0)))
    }

    /// The opcode of the packet that shows the cookie and TLS bytes.
    fn control(&self) -> Opcode {
        if self.wrapped.is_empty() { Opcode::Control } else { Opcode::ControlWkc }
    }

    /// Who sent `reply`, and its body.
    fn open(&self, reply: &[u8]) -> (SessionId, Vec<u8>) {
        let mut reply = reply.to_vec();
        let opened = self.keys.open(&mut reply).unwrap();
        (opened.sender, opened.body.to_vec())
    }
}

/// A body that acknowledges message 0 of `peer`, or nothing.
fn body(peer: Option<SessionId>, message_id: Option<u32>) -> ControlBody<'static> {
    let mut acks = Acks::default();
    if peer.is_some() {
        acks.push(0);
    }
    ControlBody { acks, ack_session: peer, message_id, payload: &[] }
}

/// A server that nobody but the test talks to.
struct Target {
    server: Server,
    now: Instant,
}

impl Target {
    fn new(protection: ServerProtection) -> Self {
        let (now, config) = (Instant::now(), ovpn::server::ServerConfig { protection, ..server_config() });
        Self { server: Server::new(config, now, UNIX_TIME, rng(1)), now }
    }

    /// What is sent in answer to a datagram.
    fn answers(&mut self, from: Underlay, datagram: &[u8]) -> Vec<Vec<u8>> {
        let _ = self.server.handle_datagram(self.now, from, &mut datagram.to_vec());
        let (mut answers, mut out) = (Vec::new(), Vec::new());
        while let Some(to) = self.server.poll_transmit(self.now, &mut out) {
            assert_eq!(to, from);
            answers.push(out.clone());
        }
        answers
    }

    /// The cookie that is given to a client.
    fn cookie(&mut self, from: Underlay, hand: &mut Hand) -> SessionId {
        let reset = hand.reset();
        let answers = self.answers(from, &reset);
        assert_eq!(answers.len(), 1);
        assert!(answers[0].len() <= reset.len() + 20, "{} bytes for {}", answers[0].len(), reset.len());
        let (cookie, clear) = hand.open(&answers[0]);
        let answer = ControlBody::decode(Opcode::HardResetServer, &clear).unwrap();
        assert_eq!((answer.ack_session, answer.acks.as_slice(), answer.message_id), (Some(hand.id), &[0][..], Some(0)));
        cookie
    }

    /// Nothing waits, nothing is remembered, nobody is told.
    #[track_caller]
    fn assert_stateless(&mut self, from: Underlay) {
        assert!(!self.server.needs(from) && self.server.peers().is_empty());
        assert!(self.server.poll_timeout().is_none() && self.server.poll_tls().is_none());
        assert!(self.server.poll_event().is_none());
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.server.counters().drops.of(reason)
    }
}

#[test]
fn the_same_reset_has_the_same_answer_and_ten_thousand_leave_nothing() {
    for (server, client) in modes() {
        let mut target = Target::new(server);
        let mut hand = Hand::client(&client, 1);
        let cookie = target.cookie(place(1), &mut hand);
        assert_eq!(target.cookie(place(1), &mut hand), cookie);
        assert_ne!(target.cookie(place(2), &mut hand), cookie);
        for count in 0..10_000u32 {
            if count % 90 == 0 {
                target.now += seconds(10);
            }
            hand.id.0[..4].copy_from_slice(&count.to_be_bytes());
            hand.replay &= EARLY_NEGOTIATION;
            let from = place(1000 + count as u16);
            target.cookie(from, &mut hand);
            target.assert_stateless(from);
        }
        // Nor does anything come later.
        target.now += seconds(100);
        target.server.handle_timeout(target.now);
        target.assert_stateless(place(1));
        let drops: u64 = target.server.counters().drops.iter().map(|(_, count)| count).sum();
        assert_eq!(drops, 0);
    }
}

#[test]
fn a_wrong_third_packet_makes_nothing() {
    for (server, client) in modes() {
        let mut target = Target::new(server);
        let from = place(1);
        let mut hand = Hand::client(&client, 1);
        let cookie = target.cookie(from, &mut hand);
        let control = hand.control();
        let mut other = cookie;
        other.0[7] ^= 1;
        let mut two_acks = body(Some(cookie), Some(1));
        two_acks.acks.push(2);
        let wrong = [
            (Opcode::Ack, 0, body(Some(other), None), DropReason::Cookie),
            (control, 0, body(Some(other), Some(1)), DropReason::Cookie),
            (control, 0, body(Some(hand.id), Some(1)), DropReason::Cookie),
            (control, 0, body(Some(cookie), Some(2)), DropReason::OutOfTurn),
            (control, 0, body(Some(cookie), Some(u32::MAX)), DropReason::OutOfTurn),
            (control, 0, two_acks, DropReason::OutOfTurn),
            (control, 0, body(None, Some(1)), DropReason::Cookie),
            (Opcode::Ack, 0, body(None, None), DropReason::Cookie),
            (control, 1, body(Some(cookie), Some(1)), DropReason::UnknownSession),
            (Opcode::Ack, 7, body(Some(cookie), None), DropReason::UnknownSession),
            (Opcode::SoftReset, 1, body(Some(cookie), Some(0)), DropReason::UnknownSession),
            (Opcode::SoftReset, 0, body(Some(cookie), Some(0)), DropReason::UnknownSession),
        ];
        for (opcode, key_id, body, reason) in wrong {
            // With tls-crypt-v2, what comes without the key cannot be read at all.
            let is_readable = hand.wrapped.is_empty() || opcode == control;
            let reason = if is_readable { reason } else { DropReason::Wrap };
            let before = target.dropped(reason);
            let packet = hand.packet(opcode, key_id, &body);
            assert_eq!(target.answers(from, &packet), Vec::<Vec<u8>>::new(), "{opcode:?} {key_id} {body:?}");
            target.assert_stateless(from);
            assert_eq!(target.dropped(reason), before + 1, "{opcode:?} {key_id} {body:?}");
        }
        let mut nobody = Hand { id: SessionId([0; 8]), ..Hand::client(&client, 0) };
        for packet in [nobody.reset(), nobody.packet(control, 0, &body(Some(cookie), Some(1)))] {
            assert!(target.answers(from, &packet).is_empty());
        }
        let mut late_reset = body(None, Some(5));
        let reset = if hand.wrapped.is_empty() { Opcode::HardResetClient } else { Opcode::HardResetClientV3 };
        for key_id in [0, 1] {
            let packet = hand.packet(reset, key_id, &late_reset);
            assert!(target.answers(from, &packet).is_empty());
            late_reset.message_id = Some(0);
        }
        // To another port the right one is a wrong one.
        let right = hand.packet(control, 0, &body(Some(cookie), Some(1)));
        assert!(target.answers(place(2), &right).is_empty());
        target.assert_stateless(place(2));
        target.assert_stateless(from);
        assert!(!target.answers(from, &right).is_empty());
        assert!(target.server.needs(from));
    }
}

#[test]
fn a_right_third_packet_makes_the_session_whatever_its_form() {
    for (at, (server, client)) in modes().into_iter().enumerate() {
        let mut hand = Hand::client(&client, 1);
        let forms = match hand.control() {
            Opcode::ControlWkc => vec![(Opcode::ControlWkc, Some(1))],
            _ => vec![(Opcode::Ack, None), (Opcode::Control, Some(1))],
        };
        for (opcode, message_id) in forms {
            let (mut target, from) = (Target::new(server.clone()), place(1));
            hand.id.0[0] += 1;
            let cookie = target.cookie(from, &mut hand);
            target.assert_stateless(from);
            let packet = hand.packet(opcode, 0, &body(Some(cookie), message_id));
            let answers = target.answers(from, &packet);
            // Message 1 is acknowledged under the session id that was the cookie; there is nothing to say to an ack.
            assert_eq!(answers.len(), usize::from(message_id.is_some()), "mode {at}, {opcode:?}");
            assert!(answers.iter().all(|answer| hand.open(answer).0 == cookie));
            assert!(target.server.needs(from));
            assert!(matches!(target.server.poll_tls(), Some((_, TlsInput::Start))));
        }
    }
}

#[test]
fn first_answers_are_limited_and_completed_handshakes_do_not_count() {
    let mut target = Target::new(ServerProtection::None);
    let mut hand = Hand::client(&ClientProtection::None, 1);
    for period in 0..3u8 {
        let mut answered = 0;
        for number in 0..130u8 {
            hand.id.0[..2].copy_from_slice(&[number, period]);
            let reset = hand.reset();
            answered += target.answers(place(u16::from(number)), &reset).len();
        }
        assert_eq!(answered, 100);
        assert_eq!(target.dropped(DropReason::InitialRate), 30 * (u64::from(period) + 1));
        target.now += seconds(10);
    }

    // Five clients connect; a hundred strangers are answered as if they had not.
    let mut net = Network::new(26, server_config());
    let names: Vec<String> = (0..5).map(|at| format!("c{at}")).collect();
    let clients: Vec<usize> = names.iter().map(|name| net.add_client(name, client_config())).collect();
    net.run(seconds(2));
    assert!(clients.iter().all(|&at| net.is_connected(at)));
    let mut hand = Hand::client(&client_config().protection, 1);
    let sent = net.recorded.len();
    for number in 0..130u8 {
        hand.id.0[0] = number;
        let reset = hand.reset();
        assert_eq!(net.deliver_to_server_from(place(u16::from(number)), &reset), None);
    }
    net.run(Duration::from_millis(1));
    assert_eq!(net.recorded.len() - sent, 100);
    assert_eq!(net.server.counters().drops.of(DropReason::InitialRate), 30);
}

#[test]
fn what_cannot_be_read_is_not_answered() {
    for (server, client) in modes() {
        let mut target = Target::new(server);
        let from = place(1);
        let mut hand = Hand::client(&client, 1);
        let reset = hand.reset();
        for length in 0..reset.len() {
            assert!(target.answers(from, &reset[..length]).is_empty(), "the first {length} bytes of {}", reset.len());
        }
        for first in 0..=u8::MAX {
            for length in [1, 2, 8, 9, 10, 25, 40, 54, 300, 1400] {
                let noise: Vec<u8> = (0..length).map(|at| first.wrapping_mul(31).wrapping_add(at as u8)).collect();
                let packet = [&[first][..], &noise].concat();
                let is_reset = matches!(first, 0x38) && matches!(client, ClientProtection::None);
                assert!(is_reset || target.answers(from, &packet).is_empty(), "{first:#x}, {length} bytes");
            }
        }
        for key in [9, 0] {
            let wrong = StaticKey::from_bytes([key; 256]);
            let wrong = match &client {
                ClientProtection::None => continue,
                ClientProtection::Shared(SharedKey::TlsCrypt(_)) => {
                    ClientProtection::Shared(SharedKey::TlsCrypt(wrong))
                }
                ClientProtection::Shared(SharedKey::TlsAuth(auth)) => {
                    ClientProtection::Shared(SharedKey::TlsAuth(TlsAuth { key: wrong, ..auth.clone() }))
                }
                // Its own wrapped key, but another one in use.
                ClientProtection::TlsCryptV2(_) => client_key(key, &Metadata::Other),
            };
            let mut hand = Hand { wrapped: hand.wrapped.clone(), ..Hand::client(&wrong, 1) };
            let reset = hand.reset();
            assert!(target.answers(from, &reset).is_empty());
        }
        target.assert_stateless(from);
    }
}

#[test]
fn a_replayed_handshake_changes_nothing() {
    for protection in [auth(), shared_key()] {
        let mut config = server_config();
        config.protection = ServerProtection::Shared(protection.clone());
        config.renewal.after = seconds(4);
        let mut net = Network::new(32, config);
        let settings = ClientConfig { protection: ClientProtection::Shared(protection), ..client_config() };
        let client = net.add_client("a", settings);
        net.run(seconds(10));
        assert!(net.server.counters().renewals_completed >= 2);
        let recorded: Vec<Vec<u8>> = net.recorded.clone();
        assert!(recorded.len() > 20, "{}", recorded.len());
        let (peers, events) = (net.server.peers().len(), net.server_events.len());
        let dropped = |net: &Network| {
            let drops = net.server.counters().drops;
            // Packets of the first key are those of a key that is gone.
            drops.of(DropReason::Replay) + drops.of(DropReason::UnknownKey)
        };
        let (replays, sent) = (dropped(&net), net.recorded.len());
        for datagram in &recorded {
            assert_eq!(net.deliver_to_server(client, datagram), None);
            assert_eq!(net.deliver_to_client(client, datagram), None);
        }
        net.run(Duration::from_millis(1));
        assert_eq!(net.recorded.len(), sent, "nothing is answered");
        assert!(dropped(&net) > replays + 10, "{:?}", net.server.counters());
        // From elsewhere the first packet is as good as anybody's, and that is all.
        let elsewhere = place(7);
        for datagram in &recorded {
            assert_eq!(net.deliver_to_server_from(elsewhere, datagram), None);
        }
        net.run(Duration::from_millis(1));
        assert_eq!(net.recorded.len(), sent + 1);
        assert!(!net.server.needs(elsewhere));
        assert_eq!((net.server.peers().len(), net.server_events.len()), (peers, events));
        assert_carries(&mut net, client);
        net.run(seconds(10));
        let counters = net.server.counters();
        assert_eq!((counters.handshakes_completed, counters.handshakes_failed, counters.renewals_failed), (1, 0, 0));

        // When the session is gone and its cookie too old, the same packets make no other.
        net.client_shuts_down(client);
        net.run(seconds(120));
        for datagram in &recorded {
            assert_eq!(net.deliver_to_server(client, datagram), None);
        }
        net.run(seconds(1));
        assert!(!net.server.needs(net.client_place(client)) && net.server.peers().is_empty());
        assert_eq!(net.server.counters().handshakes_failed, 0);
    }
}

/// A client that nobody but the test talks to.
struct Dialer {
    client: Client,
    now: Instant,
    server: Underlay,
}

impl Dialer {
    fn new(seed: u64) -> Self {
        let (now, server) = (Instant::now(), Underlay::udp("192.0.2.1:1194".parse().unwrap()));
        Self { client: Client::new(client_config(), server, now, UNIX_TIME, rng(seed)), now, server }
    }

    /// What it sends now.
    fn sends(&mut self) -> Vec<Vec<u8>> {
        let (mut all, mut out) = (Vec::new(), Vec::new());
        while let Some(to) = self.client.poll_transmit(self.now, &mut out) {
            assert_eq!(to, self.server);
            all.push(out.clone());
        }
        all
    }
}

/// The session id and replay id of a packet under tls-crypt.
fn ids(packet: &[u8]) -> (SessionId, u32) {
    (SessionId(packet[1..9].try_into().unwrap()), u32::from_be_bytes(packet[9..13].try_into().unwrap()))
}

#[test]
fn a_reset_without_answer_is_repeated_and_given_up() {
    let mut last = None;
    for attempt in 0..3 {
        let mut dialer = Dialer::new(attempt);
        let start = dialer.now;
        let (mut times, mut sessions, mut replays) = (Vec::new(), Vec::new(), Vec::new());
        while !dialer.client.has_ended() {
            for packet in dialer.sends() {
                assert_eq!(packet[0], 0x38);
                let (session, replay) = ids(&packet);
                times.push((dialer.now - start).as_secs());
                sessions.push(session);
                replays.push(replay);
            }
            dialer.now = dialer.client.poll_timeout().unwrap().max(dialer.now + Duration::from_millis(1));
            dialer.client.handle_timeout(dialer.now);
        }
        assert_eq!((times, replays), (vec![0, 1, 3, 7], vec![1, 2, 3, 4]));
        sessions.dedup();
        assert_eq!(sessions.len(), 1);
        assert_ne!(last.replace(sessions[0]), Some(sessions[0]), "the next attempt is another session");
        let event = dialer.client.poll_event();
        assert!(matches!(event, Some(Event::HandshakeFailed { reason: EndReason::NoAnswer, .. })), "{event:?}");
    }
}

#[test]
fn a_wrong_answer_to_our_reset_is_none() {
    let mut dialer = Dialer::new(1);
    let (local, _) = ids(&dialer.sends()[0]);
    let mut hand = Hand::server(&shared_key(), 5);
    let mut other = local;
    other.0[0] ^= 1;
    let reset = Opcode::HardResetServer;
    let right = hand.packet(reset, 0, &body(Some(local), Some(0)));
    let wrong_keys = SharedKey::TlsCrypt(StaticKey::from_bytes([9; 256]));
    let mut forged: Vec<Vec<u8>> = vec![
        hand.packet(reset, 0, &body(Some(other), Some(0))),
        hand.packet(reset, 0, &body(Some(hand.id), Some(0))),
        hand.packet(reset, 0, &body(None, Some(0))),
        hand.packet(reset, 0, &body(Some(local), Some(1))),
        hand.packet(reset, 1, &body(Some(local), Some(0))),
        hand.packet(Opcode::Control, 0, &body(Some(local), Some(0))),
        Hand::server(&wrong_keys, 5).packet(reset, 0, &body(Some(local), Some(0))),
    ];
    // Every byte of it is covered by the tag.
    forged.extend((0..right.len()).map(|at| {
        let mut bent = right.clone();
        bent[at] ^= 4;
        bent
    }));
    let server = dialer.server;
    let elsewhere =
        [Underlay::udp("192.0.2.1:1195".parse().unwrap()), Underlay::udp("192.0.2.9:1194".parse().unwrap())];
    let forged = forged.iter().map(|packet| (packet, server)).chain(elsewhere.map(|from| (&right, from)));
    for (packet, from) in forged {
        assert!(dialer.client.handle_datagram(dialer.now, from, &mut packet.clone()).is_err());
        assert!(dialer.client.poll_tls().is_none() && dialer.sends().is_empty());
    }
    let drops = dialer.client.counters().drops;
    assert_eq!(drops.of(DropReason::UnknownPeer), 2);
    assert!(drops.of(DropReason::Wrap) > right.len() as u64 - 5, "{drops:?}");
    // The right one is taken after all that.
    assert!(dialer.client.handle_datagram(dialer.now, server, &mut right.clone()).is_ok());
    assert!(matches!(dialer.client.poll_tls(), Some((_, TlsInput::Start))));
}
