//! What a tunnel is told when it starts. Plain data that could cross a process boundary.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

pub use ovpn::auth_token::{TokenKey, Tokens};
pub use ovpn::data::{Cipher, DataSettings};
use ovpn::endpoint::DEFAULT_MAX_PACKET_SIZE;
pub use ovpn::endpoint::{Keepalive, RenewalLimits};
use ovpn::keys::KeyDerivation;
pub use ovpn::login::{Admission, Advance, CertificateDemand, Credentials, Decision, LoginRequest, Secret};
pub use ovpn::mss::MssFix;
pub use ovpn::protection::{AuthDigest, KeyDirection, ServerV2, SharedKey, TlsAuth, UnknownDigest};
use ovpn::protection::{ClientProtection, ServerProtection};
pub use ovpn::push::{FilterAction, Ipv4Prefix, Ipv6Prefix, PrefixError, PullFilter, PullRules, PushSet, PushSetError};
pub use ovpn::server::{BetweenPeers, StaticPeer};
pub use ovpn::static_key::{StaticKey, StaticKeyError};
pub use ovpn::tls_crypt_v2::{ClientKey, KeyError, Metadata, ServerKey};
use ovpn::underlay::Transport;
use tokio::sync::mpsc;

use crate::certificates::{Clock, Fingerprint, NameCheck};
use crate::path::Offload;

/// Everything a tunnel needs to know.
#[derive(Clone, Debug)]
pub struct TunnelConfig {
    /// Listen or dial.
    pub mode: Mode,
    /// Certificates.
    pub tls: TlsMaterial,
    /// Lowest TLS version that is spoken.
    pub tls_version_min: TlsVersion,
    /// Highest TLS version that is spoken; `None` for the highest there is.
    pub tls_version_max: Option<TlsVersion>,
    /// Whether a peer's certificate must be marked for its role (key usage present, and extended key usage of a TLS
    /// server for a dialer, of a TLS client for a listener). Without it such marks must not contradict the role.
    pub remote_cert_tls: bool,
    /// The only certificates that peers may have; empty for any. With them [`TlsMaterial::ca_pem`] may be empty: then
    /// certificates need no authority, and are taken by their fingerprint while they are valid.
    pub peer_fingerprints: Vec<Fingerprint>,
    /// PEM file of the authorities' lists of revoked certificates. It is looked at every second and when a handshake
    /// begins. Who is on it is refused, and disconnected where connected; who would have to be on a list that has ended is
    /// refused. A file that cannot be used stops the start; later the lists that were read before go on.
    pub crl: Option<PathBuf>,
    /// What time it is for certificates and revocation lists.
    pub clock: Clock,
    /// How the control channel is protected. Never negotiated: both ends must be told the same.
    pub protection: ControlProtection,
    /// Data ciphers, best first. The listener's order decides.
    pub data_ciphers: Vec<Cipher>,
    /// The best way to make keys that is announced or chosen. [`KeyDerivation::Prf`] is for what cannot export.
    pub key_derivation: KeyDerivation,
    /// MTU of the device in bytes, 576..=[`MAX_MTU`]. A listener pushes it to peers that can take it; a dialer uses it
    /// when nothing is pushed. 1420 and less fits into one unfragmented datagram on most links.
    pub tun_mtu: u16,
    /// Dialer: the largest MTU that may be pushed, bytes, up to [`MAX_MTU`].
    pub max_mtu: u16,
    /// Whether the MTU of the path is discovered over UDP, with peers that do that too, so that [`crate::Snapshot::mtu`] and
    /// what [`MssFix::Datagram`] says follow it, up to [`MAX_MTU`]. Without it `tun_mtu` is what counts.
    pub path_mtu: bool,
    /// Dialer: whether `tun_mtu`, what may be pushed instead and [`MssFix::Datagram`] are lowered to what the host's route to
    /// the server carries without fragments, at each session anew.
    pub fit_route: bool,
    /// Signs of life, in whole seconds. A listener pushes both values to its peers and itself waits twice `ping_restart`.
    pub keepalive: Keepalive,
    /// When keys are renewed while data flows.
    pub renewal: RenewalLimits,
    /// Whether renewals are wrapped under keys of the session (dynamic tls-crypt) when the other end can do that too.
    pub dynamic_tls_crypt: bool,
    /// Whether data packets are in the epoch format, which renews its keys by itself, when the other end can do that too.
    pub epochs: bool,
    /// Whether data packets carry the number of the peer when the other end can do that too. Without it a listener finds
    /// peers by their address only, and a dialer announces nothing of what came after it.
    pub peer_ids: bool,
    /// Whether `EXIT` on the control channel and `protocol-flags` are announced and used. Without them, goodbyes go over
    /// the data channel; a dialer then has neither dynamic tls-crypt nor the epoch format. For tests.
    pub control_exit: bool,
    /// Dialer: a user name and password to show beside the certificate or instead of it. At most 127 bytes each.
    pub login: Option<Credentials>,
    /// Dialer: how long after a final refusal (wrong password, no place for us, told to stop) it tries again. Without, the
    /// tunnel ends with [`crate::Error::Refused`].
    pub after_refusal: Option<Duration>,
    /// Listener: how peers show who they are.
    pub admission: Admission,
    /// The digest of old ciphers, the cipher of last resort, and the size of TCP segments.
    pub data: DataSettings,
    /// Largest IP datagram of the control channel, [`ovpn::endpoint::MAX_PACKET_SIZES`]. Less than 1250 is for paths on
    /// which handshakes hang although small packets get through.
    pub max_packet_size: u16,
    /// What a dialer takes of the push.
    pub pull: PullRules,
    /// Which of the kernel's offloads packets go by.
    pub offload: Offload,
}

