//! `agentctl status` and `tunnel` against a fake agent: the real inspection service with a made-up state.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod fake;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use control::{Inspected, Snapshot, Timelines};
use fake::{FakeAgent, FakeDoctor};
use model::{
    BasicUser, ControlStatus, Event, EventKind, Generation, Grade, Health, HostStatus, IngressOptions, IngressReport,
    PublishedSite, RefusedService, Role, ServiceStatus, Serving, Subject, Timeline, TunnelReport, TunnelState,
    TunnelStatus,
};
use serde_json::Value;
use tokio::sync::watch;

fn fake_host(name: &str, role: Role, serving: Serving) -> HostStatus {
    HostStatus {
        host: name.parse().unwrap(),
        role,
        version: "0.1.0".into(),
        boot_id: "0123456789abcdef".into(),
        uptime_seconds: 60,
        generation: Generation(2),
        tunnel: TunnelStatus { state: TunnelState::Connected, ..TunnelStatus::default() },
        control: ControlStatus { connected: true, last_heard_seconds: Some(0), ..ControlStatus::default() },
        containers: vec![],
        outside: vec![],
        identity: None,
        services: vec![ServiceStatus {
            name: "nextcloud".parse().unwrap(),
            host: "attic".parse().unwrap(),
            hostname: Some("cloud.example.test".parse().unwrap()),
            upstream: None,
            health: Health::Healthy,
            serving,
            since: None,
        }],
    }
}

fn fake_state(serving: Serving, peer_age: Option<u64>) -> Snapshot {
    let peer = peer_age.map(|age| {
        let at = Instant::now().checked_sub(Duration::from_secs(age)).unwrap();
        (fake_host("attic", Role::Home, serving.clone()), at)
    });
    Snapshot { local: fake_host("vps", Role::Edge, serving), peer }
}

/// Home's tunnel failed first, by a clock that is a minute ahead.
fn fake_timelines() -> Timelines {
    let event = |host: &str, number, at, subject, service: Option<&str>, kind, text: &str| Event {
        number,
        at,
        host: host.parse().unwrap(),
        subject,
        service: service.map(|service| service.parse().unwrap()),
        kind,
        text: text.to_owned(),
    };
    let own = vec![
        event("vps", 1, 1_000_000, Subject::Container, Some("blog"), EventKind::Change, "blog started (ghost:6)"),
        event("vps", 2, 1_009_000, Subject::Serving, Some("nextcloud"), EventKind::Fault, "it does not serve: 503"),
    ];
    let peer = vec![event("attic", 9, 1_065_000, Subject::Tunnel, None, EventKind::Fault, "down: no answer")];
    let timeline = |id: &str, events: Vec<Event>| Arc::new(Timeline { id: id.to_owned(), events: events.into() });
    Timelines { own: timeline("a", own), peer: timeline("b", peer), ahead_millis: 60_000 }
}

fn fake_ingress() -> IngressReport {
    let user = BasicUser { name: "me".into(), hash: "$2y$12$secret".into() };
    let site = PublishedSite {
        hostname: "cloud.example.test".parse().unwrap(),
        host: "attic".parse().unwrap(),
        service: "nextcloud".parse().unwrap(),
        also: vec!["www.example.test".parse().unwrap()],
        upstream: None,
        away: Some("it is starting".into()),
        away_since: None,
        serving: Serving::No { reason: "it shows the holding page (HTTP 503)".into() },
        options: IngressOptions { users: vec![user], paths: vec!["/api".into()], ..IngressOptions::default() },
        certificate_ends: None,
    };
    let refused = RefusedService {
        host: "attic".parse().unwrap(),
        service: "blog".parse().unwrap(),
        reason: "example.test is taken by another service: choose another hostname".into(),
    };
    IngressReport { reason: None, sites: vec![site], refused: vec![refused] }
}

/// Runs `agentctl status` while a fake agent serves `state`.
fn status(state: Snapshot, arguments: &[&str], stdout: Stdio) -> Output {
    asked("status", state, TunnelReport::default(), arguments, stdout)
}

/// Runs `agentctl tunnel` while a fake agent serves a tunnel in this state.
fn tunnel(state: TunnelState, arguments: &[&str]) -> Output {
    let status = TunnelStatus { state, handshakes_failed: 3, ..TunnelStatus::default() };
    let report = TunnelReport { status, drops: [("replay".to_owned(), 9)].into(), ..TunnelReport::default() };
    asked("tunnel", fake_state(Serving::Yes, Some(1)), report, arguments, Stdio::piped())
}

fn asked(subcommand: &str, state: Snapshot, tunnel: TunnelReport, arguments: &[&str], stdout: Stdio) -> Output {
    let agent = FakeAgent::serve(Inspected {
        state: watch::channel(state).1,
        timelines: watch::channel(fake_timelines()).1,
        tunnel: watch::channel(tunnel).1,
        doctor: Arc::new(FakeDoctor(Grade::Bad)),
        ingress: Some(watch::channel(fake_ingress()).1),
    });
    command(subcommand, &agent.socket, arguments).stdout(stdout).output().unwrap()
}

