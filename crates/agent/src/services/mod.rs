//! The services of a host: from their configuration, their records and what is live to what the supervisor wants, and to
//! what others are told of them.

mod check;
mod ingress;
mod operator;
mod relay;
mod written;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use model::{
    ContainerStatus, Health, HostId, Hostname, Run, ServiceAnnouncement, ServiceName, ServiceSpec, ServiceStatus,
    Serving,
};
use registry::Client;
use supervisor::apps::{
    Credential, GhostSecrets, Health as AppHealth, NextcloudSecrets, Place, container, external, ghost, nextcloud,
};
use supervisor::upgrade::{Automatic, Host, HostClock, HostOptions, NoCrash, Retry, Rule, Upgrader};
use supervisor::{
    DockerEngine, Operations, Passes, PinnedImage, RecordMap, Records, Secrets, Supervisor, SupervisorOptions,
};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::operator::{ByItself, Logins, Operator};
use self::relay::Relay;
use crate::config::{Common, chain};
use crate::metrics::{Disk, watch_disks};

pub use check::{Kind, Service, check};
pub use ingress::Published;
pub use written::ServiceSection;

/// How long all services together may take to stop when the host goes down. What is not stopped then the engine stops.
const STOP_ALL_DEADLINE: Duration = Duration::from_secs(150);

/// Upgrades by themselves begin so long after their window at most: not all hosts should ask a registry at the same time.
const UPGRADE_JITTER: Duration = Duration::from_secs(30 * 60);

/// What is known only while the agents run, and may change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Live {
    /// Where services answer on this host: its tunnel address at home, loopback on the edge.
    pub address: Ipv4Addr,
    /// Full public names. A service without one is not started: it could not know whom to answer.
    pub hostnames: BTreeMap<ServiceName, Hostname>,
    /// Where requests of the ingress seem to come from.
    pub trusted_proxies: Vec<String>,
}

/// The running services.
#[derive(Debug)]
pub struct Services {
    managed: Vec<Managed>,
    /// What is wanted besides, whatever is live.
    always: Vec<ServiceSpec>,
    secrets: Secrets,
    records: Arc<Records>,
    recorded: watch::Receiver<RecordMap>,
    desired: watch::Sender<Option<Vec<ServiceSpec>>>,
    supervisor: Supervisor,
    operations: Operations<DockerEngine, Host<DockerEngine>>,
    automatic: Arc<ByItself>,
    logins: watch::Sender<Logins>,
    /// Ends the supervisor.
    supervising: CancellationToken,
    relay_news: watch::Sender<()>,
    relays_changed: watch::Receiver<()>,
    disks: watch::Receiver<Vec<Disk>>,
    stop: CancellationToken,
}

/// What the supervisor counts and measures, for the metrics.
#[derive(Debug, Clone)]
pub struct Supervision {
    /// By container: how many times it was started again by itself since the agent started.
    pub restarts: watch::Receiver<BTreeMap<String, u64>>,
    /// How the supervisor's passes went.
    pub passes: watch::Receiver<Passes>,
    /// By service: how long the slowest of its checks took last.
    pub latencies: watch::Receiver<BTreeMap<ServiceName, Duration>>,
}

#[derive(Debug)]
struct Managed {
    service: Service,
    generated: Generated,
    hostname: Option<Hostname>,
    relay: Option<Relay>,
    /// Whether the log has the reason why its record cannot be stored.
    complained: bool,
}

/// The secrets that were generated for a service.
#[derive(Debug)]
enum Generated {
    Nextcloud(NextcloudSecrets),
    Ghost(GhostSecrets),
    None,
}

