//! What the edge publishes and what it wants of home, as a pure function of what home announced; kept across
//! restarts, so that names stay published (with the holding page) and generations never go back.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use agent::config::chain;
use ingress::{Resolution, Source, resolve};
use model::{DesiredConfig, HostId, Hostname, ServiceAnnouncement};
use serde::{Deserialize, Serialize};
use state::{StateError, StateFile};
use tracing::warn;

/// What is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    desired: Option<DesiredConfig>,
    home: Option<Announced>,
}

/// What a home announced last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Announced {
    host: HostId,
    services: Vec<ServiceAnnouncement>,
}

/// Names, sites and the configuration for home.
#[derive(Debug)]
pub(crate) struct Sites {
    domain: Hostname,
    edge_address: Ipv4Addr,
    home_address: Ipv4Addr,
    file: StateFile<Stored>,
    stored: Stored,
    /// Whether the file holds something older.
    unsaved: bool,
    /// Whether the log has the reason.
    complained: bool,
}

impl Sites {
    /// Continues from what was stored.
    pub(crate) fn open(
        state_dir: &Path,
        domain: Hostname,
        edge_address: Ipv4Addr,
        home_address: Ipv4Addr,
    ) -> Result<Self, StateError> {
        let file = StateFile::new(state_dir, "edge.json");
        let stored = file.load()?.unwrap_or_default();
        Ok(Self { domain, edge_address, home_address, file, stored, unsaved: false, complained: false })
    }

    /// Takes what a home announces.
    pub(crate) fn announce(&mut self, host: HostId, services: Vec<ServiceAnnouncement>) {
        let announced = Some(Announced { host, services });
        self.unsaved |= self.stored.home != announced;
        self.stored.home = announced;
    }

    /// What is published. While home is not `reachable`, its names stay and show the holding page.
    pub(crate) fn resolve(&self, reachable: bool) -> Resolution {
        let source = self.stored.home.as_ref().map(|home| Source {
            host: home.host.clone(),
            addresses: vec![IpAddr::from(self.home_address)],
            reachable,
            announcements: home.services.clone(),
        });
        resolve(&self.domain, source.as_slice())
    }

    /// What home is to apply. The generation rises when, and only when, the content changes.
    pub(crate) fn desired(&mut self, resolution: &Resolution) -> DesiredConfig {
        let generation = self.stored.desired.as_ref().map(|desired| desired.generation).unwrap_or_default();
        let mut desired = DesiredConfig {
            generation,
            domain: self.domain.clone(),
            edge_address: self.edge_address,
            hostnames: resolution.sites.iter().map(|site| (site.service.clone(), site.hostname.clone())).collect(),
        };
        if self.stored.desired.as_ref() != Some(&desired) {
            desired.generation = generation.next();
            self.stored.desired = Some(desired.clone());
            self.unsaved = true;
        }
        desired
    }

    /// Stores what changed. A disk that is full must not end what is published: it is tried again with each pass.
    pub(crate) fn save(&mut self) {
        if !self.unsaved {
            return;
        }
        match self.file.store(&self.stored) {
            Ok(()) => (self.unsaved, self.complained) = (false, false),
            Err(_) if self.complained => {}
            Err(error) => {
                warn!(error = chain(&error), "what is published is not stored and would be lost in a restart");
                self.complained = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use model::{Generation, Health};

    use super::*;

    fn announcement(name: &str, hostname: &str, health: Health) -> ServiceAnnouncement {
        ServiceAnnouncement {
            name: name.parse().unwrap(),
            hostname: hostname.into(),
            upstream: "10.86.0.2:8080".parse().unwrap(),
            also: vec![],
            health_path: "/status.php".into(),
            health_status: Some(200),
            well_known_dav: true,
            health,
        }
    }

    fn open(dir: &Path) -> Sites {
        Sites::open(dir, "example.test".parse().unwrap(), Ipv4Addr::new(10, 86, 0, 1), Ipv4Addr::new(10, 86, 0, 2))
            .unwrap()
    }

    #[test]
    fn generations_rise_with_the_content_and_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let mut sites = open(dir.path());
        let resolution = sites.resolve(false);
        assert_eq!(sites.desired(&resolution).generation, Generation(1));
        sites.announce("attic".parse().unwrap(), vec![announcement("nextcloud", "cloud", Health::Unknown)]);
        let resolution = sites.resolve(true);
        let second = sites.desired(&resolution);
        sites.save();
        assert_eq!(second.generation, Generation(2));
        assert_eq!(second.hostnames.values().next().unwrap().as_str(), "cloud.example.test");

        let mut again = open(dir.path());
        let resolution = again.resolve(false);
        assert_eq!(again.desired(&resolution), second, "the name stays while home is away");
    }

    #[test]
    fn only_a_reachable_and_healthy_service_has_an_upstream() {
        let dir = tempfile::tempdir().unwrap();
        let mut sites = open(dir.path());
        let host: HostId = "attic".parse().unwrap();
        sites.announce(host.clone(), vec![announcement("nextcloud", "cloud", Health::Healthy)]);
        assert!(sites.resolve(true).sites[0].upstream.is_some());
        assert!(sites.resolve(false).sites[0].upstream.is_none());
        let sick = Health::Unhealthy { reason: "no answer".into() };
        sites.announce(host, vec![announcement("nextcloud", "cloud", sick)]);
        assert!(sites.resolve(true).sites[0].upstream.is_none());
    }
}