/// Largest MTU of the device, bytes; also what a server may push.
pub const MAX_MTU: u16 = 9000;

impl TunnelConfig {
    /// Defaults for everything but who and where: TLS 1.2 or later, certificates checked for their role, every cipher,
    /// MTU 1420 until the path is known, a ping after 5 s of silence, dead after 20 s, and new keys every hour.
    #[must_use]
    pub fn new(mode: Mode, tls: TlsMaterial, protection: impl Into<ControlProtection>) -> Self {
        Self {
            mode,
            tls,
            tls_version_min: TlsVersion::V1_2,
            tls_version_max: None,
            remote_cert_tls: true,
            peer_fingerprints: Vec::new(),
            crl: None,
            clock: Clock::default(),
            protection: protection.into(),
            data_ciphers: Cipher::ALL.to_vec(),
            key_derivation: KeyDerivation::Ekm,
            tun_mtu: 1420,
            max_mtu: MAX_MTU,
            path_mtu: true,
            fit_route: false,
            keepalive: Keepalive { ping: Duration::from_secs(5), ping_restart: Duration::from_secs(20) },
            renewal: RenewalLimits::default(),
            dynamic_tls_crypt: true,
            epochs: true,
            peer_ids: true,
            control_exit: true,
            login: None,
            after_refusal: None,
            admission: Admission::default(),
            data: DataSettings::default(),
            max_packet_size: DEFAULT_MAX_PACKET_SIZE,
            pull: PullRules::default(),
            offload: Offload::default(),
        }
    }

    /// Lets the tunnel fit into the routes that the host has. A dialer's is looked up when it dials
    /// ([`TunnelConfig::fit_route`]). A listener's `tun_mtu` and [`MssFix::Datagram`] are lowered now, to what its default
    /// routes carry without fragments. Neither goes below 1280 for the device, which IPv6 needs.
    pub fn fit_routes(&mut self) {
        match &self.mode {
            Mode::Listen(listen) => crate::mtu::fit_default(listen.bind, &mut self.tun_mtu, &mut self.data.mss_fix),
            Mode::Dial(_) => self.fit_route = true,
        }
    }
}

/// How the control channel is protected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlProtection {
    /// Not at all: anyone may begin a handshake.
    None,
    /// `tls-auth`: packets are authenticated under a key that all ends share.
    TlsAuth(TlsAuth),
    /// `tls-crypt`: they are encrypted too.
    TlsCrypt(StaticKey),
    /// `tls-crypt-v2` of a dialer: encrypted under a key of its own.
    TlsCryptV2(ClientKey),
    /// `tls-crypt-v2` of a listener.
    TlsCryptV2Listener(ServerV2),
}

