//! Identities that change, and end, while agents talk.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod ends;
mod fake;
mod raw;

use std::time::{Duration, Instant, SystemTime};

use control::{ControlTls, EdgeEvent, HomeEvent};
use ends::{edge, home};
use model::Role;
use pki::{Ca, Identity, RevocationList, Revoked, Serial, Subject, Validity};
use secrecy::ExposeSecret;
use tokio::sync::mpsc;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(20);

fn issue(ca: &Ca, role: Role, name: &str) -> Identity {
    let validity = Validity::from_now(Validity::LEAF);
    ca.issue(&Subject { role, name: name.parse().unwrap(), validity }).unwrap()
}

fn tls(trusted: &str, identity: &Identity) -> ControlTls {
    ControlTls::new(trusted, &identity.cert_pem, identity.key_pem.expose_secret()).unwrap()
}

fn revoking(ca: &Ca, identity: &Identity) -> Revoked {
    let mut list = RevocationList::default();
    list.revoke(Serial::of(&identity.cert_pem, ca.cert_pem()).unwrap(), SystemTime::now());
    Revoked::from_pem(&ca.sign_list(&mut list, SystemTime::now(), RevocationList::LIFE).unwrap(), ca.cert_pem())
        .unwrap()
}

async fn wait<T, U>(events: &mut mpsc::Receiver<T>, pick: impl Fn(T) -> Option<U>) -> U {
    let found = async {
        loop {
            if let Some(found) = pick(events.recv().await.expect("an open channel")) {
                return found;
            }
        }
    };
    timeout(DEADLINE, found).await.expect("an event in time")
}

fn opened(event: EdgeEvent) -> Option<()> {
    matches!(event, EdgeEvent::Opened { .. }).then_some(())
}

fn closed(event: HomeEvent) -> Option<String> {
    if let HomeEvent::Closed { reason } = event { Some(reason) } else { None }
}

#[tokio::test]
async fn a_revoked_home_loses_its_session_within_seconds_and_gets_none() {
    let mut edge = edge();
    let stolen = issue(&edge.ca, Role::Home, "attic");
    let mut home = home(&edge, edge.address, tls(edge.ca.cert_pem(), &stolen));
    wait(&mut edge.events, opened).await;
    let revoked = Instant::now();
    edge.tls.revoke(revoking(&edge.ca, &stolen));
    wait(&mut edge.events, |event| matches!(event, EdgeEvent::Closed { .. }).then_some(())).await;
    wait(&mut home.events, closed).await;
    assert!(revoked.elapsed() < Duration::from_secs(2), "{:?}", revoked.elapsed());
    // It tries again, and is not let in; who has another certificate of that name is.
    wait(&mut home.events, closed).await;
    assert!(edge.events.try_recv().is_err());
    let _heir = ends::home(&edge, edge.address, tls(edge.ca.cert_pem(), &issue(&edge.ca, Role::Home, "attic")));
    wait(&mut edge.events, opened).await;
}

#[tokio::test]
async fn a_revoked_edge_is_left_and_not_called_again() {
    let mut edge = edge();
    let ours = tls(edge.ca.cert_pem(), &issue(&edge.ca, Role::Home, "attic"));
    let hacked = issue(&edge.ca, Role::Edge, "vps");
    edge.tls.replace(edge.ca.cert_pem(), &hacked.cert_pem, hacked.key_pem.expose_secret()).unwrap();
    let mut home = home(&edge, edge.address, ours.clone());
    wait(&mut edge.events, opened).await;
    ours.revoke(revoking(&edge.ca, &hacked));
    wait(&mut home.events, closed).await;
    let reason = wait(&mut home.events, closed).await;
    assert!(reason.contains("cloudathome://edge/vps has been revoked"), "{reason}");
}

/// First who trusts, then who shows: no session ends, and each new one begins with what is in force then.
#[tokio::test]
async fn another_authority_takes_over_without_an_end_of_the_session() {
    let mut edge = edge();
    let new = Ca::generate("new", Validity::from_now(Validity::CA)).unwrap();
    let both = format!("{}{}", edge.ca.cert_pem(), new.cert_pem());
    let ours = tls(edge.ca.cert_pem(), &issue(&edge.ca, Role::Home, "attic"));
    let home = home(&edge, edge.address, ours.clone());
    wait(&mut edge.events, opened).await;
    let (vps, attic) = (issue(&new, Role::Edge, "vps"), issue(&new, Role::Home, "attic"));
    edge.tls.replace(&both, &vps.cert_pem, vps.key_pem.expose_secret()).unwrap();
    // A home that does not trust the new authority yet has its session, and gets no other.
    home.state.send_modify(|state| state.status = Some(model::HostStatus::new("attic".parse().unwrap(), Role::Home)));
    wait(&mut edge.events, |event| matches!(event, EdgeEvent::Report { .. }).then_some(())).await;
    let mut stale = ends::home(&edge, edge.address, tls(edge.ca.cert_pem(), &issue(&edge.ca, Role::Home, "attic")));
    let reason = wait(&mut stale.events, closed).await;
    assert!(reason.contains("UnknownIssuer"), "{reason}");
    ours.replace(&both, &attic.cert_pem, attic.key_pem.expose_secret()).unwrap();
    assert!(ours.replace("", "", "").is_err());
    let _second = ends::home(&edge, edge.address, ours.clone());
    wait(&mut edge.events, opened).await;
    // The old one is trusted no more.
    edge.tls.replace(new.cert_pem(), &vps.cert_pem, vps.key_pem.expose_secret()).unwrap();
    ours.replace(new.cert_pem(), &attic.cert_pem, attic.key_pem.expose_secret()).unwrap();
    let _third = ends::home(&edge, edge.address, ours);
    wait(&mut edge.events, opened).await;
    let mut old = ends::home(&edge, edge.address, tls(&both, &issue(&edge.ca, Role::Home, "attic")));
    wait(&mut old.events, closed).await;
}

#[tokio::test]
async fn lists_reach_home_once_a_session_and_when_they_change() {
    let edge = edge();
    let tell = |lists: &str| edge.state.send_modify(|state| state.revocations = Some(lists.into()));
    tell("first");
    let mut home = home(&edge, edge.address, tls(edge.ca.cert_pem(), &issue(&edge.ca, Role::Home, "attic")));
    let lists = |event| if let HomeEvent::Revocations(lists) = event { Some(lists) } else { None };
    assert_eq!(wait(&mut home.events, lists).await, "first");
    let told = Instant::now();
    tell("second");
    assert_eq!(wait(&mut home.events, lists).await, "second");
    assert!(told.elapsed() < Duration::from_secs(2), "{:?}", told.elapsed());
    // Other news come without them.
    edge.state.send_modify(|state| state.status = Some(model::HostStatus::new("vps".parse().unwrap(), Role::Edge)));
    let report = |event| match event {
        HomeEvent::Revocations(lists) => Some(Some(lists)),
        HomeEvent::Report { .. } => Some(None),
        _ => None,
    };
    assert_eq!(wait(&mut home.events, report).await, None);
}
