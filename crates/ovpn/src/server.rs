//! The listening role: many sessions, their addresses, and nothing kept for those who have not shown their address.
//!
//! ```text
//! (no state) ──cookie returned──▶ Handshake ──TLS up──▶ KeyExchange ──client's message──▶ Settling ──push──▶ Connected
//!                                   │ TLS fails, hand window over   │ refused              │                │ silence, goodbye,
//!                                   └───────────────────────────────┴─────── Ended ◀───────┴────────────────┘ replaced
//! ```
//!
//! Control packets find their session by (address, client's session id), data packets by peer id (or address, in the
//! first format). A reset with a new session id only starts another session. It replaces an older one of the same peer when
//! it is connected, not before, and what is on its way over the old one is still taken for a moment.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::time::Instant;

use crate::channel::{ControlChannel, LINGER, Renewable, Waiting};
use crate::cookie::CookieJar;
use crate::data::{Cipher, DataSettings, Payload};
use crate::drops::DropReason;
use crate::endpoint::{
    Counters, EndReason, Event, Keepalive, PeerConnected, PeerId, RenewalLimits, SessionKey, TlsInput, TlsKey,
    TlsSession,
};
use crate::keys::KeyDerivation;
use crate::live::{Desk, Live};
use crate::login::{Admission, LoginRequest};
use crate::packet::{Header, SessionId};
use crate::protection::ServerProtection;
use crate::push::{Ipv4Prefix, Ipv6Prefix, PushSet};
use crate::underlay::{Transport, Underlay};
use crate::wrap::{Unwrapped, session_id};

mod admission;
mod data;
mod endpoint;
mod first;
mod float;
mod login;
mod notice;
mod path;
mod pool;

use first::Wrapping;
use login::{Candidate, PeerLogin};
pub use notice::Notice;
use pool::Pool;

/// A peer with addresses or options of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StaticPeer {
    /// A SAN URI or the common name of its certificate.
    pub name: String,
    /// Its IPv4 address inside of the tunnel; without one it gets one of the pool.
    pub address: Option<Ipv4Addr>,
    /// Its IPv6 address inside of the tunnel; without one it gets one of the pool.
    pub address_ipv6: Option<Ipv6Addr>,
    /// What it is told beyond what all are told.
    pub push: PushSet,
}

/// What becomes of packets from one peer to the address of another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BetweenPeers {
    /// They are dropped.
    #[default]
    Drop,
    /// They are forwarded.
    Forward,
    /// They leave by the device as those for anybody else, so that the host's routes and firewall decide.
    Host,
}

/// What a server needs to know.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// How the control channel is protected.
    pub protection: ServerProtection,
    /// Data ciphers, best first: the server's order decides.
    pub ciphers: Vec<Cipher>,
    /// The best key derivation to choose; clients that cannot export get the PRF in any case.
    pub key_derivation: KeyDerivation,
    /// MTU of the device, pushed to clients that can take it, bytes.
    pub tun_mtu: u16,
    /// Whether clients that announce it may discover the MTU of the path.
    pub path_mtu: bool,
    /// Pushed as it is; the server itself waits twice as long before it gives up on a client.
    pub keepalive: Keepalive,
    /// When keys are renewed.
    pub renewal: RenewalLimits,
    /// Whether dynamic tls-crypt is used with clients that announce it.
    pub dynamic_tls_crypt: bool,
    /// Whether the epoch format of data packets is used with clients that announce it.
    pub epochs: bool,
    /// Whether data packets carry the number of the peer, with clients that announce that they can. Without it a client
    /// is found by its address only, and cannot move.
    pub peer_ids: bool,
    /// The rest about data packets.
    pub data: DataSettings,
    /// Largest IP datagram of the control channel, one of [`crate::endpoint::MAX_PACKET_SIZES`].
    pub max_packet_size: u16,
    /// The server's own IPv4 address and network inside of the tunnel; `None` for IPv6 only.
    pub network: Option<Ipv4Prefix>,
    /// The server's own IPv6 address and network inside of the tunnel; `None` for IPv4 only.
    pub network_ipv6: Option<Ipv6Prefix>,
    /// Peers with addresses or options of their own.
    pub peers: Vec<StaticPeer>,
    /// IPv4 addresses for everyone else with a good certificate; without a pool nobody else is served.
    pub pool: Option<RangeInclusive<Ipv4Addr>>,
    /// IPv6 addresses for everyone else.
    pub pool_ipv6: Option<RangeInclusive<Ipv6Addr>>,
    /// What all clients are told, besides what the tunnel needs. Must pass [`PushSet::check`], like those of `peers`.
    pub push: PushSet,
    /// What becomes of packets from one peer to the address of another.
    pub between_peers: BetweenPeers,
    /// Most peers at a time.
    pub max_peers: usize,
    /// Most handshakes in progress at a time.
    pub max_handshakes: usize,
    /// How clients show who they are.
    pub admission: Admission,
    /// Whether clients that announce it are told to say goodbye by `EXIT` on the control channel.
    pub control_exit: bool,
}

