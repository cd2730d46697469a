//! `agentctl pki`: from nothing to identities that the agents load.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::SystemTime;

use model::Role;
use pki::HostIdentity;
use secrecy::ExposeSecret;

fn agentctl(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_agentctl")).args(arguments).current_dir(dir).env_clear().output().unwrap()
}

fn done(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

fn refused(output: &Output, with: &str) {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains(with) && message.contains("\n  next: "), "{message}");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn issue(dir: &Path, role: &str, name: &str, out: &str) -> Output {
    agentctl(dir, &["pki", "issue", "--ca", "authority", "--role", role, "--name", name, "--out", out])
}

#[test]
fn identities_of_one_authority_belong_together() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let made = agentctl(dir, &["pki", "init", "--dir", "authority", "--name", "Our cloud"]);
    done(&made);
    assert_eq!(made.stdout, b"authority\n");
    assert_eq!(mode(&dir.join("authority")), 0o700);
    assert_eq!(mode(&dir.join("authority/ca/ca.key")), 0o600);
    assert_eq!(mode(&dir.join("authority/tls-crypt.key")), 0o600);
    assert_eq!(fs::read_dir(dir).unwrap().count(), 1, "nothing is left beside it");

    let mut loaded = Vec::new();
    for (role, name, expected) in
        [("edge", "vps", Role::Edge), ("home", "attic", Role::Home), ("device", "phone", Role::Device)]
    {
        done(&issue(dir, role, name, name));
        let identity = HostIdentity::load(&dir.join(name)).unwrap();
        let info = identity.info().unwrap();
        assert_eq!((info.role.role, info.role.name.as_str()), (expected, name));
        info.check_valid_at(SystemTime::now()).unwrap();
        assert_eq!(mode(&dir.join(name).join("host.key")), 0o600);
        loaded.push(identity);
    }
    assert!(loaded.iter().all(|identity| identity.ca_pem == loaded[0].ca_pem));
    let key = |identity: &HostIdentity| identity.tls_crypt.expose_secret().to_owned();
    assert!(loaded.iter().all(|identity| key(identity) == key(&loaded[0])));
}

#[test]
fn nothing_is_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::create_dir(dir.join("authority")).unwrap();
    done(&agentctl(dir, &["pki", "init", "--dir", "authority"]));
    let key = fs::read(dir.join("authority/ca/ca.key")).unwrap();
    refused(&agentctl(dir, &["pki", "init", "--dir", "authority"]), "holds");
    assert_eq!(fs::read(dir.join("authority/ca/ca.key")).unwrap(), key);

    done(&issue(dir, "edge", "vps", "vps"));
    let key = fs::read(dir.join("vps/host.key")).unwrap();
    refused(&issue(dir, "home", "attic", "vps"), "not overwritten");
    assert_eq!(fs::read(dir.join("vps/host.key")).unwrap(), key);
}

#[test]
fn a_missing_or_broken_authority_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    refused(&issue(dir, "edge", "vps", "vps"), "authority/ca/ca.crt");
    done(&agentctl(dir, &["pki", "init", "--dir", "authority"]));
    fs::write(dir.join("authority/tls-crypt.key"), "nonsense").unwrap();
    refused(&issue(dir, "edge", "vps", "vps"), "authority/tls-crypt.key holds no OpenVPN static key");
    fs::remove_file(dir.join("authority/tls-crypt.key")).unwrap();
    refused(&issue(dir, "edge", "vps", "vps"), "authority/tls-crypt.key");
    assert!(!dir.join("vps").exists());
}

#[test]
fn names_and_roles_are_checked_before_anything_is_done() {
    let dir = tempfile::tempdir().unwrap();
    for output in [issue(dir.path(), "edge", "Not A Name", "vps"), issue(dir.path(), "root", "vps", "vps")] {
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
