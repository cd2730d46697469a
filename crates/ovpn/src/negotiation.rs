//! What peers tell about themselves, and the choices that follow from it.

use crate::client::ClientConfig;
use crate::data::Cipher;
use crate::keys::KeyDerivation;
use crate::protection::{AuthDigest, KeyDirection, TlsAuth};
use crate::underlay::{Transport, Underlay};
use crate::wrap::Role;

/// `IV_PROTO`: the peer can use data packets with a peer id.
pub(crate) const PROTO_DATA_V2: u32 = 1 << 1;
/// `IV_PROTO`: the peer wants the push without asking.
pub(crate) const PROTO_REQUEST_PUSH: u32 = 1 << 2;
/// `IV_PROTO`: the peer can derive data keys with the TLS exporter.
pub(crate) const PROTO_TLS_KEY_EXPORT: u32 = 1 << 3;
/// `IV_PROTO`: the peer understands `AUTH_PENDING,timeout N`.
pub(crate) const PROTO_AUTH_PENDING: u32 = 1 << 4;
/// `IV_PROTO`: the peer understands EXIT on the control channel, and `protocol-flags`.
pub(crate) const PROTO_CC_EXIT: u32 = 1 << 7;
/// `IV_PROTO`: the peer understands temporary refusals.
pub(crate) const PROTO_AUTH_FAIL_TEMP: u32 = 1 << 8;

/// `IV_PROTO`: the peer can wrap renewals under keys that TLS exported.
pub(crate) const PROTO_DYNAMIC_TLS_CRYPT: u32 = 1 << 9;

/// `IV_PROTO`: the peer can use the epoch format of data packets.
pub(crate) const PROTO_EPOCHS: u32 = 1 << 10;

/// `IV_PROTO`: the peer understands the current dialect of the option `dns`.
pub(crate) const PROTO_DNS: u32 = 1 << 11;

/// What a client's peer info says, as far as it matters here. All of it is untrusted text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerInfo {
    /// Bits of `IV_PROTO`.
    pub protocol: u32,
    /// `IV_CIPHERS`, or what `IV_NCP=2` stands for; `None` when the client told neither.
    pub ciphers: Option<Vec<String>>,
    /// Whether they are from `IV_CIPHERS`: then they are all it can.
    lists_ciphers: bool,
    /// `IV_MTU`: largest MTU that may be pushed.
    pub mtu: Option<u16>,
    /// `IV_PMTUD`: the peer takes part in [`crate::path_mtu`]. Ours alone.
    pub path_mtu: bool,
    /// `IV_VER` and `IV_PLAT`, cleaned for the log.
    pub software: String,
}

impl PeerInfo {
    /// Reads lines of `KEY=VALUE`; unknown keys are ignored.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut info = Self::default();
        let (mut version, mut platform) = (String::new(), String::new());
        let mut ncp = false;
        for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
            match key {
                "IV_PROTO" => info.protocol = value.parse().unwrap_or(0),
                "IV_CIPHERS" => info.ciphers = Some(value.split(':').take(64).map(str::to_owned).collect()),
                "IV_NCP" => ncp = value.parse::<u32>().is_ok_and(|level| level >= 2),
                "IV_MTU" => info.mtu = value.parse().ok(),
                "IV_PMTUD" => info.path_mtu = value == "1",
                "IV_VER" => version = printable(value, 40),
                "IV_PLAT" => platform = printable(value, 20),
                _ => {}
            }
        }
        info.lists_ciphers = info.ciphers.is_some();
        if info.ciphers.is_none() && ncp {
            info.ciphers = Some(vec!["AES-256-GCM".to_owned(), "AES-128-GCM".to_owned()]);
        }
        info.software = [version, platform].join(" ").trim().to_owned();
        info
    }

    /// Whether all of `bits` are set in `IV_PROTO`.
    #[must_use]
    pub(crate) fn has(&self, bits: u32) -> bool {
        self.protocol & bits == bits
    }

    /// The first of our ciphers that the client can, by its list or, without `IV_CIPHERS`, by its options string;
    /// where it tells neither, `fallback`.
    #[must_use]
    pub fn choose_cipher(&self, ours: &[Cipher], options: &str, fallback: Option<Cipher>) -> Option<Cipher> {
        let listed = self.ciphers.as_deref().unwrap_or_default();
        let configured = cipher_of_options(options).filter(|_| !self.lists_ciphers);
        let can =
            |cipher: &Cipher| listed.iter().any(|name| name == cipher.as_str()) || configured == Some(cipher.as_str());
        let told_nothing = listed.is_empty() && configured.is_none();
        ours.iter().copied().find(can).or(fallback.filter(|_| told_nothing))
    }
}

