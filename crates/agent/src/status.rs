//! Who this agent is, and how its status gets out.

use std::time::Instant;

use control::{Introduction, Snapshot};
use model::{ControlStatus, HostId, HostStatus, Role};
use tokio::sync::watch;

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
        }
    }

    /// A status with nothing but this agent in it.
    #[must_use]
    pub fn status(&self) -> HostStatus {
        HostStatus {
            host: self.host.clone(),
            role: self.role,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            boot_id: self.boot_id.clone(),
            uptime_seconds: self.started.elapsed().as_secs(),
            generation: model::Generation::default(),
            tunnel: model::TunnelStatus::default(),
            control: ControlStatus::default(),
            containers: vec![],
            services: vec![],
        }
    }
}

/// Stores a new value and wakes the watchers only if something changed besides clocks and byte counts, which
/// watchers see when they look for another reason.
pub fn publish(sender: &watch::Sender<Snapshot>, new: Snapshot) -> bool {
    sender.send_if_modified(|old| {
        let changed = steady(&old.local) != steady(&new.local)
            || old.peer.as_ref().map(|(peer, _)| steady(peer)) != new.peer.as_ref().map(|(peer, _)| steady(peer));
        *old = new;
        changed
    })
}

/// A status without what changes all the time.
fn steady(status: &HostStatus) -> HostStatus {
    let mut steady = status.clone();
    steady.uptime_seconds = 0;
    steady.control.last_heard_seconds = None;
    steady.tunnel.received_bytes = 0;
    steady.tunnel.sent_bytes = 0;
    steady.tunnel.packets_dropped = 0;
    steady
}
