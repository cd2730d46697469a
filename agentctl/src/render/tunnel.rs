//! The tunnel in detail as text for people.

use std::time::{Duration, SystemTime};

use model::{DataPath, TunnelPeer, TunnelReport, TunnelState};

use super::{Colour, Table, Tone, clean, human_bytes, human_time};
use crate::verdict::tunnel_word;

/// The whole text. `now` tells how long ago things were.
pub(crate) fn render(report: &TunnelReport, colour: Colour, now: SystemTime) -> String {
    let status = &report.status;
    let tone = if status.state == TunnelState::Connected { Tone::Good } else { Tone::Bad };
    let mut headline = format!("The tunnel is {}", tunnel_word(status.state));
    if let Some(address) = status.address {
        headline.push_str(&format!(": {address} on {}, MTU {}", report.device, report.mtu));
    }
    if let Some(reason) = &status.reason {
        headline.push_str(&format!(" ({reason})"));
    }
    let mut text = colour.paint(tone, &clean(&headline));
    text.push('\n');

    let mut section = |title: &str, table: Table| {
        text.push_str(&format!("\n{}\n", colour.paint(Tone::Strong, title)));
        table.write(colour, &mut text);
    };
    if !report.peers.is_empty() {
        section("Peers", peers(&report.peers, now));
    }
    section("Data path since start", data_path(&report.data_path));
    if let Some(table) = failures(report) {
        section("Dropped or refused since start", table);
    }
    text
}

fn peers(peers: &[TunnelPeer], now: SystemTime) -> Table {
    let mut table = Table::default();
    table.row(heads([
        "NAME",
        "ADDRESS",
        "REMOTE",
        "PATH MTU",
        "CIPHER",
        "SOFTWARE",
        "CONNECTED",
        "HEARD",
        "IN",
        "OUT",
    ]));
    for peer in peers {
        let addresses = [peer.address.map(|a| a.to_string()), peer.address_ipv6.map(|a| a.to_string())];
        let addresses: Vec<_> = addresses.into_iter().flatten().collect();
        table.row(plain([
            peer.name.clone(),
            addresses.join(" "),
            format!("{}/{}", peer.remote, peer.transport),
            peer.path_mtu.map(|mtu| mtu.to_string()).unwrap_or_default(),
            format!("{}, {}", peer.cipher, peer.tls),
            peer.software.clone(),
            format!("for {}", ago(peer.since, now)),
            format!("{} ago", ago(peer.last_heard, now)),
            carried(peer.received_bytes, peer.received_packets),
            carried(peer.sent_bytes, peer.sent_packets),
        ]));
    }
    table
}

fn data_path(path: &DataPath) -> Table {
    let mut table = Table::default();
    table.row(heads(["STEP", "BY", "CALLS", "PACKETS", "A CALL"]));
    for ((_, step), name) in path.steps().into_iter().zip(["reading the link", "writing to it", "sending", "receiving"])
    {
        let each =
            if step.calls == 0 { String::new() } else { format!("{:.1}", step.packets as f64 / step.calls as f64) };
        table.row(plain([name.to_owned(), step.by.clone(), step.calls.to_string(), step.packets.to_string(), each]));
    }
    table
}

/// None where nothing failed.
fn failures(report: &TunnelReport) -> Option<Table> {
    let drops = report.drops.iter().map(|(reason, count)| (reason.replace('_', " "), *count));
    let handshakes = ("failed handshakes".to_owned(), report.status.handshakes_failed);
    let failures: Vec<_> = [handshakes].into_iter().chain(drops).filter(|&(_, count)| count > 0).collect();
    let mut table = Table::default();
    for (what, count) in &failures {
        table.row(plain([what.clone(), count.to_string()]));
    }
    (!failures.is_empty()).then_some(table)
}

fn heads<const N: usize>(names: [&str; N]) -> [(Tone, String); N] {
    plain(names.map(str::to_owned))
}

