//! What a session does on a network that stands still, with a peer that does not read, and with messages that are too long.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod ends;
mod fake;
mod raw;

use std::net::SocketAddr;
use std::time::Duration;

use control::{EdgeEvent, HomeEvent, SILENCE_LIMIT};
use ends::{Edge, edge, home, introduction};
use model::{ContainerState, ContainerStatus, Generation, HostStatus, Role};
use proto::v1;
use raw::tls;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use v1::edge_message::Message as FromEdge;
use v1::home_message::Message as FromHome;

const DEADLINE: Duration = Duration::from_secs(20);
/// The timers' own grain, and a busy machine's.
const GRACE: Duration = Duration::from_millis(900);

/// A status that says which one it is.
fn status(role: Role, name: &str, number: u64) -> HostStatus {
    HostStatus { generation: Generation(number), ..HostStatus::new(name.parse().unwrap(), role) }
}

/// The next event that `wanted` takes.
async fn until<E, T>(events: &mut mpsc::Receiver<E>, mut wanted: impl FnMut(E) -> Option<T>) -> T {
    let read = async {
        loop {
            let event = events.recv().await.expect("an open channel");
            if let Some(found) = wanted(event) {
                return found;
            }
        }
    };
    timeout(DEADLINE, read).await.expect("an event in time")
}

fn edge_closed(event: EdgeEvent) -> Option<String> {
    if let EdgeEvent::Closed { reason, .. } = event { Some(reason) } else { None }
}

fn home_closed(event: HomeEvent) -> Option<String> {
    if let HomeEvent::Closed { reason } = event { Some(reason) } else { None }
}

#[tokio::test]
async fn a_stream_that_stands_still_is_noticed_within_five_seconds_and_then_only_the_latest_state_is_sent() {
    let mut edge = edge();
    edge.state.send_modify(|state| state.status = Some(status(Role::Edge, "vps", 1)));
    let (address, flows) = raw::network(edge.address).await;
    let mut home = home(&edge, address, tls(&edge.ca, Role::Home, "attic"));
    home.state.send_modify(|state| state.status = Some(status(Role::Home, "attic", 1)));
    let from_edge = |event| if let HomeEvent::Report { status } = event { Some(status.generation.0) } else { None };
    let from_home = |event| if let EdgeEvent::Report { status, .. } = event { Some(status.generation.0) } else { None };
    assert_eq!(until(&mut home.events, from_edge).await, 1);
    assert_eq!(until(&mut edge.events, from_home).await, 1);

    flows.send_replace(false);
    let still = Instant::now();
    let (edge_events, home_events) = (&mut edge.events, &mut home.events);
    let noticed = tokio::join!(async { (until(edge_events, edge_closed).await, still.elapsed()) }, async {
        (until(home_events, home_closed).await, still.elapsed())
    },);
    for (reason, after) in [noticed.0, noticed.1] {
        assert!(after <= SILENCE_LIMIT + GRACE, "{reason}: noticed after {after:?}");
        assert!(reason.contains("nothing heard"), "{reason}");
    }

    for number in 2..=2000 {
        edge.state.send_modify(|state| state.status = Some(status(Role::Edge, "vps", number)));
        home.state.send_modify(|state| state.status = Some(status(Role::Home, "attic", number)));
        tokio::task::yield_now().await;
    }
    flows.send_replace(true);
    assert_eq!(until(&mut home.events, from_edge).await, 2000);
    assert_eq!(until(&mut edge.events, from_home).await, 2000);
}

/// A home made by hand: what it says, and what it does not need to read.
struct RawHome {
    says: mpsc::Sender<v1::HomeMessage>,
    hears: Streaming<v1::EdgeMessage>,
}

impl RawHome {
    async fn open(edge: &Edge) -> Self {
        let channel = raw::channel(&edge.ca, Role::Home, "attic", edge.address.into()).await;
        let (says, stream) = mpsc::channel(8);
        let hello = v1::Hello::from(introduction(Role::Home, "attic"));
        says.try_send(v1::HomeMessage { message: Some(FromHome::Hello(hello)) }).unwrap();
        let mut client = v1::control_client::ControlClient::new(channel);
        let hears = client.session(ReceiverStream::new(stream)).await.unwrap().into_inner();
        Self { says, hears }
    }

    /// It is not silent.
    fn talk(&self) -> JoinHandle<()> {
        let says = self.says.clone();
        tokio::spawn(async move {
            let mut every = tokio::time::interval(Duration::from_millis(500));
            loop {
                every.tick().await;
                let clock = FromHome::Clock(v1::Clock { sent: 1, echo: 0, held: 0 });
                if says.send(v1::HomeMessage { message: Some(clock) }).await.is_err() {
                    return;
                }
            }
        })
    }
}

