//! The wanted state, and the changes that lead to it.

use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// Everything of ours that the kernel is to have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    /// Our links. They must exist; nobody else may keep IPv4 addresses on them.
    pub links: Vec<LinkState>,
    /// Subnets that no other route may lead out of the host: see [`Target::Unreachable`].
    pub unreachable: Vec<Ipv4Net>,
}

/// One link of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkState {
    /// The device's name.
    pub device: String,
    /// Its only IPv4 address.
    pub address: Ipv4Addr,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// Packets the link may queue.
    pub tx_queue_len: u32,
    /// Subnets reached through it.
    pub routes: Vec<Ipv4Net>,
}

/// A route of ours.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Where packets go.
    pub destination: Ipv4Net,
    /// How.
    pub target: Target,
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// Onto a link.
    Device(String),
    /// Nowhere: senders get an error at once. Its metric is so high that any other route to the same subnet wins.
    Unreachable,
}

/// One change to the kernel's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Set what differs on a link; its being up is always part of it.
    SetLink {
        /// The device.
        device: String,
        /// The new MTU, when it differs.
        mtu: Option<u32>,
        /// The new queue length, when it differs.
        tx_queue_len: Option<u32>,
    },
    /// Put an address on a link.
    AddAddress {
        /// The device.
        device: String,
        /// The address.
        address: Ipv4Net,
    },
    /// Take an address off a link.
    RemoveAddress {
        /// The device.
        device: String,
        /// The address.
        address: Ipv4Net,
    },
    /// Add a route.
    AddRoute(Route),
    /// Remove a route.
    RemoveRoute(Route),
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Device(device) => write!(f, "{} on {device}", self.destination),
            Target::Unreachable => write!(f, "unreachable {}", self.destination),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetLink { device, mtu, tx_queue_len } => {
                write!(f, "set {device} up")?;
                if let Some(mtu) = mtu {
                    write!(f, ", mtu {mtu}")?;
                }
                if let Some(len) = tx_queue_len {
                    write!(f, ", queue length {len}")?;
                }
                Ok(())
            }
            Self::AddAddress { device, address } => write!(f, "add address {address} to {device}"),
            Self::RemoveAddress { device, address } => write!(f, "remove address {address} from {device}"),
            Self::AddRoute(route) => write!(f, "add route {route}"),
            Self::RemoveRoute(route) => write!(f, "remove route {route}"),
        }
    }
}
