//! The session between home and edge: home opens it, both say hello, then each sends its latest state.

use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use model::{DesiredConfig, Event, Generation, HostId, HostStatus, Role, RoleUri, ServiceAnnouncement, Timeline};
use proto::{MAX_EVENTS, MAX_MESSAGE_BYTES, PROTOCOL, v1};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info, warn};

use crate::clock::{ClockExchange, Clocks};
use crate::connection::Peer;
use crate::exchange::{Ended, exchange, first};
use crate::opposite::{self, OppositeWay};
use crate::renewal::{Renewals, Successors};
use crate::tls::Purpose;
use crate::{CONNECT_DEADLINE, ControlTls, Offered, Rights};

/// Messages waiting to be written to a stream; more than this waits for the peer to read.
const OUTBOUND_MESSAGES: usize = 4;
/// Services that a home may announce: many more than an edge publishes of one.
const MAX_SERVICES: usize = 128;
/// Longest lists of revoked certificates, bytes: thousands of them, and less than [`MAX_MESSAGE_BYTES`].
const MAX_LISTS: usize = MAX_MESSAGE_BYTES - 1024;
/// First wait before home connects again; doubled up to [`RETRY_MAX`], with jitter.
const RETRY_MIN: Duration = Duration::from_millis(250);
/// Longest wait before home connects again.
pub(crate) const RETRY_MAX: Duration = Duration::from_secs(4);

/// What an agent says of itself when a session opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introduction {
    /// Its host.
    pub host: HostId,
    /// Its role.
    pub role: Role,
    /// Its version, for people.
    pub agent_version: String,
    /// New at every start.
    pub boot_id: String,
    /// Whether it keeps to what a service asks of the ingress; an older release would publish it without its guards.
    pub keeps_to_ingress_options: bool,
    /// Whether an agent can be asked for something by the edge: home opens a connection for that, which the edge takes.
    pub keeps_to_calls: bool,
}

/// In `Hello.keeps_to`.
const INGRESS_OPTIONS: &str = "ingress-options";
/// In `Hello.keeps_to`.
const CALLS: &str = "calls";

impl From<Introduction> for v1::Hello {
    fn from(us: Introduction) -> Self {
        Self {
            protocol: PROTOCOL,
            host: us.host.into(),
            role: us.role.to_string(),
            agent_version: us.agent_version,
            boot_id: us.boot_id,
            keeps_to: [(us.keeps_to_ingress_options, INGRESS_OPTIONS), (us.keeps_to_calls, CALLS)]
                .into_iter()
                .filter(|(keeps, _)| *keeps)
                .map(|(_, what)| what.to_owned())
                .collect(),
        }
    }
}

/// Holds the peer's hello against the certificate it came with.
fn introduced(hello: v1::Hello, peer: &RoleUri) -> Result<Introduction, Ended> {
    if hello.protocol != PROTOCOL {
        return Err(Ended::Refused(format!(
            "the peer speaks version {} of the control protocol, this agent {PROTOCOL}: bring both agents to the same release",
            hello.protocol
        )));
    }
    if hello.host != peer.name.as_str() || hello.role != peer.role.as_str() {
        return Err(Ended::Refused(format!("the peer's hello does not match its certificate ({peer})")));
    }
    let short = |text: String| text.chars().filter(|c| c.is_ascii_graphic()).take(64).collect();
    Ok(Introduction {
        host: peer.name.clone(),
        role: peer.role,
        agent_version: short(hello.agent_version),
        boot_id: short(hello.boot_id),
        keeps_to_ingress_options: hello.keeps_to.iter().any(|what| what == INGRESS_OPTIONS),
        keeps_to_calls: hello.keeps_to.iter().any(|what| what == CALLS),
    })
}

/// Tells one session from the one that replaced it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId(u64);

/// What the edge tells its agent.
#[derive(Debug)]
pub enum EdgeEvent {
    /// A home opened a session.
    Opened {
        /// Which session.
        session: SessionId,
        /// Who.
        peer: Introduction,
    },
    /// Home answered a configuration.
    Result {
        /// Which session.
        session: SessionId,
        /// The answer.
        result: ConfigResult,
    },
    /// Home reported.
    Report {
        /// Which session.
        session: SessionId,
        /// Home's state.
        status: Box<HostStatus>,
        /// What it wants published.
        services: Vec<ServiceAnnouncement>,
    },
    /// Things happened at home.
    Happened {
        /// Which session.
        session: SessionId,
        /// What.
        news: News,
    },
    /// The way to home and its clock were measured.
    Measured {
        /// Which session.
        session: SessionId,
        /// What came out.
        clocks: Clocks,
    },
    /// The session ended.
    Closed {
        /// Which session.
        session: SessionId,
        /// Why.
        reason: String,
    },
}

