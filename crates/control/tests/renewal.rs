//! Home asks for a successor of its certificate.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod ends;
mod fake;
mod raw;

use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use control::{ControlTls, Successor, Successors};
use futures_util::future::BoxFuture;
use model::Role;
use pki::{
    Ca, CertificateRequest, HostIdentity, Identity, PrivateKey, RevocationList, Revoked, Serial, Subject, Validity,
};
use secrecy::ExposeSecret;

/// Issues for attic whoever asks, and notes of which certificate.
struct Issues {
    ca: Ca,
    asked: Mutex<Vec<Serial>>,
}

struct Shared(Arc<Issues>);

impl Successors for Shared {
    fn successor(&self, serial: Serial, request: CertificateRequest) -> BoxFuture<'static, Result<Successor, String>> {
        let issues = Arc::clone(&self.0);
        Box::pin(async move {
            issues.asked.lock().unwrap().push(serial);
            if issues.asked.lock().unwrap().len() > 3 {
                return Err("enough: try again tomorrow".to_owned());
            }
            let cert_pem = issues.ca.certify(&subject(), &request).unwrap();
            Ok(Successor { cert_pem, client_key: Some("a key".into()) })
        })
    }
}

fn subject() -> Subject {
    Subject { role: Role::Home, name: "attic".parse().unwrap(), validity: Validity::from_now(Validity::LEAF) }
}

fn tls(ca: &Ca, identity: &Identity) -> ControlTls {
    ControlTls::new(ca.cert_pem(), &identity.cert_pem, identity.key_pem.expose_secret()).unwrap()
}

/// The same authority twice, as it lies on disk.
fn twice() -> (Ca, Ca) {
    let dir = tempfile::tempdir().unwrap();
    let ca = ends::ca();
    ca.save(&dir.path().join("ca")).unwrap();
    (ca, Ca::load(&dir.path().join("ca")).unwrap())
}

#[tokio::test]
async fn the_certificate_in_force_is_what_is_renewed() {
    let (ca, issuing) = twice();
    let issues = Arc::new(Issues { ca: issuing, asked: Mutex::default() });
    let edge = ends::edge_of(ca, Some(Arc::new(Shared(Arc::clone(&issues)))));
    let before = edge.ca.issue(&subject()).unwrap();
    let ours = tls(&edge.ca, &before);
    let home = ends::home(&edge, edge.address, ours.clone());

    let key = PrivateKey::generate().unwrap();
    let successor = home.renewals.renew(key.request().unwrap()).await.unwrap();
    assert_eq!(successor.client_key.unwrap().expose_secret(), "a key");
    let identity = Identity { cert_pem: successor.cert_pem, key_pem: key.to_pem() };
    let host = HostIdentity { ca_pem: edge.ca.cert_pem().to_owned(), identity, tls_crypt: "".into() };
    assert_eq!(host.check().unwrap().role.to_string(), "cloudathome://home/attic");

    // The session goes on as it was; who asks is known by what is in force now.
    ours.replace(&host.ca_pem, &host.identity.cert_pem, host.identity.key_pem.expose_secret()).unwrap();
    home.renewals.renew(key.request().unwrap()).await.unwrap();
    let serial = |pem: &str| Serial::of(pem, edge.ca.cert_pem()).unwrap();
    assert_eq!(*issues.asked.lock().unwrap(), [serial(&before.cert_pem), serial(&host.identity.cert_pem)]);

    // What is no request, and what is refused, is told.
    let error = home.renewals.renew("nonsense".to_owned()).await.unwrap_err();
    assert!(error.contains("no PEM request"), "{error}");
    home.renewals.renew(key.request().unwrap()).await.unwrap();
    let error = home.renewals.renew(key.request().unwrap()).await.unwrap_err();
    assert_eq!(error, "the edge says: enough: try again tomorrow");
}

#[tokio::test]
async fn who_is_revoked_or_has_the_wrong_role_gets_none() {
    let (ca, issuing) = twice();
    let issues = Arc::new(Issues { ca: issuing, asked: Mutex::default() });
    let edge = ends::edge_of(ca, Some(Arc::new(Shared(Arc::clone(&issues)))));
    let stolen = edge.ca.issue(&subject()).unwrap();
    let device = edge.ca.issue(&Subject { role: Role::Device, ..subject() }).unwrap();
    let mut list = RevocationList::default();
    list.revoke(Serial::of(&stolen.cert_pem, edge.ca.cert_pem()).unwrap(), SystemTime::now());
    let list = edge.ca.sign_list(&mut list, SystemTime::now(), RevocationList::LIFE).unwrap();
    edge.tls.revoke(Revoked::from_pem(&list, edge.ca.cert_pem()).unwrap());
    for identity in [stolen, device] {
        let home = ends::home(&edge, edge.address, tls(&edge.ca, &identity));
        home.renewals.renew(PrivateKey::generate().unwrap().request().unwrap()).await.unwrap_err();
    }
    assert!(issues.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_edge_without_an_authority_says_so() {
    let edge = ends::edge();
    let home = ends::home(&edge, edge.address, raw::tls(&edge.ca, Role::Home, "attic"));
    let error = home.renewals.renew(PrivateKey::generate().unwrap().request().unwrap()).await.unwrap_err();
    assert!(error.contains("no authority of its own") && error.contains("agentctl pki issue"), "{error}");
}
