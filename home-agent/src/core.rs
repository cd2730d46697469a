//! The one owner of home's state. It hears from the tunnel, the edge and the services, applies what the edge may
//! want, and tells the edge and the readers what follows.

use std::time::{Duration, Instant};

use agent::{LinkView, Myself, StateFile, publish};
use control::{ConfigResult, HomeEvent, HomeOutput, Snapshot};
use ipnet::Ipv4Net;
use model::{ControlStatus, DesiredConfig, Generation, HostId, HostStatus};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::services::Services;

/// Clocks in the status are renewed this often.
const REFRESH: Duration = Duration::from_secs(1);

/// The core, ready to run.
pub(crate) struct Core {
    pub(crate) myself: Myself,
    pub(crate) subnet: Ipv4Net,
    pub(crate) services: Services,
    pub(crate) applied: StateFile<DesiredConfig>,
    /// The configuration in force, from before the start or from the edge.
    pub(crate) stored: Option<DesiredConfig>,
    pub(crate) link: watch::Receiver<LinkView>,
    pub(crate) output: watch::Sender<HomeOutput>,
    pub(crate) snapshot: watch::Sender<Snapshot>,
    pub(crate) control_events: mpsc::Receiver<HomeEvent>,
}

/// What is known of the edge.
#[derive(Debug, Default)]
struct Edge {
    connected: bool,
    host: Option<HostId>,
    heard: Option<Instant>,
    status: Option<(HostStatus, Instant)>,
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
        let (mut containers, mut health) = self.services.watch();
        loop {
            let address = self.link.borrow().address;
            if let Some(config) = &self.stored {
                self.services.apply(config, address);
            }
            self.tell(&edge);
            tokio::select! {
                // In this order: once asked to stop, parts that end are no news.
                biased;
                () = stop.cancelled() => return Ok(()),
                _ = refresh.tick() => {}
                changed = self.link.changed() => changed?,
                changed = containers.changed() => changed?,
                changed = health.changed() => changed?,
                event = self.control_events.recv() => match event {
                    Some(event) => self.handle(&mut edge, event),
                    None => return Ok(()),
                },
            }
        }
    }

    fn handle(&mut self, edge: &mut Edge, event: HomeEvent) {
        edge.heard = Some(Instant::now());
        match event {
            HomeEvent::Opened { peer } => {
                *edge = Edge {
                    connected: true,
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
        if !self.subnet.contains(&config.edge_address) {
            // It would be trusted to say who the visitor is.
            return Err(format!(
                "the edge's address {} is not in the tunnel's subnet {}",
                config.edge_address, self.subnet
            ));
        }
        if let Some((name, _)) = config.hostnames.iter().find(|(name, _)| !self.services.has(name)) {
            return Err(format!("this home has no service {name}"));
        }
        if let Some((name, hostname)) = config.hostnames.iter().find(|(_, host)| !host.is_under(&config.domain)) {
            return Err(format!("{hostname}, the name of {name}, is not under the domain {}", config.domain));
        }
        self.applied.store(&config).map_err(|error| agent::config::chain(&error))?;
        self.stored = Some(config);
        Ok(())
    }

    /// Publishes the status, to readers and to the edge.
    fn tell(&self, edge: &Edge) {
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
        };
        status.containers = self.services.containers();
        status.services = self.services.statuses(&self.myself.host, address, self.stored.as_ref(), edge_status);

        let significant = publish(&self.snapshot, Snapshot { local: status.clone(), peer: edge.status.clone() });
        let services = self.services.announcements(address);
        self.output.send_if_modified(|output| {
            let changed = significant || output.result != edge.result || output.services != services;
            *output = HomeOutput { result: edge.result.clone(), status: Some(status), services };
            changed
        });
    }
}
