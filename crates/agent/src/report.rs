//! The tunnel in detail, from what the tunnel says of itself.

use std::time::{SystemTime, UNIX_EPOCH};

use model::{DataPath, PathStep, TunnelPeer, TunnelReport, TunnelStatus};
use tunnel::{IoCount, PeerSnapshot, Snapshot};

/// The report of the tunnel over the link `device` whose MTU is `mtu`.
pub(crate) fn report(status: TunnelStatus, device: &str, mtu: u16, snapshot: &Snapshot) -> TunnelReport {
    TunnelReport {
        status,
        device: device.to_owned(),
        mtu: mtu.into(),
        data_path: data_path(snapshot),
        received_packets: snapshot.traffic.received_packets,
        sent_packets: snapshot.traffic.sent_packets,
        handshakes_completed: snapshot.handshakes_completed,
        renewals_completed: snapshot.renewals_completed,
        renewals_failed: snapshot.renewals_failed,
        crl_next_update: snapshot.crl_next_update.map(unix_seconds),
        drops: snapshot.drops.iter().map(|(reason, count)| (reason.to_string(), count)).collect(),
        peers: snapshot.peers.iter().map(peer).collect(),
    }
}

fn data_path(snapshot: &Snapshot) -> DataPath {
    let (path, io) = (snapshot.data_path, snapshot.io);
    let step = |by: &str, count: IoCount| PathStep { by: by.to_owned(), calls: count.calls, packets: count.packets };
    DataPath {
        device_read: step(path.device.as_str(), io.device_read),
        device_write: step(path.device.as_str(), io.device_write),
        udp_send: step(path.udp_send.as_str(), io.udp_send),
        udp_receive: step(path.udp_receive.as_str(), io.udp_receive),
    }
}

fn peer(snapshot: &PeerSnapshot) -> TunnelPeer {
    let PeerSnapshot { peer, since, last_heard, traffic, path_mtu } = snapshot;
    TunnelPeer {
        name: peer.identity.common_name.clone(),
        address: peer.address,
        address_ipv6: peer.address_ipv6,
        remote: peer.remote.canonical_address(),
        transport: peer.remote.transport.to_string(),
        cipher: peer.cipher.to_string(),
        tls: peer.tls_version.clone(),
        software: peer.software.clone(),
        path_mtu: path_mtu.map(|path| path.outside.into()),
        since: unix_seconds(*since),
        last_heard: unix_seconds(*last_heard),
        received_packets: traffic.received_packets,
        received_bytes: traffic.received_bytes,
        sent_packets: traffic.sent_packets,
        sent_bytes: traffic.sent_bytes,
    }
}

/// 0 for what is before 1970.
fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