impl Services {
    /// Starts the supervisor, which touches nothing before [`Services::apply`]. `owner` marks what is this agent's in the
    /// engine; `always` is wanted besides the services of the configuration.
    ///
    /// # Errors
    /// When generated secrets or records cannot be read or kept.
    pub fn start(
        common: &Common,
        owner: &str,
        services: Vec<Service>,
        always: Vec<ServiceSpec>,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        let state_dir = &common.state_dir;
        state::private_dir(state_dir).with_context(|| format!("{} cannot be made", state_dir.display()))?;
        let secrets = Secrets::open(state_dir.join("secrets"))?;
        let records = Arc::new(Records::open(state_dir.join("services"))?);
        let managed = services.into_iter().map(|service| {
            let generated = Generated::open(&service, &secrets)
                .with_context(|| format!("the generated secrets of {}", service.name))?;
            Ok(Managed { service, generated, hostname: None, relay: None, complained: false })
        });
        let managed = managed.collect::<anyhow::Result<Vec<_>>>()?;
        let engine = Arc::new(DockerEngine::new(&common.engine_socket, owner));
        let (desired, wanted) = watch::channel(None);
        // It outlives the order to stop, so that it can stop what it looks after when the host goes down.
        let supervising = CancellationToken::new();
        let supervisor =
            Supervisor::spawn(Arc::clone(&engine), wanted, SupervisorOptions::default(), supervising.clone());
        let specs = || desired.subscribe();
        let host = Arc::new(Host::new(Arc::clone(&engine), specs(), &supervisor, HostOptions::default()));
        let upgrader = Upgrader::spawn(Arc::clone(&records), host, specs(), NoCrash, Retry::default(), stop.clone());
        let upgrader = Arc::new(upgrader);
        let registry = Client::new().context("TLS cannot be set up")?;
        let automatic =
            Arc::new(Automatic::new(Arc::clone(&upgrader), registry, HostClock, rules(&managed), UPGRADE_JITTER));
        let (by_itself, until) = (Arc::clone(&automatic), stop.clone());
        tokio::spawn(async move { until.run_until_cancelled(by_itself.run()).await });
        let operations = Operations {
            engine,
            records: Arc::clone(&records),
            upgrader,
            requests: supervisor.requests.clone(),
            specs: specs(),
            applied: supervisor.applied.clone(),
            statuses: supervisor.statuses.clone(),
            health: supervisor.health.clone(),
            purging: Arc::default(),
        };
        let disks = watch_disks(state_dir.clone(), Arc::clone(&operations.engine), common.keep_free);
        let (relay_news, relays_changed) = watch::channel(());
        Ok(Self {
            managed,
            always,
            secrets,
            recorded: records.watch(),
            records,
            desired,
            supervisor,
            operations,
            automatic,
            logins: watch::Sender::default(),
            supervising,
            relay_news,
            relays_changed,
            disks,
            stop,
        })
    }

    /// Supervises until the agent is asked to stop. Containers are then left as they are; when the host goes down they are
    /// stopped first, each service in the opposite of its order and with its own grace, which the engine would not do.
    pub fn supervise(&self) -> impl Future<Output = anyhow::Result<()>> + Send + use<> {
        let (stop, supervising) = (self.stop.clone(), self.supervising.clone().drop_guard());
        let requests = self.supervisor.requests.clone();
        async move {
            stop.cancelled().await;
            if daemon::host_is_stopping().await {
                info!("the host goes down: stopping all services in order");
                match timeout(STOP_ALL_DEADLINE, requests.stop_all()).await {
                    Ok(Ok(())) => info!("all services are stopped"),
                    Ok(Err(error)) => warn!("not all services could be stopped in order: {error}"),
                    Err(_) => warn!("not all services were stopped within {} s", STOP_ALL_DEADLINE.as_secs()),
                }
            }
            drop(supervising);
            Ok(())
        }
    }

    /// Whether a service of this name is ours.
    #[must_use]
    pub fn has(&self, name: &ServiceName) -> bool {
        self.managed.iter().any(|managed| managed.service.name == *name)
    }

    /// From the next [`Services::apply`] on these are the services, and no others: all of them, or, where that cannot be, none.
    ///
    /// # Errors
    /// In words for people, when generated secrets cannot be kept, or a service is being upgraded or removed.
    pub fn replace(&mut self, services: Vec<Service>) -> Result<(), String> {
        if let Some(busy) = self.managed.iter().find_map(|managed| self.held(&managed.service.name)) {
            return Err(format!("a service is being worked on ({busy}); reload when that has ended"));
        }
        let opened = services.into_iter().map(|service| match Generated::open(&service, &self.secrets) {
            Ok(generated) => Ok(Managed { service, generated, hostname: None, relay: None, complained: false }),
            Err(error) => Err(format!("the generated secrets of {} cannot be kept: {}", service.name, chain(&error))),
        });
        let mut services = opened.collect::<Result<Vec<_>, _>>()?;
        for managed in &mut services {
            let is_same = |old: &&mut Managed| old.service.name == managed.service.name;
            let Some(old) = self.managed.iter_mut().find(is_same) else { continue };
            managed.hostname = old.hostname.take();
            if matches!(managed.service.kind, Kind::External(_)) {
                managed.relay = old.relay.take();
            }
        }
        self.automatic.set_rules(rules(&services));
        self.managed = services;
        Ok(())
    }

