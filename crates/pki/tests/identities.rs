//! Identities made, kept, read back and used in real TLS handshakes.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

use std::error::Error as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use model::{Role, RoleUri};
use pki::{
    Ca, CertificateError, CertificateInfo, HostIdentity, Identity, LoadError, Subject, Validity, check_static_key,
    file, generate_static_key, role_of, server_name,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use secrecy::{ExposeSecret, SecretString};

fn authority() -> Ca {
    Ca::generate("test authority", Validity::from_now(Validity::CA)).unwrap()
}

fn subject(role: Role, name: &str) -> Subject {
    Subject { role, name: name.parse().unwrap(), validity: Validity::from_now(Validity::LEAF) }
}

fn host(ca: &Ca, subject: &Subject) -> HostIdentity {
    HostIdentity {
        ca_pem: ca.cert_pem().to_owned(),
        identity: ca.issue(subject).unwrap(),
        tls_crypt: generate_static_key(),
    }
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

#[test]
fn a_certificate_says_role_and_name() {
    let ca = authority();
    for (role, name) in [(Role::Edge, "vps"), (Role::Home, "attic"), (Role::Device, "phone")] {
        let identity = ca.issue(&subject(role, name)).unwrap();
        assert_eq!(role_of(&der(&identity.cert_pem)).unwrap(), RoleUri { role, name: name.parse().unwrap() });
    }
    assert!(matches!(role_of(&der(ca.cert_pem())), Err(CertificateError::UriCount(0))));
    assert!(matches!(role_of(&CertificateDer::from(vec![0x30, 0x03, 1])), Err(CertificateError::NotX509(_))));
}

#[test]
fn a_foreign_or_ambiguous_uri_grants_nothing() {
    let made = |uris: &[&str]| {
        let mut params = rcgen::CertificateParams::default();
        params.subject_alt_names = uris.iter().map(|uri| rcgen::SanType::URI((*uri).try_into().unwrap())).collect();
        let key = rcgen::KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    };
    assert!(role_of(&made(&["cloudathome://home/attic"])).is_ok());
    assert!(matches!(role_of(&made(&["cloudathome://root/attic"])), Err(CertificateError::Role(_))));
    assert!(matches!(
        role_of(&made(&["cloudathome://device/phone", "cloudathome://edge/vps"])),
        Err(CertificateError::UriCount(2))
    ));
    assert!(matches!(
        role_of(&made(&["cloudathome://device/phone", "https://example.com"])),
        Err(CertificateError::UriCount(2))
    ));
}

#[test]
fn validity_is_told_from_outside_and_checked() {
    let ca = authority();
    let now = SystemTime::now();
    let day = Duration::from_secs(86_400);
    let info = |not_before, not_after| {
        let validity = Validity { not_before, not_after };
        let identity = ca.issue(&Subject { validity, ..subject(Role::Home, "attic") }).unwrap();
        CertificateInfo::from_pem(&identity.cert_pem).unwrap()
    };
    assert!(info(now - day, now + day).check_valid_at(now).is_ok());
    let expired = info(now - 3 * day, now - 2 * day).check_valid_at(now).unwrap_err();
    assert_eq!(expired.to_string(), "it expired 2 days ago: issue a new one, or check this host's clock");
    let early = info(now + day, now + 2 * day).check_valid_at(now).unwrap_err();
    assert!(matches!(early, CertificateError::NotYetValid { .. }), "{early}");
    let backwards = Validity { not_before: now, not_after: now - day };
    assert!(ca.issue(&Subject { validity: backwards, ..subject(Role::Home, "attic") }).is_err());
    let endless = Validity { not_before: now, not_after: now + 365 * 10_000 * day };
    assert!(ca.issue(&Subject { validity: endless, ..subject(Role::Home, "attic") }).is_err());
}

#[test]
fn an_authority_survives_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ca");
    let ca = authority();
    ca.save(&path).unwrap();
    assert_eq!(mode(&path.join(file::CA_KEY)), 0o600);
    let again = Ca::load(&path).unwrap();
    assert_eq!(again.cert_pem(), ca.cert_pem());
    // What the loaded one issues is trusted by those who trust the first.
    let edge = ca.issue(&subject(Role::Edge, "vps")).unwrap();
    let home = again.issue(&subject(Role::Home, "attic")).unwrap();
    handshake(&ca, &edge, Role::Edge, &home).unwrap();

    authority().save(&dir.path().join("other")).unwrap();
    std::fs::copy(dir.path().join("other").join(file::CA_KEY), path.join(file::CA_KEY)).unwrap();
    let error = Ca::load(&path).unwrap_err();
    assert!(matches!(error, LoadError::Certificate { source: CertificateError::OtherKey, .. }), "{error:?}");
}

#[test]
fn an_identity_survives_the_disk_and_is_replaced_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep").join("identity");
    let ca = authority();
    let first = host(&ca, &subject(Role::Home, "attic"));
    first.save(&path).unwrap();
    let second = host(&ca, &subject(Role::Home, "cellar"));
    second.save(&path).unwrap();

    let read = HostIdentity::load(&path).unwrap();
    assert_eq!(read.info().unwrap().role.to_string(), "cloudathome://home/cellar");
    assert_eq!(read.tls_crypt.expose_secret(), second.tls_crypt.expose_secret());
    assert_eq!(mode(&path), 0o700);
    assert_eq!(mode(&path.join(file::HOST_KEY)), 0o600);
    assert_eq!(mode(&path.join(file::TLS_CRYPT)), 0o600);
    assert_eq!(std::fs::read_dir(dir.path().join("deep")).unwrap().count(), 1, "nothing is left behind");

    std::fs::write(path.join("notes.txt"), "mine").unwrap();
    let error = first.save(&path).unwrap_err();
    assert!(error.to_string().contains("notes.txt"), "{error}");
    assert!(HostIdentity::load(&path).is_ok(), "a refused save changes nothing");
}

