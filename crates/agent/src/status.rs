//! Who this agent is.

use std::time::Instant;

use control::Introduction;
use model::{HostId, HostStatus, Role};

/// Who this agent is since it started.
#[derive(Debug, Clone)]
pub struct Myself {
    /// Its host, by its certificate.
    pub host: HostId,
    /// Its role.
    pub role: Role,
    boot_id: String,
    started: Instant,
}

impl Myself {
    /// An agent that starts now.
    #[must_use]
    pub fn new(host: HostId, role: Role) -> Self {
        let boot_id = format!("{:016x}", rand::random::<u64>());
        Self { host, role, boot_id, started: Instant::now() }
    }

    /// How it introduces itself on the control channel.
    #[must_use]
    pub fn introduction(&self) -> Introduction {
        Introduction {
            host: self.host.clone(),
            role: self.role,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            boot_id: self.boot_id.clone(),
            keeps_to_ingress_options: true,
            keeps_to_calls: true,
        }
    }

    /// A status with nothing but this agent in it.
    #[must_use]
    pub fn status(&self) -> HostStatus {
        HostStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            boot_id: self.boot_id.clone(),
            uptime_seconds: self.started.elapsed().as_secs(),
            ..HostStatus::new(self.host.clone(), self.role)
        }
    }
}
