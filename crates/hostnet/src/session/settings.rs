//! What a server asks of its client's host.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

/// What one connection wants of its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Name of the tunnel's device. It must exist, and goes with the process that has it open.
    pub device: String,
    /// Largest IP packet, bytes.
    pub mtu: u32,
    /// Packets the device may queue.
    pub tx_queue_len: u32,
    /// Own addresses inside of the tunnel.
    pub addresses: Vec<Address>,
    /// IPv4 gateway inside of the tunnel; without it packets go to the device as they are.
    pub gateway4: Option<Ipv4Addr>,
    /// The server's address outside of the tunnel.
    pub server: IpAddr,
    /// Destinations, in the order in which they are set.
    pub routes: Vec<Route>,
    /// Metric of routes that name none; none leaves it to the kernel.
    pub metric: Option<u32>,
    /// Which default routes go through the tunnel.
    pub redirect: Option<Redirect>,
    /// IPv6 destinations in the tunnel are unreachable instead, so that programs turn to IPv4 at once and nothing of
    /// theirs leaves past the tunnel.
    pub block_ipv6: bool,
    /// Name resolution.
    pub dns: Dns,
}

/// An address on the tunnel's device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address and the length of its network.
    pub net: IpNet,
    /// The other end, where a pair of addresses is meant instead of a network.
    pub peer: Option<Ipv4Addr>,
}

/// A destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub destination: IpNet,
    /// By which way.
    pub via: Via,
    /// Its metric, if it names one.
    pub metric: Option<u32>,
}

/// By which way a destination is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// Through the tunnel.
    Tunnel,
    /// Past the tunnel, by the default route that was there before.
    Past,
    /// By this router. For IPv6 that is through the tunnel, as in stock openvpn: a TUN device has no neighbours.
    Router(IpAddr),
}

/// Which default routes go through the tunnel: the flags of openvpn's `redirect-gateway`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Redirect {
    /// IPv4 does.
    pub ipv4: bool,
    /// IPv6 does.
    pub ipv6: bool,
    /// For IPv4 by two halves beside the default route, instead of in its place.
    pub def1: bool,
    /// The server is in the local network and needs no route of its own.
    pub local: bool,
    /// `local` holds if the way to the server has no router.
    pub autolocal: bool,
    /// The present DNS servers stay reachable past the tunnel.
    pub bypass_dns: bool,
    /// The DHCP server does.
    pub bypass_dhcp: bool,
    /// The local network is reached through the tunnel, all but the router.
    pub block_local: bool,
}

/// Name resolution.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// Servers, the best first.
    pub servers: Vec<DnsServer>,
    /// Domains to search, in order.
    pub search: Vec<String>,
}

/// DNS servers that are asked in the same way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsServer {
    /// Their addresses, and ports other than the usual.
    pub addresses: Vec<(IpAddr, Option<u16>)>,
    /// The only domains that they resolve; empty for all.
    pub resolve_domains: Vec<String>,
    /// Whether answers must be signed.
    pub dnssec: Option<Dnssec>,
    /// How they are asked.
    pub transport: DnsTransport,
    /// Their name in TLS.
    pub sni: Option<String>,
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DnsTransport {
    /// In clear.
    #[default]
    Plain,
    /// Over TLS.
    Tls,
    /// Over HTTPS.
    Https,
}
