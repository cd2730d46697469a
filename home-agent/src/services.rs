//! The services of this home: their containers, their health, and what the edge is told of them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use agent::config::Common;
use anyhow::Context;
use model::{
    ContainerSpec, ContainerStatus, DesiredConfig, Health, HostId, HostStatus, Hostname, ServiceAnnouncement,
    ServiceName, ServiceStatus, Serving,
};
use secrecy::SecretString;
use supervisor::apps::{App, Database, NextcloudOptions, nextcloud};
use supervisor::{DockerEngine, HealthCheck, SecretKind, Secrets, Supervisor, SupervisorOptions, health};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::{Kind, Service};

/// The path that shows a Nextcloud serving.
const NEXTCLOUD_STATUS: &str = "/status.php";

/// The running services.
#[derive(Debug)]
pub(crate) struct Services {
    services: Vec<Managed>,
    desired: watch::Sender<Option<Vec<ContainerSpec>>>,
    containers: watch::Receiver<Vec<ContainerStatus>>,
    stop: CancellationToken,
    /// Told by every health check that has news.
    news: watch::Sender<()>,
}

#[derive(Debug)]
struct Managed {
    service: Service,
    admin_password: SecretString,
    check: Option<Checked>,
}

/// A running health check; ends when dropped.
#[derive(Debug)]
struct Checked {
    check: HealthCheck,
    health: watch::Receiver<Health>,
    _running: DropGuard,
}

impl Services {
    /// Starts the supervisor, which touches nothing before [`Services::apply`].
    ///
    /// # Errors
    /// When the generated passwords cannot be kept.
    pub(crate) fn start(common: &Common, services: Vec<Service>, stop: CancellationToken) -> anyhow::Result<Self> {
        let state_dir = &common.state_dir;
        state::private_dir(state_dir).with_context(|| format!("{} cannot be made", state_dir.display()))?;
        let secrets = Secrets::open(state_dir.join("secrets"))?;
        let managed = services.into_iter().map(|service| {
            let name = format!("{}-admin-password", service.name);
            let admin_password = secrets
                .get_or_create(&name, SecretKind::Password)
                .with_context(|| format!("the password of {}", service.name))?;
            Ok(Managed { service, admin_password, check: None })
        });
        let services = managed.collect::<anyhow::Result<Vec<_>>>()?;
        let engine = Arc::new(DockerEngine::new(&common.engine_socket, "home-agent"));
        let (desired, wanted) = watch::channel(None);
        let supervisor = Supervisor::spawn(engine, wanted, SupervisorOptions::default(), stop.clone());
        Ok(Self { services, desired, containers: supervisor.statuses, stop, news: watch::Sender::new(()) })
    }

    /// Whether a service of this name is ours.
    pub(crate) fn has(&self, name: &ServiceName) -> bool {
        self.services.iter().any(|managed| managed.service.name == *name)
    }

    /// Derives every container from the edge's configuration and our tunnel address, and wants it. A service that
    /// has no public name yet is not started: it could not know whom to answer.
    pub(crate) fn apply(&mut self, config: &DesiredConfig, address: Ipv4Addr) {
        let mut containers = Vec::new();
        for managed in &mut self.services {
            let Some(hostname) = config.hostnames.get(&managed.service.name) else {
                managed.check = None;
                continue;
            };
            let App { container, health: check } = managed.app(hostname, config.edge_address, address);
            containers.push(container);
            if managed.check.as_ref().is_none_or(|running| running.check != check) {
                managed.check = Some(Checked::start(check, self.containers.clone(), &self.stop, self.news.clone()));
            }
        }
        self.desired.send_if_modified(|desired| {
            let changed = desired.as_ref() != Some(&containers);
            if changed {
                *desired = Some(containers);
            }
            changed
        });
    }

    /// Receivers that tell of news.
    pub(crate) fn watch(&self) -> (watch::Receiver<Vec<ContainerStatus>>, watch::Receiver<()>) {
        (self.containers.clone(), self.news.subscribe())
    }

    /// The containers as they are.
    pub(crate) fn containers(&self) -> Vec<ContainerStatus> {
        self.containers.borrow().clone()
    }

    /// What the edge is told.
    pub(crate) fn announcements(&self, address: Ipv4Addr) -> Vec<ServiceAnnouncement> {
        let announcement = |managed: &Managed| ServiceAnnouncement {
            name: managed.service.name.clone(),
            hostname: managed.service.hostname.clone(),
            also: Vec::new(),
            health_status: Some(200),
            well_known_dav: managed.service.kind == Kind::Nextcloud,
            upstream: SocketAddr::from((address, managed.service.port)),
            health_path: match managed.service.kind {
                Kind::Nextcloud => NEXTCLOUD_STATUS.to_owned(),
            },
            health: managed.health(),
        };
        self.services.iter().map(announcement).collect()
    }

    /// The services as they are, with what the edge knows of their public names.
    pub(crate) fn statuses(
        &self,
        host: &HostId,
        address: Ipv4Addr,
        config: Option<&DesiredConfig>,
        edge: Option<&HostStatus>,
    ) -> Vec<ServiceStatus> {
        let proven: BTreeMap<&ServiceName, &Serving> = edge
            .map(|edge| edge.services.iter().filter(|s| s.host == *host).map(|s| (&s.name, &s.serving)).collect())
            .unwrap_or_default();
        let status = |managed: &Managed| {
            let name = &managed.service.name;
            ServiceStatus {
                name: name.clone(),
                host: host.clone(),
                hostname: config.and_then(|config| config.hostnames.get(name)).cloned(),
                upstream: Some(SocketAddr::from((address, managed.service.port))),
                health: managed.health(),
                serving: match proven.get(name) {
                    Some(serving) => (*serving).clone(),
                    None => Serving::No { reason: "the edge has not proven it: no control channel".to_owned() },
                },
            }
        };
        self.services.iter().map(status).collect()
    }
}

impl Managed {
    fn app(&self, hostname: &Hostname, edge_address: Ipv4Addr, address: Ipv4Addr) -> App {
        match self.service.kind {
            Kind::Nextcloud => nextcloud(&NextcloudOptions {
                image: self.service.image.clone(),
                service: self.service.name.clone(),
                hostname: Some(hostname.clone()),
                bind: SocketAddr::from((address, self.service.port)),
                trusted_proxies: vec![edge_address.to_string()],
                admin_user: self.service.admin_user.clone(),
                admin_password: self.admin_password.clone(),
                database: Database::Sqlite,
            }),
        }
    }

    fn health(&self) -> Health {
        match &self.check {
            Some(running) => running.health.borrow().clone(),
            None => Health::Starting { reason: "waits for its public name from the edge".to_owned() },
        }
    }
}

impl Checked {
    fn start(
        check: HealthCheck,
        containers: watch::Receiver<Vec<ContainerStatus>>,
        stop: &CancellationToken,
        news: watch::Sender<()>,
    ) -> Self {
        let running = stop.child_token();
        let health = health::spawn(check.clone(), containers, running.clone());
        let mut changes = health.clone();
        tokio::spawn(running.clone().run_until_cancelled_owned(async move {
            while changes.changed().await.is_ok() {
                news.send_replace(());
            }
        }));
        Self { check, health, _running: running.drop_guard() }
    }
}
