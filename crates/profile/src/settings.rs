//! What a profile says, beside where to connect and what to route.

use std::time::Duration;

use secrecy::SecretString;

use crate::connection::Connection;
use crate::network::{DhcpOption, DnsSettings, Route4, Route6};
use crate::problem::{Note, ProfileErrors};
use ovpn::push::{PullFilter, Redirect};

/// A profile of a client, checked. Where the file is silent stand the defaults of OpenVPN 2.6.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Where to connect, in the order of the file; at least one.
    pub connections: Vec<Connection>,
    /// Whether to shuffle the connections first.
    pub remote_random: bool,
    /// Whether to put a random label in front of host names, against caches.
    pub remote_random_hostname: bool,
    /// How long a name is tried that does not resolve; `None` for ever.
    pub resolve_retry: Option<Duration>,
    /// Name of the device; `None` takes a free one.
    pub device: Option<String>,
    /// Whether the device stays across reconnects.
    pub persist_tun: bool,
    /// Meaning of `ifconfig` when the server pushes no topology.
    pub topology: Topology,
    /// Certificates, and what the server has to show.
    pub tls: TlsSettings,
    /// Ciphers and what surrounds them.
    pub data: DataChannel,
    /// When keys are renewed and handshakes given up.
    pub rekey: Rekey,
    /// Signs of life.
    pub ping: Ping,
    /// User name and password, if the server wants them.
    pub user_pass: Option<UserPass>,
    /// Whether a password is forgotten after use.
    pub auth_nocache: bool,
    /// What to do after the server said no.
    pub auth_retry: AuthRetry,
    /// A second secret to ask for along with the password.
    pub static_challenge: Option<Challenge>,
    /// Whether to tell the server more about this machine.
    pub push_peer_info: bool,
    /// `UV_…`, `IV_GUI_VER` and `IV_SSO` values that the profile wants told to the server.
    pub peer_info: Vec<(String, String)>,
    /// IPv4 destinations to route into the tunnel.
    pub routes4: Vec<Route4>,
    /// IPv6 destinations to route into the tunnel.
    pub routes6: Vec<Route6>,
    /// IPv4 gateway of routes that name none.
    pub route_gateway4: Option<std::net::Ipv4Addr>,
    /// IPv6 gateway of routes that name none.
    pub route_gateway6: Option<std::net::Ipv6Addr>,
    /// Metric of routes that name none.
    pub route_metric: Option<u32>,
    /// How long to wait with routes once the tunnel is up.
    pub route_delay: Duration,
    /// Whether to leave the routing table alone altogether.
    pub route_noexec: bool,
    /// Whether pushed routes and DNS settings are passed over.
    pub route_nopull: bool,
    /// What of the default route goes through the tunnel.
    pub redirect_gateway: Option<Redirect>,
    /// Whether IPv6 into the tunnel is answered with "unreachable".
    pub block_ipv6: bool,
    /// Name resolution in the older dialect.
    pub dhcp_options: Vec<DhcpOption>,
    /// Name resolution in the newer dialect; where it names servers it wins.
    pub dns: DnsSettings,
    /// Which pushed options are taken; the first that matches decides.
    pub pull_filters: Vec<PullFilter>,
    /// How much the log tells, 0..=11.
    pub verb: Option<u8>,
    /// What was passed over, in the order of the file.
    pub notes: Vec<Note>,
}

impl Profile {
    /// Reads a profile: at most 256 KiB, lines outside of blocks of at most 512 bytes. Bytes that are not UTF-8 may stand
    /// in comments: decode with `String::from_utf8_lossy` first.
    ///
    /// # Errors
    /// Everything that stands in the way, not only the first.
    pub fn parse(text: &str) -> Result<Self, ProfileErrors> {
        crate::parse::parse(text)
    }
}

/// Something that stands in the profile, or the name of the file it stands in, as written and for the caller to resolve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source<T> {
    /// The text itself.
    Inline(T),
    /// A file, relative to wherever the profile was.
    File(String),
}

