//! `agentctl completions` and `agentctl man`.

use std::fs;
use std::process::{Command, Stdio};

fn agentctl() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentctl"));
    command.env_clear();
    command
}

#[test]
fn completions_for_every_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let output = agentctl().args(["completions", shell]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(script.contains("agentctl") && script.contains("issue"), "{shell}");
    }
    assert_eq!(agentctl().args(["completions", "cmd"]).output().unwrap().status.code(), Some(2));
}

#[test]
fn a_page_for_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let man = dir.path().join("man1");
    let output = agentctl().args(["man", "--dir"]).arg(&man).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let mut pages: Vec<_> =
        fs::read_dir(&man).unwrap().map(|page| page.unwrap().file_name().into_string().unwrap()).collect();
    pages.sort();
    assert_eq!(
        pages,
        [
            "agentctl-bundle.1",
            "agentctl-code-list.1",
            "agentctl-code-new.1",
            "agentctl-code-revoke.1",
            "agentctl-code.1",
            "agentctl-completions.1",
            "agentctl-config-check.1",
            "agentctl-config-diff.1",
            "agentctl-config-reload.1",
            "agentctl-config-show.1",
            "agentctl-config.1",
            "agentctl-connect.1",
            "agentctl-device-add.1",
            "agentctl-device-list.1",
            "agentctl-device-reissue.1",
            "agentctl-device-revoke.1",
            "agentctl-device.1",
            "agentctl-doctor.1",
            "agentctl-events.1",
            "agentctl-identity-list.1",
            "agentctl-identity-revoke.1",
            "agentctl-identity.1",
            "agentctl-ingress.1",
            "agentctl-init.1",
            "agentctl-join.1",
            "agentctl-leave.1",
            "agentctl-man.1",
            "agentctl-occ.1",
            "agentctl-pki-crl.1",
            "agentctl-pki-init.1",
            "agentctl-pki-issue.1",
            "agentctl-pki-profile.1",
            "agentctl-pki-revoke.1",
            "agentctl-pki.1",
            "agentctl-purge.1",
            "agentctl-service-credentials.1",
            "agentctl-service-exec.1",
            "agentctl-service-logs.1",
            "agentctl-service-purge.1",
            "agentctl-service-restart.1",
            "agentctl-service-rollback.1",
            "agentctl-service-start.1",
            "agentctl-service-stop.1",
            "agentctl-service-upgrade.1",
            "agentctl-service.1",
            "agentctl-services.1",
            "agentctl-status.1",
            "agentctl-top.1",
            "agentctl-tunnel.1",
            "agentctl-why.1",
            "agentctl.1",
        ]
    );
    let status = fs::read_to_string(man.join("agentctl-status.1")).unwrap();
    assert!(status.contains("Exit codes") && status.contains("Examples"), "{status}");
}

#[test]
fn a_reader_that_leaves_is_no_fault() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = agentctl().args(["completions", "bash"]).stdout(writer).stderr(Stdio::piped()).output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), b"".as_slice()));
}
