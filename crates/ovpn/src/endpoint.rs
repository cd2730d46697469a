//! What the two roles have in common to the outside: the calls of a driver, and the values that pass through them.
//!
//! The driver owns sockets, clocks and TLS. In any order it calls `handle_*` with what happened and the time, and
//! after that drains the `poll_*` until they give nothing:
//!
//! - [`Endpoint::poll_tls`]: work for a TLS connection,
//! - [`Endpoint::poll_transmit`]: datagrams to send,
//! - [`Endpoint::poll_probe`]: datagrams to send in one piece,
//! - [`Endpoint::poll_event`]: news for whoever started the tunnel,
//! - [`Endpoint::poll_timeout`]: when to call [`Endpoint::handle_timeout`] if nothing else happens.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::{Range, RangeInclusive};
use std::time::{Duration, Instant};

use crate::batch::{Batch, Packets};
use crate::data::Cipher;
use crate::drops::{DropReason, Drops};
use crate::key_method2::KeyMethodError;
use crate::keys::{KeyBlock, KeyDerivation};
use crate::login::Advance;
use crate::path_mtu::PathMtu;
pub use crate::push::Configured;
use crate::push::PushError;
use crate::static_key::StaticKey;
use crate::underlay::Underlay;

/// Names a session to the driver. Never reused by an endpoint.
pub type SessionKey = u64;

/// Names a TLS connection to the driver. Every key of a session is made over a connection of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TlsKey {
    /// The session.
    pub session: SessionKey,
    /// Counts the session's key exchanges, also those that fail, from 0.
    pub generation: u32,
}

/// Number of a peer in data packets; for a client's only peer it is what the server pushed.
pub type PeerId = u32;

/// How often a side shows life, and how long it bears silence. Zero switches either off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Idle time after which a ping is sent.
    pub ping: Duration,
    /// Silence after which the session counts as dead.
    pub ping_restart: Duration,
}

/// When data keys are renewed while data flows, and what that may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RenewalLimits {
    /// Age of a key at which this side renews it (`reneg-sec`); zero leaves it to the peer. A server takes up to a tenth
    /// off at random, so that its clients do not come all at once.
    pub after: Duration,
    /// Packets under one key, both ways, after which this side renews it (`reneg-pkts`).
    pub packets: Option<u64>,
    /// Bytes under one key, both ways, after which this side renews it (`reneg-bytes`).
    pub bytes: Option<u64>,
    /// From the first packet of a key to its use (`hand-window`), for a session's first key too.
    pub hand_window: Duration,
    /// How long a key is still good after its successor was begun (`tran-window`).
    pub overlap: Duration,
}

impl Default for RenewalLimits {
    fn default() -> Self {
        Self {
            after: Duration::from_secs(3600),
            packets: None,
            bytes: None,
            hand_window: Duration::from_secs(60),
            overlap: Duration::from_secs(3600),
        }
    }
}

/// Largest IP datagram of the control channel unless something else is set, bytes; stock peers have the same.
pub const DEFAULT_MAX_PACKET_SIZE: u16 = 1250;

/// What may be set instead (`max-packet-size`), bytes; as stock's.
pub const MAX_PACKET_SIZES: RangeInclusive<u16> = 154..=2048;

/// Who a peer is, from a certificate that was verified.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Common name of the subject; empty if there is none.
    pub common_name: String,
    /// URIs among the subject alternative names.
    pub san_uris: Vec<String>,
}

impl Identity {
    /// Whether `name` is one of the URIs or the common name.
    #[must_use]
    pub fn is_named(&self, name: &str) -> bool {
        self.san_uris.iter().any(|uri| uri == name) || self.common_name == name
    }
}

/// A TLS session that is up and whose peer was verified.
#[derive(Clone, Debug)]
pub struct TlsSession {
    /// Exported under [`crate::keys::EXPORTER_LABEL`].
    pub exporter: KeyBlock,
    /// Exported under [`crate::keys::DYNAMIC_TLS_CRYPT_LABEL`]; only that of a session's first key is used.
    pub dynamic_tls_crypt: StaticKey,
    /// Who the peer is.
    pub identity: Identity,
    /// Version as the TLS library names it, for status and logs.
    pub version: String,
}

