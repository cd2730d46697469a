//! What a profile says about routes and name resolution.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// An IPv4 destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route4 {
    /// Where to, host bits cleared.
    pub network: Ipv4Net,
    /// By which way.
    pub gateway: Gateway4,
    /// Its metric, if it names one.
    pub metric: Option<u32>,
}

/// By which way an IPv4 destination is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gateway4 {
    /// `vpn_gateway`, also when nothing is written: through the tunnel.
    Vpn,
    /// `net_gateway`: past the tunnel, by the default route that was there before.
    Net,
    /// This one.
    Address(Ipv4Addr),
}

/// An IPv6 destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route6 {
    /// Where to, host bits cleared.
    pub network: Ipv6Net,
    /// By which way.
    pub gateway: Gateway6,
    /// Its metric, if it names one.
    pub metric: Option<u32>,
}

/// By which way an IPv6 destination is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gateway6 {
    /// Through the tunnel.
    Vpn,
    /// `net_gateway_ipv6`: past the tunnel.
    Net,
    /// This one.
    Address(Ipv6Addr),
}

/// What of the default route goes through the tunnel. The fields are the flags of `redirect-gateway`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RedirectGateway {
    /// Whether IPv4 goes through the tunnel; false with `!ipv4` and with `redirect-private`.
    pub ipv4: bool,
    /// Whether IPv6 goes through the tunnel.
    pub ipv6: bool,
    /// Two halves instead of a replaced default route.
    pub def1: bool,
    /// The server is in the local network and needs no route of its own.
    pub local: bool,
    /// Find out whether `local` holds.
    pub autolocal: bool,
    /// A direct route to the DHCP server.
    pub bypass_dhcp: bool,
    /// Direct routes to the DNS servers.
    pub bypass_dns: bool,
    /// No access to the local network.
    pub block_local: bool,
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

/// A DNS server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsServer {
    /// 1 to 8 addresses.
    pub addresses: Vec<DnsAddress>,
    /// Domains that it resolves; empty for all.
    pub resolve_domains: Vec<String>,
    /// Whether answers must be signed.
    pub dnssec: Option<Dnssec>,
    /// How it is asked.
    pub transport: Option<DnsTransport>,
    /// Its name in TLS.
    pub sni: Option<String>,
}

/// An address of a DNS server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DnsAddress {
    /// The address.
    pub address: IpAddr,
    /// The port; `None` for the transport's usual one.
    pub port: Option<u16>,
}

/// Whether answers must be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dnssec {
    /// They must.
    Yes,
    /// Where they are, the signature must be right.
    Optional,
    /// Signatures are not looked at.
    No,
}

/// How a DNS server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsTransport {
    /// Over HTTPS.
    Https,
    /// Over TLS.
    Tls,
    /// In clear.
    Plain,
}

/// What becomes of pushed options that begin with a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullFilter {
    /// What becomes of them.
    pub action: FilterAction,
    /// How they begin.
    pub prefix: String,
}

/// What becomes of a pushed option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterAction {
    /// It is taken.
    Accept,
    /// It is passed over.
    Ignore,
    /// The connection ends.
    Reject,
}
