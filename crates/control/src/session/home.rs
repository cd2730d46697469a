//! Home's side of a session.

use std::net::SocketAddrV4;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use model::{DesiredConfig, Generation, HostStatus, RoleUri, ServiceAnnouncement, Timeline};
use proto::{MAX_MESSAGE_BYTES, v1};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::{ConfigResult, Introduction, News, OUTBOUND_MESSAGES, Shared, away, introduced, news};
use crate::clock::Clocks;
use crate::exchange::{Ended, exchange, first};
use crate::opposite::{self, OppositeWay};
use crate::tls::Purpose;
use crate::{CONNECT_DEADLINE, ControlTls, Offered, Rights};

/// First wait before home connects again; doubled up to [`RETRY_MAX`], with jitter.
const RETRY_MIN: Duration = Duration::from_millis(250);
/// Longest wait before home connects again.
pub(crate) const RETRY_MAX: Duration = Duration::from_secs(4);

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