struct Session {
    remote: Underlay,
    channel: ControlChannel,
    phase: Phase,
}

enum Phase {
    Handshake {
        deadline: Instant,
    },
    KeyExchange {
        deadline: Instant,
        tls: Box<TlsSession>,
    },
    /// Somebody must decide about the client's login.
    Deciding(Box<Candidate>),
    Settling {
        deadline: Instant,
        peer: Box<Peer>,
        live: Box<Live>,
        push: Vec<Vec<u8>>,
        wanted: bool,
    },
    Connected {
        peer: Box<Peer>,
        live: Box<Live>,
    },
    Ended {
        until: Instant,
    },
}

struct Peer {
    connected: PeerConnected,
    cc_exit: bool,
    login: PeerLogin,
    /// Until when packets are still taken from the peer over this session, although it has a newer one.
    replaced: Option<Instant>,
    /// An older session carries the peer's packets until data comes in over this one, which shows that the peer has its
    /// keys, or until this time.
    takes_over: Option<Instant>,
}

impl Peer {
    fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let PeerConnected { address, address_ipv6, .. } = self.connected;
        address.map(IpAddr::V4).into_iter().chain(address_ipv6.map(IpAddr::V6))
    }
}

/// See the module's documentation.
pub struct Server {
    config: ServerConfig,
    wrapping: Wrapping,
    cookies: CookieJar,
    /// When the server was made, on both clocks.
    started: Instant,
    unix_time: u32,
    rng: Box<dyn rand::CryptoRng + Send>,
    sessions: BTreeMap<SessionKey, Session>,
    next_session: SessionKey,
    by_source: HashMap<(Underlay, SessionId), SessionKey>,
    by_remote: HashMap<Underlay, SessionKey>,
    /// By address inside of the tunnel.
    by_address: HashMap<IpAddr, SessionKey>,
    /// Index is the peer id.
    by_peer: Vec<Option<SessionKey>>,
    /// How many sessions have a peer id.
    admitted: usize,
    pool: Option<Pool<Ipv4Addr>>,
    pool_ipv6: Option<Pool<Ipv6Addr>>,
    rate: (Instant, u32),
    /// Packets from unknown addresses that were tried in vain.
    float_rate: (Instant, u32),
    /// Sessions that may have something to transmit.
    dirty: BTreeSet<SessionKey>,
    /// Sessions that may have an answer to a probe of the path.
    probed: BTreeSet<SessionKey>,
    next_timeout: Option<Instant>,
    /// Nobody new is answered any more.
    closing: bool,
    tls: VecDeque<(TlsKey, TlsInput)>,
    /// As many as there are handshakes and peers, at most.
    logins: VecDeque<LoginRequest>,
    outbox: VecDeque<Waiting>,
    events: VecDeque<Event>,
    counters: Counters,
}

impl Server {
    /// A server without sessions. `unix_time` is the current time in seconds, which need not be right.
    pub fn new(config: ServerConfig, now: Instant, unix_time: u32, mut rng: Box<dyn rand::CryptoRng + Send>) -> Self {
        let mut secret = [0; 32];
        rng.fill_bytes(&mut secret);
        Self {
            wrapping: Wrapping::new(&config.protection),
            started: now,
            cookies: CookieJar::new(&secret, now, config.renewal.hand_window),
            unix_time,
            rng,
            sessions: BTreeMap::new(),
            next_session: 0,
            by_source: HashMap::new(),
            by_remote: HashMap::new(),
            by_address: HashMap::new(),
            by_peer: Vec::new(),
            admitted: 0,
            pool: config.network.and(config.pool.clone()).map(Pool::new),
            pool_ipv6: config.network_ipv6.and(config.pool_ipv6.clone()).map(Pool::new),
            rate: (now, 0),
            float_rate: (now, 0),
            dirty: BTreeSet::new(),
            probed: BTreeSet::new(),
            next_timeout: None,
            closing: false,
            tls: VecDeque::new(),
            logins: VecDeque::new(),
            outbox: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
            config,
        }
    }

