//! The one owner of the edge's state. It hears from the tunnel, the homes, the supervisor and the prober, and tells
//! each of them and the readers what follows from all of it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use agent::services::Live;
use agent::{LinkView, Lists, Myself, NewServices, Proof, Recorder, Services, conclude};
use control::{Asked, ConfigResult, EdgeEvent, EdgeOutput, SessionId, Snapshot};
use ingress::Resolution;
use model::{
    ControlStatus, DesiredConfig, Health, HostId, HostStatus, Hostname, IdentityStatus, IngressReport, ServiceName,
    ServiceStatus, Serving,
};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::publisher::{Publication, Publisher};
use crate::reach::{self, Upstreams};
use crate::sites::Sites;

/// Clocks in the status are renewed this often.
const REFRESH: Duration = Duration::from_secs(1);
/// After a start of the agent, what was asked of its own services before holds for so long.
const JUST_STARTED: Duration = Duration::from_secs(15);
/// Where requests for services of this host come from: the engine relays what is published on loopback, from the address that
/// this host has in the service's private network. Engines choose these networks from here. Nobody but this host and the
/// service's own containers is in such a network, and the port is on loopback only.
const PRIVATE_NETWORKS: [&str; 2] = ["172.16.0.0/12", "192.168.0.0/16"];

/// A home that was heard so lately is there while its tunnel is. A silent one ends its session later.
const JUST_HEARD: Duration = Duration::from_secs(4);
/// What home has seen from outside holds for so long after home was heard last.
const OUTSIDE_HOLDS: Duration = Duration::from_secs(90);
/// A home that reports has fetched a name from outside after so long.
const OUTSIDE_TAKES: Duration = Duration::from_secs(60);

/// The core, ready to run.
pub(crate) struct Core {
    pub(crate) myself: Myself,
    pub(crate) sites: Sites,
    pub(crate) services: Services,
    pub(crate) new_services: mpsc::Receiver<NewServices>,
    pub(crate) link: watch::Receiver<LinkView>,
    pub(crate) publisher: Option<Publisher>,
    pub(crate) published: watch::Sender<IngressReport>,
    pub(crate) output: watch::Sender<EdgeOutput>,
    pub(crate) recorder: Recorder,
    /// Requests to act on services.
    pub(crate) requests: mpsc::Receiver<Asked>,
    pub(crate) control_events: mpsc::Receiver<EdgeEvent>,
    /// Since when each name is published.
    pub(crate) published_since: BTreeMap<Hostname, Instant>,
    /// What to ask while home is silent.
    pub(crate) asked: watch::Sender<Upstreams>,
    /// Whether any of that answers.
    pub(crate) answers: watch::Receiver<bool>,
    /// Until when this host's identity counts.
    pub(crate) identity: watch::Receiver<IdentityStatus>,
    /// The authority's lists of revoked certificates.
    pub(crate) lists: watch::Receiver<Lists>,
}

/// What is known of home.
#[derive(Debug, Default)]
struct Home {
    session: Option<SessionId>,
    host: Option<HostId>,
    heard: Option<Instant>,
    /// Since when there is a session.
    since: Option<Instant>,
    status: Option<(HostStatus, Instant)>,
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
        let mut home = Home { reason: Some("home has not connected yet".to_owned()), ..Home::default() };
        let mut refresh = interval(REFRESH);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut refused = Vec::new();
        let started = Instant::now();
        loop {
            let announcements = self.services.announcements(Ipv4Addr::LOCALHOST);
            self.sites.announce_own(announcements, started.elapsed() < JUST_STARTED);
            let resolution = self.sites.resolve(self.reachable(&home));
            self.ask(&home, &resolution);
            self.published_since.retain(|name, _| resolution.sites.iter().any(|site| site.hostname == *name));
            for site in &resolution.sites {
                self.published_since.entry(site.hostname.clone()).or_insert_with(Instant::now);
            }
            if refused != resolution.rejected {
                refused.clone_from(&resolution.rejected);
                for rejected in &refused {
                    warn!(host = %rejected.host, service = %rejected.service, reason = rejected.reason, "service not published");
                }
            }
            self.services.apply(&Live {
                address: Ipv4Addr::LOCALHOST,
                hostnames: Sites::names(&resolution, |host| *host == self.myself.host),
                trusted_proxies: PRIVATE_NETWORKS.map(str::to_owned).to_vec(),
            });
            let desired = self.sites.desired(&resolution);
            self.sites.save();
            if let Some(publisher) = &self.publisher {
                publisher.publish(Publication { sites: resolution.sites.clone() });
            }
            self.tell(&home, &resolution, desired);

            let published = async {
                match &mut self.publisher {
                    Some(publisher) => publisher.changed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // In this order: once asked to stop, parts that end are no news.
                biased;
                () = stop.cancelled() => return Ok(()),
                _ = refresh.tick() => {}
                changed = self.link.changed() => changed?,
                () = published => {}
                changed = self.answers.changed() => changed?,
                changed = self.identity.changed() => changed?,
                // Not all edges have an authority.
                Ok(()) = self.lists.changed() => {}
                changed = self.services.changed() => changed?,
                Some(new) = self.new_services.recv() => self.replace(new),
                Some(asked) = self.requests.recv() => self.recorder.asked(asked),
                event = self.control_events.recv() => match event {
                    Some(event) => self.handle(&mut home, event),
                    None => return Ok(()),
                },
            }
        }
    }

