//! An authority made, used, closed and taken up again, with a clock that is told.
#![expect(clippy::panic, clippy::unwrap_used, reason = "a helper that fails is a failed test")]

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use authority::code::{Fingerprint, JoinCode, Place, Secret};
use authority::{
    Authority, AuthorityError, CodeFailure, CodeState, CodesError, EnrolError, MAX_LIFE, NewCode, Refusal, RenewError,
};
use model::{HostId, Role};
use ovpn::tls_crypt_v2::{ClientKey, Metadata, ServerKey};
use pki::{CertificateInfo, CertificateRequest, PrivateKey, RevocationList, Serial, Validity};
use secrecy::ExposeSecret;

const HOUR: Duration = Duration::from_secs(3_600);

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn name(name: &str) -> HostId {
    name.parse().unwrap()
}

fn request() -> CertificateRequest {
    CertificateRequest::from_pem(&PrivateKey::generate().unwrap().request().unwrap()).unwrap()
}

fn place() -> Place {
    Place { address: Some(Ipv4Addr::new(192, 0, 2, 1)), port: 1194 }
}

fn code(authority: &mut Authority) -> NewCode {
    authority.new_code(&name("attic"), place(), HOUR, now()).unwrap()
}

fn refusal(result: Result<authority::Enrolled, EnrolError>) -> Refusal {
    match result {
        Err(EnrolError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

/// Every path under a directory, with its mode.
fn modes(dir: &Path) -> Vec<(String, u32)> {
    let mut found = vec![(dir.display().to_string(), fs::metadata(dir).unwrap().permissions().mode() & 0o777)];
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(modes(&path));
        } else {
            found.push((path.display().to_string(), fs::metadata(&path).unwrap().permissions().mode() & 0o777));
        }
    }
    found
}

#[test]
fn it_is_made_once_and_owned_by_one() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("sub/authority");
    assert!(matches!(Authority::open(&dir), Err(AuthorityError::Missing(_))));
    assert!(!Authority::is_at(&dir));
    let made = Authority::create(&dir, "ours", now()).unwrap();
    assert!(Authority::is_at(&dir));
    assert!(matches!(Authority::create(&dir, "ours", now()), Err(AuthorityError::Exists(_))));
    assert!(matches!(Authority::open(&dir), Err(AuthorityError::InUse(_))));
    let ca = made.ca_pem().to_owned();
    drop(made);
    let again = Authority::open(&dir).unwrap();
    assert_eq!((again.ca_pem(), again.name()), (ca.as_str(), "ours"));
    assert!(RevocationList::from_pem(again.list_pem(), &ca).unwrap().is_empty());
}

#[test]
fn everything_is_its_owners_only() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("authority");
    let mut authority = Authority::create(&dir, "ours", now()).unwrap();
    code(&mut authority);
    authority.issue(Role::Edge, &name("vps"), Validity::LEAF, now()).unwrap();
    for (path, mode) in modes(&dir) {
        let wanted = match Path::new(&path).is_dir() {
            true => 0o700,
            // No secret, behind a directory that nobody else enters.
            false if path.ends_with("ca/ca.crt") => 0o644,
            false => 0o600,
        };
        assert_eq!(mode, wanted, "{path}: {mode:o}");
    }
}

#[test]
fn what_is_issued_is_listed_and_revoked() {
    let root = tempfile::tempdir().unwrap();
    let mut authority = Authority::create(&root.path().join("authority"), "ours", now()).unwrap();
    let ca = authority.ca_pem().to_owned();
    let edge = authority.issue(Role::Edge, &name("vps"), HOUR, now()).unwrap();
    // One key, two certificates: they are told apart.
    let request = request();
    let home = authority.certify(&request, Role::Home, &name("attic"), HOUR, now()).unwrap();
    let later = authority.certify(&request, Role::Home, &name("attic"), HOUR * 2, now() + HOUR).unwrap();
    let (home, later) = (Serial::of(&home, &ca).unwrap(), Serial::of(&later, &ca).unwrap());
    assert_ne!(home, later);

    let info = CertificateInfo::from_pem(&edge.cert_pem).unwrap();
    assert_eq!(info.role.to_string(), "cloudathome://edge/vps");
    assert_eq!(info.not_after, now() + HOUR);
    let issued = authority.issued().unwrap();
    assert_eq!(
        issued.iter().map(|one| one.holder.to_string()).collect::<Vec<_>>(),
        ["cloudathome://home/attic", "cloudathome://home/attic", "cloudathome://edge/vps"]
    );
    assert_eq!(issued[0].serial, home);
    assert!(issued[0].counts_at(now()) && !issued[0].counts_at(now() + HOUR));

    authority.revoke(std::slice::from_ref(&home), now()).unwrap();
    let list = RevocationList::from_pem(authority.list_pem(), &ca).unwrap();
    assert!(list.is_revoked(&home) && !list.is_revoked(&later));
    assert_eq!(authority.issued().unwrap()[0].revoked, Some(now()));
    assert_eq!(authority.revoke_all(Role::Home, &name("attic"), now()).unwrap(), std::slice::from_ref(&later));
    assert_eq!(authority.revoke_all(Role::Device, &name("vps"), now()).unwrap(), []);
    let dir = authority.dir().to_owned();
    drop(authority);
    let authority = Authority::open(&dir).unwrap();
    assert_eq!(authority.issued().unwrap().iter().filter(|one| one.revoked.is_some()).count(), 2);
}

