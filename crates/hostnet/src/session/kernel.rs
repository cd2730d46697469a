//! A connection's routes and addresses over rtnetlink.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};
use rtnetlink::packet_core::{Emitable, Parseable};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use rtnetlink::{Error, LinkUnspec, RouteMessageBuilder};

use super::plan::{DefaultRoute, Facts, RouteSpec, Step, Way};
use super::settings::Address;
use crate::netlink::{Netlink, NetlinkError, all, ipv4_address, link_name, within};

/// The kernel's "there is no such thing": what is to be taken away is gone already.
const GONE: [i32; 4] = [3, 19, 99, 2];
/// "It is there already."
const EXISTS: i32 = 17;
/// "There is no such link", and "it is down": the kernel would have dropped its routes itself.
const NO_LINK: [i32; 2] = [19, 100];

impl Netlink {
    /// What a plan for a connection to `server` starts from, but for the DNS servers.
    pub(super) async fn facts(&self, server: IpAddr) -> Result<Facts, NetlinkError> {
        let names = self.names().await?;
        let mut facts = Facts { server: self.way_to(server, &names).await, ..Facts::default() };
        let mut best = (None, None);
        for message in self.routes().await?.into_iter().chain(self.routes6().await?) {
            let Some(route) = View::of(&message) else { continue };
            facts.routes.insert((route.destination, route.metric));
            let Some(way) = route.way(&names) else { continue };
            if let Some(server) = &mut facts.server
                && way.onlink
                && (&way.gateway, &way.device) == (&server.gateway, &server.device)
            {
                server.onlink = true;
            }
            if route.destination.prefix_len() > 0 {
                continue;
            }
            match route.destination {
                IpNet::V4(_) if best.0.is_none_or(|metric| route.metric < metric) => {
                    best.0 = Some(route.metric);
                    facts.default4 = Some(DefaultRoute { way, message: stored(&message) });
                }
                IpNet::V6(_) if best.1.is_none_or(|metric| route.metric < metric) => {
                    best.1 = Some(route.metric);
                    facts.default6 = Some(way);
                }
                IpNet::V4(_) | IpNet::V6(_) => {}
            }
        }
        if let Some(DefaultRoute { way, .. }) = &facts.default4 {
            facts.local4 = self.networks_on(&way.device, &names).await?;
        }
        Ok(facts)
    }

    async fn names(&self) -> Result<BTreeMap<u32, String>, NetlinkError> {
        let named = |message: &rtnetlink::packet_route::link::LinkMessage| {
            Some((message.header.index, link_name(message)?.to_owned()))
        };
        Ok(self.links().await?.iter().filter_map(named).collect())
    }

    async fn routes6(&self) -> Result<Vec<RouteMessage>, NetlinkError> {
        let filter = RouteMessageBuilder::<Ipv6Addr>::new().build();
        all("list IPv6 routes", self.handle.route().get(filter).execute()).await
    }

    /// The IPv4 networks on a link.
    async fn networks_on(&self, device: &str, names: &BTreeMap<u32, String>) -> Result<Vec<Ipv4Net>, NetlinkError> {
        let on_it = |message: &&AddressMessage| names.get(&message.header.index).is_some_and(|name| name == device);
        let found: BTreeSet<Ipv4Net> = self
            .addresses()
            .await?
            .iter()
            .filter(on_it)
            .filter_map(ipv4_address)
            .filter(|net| net.prefix_len() < 32)
            .map(|net| net.trunc())
            .collect();
        Ok(found.into_iter().collect())
    }

    /// By which way the kernel would send packets to `address`; none if it would not.
    async fn way_to(&self, address: IpAddr, names: &BTreeMap<u32, String>) -> Option<Way> {
        let length = if address.is_ipv4() { 32 } else { 128 };
        let query = RouteMessageBuilder::<IpAddr>::new().destination_prefix(address, length).ok()?.build();
        let answers = all("ask for a route", self.handle.route().get(query).execute()).await;
        let way = |message: &RouteMessage| {
            let (gateway, output) = hop(message);
            // The answer does not tell whether the gateway is only said to be on the link.
            Some(Way { gateway, device: names.get(&output?)?.clone(), onlink: false })
        };
        answers.ok()?.first().and_then(way)
    }

    async fn index(&self, device: &str) -> Result<u32, NetlinkError> {
        let found = self.names().await?.into_iter().find(|(_, name)| name == device);
        found.map(|(index, _)| index).ok_or_else(|| NetlinkError::NoDevice(device.to_owned()))
    }

    /// Takes a step on the tunnel's `device`.
    pub(super) async fn take(&self, device: &str, step: &Step) -> Result<(), NetlinkError> {
        let what = format!("set {step}");
        match step {
            Step::Link { mtu, tx_queue_len } => {
                let link = LinkUnspec::new_with_index(self.index(device).await?).up();
                let message = link.mtu(*mtu).txqueuelen(*tx_queue_len).build();
                within(what, self.handle.link().set(message).execute()).await
            }
            Step::Address(address) => {
                let mut request = self.handle.address().add(self.index(device).await?, address.net.addr(), 0);
                *request.message_mut() = address_message(address, self.index(device).await?);
                existing(within(what, request.execute()).await)
            }
            Step::RemoveDefault(message) => match parsed(message) {
                Some(message) => within(what, self.handle.route().del(message).execute()).await,
                None => Ok(()),
            },
            Step::Route(route) => {
                let message = self.route_message(route).await?;
                within(what, self.handle.route().add(message).execute()).await
            }
        }
    }

    /// Adds a route; false if it is there already.
    pub(super) async fn ensure_route(&self, route: &RouteSpec) -> Result<bool, NetlinkError> {
        let message = self.route_message(route).await?;
        let added = within(format!("set {route}"), self.handle.route().add(message).execute()).await;
        if code(&added) == Some(EXISTS) { Ok(false) } else { added.map(|()| true) }
    }

