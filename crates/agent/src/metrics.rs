//! Metrics, made from the same status that `agentctl` shows, so that the two cannot disagree.

use std::collections::BTreeSet;
use std::fmt;

use control::Snapshot;
use model::{ContainerState, HostStatus, Serving, TunnelPeer, TunnelReport, TunnelState};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use tokio::sync::watch;

/// A registry with everything an agent exports. Every metric starts with `cloudathome_`; what belongs to a host,
/// service or container says so in its labels.
#[must_use]
pub fn registry(snapshot: watch::Receiver<Snapshot>, tunnel: watch::Receiver<TunnelReport>) -> Registry {
    let mut registry = Registry::with_prefix("cloudathome");
    registry.register_collector(Box::new(StatusCollector { snapshot, tunnel }));
    registry
}

#[derive(Debug)]
struct StatusCollector {
    snapshot: watch::Receiver<Snapshot>,
    tunnel: watch::Receiver<TunnelReport>,
}

impl Collector for StatusCollector {
    fn encode(&self, encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let Snapshot { local, .. } = &*self.snapshot.borrow();
        let mut encoder = Encoder(encoder);
        encoder.host(local)?;
        encoder.tunnel(local, &self.tunnel.borrow())
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
        let round_trip = status.control.round_trip_micros.map(|micros| (host(), micros as f64 / 1e6));
        let help = "To the opposite agent and back through the tunnel";
        self.gauge("control_round_trip", help, Some(Unit::Seconds), round_trip)?;
        let ahead = status.control.clock_ahead_millis.map(|millis| (host(), millis as f64 / 1e3));
        let help = "How far the opposite host's clock is ahead";
        self.gauge("control_clock_ahead", help, Some(Unit::Seconds), ahead)?;

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

    fn tunnel(&mut self, status: &HostStatus, report: &TunnelReport) -> fmt::Result {
        let path = &report.data_path;
        let labels = vec![
            ("host", status.host.to_string()),
            ("device", path.device_read.by.clone()),
            ("udp_send", path.udp_send.by.clone()),
            ("udp_receive", path.udp_receive.by.clone()),
        ];
        let info = Info::new(labels);
        let help = "Which of the kernel's offloads packets go by";
        info.encode(self.0.encode_descriptor("tunnel_data_path", help, None, info.metric_type())?)?;
        let host = status.host.to_string();
        let link = (report.mtu > 0).then(|| (vec![("host", host.clone())], i64::from(report.mtu)));
        self.gauge("tunnel_mtu", "Largest inner packet", Some(Unit::Bytes), link)?;
        let paths = by_name(report).filter_map(|peer| {
            Some((vec![("host", host.clone()), ("peer", peer.name.clone())], i64::from(peer.path_mtu?)))
        });
        self.gauge("tunnel_path_mtu", "Largest packet that the path carries", Some(Unit::Bytes), paths)?;
        let step = |name: &str| vec![("host", host.clone()), ("step", name.to_owned())];
        let drops = report
            .drops
            .iter()
            .map(|(reason, count)| (vec![("host", host.clone()), ("reason", reason.clone())], *count));
        self.counters("tunnel_drops", "Dropped packets by reason", None, drops)?;
        let of = |peer: &TunnelPeer| vec![("host", host.clone()), ("peer", peer.name.clone())];
        let received = by_name(report).map(|peer| (of(peer), peer.received_bytes));
        self.counters("tunnel_peer_received", "Inner packets from a peer", Some(Unit::Bytes), received)?;
        let sent = by_name(report).map(|peer| (of(peer), peer.sent_bytes));
        self.counters("tunnel_peer_sent", "Inner packets to a peer", Some(Unit::Bytes), sent)?;
        let peers = by_name(report).map(|peer| {
            let mut labels = of(peer);
            labels.extend([
                ("transport", peer.transport.clone()),
                ("cipher", peer.cipher.clone()),
                ("tls", peer.tls.clone()),
            ]);
            (labels, 1i64)
        });
        self.gauge("tunnel_peer_info", "A connected peer", None, peers)?;
        let calls = path.steps().map(|(name, counted)| (step(name), counted.calls));
        self.counters("tunnel_path_calls", "System calls of the data path", None, calls)?;
        let packets = path.steps().map(|(name, counted)| (step(name), counted.packets));
        self.counters("tunnel_path_packets", "Packets that these calls carried", None, packets)
    }

    fn gauge<V>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        values: impl IntoIterator<Item = (Labels, V)>,
    ) -> fmt::Result
    where
        ConstGauge<V>: EncodeMetric,
    {
        let mut encoder = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        for (labels, value) in values {
            ConstGauge::new(value).encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn counters(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        values: impl IntoIterator<Item = (Labels, u64)>,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
        for (labels, value) in values {
            ConstCounter::new(value).encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn counter(&mut self, name: &str, help: &str, unit: Option<Unit>, labels: Labels, value: u64) -> fmt::Result {
        self.counters(name, help, unit, [(labels, value)])
    }
}

/// The peers, each name once: where several connect by one certificate, a label can't tell them apart.
fn by_name(report: &TunnelReport) -> impl Iterator<Item = &TunnelPeer> {
    let mut known = BTreeSet::new();
    report.peers.iter().filter(move |peer| known.insert(&peer.name))
}

/// Prometheus gauges are signed; no value here comes near the end.
fn clamp(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use model::{PathStep, Role};

    use super::*;
    use crate::Myself;

    #[test]
    fn the_data_path_is_told_with_its_counts() {
        let mut status = Myself::new("vps".parse().unwrap(), Role::Edge).status();
        status.control.round_trip_micros = Some(21_340);
        status.control.clock_ahead_millis = Some(-250);
        let step = |by: &str, calls| PathStep { by: by.into(), calls, packets: 45 * calls };
        let mut report = TunnelReport::default();
        report.data_path.device_read = step("virtio-tso", 2);
        report.data_path.udp_send = step("segmented", 3);
        report.data_path.udp_receive = step("single", 0);
        report.mtu = 1436;
        report.drops = [("replay".to_owned(), 9)].into();
        let peer = |name: &str, received_bytes| TunnelPeer {
            name: name.into(),
            address: None,
            address_ipv6: None,
            remote: "203.0.113.9:1194".parse().unwrap(),
            transport: "udp".into(),
            cipher: "AES-256-GCM".into(),
            tls: "TLSv1.3".into(),
            software: String::new(),
            path_mtu: None,
            since: 0,
            last_heard: 0,
            received_packets: 0,
            received_bytes,
            sent_packets: 0,
            sent_bytes: 0,
        };
        // Two devices by one certificate: twice the same series would spoil the whole page.
        report.peers = vec![peer("attic", 17), peer("phone", 1), peer("phone", 2)];
        let (_snapshot, snapshot) = watch::channel(Snapshot { local: status, peer: None });
        let (_tunnel, tunnel) = watch::channel(report);
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &registry(snapshot, tunnel)).unwrap();
        assert!(page.contains("\ncloudathome_tunnel_mtu_bytes{host=\"vps\"} 1436\n"), "{page}");
        let path = r#"{host="vps",device="virtio-tso",udp_send="segmented",udp_receive="single"} 1"#;
        assert!(page.contains(&format!("\ncloudathome_tunnel_data_path_info{path}\n")), "{page}");
        assert!(page.contains("\ncloudathome_tunnel_path_calls_total{host=\"vps\",step=\"udp_send\"} 3\n"), "{page}");
        for line in [
            r#"cloudathome_tunnel_drops_total{host="vps",reason="replay"} 9"#,
            r#"cloudathome_tunnel_peer_received_bytes_total{host="vps",peer="attic"} 17"#,
            r#"cloudathome_tunnel_peer_received_bytes_total{host="vps",peer="phone"} 1"#,
            r#"cloudathome_tunnel_peer_info{host="vps",peer="attic",transport="udp",cipher="AES-256-GCM",tls="TLSv1.3"} 1"#,
            r#"cloudathome_control_round_trip_seconds{host="vps"} 0.02134"#,
            r#"cloudathome_control_clock_ahead_seconds{host="vps"} -0.25"#,
        ] {
            assert!(page.contains(&format!("\n{line}\n")), "{line} is missing in {page}");
        }
        assert_eq!(page.matches("peer=\"phone\"").count(), 3, "{page}");
        assert!(
            page.contains("\ncloudathome_tunnel_path_packets_total{host=\"vps\",step=\"device_read\"} 90\n"),
            "{page}"
        );
    }
}
