use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use daemon::exposition::Format;
use model::{
    ContainerStatus, Health, IdentityStatus, OutsideProof, PathStep, Role, ServiceStatus, Serving, TunnelPeer,
    TunnelState, TunnelStatus,
};
use supervisor::Passes;

use super::*;
use crate::Myself;

fn report() -> TunnelReport {
    let step = |by: &str, calls| PathStep { by: by.into(), calls, packets: 45 * calls };
    let peer = |name: &str, received_bytes| TunnelPeer {
        name: name.into(),
        address: None,
        address_ipv6: None,
        remote: "203.0.113.9:1194".parse().unwrap(),
        transport: "udp".into(),
        cipher: "AES-256-GCM".into(),
        tls: "TLSv1.3".into(),
        software: String::new(),
        path_mtu: (name == "attic").then_some(1472),
        since: 0,
        last_heard: 0,
        received_packets: 3,
        received_bytes,
        sent_packets: 0,
        sent_bytes: 0,
    };
    let mut report = TunnelReport {
        mtu: 1436,
        received_packets: 20,
        handshakes_completed: 4,
        renewals_completed: 5,
        renewals_failed: 1,
        crl_next_update: Some(1_800_000_000),
        drops: [("replay".to_owned(), 9)].into(),
        // Two devices by one certificate: twice the same series would spoil the whole page.
        peers: vec![peer("attic", 17), peer("phone", 1), peer("phone", 2)],
        ..TunnelReport::default()
    };
    report.data_path.device_read = step("virtio-tso", 2);
    report.data_path.udp_send = step("segmented", 3);
    report.data_path.udp_receive = step("single", 0);
    report
}

fn status() -> HostStatus {
    let mut status = Myself::new("vps".parse().unwrap(), Role::Edge).status();
    status.control.connected = true;
    status.control.last_heard_seconds = Some(1);
    status.control.round_trip_micros = Some(21_340);
    status.control.clock_ahead_millis = Some(-250);
    status.tunnel = TunnelStatus {
        state: TunnelState::Connected,
        remote: Some("[2001:db8::9]:1194".parse().unwrap()),
        transport: Some("tcp".into()),
        ..TunnelStatus::default()
    };
    let container = |name: &str| ContainerStatus {
        name: name.into(),
        service: "nextcloud".parse().unwrap(),
        image: "nextcloud:33".into(),
        id: "0123456789ab".into(),
        state: model::ContainerState::Running,
        started_at: 0,
        reason: None,
    };
    status.containers = vec![container("nextcloud"), container("nextcloud-db")];
    let service = |name: &str, hostname: Option<&str>, health| ServiceStatus {
        name: name.parse().unwrap(),
        host: "attic".parse().unwrap(),
        hostname: hostname.map(|hostname| hostname.parse().unwrap()),
        upstream: None,
        health,
        serving: Serving::Yes,
        since: None,
    };
    status.services = vec![
        service("nextcloud", Some("cloud.example.com"), Health::Degraded { reason: "setup".into() }),
        service("caddy", None, Health::Healthy),
    ];
    status.identity = Some(IdentityStatus { trouble: Some("no answer".into()), ..IdentityStatus::default() });
    let outside = |hostname: &str, failure| OutsideProof { hostname: hostname.parse().unwrap(), failure };
    status.outside = vec![outside("cloud.example.com", None), outside("example.com", Some("no address".into()))];
    status
}

/// Every state is told as 1 under its own word.
#[test]
fn there_is_a_series_for_each_state() {
    let reason = String::new();
    let health = [
        Health::Unknown,
        Health::Starting { reason: reason.clone() },
        Health::Healthy,
        Health::Degraded { reason: reason.clone() },
        Health::Unhealthy { reason: reason.clone() },
        Health::Stopped { reason: reason.clone() },
    ];
    let serving = [
        Serving::Unknown,
        Serving::Starting { reason: reason.clone() },
        Serving::Yes,
        Serving::Degraded { reason: reason.clone() },
        Serving::No { reason: reason.clone() },
        Serving::Stopped { reason },
    ];
    for (health, serving) in health.into_iter().zip(serving) {
        let mut status = status();
        status.services.truncate(1);
        (status.services[0].health, status.services[0].serving) = (health, serving);
        for family in services::families(&status, &supervision()).iter().take(2) {
            let set: Vec<_> = family.samples.iter().filter(|(_, value)| *value == 1.0).collect();
            assert_eq!(set.len(), 1, "{family:?}");
        }
    }
}