fn agentctl(socket: &Path, arguments: &[&str]) -> Output {
    command("status", socket, arguments).output().unwrap()
}

fn command(subcommand: &str, socket: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentctl"));
    command.arg(subcommand).args(arguments).arg("--socket").arg(socket).env_clear();
    command
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn healthy_is_0() {
    let output = status(fake_state(Serving::Yes, Some(1)), &[], Stdio::piped());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text(&output.stdout).starts_with("cloud.example.test is serving\n"), "{output:?}");
    assert!(text(&output.stdout).contains("\nHome attic: up"), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn not_serving_is_4_and_says_why() {
    let no = Serving::No { reason: "answered 503".into() };
    let output = status(fake_state(no, Some(1)), &[], Stdio::piped());
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert!(text(&output.stdout).starts_with("cloud.example.test is NOT serving: answered 503\n"), "{output:?}");
}

#[test]
fn an_old_report_is_4_and_shows_its_age() {
    let output = status(fake_state(Serving::Yes, Some(12)), &[], Stdio::piped());
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert!(text(&output.stdout).contains("Home attic (as it was: last report 12 s ago)"), "{output:?}");
}

#[test]
fn json_is_an_envelope_of_the_statuses() {
    let output = status(fake_state(Serving::Yes, Some(2)), &["--json"], Stdio::piped());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let keys: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["local", "peer", "peer_age_seconds"]);
    assert_eq!(json["local"]["role"], "edge");
    assert_eq!(json["peer"]["host"], "attic");
    assert_eq!(json["local"]["services"][0]["serving"]["state"], "serving");
    assert!(json["peer_age_seconds"].as_u64().unwrap() >= 2);

    let output = status(fake_state(Serving::Unknown, None), &["--json"], Stdio::piped());
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(json["peer"].is_null() && json["peer_age_seconds"].is_null(), "{json}");
}

#[test]
fn the_exit_code_does_not_depend_on_a_reader() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let no = Serving::No { reason: "answered 503".into() };
    let output = status(fake_state(no, Some(1)), &[], writer.into());
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(4), b"".as_slice()));
}

#[test]
fn a_tunnel_is_0_while_connected_and_4_otherwise() {
    let output = tunnel(TunnelState::Connected, &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text(&output.stdout).starts_with("The tunnel is connected\n"), "{output:?}");

    let output = tunnel(TunnelState::Listening, &["--json"]);
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let keys: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
    let documented = [
        "crl_next_update",
        "data_path",
        "device",
        "drops",
        "handshakes_completed",
        "mtu",
        "peers",
        "received_packets",
        "renewals_completed",
        "renewals_failed",
        "sent_packets",
        "status",
    ];
    assert_eq!(keys, documented);
    assert_eq!((&json["drops"]["replay"], &json["status"]["handshakes_failed"]), (&9.into(), &3.into()));
}

#[test]
fn no_agent_is_3() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("edge.sock");
    let missing = agentctl(&socket, &[]);
    assert_eq!(missing.status.code(), Some(3), "{missing:?}");
    assert!(missing.stdout.is_empty());
    let message = text(&missing.stderr);
    assert!(message.contains("there is no ") && message.contains("systemctl status cloudathome-edge"), "{message}");

    // Left behind by an agent that was killed.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let dead = agentctl(&socket, &[]);
    assert_eq!(dead.status.code(), Some(3), "{dead:?}");
    assert!(text(&dead.stderr).contains("has ended"), "{dead:?}");
}

#[test]
fn an_agent_that_hangs_is_3_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("edge.sock");
    let _never_accepts = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let asked = Instant::now();
    let output = agentctl(&socket, &[]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(text(&output.stderr).contains("did not answer"), "{output:?}");
    assert!(asked.elapsed() < Duration::from_secs(9));
}