    /// Takes other services, all or none.
    fn replace(&mut self, new: NewServices) {
        let addresses = crate::own_addresses(&new.services);
        let outcome = self.services.replace(new.services);
        if outcome.is_ok() {
            self.sites.set_own_addresses(addresses);
        }
        // Who asked may have left.
        new.done.send(outcome).ok();
    }

    fn handle(&mut self, home: &mut Home, event: EdgeEvent) {
        match event {
            EdgeEvent::Opened { session, peer } => {
                // A home that comes back before its old session ended takes over.
                *home = Home {
                    session: Some(session),
                    host: Some(peer.host),
                    heard: Some(Instant::now()),
                    since: Some(Instant::now()),
                    status: home.status.take(),
                    ..Home::default()
                };
            }
            EdgeEvent::Closed { session, reason } if home.session == Some(session) => {
                home.session = None;
                home.reason = Some(reason);
            }
            EdgeEvent::Result { session, result } if home.session == Some(session) => {
                home.heard = Some(Instant::now());
                match &result.outcome {
                    Ok(()) => info!(generation = %result.generation, "home applied the configuration"),
                    Err(reason) => warn!(generation = %result.generation, reason, "home refused the configuration"),
                }
                home.result = Some(result);
            }
            EdgeEvent::Happened { session, news } if home.session == Some(session) => self.recorder.heard(news),
            EdgeEvent::Measured { session, clocks } if home.session == Some(session) => self.recorder.measured(clocks),
            EdgeEvent::Report { session, status, services } if home.session == Some(session) => {
                home.heard = Some(Instant::now());
                self.sites.announce(status.host.clone(), services);
                home.status = Some((*status, Instant::now()));
            }
            // Of a session that another has replaced.
            EdgeEvent::Closed { .. }
            | EdgeEvent::Result { .. }
            | EdgeEvent::Report { .. }
            | EdgeEvent::Happened { .. }
            | EdgeEvent::Measured { .. } => {}
        }
    }

    /// Whether home reports. A session outlives its tunnel until silence ends it; nobody answers in it meanwhile.
    fn connected(&self, home: &Home) -> bool {
        home.session.is_some() && self.link.borrow().agent_connected
    }

    /// Whether home can be reached: it reports, or it answers although it does not.
    fn reachable(&self, home: &Home) -> bool {
        // A session that has just ended is no reason to send visitors away: whether home answers is known in a moment.
        let just_heard = home.heard.is_some_and(|at| at.elapsed() < JUST_HEARD);
        self.connected(home) || self.link.borrow().agent_connected && (just_heard || *self.answers.borrow())
    }

    /// Has a home asked that falls silent behind a tunnel that is up.
    fn ask(&self, home: &Home, resolution: &Resolution) {
        let silent = home.session.is_none() || home.heard.is_none_or(|at| at.elapsed() >= reach::QUIET);
        let sites = resolution.sites.iter().filter(|site| site.host != self.myself.host);
        let upstreams = sites.filter_map(|site| site.upstream.or(site.away.map(|away| away.upstream)));
        let wanted: Upstreams =
            if silent && self.link.borrow().agent_connected { upstreams.collect() } else { Upstreams::new() };
        self.asked.send_if_modified(|asked| {
            let changed = *asked != wanted;
            *asked = wanted;
            changed
        });
    }

    /// What people get at a published name.
    fn serving(&self, home: &Home, site: &ingress::Site, health: &Health) -> Serving {
        match &self.publisher {
            Some(publisher) => conclude(health, publisher.proof(&site.hostname), self.outside(home, site)),
            None => Serving::No { reason: "this edge has no [ingress] section: nothing is published".to_owned() },
        }
    }

