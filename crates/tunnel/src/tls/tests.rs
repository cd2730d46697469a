//! Handshakes between two ends, each with a clock of its own. Certificates are valid through the year 2030.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ovpn::endpoint::{Identity, TlsInput, TlsKey, TlsOutput};
use ovpn::wrap::Role;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
    date_time_ymd,
};
use tokio::sync::mpsc;

use super::{TlsError, TlsFactory};
use crate::certificates::{Clock, Fingerprint, NameCheck};
use crate::config::{Dial, Mode, TlsMaterial, TlsVersion, TunnelConfig};
use crate::report::TunnelIdentity;

const KEY: TlsKey = TlsKey { session: 0, generation: 0 };
/// The middle of 2030.
const NOW: i64 = 1_909_000_000;
const YEAR: i64 = 365 * 86_400;
const DEADLINE: Duration = Duration::from_secs(30);

#[derive(Clone)]
struct FakeClock(Arc<AtomicI64>);

impl FakeClock {
    fn at(time: i64) -> Self {
        Self(Arc::new(AtomicI64::new(time)))
    }

    fn set(&self, time: i64) {
        self.0.store(time, Ordering::Relaxed);
    }

    fn clock(&self) -> Clock {
        let this = self.clone();
        Clock::new(move || UNIX_EPOCH + Duration::from_secs(this.0.load(Ordering::Relaxed) as u64))
    }
}

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// Valid from 2020 up to `end`.
    fn until(end: i32) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(end, 1, 1));
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> TlsMaterial {
        let mut params = leaf(name);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        TlsMaterial { ca_pem: self.0.pem(), cert_pem: certificate.pem(), key_pem: key.serialize_pem().into() }
    }

    /// A list that is good from 2030 to 2031 and names these serial numbers.
    fn list(&self, revoked: &[u64]) -> String {
        let revoke = |&serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2030, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2030, 1, 1),
            next_update: date_time_ymd(2031, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(revoke).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).unwrap().pem().unwrap()
    }
}

/// For both roles.
fn leaf(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CountryName, "KG");
    params.distinguished_name.push(DnType::OrganizationName, "Example, Inc");
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![SanType::URI(format!("urn:test:{name}").try_into().unwrap())];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    (params.not_before, params.not_after) = (date_time_ymd(2030, 1, 1), date_time_ymd(2031, 1, 1));
    params
}

fn serial(number: u64) -> impl FnOnce(&mut CertificateParams) {
    move |params| params.serial_number = Some(SerialNumber::from(number))
}

fn config(tls: TlsMaterial, clock: &FakeClock) -> TunnelConfig {
    let mut config = TunnelConfig::new(Mode::Dial(Dial { remotes: Vec::new(), peer: None, beside: false }), tls, None);
    config.clock = clock.clock();
    config
}

fn dialer(config: &TunnelConfig, name: Option<NameCheck>) -> TlsFactory {
    TlsFactory::new(config, Role::Client, name).unwrap()
}

fn listener(config: &TunnelConfig) -> TlsFactory {
    TlsFactory::new(config, Role::Server, None).unwrap()
}

/// Two connections, each fed with what the other one sends.
struct Pair {
    inputs: [mpsc::Sender<TlsInput>; 2],
    outputs: [mpsc::Receiver<(TlsKey, TlsOutput)>; 2],
}

impl Pair {
    fn new(factories: [&TlsFactory; 2]) -> Self {
        let start = |factory: &TlsFactory| {
            let ((input, inputs), (outputs, output)) = (mpsc::channel(64), mpsc::channel(256));
            factory.spawn(KEY, inputs, outputs);
            (input, output)
        };
        let [(a, b), (c, d)] = factories.map(start);
        Self { inputs: [a, c], outputs: [b, d] }
    }

    /// The next thing that is not for the other connection, and whose it is.
    async fn next(&mut self) -> (usize, TlsOutput) {
        loop {
            let [first, second] = &mut self.outputs;
            let (side, output) = tokio::select! {
                Some((_, output)) = first.recv() => (0, output),
                Some((_, output)) = second.recv() => (1, output),
            };
            match output {
                // One that has failed takes nothing any more.
                TlsOutput::Ciphertext(bytes) => {
                    let _ = self.inputs[1 - side].send(TlsInput::Ciphertext(bytes)).await;
                }
                other => return (side, other),
            }
        }
    }

