//! The tunnel in detail.

use model::{DataPath, PathStep, TunnelPeer, TunnelReport};

use super::{InvalidMessage, MAX_ITEMS, bounded, invalid, list, missing, parse, parse_optional};
use crate::v1;

impl From<TunnelReport> for v1::TunnelReport {
    fn from(report: TunnelReport) -> Self {
        Self {
            status: Some(report.status.into()),
            device: report.device,
            mtu: report.mtu,
            data_path: Some(report.data_path.into()),
            drops: report.drops.into_iter().collect(),
            peers: report.peers.into_iter().map(Into::into).collect(),
            received_packets: report.received_packets,
            sent_packets: report.sent_packets,
            handshakes_completed: report.handshakes_completed,
            renewals_completed: report.renewals_completed,
            renewals_failed: report.renewals_failed,
            crl_next_update: report.crl_next_update,
        }
    }
}

impl TryFrom<v1::TunnelReport> for TunnelReport {
    type Error = InvalidMessage;

    fn try_from(wire: v1::TunnelReport) -> Result<Self, InvalidMessage> {
        if wire.drops.len() > MAX_ITEMS {
            return Err(invalid("TunnelReport.drops", "more than 256 items"));
        }
        Ok(Self {
            status: wire.status.ok_or_else(|| missing("TunnelReport.status"))?.try_into()?,
            device: bounded(&wire.device),
            mtu: wire.mtu,
            data_path: wire.data_path.map(Into::into).unwrap_or_default(),
            drops: wire.drops.into_iter().map(|(reason, count)| (bounded(&reason), count)).collect(),
            peers: list("TunnelReport.peers", wire.peers)?,
            received_packets: wire.received_packets,
            sent_packets: wire.sent_packets,
            handshakes_completed: wire.handshakes_completed,
            renewals_completed: wire.renewals_completed,
            renewals_failed: wire.renewals_failed,
            crl_next_update: wire.crl_next_update,
        })
    }
}

impl From<DataPath> for v1::DataPath {
    fn from(path: DataPath) -> Self {
        Self {
            device_read: Some(path.device_read.into()),
            device_write: Some(path.device_write.into()),
            udp_send: Some(path.udp_send.into()),
            udp_receive: Some(path.udp_receive.into()),
        }
    }
}

impl From<v1::DataPath> for DataPath {
    fn from(wire: v1::DataPath) -> Self {
        let step = |step: Option<v1::PathStep>| step.map(Into::into).unwrap_or_default();
        Self {
            device_read: step(wire.device_read),
            device_write: step(wire.device_write),
            udp_send: step(wire.udp_send),
            udp_receive: step(wire.udp_receive),
        }
    }
}

impl From<PathStep> for v1::PathStep {
    fn from(step: PathStep) -> Self {
        Self { by: step.by, calls: step.calls, packets: step.packets }
    }
}

impl From<v1::PathStep> for PathStep {
    fn from(wire: v1::PathStep) -> Self {
        Self { by: bounded(&wire.by), calls: wire.calls, packets: wire.packets }
    }
}

impl From<TunnelPeer> for v1::TunnelPeer {
    fn from(peer: TunnelPeer) -> Self {
        Self {
            name: peer.name,
            address: peer.address.map(|address| address.to_string()),
            address_ipv6: peer.address_ipv6.map(|address| address.to_string()),
            remote: peer.remote.to_string(),
            transport: peer.transport,
            cipher: peer.cipher,
            tls: peer.tls,
            software: peer.software,
            since: peer.since,
            last_heard: peer.last_heard,
            received_packets: peer.received_packets,
            received_bytes: peer.received_bytes,
            sent_packets: peer.sent_packets,
            sent_bytes: peer.sent_bytes,
            path_mtu: peer.path_mtu,
        }
    }
}

impl TryFrom<v1::TunnelPeer> for TunnelPeer {
    type Error = InvalidMessage;

    fn try_from(wire: v1::TunnelPeer) -> Result<Self, InvalidMessage> {
        Ok(Self {
            name: bounded(&wire.name),
            address: parse_optional("TunnelPeer.address", wire.address)?,
            address_ipv6: parse_optional("TunnelPeer.address_ipv6", wire.address_ipv6)?,
            remote: parse("TunnelPeer.remote", &wire.remote)?,
            transport: bounded(&wire.transport),
            cipher: bounded(&wire.cipher),
            tls: bounded(&wire.tls),
            software: bounded(&wire.software),
            since: wire.since,
            last_heard: wire.last_heard,
            received_packets: wire.received_packets,
            received_bytes: wire.received_bytes,
            sent_packets: wire.sent_packets,
            sent_bytes: wire.sent_bytes,
            path_mtu: wire.path_mtu,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> TunnelReport {
        let step = |by: &str| PathStep { by: by.into(), calls: 3, packets: 130 };
        TunnelReport {
            device: "cah0".into(),
            mtu: 1420,
            data_path: DataPath {
                device_read: step("virtio-uso"),
                device_write: step("plain"),
                udp_send: step("segmented"),
                udp_receive: step("single"),
            },
            received_packets: 11,
            sent_packets: 12,
            handshakes_completed: 13,
            renewals_completed: 14,
            renewals_failed: 15,
            crl_next_update: Some(1_800_000_000),
            drops: [("replay".to_owned(), 7)].into(),
            peers: vec![TunnelPeer {
                name: "phone".into(),
                address: Some("10.86.0.3".parse().unwrap()),
                address_ipv6: Some("fd00::3".parse().unwrap()),
                remote: "[2001:db8::9]:41234".parse().unwrap(),
                transport: "udp".into(),
                cipher: "AES-256-GCM".into(),
                tls: "TLSv1.3".into(),
                software: "2.6.14".into(),
                path_mtu: Some(1492),
                since: 1,
                last_heard: 2,
                received_packets: 3,
                received_bytes: 4,
                sent_packets: 5,
                sent_bytes: 6,
            }],
            ..TunnelReport::default()
        }
    }

    #[test]
    fn a_report_survives_the_wire() {
        assert_eq!(TunnelReport::try_from(v1::TunnelReport::from(report())).unwrap(), report());
    }

    #[test]
    fn a_wrong_field_is_named() {
        let mut wire = v1::TunnelReport::from(report());
        wire.peers[0].remote = "nowhere".into();
        assert_eq!(TunnelReport::try_from(wire).unwrap_err().field, "TunnelPeer.remote");
        let mut wire = v1::TunnelReport::from(report());
        wire.drops = (0..=MAX_ITEMS).map(|number| (number.to_string(), 1)).collect();
        assert_eq!(TunnelReport::try_from(wire).unwrap_err().field, "TunnelReport.drops");
    }
}
