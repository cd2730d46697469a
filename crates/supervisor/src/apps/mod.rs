//! The applications: each a pure function from a few options to a service.

mod caddy;
mod nextcloud;

pub use caddy::{ADMIN_SOCKET, CaddyOptions, caddy};
pub use nextcloud::{Database, NextcloudOptions, OCC, OCC_USER, nextcloud};