/// Events that the peer tells of; some may be known already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// The id of the timeline that they are of.
    pub timeline: String,
    /// The events, in order.
    pub events: Vec<Event>,
}

/// What became of a desired configuration at home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigResult {
    /// Which configuration.
    pub generation: Generation,
    /// In force, or the reason why not.
    pub outcome: Result<(), String>,
}

/// The edge's latest state, as sessions send it.
#[derive(Debug, Clone, Default)]
pub struct EdgeOutput {
    /// What home is to apply; sent once a session and again when its generation changes.
    pub desired: Option<DesiredConfig>,
    /// The edge's status.
    pub status: Option<HostStatus>,
    /// What happened at the edge; sent once a session, then what is new.
    pub timeline: Arc<Timeline>,
    /// The authority's lists of revoked certificates, PEM; sent once a session, and when they change.
    pub revocations: Option<Arc<str>>,
}

/// Home's latest state, as the session sends it.
#[derive(Debug, Clone, Default)]
pub struct HomeOutput {
    /// The answer to the last desired configuration.
    pub result: Option<ConfigResult>,
    /// Home's status; nothing is reported before there is one.
    pub status: Option<HostStatus>,
    /// What home wants published.
    pub services: Vec<ServiceAnnouncement>,
    /// What happened at home; sent once a session, then what is new.
    pub timeline: Arc<Timeline>,
}

/// The part of a session that both ends have in common: the timeline goes out, and times come and go with the reports.
#[derive(Debug, Default)]
struct Shared {
    /// The number of the last event that was sent.
    told: u64,
    clock: ClockExchange,
}

impl Shared {
    fn lock(shared: &Mutex<Self>) -> std::sync::MutexGuard<'_, Self> {
        shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is new in the timeline, and the time.
    fn due(&mut self, timeline: &Timeline) -> (Vec<v1::Events>, v1::Clock) {
        let new: Vec<v1::Event> = timeline.after(self.told).cloned().map(Into::into).collect();
        self.told = timeline.last().max(self.told);
        let batch = |events: &[v1::Event]| v1::Events { timeline: timeline.id.clone(), events: events.to_vec() };
        (new.chunks(MAX_EVENTS).map(batch).collect(), self.clock.tell(SystemTime::now(), Instant::now()))
    }

    fn hear(&mut self, clock: &v1::Clock) -> Option<Clocks> {
        self.clock.hear(clock, SystemTime::now(), Instant::now())
    }
}

/// Why a host cannot be asked.
fn away(host: &HostId, ended: &Ended) -> String {
    format!("{host} cannot be asked: there is no control channel: {ended}")
}

/// What the peer says that happened there; on no other host.
fn news(wire: v1::Events, peer: &HostId) -> Result<News, Ended> {
    let (timeline, mut events) = proto::events(wire).map_err(|error| Ended::Refused(error.to_string()))?;
    events.retain(|event| event.host == *peer);
    Ok(News { timeline, events })
}

/// The edge's side: the gRPC service that homes open sessions with.
#[derive(Clone)]
pub struct EdgeService {
    us: Introduction,
    state: watch::Receiver<EdgeOutput>,
    events: mpsc::Sender<EdgeEvent>,
    way: OppositeWay,
    stop: CancellationToken,
    successors: Option<Arc<dyn Successors>>,
    next_session: Arc<AtomicU64>,
}

impl std::fmt::Debug for EdgeService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EdgeService").field("us", &self.us).finish_non_exhaustive()
    }
}

impl EdgeService {
    /// A service that introduces itself as `us`, sends `state` and reports to `events`; home is asked by `way`.
    #[must_use]
    pub fn new(
        us: Introduction,
        state: watch::Receiver<EdgeOutput>,
        events: mpsc::Sender<EdgeEvent>,
        way: OppositeWay,
        stop: CancellationToken,
    ) -> Self {
        Self { us, state, events, way, stop, successors: None, next_session: Arc::default() }
    }