    /// Until both are up, or one side has refused.
    async fn shake(&mut self) -> Result<[Identity; 2], (usize, String)> {
        let mut seen = [None, None];
        loop {
            match tokio::time::timeout(DEADLINE, self.next()).await.unwrap() {
                (side, TlsOutput::Established(session)) => seen[side] = Some(session.identity),
                (side, TlsOutput::Failed(why)) => return Err((side, why)),
                _ => {}
            }
            if let [Some(first), Some(second)] = &seen {
                return Ok([first.clone(), second.clone()]);
            }
        }
    }

    /// Why the side was ended.
    async fn failure(&mut self, side: usize) -> String {
        loop {
            if let (found, TlsOutput::Failed(why)) = tokio::time::timeout(DEADLINE, self.next()).await.unwrap()
                && found == side
            {
                return why;
            }
        }
    }
}

async fn shake(dialer: &TlsFactory, listener: &TlsFactory) -> Result<[Identity; 2], (usize, String)> {
    Pair::new([dialer, listener]).shake().await
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(result: Result<T, (usize, String)>, side: usize, words: &[&str]) {
    let (refused, why) = result.unwrap_err();
    assert_eq!(refused, side, "{why}");
    for word in words {
        assert!(why.contains(word), "no '{word}' in '{why}'");
    }
}

#[tokio::test]
async fn certificates_are_judged_by_the_clock_of_the_tunnel() {
    let authority = Authority::until(2040);
    let clocks = [FakeClock::at(NOW), FakeClock::at(NOW)];
    let dialer = dialer(&config(authority.issue("dialer", |_| ()), &clocks[0]), None);
    let listener = listener(&config(authority.issue("listener", |_| ()), &clocks[1]));
    let [seen, _] = shake(&dialer, &listener).await.unwrap();
    assert_eq!((seen.common_name.as_str(), seen.san_uris.len()), ("listener", 1));
    for (side, clock) in clocks.iter().enumerate() {
        clock.set(NOW - YEAR);
        let early = ["not yet valid", "valid from Jan  1 00:00:00 2030 GMT", "this host's clock says", "2029 GMT"];
        assert_refused(shake(&dialer, &listener).await, side, &early);
        clock.set(NOW + YEAR);
        let late = ["certificate has expired", "valid until Jan  1 00:00:00 2031 GMT", "2031 GMT"];
        assert_refused(shake(&dialer, &listener).await, side, &late);
        clock.set(NOW);
        shake(&dialer, &listener).await.unwrap();
    }
}

#[tokio::test]
async fn an_authority_ends_by_the_clock_of_the_tunnel() {
    let authority = Authority::until(2031);
    let clock = FakeClock::at(NOW);
    let long = |params: &mut CertificateParams| params.not_after = date_time_ymd(2050, 1, 1);
    let dialer = dialer(&config(authority.issue("dialer", long), &clock), None);
    let listener = listener(&config(authority.issue("listener", long), &FakeClock::at(NOW)));
    shake(&dialer, &listener).await.unwrap();
    clock.set(NOW + YEAR);
    assert_refused(shake(&dialer, &listener).await, 0, &["has expired", "of its issuer", "CN=Authority"]);
}

#[tokio::test]
async fn names_are_checked() {
    let authority = Authority::until(2040);
    let clock = FakeClock::at(NOW);
    let listener = listener(&config(authority.issue("server-1", |_| ()), &clock));
    let own = config(authority.issue("dialer", |_| ()), &clock);
    let (name, prefix, subject) = (NameCheck::Name, NameCheck::Prefix, NameCheck::Subject);
    for good in [
        name("server-1".to_owned()),
        name("urn:test:server-1".to_owned()),
        prefix("server-".to_owned()),
        subject("C=KG, O=Example, Inc, CN=server-1".to_owned()),
    ] {
        shake(&dialer(&own, Some(good)), &listener).await.unwrap();
    }
    for (bad, word) in [
        (name("server".to_owned()), "not that of 'server'"),
        (name("Server-1".to_owned()), "not that of"),
        (prefix("erver".to_owned()), "does not begin with"),
        (prefix("urn:test".to_owned()), "does not begin with"),
        (subject("CN=server-1".to_owned()), "subject is 'C=KG, O=Example, Inc, CN=server-1'"),
    ] {
        assert_refused(shake(&dialer(&own, Some(bad)), &listener).await, 0, &[word]);
    }
}

#[tokio::test]
async fn certificates_are_marked_for_their_role() {
    let authority = Authority::until(2040);
    let clock = FakeClock::at(NOW);
    let of = |name: &str, change: fn(&mut CertificateParams)| config(authority.issue(name, change), &clock);
    let no_usage = |params: &mut CertificateParams| params.key_usages.clear();
    let no_marks = |params: &mut CertificateParams| params.extended_key_usages.clear();
    let good = |_: &mut CertificateParams| ();
    for (change, word) in [(no_usage as fn(&mut _), "no key usage"), (no_marks, "not marked for use by a TLS")] {
        let refusing = dialer(&of("dialer", good), None);
        assert_refused(shake(&refusing, &listener(&of("listener", change))).await, 0, &[word, "server"]);
        let refused = dialer(&of("dialer", change), None);
        assert_refused(shake(&refused, &listener(&of("listener", good))).await, 1, &[word, "client"]);
        let mut lenient = of("dialer", good);
        lenient.remote_cert_tls = false;
        shake(&dialer(&lenient, None), &listener(&of("listener", change))).await.unwrap();
    }
    let nameless = |params: &mut CertificateParams| params.distinguished_name.push(DnType::CommonName, "a\nb");
    assert_refused(shake(&dialer(&of("x", nameless), None), &listener(&of("l", good))).await, 1, &["control"]);
}

/// A certificate that nobody but its owner signed, and its fingerprint.
fn self_signed(name: &str) -> (TlsMaterial, Fingerprint) {
    let key = KeyPair::generate().unwrap();
    let certificate = leaf(name).self_signed(&key).unwrap();
    let x509 = openssl::x509::X509::from_der(certificate.der()).unwrap();
    let digest = x509.digest(openssl::hash::MessageDigest::sha256()).unwrap();
    let tls = TlsMaterial { ca_pem: String::new(), cert_pem: certificate.pem(), key_pem: key.serialize_pem().into() };
    (tls, Fingerprint(digest.as_ref().try_into().unwrap()))
}

#[tokio::test]
async fn fingerprints_stand_for_an_authority() {
    let clocks = [FakeClock::at(NOW), FakeClock::at(NOW)];
    let ((ours, our_print), (theirs, their_print)) = (self_signed("dialer"), self_signed("listener"));
    let of = |tls: &TlsMaterial, clock: &FakeClock, prints: &[Fingerprint]| {
        let mut config = config(tls.clone(), clock);
        config.peer_fingerprints = prints.to_vec();
        config
    };
    let other = Fingerprint([7; 32]);
    let good_dialer = dialer(&of(&ours, &clocks[0], &[other, their_print]), None);
    let good_listener = listener(&of(&theirs, &clocks[1], &[our_print]));
    shake(&good_dialer, &good_listener).await.unwrap();

    let wrong = listener(&of(&theirs, &clocks[1], &[other]));
    assert_refused(shake(&good_dialer, &wrong).await, 1, &["fingerprint", &our_print.to_string()]);
    let wrong = dialer(&of(&ours, &clocks[0], &[other]), None);
    assert_refused(shake(&wrong, &good_listener).await, 0, &["fingerprint", &their_print.to_string()]);
    for (side, clock) in clocks.iter().enumerate() {
        clock.set(NOW + YEAR);
        assert_refused(shake(&good_dialer, &good_listener).await, side, &["this host's clock"]);
        clock.set(NOW);
    }

    // One that an authority signed is taken as well; beside an authority both have to be right.
    let authority = Authority::until(2040);
    let issued = authority.issue("listener", |_| ());
    let x509 = openssl::x509::X509::from_pem(issued.cert_pem.as_bytes()).unwrap();
    let digest = x509.digest(openssl::hash::MessageDigest::sha256()).unwrap();
    let print = Fingerprint(digest.as_ref().try_into().unwrap());
    let issued_listener =
        listener(&of(&TlsMaterial { ca_pem: String::new(), ..issued.clone() }, &clocks[1], &[our_print]));
    shake(&dialer(&of(&ours, &clocks[0], &[print]), None), &issued_listener).await.unwrap();
    let both = |prints: &[Fingerprint]| {
        dialer(&of(&TlsMaterial { ca_pem: authority.0.pem(), ..ours.clone() }, &clocks[0], prints), None)
    };
    shake(&both(&[print]), &issued_listener).await.unwrap();
    assert_refused(shake(&both(&[other]), &issued_listener).await, 0, &["fingerprint"]);
    assert_refused(shake(&both(&[their_print]), &good_listener).await, 0, &["self-signed"]);

    assert!(matches!(TlsFactory::new(&of(&ours, &clocks[0], &[]), Role::Client, None), Err(TlsError::Empty("CA"))));
}

#[tokio::test]
async fn versions_are_bounded() {
    let authority = Authority::until(2040);
    let clock = FakeClock::at(NOW);
    let of = |lowest, highest| {
        let mut config = config(authority.issue("somebody", |_| ()), &clock);
        (config.tls_version_min, config.tls_version_max) = (lowest, highest);
        config
    };
    let old = of(TlsVersion::V1_2, Some(TlsVersion::V1_2));
    let new = of(TlsVersion::V1_3, None);
    let any = of(TlsVersion::V1_2, None);
    for (one, other, meet) in [(&old, &any, true), (&any, &new, true), (&old, &new, false), (&new, &old, false)] {
        assert_eq!(shake(&dialer(one, None), &listener(other)).await.is_ok(), meet);
    }
}

/// A list of `authority` in a file, and a listener that reads it.
fn revoking(authority: &Authority, clock: &FakeClock, path: &Path) -> Result<TlsFactory, TlsError> {
    let mut config = config(authority.issue("listener", serial(1)), clock);
    config.crl = Some(path.to_owned());
    TlsFactory::new(&config, Role::Server, None)
}

#[tokio::test]
async fn revocation_takes_effect_while_running() {
    let authority = Authority::until(2040);
    let clock = FakeClock::at(NOW);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("crl.pem");
    fs::write(&path, authority.list(&[9])).unwrap();
    let listener = revoking(&authority, &clock, &path).unwrap();
    let until = UNIX_EPOCH + Duration::from_secs(1_924_992_000);
    assert_eq!(listener.crl_next_update(), Some(until));
    let [first, second] = [2, 3].map(|number| dialer(&config(authority.issue("dialer", serial(number)), &clock), None));
    let mut connected = Pair::new([&first, &listener]);
    let mut others = Pair::new([&second, &listener]);
    connected.shake().await.unwrap();
    others.shake().await.unwrap();

    // Broken, then missing: what was read before goes on, and ends nobody.
    fs::write(&path, "nonsense").unwrap();
    shake(&first, &listener).await.unwrap();
    fs::remove_file(&path).unwrap();
    shake(&first, &listener).await.unwrap();

    fs::write(&path, authority.list(&[9, 2])).unwrap();
    assert_refused(shake(&first, &listener).await, 1, &["revoked"]);
    assert!(connected.failure(1).await.contains("revoked"));
    shake(&second, &listener).await.unwrap();
    let message = b"still here".to_vec();
    others.inputs[0].send(TlsInput::Message(message.clone())).await.unwrap();
    assert!(matches!(others.next().await, (1, TlsOutput::Message(got)) if got == message));
    fs::write(&path, "nonsense").unwrap();
    assert_refused(shake(&first, &listener).await, 1, &["revoked"]);
}

#[tokio::test]
async fn lists_are_judged_by_the_clock_of_the_tunnel() {
    let authority = Authority::until(2040);
    let clock = FakeClock::at(NOW);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("crl.pem");
    fs::write(&path, authority.list(&[])).unwrap();
    let long = |params: &mut CertificateParams| {
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2050, 1, 1));
    };
    let dialer = dialer(&config(authority.issue("dialer", long), &FakeClock::at(NOW)), None);
    let listener = revoking(&authority, &clock, &path).unwrap();
    shake(&dialer, &listener).await.unwrap();
    clock.set(NOW + YEAR);
    assert_refused(shake(&dialer, &listener).await, 1, &["CRL has expired"]);
    clock.set(NOW - YEAR);
    assert_refused(shake(&dialer, &listener).await, 1, &["CRL is not yet valid"]);
}

