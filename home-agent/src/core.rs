//! The one owner of home's state. It hears from the tunnel, the edge and the services, applies what the edge may
//! want, and tells the edge and the readers what follows.

use std::time::{Duration, Instant};

use agent::services::Live;
use agent::{LinkView, Lists, Myself, NewServices, Proof, Recorder, Services, conclude};
use control::{Asked, ConfigResult, HomeEvent, HomeOutput, Snapshot};
use ipnet::Ipv4Net;
use model::{
    ControlStatus, DesiredConfig, Generation, Health, HostId, HostStatus, Hostname, IdentityStatus, OutsideProof,
    PublicName, ServiceName, Serving,
};
use state::StateFile;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Clocks in the status are renewed this often.
const REFRESH: Duration = Duration::from_secs(1);

/// The core, ready to run.
pub(crate) struct Core {
    pub(crate) myself: Myself,
    pub(crate) subnet: Ipv4Net,
    /// The only domain that the edge may have, if our own configuration names it.
    pub(crate) domain: Option<Hostname>,
    pub(crate) services: Services,
    pub(crate) new_services: mpsc::Receiver<NewServices>,
    /// The ports that peers may open: those of services.
    pub(crate) open_tcp: watch::Sender<Vec<u16>>,
    pub(crate) applied: StateFile<DesiredConfig>,
    /// The configuration in force, from before the start or from the edge.
    pub(crate) stored: Option<DesiredConfig>,
    /// Whether the file holds another one.
    pub(crate) unsaved: bool,
    /// Whether the log has the reason why it cannot be stored.
    pub(crate) complained: bool,
    pub(crate) link: watch::Receiver<LinkView>,
    pub(crate) output: watch::Sender<HomeOutput>,
    pub(crate) recorder: Recorder,
    /// Requests to act on services.
    pub(crate) requests: mpsc::Receiver<Asked>,
    pub(crate) control_events: mpsc::Receiver<HomeEvent>,
    /// What is to be fetched from outside.
    pub(crate) published: watch::Sender<Vec<PublicName>>,
    /// What came of that.
    pub(crate) proofs: watch::Receiver<Vec<OutsideProof>>,
    /// Until when this host's identity counts.
    pub(crate) identity: watch::Receiver<IdentityStatus>,
    /// The edge's lists of revoked certificates.
    pub(crate) lists: watch::Sender<Lists>,
}

/// What is known of the edge.
#[derive(Debug, Default)]
struct Edge {
    connected: bool,
    host: Option<HostId>,
    heard: Option<Instant>,
    status: Option<(HostStatus, Instant)>,
    /// Its version, when that is one which does not keep to what services ask of the ingress.
    ignores_options: Option<String>,
    /// Our answer to its last configuration.
    result: Option<ConfigResult>,
    /// Why there is no session.
    reason: Option<String>,
}

