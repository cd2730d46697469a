//! Ports of a host as the opposite one finds them from outside.

use std::fmt;
use std::net::IpAddr;

/// A port, and what came of knocking there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortReach {
    /// What it is for.
    pub service: PortService,
    /// The port.
    pub port: Port,
    /// Where it was looked for; none where no public address is known.
    pub address: Option<IpAddr>,
    /// What was seen.
    pub seen: Seen,
}

/// A port of one of the two protocols that have them here. Shown as `443/tcp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// 1 to 65535.
    pub number: u16,
    /// Over what.
    pub over: Protocol,
}

/// What carries a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Datagrams.
    Udp,
    /// Connections.
    Tcp,
}

/// What is to answer on a port. There is nothing else that one host looks at for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortService {
    /// The tunnel's listener.
    Tunnel,
    /// The ingress, without TLS: redirects, and proofs for certificates.
    Http,
    /// The ingress.
    Https,
}

/// What came of knocking at a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seen {
    /// It answers.
    Answers,
    /// Something said that it is closed.
    Refused,
    /// Nothing came back in time.
    Silent,
    /// This host has no way to that address.
    NoWay,
    /// The name leads to no address that can be looked at.
    NoAddress,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let over = match self.over {
            Protocol::Udp => "udp",
            Protocol::Tcp => "tcp",
        };
        write!(f, "{}/{over}", self.number)
    }
}
