use std::net::Ipv4Addr;

use model::{ControlStatus, Generation, Role, TunnelStatus};

use super::*;
use crate::verdict::judge;

/// A made-up pair of hosts, asked on the edge, with nothing wrong.
pub(crate) fn fake_report() -> Report {
    let host = |name: &str, role, address: u8, other: (&str, u8)| HostStatus {
        host: name.parse().unwrap(),
        role,
        version: "0.1.0".into(),
        boot_id: "0123456789abcdef".into(),
        uptime_seconds: 11_520,
        generation: Generation(4),
        tunnel: TunnelStatus {
            state: TunnelState::Connected,
            address: Some(Ipv4Addr::new(10, 86, 0, address)),
            peer_address: Some(Ipv4Addr::new(10, 86, 0, other.1)),
            remote: Some("203.0.113.9:41234".parse().unwrap()),
            transport: Some("udp".into()),
            cipher: Some("AES-256-GCM".into()),
            data_path: Some("virtio-uso, UDP segmented".into()),
            received_bytes: 12_900_000,
            sent_bytes: 512,
            peers: 1,
            ..TunnelStatus::default()
        },
        control: ControlStatus {
            connected: true,
            peer: Some(other.0.parse().unwrap()),
            reason: None,
            last_heard_seconds: Some(1),
            round_trip_micros: Some(21_340),
            clock_ahead_millis: Some(-8_000),
        },
        containers: vec![],
        services: vec![],
        outside: vec![],
        identity: None,
    };
    let container = |name: &str, image: &str| ContainerStatus {
        name: name.into(),
        service: name.parse().unwrap(),
        image: image.into(),
        id: "0123456789ab".into(),
        state: ContainerState::Running,
        started_at: 1_000,
        reason: None,
    };
    let nextcloud = ServiceStatus {
        name: "nextcloud".parse().unwrap(),
        host: "attic".parse().unwrap(),
        hostname: Some("cloud.example.test".parse().unwrap()),
        upstream: Some("10.86.0.2:8080".parse().unwrap()),
        health: Health::Healthy,
        serving: Serving::Yes,
        since: None,
    };
    let caddy = ServiceStatus {
        name: "caddy".parse().unwrap(),
        host: "vps".parse().unwrap(),
        hostname: None,
        upstream: None,
        health: Health::Healthy,
        serving: Serving::Unknown,
        since: None,
    };
    let mut local = host("vps", Role::Edge, 1, ("attic", 2));
    local.containers = vec![container("caddy", "caddy:2")];
    local.services = vec![caddy, nextcloud.clone()];
    let mut peer = host("attic", Role::Home, 2, ("vps", 1));
    peer.containers = vec![container("nextcloud", "nextcloud:apache")];
    peer.services = vec![nextcloud];
    Report { local, peer: Some(peer), peer_age_seconds: Some(1) }
}

fn plain(report: &Report) -> String {
    render(report, &judge(report), Colour::when(false), SystemTime::UNIX_EPOCH + Duration::from_secs(1_090))
}

#[test]
fn a_healthy_pair() {
    assert_eq!(
        plain(&fake_report()),
        "\
cloud.example.test is serving

Services
  STATE    SINCE  HEALTH   SERVICE    HOST   NAME                UPSTREAM
  serving  -      healthy  nextcloud  attic  cloud.example.test  10.86.0.2:8080
  -        -      healthy  caddy      vps    -                   -

Edge vps (this host): up 3 h 12 min, version 0.1.0, configuration 4
  connected  tunnel           10.86.0.1 to 10.86.0.2, peer at 203.0.113.9:41234 over UDP, AES-256-GCM, virtio-uso, UDP segmented, 12.3 MiB in, 512 B out
  connected  control channel  with attic, heard 1 s ago, round trip 21.3 ms, its clock is 8 s behind
  running    container caddy  caddy:2, 0123456789ab, for 1 min 30 s

Home attic: up 3 h 12 min, version 0.1.0, configuration 4
  connected  tunnel               10.86.0.2 to 10.86.0.1, peer at 203.0.113.9:41234 over UDP, AES-256-GCM, virtio-uso, UDP segmented, 12.3 MiB in, 512 B out
  connected  control channel      with vps, heard 1 s ago, round trip 21.3 ms, its clock is 8 s behind
  running    container nextcloud  nextcloud:apache, 0123456789ab, for 1 min 30 s
"
    );
}

