//! The daemon on the public host: composition of its parts.
//!
//! ```text
//!  tunnel link ──LinkView──▶ ┌──────┐ ◀─EdgeEvent── control sessions (homes)
//!  supervisor ──statuses───▶ │ core │ ──EdgeOutput─▶    ──desired─▶ supervisor ──▶ Docker engine
//!  prober ──results────────▶ └──────┘ ──Publication▶ publisher ──load──▶ Caddy (unix socket)
//!                               └──Snapshot──▶ agentctl, /metrics
//! ```
//! The core owns the edge's state; everything else is told by watches, and only the latest value counts.
#![forbid(unsafe_code)]

mod authority;
mod certificates;
pub mod config;
mod core;
mod devices;
mod dns_challenge;
mod identities;
mod publisher;
mod reach;
mod renewal;
mod seen;
mod sightings;
mod sites;
mod standstill;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use agent::config::Mode;
use agent::services::Service;
use agent::{Configuration, Doctor, Link, Looked, Lookout, Metrics, Myself, OwnIdentity, Recorder, Renewer, Services};
use anyhow::Context;
use control::{EdgeOutput, EdgeService, Inspected, InspectionSocket, Offered, Opposite, Snapshot};
use daemon::Ready;
use daemon::config::Loaded;
use ingress::LimitsSocket;
use model::{IngressReport, Role, RoleUri};
use state::StateFile;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::authority::Keeper;
use crate::config::Config;
use crate::core::Core;
use crate::publisher::Publisher;
use crate::reach::Upstreams;
use crate::sightings::Sightings;
use crate::sites::Sites;

/// Control events waiting for the core.
const EVENTS: usize = 64;