/// A status of some 50 KiB.
fn large(number: u64) -> HostStatus {
    let container = ContainerStatus {
        name: "cloudathome-nextcloud".into(),
        service: "nextcloud".parse().unwrap(),
        image: "nextcloud".into(),
        id: String::new(),
        state: ContainerState::Exited,
        started_at: 0,
        reason: Some("why ".repeat(100)),
    };
    HostStatus { containers: vec![container; 110], ..status(Role::Edge, "vps", number) }
}

#[tokio::test]
async fn a_peer_that_reads_slowly_holds_no_states_and_gets_the_latest() {
    const CHANGES: u64 = 5000;
    let edge = edge();
    let mut home = RawHome::open(&edge).await;
    let talk = home.talk();
    for number in 1..=CHANGES {
        edge.state.send_modify(|state| state.status = Some(large(number)));
        tokio::task::yield_now().await;
    }
    let mut reports = Vec::new();
    while reports.last() != Some(&CHANGES) {
        let message = timeout(DEADLINE, home.hears.next()).await.unwrap().unwrap().unwrap();
        if let Some(FromEdge::Report(report)) = message.message {
            reports.push(report.generation);
        }
    }
    // What was on its way: a window, a message being cut, those that wait for it, and what was due then.
    assert!(reports.len() <= 12, "{reports:?}");
    talk.abort();
}

#[tokio::test]
async fn a_peer_that_talks_and_never_reads_is_let_go() {
    let mut edge = edge();
    let home = RawHome::open(&edge).await;
    let _talk = home.talk();
    let still = Instant::now();
    let state = edge.state.clone();
    let changes = tokio::spawn(async move {
        let mut every = tokio::time::interval(Duration::from_millis(20));
        for number in 1.. {
            every.tick().await;
            state.send_modify(|state| state.status = Some(large(number)));
        }
    });
    let reason = until(&mut edge.events, edge_closed).await;
    assert!(reason.contains("does not read"), "{reason}");
    assert!(still.elapsed() <= SILENCE_LIMIT + Duration::from_secs(2), "after {:?}", still.elapsed());
    changes.abort();
}

#[tokio::test]
async fn a_message_that_is_too_long_ends_the_session() {
    let mut edge = edge();
    let home = RawHome::open(&edge).await;
    let hello = v1::Hello { agent_version: "9".repeat(proto::MAX_MESSAGE_BYTES), ..v1::Hello::default() };
    home.says.send(v1::HomeMessage { message: Some(FromHome::Hello(hello)) }).await.unwrap();
    let reason = until(&mut edge.events, edge_closed).await;
    assert!(reason.contains("message length too large"), "{reason}");
}

/// An edge made by hand, whose second message is too long.
struct Talkative;

#[tonic::async_trait]
impl v1::control_server::Control for Talkative {
    type SessionStream = ReceiverStream<Result<v1::EdgeMessage, tonic::Status>>;

    async fn session(
        &self,
        _: tonic::Request<Streaming<v1::HomeMessage>>,
    ) -> Result<tonic::Response<Self::SessionStream>, tonic::Status> {
        let (says, stream) = mpsc::channel(8);
        let hello = v1::Hello::from(introduction(Role::Edge, "vps"));
        let long = v1::Hello { agent_version: "9".repeat(proto::MAX_MESSAGE_BYTES), ..hello.clone() };
        for hello in [hello, long] {
            says.try_send(Ok(v1::EdgeMessage { message: Some(FromEdge::Hello(hello)) })).unwrap();
        }
        // It stays open.
        tokio::spawn(async move { says.closed().await });
        Ok(tonic::Response::new(ReceiverStream::new(stream)))
    }
}

#[tokio::test]
async fn a_home_takes_no_message_that_is_too_long() {
    let edge = edge();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let SocketAddr::V4(address) = listener.local_addr().unwrap() else { unreachable!("an IPv4 listener") };
    let acceptor = raw::acceptor(&edge.ca, Role::Edge, "vps", &["h2"]);
    tokio::spawn(async move {
        let incoming = raw::incoming(listener, acceptor);
        let service = v1::control_server::ControlServer::new(Talkative);
        tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await.unwrap();
    });
    let mut home = home(&edge, address, tls(&edge.ca, Role::Home, "attic"));
    let reason = until(&mut home.events, home_closed).await;
    assert!(reason.contains("message length too large"), "{reason}");
}
