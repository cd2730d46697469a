//! `agentctl pki`: from nothing to identities that the agents load.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::SystemTime;

use model::Role;
use pki::{HostIdentity, RevocationList, Serial};
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

fn profile(dir: &Path, more: &[&str]) -> Output {
    let words = ["pki", "profile", "--ca", "authority", "--name", "phone", "--server", "vps", "--out", "phone.ovpn"];
    agentctl(dir, &[&words, more].concat())
}

#[test]
fn a_profile_is_a_devices_identity_in_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    done(&agentctl(dir, &["pki", "init", "--dir", "authority"]));
    let made = profile(dir, &["--remote", "a.example/tcp", "--remote", "b.example:443"]);
    done(&made);
    assert_eq!(made.stdout, b"phone.ovpn\n");
    assert_eq!(mode(&dir.join("phone.ovpn")), 0o600);
    assert_eq!(fs::read_dir(dir).unwrap().count(), 2, "nothing is left beside it");

    let text = fs::read_to_string(dir.join("phone.ovpn")).unwrap();
    let read = profile::Profile::parse(&text).unwrap();
    let places: Vec<_> =
        read.connections.iter().map(|place| (place.host.as_str(), place.port, place.protocol)).collect();
    let (udp, tcp) = (profile::Protocol::Udp, profile::Protocol::Tcp);
    assert_eq!(places, [("b.example", 443, udp), ("a.example", 1194, tcp), ("b.example", 443, tcp)]);
    assert_eq!(read.tls.name_check, Some(profile::NameCheck::CommonName("vps".to_owned())));
    let inline = |source: &Option<profile::Source<String>>| match source {
        Some(profile::Source::Inline(text)) => text.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(inline(&read.tls.ca), fs::read_to_string(dir.join("authority/ca/ca.crt")).unwrap());
    let info = pki::CertificateInfo::from_pem(&inline(&read.tls.cert)).unwrap();
    assert_eq!(info.role.to_string(), "cloudathome://device/phone");
    let key = fs::read_to_string(dir.join("authority/tls-crypt.key")).unwrap();
    let (_, key) = key.split_once("-----BEGIN").unwrap();
    assert!(text.contains(&format!("<tls-crypt>\n-----BEGIN{key}</tls-crypt>")), "{text}");

    refused(&profile(dir, &["--remote", "a.example"]), "not overwritten");
    assert_eq!(fs::read_to_string(dir.join("phone.ovpn")).unwrap(), text);
}

#[test]
fn a_profile_may_have_a_key_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    done(&agentctl(dir, &["pki", "init", "--dir", "authority"]));
    let words = ["--remote", "[2001:db8::1]", "--tls-crypt-v2", "own.key"];
    let failed = profile(dir, &words);
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    let label = "OpenVPN tls-crypt-v2 client key";
    let key = format!("-----BEGIN {label}-----\nbm90IHJlYWw=\n-----END {label}-----\n");
    fs::write(dir.join("own.key"), &key).unwrap();
    done(&profile(dir, &words));
    let text = fs::read_to_string(dir.join("phone.ovpn")).unwrap();
    assert!(text.contains("\nremote 2001:db8::1 1194 udp\nremote 2001:db8::1 1194 tcp\n"), "{text}");
    assert!(text.contains(&format!("<tls-crypt-v2>\n{key}</tls-crypt-v2>")) && !text.contains("Static key"), "{text}");
    assert_eq!(profile(dir, &["--remote", "a.example/sctp"]).status.code(), Some(2));
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

fn listed(dir: &Path) -> RevocationList {
    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
    RevocationList::from_pem(&read("authority/crl.pem"), &read("authority/ca/ca.crt")).unwrap()
}

fn serial(dir: &Path, name: &str) -> Serial {
    let identity = HostIdentity::load(&dir.join(name)).unwrap();
    Serial::of(&identity.identity.cert_pem, &identity.ca_pem).unwrap()
}

#[test]
fn certificates_are_revoked_by_name_number_and_file() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let pki = |words: &[&str]| agentctl(dir, &[&["pki"], words].concat());
    done(&pki(&["init", "--dir", "authority"]));
    let made = pki(&["crl", "--ca", "authority"]);
    done(&made);
    assert_eq!(made.stdout, b"authority/crl.pem\n");
    assert!(listed(dir).is_empty());
    for name in ["phone", "tablet", "laptop", "watch"] {
        done(&issue(dir, "device", name, name));
    }
    // One holder may have had several.
    done(&issue(dir, "device", "phone", "phone2"));
    done(&pki(&["revoke", "--ca", "authority", "--name", "phone"]));
    done(&pki(&["revoke", "--ca", "authority", "--serial", &serial(dir, "tablet").to_string().to_lowercase()]));
    done(&pki(&["revoke", "--ca", "authority", "--cert", "laptop/host.crt"]));
    let list = listed(dir);
    assert_eq!(list.len(), 4);
    assert!(["phone", "phone2", "tablet", "laptop"].iter().all(|name| list.is_revoked(&serial(dir, name))));
    assert!(!list.is_revoked(&serial(dir, "watch")));
    assert_eq!(mode(&dir.join("authority/crl.pem")), 0o644);

    // Once more changes nothing but its time and number; nor does a renewal.
    done(&pki(&["revoke", "--ca", "authority", "--name", "phone"]));
    done(&pki(&["crl", "--ca", "authority", "--days", "30"]));
    assert_eq!(listed(dir).len(), 4);
}

#[test]
fn what_cannot_be_revoked_is_named_and_the_list_stays() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let pki = |words: &[&str]| agentctl(dir, &[&["pki"], words].concat());
    refused(&pki(&["crl", "--ca", "authority"]), "authority/ca/ca.crt");
    done(&pki(&["init", "--dir", "authority"]));
    done(&pki(&["init", "--dir", "other"]));
    refused(&pki(&["revoke", "--ca", "authority", "--name", "phone"]), "no certificate of phone");
    let failed = pki(&["revoke", "--ca", "authority", "--cert", "other/ca/ca.crt"]);
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    assert!(String::from_utf8_lossy(&failed.stderr).contains("not issued by this CA"), "{failed:?}");
    assert!(!dir.join("authority/crl.pem").exists());
    done(&pki(&["revoke", "--ca", "authority", "--serial", "0a:0B"]));
    fs::copy(dir.join("authority/crl.pem"), dir.join("other/crl.pem")).unwrap();
    refused(&pki(&["crl", "--ca", "other"]), "not signed by this authority");
    for words in [&["revoke", "--ca", "authority"][..], &["revoke", "--ca", "authority", "--serial", "xyz"]] {
        assert_eq!(pki(words).status.code(), Some(2));
    }
}