impl Core {
    /// Runs until stopped, or until a part it hears from is gone.
    ///
    /// # Errors
    /// When a part ended without being asked to.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut edge = Edge { reason: Some("the edge has not been reached yet".to_owned()), ..Edge::default() };
        let mut refresh = interval(REFRESH);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let address = self.link.borrow().address;
            if let Some(config) = &self.stored {
                self.services.apply(&Live {
                    address,
                    hostnames: config.hostnames.clone(),
                    trusted_proxies: vec![config.edge_address.to_string()],
                });
                self.published.send_if_modified(|published| {
                    let changed = *published != config.published;
                    published.clone_from(&config.published);
                    changed
                });
            }
            self.save();
            self.tell(&edge);
            tokio::select! {
                // In this order: once asked to stop, parts that end are no news.
                biased;
                () = stop.cancelled() => return Ok(()),
                _ = refresh.tick() => {}
                changed = self.link.changed() => changed?,
                changed = self.proofs.changed() => changed?,
                changed = self.identity.changed() => changed?,
                changed = self.services.changed() => changed?,
                Some(new) = self.new_services.recv() => self.replace(new),
                Some(asked) = self.requests.recv() => self.recorder.asked(asked),
                event = self.control_events.recv() => match event {
                    Some(event) => self.handle(&mut edge, event),
                    None => return Ok(()),
                },
            }
        }
    }

    /// Takes other services, all or none.
    fn replace(&mut self, new: NewServices) {
        let ports = new.services.iter().map(|service| service.port).collect();
        let outcome = self.services.replace(new.services);
        if outcome.is_ok() {
            self.open_tcp.send_replace(ports);
        }
        // Who asked may have left.
        new.done.send(outcome).ok();
    }

    fn handle(&mut self, edge: &mut Edge, event: HomeEvent) {
        edge.heard = Some(Instant::now());
        match event {
            HomeEvent::Opened { peer } => {
                let version = peer.agent_version;
                *edge = Edge {
                    connected: true,
                    ignores_options: (!peer.keeps_to_ingress_options).then_some(version),
                    host: Some(peer.host),
                    heard: edge.heard,
                    status: edge.status.take(),
                    ..Edge::default()
                };
            }
            HomeEvent::Closed { reason } => {
                edge.connected = false;
                edge.reason = Some(reason);
            }
            HomeEvent::Happened(news) => self.recorder.heard(news),
            HomeEvent::Measured(clocks) => self.recorder.measured(clocks),
            HomeEvent::Revocations(lists) => drop(self.lists.send_replace(Some(lists.into()))),
            HomeEvent::Report { status } => edge.status = Some((*status, Instant::now())),
            HomeEvent::Desired(Ok(config)) => {
                let generation = config.generation;
                let outcome = self.accept(config);
                match &outcome {
                    Ok(()) => info!(%generation, "the edge's configuration is in force"),
                    Err(reason) => warn!(%generation, reason, "the edge's configuration is refused"),
                }
                edge.result = Some(ConfigResult { generation, outcome });
            }
            HomeEvent::Desired(Err(result)) => {
                warn!(generation = %result.generation, "the edge's configuration makes no sense");
                edge.result = Some(result);
            }
        }
    }

    /// Takes a configuration, whole or not at all.
    fn accept(&mut self, config: DesiredConfig) -> Result<(), String> {
        let config =
            judge(config, self.stored.as_ref(), self.subnet, self.domain.as_ref(), |name| self.services.has(name))?;
        self.unsaved |= self.stored.as_ref() != Some(&config);
        self.stored = Some(config);
        Ok(())
    }

    /// Stores what is in force, if that has changed. A disk that is full does not keep it from being in force: it is tried again with
    /// each pass.
    fn save(&mut self) {
        let Some(config) = self.stored.as_ref().filter(|_| self.unsaved) else { return };
        match self.applied.store(config) {
            Ok(()) => (self.unsaved, self.complained) = (false, false),
            Err(_) if self.complained => {}
            Err(error) => {
                let error = agent::config::chain(&error);
                warn!(
                    error,
                    "the edge's configuration is not stored: after a restart the one before would be in force"
                );
                self.complained = true;
            }
        }
    }

    /// Publishes the status, to readers and to the edge.
    fn tell(&mut self, edge: &Edge) {
        let address = self.link.borrow().address;
        let edge_status = edge.status.as_ref().filter(|_| edge.connected).map(|(status, _)| status);
        let mut status = self.myself.status();
        status.generation = self.stored.as_ref().map_or(Generation::default(), |config| config.generation);
        status.tunnel = self.link.borrow().status.clone();
        status.control = ControlStatus {
            connected: edge.connected,
            peer: edge.host.clone(),
            reason: edge.reason.clone(),
            last_heard_seconds: edge.heard.map(|at| at.elapsed().as_secs()),
            ..ControlStatus::default()
        };
        status.containers = self.services.containers();
        status.outside.clone_from(&self.proofs.borrow());
        status.identity = Some(self.identity.borrow().clone());
        let host = &self.myself.host;
        let services = self.services.announcements(address);
        let withheld = |name: &ServiceName| {
            let version = edge.ignores_options.as_ref()?;
            let service = services.iter().find(|service| service.name == *name)?;
            service.ingress.keeps_out().then(|| Serving::No {
                reason: format!("the edge's release {version} would publish it without its guards: upgrade the edge"),
            })
        };
        let by_edge = |name: &ServiceName| {
            edge_status?.services.iter().find(|service| service.host == *host && service.name == *name)
        };
        let serving = |name: &ServiceName, health: &Health| {
            let known = withheld(name).or_else(|| Some(by_edge(name)?.serving.clone()));
            known.unwrap_or_else(|| self.alone(edge, name, health))
        };
        status.services = self.services.statuses(host, address, serving);
        for service in &mut status.services {
            let told = by_edge(&service.name).filter(|told| told.serving.word() == service.serving.word());
            service.since = told.and_then(|told| told.since);
        }

        self.recorder.complete(&mut status.control);
        self.recorder.date(&mut status.services);
        let significant = self.recorder.publish(Snapshot { local: status.clone(), peer: edge.status.clone() });
        let timeline = self.recorder.own();
        self.output.send_if_modified(|output| {
            let changed = significant || output.result != edge.result || output.services != services;
            *output = HomeOutput { result: edge.result.clone(), status: Some(status), services, timeline };
            changed
        });
    }

    /// What people get at a name of ours, as far as can be seen without the edge's word.
    fn alone(&self, edge: &Edge, name: &ServiceName, health: &Health) -> Serving {
        let inside = match &edge.reason {
            Some(reason) => Proof::Missing { reason: format!("the edge does not report: {reason}") },
            None => Proof::Missing { reason: "the edge does not know it yet".to_owned() },
        };
        let hostname = self.stored.as_ref().and_then(|config| config.hostnames.get(name));
        conclude(health, inside, hostname.map_or(Proof::Pending, |hostname| self.outside(hostname)))
    }

    /// Our own proof of a name.
    fn outside(&self, hostname: &Hostname) -> Proof {
        match self.proofs.borrow().iter().find(|proof| proof.hostname == *hostname).map(|proof| &proof.failure) {
            Some(None) => Proof::Passed,
            Some(Some(reason)) => Proof::Failed { reason: reason.clone() },
            None => Proof::Pending,
        }
    }
}

