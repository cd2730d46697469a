use std::path::Path;

use model::Role;
use pki::{Ca, CertificateRequest, RevocationList, Subject, Validity, generate_static_key};

use super::*;

const DAY: Duration = Duration::from_secs(86_400);

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn ca(name: &str) -> Ca {
    Ca::generate(name, Validity::from(now(), Validity::CA)).unwrap()
}

fn subject(from: SystemTime, life: Duration) -> Subject {
    Subject { role: Role::Home, name: "attic".parse().unwrap(), validity: Validity::from(from, life) }
}

/// An identity of 300 days in a directory.
fn stored(ca: &Ca, dir: &Path) -> HostIdentity {
    let identity = ca.issue(&subject(now(), 300 * DAY)).unwrap();
    let identity = HostIdentity { ca_pem: ca.cert_pem().to_owned(), identity, tls_crypt: generate_static_key() };
    identity.save(dir).unwrap();
    identity
}

fn issue(ca: &Ca, asked: &Asked, subject: &Subject) -> Result<Successor, String> {
    let request = CertificateRequest::from_pem(&asked.request).unwrap();
    Ok(Successor { cert_pem: ca.certify(subject, &request).unwrap(), client_key: None })
}

#[test]
fn at_two_thirds_of_its_life_an_identity_is_renewed_and_its_list_stays() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("identity");
    let ca = ca("ours");
    let before = stored(&ca, &dir);
    let list = ca.sign_list(&mut RevocationList::default(), now(), RevocationList::LIFE).unwrap();
    RevocationList::save(&list, &dir.join(file::REVOKED)).unwrap();
    let mut renewal = Renewal::new(dir.clone());
    assert!(renewal.begin(&before, now() + 199 * DAY).is_none());
    let due = now() + 201 * DAY;
    let asked = renewal.begin(&before, due).unwrap();
    assert!(renewal.finish(&asked, issue(&ca, &asked, &subject(due, 300 * DAY)), due));
    let after = HostIdentity::load(&dir).unwrap();
    assert_eq!(after.info().unwrap().not_after, due + 300 * DAY);
    let (old, new) = (before.identity.key_pem.expose_secret(), after.identity.key_pem.expose_secret());
    assert_ne!(old, new, "a new certificate has a new key");
    assert_eq!(fs::read_to_string(dir.join(file::REVOKED)).unwrap(), list);
    // Until it is in force nothing more is asked for.
    assert!(renewal.begin(&before, due).is_none() && renewal.begin(&after, due).is_none());
}

#[test]
fn an_answer_that_cannot_be_used_changes_nothing_and_is_told() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("identity");
    let (ours, theirs) = (ca("ours"), ca("theirs"));
    let before = stored(&ours, &dir);
    let due = now() + 250 * DAY;
    let good = subject(due, 300 * DAY);
    let asked = || Renewal::new(dir.clone()).begin(&before, due).unwrap();
    let refused = |asked: &Asked, answer, wanted: &str| {
        let mut renewal = Renewal::new(dir.clone());
        assert!(!renewal.finish(asked, answer, due));
        assert!(renewal.trouble().unwrap().contains(wanted), "{wanted}: {:?}", renewal.trouble());
        assert!(HostIdentity::load(&dir).unwrap().is_same(&before), "{wanted}");
    };
    let one = asked();
    refused(&one, Err("the edge says: no".into()), "the edge says: no");
    refused(&one, issue(&theirs, &one, &good), "not issued by this CA");
    refused(&one, issue(&ours, &asked(), &good), "does not belong to this private key");
    let cellar = Subject { name: "cellar".parse().unwrap(), ..good.clone() };
    refused(&one, issue(&ours, &one, &cellar), "home/cellar");
    refused(&one, issue(&ours, &one, &Subject { role: Role::Device, ..good.clone() }), "device/attic");
    refused(&one, issue(&ours, &one, &subject(due - 20 * DAY, 10 * DAY)), "expired 10 days ago");
    refused(&one, issue(&ours, &one, &subject(due, DAY)), "ends no later");
    // Somebody joined again while the answer was on its way.
    let other = stored(&ours, &dir);
    let mut renewal = Renewal::new(dir.clone());
    assert!(!renewal.finish(&one, issue(&ours, &one, &good), due));
    assert!(HostIdentity::load(&dir).unwrap().is_same(&other));
}

