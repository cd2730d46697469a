//! The kernel's state over rtnetlink.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use futures_util::{Stream, TryStreamExt};
use ipnet::Ipv4Net;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};

use crate::plan::{Observed, ObservedLink, plan};
use crate::state::{Change, Route, Target, Wanted};

/// Marks our routes in the kernel, so that we never touch anybody else's (`proto 202` in `ip route`).
const OUR_PROTOCOL: RouteProtocol = RouteProtocol::Other(202);
const UNREACHABLE_METRIC: u32 = 9999;
/// The kernel answers in microseconds; this only bounds a fault.
const DEADLINE: Duration = Duration::from_secs(5);

/// Why the kernel's state could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No netlink socket.
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),
    /// The kernel refused.
    #[error("cannot {what}")]
    Request {
        /// What was asked for.
        what: String,
        /// The kernel's answer.
        #[source]
        source: rtnetlink::Error,
    },
    /// The kernel did not answer.
    #[error("cannot {what}: the kernel gave no answer within {} s", DEADLINE.as_secs())]
    Timeout {
        /// What was asked for.
        what: String,
    },
    /// A link does not exist.
    #[error("there is no network device {0:?}")]
    NoDevice(String),
}

/// A connection to the kernel of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Netlink {
    pub(crate) handle: Handle,
    connection: tokio::task::JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Netlink {
    /// Opens the connection. Must be called within a tokio runtime, which then drives it.
    ///
    /// # Errors
    /// When the kernel gives no socket.
    pub fn open() -> Result<Self, NetlinkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetlinkError::Open)?;
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }

    /// Makes the kernel's state match: all of `wanted`, and nothing else of ours. Returns what was changed; nothing
    /// when everything matched. After an error, what came before it stays done: call again.
    ///
    /// # Errors
    /// Naming the change that the kernel refused, or the link that does not exist.
    pub async fn apply(&self, wanted: &Wanted) -> Result<Vec<Change>, NetlinkError> {
        let observed = self.observe().await?;
        let changes = plan(wanted, &observed).map_err(NetlinkError::NoDevice)?;
        for change in &changes {
            self.execute(change, &observed).await?;
            tracing::debug!("{change}");
        }
        Ok(changes)
    }

    /// Removes routes of ours and a link of this name with its addresses; nothing happens where there is none.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn forget(&self, device: &str) -> Result<(), NetlinkError> {
        self.apply(&Wanted::default()).await?;
        let links = self.links().await?;
        let link = links.iter().find(|message| link_name(message) == Some(device));
        match link {
            Some(link) => {
                let remove = self.handle.link().del(link.header.index);
                within(format!("remove the link {device}"), remove.execute()).await
            }
            None => Ok(()),
        }
    }

    async fn execute(&self, change: &Change, observed: &Observed) -> Result<(), NetlinkError> {
        let index = |device: &str| match observed.links.get(device) {
            Some(link) => Ok(link.index),
            None => Err(NetlinkError::NoDevice(device.to_owned())),
        };
        let what = change.to_string();
        match change {
            Change::SetLink { device, mtu, tx_queue_len } => {
                let mut message = LinkUnspec::new_with_index(index(device)?).up();
                if let Some(mtu) = mtu {
                    message = message.mtu(*mtu);
                }
                if let Some(len) = tx_queue_len {
                    message = message.txqueuelen(*len);
                }
                within(what, self.handle.link().set(message.build()).execute()).await
            }
            Change::AddAddress { device, address } => {
                let address_handle = self.handle.address();
                let request = address_handle.add(index(device)?, IpAddr::V4(address.addr()), address.prefix_len());
                within(what, request.execute()).await
            }
            Change::RemoveAddress { device, address } => {
                let address_handle = self.handle.address();
                let mut request = address_handle.add(index(device)?, IpAddr::V4(address.addr()), address.prefix_len());
                let message = request.message_mut().clone();
                within(what, self.handle.address().del(message).execute()).await
            }
            Change::AddRoute(route) => {
                let message = route_message(route, index)?;
                within(what, self.handle.route().add(message).execute()).await
            }
            Change::RemoveRoute(route) => {
                let message = route_message(route, index)?;
                within(what, self.handle.route().del(message).execute()).await
            }
        }
    }

    async fn observe(&self) -> Result<Observed, NetlinkError> {
        let mut links = BTreeMap::new();
        let mut names = BTreeMap::new();
        for message in self.links().await? {
            let Some((name, link)) = observed_link(&message) else { continue };
            names.insert(link.index, name.clone());
            links.insert(name, link);
        }
        for message in self.addresses().await? {
            let link = names.get(&message.header.index).and_then(|name| links.get_mut(name));
            if let (Some(link), Some(address)) = (link, ipv4_address(&message)) {
                link.addresses.push(address);
            }
        }
        let routes = self
            .routes()
            .await?
            .iter()
            .filter(|message| message.header.protocol == OUR_PROTOCOL)
            .filter_map(|message| our_route(message, &names))
            .collect();
        Ok(Observed { links, routes })
    }

    pub(crate) async fn links(&self) -> Result<Vec<LinkMessage>, NetlinkError> {
        all("list network devices", self.handle.link().get().execute()).await
    }

    pub(crate) async fn addresses(&self) -> Result<Vec<AddressMessage>, NetlinkError> {
        all("list addresses", self.handle.address().get().execute()).await
    }

    pub(crate) async fn routes(&self) -> Result<Vec<RouteMessage>, NetlinkError> {
        let filter = RouteMessageBuilder::<Ipv4Addr>::new().build();
        all("list routes", self.handle.route().get(filter).execute()).await
    }
}