/// The cipher that an options string names.
pub(crate) fn cipher_of_options(options: &str) -> Option<&str> {
    options.split(',').find_map(|option| option.strip_prefix("cipher "))
}

/// What our client tells: only what is implemented.
pub(crate) fn client_info(config: &ClientConfig) -> String {
    let mut protocol = PROTO_DATA_V2 | PROTO_REQUEST_PUSH | PROTO_AUTH_PENDING | PROTO_AUTH_FAIL_TEMP | PROTO_DNS;
    if config.key_derivation == KeyDerivation::Ekm {
        protocol |= PROTO_TLS_KEY_EXPORT;
    }
    if config.control_exit {
        protocol |= PROTO_CC_EXIT;
    }
    // What follows is agreed upon by `protocol-flags`.
    if config.dynamic_tls_crypt && config.control_exit {
        protocol |= PROTO_DYNAMIC_TLS_CRYPT;
    }
    // The format needs keys from the exporter.
    if config.epochs && config.key_derivation == KeyDerivation::Ekm && config.control_exit {
        protocol |= PROTO_EPOCHS;
    }
    // No other bit may be set without that of the peer id.
    if !config.peer_ids {
        protocol = 0;
    }
    let max_mtu = config.max_mtu;
    let path_mtu = if config.path_mtu { "IV_PMTUD=1\n" } else { "" };
    let names: Vec<&str> = config.ciphers.iter().map(|cipher| cipher.as_str()).collect();
    format!(
        "IV_VER=cloudathome-{}\nIV_PLAT=linux\nIV_TCPNL=1\nIV_MTU={max_mtu}\nIV_NCP=2\nIV_CIPHERS={}\nIV_PROTO={protocol}\n{path_mtu}",
        env!("CARGO_PKG_VERSION"),
        names.join(":"),
    )
}

/// The options string that makes stock peers log no warning when the peer is at `remote`.
pub(crate) fn options_string(
    role: Role,
    tun_mtu: u16,
    remote: Underlay,
    digest: AuthDigest,
    tls_auth: Option<&TlsAuth>,
) -> String {
    let side = match role {
        Role::Client => "tls-client",
        Role::Server => "tls-server",
    };
    let family = if remote.canonical_address().is_ipv4() { "v4" } else { "v6" };
    // What stock counts on top of the MTU and the digest, and its own end of the transport.
    let (overhead, proto) = match (remote.transport, role) {
        (Transport::Udp, _) => (21, format!("UDP{family}")),
        (Transport::Tcp, Role::Client) => (23, format!("TCP{family}_CLIENT")),
        (Transport::Tcp, Role::Server) => (23, format!("TCP{family}_SERVER")),
    };
    // To stock it is one setting.
    let digest = tls_auth.map_or(digest, |auth| auth.digest);
    let direction = match tls_auth.and_then(|auth| auth.direction) {
        None => "",
        Some(KeyDirection::Zero) => ",keydir 0",
        Some(KeyDirection::One) => ",keydir 1",
    };
    let used = if tls_auth.is_some() { ",tls-auth" } else { "" };
    let link_mtu = usize::from(tun_mtu) + overhead + digest.len();
    format!(
        "V4,dev-type tun,link-mtu {link_mtu},tun-mtu {tun_mtu},proto {proto}{direction},auth {digest},keysize 128{used},\
         key-method 2,{side}"
    )
}