impl From<Option<StaticKey>> for ControlProtection {
    /// tls-crypt, or nothing.
    fn from(key: Option<StaticKey>) -> Self {
        key.map_or(Self::None, Self::TlsCrypt)
    }
}

impl ControlProtection {
    /// For a dialer; `None` if it is a listener's.
    pub(crate) fn for_client(&self) -> Option<ClientProtection> {
        match self {
            Self::None => Some(ClientProtection::None),
            Self::TlsAuth(auth) => Some(ClientProtection::Shared(SharedKey::TlsAuth(auth.clone()))),
            Self::TlsCrypt(key) => Some(ClientProtection::Shared(SharedKey::TlsCrypt(key.clone()))),
            Self::TlsCryptV2(key) => Some(ClientProtection::TlsCryptV2(key.clone())),
            Self::TlsCryptV2Listener(_) => None,
        }
    }

    /// For a listener; `None` if it is a dialer's.
    pub(crate) fn for_server(&self) -> Option<ServerProtection> {
        match self {
            Self::None => Some(ServerProtection::None),
            Self::TlsAuth(auth) => Some(ServerProtection::Shared(SharedKey::TlsAuth(auth.clone()))),
            Self::TlsCrypt(key) => Some(ServerProtection::Shared(SharedKey::TlsCrypt(key.clone()))),
            Self::TlsCryptV2(_) => None,
            Self::TlsCryptV2Listener(v2) => Some(ServerProtection::TlsCryptV2(v2.clone())),
        }
    }
}

/// Which end we are.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "one for each tunnel")]
pub enum Mode {
    /// Wait for peers.
    Listen(Listen),
    /// Connect to a peer, for ever.
    Dial(Dial),
}

/// The listening end.
#[derive(Clone, Debug)]
pub struct Listen {
    /// Where to receive datagrams. `[::]` receives over IPv4 as well.
    pub bind: SocketAddr,
    /// Where to accept connections, if at all; usually the same address.
    pub tcp: Option<SocketAddr>,
    /// Own IPv4 address inside of the tunnel and the tunnel's network; `None` for a tunnel of IPv6 only.
    pub network: Option<Ipv4Prefix>,
    /// Own IPv6 address inside of the tunnel and the tunnel's network; `None` for a tunnel of IPv4 only.
    pub network_ipv6: Option<Ipv6Prefix>,
    /// Peers with addresses or options of their own.
    pub peers: Vec<StaticPeer>,
    /// IPv4 addresses for everyone else whose certificate is good; without a pool only `peers` are served. A peer gets the
    /// address that it had before, as long as nobody else needed it.
    pub pool: Option<RangeInclusive<Ipv4Addr>>,
    /// IPv6 addresses for everyone else.
    pub pool_ipv6: Option<RangeInclusive<Ipv6Addr>>,
    /// What peers are told to set on their hosts: routes, name resolution and more.
    pub push: PushSet,
    /// What becomes of packets from one peer to the address of another.
    pub between_peers: BetweenPeers,
    /// Most peers at a time.
    pub max_peers: usize,
    /// Who takes connections to [`Listen::tcp`] that begin as TLS does and not as a tunnel. Without it, and when it is full,
    /// they are closed.
    pub strangers: Option<mpsc::Sender<Stranger>>,
}

/// A connection to a listener's TCP port that speaks TLS and is no tunnel's.
#[derive(Debug)]
pub struct Stranger {
    /// The connection, not blocking.
    pub socket: TcpStream,
    /// Who connected.
    pub peer: SocketAddr,
    /// What was read of it already.
    pub read: Vec<u8>,
}

impl Listen {
    /// Listens for datagrams on `bind`, in the given network, and as yet for nobody.
    #[must_use]
    pub fn new(bind: SocketAddr, network: Option<Ipv4Prefix>) -> Self {
        Self {
            bind,
            tcp: None,
            network,
            network_ipv6: None,
            peers: Vec::new(),
            pool: None,
            pool_ipv6: None,
            push: PushSet::default(),
            between_peers: BetweenPeers::Drop,
            max_peers: 250,
            strangers: None,
        }
    }
}

