//! Metrics of the tunnel.

use std::collections::BTreeSet;

use daemon::exposition::{Family, Labels};
use model::{HostStatus, TunnelPeer, TunnelReport, TunnelState};

use super::{family, labels, one};

pub(super) fn families(status: &HostStatus, report: &TunnelReport) -> Vec<Family> {
    let mut families = whole(status, report);
    families.extend(peers(status, report));
    families.extend(data_path(status, report));
    families
}

fn whole(status: &HostStatus, report: &TunnelReport) -> Vec<Family> {
    let tunnel = &status.tunnel;
    let connected = tunnel.state == TunnelState::Connected;
    let count = |name, help, count: u64| one(name, help, status, count as f64);
    let path = tunnel.transport.as_ref().zip(tunnel.remote).filter(|_| connected).map(|(transport, remote)| {
        let family = if remote.is_ipv4() { "ipv4" } else { "ipv6" };
        (labels(status, [("transport", transport.clone()), ("family", family.to_owned())]), 1.0)
    });
    let drops =
        report.drops.iter().map(|(reason, count)| (labels(status, [("reason", reason.clone())]), *count as f64));
    vec![
        one("cloudathome_tunnel_connected", "1 while the opposite agent is connected", status, f64::from(connected)),
        one("cloudathome_tunnel_peers", "Connected peers", status, f64::from(tunnel.peers)),
        family("cloudathome_tunnel_path_info", "How the opposite agent is reached", path),
        count("cloudathome_tunnel_received_bytes_total", "Inner packets from peers", tunnel.received_bytes),
        count("cloudathome_tunnel_sent_bytes_total", "Inner packets to peers", tunnel.sent_bytes),
        count("cloudathome_tunnel_received_packets_total", "Inner packets from peers", report.received_packets),
        count("cloudathome_tunnel_sent_packets_total", "Inner packets to peers", report.sent_packets),
        family("cloudathome_tunnel_drops_total", "Dropped packets by reason", drops),
        count("cloudathome_tunnel_handshakes_total", "Sessions that came up", report.handshakes_completed),
        count("cloudathome_tunnel_handshakes_failed_total", "Refused or broken off", tunnel.handshakes_failed),
        count("cloudathome_tunnel_rekeys_total", "New keys of connected peers", report.renewals_completed),
        count(
            "cloudathome_tunnel_rekeys_failed_total",
            "New keys of connected peers that did not come to be",
            report.renewals_failed,
        ),
        one(
            "cloudathome_crl_expiry_timestamp_seconds",
            "When the list of revoked certificates ends, Unix time",
            status,
            report.crl_next_update.map(|seconds| seconds as f64),
        ),
    ]
}

fn peers(status: &HostStatus, report: &TunnelReport) -> Vec<Family> {
    let of = |peer: &TunnelPeer| labels(status, [("peer", peer.name.clone())]);
    let each = |name, help, value: fn(&TunnelPeer) -> Option<u64>| {
        family(name, help, by_name(report).filter_map(|peer| Some((of(peer), value(peer)? as f64))))
    };
    let about = |peer: &TunnelPeer| -> Labels {
        let about = [("transport", &peer.transport), ("cipher", &peer.cipher), ("tls", &peer.tls)];
        of(peer).into_iter().chain(about.map(|(label, value)| (label, value.clone()))).collect()
    };
    vec![
        family("cloudathome_tunnel_peer_info", "A connected peer", by_name(report).map(|peer| (about(peer), 1.0))),
        each("cloudathome_tunnel_peer_received_bytes_total", "Inner packets from a peer", |p| Some(p.received_bytes)),
        each("cloudathome_tunnel_peer_sent_bytes_total", "Inner packets to a peer", |p| Some(p.sent_bytes)),
        each("cloudathome_tunnel_peer_received_packets_total", "Inner packets from a peer", |p| {
            Some(p.received_packets)
        }),
        each("cloudathome_tunnel_peer_sent_packets_total", "Inner packets to a peer", |p| Some(p.sent_packets)),
        each("cloudathome_tunnel_path_mtu_bytes", "Largest packet that the path carries", |p| {
            p.path_mtu.map(Into::into)
        }),
    ]
}

fn data_path(status: &HostStatus, report: &TunnelReport) -> Vec<Family> {
    let path = &report.data_path;
    let by = [("device", &path.device_read), ("udp_send", &path.udp_send), ("udp_receive", &path.udp_receive)];
    let by = labels(status, by.map(|(label, step)| (label, step.by.clone())));
    let step = |name: &str| labels(status, [("step", name.to_owned())]);
    let mtu = (report.mtu > 0).then(|| f64::from(report.mtu));
    vec![
        one("cloudathome_tunnel_mtu_bytes", "Largest inner packet", status, mtu),
        family("cloudathome_tunnel_data_path_info", "Which of the kernel's offloads packets go by", [(by, 1.0)]),
        family(
            "cloudathome_tunnel_path_calls_total",
            "System calls of the data path",
            path.steps().map(|(name, counted)| (step(name), counted.calls as f64)),
        ),
        family(
            "cloudathome_tunnel_path_packets_total",
            "Packets that these calls carried",
            path.steps().map(|(name, counted)| (step(name), counted.packets as f64)),
        ),
    ]
}

/// The peers, each name once: where several connect by one certificate, a label can't tell them apart.
fn by_name(report: &TunnelReport) -> impl Iterator<Item = &TunnelPeer> {
    let mut known = BTreeSet::new();
    report.peers.iter().filter(move |peer| known.insert(&peer.name))
}
