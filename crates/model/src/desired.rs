//! What the agents tell each other to want: the edge's configuration for home, home's services for the edge.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{Generation, Health, Hostname, IngressOptions, ServiceName};

/// The closed list of what an edge may tell home. It holds nothing that chooses an image, a mount, an
/// environment variable or a command at home.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredConfig {
    /// Which version this is.
    pub generation: Generation,
    /// The domain under which services get their names.
    pub domain: Hostname,
    /// The edge's address in the tunnel: where requests come from.
    pub edge_address: Ipv4Addr,
    /// Full public names of home's services, by service.
    pub hostnames: BTreeMap<ServiceName, Hostname>,
    /// Everything that the edge publishes, which home is to fetch from outside.
    #[serde(default)]
    pub published: Vec<PublicName>,
}

/// A public name, and how it is fetched to see whether it serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicName {
    /// The name.
    pub hostname: Hostname,
    /// The path that shows the service well.
    pub path: String,
    /// The status of its answer there when it is well; none: any below 500.
    pub status: Option<u16>,
    /// Whether the ingress itself may answer, because it does not let everybody through.
    pub guarded: bool,
}

/// A service as its host offers it to the ingress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceAnnouncement {
    /// The service.
    pub name: ServiceName,
    /// The host part of its public name under the edge's domain (`cloud`), a whole name (`cloud.example.com`), or `@`
    /// for the domain itself.
    pub hostname: String,
    /// Further names, written in the same way, that lead visitors to that one.
    #[serde(default)]
    pub also: Vec<String>,
    /// Where it answers plain HTTP: an address of its host's own.
    pub upstream: SocketAddr,
    /// The path that shows it well, for example `/status.php`.
    pub health_path: String,
    /// The status of its answer there when it is well; none: any below 500.
    #[serde(default)]
    pub health_status: Option<u16>,
    /// Whether calendar and contact clients are led from `/.well-known` to Nextcloud's address for them.
    #[serde(default)]
    pub well_known_dav: bool,
    /// What else its owner asks of the ingress.
    #[serde(default)]
    pub ingress: IngressOptions,
    /// How it is now.
    pub health: Health,
    /// Whether its host's disk is nearly full: the ingress lets nothing large in, and everything else goes on.
    #[serde(default)]
    pub full: bool,
}