/// Meaning of the two arguments of `ifconfig`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Topology {
    /// A pair of addresses of a /30.
    #[default]
    Net30,
    /// A pair of addresses.
    PointToPoint,
    /// An address and a mask.
    Subnet,
}

/// Certificates, and what the server has to show. All PEM.
#[derive(Clone, Debug, Default)]
pub struct TlsSettings {
    /// Authorities; `None` only together with fingerprints.
    pub ca: Option<Source<String>>,
    /// Own certificate, then perhaps intermediates. Present exactly when `key` is.
    pub cert: Option<Source<String>>,
    /// More intermediates.
    pub extra_certs: Option<Source<String>>,
    /// Own private key.
    pub key: Option<Source<SecretString>>,
    /// Revoked certificates.
    pub crl: Option<Crl>,
    /// SHA-256 of the certificates that the server may have; empty for any.
    pub peer_fingerprints: Vec<[u8; 32]>,
    /// Whether the server's certificate must be marked as a TLS server's.
    pub remote_cert_tls: bool,
    /// What the server's certificate must be called.
    pub name_check: Option<NameCheck>,
    /// Lowest TLS version.
    pub version_min: TlsVersion,
    /// Highest TLS version.
    pub version_max: Option<TlsVersion>,
    /// Cipher suites of TLS 1.2, as written: names divided by colons.
    pub ciphers: Option<String>,
    /// Cipher suites of TLS 1.3, as written.
    pub ciphersuites: Option<String>,
    /// Groups, as written.
    pub groups: Option<String>,
    /// How strong certificates have to be.
    pub cert_profile: CertProfile,
}

/// Where revoked certificates are listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Crl {
    /// A PEM list.
    List(Source<String>),
    /// A directory with a file per revoked certificate, named by its serial number in decimal.
    Directory(String),
}

/// What a certificate must be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameCheck {
    /// The whole subject, as in `C=KG, O=Example, CN=server`.
    Subject(String),
    /// The common name.
    CommonName(String),
    /// How the common name begins.
    CommonNamePrefix(String),
}

/// A TLS version that may be asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2
    #[default]
    V1_2,
    /// TLS 1.3
    V1_3,
}

/// How strong certificates have to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CertProfile {
    /// What the TLS library takes at all, also SHA-1.
    Insecure,
    /// SHA-1 and RSA of 1024 bits or better.
    #[default]
    Legacy,
    /// SHA-256 and RSA of 2048 bits or better.
    Preferred,
    /// P-256 and P-384 only.
    SuiteB,
}

/// Ciphers and what surrounds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataChannel {
    /// Ciphers offered, best first; at least one.
    pub ciphers: Vec<Cipher>,
    /// For peers that cannot negotiate.
    pub fallback: Option<Cipher>,
    /// What `cipher` says; of use only to old peers that do not negotiate.
    pub cipher: Option<Cipher>,
    /// HMAC of CBC ciphers and of tls-auth.
    pub auth: Digest,
    /// Which late packets are still taken.
    pub replay_window: ReplayWindow,
    /// Framing left over from compression.
    pub framing: Framing,
}

impl Default for DataChannel {
    fn default() -> Self {
        Self {
            ciphers: Cipher::DEFAULT.to_vec(),
            fallback: None,
            cipher: None,
            auth: Digest::Sha1,
            replay_window: ReplayWindow::default(),
            framing: Framing::None,
        }
    }
}

/// A data cipher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Cipher {
    Aes128Gcm,
    Aes192Gcm,
    Aes256Gcm,
    ChaCha20Poly1305,
    Aes128Cbc,
    Aes192Cbc,
    Aes256Cbc,
}

impl Cipher {
    /// What stock clients and servers offer.
    pub const DEFAULT: [Self; 3] = [Self::Aes256Gcm, Self::Aes128Gcm, Self::ChaCha20Poly1305];
    const ALL: [Self; 7] = [
        Self::Aes128Gcm,
        Self::Aes192Gcm,
        Self::Aes256Gcm,
        Self::ChaCha20Poly1305,
        Self::Aes128Cbc,
        Self::Aes192Cbc,
        Self::Aes256Cbc,
    ];

