//! What a tunnel reports and obeys. Plain data that could cross a process boundary.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

pub use ovpn::drops::{DropReason, Drops};
pub use ovpn::endpoint::{Configured, EndReason, Identity, PeerConnected, PeerId, TlsKey, Traffic};
pub use ovpn::keys::KeyDerivation;
pub use ovpn::path_mtu::PathMtu;
pub use ovpn::push::{
    Dns, DnsAddress, DnsServer, DnsTransport, Dnssec, Ifconfig, Ipv6Ifconfig, PushedIpv6Route, PushedRoute, Redirect,
    RouteGateway,
};
pub use ovpn::server::Notice;
pub use ovpn::underlay::{Transport, Underlay};

use ovpn::endpoint::{Counters, PeerStatus};
use ovpn::login::{Decision, LoginRequest};
use tokio::sync::{mpsc, watch};

use crate::config::{ControlProtection, TlsMaterial};
use crate::path::{DataPath, IoCounters};

/// News from a tunnel, in the order they happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Listener: peers are served here. Comes once for each transport.
    Listening {
        /// The bound address.
        address: Underlay,
    },
    /// Dialer: an attempt begins.
    Connecting {
        /// Where to.
        remote: Underlay,
    },
    /// Dialer: a name did not resolve; another attempt follows.
    Unresolved {
        /// The remote as configured.
        remote: String,
        /// Why.
        reason: String,
    },
    /// Dialer: the server waits for something else before it lets us in, such as a second factor.
    LoginPending {
        /// How long that may take.
        timeout: Duration,
    },
    /// Dialer: words of the server for the person who uses it, cleaned; perhaps a web address to go to
    /// (`WEB_AUTH:flags:URL`).
    Info(String),
    /// Dialer: what to set on the device. Comes right before a [`Event::PeerConnected`], the first one and each that
    /// changes it.
    Configured(Configured),
    /// A [`Command::Identify`] was obeyed, or why not: then all is as it was.
    Identified(Result<(), String>),
    /// Data flows. A dialer whose way to the peer changes, to TCP for instance, reports it once more, without a
    /// [`Event::PeerDisconnected`] before: there is no gap. A listener reports the newer session of a peer first, and the
    /// end of the older one after it.
    PeerConnected(PeerConnected),
    /// A connected peer is gone.
    PeerDisconnected {
        /// Its number.
        peer: PeerId,
        /// Who it was.
        identity: Identity,
        /// Why.
        reason: EndReason,
    },
    /// A handshake ended without success. The listener is up as before; a dialer tries again.
    HandshakeFailed {
        /// The other end.
        remote: Underlay,
        /// Why.
        reason: EndReason,
    },
}

impl Event {
    /// What of an endpoint's news is an event here. The rest, which changes nothing for whoever runs the tunnel, goes to
    /// the log.
    pub(crate) fn from_endpoint(event: ovpn::endpoint::Event) -> Option<Self> {
        use ovpn::endpoint::Event as Inner;
        Some(match event {
            Inner::Floated { peer, remote } => {
                tracing::info!(peer, %remote, "the peer has another address now");
                return None;
            }
            Inner::Renewed { peer, key_id } => {
                tracing::debug!(peer, key_id, "the tunnel has new keys");
                return None;
            }
            Inner::RenewalFailed { peer, reason } => {
                tracing::warn!(peer, %reason, "the tunnel's keys were not renewed; it goes on with the old ones and tries again");
                return None;
            }
            Inner::PathMtu { peer, path_mtu } => {
                let PathMtu { outside, inside } = path_mtu;
                tracing::info!(peer, outside, inside, "the path to the peer carries packets of so many bytes");
                return None;
            }
            Inner::LoginPending { timeout } => Self::LoginPending { timeout },
            Inner::Info(text) => Self::Info(text),
            Inner::Configured(configured) => Self::Configured(configured),
            Inner::Connected(peer) => Self::PeerConnected(peer),
            Inner::Disconnected { peer, identity, reason } => Self::PeerDisconnected { peer, identity, reason },
            Inner::HandshakeFailed { remote, reason } => Self::HandshakeFailed { remote, reason },
        })
    }
}

/// Who a running tunnel is from now on, and whom it trusts. Settings and names that were given at its start stay.
#[derive(Clone, Debug)]
pub struct TunnelIdentity {
    /// Certificates. Several authorities may be trusted at a time.
    pub tls: TlsMaterial,
    /// As [`crate::TunnelConfig::crl`].
    pub crl: Option<PathBuf>,
    /// How the control channel of new sessions is protected.
    pub protection: ControlProtection,
}

/// What a running tunnel can be told.
#[derive(Clone, Debug)]
pub enum Command {
    /// Begin sessions, and renewals of keys, with another identity from now on. Sessions go on: each shows the new certificate with its
    /// next renewal; but a dialer's with a server that is not ours, which may not take that, is left for a new one. What became of it is told by [`Event::Identified`].
    Identify(Box<TunnelIdentity>),
    /// Dialer: end the session, if there is one, and connect anew at once.
    Reconnect,
    /// Listener: send a peer away with a goodbye. It may come back.
    Disconnect {
        /// Its number.
        peer: PeerId,
    },
    /// Listener: tell a peer something, which may end its session.
    Notify {
        /// Its number.
        peer: PeerId,
        /// What.
        notice: Notice,
    },
    /// Listener: what becomes of a login.
    Decide {
        /// That of the [`crate::LoginRequest`].
        login: TlsKey,
        /// The decision.
        decision: Decision,
    },
}

