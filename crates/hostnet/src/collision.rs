//! Whether a subnet is in use on this host already.

use std::collections::BTreeMap;
use std::fmt;

use ipnet::Ipv4Net;
use rtnetlink::packet_route::route::RouteType;

use crate::netlink::{Netlink, NetlinkError, ipv4_address, link_name, route_view};

/// Broader routes than this are a way to everywhere (a default route, or a VPN's two halves of one), beside which
/// any subnet may live.
const BROADEST: u8 = 8;

/// Where the kernel keeps the host's own addresses, which are read as addresses.
const LOCAL_TABLE: u32 = 255;

/// What uses a subnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collision {
    /// The link.
    pub device: String,
    /// The network of an address on it, or the destination of a route to it.
    pub net: Ipv4Net,
}

impl fmt::Display for Collision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is in use on {}", self.net, self.device)
    }
}

impl Netlink {
    /// Who uses addresses of `subnet` already, be it by an address or by a route. The link `ignore`, a tunnel's own,
    /// is not asked, and routes of ours do not count.
    ///
    /// # Errors
    /// When the kernel's state cannot be read.
    pub async fn collision(&self, subnet: Ipv4Net, ignore: &str) -> Result<Option<Collision>, NetlinkError> {
        let names: BTreeMap<u32, String> = self
            .links()
            .await?
            .iter()
            .filter_map(|message| Some((message.header.index, link_name(message)?.to_owned())))
            .filter(|(_, name)| name != ignore)
            .collect();
        let overlaps = |net: &Ipv4Net| net.contains(&subnet) || subnet.contains(net);

        for message in self.addresses().await? {
            if let Some(device) = names.get(&message.header.index)
                && let Some(address) = ipv4_address(&message)
                && overlaps(&address)
            {
                return Ok(Some(Collision { device: device.clone(), net: address.trunc() }));
            }
        }
        for message in self.routes().await? {
            let Some(route) = route_view(&message) else { continue };
            if route.ours
                || route.kind != RouteType::Unicast
                || route.table == LOCAL_TABLE
                || route.destination.prefix_len() < BROADEST
                || !overlaps(&route.destination)
            {
                continue;
            }
            if let Some(device) = route.output.and_then(|index| names.get(&index)) {
                return Ok(Some(Collision { device: device.clone(), net: route.destination }));
            }
        }
        Ok(None)
    }
}
