//! Where an end of the tunnel is outside of it.

use std::fmt;
use std::net::SocketAddr;

/// What carries the tunnel's packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// Each packet a datagram.
    #[default]
    Udp,
    /// Packets in a stream, each after its length. An end stays at its address for as long as the connection lives: a
    /// session over TCP never floats.
    Tcp,
}

impl Transport {
    /// `udp` or `tcp`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An address outside of the tunnel. The same socket address over UDP and over TCP is two of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Underlay {
    /// How packets get there.
    pub transport: Transport,
    /// IP address and port. On a socket of both families IPv4 stands in its form mapped into IPv6.
    pub address: SocketAddr,
}

impl Underlay {
    /// Reached by datagrams.
    #[must_use]
    pub const fn udp(address: SocketAddr) -> Self {
        Self { transport: Transport::Udp, address }
    }

    /// The other end of a connection.
    #[must_use]
    pub const fn tcp(address: SocketAddr) -> Self {
        Self { transport: Transport::Tcp, address }
    }

    /// Bytes of the headers of IP, without options, and of UDP.
    pub(crate) fn headers(&self) -> usize {
        (if self.canonical_address().is_ipv4() { 20 } else { 40 }) + 8
    }

    /// The address as people know it: IPv4 is never shown mapped into IPv6.
    #[must_use]
    pub fn canonical_address(&self) -> SocketAddr {
        SocketAddr::new(self.address.ip().to_canonical(), self.address.port())
    }
}

impl fmt::Display for Underlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.canonical_address(), self.transport)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_address_over_another_transport_is_another_place() {
        let address = "[::ffff:192.0.2.1]:1194".parse().unwrap();
        assert_ne!(Underlay::udp(address), Underlay::tcp(address));
        assert_eq!(Underlay::tcp(address).to_string(), "192.0.2.1:1194/tcp");
        assert_eq!(Underlay::udp("[2001:db8::1]:1".parse().unwrap()).to_string(), "[2001:db8::1]:1/udp");
    }
}
