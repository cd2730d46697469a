//! The services of this home: their containers, their health, and what the edge is told of them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use agent::config::Common;
use anyhow::Context;
use model::{
    ContainerStatus, DesiredConfig, Health, HostId, HostStatus, Hostname, ServiceAnnouncement, ServiceName,
    ServiceSpec, ServiceStatus, Serving,
};
use secrecy::SecretString;
use supervisor::apps::{Database, NextcloudOptions, nextcloud};
use supervisor::{DockerEngine, SecretKind, Secrets, Supervisor, SupervisorOptions};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::{Kind, Service};

/// The path that shows a Nextcloud serving.
const NEXTCLOUD_STATUS: &str = "/status.php";

/// The running services.
#[derive(Debug)]
pub(crate) struct Services {
    services: Vec<Managed>,
    desired: watch::Sender<Option<Vec<ServiceSpec>>>,
    supervisor: Supervisor,
}

#[derive(Debug)]
struct Managed {
    service: Service,
    admin_password: SecretString,
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
            Ok(Managed { service, admin_password })
        });
        let services = managed.collect::<anyhow::Result<Vec<_>>>()?;
        let engine = Arc::new(DockerEngine::new(&common.engine_socket, "home-agent"));
        let (desired, wanted) = watch::channel(None);
        let supervisor = Supervisor::spawn(engine, wanted, SupervisorOptions::default(), stop);
        Ok(Self { services, desired, supervisor })
    }

    /// Whether a service of this name is ours.
    pub(crate) fn has(&self, name: &ServiceName) -> bool {
        self.services.iter().any(|managed| managed.service.name == *name)
    }

    /// Derives every service from the edge's configuration and our tunnel address, and wants it. A service that
    /// has no public name yet is not started: it could not know whom to answer.
    pub(crate) fn apply(&self, config: &DesiredConfig, address: Ipv4Addr) {
        let spec = |managed: &Managed| {
            let hostname = config.hostnames.get(&managed.service.name)?;
            Some(managed.spec(hostname, config.edge_address, address))
        };
        let services: Vec<ServiceSpec> = self.services.iter().filter_map(spec).collect();
        self.desired.send_if_modified(|desired| {
            let changed = desired.as_ref() != Some(&services);
            if changed {
                *desired = Some(services);
            }
            changed
        });
    }

    /// Receivers that tell of news.
    pub(crate) fn watch(
        &self,
    ) -> (watch::Receiver<Vec<ContainerStatus>>, watch::Receiver<BTreeMap<ServiceName, Health>>) {
        (self.supervisor.statuses.clone(), self.supervisor.health.clone())
    }

    /// The containers as they are.
    pub(crate) fn containers(&self) -> Vec<ContainerStatus> {
        self.supervisor.statuses.borrow().clone()
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
            health: self.health(&managed.service.name),
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
                health: self.health(&managed.service.name),
                serving: match proven.get(name) {
                    Some(serving) => (*serving).clone(),
                    None => Serving::No { reason: "the edge has not proven it: no control channel".to_owned() },
                },
            }
        };
        self.services.iter().map(status).collect()
    }

    fn health(&self, name: &ServiceName) -> Health {
        if self.desired.borrow().iter().flatten().any(|service| service.name == *name) {
            return self.supervisor.health.borrow().get(name).cloned().unwrap_or_default();
        }
        Health::Starting { reason: "waits for its public name from the edge".to_owned() }
    }
}

impl Managed {
    fn spec(&self, hostname: &Hostname, edge_address: Ipv4Addr, address: Ipv4Addr) -> ServiceSpec {
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
}
