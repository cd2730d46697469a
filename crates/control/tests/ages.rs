//! An end of the oldest release that must be understood, in the words of its own protocol, with an end of this release.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod ends;
mod fake;
mod raw;

use std::sync::Arc;
use std::time::Duration;

use control::{
    EdgeEvent, EdgeOutput, EdgeService, HomeEvent, HomeLink, HomeOutput, InspectorError, OperateError, Opposite, Rights,
};
use ends::{ca, introduction};
use model::{DesiredConfig, Generation, HostStatus, IngressOptions, Role, RoleUri, ServiceAnnouncement, Timeline};
use proto::baseline as old;
use raw::tls;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

const DEADLINE: Duration = Duration::from_secs(20);

fn old_hello(role: &str, host: &str) -> old::Hello {
    old::Hello {
        protocol: 1,
        host: host.into(),
        role: role.into(),
        agent_version: "0.1.0".into(),
        boot_id: "old boot".into(),
    }
}

fn old_status(role: &str, host: &str) -> old::HostStatus {
    let tunnel = Some(old::TunnelStatus { state: old::tunnel_status::State::Connected.into(), ..Default::default() });
    let control = Some(old::ControlStatus { connected: true, ..Default::default() });
    old::HostStatus { host: host.into(), role: role.into(), tunnel, control, ..Default::default() }
}

/// A status of this release with all that it has.
fn new_status(role: Role, name: &str) -> HostStatus {
    HostStatus {
        host: name.parse().unwrap(),
        role,
        version: "9.9.9".into(),
        boot_id: "boot".into(),
        uptime_seconds: 1,
        generation: Generation(3),
        tunnel: model::TunnelStatus::default(),
        control: model::ControlStatus { round_trip_micros: Some(7), ..model::ControlStatus::default() },
        containers: vec![],
        outside: vec![],
        identity: None,
        services: vec![],
    }
}

fn timeline(host: &str) -> Arc<Timeline> {
    let event = model::Event {
        number: 1,
        at: 1,
        host: host.parse().unwrap(),
        subject: model::Subject::Agent,
        service: None,
        kind: model::EventKind::Change,
        text: "something an old end knows nothing of".into(),
    };
    Arc::new(Timeline { id: "t".into(), events: [event].into() })
}

fn desired() -> DesiredConfig {
    DesiredConfig {
        generation: Generation(3),
        domain: "example.test".parse().unwrap(),
        edge_address: "10.86.0.1".parse().unwrap(),
        published: vec![],
        hostnames: [("nextcloud".parse().unwrap(), "cloud.example.test".parse().unwrap())].into(),
    }
}

fn service(name: &str, ingress: IngressOptions) -> ServiceAnnouncement {
    ServiceAnnouncement {
        name: name.parse().unwrap(),
        hostname: name.into(),
        also: vec![],
        upstream: "10.86.0.2:8080".parse().unwrap(),
        health_path: "/".into(),
        health_status: None,
        well_known_dav: false,
        ingress,
        full: false,
        health: model::Health::Healthy,
    }
}

async fn soon<T>(what: impl Future<Output = Option<T>>) -> T {
    timeout(DEADLINE, what).await.expect("in time").expect("not the end")
}

#[tokio::test]
async fn an_old_home_gets_along_with_this_edge() {
    let ca = ca();
    let stop = CancellationToken::new();
    let listener = control::bind_on_device("127.0.0.1:0".parse().unwrap(), "lo").unwrap();
    let address = listener.local_addr().unwrap();
    let (state, receiver) = watch::channel(EdgeOutput {
        desired: Some(desired()),
        status: Some(new_status(Role::Edge, "vps")),
        timeline: timeline("vps"),
        revocations: None,
    });
    let (sender, mut events) = mpsc::channel(16);
    let (offered, _, _) = fake::offered("vps", Role::Edge);
    let (way, opposite) = Opposite::none("");
    let service = EdgeService::new(introduction(Role::Edge, "vps"), receiver, sender, way, stop.clone());
    let attic = RoleUri { role: Role::Home, name: "attic".parse().unwrap() };
    tokio::spawn(control::serve_edge(
        listener,
        tls(&ca, Role::Edge, "vps"),
        attic,
        service,
        offered,
        Rights::Operate,
        stop.clone(),
    ));

    // The old home.
    let channel = raw::channel(&ca, Role::Home, "attic", address).await;
    let mut client = old::control_client::ControlClient::new(channel);
    let (outbound, stream) = mpsc::channel(8);
    let send = |message| outbound.try_send(old::HomeMessage { message: Some(message) }).unwrap();
    send(old::home_message::Message::Hello(old_hello("home", "attic")));
    let mut inbound = client.session(ReceiverStream::new(stream)).await.unwrap().into_inner();
    send(old::home_message::Message::ConfigResult(old::ConfigResult {
        generation: 3,
        accepted: true,
        reason: String::new(),
    }));
    let announced = old::ServiceAnnouncement {
        name: "nextcloud".into(),
        hostname: "cloud".into(),
        upstream: "10.86.0.2:8080".into(),
        health_path: "/status.php".into(),
        health: Some(old::Health { state: old::health::State::Healthy.into(), reason: String::new() }),
    };
    let report = old::HomeReport { status: Some(old_status("home", "attic")), services: vec![announced] };
    send(old::home_message::Message::Report(report));

    let (mut hello, mut wanted, mut status) = (None, None, None);
    while hello.is_none() || wanted.is_none() || status.is_none() {
        match soon(inbound.next()).await.unwrap().message {
            Some(old::edge_message::Message::Hello(message)) => hello = Some(message),
            Some(old::edge_message::Message::Desired(message)) => wanted = Some(message),
            Some(old::edge_message::Message::Report(message)) => status = Some(message),
            // What it knows nothing of.
            None => {}
        }
    }
    assert_eq!(wanted.unwrap().hostnames["nextcloud"], "cloud.example.test");
    assert_eq!(status.unwrap().host, "vps");
    assert!(matches!(soon(events.recv()).await, EdgeEvent::Opened { peer, .. } if peer.agent_version == "0.1.0"));
    assert!(matches!(soon(events.recv()).await, EdgeEvent::Result { result, .. } if result.outcome.is_ok()));
    let EdgeEvent::Report { services, status, .. } = soon(events.recv()).await else { panic!("no report") };
    assert_eq!((services.len(), status.host.as_str()), (1, "attic"));
    assert_eq!(status.control.round_trip_micros, None);
    // It cannot be asked from here.
    let (edge, _dir) = fake::socket(fake::offered("vps", Role::Edge).0, opposite, stop.clone()).await;
    let Err(InspectorError::Away(why)) = edge.opposite().doctor().await else { panic!("it answered") };
    assert!(why.contains("attic is of release 0.1.0, too old to be asked"), "{why}");
    let refused = edge.opposite().operations().credentials(&"nextcloud".parse().unwrap()).await;
    assert!(matches!(refused, Err(OperateError::Away(_))), "{refused:?}");
    drop(state);
    stop.cancel();
}