#[test]
fn client_keys_are_wrapped_for_the_server() {
    let root = tempfile::tempdir().unwrap();
    let authority = Authority::create(&root.path().join("authority"), "ours", now()).unwrap();
    let server = ServerKey::parse(authority.server_key().expose_secret()).unwrap();
    let client = ClientKey::parse(authority.client_key(now()).unwrap().expose_secret()).unwrap();
    let unwrapped = server.unwrap(client.wrapped()).unwrap();
    assert!(unwrapped.key == *client.key());
    assert_eq!(unwrapped.metadata, Metadata::Timestamp(1_800_000_000));
}

#[test]
fn a_code_lets_one_home_in() {
    let root = tempfile::tempdir().unwrap();
    let mut authority = Authority::create(&root.path().join("authority"), "ours", now()).unwrap();
    let made = code(&mut authority);
    let read = JoinCode::parse(made.code.to_text().expose_secret()).unwrap();
    assert_eq!(read, made.code);
    assert_eq!(read.fingerprint, Fingerprint::of(&pki::certificate_der(authority.ca_pem()).unwrap()));
    assert_eq!(authority.codes(now()), std::slice::from_ref(&made.info));
    // Nothing on the disk is the secret.
    let stored = fs::read_to_string(authority.dir().join("codes.json")).unwrap();
    assert!(!stored.contains(made.code.secret.to_hex().expose_secret()));

    let first = request();
    assert_eq!(refusal(authority.enrol(&Secret::random(), &first, now())), Refusal::Wrong);
    let enrolled = authority.enrol(&read.secret, &first, now()).unwrap();
    assert_eq!(enrolled.home, name("attic"));
    assert_eq!(enrolled.ca_pem, authority.ca_pem());
    let info = CertificateInfo::from_pem(&enrolled.cert_pem).unwrap();
    assert_eq!(info.role.to_string(), "cloudathome://home/attic");
    ClientKey::parse(enrolled.client_key.expose_secret()).unwrap();

    // Also after a restart it is used, but for who used it and did not hear the answer.
    let dir = authority.dir().to_owned();
    drop(authority);
    let mut authority = Authority::open(&dir).unwrap();
    assert_eq!(refusal(authority.enrol(&read.secret, &request(), now())), Refusal::Used);
    assert_eq!(authority.codes(now())[0].state, CodeState::Used(now()));
    authority.enrol(&read.secret, &first, now()).unwrap();
    assert_eq!(refusal(authority.enrol(&read.secret, &first, now() + HOUR)), Refusal::Used);

    // The last answer is the one that counts.
    let counting = authority.issued().unwrap().iter().filter(|one| one.counts_at(now())).count();
    assert_eq!(counting, 1);
}

#[test]
fn a_code_ends() {
    let root = tempfile::tempdir().unwrap();
    let mut authority = Authority::create(&root.path().join("authority"), "ours", now()).unwrap();
    let (late, ended) = (code(&mut authority), code(&mut authority));
    let revoked = authority.revoke_code(&ended.info.id, now()).unwrap();
    assert_eq!(revoked.state, CodeState::Revoked(now()));
    let again = authority.revoke_code(&ended.info.id, now());
    assert!(matches!(again, Err(CodeFailure::Refused(CodesError::Ended(_)))));
    let unknown = authority.revoke_code("nothing", now());
    assert!(matches!(unknown, Err(CodeFailure::Refused(CodesError::Unknown(_)))));
    assert_eq!(refusal(authority.enrol(&ended.code.secret, &request(), now())), Refusal::Revoked);
    assert_eq!(refusal(authority.enrol(&late.code.secret, &request(), now() + HOUR)), Refusal::Expired);
    assert_eq!(authority.codes(now() + HOUR)[0].state, CodeState::Expired);
    assert!(authority.issued().unwrap().is_empty());
    // After a week nobody remembers it.
    let later = now() + HOUR + MAX_LIFE + Duration::from_secs(1);
    authority.new_code(&name("attic"), place(), HOUR, later).unwrap();
    assert_eq!(authority.codes(later).len(), 1);
    assert_eq!(refusal(authority.enrol(&late.code.secret, &request(), later)), Refusal::Wrong);
}

