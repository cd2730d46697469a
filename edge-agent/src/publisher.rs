//! Caddy: its definition, its configuration, and the proof that what it publishes is served.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent::config::{Common, chain};
use agent::{NameProofs, Proof};
use anyhow::Context;
use ingress::{
    Acme, AdminClient, Guard, IngressState, Listen, ProbeReport, Prober, Rejected, Resolution, Site, render,
};
use model::{
    Health, HostId, Hostname, IngressReport, PublicName, PublishedSite, RefusedService, SecretFile, ServiceName,
    ServiceSpec, ServiceStatus, Serving,
};
use secrecy::ExposeSecret;
use supervisor::apps::{ACCESS_LOG, ADMIN_SOCKET, CaddyOptions, caddy};
use supervisor::{SecretKind, Secrets};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::certificates::Certificates;
use crate::config::Ingress;

/// Where Caddy finds the root of a private ACME server.
const ACME_ROOT: &str = "/etc/caddy/acme-root.pem";
/// Where Caddy asks whether an attempt to log in may pass.
const LIMITS_SOCKET: &str = "/run/caddy-admin/limits.sock";
/// Names are proven this often while they serve.
const PROBE_INTERVAL: Duration = Duration::from_secs(15);
/// And this often while one of them does not.
const PROBE_RETRY: Duration = Duration::from_secs(2);
/// First wait before a configuration is loaded again; doubled up to [`LOAD_RETRY_MAX`].
const LOAD_RETRY_MIN: Duration = Duration::from_millis(250);
/// Longest wait before a configuration is loaded again.
const LOAD_RETRY_MAX: Duration = Duration::from_secs(5);
/// Whether Caddy still has what was loaded is looked at this often: its volume may have been lost.
const VERIFY_INTERVAL: Duration = Duration::from_secs(10);
/// Port of HTTPS, where names are proven.
const HTTPS: u16 = 443;

/// What is to be published.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Publication {
    pub(crate) sites: Vec<Site>,
}

/// The running ingress, to be told what to publish and to be watched.
#[derive(Debug)]
pub(crate) struct Publisher {
    name: ServiceName,
    /// None until the first is known.
    publication: watch::Sender<Option<Publication>>,
    health: watch::Receiver<Healths>,
    loaded: watch::Receiver<Loaded>,
    proofs: watch::Receiver<Proofs>,
    certificates: Certificates,
    seen: watch::Receiver<NameProofs>,
}

/// What came of fetching each name: what was seen, or why it does not serve.
pub(crate) type Proofs = BTreeMap<Hostname, Result<ProbeReport, String>>;

/// How every service of this host is, Caddy among them.
type Healths = BTreeMap<ServiceName, Health>;

/// What became of the last load.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Loaded {
    publication: Option<Publication>,
    /// Why the wanted configuration is not in force.
    reason: Option<String>,
}

/// Caddy as the supervisor is to run it.
///
/// # Errors
/// When the admin socket's directory cannot be made.
pub(crate) fn definition(common: &Common, config: &Ingress) -> anyhow::Result<ServiceSpec> {
    let admin_dir = admin_dir(common);
    state::private_dir(&admin_dir).with_context(|| format!("{} cannot be made", admin_dir.display()))?;
    let log_dir = common.state_dir.join("caddy-logs");
    state::private_dir(&log_dir).with_context(|| format!("{} cannot be made", log_dir.display()))?;
    let root = |content: &String| SecretFile { path: PathBuf::from(ACME_ROOT), content: content.clone(), uid: 0 };
    Ok(caddy(&CaddyOptions {
        image: config.image.clone(),
        service: name()?,
        admin_dir,
        log_dir,
        bootstrap: render(&state(config)).to_string(),
        dns: config.dns.clone(),
        files: config.acme_api_root.iter().map(root).collect(),
        import: config.import.clone(),
    }))
}

fn name() -> anyhow::Result<ServiceName> {
    Ok("caddy".parse()?)
}

fn admin_dir(common: &Common) -> PathBuf {
    common.state_dir.join("caddy-admin")
}

/// Where the edge answers Caddy's questions, as this process sees it.
pub(crate) fn limits_socket(common: &Common) -> PathBuf {
    admin_dir(common).join("limits.sock")
}

/// What Caddy is to do while nothing is published.
fn state(config: &Ingress) -> IngressState {
    IngressState {
        admin_socket: ADMIN_SOCKET.to_owned(),
        listen: Listen::default(),
        acme: Acme {
            directory: config.acme_directory.clone(),
            email: Some(config.email.clone()),
            trusted_roots: config.acme_api_root.iter().map(|_| ACME_ROOT.to_owned()).collect(),
        },
        certificates: ingress::Certificates::default(),
        sites: vec![],
        guard: Guard { limits_socket: Some(LIMITS_SOCKET.to_owned()), probe_token: None },
        access_log: config.access_log.then(|| ACCESS_LOG.to_owned()),
    }
}