/// The state of a tunnel, published right before each event and every second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Connected peers.
    pub peers: Vec<PeerSnapshot>,
    /// What the MTU of the device should be by the paths to the peers, bytes: the least that any of them carries, though
    /// not below 1280. `None` as long as no path is known: then it is [`crate::TunnelConfig::tun_mtu`] or, on a dialer,
    /// [`Configured::mtu`].
    pub mtu: Option<u16>,
    /// Inner packets and bytes of all peers since the start, including those that are gone.
    pub traffic: Traffic,
    /// Sessions that came up.
    pub handshakes_completed: u64,
    /// Handshakes that failed.
    pub handshakes_failed: u64,
    /// New keys of connected peers.
    pub renewals_completed: u64,
    /// New keys of connected peers that did not come to be.
    pub renewals_failed: u64,
    /// Dropped packets by reason.
    pub drops: Drops,
    /// How packets pass between the device and the sockets now.
    pub data_path: DataPath,
    /// System calls of the data path and what they carried.
    pub io: IoCounters,
    /// When the first of the revocation lists ends, and with it every handshake; `None` without such lists.
    pub crl_next_update: Option<SystemTime>,
}

/// A connected peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSnapshot {
    /// Who, where and how.
    pub peer: PeerConnected,
    /// When it connected.
    pub since: SystemTime,
    /// When an authenticated packet of it was last received.
    pub last_heard: SystemTime,
    /// What was carried for it.
    pub traffic: Traffic,
    /// What the path to it carries in one piece, where that was discovered: over UDP, to a peer that takes part.
    pub path_mtu: Option<PathMtu>,
}

impl Snapshot {
    /// `base` is what earlier sessions of a dialer had counted.
    pub(crate) fn new(base: &Counters, counters: &Counters, peers: Vec<PeerStatus>) -> Self {
        let mut sum = base.clone();
        add(&mut sum, counters);
        Self {
            mtu: crate::mtu::of_paths(&peers),
            peers: peers.into_iter().map(PeerSnapshot::new).collect(),
            traffic: sum.traffic,
            handshakes_completed: sum.handshakes_completed,
            handshakes_failed: sum.handshakes_failed,
            renewals_completed: sum.renewals_completed,
            renewals_failed: sum.renewals_failed,
            drops: sum.drops,
            data_path: DataPath::default(),
            io: IoCounters::default(),
            crl_next_update: None,
        }
    }

    /// The address that the peer with this number has inside of the tunnel.
    #[must_use]
    pub fn address_of(&self, peer: PeerId) -> Option<Ipv4Addr> {
        self.peers.iter().find(|status| status.peer.peer == peer).and_then(|status| status.peer.address)
    }
}

impl PeerSnapshot {
    fn new(status: PeerStatus) -> Self {
        let (now, clock) = (Instant::now(), SystemTime::now());
        let date = |at: Instant| clock.checked_sub(now.saturating_duration_since(at)).unwrap_or(clock);
        Self {
            since: date(status.since),
            last_heard: date(status.last_heard),
            peer: status.connected,
            traffic: status.traffic,
            path_mtu: status.path_mtu,
        }
    }
}

pub(crate) fn add(sum: &mut Counters, counters: &Counters) {
    sum.handshakes_completed += counters.handshakes_completed;
    sum.handshakes_failed += counters.handshakes_failed;
    sum.renewals_completed += counters.renewals_completed;
    sum.renewals_failed += counters.renewals_failed;
    sum.drops.add(&counters.drops);
    sum.traffic.add(&counters.traffic);
}

/// The near ends of a tunnel's channels: what whoever started it has.
pub(crate) struct Channels {
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) snapshot: watch::Receiver<Snapshot>,
    pub(crate) logins: mpsc::Receiver<LoginRequest>,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) pulse: watch::Receiver<u64>,
}

/// Their far ends.
pub(crate) struct Outlets {
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) snapshot: watch::Sender<Snapshot>,
    pub(crate) logins: mpsc::Sender<LoginRequest>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) pulse: watch::Sender<u64>,
}

/// The channels of a tunnel.
pub(crate) fn channels() -> (Channels, Outlets) {
    let (event_sender, events) = mpsc::channel(64);
    let (snapshot_sender, snapshot) = watch::channel(Snapshot::default());
    let (commands, command_receiver) = mpsc::channel(16);
    let (login_sender, logins) = mpsc::channel(64);
    let (pulse_sender, pulse) = watch::channel(0);
    let outlets = Outlets {
        events: event_sender,
        snapshot: snapshot_sender,
        logins: login_sender,
        commands: command_receiver,
        pulse: pulse_sender,
    };
    (Channels { events, snapshot, logins, commands, pulse }, outlets)
}