#[test]
fn codes_have_limits() {
    let root = tempfile::tempdir().unwrap();
    let mut authority = Authority::create(&root.path().join("authority"), "ours", now()).unwrap();
    for life in [Duration::ZERO, Duration::from_millis(1), MAX_LIFE + Duration::from_secs(1)] {
        let refused = authority.new_code(&name("attic"), place(), life, now());
        assert!(matches!(refused, Err(CodeFailure::Refused(CodesError::Life))), "{life:?}");
    }
    for _ in 0..32 {
        code(&mut authority);
    }
    let refused = authority.new_code(&name("attic"), place(), HOUR, now());
    assert!(matches!(refused, Err(CodeFailure::Refused(CodesError::TooMany))));
    authority.new_code(&name("attic"), place(), HOUR, now() + HOUR).unwrap();
}

#[test]
fn what_cannot_be_stored_lets_nobody_in() {
    let root = tempfile::tempdir().unwrap();
    let mut authority = Authority::create(&root.path().join("authority"), "ours", now()).unwrap();
    let made = code(&mut authority);
    // A directory in the place of the file that is to be written.
    let blocked = authority.dir().join("codes.new");
    fs::create_dir(&blocked).unwrap();
    assert!(matches!(authority.enrol(&made.code.secret, &request(), now()), Err(EnrolError::Authority(_))));
    assert!(authority.issued().unwrap().is_empty());
    fs::remove_dir(&blocked).unwrap();
    authority.enrol(&made.code.secret, &request(), now()).unwrap();
}

#[test]
fn a_home_gets_a_successor_of_what_it_has_and_of_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    let mut authority = Authority::create(&root.path().join("authority"), "ours", now()).unwrap();
    let ca = authority.ca_pem().to_owned();
    let mut issue = |role, life| {
        let pem = authority.certify(&request(), role, &name("attic"), life, now()).unwrap();
        Serial::of(&pem, &ca).unwrap()
    };
    let (home, short, device) = (issue(Role::Home, HOUR), issue(Role::Home, HOUR / 2), issue(Role::Device, HOUR));
    let mut theirs = Authority::create(&root.path().join("other"), "theirs", now()).unwrap();
    let other = theirs.certify(&request(), Role::Home, &name("attic"), HOUR, now()).unwrap();
    let other = Serial::of(&other, theirs.ca_pem()).unwrap();
    for stranger in [device, other] {
        assert!(matches!(authority.renew(&stranger, &request(), now()), Err(RenewError::Unknown(_))));
    }
    let later = now() + HOUR / 2;
    assert!(matches!(authority.renew(&short, &request(), later), Err(RenewError::Ended(_))));

    let asked = request();
    let renewed = authority.renew(&home, &asked, later).unwrap();
    let info = CertificateInfo::from_pem(&renewed.cert_pem).unwrap();
    assert_eq!((info.role.to_string().as_str(), info.not_after), ("cloudathome://home/attic", later + Validity::LEAF));
    ClientKey::parse(renewed.client_key.expose_secret()).unwrap();
    // The answer may get lost: what it had goes on, until its end or that of its holder.
    let successor = Serial::of(&renewed.cert_pem, &ca).unwrap();
    authority.renew(&home, &request(), later).unwrap();
    authority.revoke_all(Role::Home, &name("attic"), later).unwrap();
    for gone in [home, successor] {
        assert!(matches!(authority.renew(&gone, &request(), later), Err(RenewError::Revoked(_))));
    }
}

#[test]
fn who_asks_for_one_after_the_other_gets_no_more() {
    let root = tempfile::tempdir().unwrap();
    let mut authority = Authority::create(&root.path().join("authority"), "ours", now()).unwrap();
    let ca = authority.ca_pem().to_owned();
    let first = authority.certify(&request(), Role::Home, &name("attic"), Validity::LEAF, now()).unwrap();
    let first = Serial::of(&first, &ca).unwrap();
    let got = (0..20).take_while(|_| authority.renew(&first, &request(), now()).is_ok()).count();
    assert!(got < 10, "{got}");
    assert!(matches!(authority.renew(&first, &request(), now()), Err(RenewError::TooMany)));
    authority.renew(&first, &request(), now() + 25 * HOUR).unwrap();
}

/// What an authority issues does not outlive it.
#[test]
fn nothing_ends_after_the_authority() {
    let root = tempfile::tempdir().unwrap();
    let mut authority = Authority::create(&root.path().join("authority"), "ours", now()).unwrap();
    let late = now() + Validity::CA - HOUR;
    let edge = authority.issue(Role::Edge, &name("vps"), Validity::LEAF, late).unwrap();
    assert_eq!(CertificateInfo::from_pem(&edge.cert_pem).unwrap().not_after, now() + Validity::CA);
}
