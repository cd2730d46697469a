//! What the ingress publishes, for people to look at.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{HostId, Hostname, IngressOptions, ServiceName, Serving};

/// What an ingress publishes and refuses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngressReport {
    /// Why Caddy does not do what is wanted, while it does not.
    pub reason: Option<String>,
    /// What is to be published.
    pub sites: Vec<PublishedSite>,
    /// What was announced and is not published.
    pub refused: Vec<RefusedService>,
}

/// A public name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedSite {
    /// The name.
    pub hostname: Hostname,
    /// The host that runs the service.
    pub host: HostId,
    /// The service.
    pub service: ServiceName,
    /// Further names that lead visitors to it.
    pub also: Vec<Hostname>,
    /// What is asked; none: visitors see the holding page.
    pub upstream: Option<SocketAddr>,
    /// Why they do.
    pub away: Option<String>,
    /// Since when they do, Unix seconds.
    pub away_since: Option<u64>,
    /// Whether it is proven to serve.
    pub serving: Serving,
    /// What its owner asked for, without the hashes of passwords.
    pub options: IngressOptions,
    /// When the certificate ends that the last proof saw, Unix seconds.
    pub certificate_ends: Option<u64>,
}

/// A service that was announced and is not published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedService {
    /// The host that announced it.
    pub host: HostId,
    /// The service.
    pub service: ServiceName,
    /// Why not.
    pub reason: String,
}
