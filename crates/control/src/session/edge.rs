//! The edge's side of a session.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use model::{DesiredConfig, Generation, HostStatus, RoleUri, ServiceAnnouncement, Timeline};
use proto::{MAX_MESSAGE_BYTES, v1};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tracing::{info, warn};

use super::{ConfigResult, Introduction, News, OUTBOUND_MESSAGES, SessionId, Shared, away, introduced, news};
use crate::clock::Clocks;
use crate::connection::Peer;
use crate::exchange::{Ended, exchange, first};
use crate::opposite::OppositeWay;
use crate::renewal::{Renewals, Successors};

/// Longest lists of revoked certificates, bytes: thousands of them, and less than [`MAX_MESSAGE_BYTES`].
const MAX_LISTS: usize = MAX_MESSAGE_BYTES - 1024;
/// Services that a home may announce: many more than an edge publishes of one.
const MAX_SERVICES: usize = 128;

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
