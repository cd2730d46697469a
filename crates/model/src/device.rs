//! Phones and laptops that connect to the edge with a stock OpenVPN client.

use std::net::{Ipv4Addr, SocketAddr};

use secrecy::SecretString;
use serde::Serialize;

use crate::HostId;

/// What a device's profile is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceQuery {
    /// The device.
    pub name: HostId,
    /// Where it finds the edge: `HOST[:PORT][/udp|/tcp]`. None: by a name under the domain, at the tunnel's port.
    pub remotes: Vec<String>,
    /// Whether all of its traffic goes through the tunnel, not only what is for the tunnel's network.
    pub full: bool,
    /// The name servers that it is to use.
    pub dns: Vec<Ipv4Addr>,
}

/// What a device gets.
#[derive(Debug, Clone)]
pub struct DeviceGrant {
    /// The profile's text, with the device's key.
    pub profile: SecretString,
    /// When the certificate in it ends, seconds since 1970.
    pub not_after: u64,
    /// How many certificates from before count no more.
    pub revoked: u32,
    /// As [`DeviceInfo::reach`].
    pub reach: Vec<String>,
}

/// A device, by its latest certificate. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeviceInfo {
    /// Its name.
    pub name: HostId,
    /// Valid from.
    pub not_before: u64,
    /// Valid until.
    pub not_after: u64,
    /// Since when none of its certificates counts any more; `None`: one does, or has ended unrevoked.
    pub revoked: Option<u64>,
    /// Since when it is connected.
    pub connected_since: Option<u64>,
    /// Its address inside, while it is connected.
    pub address: Option<Ipv4Addr>,
    /// When it was heard last.
    pub last_seen: Option<u64>,
    /// Its address outside then.
    pub remote: Option<SocketAddr>,
    /// Inner bytes from it, of all sessions that are remembered.
    pub received_bytes: u64,
    /// Inner bytes to it, of all sessions that are remembered.
    pub sent_bytes: u64,
    /// What it may reach, in the words of the edge's configuration.
    pub reach: Vec<String>,
}