/// Runs the edge until stopped. Containers are left running, unless the host goes down.
///
/// # Errors
/// When a part cannot start, or one that the edge cannot be without ends.
pub async fn serve(config: Loaded<Config>, ready: Ready, stop: CancellationToken) -> anyhow::Result<()> {
    let (configuration, configurator, new_services) =
        Configuration::new(&config, &config.checked.common.state_dir, |config: Config| config.services)?;
    let config = config.checked;
    let common = &config.common;
    let identity = OwnIdentity::new(common)?;
    let (tls, in_force) = (identity.tls(), identity.subscribe());
    let host = identity.role().name.clone();
    let myself = Myself::new(host, Role::Edge);
    let address = common.tunnel.edge_address();
    let sites = Sites::open(
        &common.state_dir,
        myself.host.clone(),
        config.domain.clone(),
        address,
        common.tunnel.home_address(),
        own_addresses(&config.services),
    )?;

    let ((_, ports), opened) = (watch::channel(vec![common.control_port]), common.metrics_opened());
    let keeper = Keeper::open(&common.state_dir)?;
    let (domain, control_port) = (config.domain.clone(), common.control_port);
    let own = keeper.clone().and_then(|keeper| keeper.issuer(&in_force.borrow().identity, &myself.host));
    // An authority that did not issue the edge's identity is not the one that home trusts.
    let lists = keeper.as_ref().filter(|_| own.is_some()).map_or_else(|| watch::channel(None).1, Keeper::lists);
    let renewer = Renewer::new(common.identity_dir.clone(), own, in_force.clone(), identity.ends(), lists.clone());
    let successors = keeper.clone();
    let register = Arc::new(identities::Register(keeper.clone()));
    if let Some(keeper) = &keeper {
        tokio::spawn(stop.clone().run_until_cancelled_owned(renewal::sign_lists(keeper.clone())));
    }
    let gate = devices::gate(keeper.clone(), &in_force, &common.tunnel, &myself.host, &domain);
    let joining = authority::joining(keeper, &common.tunnel, myself.host.clone(), domain, control_port);
    let (stranger, strangers) = mpsc::channel(authority::STRANGERS);
    let enrolment =
        joining.as_ref().ok().map(|joining| authority::enrolment(joining, &in_force.borrow().identity)).transpose()?;
    let stranger = enrolment.as_ref().map(|_| stranger);
    let link = Link::start(&common.tunnel, in_force.clone(), Role::Edge, ports, opened, stranger, stop.clone()).await?;
    let sightings_file = StateFile::new(&common.state_dir, sightings::FILE);
    let known = sightings_file.load()?.unwrap_or_default();
    let (sightings, seen) = watch::channel(Sightings::clone(&known));
    let home = common.tunnel.peer.clone();
    let sightings = sightings::keep(sightings_file, known, home, link.report.clone(), sightings, stop.clone());
    let registry = devices::Registry { gate, tunnel: link.report.clone(), sightings: seen };
    let (output, output_receiver) = watch::channel(EdgeOutput::default());
    let (events, control_events) = mpsc::channel(EVENTS);
    let (requests_sender, requests) = mpsc::channel(EVENTS);
    let (way, opposite) = Opposite::none("home has not connected yet");
    let (snapshot, snapshot_receiver) = watch::channel(Snapshot { local: myself.status(), peer: None });
    let mut service = EdgeService::new(myself.introduction(), output_receiver, events, way, stop.clone());
    if let Some(successors) = successors {
        service = service.with_successors(Arc::new(successors));
    }
    let listener = control::bind_on_device(SocketAddrV4::new(address, common.control_port), &common.tunnel.device)?;

    let home = RoleUri { role: Role::Home, name: common.tunnel.peer.clone() };
    let codes = Arc::new(authority::Codes(joining));
    let socket = InspectionSocket::bind(&common.control_socket)?.with_codes(codes).with_identities(register);
    let socket = socket.with_devices(Arc::new(registry));
    let pages = common.bind_metrics(address).await?;

    let caddy = config.ingress.as_ref().map(|ingress| publisher::definition(common, ingress)).transpose()?;
    let services = Services::start(common, "edge-agent", config.services, caddy.into_iter().collect(), stop.clone())?;
    let supervision = services.supervise();
    let publisher = match &config.ingress {
        Some(ingress) => Some(Publisher::start(common, ingress, services.health(), stop.clone())?),
        None => None,
    };
    if let Some(publisher) = &publisher {
        tokio::spawn(stop.clone().run_until_cancelled_owned(standstill::run(publisher.published())));
    }
    let operator = services.operator();
    let mut watchdog = agent::watchdog(&link, &services, snapshot_receiver.clone(), stop.clone());
    let recorder = Recorder::start(StateFile::new(&common.state_dir, "timeline.json"), snapshot);
    let (published, ingress_report) = watch::channel(IngressReport::default());
    let lookout = Lookout::start(&common.tunnel, Role::Edge, identity.subscribe(), None);
    let doctor = Doctor::new(Looked {
        engine: services.engine(),
        state_dir: common.state_dir.clone(),
        ends: identity.ends(),
        snapshot: snapshot_receiver.clone(),
        tunnel: link.report.clone(),
        peer: common.tunnel.peer.clone(),
        opposite: opposite.clone(),
        is_public: matches!(common.tunnel.mode, Mode::Listen(_)) || config.ingress.is_some(),
        lookout,
        mail: services.mail(),
        ingress: publisher.as_ref().map(|_| ingress_report.clone()),
        dns_command: config.ingress.as_ref().and_then(|ingress| ingress.dns_challenge.as_ref()?.command.clone()),
    });
    let metrics = Metrics {
        snapshot: snapshot_receiver.clone(),
        tunnel: link.report.clone(),
        supervision: services.supervision(),
        proofs: publisher.as_ref().map(Publisher::seen),
        disks: services.disks(),
        ends: identity.ends(),
    };
    let inspected = Inspected {
        state: snapshot_receiver,
        timelines: recorder.timelines(),
        tunnel: link.report.clone(),
        doctor: Arc::new(doctor),
        ingress: publisher.as_ref().map(|_| ingress_report),
    };
    let offered = Offered { host: myself.host.clone(), inspected, operator, asked: requests_sender };
    let may = common.opposite_may;
    let (asked, asked_receiver) = watch::channel(Upstreams::new());
    let (answers_sender, answers) = watch::channel(false);
    tokio::spawn(stop.clone().run_until_cancelled_owned(reach::watch_upstreams(asked_receiver, answers_sender)));
    let core = Core {
        myself,
        sites,
        services,
        new_services,
        link: link.view.clone(),
        publisher,
        published,
        output,
        recorder,
        requests,
        control_events,
        published_since: BTreeMap::new(),
        asked,
        answers,
        identity: renewer.status(),
        lists,
    };

    let mut parts: JoinSet<anyhow::Result<()>> = JoinSet::new();
    if config.ingress.is_some() {
        let path = publisher::limits_socket(common);
        let limits = LimitsSocket::bind(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        let stop = stop.clone();
        parts.spawn(async move { limits.serve(stop).await.context("the limits of attempts to log in") });
    }
    if let Some(enrolment) = enrolment {
        let stop = stop.clone();
        parts.spawn(async move {
            authority::serve(enrolment, in_force, strangers, stop).await;
            Ok(())
        });
    }
    parts.spawn({
        let (offered, stop) = (offered.clone(), stop.clone());
        let serving = async move {
            control::serve_edge(listener, tls, home, service, offered, may, stop).await.context("the control channel")
        };
        watchdog.attend("control channel", agent::CONTROL_DEADLINE, serving)
    });
    parts.spawn({
        let stop = stop.clone();
        async move { socket.serve(offered, configurator, opposite, stop).await.context("the agent's socket") }
    });
    parts.spawn(async move {
        sightings.await;
        Ok(())
    });
    parts.spawn(daemon::metrics::serve(pages, metrics.source(), stop.clone()));
    parts.spawn(watchdog.attend("core", agent::CORE_DEADLINE, core.run(stop.clone())));
    parts.spawn(configuration.run(stop.clone()));
    parts.spawn(identity.run(stop.clone()));
    parts.spawn(renewer.run(stop.clone()));
    parts.spawn(supervision);
    parts.spawn(link.ended());
    ready.notify(watchdog);

    daemon::until_first_ends(parts, stop).await
}

/// Where services of this edge's own may answer.
fn own_addresses(services: &[Service]) -> Vec<IpAddr> {
    let foreign = services.iter().filter_map(Service::foreign_address);
    std::iter::once(IpAddr::from(Ipv4Addr::LOCALHOST)).chain(foreign).collect()
}