impl Publisher {
    /// Starts the loader and the prober. `health` is told by the supervisor that runs Caddy.
    ///
    /// # Errors
    /// When the roots cannot be used, or the secret of the proof cannot be kept.
    pub(crate) fn start(
        common: &Common,
        config: &Ingress,
        health: watch::Receiver<Healths>,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        let secrets = Secrets::open(common.state_dir.join("secrets"))?;
        let token = secrets.get_or_create("ingress-probe", SecretKind::Hex256)?;
        let prober = Prober::new(config.acme_issuer_root.as_deref())?.with_token(token.expose_secret().to_owned());
        let mut state = state(config);
        state.guard.probe_token = Some(token.expose_secret().to_owned());
        let name = name()?;
        let (publication, wanted) = watch::channel(None);
        let (loaded_sender, loaded) = watch::channel(Loaded::default());
        let (proofs_sender, proofs) = watch::channel(Proofs::new());
        let inside = Path::new(ADMIN_SOCKET).parent().context("the admin socket's directory")?;
        let certificates = Certificates::start(common, config, &admin_dir(common), inside, stop.clone())?;
        let (seen_sender, seen) = watch::channel(NameProofs::new());
        let loader = Loader {
            admin: AdminClient::new(&admin_dir(common).join("admin.sock")),
            certificates: certificates.clone(),
            state,
            wanted,
            name: name.clone(),
            health: health.clone(),
            loaded: loaded_sender,
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(loader.run()));
        tokio::spawn(stop.run_until_cancelled_owned(prove(prober, loaded.clone(), proofs_sender, seen_sender)));
        Ok(Self { name, publication, health, loaded, proofs, certificates, seen })
    }

    /// What is to be published, to be watched.
    pub(crate) fn published(&self) -> watch::Receiver<Option<Publication>> {
        self.publication.subscribe()
    }

    /// What the proofs of the names saw, for the metrics.
    pub(crate) fn seen(&self) -> watch::Receiver<NameProofs> {
        self.seen.clone()
    }

    /// Publishes this and nothing else.
    pub(crate) fn publish(&self, wanted: Publication) {
        self.publication.send_if_modified(|current| {
            let changed = current.as_ref() != Some(&wanted);
            if changed {
                *current = Some(wanted);
            }
            changed
        });
    }

    /// Waits until there is news.
    pub(crate) async fn changed(&mut self) {
        // A sender that is gone means that the agent stops: that news comes by another way.
        let news = tokio::select! {
            news = self.loaded.changed() => news,
            news = self.proofs.changed() => news,
            () = self.certificates.changed() => Ok(()),
        };
        if news.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The edge's own proof of a name, by the configuration in force: while Caddy has not taken a newer one, that is the last
    /// which it took.
    pub(crate) fn proof(&self, hostname: &Hostname) -> Proof {
        match (self.proofs.borrow().get(hostname), &self.loaded.borrow().reason) {
            (Some(Ok(_)), _) => Proof::Passed,
            (Some(Err(reason)), _) | (None, Some(reason)) => Proof::Failed { reason: reason.clone() },
            (None, None) => Proof::Pending,
        }
    }

    /// What is published and refused, for people. `services` says what serves.
    pub(crate) fn report(&self, resolution: &Resolution, services: &[ServiceStatus]) -> IngressReport {
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs());
        let proofs = self.proofs.borrow();
        let site = |site: &Site| {
            let status = services.iter().find(|status| status.host == site.host && status.name == site.service);
            PublishedSite {
                hostname: site.hostname.clone(),
                host: site.host.clone(),
                service: site.service.clone(),
                also: site.also.clone(),
                upstream: site.upstream,
                away: site.away.map(|away| away.reason.as_str().to_owned()),
                away_since: site.away.and_then(|away| away.since).and_then(seconds),
                serving: status.map(|status| status.serving.clone()).unwrap_or_default(),
                options: site.options.clone(),
                certificate_ends: match proofs.get(&site.hostname) {
                    Some(Ok(seen)) => seconds(seen.not_after),
                    Some(Err(_)) | None => None,
                },
            }
        };
        let refused = |rejected: &Rejected| RefusedService {
            host: rejected.host.clone(),
            service: rejected.service.clone(),
            reason: rejected.reason.clone(),
        };
        IngressReport {
            reason: self.loaded.borrow().reason.clone(),
            sites: resolution.sites.iter().map(site).collect(),
            refused: resolution.rejected.iter().map(refused).collect(),
        }
    }

