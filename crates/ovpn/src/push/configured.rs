//! What a client is to set on its host, as the server pushed it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Dns, Ipv4Prefix, Ipv6Prefix};
use crate::underlay::Underlay;

/// What the client is to set on its device and host. There is an address of at least one family.
///
/// Nothing of it is set by this crate; who does follows what he can and tells what he does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configured {
    /// IPv4 address of the device.
    pub ipv4: Option<Ifconfig>,
    /// IPv6 address of the device.
    pub ipv6: Option<Ipv6Ifconfig>,
    /// The other end inside of the tunnel, for routes by [`RouteGateway::Vpn`]: what `route-gateway` says, else the other
    /// end of a point-to-point address.
    pub gateway: Option<Ipv4Addr>,
    /// The same for IPv6: what `route-ipv6-gateway` says, else the second address of `ifconfig-ipv6`.
    pub gateway_ipv6: Option<Ipv6Addr>,
    /// IPv4 routes, at most 256, in the order of the push.
    pub routes: Vec<PushedRoute>,
    /// IPv6 routes, at most 256, in the order of the push.
    pub routes_ipv6: Vec<PushedIpv6Route>,
    /// Metric of routes that name none (`route-metric`); those above have it already.
    pub route_metric: Option<u32>,
    /// What of the default route goes through the tunnel; `None` leaves it alone.
    pub redirect: Option<Redirect>,
    /// No IPv6 packet may leave the host past the tunnel (`block-ipv6`).
    pub block_ipv6: bool,
    /// DNS is to be asked through the tunnel only (`block-outside-dns`).
    pub block_outside_dns: bool,
    /// Name resolution; empty leaves it alone.
    pub dns: Dns,
    /// MTU of the device, bytes.
    pub mtu: u16,
    /// The server outside of the tunnel: what a redirected default route must leave reachable.
    pub remote: Underlay,
    /// Pushed options that were not followed, cleaned for the log. At most 32.
    pub ignored: Vec<String>,
}

impl Configured {
    /// The IPv4 address of the device.
    #[must_use]
    pub fn address(&self) -> Option<Ipv4Addr> {
        self.ipv4.map(Ifconfig::address)
    }

    /// Where the server is outside of the tunnel; IPv4 is not shown mapped into IPv6.
    #[must_use]
    pub fn server(&self) -> IpAddr {
        self.remote.canonical_address().ip()
    }
}

/// The client's IPv4 address as it is to be set on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ifconfig {
    /// An address in a network (topology subnet).
    Subnet(Ipv4Prefix),
    /// A pair of addresses (topologies net30 and p2p).
    PointToPoint {
        /// Ours.
        local: Ipv4Addr,
        /// The other end's.
        remote: Ipv4Addr,
    },
}

impl Ifconfig {
    /// The client's own address.
    #[must_use]
    pub fn address(self) -> Ipv4Addr {
        match self {
            Self::Subnet(prefix) => prefix.address,
            Self::PointToPoint { local, .. } => local,
        }
    }
}

/// The client's IPv6 address as it is to be set on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Ifconfig {
    /// Its own address.
    pub address: Ipv6Addr,
    /// Length of the network, 0..=128.
    pub prefix_len: u8,
    /// The other end, if it is named.
    pub remote: Option<Ipv6Addr>,
}

impl Ipv6Ifconfig {
    /// The address in its network.
    #[must_use]
    pub fn prefix(self) -> Ipv6Prefix {
        Ipv6Prefix { address: self.address, prefix_len: self.prefix_len }
    }
}

/// By which way a pushed route goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteGateway<A> {
    /// Through the tunnel (`vpn_gateway`, or nothing written).
    Vpn,
    /// Past the tunnel, by the default route that was there before (`net_gateway`, `net_gateway_ipv6`).
    Net,
    /// By this address.
    Address(A),
}

/// An IPv4 route the server wants the client to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PushedRoute {
    /// Where to, host bits cleared.
    pub prefix: Ipv4Prefix,
    /// By which way.
    pub gateway: RouteGateway<Ipv4Addr>,
    /// Its metric, or that of `route-metric`, if there is one.
    pub metric: Option<u32>,
}

/// An IPv6 route the server wants the client to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PushedIpv6Route {
    /// Where to, host bits cleared.
    pub prefix: Ipv6Prefix,
    /// By which way.
    pub gateway: RouteGateway<Ipv6Addr>,
    /// Its metric, or that of `route-metric`, if there is one.
    pub metric: Option<u32>,
}

/// What of the default route goes through the tunnel: the flags of `redirect-gateway`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent flags, named as in the option")]
pub struct Redirect {
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
    /// No access to the local network.
    pub block_local: bool,
    /// A direct route to the DHCP server.
    pub bypass_dhcp: bool,
    /// Direct routes to the DNS servers that were there before.
    pub bypass_dns: bool,
}

impl Redirect {
    /// Adds the flags of an option. Unknown ones are skipped, like stock does.
    pub(super) fn add(&mut self, gateway: bool, flags: &[&str]) {
        self.ipv4 |= gateway;
        for flag in flags {
            match *flag {
                "!ipv4" => self.ipv4 = false,
                "ipv6" => self.ipv6 |= gateway,
                "def1" => self.def1 = true,
                "local" => self.local = true,
                "autolocal" => self.autolocal = true,
                "block-local" => self.block_local = true,
                "bypass-dhcp" => self.bypass_dhcp = true,
                "bypass-dns" => self.bypass_dns = true,
                _ => {}
            }
        }
    }
}
