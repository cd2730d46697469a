//! What one host may ask of the other: over real TLS on loopback, between real ends and with an edge that was hacked.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod ends;
mod fake;
mod raw;

use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use control::{
    Asked, EdgeEvent, EdgeOutput, EdgeService, HomeEvent, HomeLink, HomeOutput, Inspector, InspectorError,
    OperateError, Opposite, Rights, SILENCE_LIMIT,
};
use ends::{ca, introduction};
use fake::Recorder;
use futures_util::StreamExt;
use model::{
    ExecInput, ExecQuery, HostStatus, LogsQuery, Output, Refusal, Role, RoleUri, RunCommand, Seen, ServiceName,
};
use pki::Ca;
use proto::v1;
use raw::tls;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Response, Status, Streaming};

const DEADLINE: Duration = Duration::from_secs(20);

fn service(name: &str) -> ServiceName {
    name.parse().unwrap()
}

fn logs(name: &str) -> LogsQuery {
    LogsQuery { service: service(name), container: None, follow: true, tail: 7 }
}

/// What a side's watches are told by; they stay open as long as it.
type Kept = Box<dyn std::any::Any + Send>;

/// A host, as `agentctl` on it sees it and as its agent does.
struct Host<Event> {
    agentctl: Inspector,
    operator: Arc<Recorder>,
    asked: mpsc::Receiver<Asked>,
    events: mpsc::Receiver<Event>,
    kept: (TempDir, Kept),
}

impl<Event> Host<Event> {
    /// The agent of the other host.
    fn opposite(&self) -> Inspector {
        self.agentctl.opposite()
    }

    /// The same by a connection of its own, as every `agentctl` has one.
    async fn opposite_anew(&self) -> Inspector {
        Inspector::connect(&self.kept.0.path().join("agent.sock")).await.unwrap().opposite()
    }

    fn was_asked(&self) -> Vec<String> {
        self.operator.0.lock().unwrap().clone()
    }

    /// Waits for an event, and for the way to the other host.
    async fn until(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        let read = async {
            loop {
                let event = self.events.recv().await.expect("an open channel");
                if wanted(&event) {
                    return event;
                }
            }
        };
        timeout(DEADLINE, read).await.expect("an event in time")
    }