#[tokio::test]
async fn lists_must_be_of_the_authority() {
    let (authority, other) = (Authority::until(2040), Authority::until(2040));
    let clock = FakeClock::at(NOW);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("crl.pem");
    let error = |path: &Path| revoking(&authority, &clock, path).err().unwrap().to_string();
    assert!(error(&path).contains("No such file"), "{}", error(&path));
    for (text, word) in [
        ("", "no PEM list"),
        ("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", "cannot use"),
        (other.list(&[]).as_str(), "not signed by the authority"),
    ] {
        fs::write(&path, text).unwrap();
        assert!(error(&path).contains(word), "{}", error(&path));
    }
    // A list of somebody else says nothing of our authority's certificates.
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Somebody else");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let somebody = Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap());
    fs::write(&path, somebody.list(&[])).unwrap();
    assert!(error(&path).contains("of the tunnel's authority"), "{}", error(&path));
    // Both in one file.
    fs::write(&path, somebody.list(&[]) + &authority.list(&[])).unwrap();
    let listener = revoking(&authority, &clock, &path).unwrap();
    let dialer = dialer(&config(authority.issue("dialer", |_| ()), &clock), None);
    shake(&dialer, &listener).await.unwrap();
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW as u64);
    assert!(listener.crl_next_update().is_some_and(|end| end > now));
}