fn watched<T>(value: T) -> watch::Receiver<T> {
    watch::channel(value).1
}

fn supervision() -> Supervision {
    Supervision {
        restarts: watched([("nextcloud-db".to_owned(), 2), ("gone".to_owned(), 7)].into()),
        passes: watched(Passes { count: 30, failures: 2, last: Duration::from_millis(40) }),
        latencies: watched([("nextcloud".parse().unwrap(), Duration::from_millis(250))].into()),
    }
}

fn families() -> Vec<Family> {
    let ends = UNIX_EPOCH + Duration::from_secs(1_790_000_000);
    let proof = NameProof { took: Some(Duration::from_millis(125)), certificate_ends: Some(ends) };
    let failed = NameProof { took: None, certificate_ends: Some(ends) };
    let name = |name: &str| name.parse().unwrap();
    let metrics = Metrics {
        snapshot: watched(Snapshot { local: status(), peer: None }),
        tunnel: watched(report()),
        supervision: supervision(),
        proofs: Some(watched([(name("cloud.example.com"), proof), (name("example.com"), failed)].into())),
        disks: watched(vec![Disk { path: "/var/lib/docker".into(), free: 5 << 30, size: 40 << 30, full: false }]),
        ends: watch::channel(Ends { certificate: ends, crl: None }).1,
    };
    metrics.families()
}