    /// Caddy itself as a service of this host. It is degraded while it does not do what is wanted.
    pub(crate) fn service(&self, host: &HostId) -> ServiceStatus {
        let mut health = self.health.borrow().get(&self.name).cloned().unwrap_or_default();
        let trouble = self.loaded.borrow().reason.clone().or_else(|| self.certificates.trouble());
        if let (Health::Healthy, Some(reason)) = (&health, trouble) {
            health = Health::Degraded { reason };
        }
        ServiceStatus {
            name: self.name.clone(),
            host: host.clone(),
            hostname: None,
            upstream: None,
            health,
            serving: Serving::Unknown,
            since: None,
        }
    }
}

/// Keeps Caddy's configuration what is wanted.
struct Loader {
    admin: AdminClient,
    certificates: Certificates,
    state: IngressState,
    wanted: watch::Receiver<Option<Publication>>,
    name: ServiceName,
    health: watch::Receiver<Healths>,
    loaded: watch::Sender<Loaded>,
}

impl Loader {
    async fn run(mut self) {
        let mut retry = LOAD_RETRY_MIN;
        loop {
            // What is published stays until it is known what is to be: the agent may just have been started again.
            let known = self.wanted.wait_for(Option::is_some).await;
            let Ok(Some(publication)) = known.map(|known| known.clone()) else { return };
            self.state.sites.clone_from(&publication.sites);
            let pause = match self.ensure().await {
                Ok(()) => {
                    retry = LOAD_RETRY_MIN;
                    self.loaded.send_if_modified(|loaded| {
                        let now = Loaded { publication: Some(publication), reason: None };
                        let changed = *loaded != now;
                        *loaded = now;
                        changed
                    });
                    VERIFY_INTERVAL
                }
                Err(reason) => {
                    let reason = format!("Caddy has not taken the configuration: {reason}");
                    let news = self.loaded.send_if_modified(|loaded| {
                        let changed = loaded.reason.as_ref() != Some(&reason);
                        loaded.reason = Some(reason.clone());
                        changed
                    });
                    // Until Caddy runs there is nobody to load it: its own status says so.
                    if news && self.health.borrow().get(&self.name).is_some_and(Health::accepts_traffic) {
                        warn!("{reason}; the last one that it took stays in force");
                    }
                    let pause = retry;
                    retry = (retry * 2).min(LOAD_RETRY_MAX);
                    pause
                }
            };
            tokio::select! {
                changed = self.wanted.changed() => if changed.is_err() { return },
                Ok(()) = self.health.changed() => {}
                () = self.certificates.changed() => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// Loads the configuration unless it is in force already.
    async fn ensure(&mut self) -> Result<(), String> {
        let current = self.admin.current().await.map_err(|error| chain(&error))?;
        self.state.certificates = self.certificates.of_sites(&self.state.sites, &current);
        let config = render(&self.state);
        if current != config {
            self.admin.load(&config).await.map_err(|error| chain(&error))?;
            info!(sites = self.state.sites.len(), "ingress configuration loaded");
        }
        self.certificates.prune(&self.state.certificates);
        Ok(())
    }
}

/// Asks for every published name through the front door, again and again.
async fn prove(
    prober: Prober,
    mut loaded: watch::Receiver<Loaded>,
    proofs: watch::Sender<Proofs>,
    seen: watch::Sender<NameProofs>,
) {
    let door = SocketAddr::from((Ipv4Addr::LOCALHOST, HTTPS));
    loop {
        let sites = loaded.borrow_and_update().publication.clone().unwrap_or_default().sites;
        let mut probes = JoinSet::new();
        for site in sites {
            let prober = prober.clone();
            probes.spawn(async move {
                // The guard knows this one and lets it through: the service itself answers.
                let name = PublicName { status: site.health_status, guarded: false, ..site.public_name() };
                let proof = prober.probe(door, &name).await.map_err(|error| chain(&error));
                (name.hostname, proof)
            });
        }
        let results: Proofs = probes.join_all().await.into_iter().collect();
        let pause = if results.values().all(Result::is_ok) { PROBE_INTERVAL } else { PROBE_RETRY };
        seen.send_modify(|seen| *seen = crate::seen::after(seen, &results));
        proofs.send_if_modified(|old| {
            let changed = !old.keys().eq(results.keys())
                || old.values().zip(results.values()).any(|(old, new)| old.as_ref().err() != new.as_ref().err());
            *old = results;
            changed
        });
        // New configuration is proven at once.
        if let Ok(Err(_)) = timeout(pause, loaded.changed()).await {
            return;
        }
    }
}
