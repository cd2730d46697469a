//! What both agents share: the common part of their configuration, the tunnel's link and its place in the host's
//! network, their services, their status, and the metrics made from it.
#![forbid(unsafe_code)]

#[cfg(null_cipher)]
compile_error!("without encryption there is nothing but a measurement");

pub mod config;
mod configuration;
pub mod devices;
mod doctor;
pub mod identity;
mod link;
mod listener;
mod lookout;
mod metrics;
mod renewal;
mod report;
pub mod services;
mod serving;
mod settings;
mod status;
mod timeline;
mod watch;

pub use configuration::{Configuration, NewServices};
pub use doctor::{Doctor, Looked, MailServer};
pub use identity::{InForce, OwnIdentity};
pub use link::{Link, LinkView};
pub use lookout::Lookout;
pub use metrics::{Disk, Metrics, NameProof, NameProofs, watch_disks};
pub use renewal::{Asked as AskedRenewal, Issuer, Lists, Renewal, Renewer};
pub use services::Services;
pub use serving::{Proof, conclude};
pub use status::Myself;
pub use timeline::Recorder;
pub use watch::{CONTROL_DEADLINE, CORE_DEADLINE, watchdog};
