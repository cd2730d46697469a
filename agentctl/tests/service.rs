//! `agentctl service` and `agentctl occ` against a fake agent: the real socket with an operator that makes answers up.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod fake;

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Instant;

use control::{Asked, Inspected, InspectionSocket, Inspector, Offered, Opposite, Snapshot, Timelines};
use fake::{FakeConfigurator, FakeDoctor, FakeOperator};
use model::{Grade, Health, HostStatus, Role, ServiceStatus, Serving, TunnelReport};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Runs agentctl while the fake agent serves; `SOCKET` among the words stands for where.
fn agentctl(line: &str, input: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("home.sock");
    let mut local = HostStatus::new("attic".parse().unwrap(), Role::Home);
    local.control.peer = Some("vps".parse().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let stop = CancellationToken::new();
    let (_, state) = watch::channel(Snapshot { local, peer: None });
    let (_, tunnel) = watch::channel(TunnelReport::default());
    let (_, timelines) = watch::channel(Timelines::default());
    let inspected = Inspected { state, timelines, tunnel, doctor: Arc::new(FakeDoctor(Grade::Good)), ingress: None };
    let (asked, _asked) = mpsc::channel(16);
    let offered = Offered { host: "attic".parse().unwrap(), inspected, operator: Arc::new(FakeOperator), asked };
    let bound = runtime.block_on(async { InspectionSocket::bind(&socket).unwrap() });
    runtime.spawn(bound.serve(
        offered,
        Arc::new(FakeConfigurator),
        Opposite::none("vps cannot be asked: there is no control channel").1,
        stop,
    ));
    let words = line.split(' ').map(|word| if word == "SOCKET" { socket.to_str().unwrap() } else { word });
    let mut child = Command::new(env!("CARGO_BIN_EXE_agentctl"))
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that reads nothing may have ended by now.
    child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
    child.wait_with_output().unwrap()
}

fn texts(output: &Output) -> (String, String) {
    (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Runs agentctl on `attic` while it and `vps` serve; what was asked on either.
fn on_two_hosts(line: &str, services: &[(&str, &str)]) -> (Output, [Vec<Asked>; 2]) {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let status = |host: &str, role| HostStatus {
        services: services
            .iter()
            .map(|(name, host)| ServiceStatus {
                name: name.parse().unwrap(),
                host: host.parse().unwrap(),
                hostname: None,
                upstream: None,
                health: Health::Healthy,
                serving: Serving::Yes,
                since: None,
            })
            .collect(),
        ..HostStatus::new(host.parse().unwrap(), role)
    };
    let (home, edge) = (status("attic", Role::Home), status("vps", Role::Edge));
    let serve = |local: HostStatus, peer: Option<HostStatus>, opposite: Opposite| {
        let path = dir.path().join(format!("{}.sock", local.host));
        let (asked, heard) = mpsc::channel(16);
        let report = TunnelReport { device: format!("link of {}", local.host), ..TunnelReport::default() };
        let host = local.host.clone();
        let (_, state) = watch::channel(Snapshot { local, peer: peer.map(|peer| (peer, Instant::now())) });
        let (_, tunnel) = watch::channel(report);
        let (_, timelines) = watch::channel(Timelines::default());
        let inspected =
            Inspected { state, timelines, tunnel, doctor: Arc::new(FakeDoctor(Grade::Good)), ingress: None };
        let offered = Offered { host, inspected, operator: Arc::new(FakeOperator), asked };
        let bound = runtime.block_on(async { InspectionSocket::bind(&path).unwrap() });
        runtime.spawn(bound.serve(offered, Arc::new(FakeConfigurator), opposite, CancellationToken::new()));
        (path, heard)
    };
    let (far, mut at_edge) = serve(edge.clone(), None, Opposite::none("").1);
    let opposite = runtime.block_on(async { Inspector::connect(&far).await.unwrap().as_opposite() });
    let (near, mut at_home) = serve(home, Some(edge), opposite);
    let mut words = line.split(' ').map(|word| if word == "SOCKET" { near.to_str().unwrap() } else { word });
    let output = Command::new(env!("CARGO_BIN_EXE_agentctl")).args(&mut words).output().unwrap();
    let all = |heard: &mut mpsc::Receiver<Asked>| std::iter::from_fn(|| heard.try_recv().ok()).collect();
    (output, [all(&mut at_home), all(&mut at_edge)])
}

#[test]
fn a_service_is_acted_upon_where_it_is() {
    let there = [("nextcloud", "vps")];
    let (output, [home, edge]) = on_two_hosts("service --socket SOCKET nextcloud restart", &there);
    assert_eq!((output.status.code(), texts(&output).1.as_str()), (Some(0), "Restart\n"));
    assert_eq!((home.len(), edge.len()), (0, 1));

    let both = [("nextcloud", "vps"), ("nextcloud", "attic")];
    let (output, [home, edge]) = on_two_hosts("service --socket SOCKET nextcloud restart", &both);
    let (_, told) = texts(&output);
    assert_eq!((output.status.code(), home.len(), edge.len()), (Some(1), 0, 0));
    assert!(told.contains("attic and vps have a service nextcloud") && told.contains("--host attic"), "{told}");
    let (output, [home, edge]) = on_two_hosts("service --socket SOCKET --host attic nextcloud restart", &both);
    assert_eq!((output.status.code(), home.len(), edge.len()), (Some(0), 1, 0));
    let (output, [home, edge]) = on_two_hosts("occ --socket SOCKET --host vps status", &both);
    assert_eq!((output.status.code(), home.len(), edge.len()), (Some(7), 0, 1));
}

#[test]
fn reports_of_either_host_are_shown() {
    for (line, device) in
        [("--json", "link of attic"), ("--host attic --json", "link of attic"), ("--host vps --json", "link of vps")]
    {
        let (output, _) = on_two_hosts(&format!("tunnel --socket SOCKET {line}"), &[]);
        assert!(texts(&output).0.contains(device), "{line}: {output:?}");
    }
    let (output, _) = on_two_hosts("doctor --socket SOCKET", &[]);
    let (told, _) = texts(&output);
    assert!(told.starts_with("attic\n") && told.contains("\nvps\n"), "{told}");
    assert_eq!(output.status.code(), Some(0));
    let (output, _) = on_two_hosts("doctor --socket SOCKET --host nobody", &[]);
    let (_, told) = texts(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(told.contains("there is no host nobody: this is attic, and the opposite host is vps"), "{told}");
}

#[test]
fn a_host_that_cannot_be_asked_is_told_from_a_refusal() {
    let output = agentctl("doctor --socket SOCKET --host attic", "");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let output = agentctl("doctor --socket SOCKET --host vps", "");
    let (_, told) = texts(&output);
    assert_eq!(output.status.code(), Some(3), "{told}");
    assert!(told.contains("vps cannot be asked") && told.contains("next: `agentctl status`"), "{told}");
    let output = agentctl("service --socket SOCKET --host vps ghost restart", "");
    assert_eq!(output.status.code(), Some(3), "{output:?}");
}

#[test]
fn steps_are_told_on_standard_error() {
    let output = agentctl("service --socket SOCKET nextcloud restart", "");
    assert_eq!((output.status.code(), texts(&output)), (Some(0), (String::new(), "Restart\n".into())));

    let output = agentctl("service --socket SOCKET nextcloud upgrade --to 33.0.1-apache", "");
    let (_, told) = texts(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(
        told.starts_with("saving\nstarting\nagentctl: 33.0.1-apache did not get healthy; 32.0.1 is back\n"),
        "{told}"
    );

    let output = agentctl("service --socket SOCKET nextcloud upgrade", "");
    let told = "nextcloud runs nextcloud:32.0.1\n".to_owned();
    assert_eq!((output.status.code(), texts(&output)), (Some(0), (String::new(), told)));

    let output = agentctl("service --socket SOCKET ghost stop", "");
    let (_, told) = texts(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("no service ghost here") && told.contains("next: "), "{told}");
}

#[test]
fn a_command_gets_standard_input_and_its_exit_code_is_ours() {
    let output = agentctl("service --socket SOCKET nextcloud exec --user 33 -- sh -c true", "typed");
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(texts(&output).0, r#"false Some("33") ["sh", "-c", "true"] typed"#);

    let output = agentctl("occ --socket SOCKET app:list --output=json", "");
    assert_eq!(
        (output.status.code(), texts(&output).0.as_str()),
        (Some(7), r#"true None ["app:list", "--output=json"] "#)
    );
}

#[test]
fn logs_and_logins_are_data() {
    let output = agentctl("service --socket SOCKET nextcloud logs --tail 5 --container nextcloud-db", "");
    assert_eq!((output.status.code(), texts(&output).0.as_str()), (Some(0), "5 lines of Some(\"nextcloud-db\")\n"));
    let output = agentctl("service --socket SOCKET nextcloud logs", "");
    assert_eq!((output.status.code(), texts(&output).0.as_str()), (Some(0), "nextcloud | 100 lines of None\n"));
    let output = agentctl("service --socket SOCKET nextcloud credentials --json", "");
    assert!(texts(&output).0.contains(r#""value": "geheim""#));
}

#[test]
fn what_does_not_come_back_is_confirmed() {
    let output = agentctl("service --socket SOCKET nextcloud purge", "nextcloud\n");
    let (_, told) = texts(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("Nobody is there to confirm it") && !told.contains("gone"), "{told}");
    let output = agentctl("service --socket SOCKET nextcloud purge --yes-remove-everything", "");
    assert_eq!((output.status.code(), texts(&output).1.as_str()), (Some(0), "gone\n"));
    let output = agentctl("service --socket SOCKET nextcloud rollback --yes", "");
    assert_eq!((output.status.code(), texts(&output).1.as_str()), (Some(0), "back\n"));
}