/// What a session wants from one of its TLS connections.
#[derive(Debug)]
pub enum TlsInput {
    /// Begin the handshake.
    Start,
    /// Bytes of the TLS stream, received in order.
    Ciphertext(Vec<u8>),
    /// Encrypt as one record.
    Message(Vec<u8>),
    /// The session is gone, or has a newer key.
    Close,
}

/// What a TLS connection has for its session.
#[derive(Debug)]
pub enum TlsOutput {
    /// Bytes of the TLS stream to deliver.
    Ciphertext(Vec<u8>),
    /// The handshake is done and the peer is verified.
    Established(Box<TlsSession>),
    /// The contents of one record.
    Message(Vec<u8>),
    /// It cannot go on; says why.
    Failed(String),
}

/// What became of a datagram.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// It concerned the endpoint only.
    Consumed,
    /// A packet for the device stands at this range of the datagram.
    Packet(Range<usize>),
    /// A packet for another peer stands there: it goes out again by [`Endpoint::seal`].
    Forward(Range<usize>),
}

/// Why a session ended or never came to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndReason {
    /// The peer never answered.
    #[error("no answer: the other end is down, unreachable, or has another tls-crypt key")]
    NoAnswer,
    /// The handshake took longer than its window.
    #[error("the handshake did not complete in time")]
    HandshakeTimeout,
    /// TLS failed: wrong certificate authority, expired, wrong identity, or a protocol error.
    #[error("TLS failed: {0}")]
    Tls(String),
    /// The key exchange message was refused.
    #[error("the key exchange failed: {0}")]
    KeyExchange(#[from] KeyMethodError),
    /// The push could not be followed.
    #[error("the push was refused: {0}")]
    Push(#[from] PushError),
    /// The server refuses us, and would do so again.
    #[error("the server refused this client: {0}")]
    AuthFailed(String),
    /// The server does not take the token that it gave us; the next session shows the password again.
    #[error("the server wants the password again: {0}")]
    TokenRefused(String),
    /// The server cannot take us now.
    #[error("the server refused this client for now: {text}")]
    RefusedForNow {
        /// The server's words.
        text: String,
        /// How long it wants us to wait.
        backoff: Option<Duration>,
        /// Where it wants us to try again.
        advance: Advance,
    },
    /// The client's user name or password was not taken.
    #[error("the login was refused: {0}")]
    LoginRefused(String),
    /// A client's login cannot be judged now.
    #[error("the login was put off: {0}")]
    LoginPutOff(String),
    /// Nobody decided about the client's login in time.
    #[error("nobody decided about the login in time")]
    LoginUndecided,
    /// The client shares no cipher with us.
    #[error("no shared data cipher")]
    NoSharedCipher,
    /// The certificate is good, but nobody we have an address for.
    #[error("no address is assigned to this identity")]
    NotListed,
    /// Every address or place is taken.
    #[error("all addresses or places are taken")]
    Full,
    /// Nothing was heard for the time of ping-restart.
    #[error("nothing heard for the time of ping-restart")]
    PingTimeout,
    /// The peer said goodbye.
    #[error("the peer left")]
    PeerExit,
    /// The server told us to start over.
    #[error("the server wants a new session: {text}")]
    ServerRestart {
        /// The server's words.
        text: String,
        /// Whether the next remote is to be tried.
        next_remote: bool,
    },
    /// The server told us to stop.
    #[error("the server told this client to stop: {0}")]
    ServerHalt(String),
    /// A newer session of the same identity or address took over.
    #[error("replaced by a newer session")]
    Replaced,
    /// The connection that carried the session was closed, by the peer or on the way.
    #[error("the connection was closed")]
    ConnectionClosed,
    /// No connection came to be that could carry a session.
    #[error("cannot connect: {0}")]
    NotReached(String),
    /// A key reached its limit of use, or its end after a renewal that failed.
    #[error("the keys reached their limit of use and were not renewed")]
    KeyExhausted,
    /// The peer shows another certificate than when it connected.
    #[error("the peer changed its identity")]
    IdentityChanged,
    /// We ended it.
    #[error("ended here")]
    Local,
}

/// Whether and where a client connects anew after a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// By its own rules.
    Usual,
    /// As the server said.
    Told {
        /// How long to wait first.
        wait: Duration,
        /// Where to.
        advance: Advance,
    },
    /// Not by itself: the server would refuse it again.
    Never,
}

