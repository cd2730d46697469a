//! The services of a host: from their configuration, their records and what is live to what the supervisor wants, and to
//! what others are told of them.

mod check;
mod ingress;
mod managed;
mod operator;
mod relay;
mod written;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use model::{
    ContainerStatus, Health, HostId, Hostname, Run, ServiceAnnouncement, ServiceName, ServiceSpec, ServiceStatus,
    Serving,
};
use registry::Client;
use supervisor::upgrade::{Automatic, Host, HostClock, HostOptions, NoCrash, Retry, Rule, Upgrader};
use supervisor::{DockerEngine, Operations, Passes, RecordMap, Records, Secrets, Supervisor, SupervisorOptions};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::managed::Managed;
use self::operator::{ByItself, Logins, Operator};
use self::relay::Relay;
use crate::MailServer;
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
    mail: watch::Sender<Vec<MailServer>>,
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
            let name = service.name.clone();
            Managed::open(service, &secrets).with_context(|| format!("the generated secrets of {name}"))
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
        let mail = watch::Sender::new(mail_servers(&managed));
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
            mail,
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
        let opened = services.into_iter().map(|service| {
            let name = service.name.clone();
            let told = |error| format!("the generated secrets of {name} cannot be kept: {}", chain(&error));
            Managed::open(service, &self.secrets).map_err(told)
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
        self.mail.send_replace(mail_servers(&services));
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

    /// By what servers they send mail.
    #[must_use]
    pub fn mail(&self) -> watch::Receiver<Vec<MailServer>> {
        self.mail.subscribe()
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

/// The servers that their configurations name.
fn mail_servers(services: &[Managed]) -> Vec<MailServer> {
    let server = |managed: &Managed| {
        let mail = match &managed.service.kind {
            Kind::Nextcloud(settings) => settings.mail.as_ref(),
            Kind::Ghost(settings) => settings.mail.as_ref(),
            Kind::Container(_) | Kind::External(_) => None,
        }?;
        let service = managed.service.name.clone();
        Some(MailServer { service, host: mail.host.clone(), port: mail.port, security: mail.security })
    };
    services.iter().filter_map(server).collect()
}

fn rules(managed: &[Managed]) -> BTreeMap<ServiceName, Rule> {
    managed.iter().map(|managed| (managed.service.name.clone(), managed.service.upgrades.clone())).collect()
}
