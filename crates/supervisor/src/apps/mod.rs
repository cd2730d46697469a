//! The applications: each a pure function from a few options to a container and the check that proves it healthy.

mod caddy;
mod nextcloud;

use model::ContainerSpec;

use crate::HealthCheck;

pub use caddy::{ADMIN_SOCKET, CaddyOptions, caddy};
pub use nextcloud::{Database, NextcloudOptions, OCC, OCC_USER, nextcloud};

/// A supervised application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct App {
    /// Its container.
    pub container: ContainerSpec,
    /// How to ask whether it works.
    pub health: HealthCheck,
}