/// Bounds of the time that a server may make a client wait, so that it neither is asked all the time nor locks us out.
const BACKOFF: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

impl EndReason {
    /// What a client does next.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::AuthFailed(_) | Self::ServerHalt(_) => Retry::Never,
            Self::TokenRefused(_) => Retry::Told { wait: *BACKOFF.start(), advance: Advance::No },
            Self::RefusedForNow { backoff, advance, .. } => Retry::Told {
                wait: backoff.unwrap_or_default().clamp(*BACKOFF.start(), *BACKOFF.end()),
                advance: *advance,
            },
            Self::ServerRestart { next_remote: true, .. } => {
                Retry::Told { wait: Duration::ZERO, advance: Advance::Remote }
            }
            _ => Retry::Usual,
        }
    }
}

/// A peer that is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConnected {
    /// Its number.
    pub peer: PeerId,
    /// Who it is.
    pub identity: Identity,
    /// Where it is.
    pub remote: Underlay,
    /// Its address inside of the tunnel, where known: on the server what it was assigned, on the client the gateway.
    pub address: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub address_ipv6: Option<Ipv6Addr>,
    /// The data cipher.
    pub cipher: Cipher,
    /// How the keys were made.
    pub key_derivation: KeyDerivation,
    /// TLS version.
    pub tls_version: String,
    /// What the peer says it runs; cleaned, untrusted.
    pub software: String,
}

/// News from an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Client: the server waits for something else before it lets us in, such as a second factor.
    LoginPending {
        /// How long that may take.
        timeout: Duration,
    },
    /// Client: words of the server for the person who uses it, cleaned. May be a web address to go to
    /// (`WEB_AUTH:flags:URL`, `OPEN_URL:URL`).
    Info(String),
    /// Client: comes right before its [`Event::Connected`].
    Configured(Configured),
    /// Data flows.
    Connected(PeerConnected),
    /// A connected peer is gone.
    Disconnected {
        /// Its number.
        peer: PeerId,
        /// Who it was.
        identity: Identity,
        /// Why.
        reason: EndReason,
    },
    /// Server: a connected peer sends from another address now.
    Floated {
        /// Its number.
        peer: PeerId,
        /// Where it is now.
        remote: Underlay,
    },
    /// A connected peer has a new key.
    Renewed {
        /// Its number.
        peer: PeerId,
        /// Id of the new key, 1..=7.
        key_id: u8,
    },
    /// What the path to a connected peer carries is known, or has changed.
    PathMtu {
        /// Number of the peer.
        peer: PeerId,
        /// What it carries.
        path_mtu: PathMtu,
    },
    /// A new key did not come to be. The old one stays in use, and another attempt follows.
    RenewalFailed {
        /// Number of the peer.
        peer: PeerId,
        /// Why.
        reason: EndReason,
    },
    /// A session ended before data flowed.
    HandshakeFailed {
        /// Where it came from, or went to.
        remote: Underlay,
        /// Why.
        reason: EndReason,
    },
}

/// Payload carried for a peer, inner packets only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets from the peer.
    pub received_packets: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Packets to the peer.
    pub sent_packets: u64,
    /// Their bytes.
    pub sent_bytes: u64,
}

