//! Metrics, made from the same status that `agentctl` shows, so that the two cannot disagree.

use std::fmt;

use control::Snapshot;
use model::{ContainerState, HostStatus, Serving, TunnelState};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use tokio::sync::watch;

/// A registry with everything an agent exports. Every metric starts with `cloudathome_`; what belongs to a host,
/// service or container says so in its labels.
#[must_use]
pub fn registry(snapshot: watch::Receiver<Snapshot>) -> Registry {
    let mut registry = Registry::with_prefix("cloudathome");
    registry.register_collector(Box::new(StatusCollector { snapshot }));
    registry
}

#[derive(Debug)]
struct StatusCollector {
    snapshot: watch::Receiver<Snapshot>,
}

impl Collector for StatusCollector {
    fn encode(&self, encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let Snapshot { local, .. } = &*self.snapshot.borrow();
        Encoder(encoder).host(local)
    }
}

type Labels = Vec<(&'static str, String)>;

struct Encoder<'a>(DescriptorEncoder<'a>);

impl Encoder<'_> {
    fn host(&mut self, status: &HostStatus) -> fmt::Result {
        let about = vec![
            ("host", status.host.to_string()),
            ("role", status.role.to_string()),
            ("version", status.version.clone()),
        ];
        let info = Info::new(about);
        let encoder = self.0.encode_descriptor("agent", "The agent", None, info.metric_type())?;
        info.encode(encoder)?;

        let host = || vec![("host", status.host.to_string())];
        let tunnel = &status.tunnel;
        let connected = i64::from(tunnel.state == TunnelState::Connected);
        self.gauge("uptime", "Since the agent started", Some(Unit::Seconds), [(host(), clamp(status.uptime_seconds))])?;
        self.gauge("config_generation", "Edge configuration in force", None, [(host(), clamp(status.generation.0))])?;
        self.gauge("tunnel_connected", "1 while a peer is connected", None, [(host(), connected)])?;
        self.gauge("tunnel_peers", "Connected peers", None, [(host(), i64::from(tunnel.peers))])?;
        let bytes = Some(Unit::Bytes);
        self.counter("tunnel_received", "Inner packets from peers", bytes.clone(), host(), tunnel.received_bytes)?;
        self.counter("tunnel_sent", "Inner packets to peers", bytes, host(), tunnel.sent_bytes)?;
        self.counter("tunnel_handshakes_failed", "Refused or broken off", None, host(), tunnel.handshakes_failed)?;
        self.counter(
            "tunnel_packets_dropped",
            "Not authentic, replayed or stray",
            None,
            host(),
            tunnel.packets_dropped,
        )?;
        let control = i64::from(status.control.connected);
        self.gauge("control_connected", "1 while the control channel is open", None, [(host(), control)])?;

        let containers = status.containers.iter().map(|container| {
            let labels = vec![
                ("host", status.host.to_string()),
                ("service", container.service.to_string()),
                ("container", container.name.clone()),
            ];
            (labels, i64::from(container.state == ContainerState::Running))
        });
        self.gauge("container_running", "1 while it runs", None, containers)?;
        let service = |service: &model::ServiceStatus| {
            let hostname = service.hostname.as_ref().map(ToString::to_string).unwrap_or_default();
            vec![("host", service.host.to_string()), ("service", service.name.to_string()), ("hostname", hostname)]
        };
        let healthy = status.services.iter().map(|s| (service(s), i64::from(s.health.accepts_traffic())));
        self.gauge("service_healthy", "1 while its health check passes", None, healthy)?;
        // What has no public name serves nobody and must not look like a fault.
        let published = status.services.iter().filter(|s| s.hostname.is_some());
        let serving = published.map(|s| (service(s), i64::from(s.serving == Serving::Yes)));
        self.gauge("service_serving", "1 while a request through its public name succeeds", None, serving)
    }

    fn gauge(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        values: impl IntoIterator<Item = (Labels, i64)>,
    ) -> fmt::Result {
        let kind = ConstGauge::new(0i64).metric_type();
        let mut encoder = self.0.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for (labels, value) in values {
            ConstGauge::new(value).encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn counter(&mut self, name: &str, help: &str, unit: Option<Unit>, labels: Labels, value: u64) -> fmt::Result {
        let counter = ConstCounter::new(value);
        let mut encoder = self.0.encode_descriptor(name, help, unit.as_ref(), counter.metric_type())?;
        counter.encode(encoder.encode_family(&labels)?)
    }
}

/// Prometheus gauges are signed; no value here comes near the end.
fn clamp(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