/// Cells without colour; what there is nothing to say of is a dash.
fn plain<const N: usize>(cells: [String; N]) -> [(Tone, String); N] {
    cells.map(|cell| (Tone::Plain, if cell.is_empty() { "-".to_owned() } else { cell }))
}

fn carried(bytes: u64, packets: u64) -> String {
    format!("{}, {packets} packets", human_bytes(bytes))
}

/// How long before `now` a Unix time was. A clock may have been set meanwhile.
fn ago(unix_seconds: u64, now: SystemTime) -> String {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    human_time(now.saturating_sub(Duration::from_secs(unix_seconds)).as_secs())
}

#[cfg(test)]
mod tests {
    use model::{PathStep, TunnelStatus};

    use super::*;

    fn fake_tunnel() -> TunnelReport {
        let step = |by: &str, calls, packets| PathStep { by: by.into(), calls, packets };
        TunnelReport {
            status: TunnelStatus {
                state: TunnelState::Connected,
                address: Some("10.86.0.1".parse().unwrap()),
                handshakes_failed: 2,
                ..TunnelStatus::default()
            },
            device: "cah0".into(),
            mtu: 1420,
            data_path: DataPath {
                device_read: step("virtio-uso", 100, 4_500),
                device_write: step("virtio-uso", 0, 0),
                udp_send: step("segmented", 101, 4_500),
                udp_receive: step("single", 7, 7),
            },
            drops: [("replay".to_owned(), 3), ("not_ip".to_owned(), 0), ("unknown_peer".to_owned(), 40)].into(),
            peers: vec![TunnelPeer {
                name: "attic".into(),
                address: Some("10.86.0.2".parse().unwrap()),
                address_ipv6: None,
                remote: "203.0.113.9:41234".parse().unwrap(),
                transport: "udp".into(),
                cipher: "AES-256-GCM".into(),
                tls: "TLSv1.3".into(),
                software: String::new(),
                path_mtu: Some(1472),
                since: 1_000,
                last_heard: 1_089,
                received_packets: 7,
                received_bytes: 512,
                sent_packets: 4_500,
                sent_bytes: 12_900_000,
            }],
            ..TunnelReport::default()
        }
    }

    #[test]
    fn peers_the_path_and_what_failed() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_090);
        assert_eq!(
            render(&fake_tunnel(), Colour::when(false), now),
            "\
The tunnel is connected: 10.86.0.1 on cah0, MTU 1420

Peers
  NAME   ADDRESS    REMOTE                 PATH MTU  CIPHER                SOFTWARE  CONNECTED       HEARD    IN                OUT
  attic  10.86.0.2  203.0.113.9:41234/udp  1472      AES-256-GCM, TLSv1.3  -         for 1 min 30 s  1 s ago  512 B, 7 packets  12.3 MiB, 4500 packets

Data path since start
  STEP              BY          CALLS  PACKETS  A CALL
  reading the link  virtio-uso  100    4500     45.0
  writing to it     virtio-uso  0      0        -
  sending           segmented   101    4500     44.6
  receiving         single      7      7        1.0

Dropped or refused since start
  failed handshakes  2
  replay             3
  unknown peer       40
"
        );
    }

    #[test]
    fn a_tunnel_without_peers_says_why() {
        let report = TunnelReport {
            status: TunnelStatus {
                state: TunnelState::Connecting,
                address: Some("10.86.0.2".parse().unwrap()),
                reason: Some("no answer".into()),
                ..TunnelStatus::default()
            },
            device: "cah0".into(),
            mtu: 1420,
            ..TunnelReport::default()
        };
        let text = render(&report, Colour::when(false), SystemTime::UNIX_EPOCH);
        let start = "The tunnel is connecting: 10.86.0.2 on cah0, MTU 1420 (no answer)\n\nData path since start\n";
        assert!(text.starts_with(start) && !text.contains("Peers"), "{text}");
    }
}
