//! What the edge publishes and what it wants of home, as a pure function of what home announced; kept across
//! restarts, so that names stay published (with the holding page) and generations never go back.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent::config::chain;
use ingress::{Resolution, Site, Source, resolve};
use model::{DesiredConfig, Health, HostId, Hostname, ServiceAnnouncement, ServiceName};
use serde::{Deserialize, Serialize};
use state::{StateError, StateFile};
use tracing::warn;

/// What is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    desired: Option<DesiredConfig>,
    home: Option<Announced>,
    /// The edge's own services, as they were.
    #[serde(default)]
    own: Vec<ServiceAnnouncement>,
    /// Names without a service behind them, and since when: Unix seconds.
    #[serde(default)]
    away: BTreeMap<Hostname, u64>,
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
    host: HostId,
    domain: Hostname,
    edge_address: Ipv4Addr,
    home_address: Ipv4Addr,
    /// Where services of the edge's own may answer.
    own_addresses: Vec<IpAddr>,
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
        host: HostId,
        domain: Hostname,
        edge_address: Ipv4Addr,
        home_address: Ipv4Addr,
        own_addresses: Vec<IpAddr>,
    ) -> Result<Self, StateError> {
        let file = StateFile::new(state_dir, "edge.json");
        let stored = file.load()?.unwrap_or_default();
        Ok(Self {
            host,
            domain,
            edge_address,
            home_address,
            own_addresses,
            file,
            stored,
            unsaved: false,
            complained: false,
        })
    }

    /// From now on services of the edge's own may answer there.
    pub(crate) fn set_own_addresses(&mut self, addresses: Vec<IpAddr>) {
        self.own_addresses = addresses;
    }

    /// Takes what a home announces.
    pub(crate) fn announce(&mut self, host: HostId, services: Vec<ServiceAnnouncement>) {
        let announced = Some(Announced { host, services });
        self.unsaved |= self.stored.home != announced;
        self.stored.home = announced;
    }

    /// Takes the edge's own services. While the agent has just started, one that has not been asked yet counts as what it
    /// was before: its visitors need not notice that the agent was away.
    pub(crate) fn announce_own(&mut self, mut services: Vec<ServiceAnnouncement>, just_started: bool) {
        for service in services.iter_mut().filter(|service| just_started && is_open(&service.health)) {
            let before = self.stored.own.iter().find(|before| before.name == service.name);
            if let Some(before) = before.filter(|before| before.upstream == service.upstream) {
                service.health.clone_from(&before.health);
            }
        }
        self.unsaved |= self.stored.own != services;
        self.stored.own = services;
    }

    /// What is published. While home is not `reachable`, its names stay and show the holding page.
    pub(crate) fn resolve(&mut self, reachable: bool) -> Resolution {
        let own = Source {
            host: self.host.clone(),
            addresses: self.own_addresses.clone(),
            reachable: true,
            announcements: self.stored.own.clone(),
        };
        let home = self.stored.home.as_ref().map(|home| Source {
            host: home.host.clone(),
            addresses: vec![IpAddr::from(self.home_address)],
            reachable,
            announcements: home.services.clone(),
        });
        let sources: Vec<Source> = std::iter::once(own).chain(home).collect();
        let mut resolution = resolve(&self.domain, &sources);
        self.date(&mut resolution);
        resolution
    }

    /// Since when each name is away.
    fn date(&mut self, resolution: &mut Resolution) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut dates = BTreeMap::new();
        for site in &mut resolution.sites {
            if let Some(away) = &mut site.away {
                let since = self.stored.away.get(&site.hostname).copied().unwrap_or(now);
                dates.insert(site.hostname.clone(), since);
                away.since = UNIX_EPOCH.checked_add(Duration::from_secs(since));
            }
        }
        self.unsaved |= self.stored.away != dates;
        self.stored.away = dates;
    }

    /// Full public names of the services of `host`.
    pub(crate) fn names(resolution: &Resolution, host: impl Fn(&HostId) -> bool) -> BTreeMap<ServiceName, Hostname> {
        let sites = resolution.sites.iter().filter(|site| host(&site.host));
        sites.map(|site| (site.service.clone(), site.hostname.clone())).collect()
    }

    /// What home is to apply. The generation rises when, and only when, the content changes.
    pub(crate) fn desired(&mut self, resolution: &Resolution) -> DesiredConfig {
        let generation = self.stored.desired.as_ref().map(|desired| desired.generation).unwrap_or_default();
        let mut desired = DesiredConfig {
            generation,
            domain: self.domain.clone(),
            edge_address: self.edge_address,
            hostnames: Self::names(resolution, |host| *host != self.host),
            published: resolution.sites.iter().map(Site::public_name).collect(),
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

/// Whether nothing is known yet.
fn is_open(health: &Health) -> bool {
    matches!(health, Health::Unknown | Health::Starting { .. })
}

#[cfg(test)]
mod tests {
    use model::Generation;

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
            ingress: model::IngressOptions::default(),
            health,
            full: false,
        }
    }

    fn open(dir: &Path) -> Sites {
        let (edge, home) = (Ipv4Addr::new(10, 86, 0, 1), Ipv4Addr::new(10, 86, 0, 2));
        let own = vec![Ipv4Addr::LOCALHOST.into()];
        Sites::open(dir, "vps".parse().unwrap(), "example.test".parse().unwrap(), edge, home, own).unwrap()
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
    fn own_services_are_published_and_are_not_home_s_business() {
        let dir = tempfile::tempdir().unwrap();
        let mut sites = open(dir.path());
        let own = |health| ServiceAnnouncement {
            upstream: "127.0.0.1:2368".parse().unwrap(),
            ..announcement("ghost", "@", health)
        };
        sites.announce_own(vec![own(Health::Healthy)], true);
        sites.announce("attic".parse().unwrap(), vec![announcement("ghost", "cloud", Health::Healthy)]);
        let resolution = sites.resolve(false);
        let names: Vec<&str> = resolution.sites.iter().map(|site| site.hostname.as_str()).collect();
        assert_eq!(names, ["example.test", "cloud.example.test"]);
        assert!(resolution.sites[0].upstream.is_some(), "home's tunnel is none of its business");
        let desired = sites.desired(&resolution);
        assert_eq!(desired.hostnames.values().next().unwrap().as_str(), "cloud.example.test");
        sites.save();

        let mut again = open(dir.path());
        again.announce_own(vec![own(Health::Unknown)], true);
        assert!(again.resolve(false).sites[0].upstream.is_some(), "a restart of the agent is no outage");
        again.announce_own(vec![own(Health::Unknown)], false);
        assert!(again.resolve(false).sites[0].upstream.is_none());
        again.announce_own(vec![own(Health::Unhealthy { reason: "500".into() })], true);
        assert!(again.resolve(false).sites[0].upstream.is_none());
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

    #[test]
    fn the_beginning_of_an_outage_survives_a_restart_and_ends_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut sites = open(dir.path());
        sites.announce("attic".parse().unwrap(), vec![announcement("nextcloud", "cloud", Health::Healthy)]);
        let since = |sites: &mut Sites, reachable| sites.resolve(reachable).sites[0].away.and_then(|away| away.since);
        let began = since(&mut sites, false).unwrap();
        sites.stored.away.values_mut().for_each(|at| *at -= 600);
        sites.save();
        let mut again = open(dir.path());
        assert_eq!(since(&mut again, false), Some(began - Duration::from_secs(600)));
        assert_eq!(since(&mut again, true), None);
        assert!(since(&mut again, false).unwrap() >= began, "another outage begins when it begins");
    }
}
