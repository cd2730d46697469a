//! The daemon at home: composition of its parts.
//!
//! ```text
//!  tunnel link ──LinkView──▶ ┌──────┐ ◀─HomeEvent── control link (edge)
//!  supervisor ──statuses───▶ │ core │ ──HomeOutput─▶
//!  and health ─────────────▶ └──────┘ ──desired────▶ supervisor ──▶ Docker engine
//!  outside ─────proofs─────▶    │
//!                               └──Snapshot──▶ agentctl, /metrics
//! ```
//! The core owns home's state; everything else is told by watches, and only the latest value counts.
#![forbid(unsafe_code)]

pub mod config;
mod core;
mod outside;

use std::net::SocketAddrV4;
use std::sync::Arc;

use agent::config::Mode;
use agent::{
    Configuration, Doctor, Issuer, Link, Looked, Lookout, Metrics, Myself, OwnIdentity, Recorder, Renewer, Services,
};
use anyhow::Context;
use control::{HomeLink, HomeOutput, Inspected, InspectionSocket, Offered, Opposite, Snapshot};
use daemon::Ready;
use daemon::config::Loaded;
use ingress::Prober;
use model::{DesiredConfig, Role, RoleUri};
use state::StateFile;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::config::Config;
use crate::core::Core;

/// Control events waiting for the core.
const EVENTS: usize = 64;

/// Runs home until stopped. Containers are left running, unless the host goes down.
///
/// # Errors
/// When a part cannot start, or one that home cannot be without ends.
pub async fn serve(config: Loaded<Config>, ready: Ready, stop: CancellationToken) -> anyhow::Result<()> {
    let (configuration, configurator, new_services) =
        Configuration::new(&config, &config.checked.common.state_dir, |config: Config| config.services)?;
    let config = config.checked;
    let common = &config.common;
    let identity = OwnIdentity::new(common)?;
    let (tls, in_force) = (identity.tls(), identity.subscribe());
    let host = identity.role().name.clone();
    let myself = Myself::new(host, Role::Home);
    let applied = StateFile::new(&common.state_dir, "home.json");
    let stored: Option<DesiredConfig> = applied.load()?;
    let stored = stored.filter(|stored| match core::check_domain(stored, config.domain.as_ref()) {
        Ok(()) => true,
        Err(reason) => {
            warn!(reason, "the edge's configuration from before is not in force");
            false
        }
    });

    // The link first: services publish their ports on its address.
    let (open_tcp, ports) = watch::channel(config.services.iter().map(|service| service.port).collect());
    let opened = common.metrics_opened();
    let link = Link::start(&common.tunnel, in_force, Role::Home, ports, opened, None, stop.clone()).await?;
    let (output, output_receiver) = watch::channel(HomeOutput::default());
    let (events, control_events) = mpsc::channel(EVENTS);
    let (snapshot, snapshot_receiver) = watch::channel(Snapshot { local: myself.status(), peer: None });
    let (requests_sender, requests) = mpsc::channel(EVENTS);
    let (way, opposite) = Opposite::none("the edge has not been reached yet");
    let socket = InspectionSocket::bind(&common.control_socket)?;
    let pages = common.bind_metrics(common.tunnel.home_address()).await?;
    let services = Services::start(common, "home-agent", config.services, Vec::new(), stop.clone())?;
    let operator = services.operator();
    let mut watchdog = agent::watchdog(&link, &services, snapshot_receiver.clone(), stop.clone());
    let supervision = services.supervise();
    let recorder = Recorder::start(StateFile::new(&common.state_dir, "timeline.json"), snapshot);
    let (published, published_receiver) = watch::channel(Vec::new());
    let lookout = Lookout::start(&common.tunnel, Role::Home, identity.subscribe(), Some(published_receiver.clone()));
    let doctor = Doctor::new(Looked {
        engine: services.engine(),
        state_dir: common.state_dir.clone(),
        ends: identity.ends(),
        snapshot: snapshot_receiver.clone(),
        tunnel: link.report.clone(),
        peer: common.tunnel.peer.clone(),
        opposite: opposite.clone(),
        is_public: matches!(common.tunnel.mode, Mode::Listen(_)),
        lookout,
        mail: services.mail(),
        ingress: None,
        dns_command: None,
    });
    let metrics = Metrics {
        snapshot: snapshot_receiver.clone(),
        tunnel: link.report.clone(),
        supervision: services.supervision(),
        proofs: None,
        disks: services.disks(),
        ends: identity.ends(),
    };
    let inspected = Inspected {
        state: snapshot_receiver,
        timelines: recorder.timelines(),
        tunnel: link.report.clone(),
        doctor: Arc::new(doctor),
        ingress: None,
    };
    let prober = Prober::new(config.issuer_root.as_deref()).context("outside.issuer_root")?;
    let (proofs_sender, proofs) = watch::channel(Vec::new());
    tokio::spawn(stop.clone().run_until_cancelled_owned(outside::prove(prober, published_receiver, proofs_sender)));
    let offered = Offered { host: myself.host.clone(), inspected, operator, asked: requests_sender };
    let control = HomeLink {
        us: myself.introduction(),
        edge: RoleUri { role: Role::Edge, name: common.tunnel.peer.clone() },
        address: SocketAddrV4::new(common.tunnel.edge_address(), common.control_port),
        device: common.tunnel.device.clone(),
        tls,
        state: output_receiver,
        tunnel_up: link.up.clone(),
        events,
        way,
        offered: offered.clone(),
        may: common.opposite_may,
        stop: stop.clone(),
    };
    let issuer: Arc<dyn Issuer> = Arc::new(control.renewals());
    let (lists, told) = watch::channel(None);
    let renewer = Renewer::new(common.identity_dir.clone(), Some(issuer), identity.subscribe(), identity.ends(), told);
    let core = Core {
        myself,
        subnet: common.tunnel.subnet,
        domain: config.domain,
        services,
        new_services,
        open_tcp,
        applied,
        stored,
        unsaved: false,
        complained: false,
        link: link.view.clone(),
        output,
        recorder,
        requests,
        control_events,
        published,
        proofs,
        identity: renewer.status(),
        lists,
    };

    let mut parts: JoinSet<anyhow::Result<()>> = JoinSet::new();
    parts.spawn({
        let stop = stop.clone();
        async move { socket.serve(offered, configurator, opposite, stop).await.context("the agent's socket") }
    });
    parts.spawn(daemon::metrics::serve(pages, metrics.source(), stop.clone()));
    parts.spawn(watchdog.attend("control channel", agent::CONTROL_DEADLINE, async move {
        control.run().await;
        Ok(())
    }));
    parts.spawn(watchdog.attend("core", agent::CORE_DEADLINE, core.run(stop.clone())));
    parts.spawn(configuration.run(stop.clone()));
    parts.spawn(identity.run(stop.clone()));
    parts.spawn(renewer.run(stop.clone()));
    parts.spawn(supervision);
    parts.spawn(link.ended());
    ready.notify(watchdog);
    daemon::until_first_ends(parts, stop).await
}