#[test]
fn everything_is_told() {
    let page = Format::Classic.page(&families());
    for line in [
        r#"cloudathome_tunnel_mtu_bytes{host="vps"} 1436"#,
        r#"cloudathome_tunnel_data_path_info{host="vps",device="virtio-tso",udp_send="segmented",udp_receive="single"} 1"#,
        r#"cloudathome_tunnel_path_calls_total{host="vps",step="udp_send"} 3"#,
        r#"cloudathome_tunnel_path_packets_total{host="vps",step="device_read"} 90"#,
        r#"cloudathome_tunnel_drops_total{host="vps",reason="replay"} 9"#,
        r#"cloudathome_tunnel_path_info{host="vps",transport="tcp",family="ipv6"} 1"#,
        r#"cloudathome_tunnel_received_packets_total{host="vps"} 20"#,
        r#"cloudathome_tunnel_handshakes_total{host="vps"} 4"#,
        r#"cloudathome_tunnel_rekeys_total{host="vps"} 5"#,
        r#"cloudathome_tunnel_rekeys_failed_total{host="vps"} 1"#,
        r#"cloudathome_crl_expiry_timestamp_seconds{host="vps"} 1800000000"#,
        r#"cloudathome_tunnel_peer_received_bytes_total{host="vps",peer="attic"} 17"#,
        r#"cloudathome_tunnel_peer_received_bytes_total{host="vps",peer="phone"} 1"#,
        r#"cloudathome_tunnel_peer_received_packets_total{host="vps",peer="attic"} 3"#,
        r#"cloudathome_tunnel_path_mtu_bytes{host="vps",peer="attic"} 1472"#,
        r#"cloudathome_tunnel_peer_info{host="vps",peer="attic",transport="udp",cipher="AES-256-GCM",tls="TLSv1.3"} 1"#,
        r#"cloudathome_control_round_trip_seconds{host="vps"} 0.02134"#,
        r#"cloudathome_control_clock_ahead_seconds{host="vps"} -0.25"#,
        r#"cloudathome_service_health{host="attic",service="nextcloud",hostname="cloud.example.com",state="degraded"} 1"#,
        r#"cloudathome_service_health{host="attic",service="nextcloud",hostname="cloud.example.com",state="healthy"} 0"#,
        r#"cloudathome_service_state{host="attic",service="nextcloud",hostname="cloud.example.com",state="serving"} 1"#,
        r#"cloudathome_service_state{host="attic",service="nextcloud",hostname="cloud.example.com",state="down"} 0"#,
        r#"cloudathome_outside_proof_passed{host="vps",hostname="cloud.example.com"} 1"#,
        r#"cloudathome_outside_proof_passed{host="vps",hostname="example.com"} 0"#,
        r#"cloudathome_service_check_duration_seconds{host="vps",service="nextcloud"} 0.25"#,
        r#"cloudathome_container_restarts_total{host="vps",service="nextcloud",container="nextcloud"} 0"#,
        r#"cloudathome_container_restarts_total{host="vps",service="nextcloud",container="nextcloud-db"} 2"#,
        r#"cloudathome_supervisor_passes_total{host="vps"} 30"#,
        r#"cloudathome_supervisor_passes_failed_total{host="vps"} 2"#,
        r#"cloudathome_supervisor_pass_duration_seconds{host="vps"} 0.04"#,
        r#"cloudathome_proof_duration_seconds{host="vps",hostname="cloud.example.com"} 0.125"#,
        r#"cloudathome_certificate_expiry_timestamp_seconds{host="vps",hostname="example.com"} 1790000000"#,
        r#"cloudathome_identity_expiry_timestamp_seconds{host="vps"} 1790000000"#,
        r#"cloudathome_identity_renewal_failing{host="vps"} 1"#,
        r#"cloudathome_disk_free_bytes{host="vps",path="/var/lib/docker"} 5368709120"#,
    ] {
        assert!(page.contains(&format!("\n{line}\n")), "{line} is missing in {page}");
    }
    assert!(!page.contains(r#"proof_duration_seconds{host="vps",hostname="example.com"}"#), "a failed proof took time");
    assert!(!page.contains(r#"service_state{host="attic",service="caddy""#), "what has no name cannot fail to serve");
}

#[test]
fn no_series_is_there_twice_and_all_name_a_host() {
    for Family { name, samples, .. } in families() {
        assert!(name.starts_with("cloudathome_") && !samples.is_empty(), "{name}");
        for (at, (labels, _)) in samples.iter().enumerate() {
            assert_eq!(labels[0].0, "host", "{name}");
            assert!(!samples[..at].iter().any(|(known, _)| known == labels), "{name} {labels:?}");
        }
    }
}

fn shipped(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names of ours in a text.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("cloudathome_")).collect()
}

#[test]
fn alerts_dashboard_and_document_name_metrics_that_there_are() {
    let families = families();
    let known: BTreeSet<&str> = families.iter().map(|family| family.name).collect();
    for path in ["alerts.yml", "alerts_test.yml", "dashboard.json"] {
        let text = shipped(&format!("monitoring/{path}"));
        let unknown: Vec<_> = named(&text).into_iter().filter(|name| !known.contains(name)).collect();
        assert!(unknown.is_empty(), "monitoring/{path} names {unknown:?}");
    }
    let dashboard: serde_json::Value = serde_json::from_str(&shipped("monitoring/dashboard.json")).unwrap();
    let shown = dashboard["panels"].as_array().unwrap().iter().flat_map(|panel| panel["targets"].as_array());
    assert!(shown.flatten().all(|target| !named(target["expr"].as_str().unwrap()).is_empty()));

    let document = shipped("docs/operations.md");
    let told = |name: &str| {
        let short = ["cloudathome_tunnel", "cloudathome"].iter().filter_map(|start| name.strip_prefix(start));
        document.contains(&format!("`{name}`"))
            || short.into_iter().any(|short| document.contains(&format!("`{short}`")))
    };
    let untold: Vec<_> = known.iter().filter(|name| !told(name)).collect();
    assert!(untold.is_empty(), "docs/operations.md lacks {untold:?}");
    let gone: Vec<_> = named(&document).into_iter().filter(|name| !known.contains(name)).collect();
    assert!(gone.is_empty(), "docs/operations.md has {gone:?}");
}

#[test]
fn promtool_finds_nothing_to_say() {
    let page = Format::Classic.page(&families());
    assert_eq!(promtool(&["check", "metrics"], &page).unwrap_or_default(), "");
}

#[test]
fn alerts_do_what_their_tests_say() {
    let alerts = shipped("monitoring/alerts.yml");
    let tests = shipped("monitoring/alerts_test.yml");
    for alert in alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(tests.contains(alert), "{alert} has no test");
    }
    if let Some(said) = promtool(&["test", "rules", "../../monitoring/alerts_test.yml"], "") {
        assert!(said.contains("SUCCESS"), "{said}");
    }
}

/// What promtool says of this, and it must not fail; none where it is not installed.
fn promtool(arguments: &[&str], input: &str) -> Option<String> {
    let mut promtool = Command::new("promtool");
    promtool.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR"));
    promtool.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = match promtool.spawn() {
        Ok(promtool) => promtool,
        Err(error) => {
            println!("SKIPPED: promtool cannot be run (install the package prometheus): {error}");
            return None;
        }
    };
    promtool.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");
    Some(said)
}
