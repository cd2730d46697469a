//! One service of the configuration: what the supervisor is to make of it, and what people need to know of it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use model::{Hostname, ServiceSpec};
use supervisor::apps::{
    Credential, GhostSecrets, Health as AppHealth, NextcloudSecrets, Place, container, external, ghost, nextcloud,
};
use supervisor::{PinnedImage, Records, Secrets};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::relay::Relay;
use super::{Kind, Live, Service};
use crate::config::chain;

/// A service and what is known of it while the agent runs.
#[derive(Debug)]
pub(super) struct Managed {
    pub(super) service: Service,
    pub(super) generated: Generated,
    pub(super) hostname: Option<Hostname>,
    pub(super) relay: Option<Relay>,
    /// Whether the log has the reason why its record cannot be stored.
    complained: bool,
}

/// The secrets that were generated for a service.
#[derive(Debug)]
pub(super) enum Generated {
    Nextcloud(NextcloudSecrets),
    Ghost(GhostSecrets),
    None,
}

impl Generated {
    pub(super) fn open(service: &Service, secrets: &Secrets) -> Result<Self, supervisor::SecretsError> {
        Ok(match &service.kind {
            Kind::Nextcloud(_) => Self::Nextcloud(NextcloudSecrets::open(secrets, &service.name)?),
            Kind::Ghost(_) => Self::Ghost(GhostSecrets::open(secrets, &service.name)?),
            Kind::Container(_) | Kind::External(_) => Self::None,
        })
    }
}

impl Service {
    /// Whether its own port on this host's address is what the ingress asks.
    pub(super) fn has_port(&self) -> bool {
        self.port != 0
    }

    /// Where the ingress asks it.
    pub(super) fn upstream(&self, address: Ipv4Addr) -> SocketAddr {
        match &self.kind {
            Kind::External(settings) if !self.has_port() => settings.address,
            _ => SocketAddr::from((address, self.port)),
        }
    }

    /// The address that the ingress asks, where that is not one of this host's own.
    #[must_use]
    pub fn foreign_address(&self) -> Option<IpAddr> {
        match &self.kind {
            Kind::External(settings) if !self.has_port() => Some(settings.address.ip()),
            _ => None,
        }
    }
}

impl Kind {
    /// The path that shows it well, and the status of the answer; none: any below 500.
    pub(super) fn health(&self) -> (String, Option<u16>) {
        let any = ("/".to_owned(), None);
        match self {
            Self::Nextcloud(_) => ("/status.php".to_owned(), Some(200)),
            Self::Ghost(_) => (supervisor::apps::GHOST_HEALTH.to_owned(), Some(200)),
            Self::Container(settings) => match &settings.health {
                AppHealth::Tcp => any,
                AppHealth::Http { path, status } => (path.clone(), Some(*status)),
            },
            Self::External(settings) => match &settings.health_path {
                None => any,
                Some(path) => (path.clone(), Some(settings.health_status)),
            },
        }
    }
}

impl Managed {
    /// A service that has no public name yet, with its secrets, which are made where there are none.
    pub(super) fn open(service: Service, secrets: &Secrets) -> Result<Self, supervisor::SecretsError> {
        let generated = Generated::open(&service, secrets)?;
        Ok(Self { service, generated, hostname: None, relay: None, complained: false })
    }

    /// The service as it is to be; none before it has a public name.
    pub(super) fn spec(&self, live: &Live) -> Option<ServiceSpec> {
        let service = &self.service;
        let hostname = self.hostname.clone()?;
        let place = Place {
            service: service.name.clone(),
            hostname,
            bind: SocketAddr::from((live.address, service.port)),
            trusted_proxies: live.trusted_proxies.clone(),
        };
        Some(match (&service.kind, &self.generated) {
            (Kind::Nextcloud(settings), Generated::Nextcloud(secrets)) => nextcloud(settings, secrets, &place),
            (Kind::Ghost(settings), Generated::Ghost(secrets)) => ghost(settings, secrets, &place),
            (Kind::Container(settings), _) => container(settings, &place),
            (Kind::External(settings), _) => external(settings, &service.name, place.hostname.as_str()),
            // They are made together.
            (Kind::Nextcloud(_) | Kind::Ghost(_), _) => return None,
        })
    }