    /// Derives every service from what is live, and wants it.
    pub fn apply(&mut self, live: &Live) {
        let mut services = self.always.clone();
        for managed in &mut self.managed {
            managed.hostname = live.hostnames.get(&managed.service.name).cloned();
            managed.relay(live, &self.relay_news, &self.stop);
            services.extend(managed.spec(live).and_then(|spec| managed.recorded(spec, &self.records)));
        }
        let login = |managed: &Managed| (managed.service.name.clone(), managed.credentials());
        self.logins.send_replace(self.managed.iter().map(login).collect());
        self.desired.send_if_modified(|desired| {
            let changed = desired.as_ref() != Some(&services);
            if changed {
                *desired = Some(services);
            }
            changed
        });
    }

    /// Waits until a container, the health of a service or a record has changed.
    ///
    /// # Errors
    /// When the supervisor has ended.
    pub async fn changed(&mut self) -> anyhow::Result<()> {
        let supervisor = &mut self.supervisor;
        let changed = tokio::select! {
            changed = supervisor.statuses.changed() => changed,
            changed = supervisor.health.changed() => changed,
            changed = self.recorded.changed() => changed,
            changed = self.relays_changed.changed() => changed,
        };
        changed.context("the supervisor has ended")
    }

    /// The containers as they are.
    #[must_use]
    pub fn containers(&self) -> Vec<ContainerStatus> {
        self.supervisor.statuses.borrow().clone()
    }

    /// What the supervisor counts and measures.
    #[must_use]
    pub fn supervision(&self) -> Supervision {
        let supervisor = &self.supervisor;
        Supervision {
            restarts: supervisor.restarts.clone(),
            passes: supervisor.passes.clone(),
            latencies: supervisor.latencies.clone(),
        }
    }