    /// Opens first packets by other keys from now on. Sessions, and handshakes whose keys are known, go on with theirs.
    pub fn set_protection(&mut self, protection: ServerProtection) {
        self.wrapping = Wrapping::new(&protection);
        self.config.protection = protection;
    }

    /// Ends a peer's session with a goodbye. False when there is no such peer.
    pub fn disconnect(&mut self, now: Instant, peer: PeerId) -> bool {
        let Some(key) = self.session_of(peer) else { return false };
        self.say_goodbye(now, key);
        self.end(now, key, EndReason::Local);
        true
    }

    fn session_of(&self, peer: PeerId) -> Option<SessionKey> {
        self.by_peer.get(usize::try_from(peer).ok()?).copied().flatten()
    }

    // Control packets

    fn handle_control(
        &mut self,
        now: Instant,
        from: Underlay,
        header: Header,
        datagram: &mut [u8],
    ) -> Result<(), DropReason> {
        let source = (from, session_id(datagram)?);
        let Some(&key) = self.by_source.get(&source) else { return self.handle_first(now, from, header, datagram) };
        let datagram = first::without_wrapped_key(header, datagram)?;
        let session = self.sessions.get(&key).ok_or(DropReason::UnknownSession)?;
        let packet = session.channel.open(header, datagram)?;
        self.handle_session(now, key, header, &packet)
    }

    /// Takes a control packet of a session that authenticated.
    fn handle_session(
        &mut self,
        now: Instant,
        key: SessionKey,
        header: Header,
        packet: &Unwrapped<'_>,
    ) -> Result<(), DropReason> {
        let Some(session) = self.sessions.get_mut(&key) else { return Err(DropReason::UnknownSession) };
        let renewable = match &session.phase {
            Phase::Connected { live, .. } => live.renewable(),
            _ => Renewable::No,
        };
        let handled = session.channel.handle(now, header, packet, renewable)?;
        if let Some((live, mut desk)) = self.live(key) {
            live.note_heard(now);
            live.follow_peer(now, handled, &mut desk);
            if live.is_renewing() {
                // Have the deadline taken up.
                self.next_timeout = Some(now);
            }
        }
        let Some(session) = self.sessions.get_mut(&key) else { return Err(DropReason::UnknownSession) };
        while let Some((tls, bytes)) = session.channel.poll_tls() {
            self.tls.push_back((tls, TlsInput::Ciphertext(bytes)));
        }
        self.dirty.insert(key);
        self.advance(now, key);
        Ok(())
    }

    /// The live part of a connected session, and what its renewals work with.
    fn live(&mut self, key: SessionKey) -> Option<(&mut Live, Desk<'_>)> {
        let Session { channel, phase: Phase::Connected { live, .. }, .. } = self.sessions.get_mut(&key)? else {
            return None;
        };
        let desk = Desk {
            channel,
            tls: &mut self.tls,
            rng: &mut *self.rng,
            events: &mut self.events,
            counters: &mut self.counters,
        };
        Some((live, desk))
    }

