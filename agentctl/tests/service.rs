//! `agentctl service` and `agentctl occ` against a fake agent: the real socket with an operator that makes answers up.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod fake;

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use control::{Inspected, InspectionSocket, Snapshot, Timelines};
use fake::{FakeConfigurator, FakeDoctor, FakeOperator};
use model::{Grade, HostStatus, Role, TunnelReport};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Runs agentctl while the fake agent serves; `SOCKET` among the words stands for where.
fn agentctl(line: &str, input: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("home.sock");
    let local = HostStatus::new("attic".parse().unwrap(), Role::Home);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let stop = CancellationToken::new();
    let (_, state) = watch::channel(Snapshot { local, peer: None });
    let (_, tunnel) = watch::channel(TunnelReport::default());
    let (_, timelines) = watch::channel(Timelines::default());
    let inspected = Inspected { state, timelines, tunnel, doctor: Arc::new(FakeDoctor(Grade::Good)), ingress: None };
    let bound = runtime.block_on(async { InspectionSocket::bind(&socket).unwrap() });
    runtime.spawn(bound.serve(inspected, Arc::new(FakeOperator), Arc::new(FakeConfigurator), stop));
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