    /// The health of every service that the supervisor knows.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<BTreeMap<ServiceName, Health>> {
        self.supervisor.health.clone()
    }

    /// What `agentctl` asks of the services.
    #[must_use]
    pub fn operator(&self) -> Arc<dyn control::Operator> {
        Arc::new(Operator {
            operations: self.operations.clone(),
            automatic: Arc::clone(&self.automatic),
            logins: self.logins.subscribe(),
        })
    }

    /// The disks that they and their agent's state are on.
    #[must_use]
    pub fn disks(&self) -> watch::Receiver<Vec<Disk>> {
        self.disks.clone()
    }

    /// The engine that runs them.
    #[must_use]
    pub fn engine(&self) -> Arc<DockerEngine> {
        Arc::clone(&self.operations.engine)
    }

    /// What the ingress is told.
    #[must_use]
    pub fn announcements(&self, address: Ipv4Addr) -> Vec<ServiceAnnouncement> {
        self.managed.iter().map(|managed| self.announcement(managed, address)).collect()
    }

    /// The services as they are, with what is known of their public names.
    pub fn statuses(
        &self,
        host: &HostId,
        address: Ipv4Addr,
        serving: impl Fn(&ServiceName, &Health) -> Serving,
    ) -> Vec<ServiceStatus> {
        let status = |managed: &Managed| {
            let health = self.health_of(managed);
            ServiceStatus {
                name: managed.service.name.clone(),
                host: host.clone(),
                hostname: managed.hostname.clone(),
                upstream: Some(managed.service.upstream(address)),
                serving: serving(&managed.service.name, &health),
                health,
                since: None,
            }
        };
        self.managed.iter().map(status).collect()
    }

    fn announcement(&self, managed: &Managed, address: Ipv4Addr) -> ServiceAnnouncement {
        let service = &managed.service;
        let (path, status) = service.kind.health();
        ServiceAnnouncement {
            name: service.name.clone(),
            hostname: service.hostname.clone(),
            also: service.also.clone(),
            upstream: service.upstream(address),
            health_path: path,
            health_status: status,
            well_known_dav: matches!(service.kind, Kind::Nextcloud(_)),
            full: self.full(service).is_some(),
            ingress: service.ingress.announced(|judge| {
                let judge = self.managed.iter().find(|managed| managed.service.name == *judge)?;
                Some(judge.service.upstream(address))
            }),
            health: match self.held(&service.name) {
                // One that starts may count as what it was before; one that people are kept out of must not.
                Some(reason) => Health::Unhealthy { reason },
                None => self.health_of(managed),
            },
        }
    }

    /// Why people are kept out of a service, while they are.
    fn held(&self, name: &ServiceName) -> Option<String> {
        self.recorded.borrow().get(name).and_then(|record| record.wanted().held)
    }

    fn health_of(&self, managed: &Managed) -> Health {
        let name = &managed.service.name;
        if managed.hostname.is_none() {
            return Health::Starting { reason: "waits for its public name from the edge".to_owned() };
        }
        if let Some(reason) = self.held(name) {
            return Health::Starting { reason };
        }
        if self.recorded.borrow().get(name).is_some_and(|record| record.wanted().run == Run::Nothing) {
            let reason = format!("it is stopped; `agentctl service {name} start` starts it");
            return Health::Stopped { reason };
        }
        if let Some(reason) = managed.relay.as_ref().and_then(Relay::problem) {
            return Health::Unhealthy { reason };
        }
        let health = self.supervisor.health.borrow().get(name).cloned().unwrap_or_default();
        match self.full(&managed.service) {
            Some(reason) if health == Health::Healthy => Health::Degraded { reason },
            _ => health,
        }
    }

    /// Why a service takes no uploads, while it does not.
    fn full(&self, service: &Service) -> Option<String> {
        if matches!(service.kind, Kind::External(_)) {
            return None;
        }
        let disks = self.disks.borrow();
        let disk = disks.iter().find(|disk| disk.full)?;
        let (path, free) = (disk.path.display(), disk.free >> 20);
        Some(format!("the disk of {path} is nearly full ({free} MiB left): uploads are refused until there is room"))
    }
}

fn rules(managed: &[Managed]) -> BTreeMap<ServiceName, Rule> {
    managed.iter().map(|managed| (managed.service.name.clone(), managed.service.upgrades.clone())).collect()
}

impl Generated {
    fn open(service: &Service, secrets: &Secrets) -> Result<Self, supervisor::SecretsError> {
        Ok(match &service.kind {
            Kind::Nextcloud(_) => Self::Nextcloud(NextcloudSecrets::open(secrets, &service.name)?),
            Kind::Ghost(_) => Self::Ghost(GhostSecrets::open(secrets, &service.name)?),
            Kind::Container(_) | Kind::External(_) => Self::None,
        })
    }
}

impl Service {
    /// Whether its own port on this host's address is what the ingress asks.
    fn has_port(&self) -> bool {
        self.port != 0
    }

    /// Where the ingress asks it.
    fn upstream(&self, address: Ipv4Addr) -> SocketAddr {
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
    fn health(&self) -> (String, Option<u16>) {
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
    /// The service as it is to be; none before it has a public name.
    fn spec(&self, live: &Live) -> Option<ServiceSpec> {
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
    fn recorded(&mut self, spec: ServiceSpec, records: &Records) -> Option<ServiceSpec> {
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
    fn relay(&mut self, live: &Live, news: &watch::Sender<()>, stop: &CancellationToken) {
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

    fn credentials(&self) -> Vec<Credential> {
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
    use supervisor::{Release, Wanted};

    use super::*;

    #[test]
    fn an_upgraded_image_is_the_record_s_and_another_is_the_configuration_s() {
        let written = toml::from_str("[n]\nkind = \"nextcloud\"\nimage = \"nextcloud:34.0.4-apache\"\n").unwrap();
        let service = check(written, model::Role::Home, None).unwrap().remove(0);
        let dir = tempfile::tempdir().unwrap();
        let secrets = Secrets::open(dir.path()).unwrap();
        let generated = Generated::open(&service, &secrets).unwrap();
        let hostname = Some("cloud.example.com".parse().unwrap());
        let managed = Managed { service, generated, hostname, relay: None, complained: false };
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
