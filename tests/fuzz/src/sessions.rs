//! Whole ends, without wrapping, at some stage of a session: what strangers and peers can make of them. The first byte
//! of the input says how far the session has come, the rest is a list of things that happen: a kind, a length of two
//! bytes, and so many bytes.

use std::time::{Duration, Instant};

use ovpn::auth_token::{TokenKey, Tokens};
use ovpn::batch::{Batch, Single};
use ovpn::client::{Client, ClientConfig};
use ovpn::data::{Cipher, DataSettings, OVERHEAD};
use ovpn::endpoint::{
    DEFAULT_MAX_PACKET_SIZE, Endpoint, Identity, Keepalive, RenewalLimits, TlsInput, TlsKey, TlsOutput, TlsSession,
};
use ovpn::key_method2::{KeyMethod2, Randoms};
use ovpn::keys::{KeyBlock, KeyDerivation};
use ovpn::login::{Admission, Advance, CertificateDemand, Credentials, Decision, Login};
use ovpn::packet::{Acks, ControlBody, Header, Opcode, SessionId};
use ovpn::protection::{ClientProtection, ServerProtection};
use ovpn::push::{Ipv4Prefix, PullRules, PushSet};
use ovpn::server::{BetweenPeers, Server, ServerConfig};
use ovpn::static_key::StaticKey;
use ovpn::underlay::Underlay;
use rand::SeedableRng;
use rand::rngs::StdRng;

/// The kind of thing that is no bytes, but so many milliseconds that pass.
const TIME: u8 = 6;
/// Polls of an end that does not stop of itself.
const PATIENCE: usize = 2000;

/// Everything that one end of a session is asked.
struct End<E> {
    endpoint: E,
    now: Instant,
    from: Underlay,
    /// Decides about a login, if there is one.
    decide: fn(&mut E, Instant) -> bool,
    tls: Vec<TlsKey>,
    sent: Vec<Vec<u8>>,
}

impl<E: Endpoint> End<E> {
    fn new(endpoint: E, now: Instant, from: Underlay, decide: fn(&mut E, Instant) -> bool) -> Self {
        let mut end = Self { endpoint, now, from, decide, tls: Vec::new(), sent: Vec::new() };
        end.settle();
        end
    }

    /// Drains the polls.
    fn settle(&mut self) {
        assert!((0..PATIENCE).any(|_| !self.poll()), "it never comes to rest");
    }

    /// Whether there was anything.
    fn poll(&mut self) -> bool {
        let mut out = Vec::new();
        if let Some((key, input)) = self.endpoint.poll_tls() {
            match input {
                TlsInput::Start => self.tls.push(key),
                TlsInput::Close => self.tls.retain(|known| *known != key),
                // As a record of this size.
                TlsInput::Message(message) => self.endpoint.handle_tls(self.now, key, TlsOutput::Ciphertext(message)),
                TlsInput::Ciphertext(_) => {}
            }
        } else if let Some(to) = self.endpoint.poll_transmit(self.now, &mut out) {
            assert!(!out.is_empty() && out.len() < 1250, "a datagram of {} bytes to {to}", out.len());
            self.sent.push(out);
        } else {
            return (self.decide)(&mut self.endpoint, self.now) || self.endpoint.poll_event().is_some();
        }
        true
    }

    fn receive(&mut self, datagram: &[u8]) {
        let _ = self.endpoint.handle_datagram(self.now, self.from, &mut datagram.to_vec());
        self.settle();
    }

    /// What the newest TLS connection says.
    fn hear(&mut self, output: TlsOutput) {
        if let Some(&key) = self.tls.last() {
            self.endpoint.handle_tls(self.now, key, output);
            self.settle();
        }
    }

    fn live(&mut self, mut happens: &[u8]) {
        // What is sent in the end is bounded by what came in.
        let most = self.sent.len() + PATIENCE + 8 * happens.len();
        while let Some((&[kind, high, low], rest)) = happens.split_first_chunk::<3>() {
            let number = u16::from_be_bytes([high, low]);
            let length = if kind % 8 == TIME { 0 } else { usize::from(number) };
            let (bytes, rest) = rest.split_at(length.min(rest.len()));
            happens = rest;
            match kind % 8 {
                0 | 1 => self.receive(bytes),
                2 | 3 => self.hear(TlsOutput::Message(bytes.to_vec())),
                4 => self.hear(TlsOutput::Ciphertext(bytes.to_vec())),
                5 => self.hear(TlsOutput::Established(established())),
                TIME => {
                    self.now += Duration::from_millis(number.into());
                    self.endpoint.handle_timeout(self.now);
                    self.settle();
                }
                _ => {
                    let mut batch = Batch::new(bytes.len() + OVERHEAD, 1);
                    let _ = self.endpoint.seal(self.now, &mut Single::new(&mut bytes.to_vec()), &mut batch);
                    self.settle();
                }
            }
        }
        assert!(self.sent.len() < most, "{} datagrams", self.sent.len());
        self.endpoint.shut_down(self.now);
        self.settle();
    }
}