/// The dialing end.
#[derive(Clone, Debug)]
pub struct Dial {
    /// Whom to try in this order, at each attempt from the first; names are resolved anew each time.
    pub remotes: Vec<Remote>,
    /// Whose certificate the server must show; `None` takes any that is good.
    pub peer: Option<NameCheck>,
    /// Whether other remotes are tried beside a session, when it falls silent or an earlier remote is to be preferred. Not
    /// where packets to remotes may be led into the tunnel: what is found there ends with the session that leads to it.
    pub beside: bool,
}

/// Where a listener can be reached. Written `HOST:PORT` for UDP, `HOST:PORT/udp` or `HOST:PORT/tcp`; an IPv6 address
/// stands in brackets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Remote {
    /// Name or address, without brackets.
    pub host: String,
    /// 1..=65535.
    pub port: u16,
    /// How.
    pub transport: Transport,
}

/// A text is no [`Remote`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not HOST:PORT, HOST:PORT/udp or HOST:PORT/tcp, as in vps.example.com:1194")]
pub struct RemoteError(String);

impl FromStr for Remote {
    type Err = RemoteError;

    fn from_str(text: &str) -> Result<Self, RemoteError> {
        let read = || {
            let (place, transport) = match text.rsplit_once('/') {
                None => (text, Transport::Udp),
                Some((place, "udp")) => (place, Transport::Udp),
                Some((place, "tcp")) => (place, Transport::Tcp),
                Some(_) => return None,
            };
            let (host, port) = place.rsplit_once(':')?;
            let port = port.parse().ok().filter(|&port| port != 0)?;
            let host = match host.strip_prefix('[') {
                Some(rest) => rest.strip_suffix(']').filter(|host| host.parse::<Ipv6Addr>().is_ok())?,
                None => Some(host).filter(|host| !host.is_empty() && !host.contains(is_foreign_to_names))?,
            };
            Some(Self { host: host.to_owned(), port, transport })
        };
        read().ok_or_else(|| RemoteError(text.to_owned()))
    }
}

fn is_foreign_to_names(c: char) -> bool {
    c.is_whitespace() || c.is_control() || matches!(c, ':' | '/' | '[' | ']')
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, transport } = self;
        if host.contains(':') {
            write!(f, "[{host}]:{port}/{transport}")
        } else {
            write!(f, "{host}:{port}/{transport}")
        }
    }
}

/// Certificates and key, PEM.
#[derive(Clone)]
pub struct TlsMaterial {
    /// Authorities that peers' certificates must chain to. May be empty beside [`TunnelConfig::peer_fingerprints`].
    pub ca_pem: String,
    /// Own certificate, then intermediates. Empty, with the key, for a dialer that shows only a password.
    pub cert_pem: String,
    /// Own private key.
    pub key_pem: secrecy::SecretString,
}

impl fmt::Debug for TlsMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsMaterial(..)")
    }
}

/// A TLS version that may be set as the lowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2
    V1_2,
    /// TLS 1.3
    V1_3,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remotes_are_read_and_written() {
        for (text, shown) in [
            ("vps.example.com:1194", "vps.example.com:1194/udp"),
            ("vps.example.com:1194/tcp", "vps.example.com:1194/tcp"),
            ("192.0.2.1:1/udp", "192.0.2.1:1/udp"),
            ("[2001:db8::1]:65535/tcp", "[2001:db8::1]:65535/tcp"),
        ] {
            let remote: Remote = text.parse().unwrap();
            assert_eq!(remote.to_string(), shown);
            assert_eq!(shown.parse::<Remote>().unwrap(), remote);
        }
        for bad in [
            "",
            "vps",
            ":1194",
            "vps:0",
            "vps:65536",
            "vps:1194/sctp",
            "vps:1194/",
            "a b:1",
            "2001:db8::1:5",
            "[x]:1",
            "[]:1",
            "a/b:1",
        ] {
            assert!(bad.parse::<Remote>().is_err(), "{bad}");
        }
    }
}