    /// Its name in profiles.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Aes128Gcm => "AES-128-GCM",
            Self::Aes192Gcm => "AES-192-GCM",
            Self::Aes256Gcm => "AES-256-GCM",
            Self::ChaCha20Poly1305 => "CHACHA20-POLY1305",
            Self::Aes128Cbc => "AES-128-CBC",
            Self::Aes192Cbc => "AES-192-CBC",
            Self::Aes256Cbc => "AES-256-CBC",
        }
    }

    /// The cipher of this name, in upper or lower case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cipher| cipher.name().eq_ignore_ascii_case(name))
    }
}

/// HMAC of CBC ciphers and of tls-auth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Digest {
    None,
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

/// Which late packets are still taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplayWindow {
    /// How many packets late, 0..=65536; 0 demands strict order.
    pub packets: u32,
    /// How long a gap stays open, 0..=600 s.
    pub time: Duration,
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self { packets: 64, time: Duration::from_secs(15) }
    }
}

/// Framing left over from compression; nothing is ever compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// None.
    None,
    /// `compress stub-v2`: only packets that begin with 0x50 are marked.
    StubV2,
    /// `compress`, `compress stub`: 0xfb in front, and the byte it displaced at the end.
    Stub,
    /// `comp-lzo no`: 0xfa in front.
    LzoNo,
}

/// When keys are renewed and handshakes given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rekey {
    /// Longest life of a key; `None` for no limit.
    pub after: Option<Duration>,
    /// The time is taken at random from here to `after`, if set.
    pub after_min: Option<Duration>,
    /// Bytes sent and received with a key; `None` for no limit.
    pub bytes: Option<u64>,
    /// Packets sent and received with a key; `None` for no limit.
    pub packets: Option<u64>,
    /// Within which time a handshake must be complete.
    pub hand_window: Duration,
    /// How long an old key serves beside the new one.
    pub transition_window: Duration,
    /// First retransmission of a control packet.
    pub tls_timeout: Duration,
}

impl Default for Rekey {
    fn default() -> Self {
        Self {
            after: Some(Duration::from_secs(3600)),
            after_min: None,
            bytes: None,
            packets: None,
            hand_window: Duration::from_secs(60),
            transition_window: Duration::from_secs(3600),
            tls_timeout: Duration::from_secs(2),
        }
    }
}

/// Signs of life, before the server pushes its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ping {
    /// Send one after this silence of ours.
    pub interval: Option<Duration>,
    /// Reconnect after this silence of the server.
    pub restart: Option<Duration>,
    /// End after this silence of the server.
    pub exit: Option<Duration>,
    /// End when the tunnel is not used.
    pub inactive: Option<Inactive>,
    /// End after this time in any case.
    pub session_timeout: Option<Duration>,
}

/// When a tunnel counts as unused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inactive {
    /// In this time
    pub time: Duration,
    /// fewer than these bytes passed; 0 when any byte counts as use.
    pub bytes: u64,
}

/// Where user name and password come from.
#[derive(Clone, Debug)]
pub enum UserPass {
    /// From the person.
    Ask,
    /// A file of two lines.
    File(String),
    /// From the profile.
    Inline {
        /// The user.
        user: String,
        /// The password; `None` when only the name is known.
        password: Option<SecretString>,
    },
}

/// What to do after the server said no.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuthRetry {
    /// End.
    #[default]
    None,
    /// Try again with the same password.
    NoInteract,
    /// Ask again.
    Interact,
}

/// A second secret to ask for along with the password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// What the person is shown.
    pub text: String,
    /// Whether the answer may be seen while it is typed.
    pub echo: bool,
    /// Whether the answer is put behind the password as it is, instead of in the `SCRV1` form.
    pub concat: bool,
}