#[test]
fn it_is_tried_again_for_as_long_as_it_takes_and_not_too_often() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("identity");
    let before = stored(&ca("ours"), &dir);
    let mut renewal = Renewal::new(dir);
    let mut attempts = 0;
    let (mut at, mut last) = (now() + 201 * DAY, None::<SystemTime>);
    while at < now() + 300 * DAY {
        if let Some(asked) = renewal.begin(&before, at) {
            renewal.finish(&asked, Err("away".into()), at);
            let waited = last.map(|last| at.duration_since(last).unwrap());
            assert!(waited.is_none_or(|waited| waited <= RETRY_MAX + LOOK), "{waited:?}");
            last = Some(at);
            attempts += 1;
        }
        at += LOOK;
    }
    assert!((99 * 4..99 * 8 + 20).contains(&attempts), "{attempts}");
    // A clock that was set back is no reason to wait for years.
    assert!(renewal.begin(&before, now() + 205 * DAY).is_some());
}

#[test]
fn who_would_gain_nothing_does_not_ask() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("identity");
    let ca = Ca::generate("ours", Validity::from(now(), 300 * DAY)).unwrap();
    let before = stored(&ca, &dir);
    let mut renewal = Renewal::new(dir);
    assert!(renewal.begin(&before, now() + 250 * DAY).is_none());
    assert!(renewal.trouble().unwrap().contains("the authority itself ends"), "{:?}", renewal.trouble());
}

#[test]
fn a_list_counts_if_it_is_ours_and_not_an_older_one() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("identity");
    let (ours, theirs) = (ca("ours"), ca("theirs"));
    stored(&ours, &dir);
    let mut renewal = Renewal::new(dir.clone());
    let mut list = RevocationList::default();
    let mut sign = || ours.sign_list(&mut list, now(), RevocationList::LIFE).unwrap();
    let (first, second) = (sign(), sign());
    assert!(renewal.take_lists(&first, now()) && renewal.take_lists(&second, now()));
    let foreign = theirs.sign_list(&mut RevocationList::default(), now(), RevocationList::LIFE).unwrap();
    let late = now() + 2 * RevocationList::LIFE;
    for (lists, at, wanted) in [
        (first.as_str(), now(), "older than the one that is in force"),
        (&foreign, now(), "not signed by this authority"),
        ("nonsense", now(), "not signed by this authority"),
        (&sign(), late, "its time is over"),
    ] {
        assert!(!renewal.take_lists(lists, at));
        assert!(renewal.trouble().unwrap().contains(wanted), "{wanted}: {:?}", renewal.trouble());
        assert_eq!(fs::read_to_string(dir.join(file::REVOKED)).unwrap(), second);
    }
    assert!(renewal.take_lists(&second, now()) && renewal.trouble().is_none());
    // One that is broken gives way.
    fs::write(dir.join(file::REVOKED), "half a li").unwrap();
    assert!(renewal.take_lists(&second, now()));
}

/// Issues at once.
struct Issues(Ca);

impl Issuer for Issues {
    fn renew(&self, request: String) -> BoxFuture<'static, Result<Successor, String>> {
        let request = CertificateRequest::from_pem(&request).unwrap();
        let subject = subject(SystemTime::now(), 300 * DAY);
        let cert_pem = self.0.certify(&subject, &request).unwrap();
        Box::pin(async move { Ok(Successor { cert_pem, client_key: None }) })
    }
}

#[tokio::test]
async fn what_is_due_is_in_force_without_a_restart() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("identity");
    let ca = Ca::generate("ours", Validity::from(SystemTime::now() - 250 * DAY, Validity::CA)).unwrap();
    let identity = ca.issue(&subject(SystemTime::now() - 250 * DAY, 300 * DAY)).unwrap();
    let before = HostIdentity { ca_pem: ca.cert_pem().to_owned(), identity, tls_crypt: generate_static_key() };
    before.save(&dir).unwrap();
    let own = crate::OwnIdentity::open(dir.clone(), None, before.clone()).unwrap();
    let mut in_force = own.subscribe();
    let renewer = Renewer::new(dir, Some(Arc::new(Issues(ca))), in_force.clone(), own.ends(), watch::channel(None).1);
    let mut status = renewer.status();
    let first = status.borrow().certificate_ends;
    let stop = CancellationToken::new();
    tokio::spawn(own.run(stop.clone()));
    tokio::spawn(renewer.run(stop.clone()));
    let renewed = in_force.wait_for(|in_force| !in_force.identity.is_same(&before));
    tokio::time::timeout(Duration::from_secs(20), renewed).await.unwrap().unwrap();
    let told = status.wait_for(|status| status.certificate_ends > first);
    assert_eq!(tokio::time::timeout(Duration::from_secs(20), told).await.unwrap().unwrap().trouble, None);
    stop.cancel();
}
