//! A home and an edge talk over real TLS on loopback; everybody else is refused.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod ends;
mod fake;
mod raw;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use control::{ConfigResult, ControlTls, EdgeEvent, HomeEvent};
use ends::{ca, edge, home};
use model::{
    DesiredConfig, Event, EventKind, Generation, Health, HostStatus, Role, ServiceAnnouncement, Subject, Timeline,
};
use pki::Validity;
use raw::tls;
use secrecy::ExposeSecret;
use tokio::sync::mpsc;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(20);

fn status(role: Role, name: &str) -> HostStatus {
    HostStatus::new(name.parse().unwrap(), role)
}

/// The next event but measurements, which come at any time.
async fn next<T: Debug>(events: &mut mpsc::Receiver<T>) -> T {
    loop {
        let event = any(events).await;
        if !format!("{event:?}").starts_with("Measured") {
            return event;
        }
    }
}

async fn any<T>(events: &mut mpsc::Receiver<T>) -> T {
    timeout(DEADLINE, events.recv()).await.expect("an event in time").expect("an open channel")
}

#[tokio::test]
async fn configuration_results_and_reports_cross() {
    let mut edge = edge();
    let mut home = home(&edge, edge.address, tls(&edge.ca, Role::Home, "attic"));
    assert!(matches!(next(&mut home.events).await, HomeEvent::Opened { peer } if peer.host.as_str() == "vps"));
    assert!(matches!(next(&mut edge.events).await, EdgeEvent::Opened { peer, .. } if peer.host.as_str() == "attic"));

    let desired = DesiredConfig {
        generation: Generation(4),
        domain: "example.test".parse().unwrap(),
        edge_address: "10.86.0.1".parse().unwrap(),
        hostnames: [("nextcloud".parse().unwrap(), "cloud.example.test".parse().unwrap())].into(),
        published: vec![],
    };
    edge.state.send_modify(|state| state.desired = Some(desired.clone()));
    assert!(matches!(next(&mut home.events).await, HomeEvent::Desired(Ok(got)) if got == desired));

    let result = ConfigResult { generation: Generation(4), outcome: Err("no such service".into()) };
    home.state.send_modify(|state| state.result = Some(result.clone()));
    assert!(matches!(next(&mut edge.events).await, EdgeEvent::Result { result: got, .. } if got == result));

    let service = ServiceAnnouncement {
        name: "nextcloud".parse().unwrap(),
        hostname: "cloud".into(),
        upstream: "10.86.0.2:8080".parse().unwrap(),
        health_path: "/status.php".into(),
        also: vec![],
        health_status: Some(200),
        well_known_dav: true,
        ingress: model::IngressOptions::default(),
        health: Health::Healthy,
        full: false,
    };
    home.state.send_modify(|state| {
        state.status = Some(status(Role::Home, "attic"));
        state.services = vec![service.clone()];
    });
    let EdgeEvent::Report { services, status: got, .. } = next(&mut edge.events).await else { panic!("no report") };
    assert_eq!((services, *got), (vec![service], status(Role::Home, "attic")));

    edge.state.send_modify(|state| state.status = Some(status(Role::Edge, "vps")));
    assert!(matches!(next(&mut home.events).await, HomeEvent::Report { status } if status.host.as_str() == "vps"));
    edge.stop.cancel();
}

/// Events with these numbers.
fn timeline(host: &str, numbers: std::ops::RangeInclusive<u64>) -> Arc<Timeline> {
    let event = |number| Event {
        number,
        at: 1000 * number,
        host: host.parse().unwrap(),
        subject: Subject::Service,
        service: Some("nextcloud".parse().unwrap()),
        kind: EventKind::Fault,
        text: format!("event {number}"),
    };
    Arc::new(Timeline { id: format!("timeline of {host}"), events: numbers.map(event).collect() })
}

#[tokio::test]
async fn what_happened_before_and_during_a_session_is_told_and_the_clocks_are_measured() {
    let mut edge = edge();
    edge.state.send_modify(|state| state.timeline = timeline("vps", 1..=150));
    let mut home = home(&edge, edge.address, tls(&edge.ca, Role::Home, "attic"));
    let mut measured = false;
    let mut heard: Vec<u64> = Vec::new();
    while heard.len() < 152 || !measured {
        match any(&mut home.events).await {
            HomeEvent::Happened(news) => {
                assert_eq!(news.timeline, "timeline of vps");
                assert!(news.events.len() <= proto::MAX_EVENTS);
                heard.extend(news.events.iter().map(|event| event.number));
                if heard.len() == 150 {
                    edge.state.send_modify(|state| state.timeline = timeline("vps", 20..=152));
                }
            }
            HomeEvent::Measured(clocks) => {
                assert!(clocks.round_trip < Duration::from_secs(1), "{clocks:?}");
                assert!(clocks.ahead_millis.abs() < 1000, "{clocks:?}");
                measured = true;
            }
            _ => {}
        }
    }
    assert_eq!(heard, (1..=152).collect::<Vec<_>>());
    home.state.send_modify(|state| state.timeline = timeline("attic", 7..=7));
    let told = loop {
        if let EdgeEvent::Happened { news, .. } = next(&mut edge.events).await {
            break news.events;
        }
    };
    assert_eq!(told, Vec::from(timeline("attic", 7..=7).events.clone()));
    edge.stop.cancel();
}

#[tokio::test]
async fn a_device_another_ca_and_an_expired_home_are_refused() {
    let mut edge = edge();
    let past = std::time::SystemTime::now() - Duration::from_secs(3600);
    let validity = Validity { not_before: past - Duration::from_secs(3600), not_after: past };
    let expired = edge.ca.issue(&pki::Subject { role: Role::Home, name: "attic".parse().unwrap(), validity }).unwrap();
    let expired = ControlTls::new(edge.ca.cert_pem(), &expired.cert_pem, expired.key_pem.expose_secret()).unwrap();
    for (what, tls) in [
        ("device", tls(&edge.ca, Role::Device, "phone")),
        ("edge", tls(&edge.ca, Role::Edge, "attic")),
        ("another home", tls(&edge.ca, Role::Home, "cellar")),
        ("expired", expired),
        ("other CA", tls(&ca(), Role::Home, "attic")),
    ] {
        let mut home = home(&edge, edge.address, tls);
        assert!(matches!(next(&mut home.events).await, HomeEvent::Closed { .. }), "{what} got in");
    }
    assert!(edge.events.try_recv().is_err(), "the agent heard of a refused peer");
    // And a real home still gets in.
    let mut home = home(&edge, edge.address, tls(&edge.ca, Role::Home, "attic"));
    assert!(matches!(next(&mut home.events).await, HomeEvent::Opened { .. }));
    assert!(matches!(next(&mut edge.events).await, EdgeEvent::Opened { .. }));
    edge.stop.cancel();
}

#[tokio::test]
async fn the_edge_notices_when_a_home_is_gone() {
    let mut edge = edge();
    let mut home = home(&edge, edge.address, tls(&edge.ca, Role::Home, "attic"));
    assert!(matches!(next(&mut home.events).await, HomeEvent::Opened { .. }));
    assert!(matches!(next(&mut edge.events).await, EdgeEvent::Opened { .. }));
    drop(home);
    assert!(matches!(next(&mut edge.events).await, EdgeEvent::Closed { .. }));
    edge.stop.cancel();
}