    /// Takes a route away; fine if it is gone already.
    pub(super) async fn remove_route(&self, route: &RouteSpec) -> Result<(), NetlinkError> {
        let message = match self.route_message(route).await {
            // Its link went, and took it along.
            Err(NetlinkError::NoDevice(_)) => return Ok(()),
            message => message?,
        };
        gone(within(format!("remove {route}"), self.handle.route().del(message).execute()).await)
    }

    /// Takes an address away; fine if it is gone already.
    pub(super) async fn remove_address(&self, device: &str, address: &Address) -> Result<(), NetlinkError> {
        let index = match self.index(device).await {
            Err(NetlinkError::NoDevice(_)) => return Ok(()),
            index => index?,
        };
        let request = self.handle.address().del(address_message(address, index));
        gone(within(format!("remove address {}", address.net), request.execute()).await)
    }

    /// Brings a default route back; fine if it is there already.
    pub(super) async fn restore(&self, message: &[u8]) -> Result<(), NetlinkError> {
        let Some(message) = parsed(message) else { return Ok(()) };
        let what = "bring the default route back".to_owned();
        existing(within(what, self.handle.route().add(message).execute()).await)
    }

    async fn route_message(&self, route: &RouteSpec) -> Result<RouteMessage, NetlinkError> {
        let mut message = match route.destination {
            IpNet::V4(net) => {
                RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(net.addr(), net.prefix_len()).build()
            }
            IpNet::V6(net) => {
                RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(net.addr(), net.prefix_len()).build()
            }
        };
        // As stock openvpn and `ip route add` mark theirs.
        message.header.protocol = RouteProtocol::Boot;
        if route.unreachable {
            message.header.kind = RouteType::Unreachable;
        }
        if route.onlink {
            message.header.flags = RouteFlags::Onlink;
        }
        if let Some(gateway) = route.gateway {
            message.attributes.push(RouteAttribute::Gateway(gateway.into()));
        }
        if let Some(device) = &route.device {
            message.attributes.push(RouteAttribute::Oif(self.index(device).await?));
        }
        if let Some(metric) = route.metric {
            message.attributes.push(RouteAttribute::Priority(metric));
        }
        Ok(message)
    }
}

/// A unicast route of the main table.
struct View {
    destination: IpNet,
    metric: u32,
    gateway: Option<IpAddr>,
    output: Option<u32>,
    onlink: bool,
}

impl View {
    fn of(message: &RouteMessage) -> Option<Self> {
        let header = &message.header;
        if header.table != RouteHeader::RT_TABLE_MAIN || header.kind != RouteType::Unicast {
            return None;
        }
        let (mut address, mut metric) = (None, 0);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(destination) => address = Some(ip(destination)?),
                RouteAttribute::Priority(priority) => metric = *priority,
                _ => {}
            }
        }
        let unspecified: IpAddr = match header.address_family {
            AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
            AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
            _ => return None,
        };
        let destination = IpNet::new(address.unwrap_or(unspecified), header.destination_prefix_length).ok()?;
        let (gateway, output) = hop(message);
        let onlink = header.flags.contains(RouteFlags::Onlink);
        Some(Self { destination, metric, gateway, output, onlink })
    }

    fn way(&self, names: &BTreeMap<u32, String>) -> Option<Way> {
        Some(Way { gateway: self.gateway, device: names.get(&self.output?)?.clone(), onlink: self.onlink })
    }
}

/// The next router and the link of a route.
fn hop(message: &RouteMessage) -> (Option<IpAddr>, Option<u32>) {
    let gateway = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(gateway) => ip(gateway),
        _ => None,
    });
    let output = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    });
    (gateway, output)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

/// An address as stock openvpn sets it: without a broadcast address, which a tunnel has no use for.
fn address_message(address: &Address, index: u32) -> AddressMessage {
    let mut message = AddressMessage::default();
    let local = address.net.addr();
    message.header.family = if local.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.prefix_len = if address.peer.is_some() { 32 } else { address.net.prefix_len() };
    message.header.index = index;
    message.attributes.push(AddressAttribute::Local(local));
    if let Some(peer) = address.peer {
        message.attributes.push(AddressAttribute::Address(peer.into()));
    }
    message
}

/// A route as it can be added again: without what the kernel only tells.
fn stored(message: &RouteMessage) -> Vec<u8> {
    let mut message = message.clone();
    message.header.flags &= RouteFlags::Onlink;
    message.attributes.retain(|attribute| !matches!(attribute, RouteAttribute::CacheInfo(_)));
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}

fn parsed(bytes: &[u8]) -> Option<RouteMessage> {
    RouteMessage::parse(bytes).ok()
}

fn code(result: &Result<(), NetlinkError>) -> Option<i32> {
    result.as_ref().err().and_then(number)
}

fn number(error: &NetlinkError) -> Option<i32> {
    match error {
        NetlinkError::Request { source: Error::NetlinkError(message), .. } => Some(-message.raw_code()),
        _ => None,
    }
}

/// Whether the kernel refused because there is such a route already.
pub(super) fn is_there(error: &NetlinkError) -> bool {
    number(error) == Some(EXISTS)
}

/// Whether the link went, and with it what was to be brought back.
pub(super) fn link_is_gone(error: &NetlinkError) -> bool {
    number(error).is_some_and(|number| NO_LINK.contains(&number))
}

fn gone(result: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    if code(&result).is_some_and(|code| GONE.contains(&code)) { Ok(()) } else { result }
}

fn existing(result: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    if code(&result) == Some(EXISTS) { Ok(()) } else { result }
}
