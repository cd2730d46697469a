//! Where a profile connects, and what may differ from place to place.

use std::time::Duration;

use secrecy::SecretString;

use crate::settings::Source;

/// One place to try.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Name or address.
    pub host: String,
    /// Port, from 1.
    pub port: u16,
    /// Transport.
    pub protocol: Protocol,
    /// Own end of the transport.
    pub bind: Bind,
    /// Whether authenticated packets are taken from any address.
    pub float: bool,
    /// Pauses between attempts.
    pub retry: ConnectRetry,
    /// How long to wait for the server's first answer.
    pub connect_timeout: Duration,
    /// How many goodbyes are sent at the end, UDP only; 0 for none.
    pub exit_notify: u8,
    /// MTU of the device unless the server pushes one, bytes.
    pub tun_mtu: u16,
    /// Highest MTU that the server may push, bytes.
    pub tun_mtu_max: u16,
    /// Clamp of TCP segments.
    pub mssfix: Mssfix,
    /// Largest control packet with its IP and UDP headers, bytes, 154..=2048.
    pub max_packet_size: u16,
    /// Protection of the control channel.
    pub wrapping: Wrapping,
}

/// Transport, and which addresses of a name are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Protocol {
    Udp,
    Udp4,
    Udp6,
    Tcp,
    Tcp4,
    Tcp6,
}

/// Own end of the transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bind {
    /// Any address and port, also when the profile is silent.
    Any,
    /// As the profile asks.
    To {
        /// Name or address; `None` for all.
        local: Option<String>,
        /// Port; 0 for any.
        port: u16,
    },
}

/// Pauses between attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectRetry {
    /// The first pause.
    pub first: Duration,
    /// The longest, after doublings.
    pub longest: Duration,
    /// Attempts; `None` for no limit.
    pub attempts: Option<u32>,
}

/// Clamp of TCP segments, so that their packets fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mssfix {
    /// No clamp.
    Off,
    /// Bytes of the outer packet, IP and UDP or TCP headers included.
    Outer(u16),
    /// Bytes of the outer packet without its IP and UDP headers.
    Payload(u16),
    /// Bytes of the inner packet.
    Inner(u16),
}

/// Protection of the control channel.
#[derive(Clone, Debug)]
pub enum Wrapping {
    /// None.
    None,
    /// Signed with a shared key, by the digest of `auth`.
    TlsAuth {
        /// Static key.
        key: Source<SecretString>,
        /// Which half is for which way.
        direction: KeyDirection,
    },
    /// Encrypted with a shared key.
    TlsCrypt(Source<SecretString>),
    /// Encrypted with a key of this client's own.
    TlsCryptV2(Source<SecretString>),
}

/// Which half of a static key is for which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyDirection {
    /// The same for both.
    Bidirectional,
    /// We send with the first half.
    Normal,
    /// We send with the second half, as clients do.
    Inverse,
}
