//! Enrolment: over HTTPS, on the tunnel's TCP port, a home shows the secret of a join code and a request for a
//! certificate, and gets its identity, but for the private key, which it has and keeps.
//!
//! The home knows the edge by the code: somewhere in the edge's chain stands the certificate of the authority whose
//! fingerprint the code carries, and the edge's own certificate was issued by it to an edge. The edge knows the home by
//! the secret. Nothing else of either is believed.
//!
//! ```text
//! POST /enrol  {secret, request, version}
//! 200          {edge, home, certificate, authority, tls_crypt_v2, domain, subnet, control_port, version}
//! 4xx, 5xx     {reason}
//! ```
#![forbid(unsafe_code)]

mod client;
mod limits;
mod server;

pub use client::{JoinError, Joined, join, look};
pub use server::{Admit, Enrolment, Grant, Pems, Refused, TlsError};

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Where requests go.
const PATH: &str = "/enrol";
/// Longest body of either direction, bytes: a request for a certificate has some 400, an answer some 3,000.
const MAX_BODY: usize = 16 * 1024;
/// The whole exchange, from the first byte of TLS on.
const DEADLINE: Duration = Duration::from_secs(10);

/// What a home sends.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    /// The code's secret, hexadecimal.
    secret: String,
    /// A request for a certificate, PEM.
    request: String,
    /// The home's release, for the edge's log.
    version: String,
}

/// What a home gets. Fields that a later release adds are skipped.
#[derive(Serialize, Deserialize)]
struct Answer {
    edge: String,
    home: String,
    certificate: String,
    authority: String,
    tls_crypt_v2: String,
    domain: String,
    subnet: ipnet::Ipv4Net,
    control_port: u16,
    version: String,
}

/// Why it gets nothing.
#[derive(Serialize, Deserialize)]
struct Refusal {
    reason: String,
}