    /// The service as its record says that it is to be: a person's configuration names images for the first start, later
    /// ones come by an upgrade. None while there is no record and none can be made.
    pub(super) fn recorded(&mut self, spec: ServiceSpec, records: &Records) -> Option<ServiceSpec> {
        if spec.units.is_empty() {
            return Some(spec);
        }
        let images = spec.units.iter().map(|unit| {
            let image = PinnedImage { reference: unit.container.image.clone(), id: None };
            (unit.container.name.clone(), image)
        });
        match records.install(&spec.name, images.collect()) {
            Ok(record) => {
                self.complained = false;
                Some(record.wanted().shape(spec))
            }
            Err(error) => {
                if !std::mem::replace(&mut self.complained, true) {
                    warn!(service = %spec.name, error = chain(&error), "the record of the service cannot be stored");
                }
                // What is known of it still holds. A service of which nothing is known is not begun.
                records.record(&spec.name).map(|record| record.wanted().shape(spec))
            }
        }
    }

    /// Keeps the relay what is live: of an external service that is asked by a port of this host's.
    pub(super) fn relay(&mut self, live: &Live, news: &watch::Sender<()>, stop: &CancellationToken) {
        let Kind::External(settings) = &self.service.kind else { return };
        if self.hostname.is_none() || !self.service.has_port() {
            self.relay = None;
            return;
        }
        let (from, to) = (SocketAddr::from((live.address, self.service.port)), settings.address);
        if self.relay.as_ref().is_none_or(|relay| !relay.is(from, to)) {
            // The old one first: it may hold the port.
            self.relay = None;
            self.relay = Some(Relay::start(from, to, news.clone(), stop));
        }
    }

    pub(super) fn credentials(&self) -> Vec<Credential> {
        let mut credentials = Vec::new();
        if let Some(hostname) = &self.hostname {
            let path = if matches!(self.service.kind, Kind::Ghost(_)) { "/ghost/" } else { "/" };
            credentials.push(Credential::new("address", format!("https://{hostname}{path}")));
        }
        credentials.extend(match (&self.service.kind, &self.generated) {
            (Kind::Nextcloud(settings), Generated::Nextcloud(secrets)) => settings.credentials(secrets),
            (Kind::Ghost(settings), Generated::Ghost(secrets)) => settings.credentials(secrets),
            _ => Vec::new(),
        });
        credentials
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use model::Run;
    use supervisor::{Release, Wanted};

    use super::super::check;
    use super::*;

    #[test]
    fn an_upgraded_image_is_the_record_s_and_another_is_the_configuration_s() {
        let written = toml::from_str("[n]\nkind = \"nextcloud\"\nimage = \"nextcloud:34.0.4-apache\"\n").unwrap();
        let service = check(written, model::Role::Home, None).unwrap().remove(0);
        let dir = tempfile::tempdir().unwrap();
        let secrets = Secrets::open(dir.path()).unwrap();
        let mut managed = Managed::open(service, &secrets).unwrap();
        managed.hostname = Some("cloud.example.com".parse().unwrap());
        let live = Live {
            address: Ipv4Addr::new(10, 86, 0, 2),
            hostnames: BTreeMap::new(),
            trusted_proxies: vec!["10.86.0.1".to_owned()],
        };
        let mut spec = managed.spec(&live).unwrap();
        let image = |reference: &str, id: &str| PinnedImage { reference: reference.into(), id: Some(id.into()) };
        let images = [
            ("n".to_owned(), image("nextcloud:35.0.0-apache", "sha256:1")),
            ("n-db".to_owned(), image("postgres:17", "sha256:2")),
            ("n-redis".to_owned(), image("redis:6", "sha256:3")),
        ];
        let release = Release { generation: model::Generation(4), images: images.into() };
        assert!(spec.units.iter().any(|unit| unit.restart_after.is_some()));
        let wanted = Wanted { release, run: Run::Only(vec!["n-db".into()]), held: Some("being upgraded".into()) };
        spec = wanted.shape(spec);
        assert!(spec.units.iter().all(|unit| unit.restart_after.is_none()));
        let of = |name: &str| {
            let unit = spec.units.iter().find(|unit| unit.container.name == name).unwrap();
            (unit.container.image.as_str(), unit.container.image_id.as_deref())
        };
        assert_eq!(of("n"), ("nextcloud:35.0.0-apache", Some("sha256:1")));
        assert_eq!(of("n-db"), ("postgres:17", Some("sha256:2")));
        assert_eq!(of("n-redis"), ("redis:7", None));
        assert_eq!((spec.generation.0, &spec.run), (4, &Run::Only(vec!["n-db".into()])));
    }
}