/// A peer's text made fit for logs: printable, bounded.
#[must_use]
pub fn printable(text: &str, limit: usize) -> String {
    text.chars().take(limit).map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::data::DataSettings;
    use crate::endpoint::DEFAULT_MAX_PACKET_SIZE;
    use crate::endpoint::{Keepalive, RenewalLimits};
    use crate::login::Login;
    use crate::protection::ClientProtection;
    use crate::push::PullRules;

    #[test]
    fn our_order_wins() {
        let info =
            PeerInfo::parse("IV_CIPHERS=AES-256-GCM:CHACHA20-POLY1305\nIV_PROTO=990\nIV_MTU=1600\nIV_VER=2.6\x1b[2J\n");
        assert_eq!(info.software, "2.6?[2J");
        assert!(info.has(PROTO_DATA_V2 | PROTO_CC_EXIT));
        let ours = [Cipher::ChaCha20Poly1305, Cipher::Aes256Gcm];
        let fallback = Some(Cipher::Aes256Cbc);
        assert_eq!(info.choose_cipher(&ours, "", fallback), Some(Cipher::ChaCha20Poly1305));
        assert_eq!(info.choose_cipher(&[Cipher::Aes128Gcm], "V4,cipher AES-128-GCM", fallback), None);
    }

    #[test]
    fn old_peers_are_taken_at_their_options() {
        let ncp = PeerInfo::parse("IV_NCP=2\n");
        let fallback = Some(Cipher::Aes256Cbc);
        assert_eq!(ncp.choose_cipher(Cipher::ALL, "", fallback), Some(Cipher::Aes256Gcm));
        assert_eq!(ncp.choose_cipher(&[Cipher::Aes128Cbc], "cipher AES-128-CBC", fallback), Some(Cipher::Aes128Cbc));
        assert_eq!(ncp.choose_cipher(&[Cipher::Aes128Cbc], "V4", fallback), None);
        let older = PeerInfo::parse("");
        let options = "V4,cipher AES-128-GCM,auth SHA1";
        assert_eq!(older.choose_cipher(Cipher::ALL, options, fallback), Some(Cipher::Aes128Gcm));
        assert_eq!(older.choose_cipher(Cipher::ALL, "V4,cipher BF-CBC", fallback), None);
        assert_eq!(older.choose_cipher(Cipher::ALL, "V4,cipher AES-128-CBC", None), None, "only where it is named");
        assert_eq!(older.choose_cipher(&[Cipher::Aes128Cbc], "V4,cipher AES-128-CBC", None), Some(Cipher::Aes128Cbc));
        assert_eq!(older.choose_cipher(Cipher::ALL, "V4", None), None);
        assert_eq!(older.choose_cipher(Cipher::ALL, "V4", fallback), fallback);
    }

    #[test]
    fn options_name_the_transport_as_stock_does() {
        let (v4, v6) = ("192.0.2.1:1".parse().unwrap(), "[2001:db8::1]:1".parse().unwrap());
        let mapped = "[::ffff:192.0.2.1]:1".parse().unwrap();
        for (role, remote, expected) in [
            (Role::Client, Underlay::udp(v4), "link-mtu 1541,tun-mtu 1500,proto UDPv4,"),
            (Role::Server, Underlay::udp(mapped), "link-mtu 1541,tun-mtu 1500,proto UDPv4,"),
            (Role::Server, Underlay::udp(v6), "link-mtu 1541,tun-mtu 1500,proto UDPv6,"),
            (Role::Client, Underlay::tcp(v4), "link-mtu 1543,tun-mtu 1500,proto TCPv4_CLIENT,"),
            (Role::Server, Underlay::tcp(v6), "link-mtu 1543,tun-mtu 1500,proto TCPv6_SERVER,"),
        ] {
            let options = options_string(role, 1500, remote, AuthDigest::Sha1, None);
            assert!(options.contains(expected), "{options}");
        }
    }

    #[test]
    fn we_announce_what_we_can() {
        let mut config = ClientConfig {
            protection: ClientProtection::None,
            ciphers: Cipher::ALL.to_vec(),
            tun_mtu: 1500,
            max_mtu: 1600,
            path_mtu: true,
            key_derivation: KeyDerivation::Ekm,
            keepalive: Keepalive { ping: Duration::ZERO, ping_restart: Duration::ZERO },
            first_answer: Duration::ZERO,
            renewal: RenewalLimits::default(),
            dynamic_tls_crypt: true,
            epochs: true,
            peer_ids: true,
            control_exit: true,
            login: Login::default(),
            data: DataSettings::default(),
            max_packet_size: DEFAULT_MAX_PACKET_SIZE,
            pull: PullRules::default(),
        };
        let info = PeerInfo::parse(&client_info(&config));
        assert_eq!(info.protocol, 2 + 4 + 8 + 16 + 128 + 256 + 512 + 1024 + 2048);
        assert_eq!(info.ciphers.unwrap().len(), 4);
        assert_eq!(info.mtu, Some(1600));
        (config.key_derivation, config.dynamic_tls_crypt) = (KeyDerivation::Prf, false);
        assert_eq!(PeerInfo::parse(&client_info(&config)).protocol, 2 + 4 + 16 + 128 + 256 + 2048);
        config.control_exit = false;
        assert_eq!(PeerInfo::parse(&client_info(&config)).protocol, 2 + 4 + 16 + 256 + 2048);
        config.peer_ids = false;
        assert_eq!(PeerInfo::parse(&client_info(&config)).protocol, 0);
    }
}