/// Two authorities of one name are trusted, each with its list; then the older one is no more.
#[tokio::test]
async fn another_identity_counts_for_connections_that_begin_after_it() {
    let (old, new) = (Authority::until(2040), Authority::until(2040));
    let clock = FakeClock::at(NOW);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("crl.pem");
    fs::write(&path, old.list(&[]) + &new.list(&[7])).unwrap();
    let both = |tls: TlsMaterial| TlsMaterial { ca_pem: old.0.pem() + &new.0.pem(), ..tls };
    let issue = |authority: &Authority, number| {
        authority.issue("somebody", |params| {
            params.use_authority_key_identifier_extension = true;
            serial(number)(params);
        })
    };
    let listener = listener(&config(both(issue(&old, 1)), &clock));
    let with = |tls: TlsMaterial, crl: Option<&Path>| TunnelIdentity {
        tls,
        crl: crl.map(Path::to_owned),
        protection: None.into(),
    };
    let of_old = dialer(&config(both(issue(&old, 2)), &clock), None);
    let of_new = dialer(&config(issue(&new, 3), &clock), None);
    let revoked = dialer(&config(both(issue(&new, 7)), &clock), None);
    let mut running = Pair::new([&revoked, &listener]);
    running.shake().await.unwrap();
    assert_refused(shake(&of_new, &listener).await, 0, &["of its issuer"]);

    // The lists count at once, also for connections that began without.
    listener.replace(&with(both(issue(&new, 4)), Some(&path))).unwrap();
    assert!(running.failure(1).await.contains("revoked"));
    for dialer in [&of_old, &of_new] {
        shake(dialer, &listener).await.unwrap();
    }
    assert_refused(shake(&revoked, &listener).await, 1, &["revoked"]);

    // What cannot be used changes nothing.
    let stolen = TlsMaterial { key_pem: issue(&new, 5).key_pem, ..issue(&new, 6) };
    let nobody = TlsMaterial { ca_pem: String::new(), ..issue(&new, 6) };
    for (tls, crl) in [(stolen, Some(&*path)), (nobody, None), (issue(&new, 6), Some(Path::new("/nonexistent")))] {
        assert!(listener.replace(&with(tls, crl)).is_err());
        shake(&of_new, &listener).await.unwrap();
    }
    assert!(listener.crl_next_update().is_some());
    fs::write(&path, new.list(&[])).unwrap();
    listener.replace(&with(issue(&new, 8), Some(&path))).unwrap();
    assert_refused(shake(&of_old, &listener).await, 1, &["of its issuer"]);
    shake(&of_new, &listener).await.unwrap();
}