    /// Waits until the other host answers this one or forbids it.
    async fn reaches(&self) {
        let answers = async {
            while let Err(InspectorError::Away(_) | InspectorError::Call(_)) = self.opposite().tunnel().await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(DEADLINE, answers).await.expect("a way in time");
    }
}

async fn home(ca: &Ca, address: SocketAddrV4, edge_may: Rights, stop: &CancellationToken) -> Host<HomeEvent> {
    let (offered, operator, asked) = fake::offered("attic", Role::Home);
    let (way, opposite) = Opposite::none("the edge has not been reached yet");
    let status = HostStatus::new("attic".parse().unwrap(), Role::Home);
    let (output, state) = watch::channel(HomeOutput { status: Some(status), ..HomeOutput::default() });
    let (up, tunnel_up) = watch::channel(true);
    let (sender, events) = mpsc::channel(64);
    let link = HomeLink {
        us: introduction(Role::Home, "attic"),
        edge: RoleUri { role: Role::Edge, name: "vps".parse().unwrap() },
        address,
        device: "lo".into(),
        tls: tls(ca, Role::Home, "attic"),
        state,
        tunnel_up,
        events: sender,
        way,
        offered: offered.clone(),
        may: edge_may,
        stop: stop.clone(),
    };
    let (agentctl, dir) = fake::socket(offered, opposite, stop.clone()).await;
    tokio::spawn(link.run());
    Host { agentctl, operator, asked, events, kept: (dir, Box::new((output, up))) }
}

async fn edge(ca: &Ca, home_may: Rights, stop: &CancellationToken) -> (Host<EdgeEvent>, SocketAddrV4) {
    let (offered, operator, asked) = fake::offered("vps", Role::Edge);
    let (way, opposite) = Opposite::none("home has not connected yet");
    let (output, state) = watch::channel(EdgeOutput::default());
    let (sender, events) = mpsc::channel(64);
    let listener = control::bind_on_device("127.0.0.1:0".parse().unwrap(), "lo").unwrap();
    let SocketAddr::V4(address) = listener.local_addr().unwrap() else { unreachable!("an IPv4 listener") };
    let service = EdgeService::new(introduction(Role::Edge, "vps"), state, sender, way, stop.clone());
    let attic = RoleUri { role: Role::Home, name: "attic".parse().unwrap() };
    let (agentctl, dir) = fake::socket(offered.clone(), opposite, stop.clone()).await;
    let tls = tls(ca, Role::Edge, "vps");
    tokio::spawn(control::serve_edge(listener, tls, attic, service, offered, home_may, stop.clone()));
    (Host { agentctl, operator, asked, events, kept: (dir, Box::new(output)) }, address)
}

struct Pair {
    home: Host<HomeEvent>,
    edge: Host<EdgeEvent>,
    flows: watch::Sender<bool>,
    _stops: DropGuard,
}

/// Both hosts, with a network between them.
async fn pair(home_may: Rights, edge_may: Rights) -> Pair {
    let ca = ca();
    let stop = CancellationToken::new();
    let (edge, address) = edge(&ca, home_may, &stop).await;
    let (address, flows) = raw::network(address).await;
    let home = home(&ca, address, edge_may, &stop).await;
    home.reaches().await;
    edge.reaches().await;
    Pair { home, edge, flows, _stops: stop.drop_guard() }
}

/// All that a stream of steps says.
async fn steps(answers: Result<control::StepAnswers, OperateError>) -> Result<Vec<String>, OperateError> {
    let read = async { answers?.collect::<Vec<_>>().await.into_iter().collect() };
    timeout(DEADLINE, read).await.expect("the end of the steps")
}

#[tokio::test]
async fn home_inspects_and_operates_the_edge_and_the_edge_has_reports_of_home() {
    let mut pair = pair(Rights::of_opposite(Role::Edge), Rights::of_opposite(Role::Home)).await;
    let nextcloud = service("nextcloud");
    let mut far = pair.home.opposite();
    assert_eq!(far.tunnel().await.unwrap().device, "link of vps");
    assert_eq!(far.doctor().await.unwrap()[0].text, "there is room");
    assert_eq!(far.reach().await.unwrap()[0].seen, Seen::Answers);
    let mut operations = far.operations();
    let said = steps(operations.run(&nextcloud, RunCommand::Restart).await).await.unwrap();
    assert_eq!(said, ["stopping", "done"]);
    assert_eq!(operations.credentials(&nextcloud).await.unwrap()[0].value, "geheim");
    let mut lines = operations.logs(logs("nextcloud")).await.unwrap();
    let line = timeout(DEADLINE, lines.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(line, Output::Stderr { container: "nextcloud-db".into(), bytes: vec![0xff, b'\n'] });
    drop(lines);
    let (sender, input) = mpsc::channel(4);
    let query = ExecQuery {
        service: nextcloud.clone(),
        container: None,
        user: None,
        command: vec!["secret".into()],
        admin: false,
        terminal: None,
    };
    let typed = vec![0; 100_000];
    for part in [ExecInput::Stdin(typed.clone()), ExecInput::Eof] {
        sender.send(part).await.unwrap();
    }
    let output: Vec<_> = operations.exec(query, input).await.unwrap().map(Result::unwrap).collect().await;
    assert_eq!(output, [Output::Stdout { container: String::new(), bytes: typed }, Output::Ended(100_000)]);
    // The reason comes from there, too.
    let failed = steps(operations.run(&service("ghost"), RunCommand::Stop).await).await;
    assert!(matches!(failed, Err(OperateError::Refused(Refusal::NotFound(_)))), "{failed:?}");
    // The edge's timeline has who and what, and no words of a command.
    for what in ["restart", "its logins", "logs", "a command in its container", "stop"] {
        let asked = pair.edge.asked.recv().await.unwrap();
        assert_eq!((asked.on.as_str(), asked.what.as_str()), ("attic", what));
    }
    assert!(pair.home.was_asked().is_empty(), "that was home's own");

    let mut far = pair.edge.opposite();
    assert_eq!(far.tunnel().await.unwrap().device, "link of attic");
    assert_eq!(far.doctor().await.unwrap()[0].text, "there is room");
    let refused = steps(far.operations().run(&nextcloud, RunCommand::Stop).await).await;
    let Err(OperateError::Refused(Refusal::Refused(why))) = refused else { panic!("{refused:?}") };
    assert_eq!(
        why,
        "attic does not allow this from vps: control.edge_may in its configuration is \"inspect\", and this takes \"operate\""
    );
    assert!(pair.home.was_asked().is_empty());
}

#[tokio::test]
async fn each_hosts_own_configuration_decides() {
    let mut pair = pair(Rights::Nothing, Rights::Operate).await;
    let nextcloud = service("nextcloud");
    let refused = pair.home.opposite().doctor().await;
    let Err(InspectorError::Forbidden(why)) = refused else { panic!("{refused:?}") };
    assert!(why.contains("control.home_may in its configuration is \"nothing\""), "{why}");
    assert!(matches!(pair.home.opposite().reach().await, Err(InspectorError::Forbidden(_))));
    let refused = steps(pair.home.opposite().operations().rollback(&nextcloud).await).await;
    assert!(matches!(refused, Err(OperateError::Refused(Refusal::Refused(_)))), "{refused:?}");
    assert!(pair.edge.was_asked().is_empty());

    let said = steps(pair.edge.opposite().operations().run(&nextcloud, RunCommand::Restart).await).await.unwrap();
    assert_eq!(said, ["stopping", "done"]);
    assert_eq!(pair.home.asked.recv().await.unwrap().on.as_str(), "vps");
}

#[tokio::test]
async fn who_reads_no_logs_holds_up_neither_memory_nor_the_others() {
    // Both ways: home's calls share the session's connection.
    let mut pair = pair(Rights::Operate, Rights::Operate).await;
    let taken = [&pair.edge.operator, &pair.home.operator].map(|operator| Arc::clone(&operator.1));
    let mut unread = Vec::new();
    for _ in 0..8 {
        for asking in [pair.home.opposite_anew().await, pair.edge.opposite_anew().await] {
            unread.push(asking.operations().logs(logs("endless")).await.unwrap());
        }
    }
    // They stand still.
    let mut before = [0, 0];
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = [0, 1].map(|side| taken[side].load(Ordering::Relaxed));
        if now == before {
            break;
        }
        before = now;
    }
    assert!(before.iter().all(|bytes| (1..32 << 20).contains(bytes)), "{before:?} bytes wait");
    // Nobody else does, for longer than a session would last in silence.
    let end = Instant::now() + SILENCE_LIMIT + Duration::from_secs(1);
    while Instant::now() < end {
        pair.home.opposite().doctor().await.unwrap();
        pair.edge.opposite().doctor().await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    while let Ok(event) = pair.home.events.try_recv() {
        assert!(!matches!(event, HomeEvent::Closed { .. }), "{event:?}");
    }
    while let Ok(event) = pair.edge.events.try_recv() {
        assert!(!matches!(event, EdgeEvent::Closed { .. }), "{event:?}");
    }
    assert_eq!([0, 1].map(|side| taken[side].load(Ordering::Relaxed)), before);
}

#[tokio::test]
async fn a_call_ends_when_the_network_stands_still_and_the_reason_is_told() {
    let mut pair = pair(Rights::Operate, Rights::Operate).await;
    let mut followed = Vec::new();
    for host in [pair.home.opposite(), pair.edge.opposite()] {
        let mut lines = host.operations().logs(logs("nextcloud")).await.unwrap();
        timeout(DEADLINE, lines.next()).await.unwrap().unwrap().unwrap();
        followed.push(lines);
    }
    pair.flows.send_replace(false);
    let still = Instant::now();
    for mut lines in followed {
        let ended = timeout(DEADLINE, lines.next()).await.unwrap().unwrap();
        assert!(matches!(ended, Err(OperateError::Broken(_))), "{ended:?}");
    }
    assert!(still.elapsed() < SILENCE_LIMIT + Duration::from_secs(2), "after {:?}", still.elapsed());
    pair.home.until(|event| matches!(event, HomeEvent::Closed { .. })).await;
    pair.edge.until(|event| matches!(event, EdgeEvent::Closed { .. })).await;
    for (asking, other) in [(pair.home.opposite(), "vps"), (pair.edge.opposite(), "attic")] {
        let mut asking = asking;
        let Err(InspectorError::Away(why)) = asking.tunnel().await else { panic!("it answered") };
        assert!(why.contains(other) && why.contains("nothing heard from the peer"), "{why}");
    }
    pair.flows.send_replace(true);
    pair.home.reaches().await;
    pair.edge.reaches().await;
}

/// An edge that was hacked: it says what keeps the session open, and is asked for nothing.
struct Hacked(mpsc::Sender<mpsc::Sender<Result<v1::EdgeMessage, Status>>>);

#[tonic::async_trait]
impl v1::control_server::Control for Hacked {
    type SessionStream = ReceiverStream<Result<v1::EdgeMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::HomeMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (says, stream) = mpsc::channel(8);
        let hello = v1::edge_message::Message::Hello(introduction(Role::Edge, "vps").into());
        says.send(Ok(v1::EdgeMessage { message: Some(hello) })).await.unwrap();
        let mut home = request.into_inner();
        let again = says.clone();
        // Home is not silent, so neither is this end.
        tokio::spawn(async move {
            while let Some(Ok(_)) = home.next().await {
                let clock = v1::edge_message::Message::Clock(v1::Clock::default());
                if again.send(Ok(v1::EdgeMessage { message: Some(clock) })).await.is_err() {
                    return;
                }
            }
        });
        self.0.send(says).await.unwrap();
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// A home whose edge was hacked: the ways that it opened.
struct Attacked {
    home: Host<HomeEvent>,
    /// Of the edge to home.
    calls: Channel,
    session: mpsc::Sender<Result<v1::EdgeMessage, Status>>,
    _stops: DropGuard,
}

async fn attacked() -> Attacked {
    let ca = ca();
    let stop = CancellationToken::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let SocketAddr::V4(address) = listener.local_addr().unwrap() else { unreachable!("an IPv4 listener") };
    let acceptor = raw::acceptor(&ca, Role::Edge, "vps", &["h2", "cloudathome-calls"]);
    let home = home(&ca, address, Rights::of_opposite(Role::Home), &stop).await;
    let mut incoming = raw::incoming(listener, acceptor);
    // First the session, then the connection for calls.
    let first = incoming.next().await.unwrap();
    let (opened, mut sessions) = mpsc::channel(4);
    tokio::spawn(async move {
        let service = v1::control_server::ControlServer::new(Hacked(opened));
        let only = tokio_stream::once(first).chain(tokio_stream::pending());
        Server::builder().add_service(service).serve_with_incoming(only).await.unwrap();
    });
    let session = sessions.recv().await.unwrap();
    let calls = raw::over(incoming.next().await.unwrap().unwrap()).await;
    Attacked { home, calls, session, _stops: stop.drop_guard() }
}

#[tokio::test]
async fn a_hacked_edge_starts_changes_and_reads_nothing_at_home_beyond_the_closed_list() {
    let attacked = attacked().await;
    let calls = attacked.calls.clone();
    let mut operations = v1::operation_client::OperationClient::new(calls.clone());
    let name = || "nextcloud".to_owned();
    let run = v1::RunRequest { service: name(), command: v1::run_request::Command::Stop.into() };
    let logs = v1::LogsRequest { service: name(), container: String::new(), follow: false, tail: 1 };
    let start = v1::ExecStart { service: name(), command: vec!["id".into()], ..v1::ExecStart::default() };
    let exec = v1::ExecInput { input: Some(v1::exec_input::Input::Start(start)) };
    let upgrade = v1::UpgradeRequest { service: name(), to: "evil".into() };
    let outlook = v1::UpgradeRequest { service: name(), to: String::new() };
    let purge = v1::PurgeRequest { service: name(), confirm: name() };
    let answers = [
        operations.run(run).await.err(),
        operations.logs(logs).await.err(),
        operations.exec(tokio_stream::once(exec)).await.err(),
        operations.credentials(v1::CredentialsRequest { service: name() }).await.err(),
        operations.upgrade(upgrade).await.err(),
        operations.upgrade(outlook).await.err(),
        operations.rollback(v1::RollbackRequest { service: name() }).await.err(),
        operations.purge(purge).await.err(),
    ];
    for (call, refused) in answers.into_iter().enumerate() {
        assert_eq!(refused.map(|status| status.code()), Some(Code::PermissionDenied), "call {call}");
    }

    let mut inspection = v1::inspection_client::InspectionClient::new(calls.clone());
    assert_eq!(inspection.status(v1::StatusRequest {}).await.unwrap_err().code(), Code::PermissionDenied);
    let events = inspection.events(v1::EventsRequest { follow: true }).await;
    assert_eq!(events.unwrap_err().code(), Code::PermissionDenied);
    // The closed list of reports.
    assert_eq!(inspection.tunnel(v1::TunnelRequest {}).await.unwrap().into_inner().device, "link of attic");
    assert_eq!(inspection.doctor(v1::DoctorRequest {}).await.unwrap().into_inner().findings.len(), 1);
    // Where home looks it does not choose: the request has nothing in it.
    assert_eq!(inspection.reach(v1::ReachRequest {}).await.unwrap().into_inner().ports.len(), 1);

    // What is for agentctl, and what is for the edge, is not there at all.
    for origin in ["/opposite", "/opposite/opposite", "/.", "//"] {
        let origin = tonic::transport::Uri::from_static(origin);
        let mut around = v1::operation_client::OperationClient::with_origin(calls.clone(), origin);
        let refused = around.credentials(v1::CredentialsRequest { service: name() }).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unimplemented, "{refused:?}");
    }
    let mut control = v1::control_client::ControlClient::new(calls.clone());
    let refused = control.session(tokio_stream::once(v1::HomeMessage { message: None })).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);

    // Nor does the session start anything: unknown kinds are ignored, and a configuration is judged by home's agent.
    assert!(attacked.home.was_asked().is_empty(), "{:?}", attacked.home.was_asked());
    let mut asked = attacked.home.asked;
    assert!(asked.try_recv().is_err());
}

#[tokio::test]
async fn what_a_hacked_edge_has_running_at_home_ends_with_its_session() {
    let mut attacked = attacked().await;
    let mut inspection = v1::inspection_client::InspectionClient::new(attacked.calls.clone());
    inspection.tunnel(v1::TunnelRequest {}).await.unwrap();
    let goodbye = Status::aborted("and keep the other connection");
    attacked.session.send(Err(goodbye)).await.unwrap();
    attacked.home.until(|event| matches!(event, HomeEvent::Closed { .. })).await;
    let gone = async {
        while inspection.tunnel(v1::TunnelRequest {}).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(3), gone).await.expect("home ends it");
}