#[test]
fn a_wrong_command_line_is_2() {
    let output = agentctl(Path::new("/nonexistent"), &["--jsno"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn events_of_both_hosts_come_in_order() {
    let state = || fake_state(Serving::Yes, Some(1));
    let output = asked("events", state(), TunnelReport::default(), &[], Stdio::piped());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(
        text(&output.stdout),
        "1970-01-01 00:16:40.000  vps           container  blog started (ghost:6)\n\
         1970-01-01 00:16:45.000  attic         tunnel     down: no answer\n\
         1970-01-01 00:16:49.000  vps           serving    nextcloud it does not serve: 503\n"
    );
    let output =
        asked("events", state(), TunnelReport::default(), &["--service", "nextcloud", "--json"], Stdio::piped());
    let events: Vec<Value> = text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |event: &Value| (event["host"].as_str().unwrap().to_owned(), event["at"].as_u64().unwrap());
    assert_eq!(events.iter().map(of).collect::<Vec<_>>(), [("attic".into(), 1_005_000), ("vps".into(), 1_009_000)]);
}

#[test]
fn why_begins_with_the_first_sign_and_its_exit_code_is_that_of_the_service() {
    let no = || fake_state(Serving::No { reason: "answered 503".into() }, Some(1));
    let output = asked("why", no(), TunnelReport::default(), &[], Stdio::piped());
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    let told = text(&output.stdout);
    assert!(told.starts_with("cloud.example.test does NOT serve since 1970-01-01 00:16:49.000 UTC"), "{told}");
    assert!(told.contains("The first sign was\n  1970-01-01 00:16:45.000  attic         tunnel     down: no answer\n"));
    assert!(!told.contains("blog"), "{told}");
    let output =
        asked("why", fake_state(Serving::Yes, Some(1)), TunnelReport::default(), &["nextcloud"], Stdio::piped());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let output = asked("why", no(), TunnelReport::default(), &["photos"], Stdio::piped());
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains("there are: nextcloud"), "{output:?}");
}

#[test]
fn what_the_doctor_finds_bad_is_4() {
    let state = || fake_state(Serving::Yes, Some(1));
    let output = asked("doctor", state(), TunnelReport::default(), &[], Stdio::piped());
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    let told = text(&output.stdout);
    let expected = "vps\n  BAD  disk  0.2 GiB are free\n      make room\n\nattic\n  doubtful  agent  not looked at:";
    assert!(told.starts_with(expected), "{told}");
    assert!(told.contains("`agentctl status` shows what is wrong with the control channel"), "{told}");
    // Before it is known which host is the opposite one.
    let output = asked("doctor", fake_state(Serving::Yes, None), TunnelReport::default(), &[], Stdio::piped());
    assert_eq!(text(&output.stdout), "  BAD  disk  0.2 GiB are free\n      make room\n");
    let output = asked("doctor", state(), TunnelReport::default(), &["--json"], Stdio::piped());
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json[0]["grade"], "bad");
    assert_eq!((&json[0]["host"], &json[1]["host"]), (&"vps".into(), &"attic".into()));
}

#[test]
fn services_come_with_their_containers() {
    let output =
        asked("services", fake_state(Serving::Yes, Some(1)), TunnelReport::default(), &["--json"], Stdio::piped());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let keys: Vec<_> = json[0].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["containers", "health", "host", "hostname", "name", "serving", "since", "upstream"]);
    assert_eq!(json[0]["name"], "nextcloud");
    let no = Serving::No { reason: "answered 503".into() };
    let output = asked("services", fake_state(no, Some(1)), TunnelReport::default(), &[], Stdio::piped());
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert!(text(&output.stdout).contains("\n      down: answered 503\n"), "{output:?}");
}

#[test]
fn the_ingress_tells_names_options_and_what_it_refuses_and_no_hash() {
    let ask = |arguments: &[&str]| {
        asked("ingress", fake_state(Serving::Yes, Some(1)), TunnelReport::default(), arguments, Stdio::piped())
    };
    let output = ask(&[]);
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    let expected = "  NAME                SERVICE    HOST   UPSTREAM      STATE  CERTIFICATE
  cloud.example.test  nextcloud  attic  holding page  down   -
      holding page: it is starting
      down: it shows the holding page (HTTP 503)
      also: www.example.test
      basic_auth: me
      paths: /api

Refused
  blog  attic
      example.test is taken by another service: choose another hostname
";
    assert_eq!(text(&output.stdout), expected);
    let output = ask(&["--json"]);
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["sites"][0]["options"]["users"][0], serde_json::json!({ "name": "me" }));
    assert_eq!(json["refused"][0]["service"], "blog");
}

#[test]
fn into_a_pipe_each_look_is_a_line_of_json_without_end() {
    let agent = FakeAgent::serve(Inspected {
        state: watch::channel(fake_state(Serving::Yes, Some(1))).1,
        timelines: watch::channel(fake_timelines()).1,
        tunnel: watch::channel(TunnelReport::default()).1,
        doctor: Arc::new(FakeDoctor(Grade::Bad)),
        ingress: None,
    });
    let mut child = command("status", &agent.socket, &["--json", "--watch=1"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let report: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(report["local"]["host"], "vps");
    }
    drop(lines);
    assert_eq!(child.wait().unwrap().code(), Some(0), "a reader that leaves has seen enough");
    let output = command("status", &agent.socket, &["--watch=0"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn what_a_reload_would_change_is_told_and_a_refusal_is_1() {
    let ask = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        asked("config", fake_state(Serving::Yes, Some(1)), TunnelReport::default(), &words, Stdio::piped())
    };
    let output = ask("show");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text(&output.stdout).ends_with("\nservices.app.port = 1\n"), "{output:?}");
    let output = ask("diff");
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert!(
        text(&output.stdout).starts_with("~ domain = 2, was 1  (needs a new start)\n~ services.app.port = 2, was 1\n")
    );
    let output = ask("reload");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains("nothing of it is: only a new start of the agent changes domain"));
    let output = ask("reload --json");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let keys: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["changes", "fault", "file", "in_force", "refused"]);
}
