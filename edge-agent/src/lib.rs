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

mod certificates;
pub mod config;
mod core;
mod dns_challenge;
mod publisher;
mod reach;
mod seen;
mod sites;
mod standstill;

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use agent::services::Service;
use agent::{Configuration, Doctor, Link, Metrics, Myself, Recorder, Services};
use anyhow::Context;
use control::{ControlTls, EdgeOutput, EdgeService, Inspected, InspectionSocket, Offered, Opposite, Snapshot};
use daemon::Ready;
use daemon::config::Loaded;
use ingress::LimitsSocket;
use model::{IngressReport, Role, RoleUri};
use secrecy::ExposeSecret;
use state::StateFile;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::core::Core;
use crate::publisher::Publisher;
use crate::reach::Upstreams;
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
    let identity = &common.identity;
    let info = identity.info().context("the identity's certificate")?;
    let host = info.role.name.clone();
    let myself = Myself::new(host, Role::Edge);
    let address = common.tunnel.edge_address();
    let tls =
        ControlTls::new(&identity.ca_pem, &identity.identity.cert_pem, identity.identity.key_pem.expose_secret())?;
    let sites = Sites::open(
        &common.state_dir,
        myself.host.clone(),
        config.domain.clone(),
        address,
        common.tunnel.home_address(),
        own_addresses(&config.services),
    )?;

    let ((_, ports), opened) = (watch::channel(vec![common.control_port]), common.metrics_opened());
    let link = Link::start(&common.tunnel, identity, Role::Edge, ports, opened, stop.clone()).await?;
    let (output, output_receiver) = watch::channel(EdgeOutput::default());
    let (events, control_events) = mpsc::channel(EVENTS);
    let (requests_sender, requests) = mpsc::channel(EVENTS);
    let (way, opposite) = Opposite::none("home has not connected yet");
    let (snapshot, snapshot_receiver) = watch::channel(Snapshot { local: myself.status(), peer: None });
    let service = EdgeService::new(myself.introduction(), output_receiver, events, way, stop.clone());
    let listener = control::bind_on_device(SocketAddrV4::new(address, common.control_port), &common.tunnel.device)?;

    let home = RoleUri { role: Role::Home, name: common.tunnel.peer.clone() };
    let socket = InspectionSocket::bind(&common.control_socket)?;
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
    let recorder = Recorder::start(StateFile::new(&common.state_dir, "timeline.json"), snapshot);
    let doctor = Doctor {
        engine: services.engine(),
        state_dir: common.state_dir.clone(),
        identity_ends: info.not_after,
        snapshot: snapshot_receiver.clone(),
        tunnel: link.report.clone(),
    };
    let (published, ingress_report) = watch::channel(IngressReport::default());
    let metrics = Metrics {
        snapshot: snapshot_receiver.clone(),
        tunnel: link.report.clone(),
        supervision: services.supervision(),
        proofs: publisher.as_ref().map(Publisher::seen),
        disks: services.disks(),
        identity_ends: info.not_after,
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
        asked,
        answers,
    };

    let mut parts: JoinSet<anyhow::Result<()>> = JoinSet::new();
    if config.ingress.is_some() {
        let path = publisher::limits_socket(common);
        let limits = LimitsSocket::bind(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        let stop = stop.clone();
        parts.spawn(async move { limits.serve(stop).await.context("the limits of attempts to log in") });
    }
    parts.spawn({
        let (offered, stop) = (offered.clone(), stop.clone());
        async move {
            control::serve_edge(listener, tls, home, service, offered, may, stop).await.context("the control channel")
        }
    });
    parts.spawn({
        let stop = stop.clone();
        async move { socket.serve(offered, configurator, opposite, stop).await.context("the agent's socket") }
    });
    parts.spawn(daemon::metrics::serve(pages, metrics.source(), stop.clone()));
    parts.spawn(core.run(stop.clone()));
    parts.spawn(configuration.run(stop.clone()));
    parts.spawn(supervision);
    parts.spawn(link.ended());
    ready.notify();

    daemon::until_first_ends(parts, stop).await
}

/// Where services of this edge's own may answer.
fn own_addresses(services: &[Service]) -> Vec<IpAddr> {
    let foreign = services.iter().filter_map(Service::foreign_address);
    std::iter::once(IpAddr::from(Ipv4Addr::LOCALHOST)).chain(foreign).collect()
}