impl Traffic {
    /// Adds all counters of `other`.
    pub fn add(&mut self, other: &Self) {
        self.received_packets += other.received_packets;
        self.received_bytes += other.received_bytes;
        self.sent_packets += other.sent_packets;
        self.sent_bytes += other.sent_bytes;
    }
}

/// A connected peer, as it stands now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// What was reported when it connected.
    pub connected: PeerConnected,
    /// When that was.
    pub since: Instant,
    /// When an authenticated packet of it was last received.
    pub last_heard: Instant,
    /// What was carried.
    pub traffic: Traffic,
    /// What the path to it carries in one piece, where that is known.
    pub path_mtu: Option<PathMtu>,
}

/// Counters of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sessions that ended before data flowed.
    pub handshakes_failed: u64,
    /// Sessions that came up.
    pub handshakes_completed: u64,
    /// New keys of connected peers.
    pub renewals_completed: u64,
    /// New keys of connected peers that did not come to be.
    pub renewals_failed: u64,
    /// Dropped packets.
    pub drops: Drops,
    /// Payload of all peers since the endpoint was made, including those that are gone.
    pub traffic: Traffic,
}

/// A client or a server, without I/O. See the module's documentation for the order of calls.
pub trait Endpoint {
    /// Takes a datagram, which is opened in place. Drops are counted already.
    ///
    /// # Errors
    /// Says why it was dropped.
    fn handle_datagram(&mut self, now: Instant, from: Underlay, datagram: &mut [u8]) -> Result<Received, DropReason>;

    /// Seals packets from the device, or of a peer for another, for which `out` must have room ([`Batch::has_room`]). Drops are counted already.
    ///
    /// # Errors
    /// Says why the packets were dropped, from the first that could not be sealed on.
    fn seal(&mut self, now: Instant, packets: &mut dyn Packets, out: &mut Batch) -> Result<(), DropReason>;

    /// The connection with `at` is closed: what went on over it ends at once. Nothing more is sent there.
    fn handle_closed(&mut self, now: Instant, at: Underlay);

    /// Whether the connection with `at` is still of use: it carries a session, or last words that the peer does not
    /// have yet.
    fn needs(&self, at: Underlay) -> bool;

    /// Takes what a TLS connection has for its session. Output of one that was closed is ignored.
    fn handle_tls(&mut self, now: Instant, key: TlsKey, output: TlsOutput);

    /// Does what is due by `now`.
    fn handle_timeout(&mut self, now: Instant);

    /// Work for a TLS connection.
    fn poll_tls(&mut self) -> Option<(TlsKey, TlsInput)>;

    /// The next datagram, written to `out`, and where it goes.
    fn poll_transmit(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<Underlay>;

    /// The next datagram that must go out in one piece or not at all, written to `out`, and where it goes. When it is too
    /// long for our own link, [`Endpoint::handle_too_long`] follows at once.
    fn poll_probe(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<Underlay>;

    /// The last datagram of [`Endpoint::poll_probe`] is too long for our own link.
    fn handle_too_long(&mut self, now: Instant, to: Underlay);

    /// Something says that packets to `to` may be too long for the path by now.
    fn doubt_path(&mut self, now: Instant, to: Underlay);

    /// The next event.
    fn poll_event(&mut self) -> Option<Event>;

    /// When to call [`Endpoint::handle_timeout`]. May be earlier than needed.
    fn poll_timeout(&self) -> Option<Instant>;

    /// Ends all sessions with a goodbye to their peers; poll on until [`Endpoint::is_flushed`] or a deadline.
    fn shut_down(&mut self, now: Instant);

    /// After [`Endpoint::shut_down`]: whether every peer has the goodbye.
    fn is_flushed(&self) -> bool;

    /// Counts packets that were dropped around the endpoint.
    fn count_drops(&mut self, reason: DropReason, packets: usize);

    /// The counters.
    fn counters(&self) -> Counters;

    /// The connected peers.
    fn peers(&self) -> Vec<PeerStatus>;
}