pub(crate) async fn within(
    what: String,
    request: impl Future<Output = Result<(), rtnetlink::Error>>,
) -> Result<(), NetlinkError> {
    match tokio::time::timeout(DEADLINE, request).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(source)) => Err(NetlinkError::Request { what, source }),
        Err(_) => Err(NetlinkError::Timeout { what }),
    }
}

pub(crate) async fn all<T>(
    what: &str,
    answers: impl Stream<Item = Result<T, rtnetlink::Error>>,
) -> Result<Vec<T>, NetlinkError> {
    match tokio::time::timeout(DEADLINE, answers.try_collect()).await {
        Ok(Ok(answers)) => Ok(answers),
        Ok(Err(source)) => Err(NetlinkError::Request { what: what.to_owned(), source }),
        Err(_) => Err(NetlinkError::Timeout { what: what.to_owned() }),
    }
}

pub(crate) fn link_name(message: &LinkMessage) -> Option<&str> {
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

fn observed_link(message: &LinkMessage) -> Option<(String, ObservedLink)> {
    let mut link = ObservedLink {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        ..ObservedLink::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::TxQueueLen(len) => link.tx_queue_len = *len,
            _ => {}
        }
    }
    Some((link_name(message)?.to_owned(), link))
}

/// The local IPv4 address of an address message. On point-to-point links `Address` is the other end's.
pub(crate) fn ipv4_address(message: &AddressMessage) -> Option<Ipv4Net> {
    let find = |local: bool| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(IpAddr::V4(address)) if local => Some(*address),
            AddressAttribute::Address(IpAddr::V4(address)) if !local => Some(*address),
            _ => None,
        })
    };
    Ipv4Net::new(find(true).or_else(|| find(false))?, message.header.prefix_len).ok()
}

/// What is left of a route message for those who only compare destinations.
pub(crate) struct RouteView {
    pub(crate) destination: Ipv4Net,
    pub(crate) output: Option<u32>,
    pub(crate) table: u32,
    pub(crate) kind: RouteType,
    pub(crate) ours: bool,
}

pub(crate) fn route_view(message: &RouteMessage) -> Option<RouteView> {
    let mut address = Ipv4Addr::UNSPECIFIED;
    let mut output = None;
    let mut table = u32::from(message.header.table);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(destination)) => address = *destination,
            RouteAttribute::Destination(_) => return None,
            RouteAttribute::Oif(index) => output = Some(*index),
            RouteAttribute::Table(id) => table = *id,
            _ => {}
        }
    }
    let destination = Ipv4Net::new(address, message.header.destination_prefix_length).ok()?;
    let ours = message.header.protocol == OUR_PROTOCOL;
    Some(RouteView { destination, output, table, kind: message.header.kind, ours })
}

fn our_route(message: &RouteMessage, names: &BTreeMap<u32, String>) -> Option<Route> {
    let view = route_view(message)?;
    if view.table != u32::from(RouteHeader::RT_TABLE_MAIN) {
        return None;
    }
    let target = match (view.kind, view.output) {
        (RouteType::Unreachable, _) => Target::Unreachable,
        (RouteType::Unicast, Some(index)) => Target::Device(names.get(&index)?.clone()),
        _ => return None,
    };
    Some(Route { destination: view.destination, target })
}

fn route_message(
    route: &Route,
    index: impl Fn(&str) -> Result<u32, NetlinkError>,
) -> Result<RouteMessage, NetlinkError> {
    let builder = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(route.destination.addr(), route.destination.prefix_len())
        .protocol(OUR_PROTOCOL);
    Ok(match &route.target {
        Target::Device(device) => builder.output_interface(index(device)?).scope(RouteScope::Link).build(),
        Target::Unreachable => builder.kind(RouteType::Unreachable).priority(UNREACHABLE_METRIC).build(),
    })
}
