//! The tunnel in detail: what an agent tells of its own, and only on its own host.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::TunnelStatus;

/// Everything about a host's end of the tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TunnelReport {
    /// What the opposite host hears of it too.
    pub status: TunnelStatus,
    /// The link's name.
    pub device: String,
    /// Largest inner packet now, bytes.
    pub mtu: u32,
    /// How packets pass between the link and the sockets.
    pub data_path: DataPath,
    /// Inner packets from peers since start, of those that are gone too.
    pub received_packets: u64,
    /// Inner packets to peers since start.
    pub sent_packets: u64,
    /// Sessions that came up since start.
    pub handshakes_completed: u64,
    /// New keys of connected peers since start.
    pub renewals_completed: u64,
    /// New keys of connected peers that did not come to be, since start.
    pub renewals_failed: u64,
    /// Unix time when the list of revoked certificates ends, in seconds; `None` without one.
    pub crl_next_update: Option<u64>,
    /// Dropped packets since start, by the reason's name; all reasons that there are.
    pub drops: BTreeMap<String, u64>,
    /// Connected peers, devices too.
    pub peers: Vec<TunnelPeer>,
}

/// How packets pass between the link and the sockets.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DataPath {
    /// Reading from the link.
    pub device_read: PathStep,
    /// Writing to it.
    pub device_write: PathStep,
    /// Sending datagrams.
    pub udp_send: PathStep,
    /// Receiving them.
    pub udp_receive: PathStep,
}

impl DataPath {
    /// The steps with their names, which are stable and fit for a metric's label.
    #[must_use]
    pub fn steps(&self) -> [(&'static str, &PathStep); 4] {
        [
            ("device_read", &self.device_read),
            ("device_write", &self.device_write),
            ("udp_send", &self.udp_send),
            ("udp_receive", &self.udp_receive),
        ]
    }
}

/// One step of the data path.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PathStep {
    /// What a system call carries there: `virtio-uso`, `virtio-tso` or `plain` of the link, `segmented` or `single` of
    /// datagrams. Empty before that is known.
    pub by: String,
    /// System calls since start.
    pub calls: u64,
    /// The packets or datagrams that they carried.
    pub packets: u64,
}

/// A connected peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelPeer {
    /// The common name in its certificate; empty without one.
    pub name: String,
    /// Its IPv4 address inside.
    pub address: Option<Ipv4Addr>,
    /// Its IPv6 address inside.
    pub address_ipv6: Option<Ipv6Addr>,
    /// Its address on the underlay.
    pub remote: SocketAddr,
    /// How it is reached there: `udp` or `tcp`.
    pub transport: String,
    /// The data cipher.
    pub cipher: String,
    /// The TLS version of its handshake.
    pub tls: String,
    /// What it says that it runs.
    pub software: String,
    /// Largest packet that the path to it carries in one piece, bytes; `None` where that was not discovered.
    pub path_mtu: Option<u32>,
    /// Unix time since when it has been connected, in seconds.
    pub since: u64,
    /// Unix time of its last authentic packet, in seconds.
    pub last_heard: u64,
    /// Packets from it.
    pub received_packets: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Packets to it.
    pub sent_packets: u64,
    /// Their bytes.
    pub sent_bytes: u64,
}