    /// Gives homes successors of their certificates too.
    #[must_use]
    pub fn with_successors(mut self, successors: Arc<dyn Successors>) -> Self {
        self.successors = Some(successors);
        self
    }

    pub(crate) fn renewals(&self) -> Renewals {
        Renewals(self.successors.clone())
    }

    pub(crate) fn way(&self) -> &OppositeWay {
        &self.way
    }

    async fn run(
        self,
        peer: RoleUri,
        mut inbound: Streaming<v1::HomeMessage>,
        outbound: mpsc::Sender<Result<v1::EdgeMessage, Status>>,
    ) {
        use v1::edge_message::Message as Out;
        use v1::home_message::Message as In;
        let wrap = |message| Ok(v1::EdgeMessage { message: Some(message) });
        let session = SessionId(self.next_session.fetch_add(1, Ordering::Relaxed));

        let hello = match first(&mut inbound).await {
            Ok(v1::HomeMessage { message: Some(In::Hello(hello)) }) => introduced(hello, &peer),
            Ok(_) => Err(Ended::Refused("the first message was not a hello".to_owned())),
            Err(ended) => Err(ended),
        };
        let introduction = match hello {
            Ok(introduction) => introduction,
            Err(ended) => {
                warn!(%peer, reason = %ended, "control session refused");
                // The peer learns why, if it still listens.
                drop(outbound.try_send(Err(Status::failed_precondition(ended.to_string()))));
                return;
            }
        };
        // Before the hello, after which home opens its connection for calls.
        self.way.close(if introduction.keeps_to_calls {
            format!("{} is connected and has not opened its connection for calls yet: try again", introduction.host)
        } else {
            let version = &introduction.agent_version;
            format!(
                "the agent of {} is of release {version}, too old to be asked from here: upgrade it",
                introduction.host
            )
        });
        if outbound.send(wrap(Out::Hello(self.us.clone().into()))).await.is_err() {
            return;
        }
        info!(%peer, version = introduction.agent_version, "control session open");
        if self.events.send(EdgeEvent::Opened { session, peer: introduction }).await.is_err() {
            return;
        }

        let (mut sent, mut revocations) = (None, None);
        let shared = Mutex::new(Shared::default());
        let encode = |state: &EdgeOutput| {
            let (events, clock) = Shared::lock(&shared).due(&state.timeline);
            let mut due: Vec<_> = events.into_iter().map(|events| wrap(Out::Events(events))).collect();
            due.push(wrap(Out::Clock(clock)));
            if let Some(desired) = &state.desired
                && sent != Some(desired.generation)
            {
                sent = Some(desired.generation);
                due.push(wrap(Out::Desired(desired.clone().into())));
            }
            // Before the report: to be late with it would let somebody in.
            if let Some(lists) = state.revocations.as_ref().filter(|lists| revocations.as_ref() != Some(*lists)) {
                revocations = Some(Arc::clone(lists));
                if lists.len() <= MAX_LISTS {
                    due.push(wrap(Out::Revocations(v1::Revocations { lists: lists.to_string() })));
                } else {
                    warn!("the list of revoked certificates is too long to be sent: make a new authority");
                }
            }
            if let Some(status) = &state.status {
                due.push(wrap(Out::Report(status.clone().into())));
            }
            due
        };
        let handle = |message: v1::HomeMessage| {
            Ok(match message.message {
                Some(In::Report(report)) => {
                    let report = report.status.map(HostStatus::try_from).zip(Some(report.services));
                    let Some((status, services)) = report else {
                        return Err(Ended::Refused("a report without a status".to_owned()));
                    };
                    if services.len() > MAX_SERVICES {
                        return Err(Ended::Refused(format!("more than {MAX_SERVICES} services")));
                    }
                    let services = services.into_iter().map(ServiceAnnouncement::try_from).collect::<Result<_, _>>();
                    match (status, services) {
                        (Ok(status), _) if status.host != peer.name => {
                            return Err(Ended::Refused(format!("{} reports as {}", peer.name, status.host)));
                        }
                        (Ok(status), Ok(services)) => {
                            Some(EdgeEvent::Report { session, status: Box::new(status), services })
                        }
                        (Err(error), _) | (_, Err(error)) => return Err(Ended::Refused(error.to_string())),
                    }
                }
                Some(In::ConfigResult(result)) => Some(EdgeEvent::Result {
                    session,
                    result: ConfigResult {
                        generation: Generation(result.generation),
                        outcome: if result.accepted { Ok(()) } else { Err(proto::bounded(&result.reason)) },
                    },
                }),
                Some(In::Events(events)) => Some(EdgeEvent::Happened { session, news: news(events, &peer.name)? }),
                Some(In::Clock(clock)) => {
                    let clocks = Shared::lock(&shared).hear(&clock);
                    clocks.map(|clocks| EdgeEvent::Measured { session, clocks })
                }
                // A second hello says nothing new, and kinds of a later release are ignored.
                Some(In::Hello(_)) | None => None,
            })
        };
        let ended =
            exchange(inbound, outbound, self.state.clone(), self.stop.clone(), encode, &self.events, handle).await;
        info!(%peer, reason = %ended, "control session closed");
        if self.next_session.load(Ordering::Relaxed) == session.0 + 1 {
            self.way.close(away(&peer.name, &ended));
        }
        drop(self.events.send(EdgeEvent::Closed { session, reason: ended.to_string() }).await);
    }
}