    fn handle_message(&mut self, now: Instant, key: SessionKey, message: &[u8]) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        match &mut session.phase {
            Phase::KeyExchange { deadline, tls } => {
                let (deadline, tls) = (*deadline, (**tls).clone());
                self.admit(now, key, deadline, tls, message);
            }
            Phase::Deciding(_) | Phase::Settling { .. } | Phase::Connected { .. } => {
                let mut commands: Vec<&[u8]> = message.split(|&byte| byte == 0).collect();
                // What follows the last NUL was not terminated, and is ignored like stock peers do.
                commands.pop();
                for command in commands {
                    match command {
                        b"PUSH_REQUEST" => self.want_push(now, key),
                        b"EXIT" => self.end(now, key, EndReason::PeerExit),
                        _ => {}
                    }
                }
            }
            Phase::Handshake { .. } | Phase::Ended { .. } => {}
        }
    }

    fn want_push(&mut self, now: Instant, key: SessionKey) {
        match self.sessions.get_mut(&key).map(|session| &mut session.phase) {
            Some(Phase::Deciding(candidate)) => candidate.wanted = true,
            Some(Phase::Settling { wanted, .. }) => *wanted = true,
            _ => {}
        }
        self.advance(now, key);
    }

    /// Connects a settled session: everything of the key exchange is acknowledged and the push is wanted. Its keys are
    /// in place before the push is out, because the client may send data at once.
    fn advance(&mut self, now: Instant, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        if !session.channel.is_settled() || !matches!(session.phase, Phase::Settling { wanted: true, .. }) {
            return;
        }
        match std::mem::replace(&mut session.phase, Phase::Ended { until: now }) {
            Phase::Settling { peer, live, push, .. } => {
                let tls = session.channel.current();
                for message in push {
                    session.channel.expect_record(tls);
                    self.tls.push_back((tls, TlsInput::Message(message)));
                }
                self.events.push_back(Event::Connected(peer.connected.clone()));
                self.counters.handshakes_completed += 1;
                if session.remote.transport == Transport::Udp {
                    self.rate.1 = self.rate.1.saturating_sub(1);
                }
                session.phase = Phase::Connected { peer, live };
                self.succeed(now, key);
            }
            other => session.phase = other,
        }
        self.next_timeout = Some(now);
    }

    // Ends

    /// Queues what tells a connected peer that we leave.
    fn say_goodbye(&mut self, now: Instant, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let Phase::Connected { peer, live } = &mut session.phase else { return };
        // While a key is in the making, the peer may have left the TLS connection that a command would go over.
        if (!peer.cc_exit || live.is_renewing())
            && let Ok(datagram) = live.message(now, &Payload::exit())
        {
            self.outbox.push_back((session.remote, datagram));
        }
        if peer.cc_exit {
            let tls = session.channel.current();
            session.channel.expect_record(tls);
            self.tls.push_back((tls, TlsInput::Message(b"EXIT\0".to_vec())));
        }
        self.dirty.insert(key);
    }

    /// Ends a session for everyone else; its control channel lingers to acknowledge and to deliver last words.
    fn end(&mut self, now: Instant, key: SessionKey, reason: EndReason) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let remote = session.remote;
        match std::mem::replace(&mut session.phase, Phase::Ended { until: now + LINGER }) {
            Phase::Ended { until } => session.phase = Phase::Ended { until },
            Phase::Connected { peer, live } => {
                self.release(key, &peer);
                self.counters.traffic.add(&live.traffic());
                let PeerConnected { peer, identity, .. } = peer.connected;
                self.events.push_back(Event::Disconnected { peer, identity, reason });
            }
            Phase::Settling { peer, .. } => {
                self.release(key, &peer);
                self.fail(remote, reason);
            }
            Phase::Handshake { .. } | Phase::KeyExchange { .. } | Phase::Deciding(_) => self.fail(remote, reason),
        }
        self.next_timeout = Some(now);
    }

    fn fail(&mut self, remote: Underlay, reason: EndReason) {
        self.counters.handshakes_failed += 1;
        self.events.push_back(Event::HandshakeFailed { remote, reason });
    }

    /// Gives back a peer's places in the tables.
    fn release(&mut self, key: SessionKey, peer: &Peer) {
        if let Some(place) = self.by_peer.get_mut(peer.connected.peer as usize) {
            *place = None;
            self.admitted = self.admitted.saturating_sub(1);
        }
        for address in peer.addresses() {
            if self.by_address.get(&address) == Some(&key) {
                self.by_address.remove(&address);
                if let Some(newer) = self.holder_of(address) {
                    self.by_address.insert(address, newer);
                }
            }
        }
        if self.by_remote.get(&peer.connected.remote) == Some(&key) {
            self.by_remote.remove(&peer.connected.remote);
        }
    }

    fn remove(&mut self, key: SessionKey) {
        self.dirty.remove(&key);
        self.probed.remove(&key);
        let Some(session) = self.sessions.remove(&key) else { return };
        let source = session.channel.remote().map(|sender| (session.remote, sender));
        if let Some(source) = source.filter(|source| self.by_source.get(source) == Some(&key)) {
            self.by_source.remove(&source);
        }
        for tls in session.channel.next().into_iter().chain([session.channel.current()]) {
            self.tls.push_back((tls, TlsInput::Close));
        }
    }
}