    /// Home's proof of a name.
    fn outside(&self, home: &Home, site: &ingress::Site) -> Proof {
        let fresh = home.status.as_ref().filter(|(_, at)| at.elapsed() < OUTSIDE_HOLDS);
        let found = fresh.and_then(|(status, _)| status.outside.iter().find(|proof| proof.hostname == site.hostname));
        let published = self.published_since.get(&site.hostname).copied();
        // The later of the two.
        let since =
            home.since.filter(|_| home.session.is_some()).map(|since| published.map_or(since, |at| at.max(since)));
        match (found.map(|proof| &proof.failure), since) {
            (Some(None), _) => Proof::Passed,
            (Some(Some(reason)), _) => Proof::Failed { reason: reason.clone() },
            (None, Some(since)) if since.elapsed() < OUTSIDE_TAKES => Proof::Pending,
            (None, Some(_)) => Proof::Missing { reason: "home has not fetched it; is its release older?".to_owned() },
            (None, None) => Proof::Missing { reason: "home does not report".to_owned() },
        }
    }

    /// Publishes the status, to readers and to home.
    fn tell(&mut self, home: &Home, resolution: &Resolution, desired: DesiredConfig) {
        let mut status = self.myself.status();
        status.generation = desired.generation;
        status.tunnel = self.link.borrow().status.clone();
        let refused = home.result.as_ref().and_then(|result| {
            let reason = result.outcome.as_ref().err()?;
            Some(format!("home refused configuration {}: {reason}", result.generation))
        });
        let connected = self.connected(home);
        let broken = (home.session.is_some() && !connected).then(|| "the tunnel is down".to_owned());
        status.control = ControlStatus {
            connected,
            peer: home.host.clone(),
            reason: broken.or(refused).or_else(|| home.reason.clone()),
            last_heard_seconds: home.heard.map(|at| at.elapsed().as_secs()),
            ..ControlStatus::default()
        };
        let peer_service = |site: &ingress::Site| {
            let (peer, _) = home.status.as_ref()?;
            peer.services.iter().find(|service| service.name == site.service).cloned()
        };
        let own = |host: &HostId| *host == self.myself.host;
        status.services =
            self.services.statuses(&self.myself.host, Ipv4Addr::LOCALHOST, |name: &ServiceName, health: &Health| {
                let site = resolution.sites.iter().find(|site| own(&site.host) && site.service == *name);
                site.map_or(Serving::Unknown, |site| self.serving(home, site, health))
            });
        let homes = resolution.sites.iter().filter(|site| !own(&site.host)).map(|site| {
            let known = peer_service(site);
            let upstream = known.as_ref().and_then(|service| service.upstream);
            let health = known.filter(|_| connected).map(|service| service.health).unwrap_or_default();
            ServiceStatus {
                name: site.service.clone(),
                host: site.host.clone(),
                hostname: Some(site.hostname.clone()),
                upstream,
                serving: self.serving(home, site, &health),
                health,
                since: None,
            }
        });
        status.services.extend(homes);
        // Of the edge's own the status is there already.
        for rejected in resolution.rejected.iter().filter(|rejected| !own(&rejected.host)) {
            // A home may announce one name twice.
            if status.services.iter().any(|known| known.host == rejected.host && known.name == rejected.service) {
                continue;
            }
            status.services.push(ServiceStatus {
                name: rejected.service.clone(),
                host: rejected.host.clone(),
                hostname: None,
                upstream: None,
                health: Health::Unknown,
                serving: Serving::No { reason: format!("the edge refuses it: {}", rejected.reason) },
                since: None,
            });
        }
        status.containers = self.services.containers();
        status.identity = Some(self.identity.borrow().clone());
        if let Some(publisher) = &self.publisher {
            status.services.insert(0, publisher.service(&self.myself.host));
        }

        self.recorder.complete(&mut status.control);
        self.recorder.date(&mut status.services);
        if let Some(publisher) = &self.publisher {
            self.published.send_replace(publisher.report(resolution, &status.services));
        }
        let significant = self.recorder.publish(Snapshot { local: status.clone(), peer: home.status.clone() });
        let timeline = self.recorder.own();
        let revocations = self.lists.borrow().clone();
        self.output.send_if_modified(|output| {
            let changed = significant || output.desired.as_ref() != Some(&desired) || output.revocations != revocations;
            *output = EdgeOutput { desired: Some(desired), status: Some(status), timeline, revocations };
            changed
        });
    }
}