#[tonic::async_trait]
impl v1::control_server::Control for EdgeService {
    type SessionStream = ReceiverStream<Result<v1::EdgeMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::HomeMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let peer = request.extensions().get::<Peer>().map(|peer| peer.role.clone());
        let peer = peer.ok_or_else(|| Status::unauthenticated("no certificate"))?;
        let (outbound, stream) = mpsc::channel(OUTBOUND_MESSAGES);
        tokio::spawn(self.clone().run(peer, request.into_inner(), outbound));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// What home's link tells its agent.
#[derive(Debug)]
pub enum HomeEvent {
    /// The session is open.
    Opened {
        /// The edge.
        peer: Introduction,
    },
    /// The edge wants this applied. A message that makes no sense arrives as the reason with its generation.
    Desired(Result<DesiredConfig, ConfigResult>),
    /// The edge reported.
    Report {
        /// The edge's state.
        status: Box<HostStatus>,
    },
    /// Things happened at the edge.
    Happened(News),
    /// The way to the edge and its clock were measured.
    Measured(Clocks),
    /// The edge has these lists of revoked certificates, PEM. Who signed them, and whether they are new, has not been looked at.
    Revocations(String),
    /// The session ended or could not be opened.
    Closed {
        /// Why.
        reason: String,
    },
}

/// Home's side: keeps one session to the edge open while the tunnel is up.
#[derive(Debug)]
pub struct HomeLink {
    /// Who we are.
    pub us: Introduction,
    /// The edge, as its certificate must name it.
    pub edge: RoleUri,
    /// Its control address in the tunnel.
    pub address: SocketAddrV4,
    /// The tunnel's link: connections never leave by another.
    pub device: String,
    /// Our TLS.
    pub tls: ControlTls,
    /// The latest state to send.
    pub state: watch::Receiver<HomeOutput>,
    /// Whether the tunnel is up: home connects only then, and at once when it comes up.
    pub tunnel_up: watch::Receiver<bool>,
    /// Where events go.
    pub events: mpsc::Sender<HomeEvent>,
    /// The way by which the edge is asked.
    pub way: OppositeWay,
    /// What the edge may ask for.
    pub offered: Offered,
    /// As far as it may.
    pub may: Rights,
    /// Ends it.
    pub stop: CancellationToken,
}

impl HomeLink {
    /// Runs until stopped.
    pub async fn run(mut self) {
        let stop = self.stop.clone();
        let mut wait = RETRY_MIN;
        loop {
            let mut tunnel_up = self.tunnel_up.clone();
            let session = async {
                self.tunnel_up.wait_for(|up| *up).await.map_err(|_| Ended::Stopped)?;
                let down = async { tunnel_up.wait_for(|up| !*up).await.is_ok() };
                tokio::select! {
                    // What is left of the connection could not be told from silence.
                    _ = down => Err(Ended::TunnelDown),
                    ended = self.session(&mut wait) => ended,
                }
            };
            let ended = tokio::select! {
                () = stop.cancelled() => return,
                ended = session => match ended {
                    Ok(ended) | Err(ended) => ended,
                },
            };
            if matches!(ended, Ended::Stopped) {
                return;
            }
            debug!(reason = %ended, "control session closed");
            self.way.close(away(&self.edge.name, &ended));
            if self.events.send(HomeEvent::Closed { reason: ended.to_string() }).await.is_err() {
                return;
            }
            let jittered = wait.mul_f64(rand::random_range(0.5..1.0));
            wait = (wait * 2).min(RETRY_MAX);
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(jittered) => {}
            }
        }
    }