/// The old edge: it tells what it wants, and hands on what it hears.
struct OldEdge(mpsc::Sender<old::HomeMessage>);

#[tonic::async_trait]
impl old::control_server::Control for OldEdge {
    type SessionStream = ReceiverStream<Result<old::EdgeMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<old::HomeMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        use old::edge_message::Message;
        let (outbound, stream) = mpsc::channel(8);
        let desired = old::DesiredConfig {
            generation: 3,
            domain: "example.test".into(),
            edge_address: "10.86.0.1".into(),
            hostnames: [("nextcloud".to_owned(), "cloud.example.test".to_owned())].into(),
        };
        let mut inbound = request.into_inner();
        let heard = self.0.clone();
        tokio::spawn(async move {
            for message in [
                Message::Hello(old_hello("edge", "vps")),
                Message::Desired(desired),
                Message::Report(old_status("edge", "vps")),
            ] {
                outbound.send(Ok(old::EdgeMessage { message: Some(message) })).await.unwrap();
            }
            while let Some(Ok(message)) = inbound.next().await {
                if heard.send(message).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

#[tokio::test]
async fn this_home_gets_along_with_an_old_edge() {
    let ca = ca();
    let stop = CancellationToken::new();
    let acceptor = raw::acceptor(&ca, Role::Edge, "vps", &["h2"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let std::net::SocketAddr::V4(address) = listener.local_addr().unwrap() else { unreachable!("an IPv4 listener") };
    let (heard_by, mut heard) = mpsc::channel(64);
    tokio::spawn(async move {
        let incoming = raw::incoming(listener, acceptor);
        let service = old::control_server::ControlServer::new(OldEdge(heard_by));
        Server::builder().add_service(service).serve_with_incoming(incoming).await.unwrap();
    });

    // As every Nextcloud and Ghost has them.
    let limited = IngressOptions { login_paths: vec!["/login".into()], ..IngressOptions::default() };
    let guarded = IngressOptions { strip_prefix: Some("/inside".into()), ..IngressOptions::default() };
    let result = control::ConfigResult { generation: Generation(3), outcome: Ok(()) };
    let (_state, receiver) = watch::channel(HomeOutput {
        result: Some(result),
        status: Some(new_status(Role::Home, "attic")),
        services: vec![service("open", limited), service("guarded", guarded)],
        timeline: timeline("attic"),
    });
    let (sender, mut events) = mpsc::channel(16);
    let (_up, tunnel_up) = watch::channel(true);
    let (way, opposite) = Opposite::none("");
    let link = HomeLink {
        us: introduction(Role::Home, "attic"),
        edge: RoleUri { role: Role::Edge, name: "vps".parse().unwrap() },
        address,
        device: "lo".into(),
        tls: tls(&ca, Role::Home, "attic"),
        state: receiver,
        tunnel_up,
        events: sender,
        way,
        offered: fake::offered("attic", Role::Home).0,
        may: Rights::Inspect,
        stop: stop.clone(),
    };
    tokio::spawn(link.run());
    assert!(matches!(soon(events.recv()).await, HomeEvent::Opened { peer } if peer.agent_version == "0.1.0"));
    assert!(matches!(soon(events.recv()).await, HomeEvent::Desired(Ok(config)) if config == desired()));
    assert!(matches!(soon(events.recv()).await, HomeEvent::Report { status } if status.host.as_str() == "vps"));
    let (mut accepted, mut report) = (false, None);
    while !accepted || report.is_none() {
        match soon(heard.recv()).await.message {
            Some(old::home_message::Message::ConfigResult(result)) => accepted = result.accepted,
            Some(old::home_message::Message::Report(message)) => report = Some(message),
            Some(old::home_message::Message::Hello(_)) | None => {}
        }
    }
    let report = report.unwrap();
    assert_eq!(report.status.unwrap().generation, 3);
    // That edge would publish the other one to everybody.
    let announced: Vec<String> = report.services.into_iter().map(|service| service.name).collect();
    assert_eq!(announced, ["open"]);
    // It knows nothing of being asked.
    let (home, _dir) = fake::socket(fake::offered("attic", Role::Home).0, opposite, stop.clone()).await;
    let refused = home.opposite().tunnel().await;
    assert!(matches!(refused, Err(InspectorError::Unknown)), "{refused:?}");
    let refused = home.opposite().operations().credentials(&"ghost".parse().unwrap()).await;
    assert!(matches!(refused, Err(OperateError::Unknown)), "{refused:?}");
    stop.cancel();
}
