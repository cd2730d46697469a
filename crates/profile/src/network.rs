//! What a profile says about routes and name resolution. What a push says by the same words is the protocol's.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use ovpn::push::{DnsServer, RouteGateway};

/// An IPv4 destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route4 {
    /// Where to, host bits cleared.
    pub network: Ipv4Net,
    /// By which way.
    pub gateway: RouteGateway<Ipv4Addr>,
    /// Its metric, if it names one.
    pub metric: Option<u32>,
}

/// An IPv6 destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route6 {
    /// Where to, host bits cleared.
    pub network: Ipv6Net,
    /// By which way.
    pub gateway: RouteGateway<Ipv6Addr>,
    /// Its metric, if it names one.
    pub metric: Option<u32>,
}

/// Name resolution in the older dialect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DhcpOption {
    /// A DNS server.
    Dns(IpAddr),
    /// The domain of the connection.
    Domain(String),
    /// A domain to search.
    DomainSearch(String),
}

/// Name resolution in the newer dialect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsSettings {
    /// Domains to search, in order.
    pub search_domains: Vec<String>,
    /// Servers; a lower number goes first.
    pub servers: BTreeMap<i8, DnsServer>,
}
