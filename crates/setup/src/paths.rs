//! Where things lie on a host.

use std::path::PathBuf;

use model::Role;

/// The directories of a host.
#[derive(Debug, Clone)]
pub struct Paths {
    /// Configuration: `/etc/cloudathome`.
    pub etc: PathBuf,
    /// State: `/var/lib/cloudathome`.
    pub state: PathBuf,
    /// Sockets: `/run/cloudathome`.
    pub run: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self { etc: "/etc/cloudathome".into(), state: "/var/lib/cloudathome".into(), run: "/run/cloudathome".into() }
    }
}

impl Paths {
    /// The configuration of an agent.
    #[must_use]
    pub fn configuration(&self, role: Role) -> PathBuf {
        self.etc.join(format!("{role}.toml"))
    }

    /// Where an agent is asked.
    #[must_use]
    pub fn socket(&self, role: Role) -> PathBuf {
        self.run.join(format!("{role}.sock"))
    }

    /// Who the host is.
    #[must_use]
    pub fn identity(&self) -> PathBuf {
        self.state.join("identity")
    }

    /// The edge's authority.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.state.join("authority")
    }

    /// Home's key while it joins.
    pub(crate) fn join_key(&self) -> PathBuf {
        self.state.join("join.key")
    }
}
