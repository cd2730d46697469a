//! Caddy configuration from services, loading it, and proving that public names serve.
//!
//! [`resolve`] turns what the hosts announce into sites, refusing what a host may not ask for; [`render`] turns sites
//! into Caddy's whole configuration; [`AdminClient`] loads it; [`LimitsSocket`] answers Caddy's questions about attempts
//! to log in; [`Prober`] asks through the front door whether a name really serves. None of them decides when: that is the edge's business.
#![forbid(unsafe_code)]

mod access_log;
mod admin;
mod caddy_config;
mod guard;
mod holding;
mod limiter;
mod limits;
mod probe;
mod proxy;
mod resolver;
mod site;
mod storage;

pub use admin::{AdminClient, AdminError};
pub use caddy_config::{Acme, Certificates, IngressState, Listen, ordered_names, render};
pub use guard::Guard;
pub use holding::HOLDING_HEADER;
pub use limits::LimitsSocket;
pub use probe::{ProbeError, ProbeReport, Prober, RootsError};
pub use resolver::{Rejected, Resolution, Source, resolve};
pub use site::{Away, AwayReason, Site};