    /// One session from connecting to its end. Resets `wait` once the edge has said hello.
    async fn session(&mut self, wait: &mut Duration) -> Result<Ended, Ended> {
        use v1::edge_message::Message as In;
        use v1::home_message::Message as Out;
        let wrap = |message| v1::HomeMessage { message: Some(message) };

        let stream = self.connect(Purpose::Session, CancellationToken::new()).await;
        let stream = stream.map_err(Ended::Refused)?;
        let channel = opposite::client(stream).await;
        let channel = channel.map_err(|error| Ended::Refused(self.failed("opening HTTP/2 to", &error)))?;
        let mut client = v1::control_client::ControlClient::new(channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let (outbound, stream) = mpsc::channel(OUTBOUND_MESSAGES);
        // The channel was made for this stream and is empty: the hello always fits.
        drop(outbound.try_send(wrap(Out::Hello(self.us.clone().into()))));
        let response = timeout(CONNECT_DEADLINE, client.session(ReceiverStream::new(stream)))
            .await
            .map_err(|_| Ended::Silent)?
            .map_err(Box::new)?;
        let mut inbound = response.into_inner();
        let Some(In::Hello(hello)) = first(&mut inbound).await?.message else {
            return Err(Ended::Refused("the edge's first message was not a hello".to_owned()));
        };
        let peer = introduced(hello, &self.edge)?;
        info!(edge = %peer.host, version = peer.agent_version, "control session open");
        let (keeps_to_options, keeps_to_calls) = (peer.keeps_to_ingress_options, peer.keeps_to_calls);
        self.way.open(channel);
        self.events.send(HomeEvent::Opened { peer }).await.map_err(|_| Ended::Stopped)?;
        *wait = RETRY_MIN;

        let mut sent = None;
        let shared = Mutex::new(Shared::default());
        let announced = |service: &&ServiceAnnouncement| keeps_to_options || !service.ingress.keeps_out();
        let encode = |state: &HomeOutput| {
            let (events, clock) = Shared::lock(&shared).due(&state.timeline);
            let mut due: Vec<_> = events.into_iter().map(|events| wrap(Out::Events(events))).collect();
            due.push(wrap(Out::Clock(clock)));
            if state.result != sent {
                sent = state.result.clone();
                due.extend(state.result.clone().map(|result| {
                    wrap(Out::ConfigResult(v1::ConfigResult {
                        generation: result.generation.0,
                        accepted: result.outcome.is_ok(),
                        reason: result.outcome.err().unwrap_or_default(),
                    }))
                }));
            }
            due.extend(state.status.clone().map(|status| {
                wrap(Out::Report(v1::HomeReport {
                    status: Some(status.into()),
                    services: state.services.iter().filter(announced).cloned().map(Into::into).collect(),
                }))
            }));
            due
        };
        let handle = |message: v1::EdgeMessage| {
            Ok(match message.message {
                Some(In::Desired(desired)) => {
                    let generation = Generation(desired.generation);
                    Some(HomeEvent::Desired(
                        DesiredConfig::try_from(desired)
                            .map_err(|error| ConfigResult { generation, outcome: Err(error.to_string()) }),
                    ))
                }
                Some(In::Report(status)) => match HostStatus::try_from(status) {
                    Ok(status) if status.host != self.edge.name => {
                        return Err(Ended::Refused(format!("{} reports as {}", self.edge.name, status.host)));
                    }
                    Ok(status) => Some(HomeEvent::Report { status: Box::new(status) }),
                    Err(error) => return Err(Ended::Refused(error.to_string())),
                },
                Some(In::Events(events)) => Some(HomeEvent::Happened(news(events, &self.edge.name)?)),
                Some(In::Clock(clock)) => Shared::lock(&shared).hear(&clock).map(HomeEvent::Measured),
                Some(In::Revocations(revocations)) => Some(HomeEvent::Revocations(revocations.lists)),
                Some(In::Hello(_)) | None => None,
            })
        };
        let exchanged =
            exchange(inbound, outbound, self.state.clone(), self.stop.clone(), encode, &self.events, handle);
        tokio::select! {
            ended = exchanged => Ok(ended),
            never = self.answer_calls(), if keeps_to_calls => match never {},
        }
    }
}