#[test]
fn what_is_wrong_comes_with_its_reason_and_an_old_report_with_its_age() {
    let mut report = fake_report();
    report.peer_age_seconds = Some(12);
    let local = &mut report.local;
    local.services[1].serving = Serving::No { reason: "answered 503".into() };
    local.services[1].since = Some(1_000);
    local.services[1].health = Health::Unknown;
    local.tunnel = TunnelStatus {
        state: TunnelState::Listening,
        reason: Some("home does not answer".into()),
        address: Some(Ipv4Addr::new(10, 86, 0, 1)),
        handshakes_failed: 3,
        packets_dropped: 40,
        ..TunnelStatus::default()
    };
    local.control = ControlStatus { reason: Some("silent for 5 s".into()), ..ControlStatus::default() };
    local.containers[0].reason = Some("restarted twice".into());
    let text = plain(&report);
    let (until_home, home) = text.split_once("\nHome").unwrap();
    assert_eq!(
        until_home,
        "\
cloud.example.test is NOT serving: answered 503; the tunnel of vps is listening: home does not answer

Services
  STATE  SINCE       HEALTH   SERVICE    HOST   NAME                UPSTREAM
  down   1 min 30 s  unknown  nextcloud  attic  cloud.example.test  10.86.0.2:8080
      down: answered 503
  -      -           healthy  caddy      vps    -                   -

Edge vps (this host): up 3 h 12 min, version 0.1.0, configuration 4
  listening  tunnel           10.86.0.1, 0 B in, 0 B out
      home does not answer
      since start: failed handshakes 3, dropped datagrams 40
  down       control channel
      silent for 5 s
  running    container caddy  caddy:2, 0123456789ab, for 1 min 30 s
      restarted twice
"
    );
    assert!(home.starts_with(" attic (as it was: last report 12 s ago): up"), "{home}");
}

#[test]
fn without_a_peer_it_says_so() {
    let mut report = fake_report();
    report.peer = None;
    report.peer_age_seconds = None;
    assert!(plain(&report).ends_with("\nThe opposite host has not reported yet.\n"));
}

#[test]
fn colours_only_where_wanted() {
    let report = fake_report();
    assert!(!plain(&report).contains('\x1b'));
    let coloured = render(&report, &judge(&report), Colour::when(true), SystemTime::UNIX_EPOCH);
    assert!(coloured.starts_with("\x1b[32mcloud.example.test is serving\x1b[0m\n"), "{coloured:?}");
}

#[test]
fn text_from_elsewhere_cannot_steer_the_terminal() {
    let mut report = fake_report();
    let reason = "gone\x1b]0;owned\x07\nEdge vps: all well\u{202e}".to_owned();
    report.local.services[1].serving = Serving::No { reason: reason.clone() };
    let peer = report.peer.as_mut().unwrap();
    peer.version.clone_from(&reason);
    peer.containers[0].reason = Some(reason.clone());
    peer.tunnel.cipher = Some(reason);
    let text = plain(&report);
    assert!(!text.contains(|c: char| (c.is_control() && c != '\n') || c == '\u{202e}'), "{text:?}");
    assert!(!text.contains("\nEdge vps: all well"), "{text}");
}

#[test]
fn sizes_and_spans_are_readable() {
    let sizes = [
        (0, "0 B"),
        (1_023, "1023 B"),
        (1_024, "1.0 KiB"),
        (1_048_575, "1.0 MiB"),
        (200_000_000, "190.7 MiB"),
        (u64::MAX, "16.0 EiB"),
    ];
    for (bytes, text) in sizes {
        assert_eq!(human_bytes(bytes), text);
    }
    let spans = [(0, "0 s"), (59, "59 s"), (60, "1 min 0 s"), (3_600, "1 h 0 min"), (90_000, "1 d 1 h")];
    for (seconds, text) in spans {
        assert_eq!(human_time(seconds), text);
    }
}