fn established() -> Box<TlsSession> {
    Box::new(TlsSession {
        exporter: KeyBlock::from_exporter([7; 256]),
        dynamic_tls_crypt: StaticKey::from_bytes([8; 256]),
        identity: Identity { common_name: "peer".to_owned(), san_uris: Vec::new() },
        version: "TLSv1.3".to_owned(),
    })
}

fn rng() -> Box<StdRng> {
    Box::new(StdRng::seed_from_u64(7))
}

/// An unwrapped control packet that acknowledges message 0 of `peer`.
fn control(opcode: Opcode, sender: SessionId, peer: Option<SessionId>, message_id: u32, payload: &[u8]) -> Vec<u8> {
    let mut acks = Acks::default();
    if peer.is_some() {
        acks.push(0);
    }
    let mut packet = vec![Header { opcode, key_id: 0 }.encode()];
    packet.extend_from_slice(&sender.0);
    ControlBody { acks, ack_session: peer, message_id: Some(message_id), payload }.encode(&mut packet);
    packet
}

/// Who sent a packet.
fn sender(packet: Option<&Vec<u8>>) -> SessionId {
    SessionId(packet.and_then(|packet| packet.get(1..)?.first_chunk::<8>()).copied().unwrap_or([9; 8]))
}

fn key_method(options: &str, peer_info: &str) -> KeyMethod2 {
    let randoms = Randoms::generate(&mut rng());
    KeyMethod2 {
        randoms,
        options: options.to_owned(),
        credentials: Some(Credentials::new("user", "word".to_owned())),
        peer_info: peer_info.to_owned(),
    }
}

/// A client.
pub(crate) fn client(bytes: &[u8]) {
    let Some((&stage, happens)) = bytes.split_first() else { return };
    let (now, server) = (Instant::now(), Underlay::udp(([192, 0, 2, 1], 1194).into()));
    let config = ClientConfig {
        protection: ClientProtection::None,
        ciphers: [Cipher::ALL, Cipher::CBC].concat(),
        tun_mtu: 1420,
        max_mtu: 1600,
        path_mtu: false,
        key_derivation: KeyDerivation::Ekm,
        keepalive: Keepalive { ping: Duration::from_secs(5), ping_restart: Duration::from_secs(20) },
        first_answer: Duration::from_secs(10),
        renewal: RenewalLimits { after: Duration::from_secs(20), ..RenewalLimits::default() },
        dynamic_tls_crypt: true,
        epochs: true,
        peer_ids: true,
        control_exit: true,
        data: DataSettings::default(),
        max_packet_size: DEFAULT_MAX_PACKET_SIZE,
        login: Login::default(),
        pull: PullRules::default(),
    };
    let mut end = End::new(Client::new(config, server, now, 1_700_000_000, rng()), now, server, |_, _| false);
    let (local, id) = (sender(end.sent.first()), SessionId([1; 8]));
    if stage % 5 > 0 {
        end.receive(&control(Opcode::HardResetServer, id, Some(local), 0, &[]));
    }
    if stage % 5 > 1 {
        end.hear(TlsOutput::Established(established()));
    }
    if stage % 5 > 2 {
        let message = KeyMethod2 {
            randoms: Randoms { pre_master: [0; 48], ..key_method("", "").randoms },
            ..key_method("V4,cipher AES-256-GCM", "")
        };
        end.hear(TlsOutput::Message(message.encode(false)));
    }
    if stage % 5 > 3 {
        let (cipher, flags) = match stage >> 6 {
            0 => ("AES-256-GCM", "cc-exit tls-ekm"),
            1 => ("AES-128-CBC", "tls-ekm"),
            _ => ("CHACHA20-POLY1305", "cc-exit tls-ekm dyn-tls-crypt aead-epoch"),
        };
        let push = format!(
            "PUSH_REPLY,route-gateway 10.8.0.1,topology subnet,ping 5,ping-restart 20,ifconfig 10.8.0.2 255.255.255.0,\
             peer-id 1,cipher {cipher},protocol-flags {flags}\0"
        );
        end.hear(TlsOutput::Message(push.into_bytes()));
        assert!(end.endpoint.is_connected(), "the stage is not what it is to be");
    }
    end.live(happens);
}