/// What an edge may want: names for services that are ours, under its domain, and requests from an address in the tunnel.
/// Where home's configuration names the domain, that one and no other. A name once given stays until the edge gives another: it can rename a service, not stop it.
fn judge(
    mut config: DesiredConfig,
    before: Option<&DesiredConfig>,
    subnet: Ipv4Net,
    domain: Option<&Hostname>,
    has: impl Fn(&ServiceName) -> bool,
) -> Result<DesiredConfig, String> {
    if !subnet.contains(&config.edge_address) {
        // It would be trusted to say who the visitor is.
        return Err(format!("the edge's address {} is not in the tunnel's subnet {subnet}", config.edge_address));
    }
    check_domain(&config, domain)?;
    for (name, hostname) in &config.hostnames {
        if !has(name) {
            return Err(format!("this home has no service {name}"));
        }
        if !hostname.is_under(&config.domain) {
            return Err(format!("{hostname}, the name of {name}, is not under the domain {}", config.domain));
        }
    }
    if let Some(name) = config.published.iter().find(|name| !name.hostname.is_under(&config.domain)) {
        return Err(format!("{}, which is to be fetched, is not under the domain {}", name.hostname, config.domain));
    }
    for (name, hostname) in before.into_iter().flat_map(|before| &before.hostnames) {
        if has(name) {
            config.hostnames.entry(name.clone()).or_insert_with(|| hostname.clone());
        }
    }
    Ok(config)
}

/// Whether the edge's domain is the one that home is for. Whoever has the edge could otherwise rename home's services under a domain
/// of his own, with certificates that are good for it.
pub(crate) fn check_domain(config: &DesiredConfig, domain: Option<&Hostname>) -> Result<(), String> {
    match domain {
        Some(domain) if *domain != config.domain => Err(format!(
            "the edge's domain is {}, and home's own configuration says `domain = \"{domain}\"`: correct one of them",
            config.domain
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(hostnames: &[(&str, &str)]) -> DesiredConfig {
        DesiredConfig {
            generation: Generation(1),
            domain: "example.test".parse().unwrap(),
            edge_address: "10.86.0.1".parse().unwrap(),
            hostnames: hostnames.iter().map(|(name, host)| (name.parse().unwrap(), host.parse().unwrap())).collect(),
            published: vec![],
        }
    }

    fn judged(new: DesiredConfig, before: Option<&DesiredConfig>) -> Result<DesiredConfig, String> {
        judge(new, before, "10.86.0.0/24".parse().unwrap(), None, |name| name.as_str() == "nextcloud")
    }

    #[test]
    fn an_edge_can_rename_a_service_and_not_stop_it() {
        let named = config(&[("nextcloud", "cloud.example.test")]);
        assert_eq!(judged(named.clone(), None).unwrap(), named);
        assert_eq!(judged(config(&[]), Some(&named)).unwrap().hostnames, named.hostnames);
        let renamed = config(&[("nextcloud", "files.example.test")]);
        assert_eq!(judged(renamed.clone(), Some(&named)).unwrap(), renamed);
    }

    #[test]
    fn a_home_that_names_its_domain_takes_no_other() {
        let pinned = |domain: &str| {
            let domain = domain.parse().unwrap();
            let named = config(&[("nextcloud", "cloud.example.test")]);
            judge(named, None, "10.86.0.0/24".parse().unwrap(), Some(&domain), |_| true)
        };
        assert!(pinned("example.test").is_ok());
        for other in ["example.org", "other.test", "sub.example.test"] {
            let refused = pinned(other).unwrap_err();
            assert!(refused.contains("the edge's domain is example.test") && refused.contains(other), "{refused}");
        }
    }

    #[test]
    fn what_is_not_the_edges_business_is_refused() {
        assert!(judged(config(&[("ghost", "blog.example.test")]), None).unwrap_err().contains("no service ghost"));
        assert!(judged(config(&[("nextcloud", "cloud.example.org")]), None).unwrap_err().contains("not under"));
        let outside = DesiredConfig { edge_address: "192.168.1.1".parse().unwrap(), ..config(&[]) };
        assert!(judged(outside, None).unwrap_err().contains("not in the tunnel's subnet"));
        let elsewhere = PublicName {
            hostname: "router.example.org".parse().unwrap(),
            path: "/reboot".into(),
            status: None,
            guarded: false,
        };
        let fetching = DesiredConfig { published: vec![elsewhere], ..config(&[]) };
        assert!(judged(fetching, None).unwrap_err().contains("which is to be fetched, is not under the domain"));
    }
}