#[test]
fn loading_says_which_file_is_wrong() {
    let ca = authority();
    let good = host(&ca, &subject(Role::Home, "attic"));
    let other = host(&authority(), &subject(Role::Home, "attic"));
    let broken = |spoil: &dyn Fn(&Path)| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity");
        good.save(&path).unwrap();
        spoil(&path);
        let error = HostIdentity::load(&path).unwrap_err();
        let cause = error.source().map(ToString::to_string).unwrap_or_default();
        format!("{error}: {cause}")
    };
    let put = |name: &'static str, text: String| move |dir: &Path| std::fs::write(dir.join(name), &text).unwrap();

    let missing = broken(&|dir| std::fs::remove_file(dir.join(file::HOST_KEY)).unwrap());
    assert!(missing.contains("host.key: it is missing"), "{missing}");
    let no_pem = broken(&put(file::HOST_CERT, "hello".to_owned()));
    assert!(no_pem.contains("host.crt") && no_pem.contains("no PEM certificate"), "{no_pem}");
    let other_ca = broken(&put(file::CA_CERT, other.ca_pem.clone()));
    assert!(other_ca.contains("host.crt") && other_ca.contains("not issued by this CA"), "{other_ca}");
    let other_key = broken(&put(file::HOST_KEY, other.identity.key_pem.expose_secret().to_owned()));
    assert!(other_key.contains("does not belong to this private key"), "{other_key}");
    let static_key = broken(&put(file::TLS_CRYPT, "-----BEGIN".to_owned()));
    assert!(static_key.contains("tls-crypt.key holds no OpenVPN static key"), "{static_key}");
}

#[test]
fn secrets_do_not_show() {
    let ca = authority();
    let shown = format!("{ca:?} {:?}", host(&ca, &subject(Role::Home, "attic")));
    assert!(!shown.contains("PRIVATE KEY") && !shown.contains("Static key"), "{shown}");
}

#[test]
fn static_keys_are_random_and_checked() {
    let key = generate_static_key();
    let text = key.expose_secret();
    assert!(check_static_key(text).is_ok());
    assert_eq!(text.lines().filter(|line| line.len() == 32).count(), 16);
    assert_ne!(text, generate_static_key().expose_secret());
    assert!(check_static_key(&text.replace('\n', "\r\n")).is_ok());
    for bad in [String::new(), text.replacen("V1", "V2", 1), text.replacen("-----\n", "-----\nxx", 1), {
        let start = text.find("V1-----\n").unwrap() + "V1-----\n".len();
        format!("{}{}", &text[..start], &text[start + 2..])
    }] {
        assert!(check_static_key(&bad).is_err());
    }
}

#[test]
fn rustls_accepts_both_agents_and_refuses_the_rest() {
    let ca = authority();
    let edge = ca.issue(&subject(Role::Edge, "vps")).unwrap();
    let home = ca.issue(&subject(Role::Home, "attic")).unwrap();
    let device = ca.issue(&subject(Role::Device, "phone")).unwrap();
    let stranger = authority().issue(&subject(Role::Home, "attic")).unwrap();
    let now = SystemTime::now();
    let validity = Validity { not_before: now - Duration::from_secs(200), not_after: now - Duration::from_secs(100) };
    let expired = ca.issue(&Subject { validity, ..subject(Role::Home, "attic") }).unwrap();

    handshake(&ca, &edge, Role::Edge, &home).unwrap();
    handshake(&ca, &home, Role::Home, &edge).unwrap();
    handshake(&ca, &edge, Role::Edge, &device).unwrap();
    for (server, name, client) in [
        (&device, Role::Device, &home),
        (&edge, Role::Home, &home),
        (&edge, Role::Edge, &stranger),
        (&edge, Role::Edge, &expired),
        (&expired, Role::Home, &edge),
    ] {
        assert!(handshake(&ca, server, name, client).is_err());
    }
}

/// A mutual TLS handshake in memory, the client expecting a server of `role`.
fn handshake(ca: &Ca, server: &Identity, role: Role, client: &Identity) -> Result<(), rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(der(ca.cert_pem())).unwrap();
    let roots = Arc::new(roots);
    let key = |pem: &SecretString| PrivateKeyDer::from_pem_slice(pem.expose_secret().as_bytes()).unwrap();

    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
    let server_config = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(vec![der(&server.cert_pem)], key(&server.key_pem))?;
    let client_config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![der(&client.cert_pem)], key(&client.key_pem))?;

    let name = ServerName::try_from(server_name(role)).unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(client_config), name)?;
    let mut server = rustls::ServerConnection::new(Arc::new(server_config))?;
    while client.is_handshaking() || server.is_handshaking() {
        let mut flight = Vec::new();
        client.write_tls(&mut flight).unwrap();
        server.read_tls(&mut flight.as_slice()).unwrap();
        server.process_new_packets()?;
        let mut flight = Vec::new();
        server.write_tls(&mut flight).unwrap();
        client.read_tls(&mut flight.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    Ok(())
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}