/// Judges by the first letter of the password.
fn decide(server: &mut Server, now: Instant) -> bool {
    let Some(request) = server.poll_login() else { return false };
    let (text, long) = (request.credentials.username, Duration::from_secs(40));
    let decision = match request.credentials.password.expose().bytes().next() {
        Some(b'n') => Decision::Refuse { reason: text },
        Some(b'l') => Decision::Later { reason: text, backoff: Some(long), advance: Advance::Remote },
        Some(b'p') => Decision::Pending { timeout: long, info: text },
        _ => Decision::Accept,
    };
    server.decide(now, request.id, decision);
    true
}

/// A server with one client.
pub(crate) fn server(bytes: &[u8]) {
    let Some((&stage, happens)) = bytes.split_first() else { return };
    let admission = Admission {
        certificate: CertificateDemand::Optional,
        passwords: stage & 0x40 != 0,
        tokens: Some(Tokens {
            key: TokenKey::from_bytes([3; 32]),
            lifetime: Duration::from_secs(60),
            renewal: Duration::ZERO,
        }),
        duplicate_names: false,
    };
    let (now, client) = (Instant::now(), Underlay::udp(([198, 51, 100, 1], 5000).into()));
    let config = ServerConfig {
        protection: ServerProtection::None,
        ciphers: [Cipher::ALL, Cipher::CBC].concat(),
        key_derivation: KeyDerivation::Ekm,
        tun_mtu: 1420,
        path_mtu: false,
        keepalive: Keepalive { ping: Duration::from_secs(5), ping_restart: Duration::from_secs(20) },
        renewal: RenewalLimits { after: Duration::from_secs(20), ..RenewalLimits::default() },
        dynamic_tls_crypt: true,
        epochs: true,
        peer_ids: true,
        control_exit: true,
        data: DataSettings::default(),
        max_packet_size: DEFAULT_MAX_PACKET_SIZE,
        network: Some(Ipv4Prefix { address: [10, 8, 0, 1].into(), prefix_len: 24 }),
        network_ipv6: None,
        peers: Vec::new(),
        pool: Some([10, 8, 0, 10].into()..=[10, 8, 0, 20].into()),
        pool_ipv6: None,
        push: PushSet::default(),
        between_peers: BetweenPeers::Forward,
        max_peers: 4,
        max_handshakes: 8,
        admission,
    };
    let mut end = End::new(Server::new(config, now, 1_700_000_000, rng()), now, client, decide);
    let id = SessionId([1; 8]);
    if stage % 5 > 0 {
        end.receive(&control(Opcode::HardResetClient, id, None, 0, &[]));
        let cookie = sender(end.sent.first());
        end.receive(&control(Opcode::Control, id, Some(cookie), 1, &[0x16]));
        assert_eq!(end.tls.len(), 1, "the stage is not what it is to be");
    }
    if stage % 5 > 1 {
        end.hear(TlsOutput::Established(established()));
    }
    if stage % 5 > 2 {
        let proto = if stage & 0x80 == 0 { 174 } else { 1678 };
        let info = format!("IV_VER=2.6.14\nIV_PROTO={proto}\nIV_CIPHERS=AES-256-GCM:AES-128-GCM\nIV_MTU=1600\n");
        end.hear(TlsOutput::Message(key_method("V4,cipher AES-256-GCM", &info).encode(true)));
    }
    if stage % 5 > 3 {
        // Acknowledges what the server has sent, so that the push goes out.
        let cookie = sender(end.sent.first());
        for message in 1..6u32 {
            let mut acks = Acks::default();
            acks.push(message);
            let mut packet = vec![Header { opcode: Opcode::Ack, key_id: 0 }.encode()];
            packet.extend_from_slice(&id.0);
            ControlBody { acks, ack_session: Some(cookie), message_id: None, payload: &[] }.encode(&mut packet);
            end.receive(&packet);
        }
        assert_eq!(end.endpoint.peers().len(), 1, "the stage is not what it is to be");
    }
    end.live(happens);
}
