//! The inspection service on the agent's unix socket, and its client.

use std::fmt;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::{Stream, StreamExt};
use hyper_util::rt::TokioIo;
use model::{ConfigReport, Event, Finding, HostId, HostStatus, IngressReport, Timeline, TunnelReport};
use proto::{InvalidMessage, MAX_EVENTS, MAX_MESSAGE_BYTES, v1};
use secrecy::SecretString;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Server, Uri};
use tonic::{Code, Request, Response, Status};

use crate::codes::{JoinCodes, Served};
use crate::configuration::{Configuration, Configurator};
use crate::offered::Offered;
use crate::operate::{OperationsClient, broken_off};
use crate::opposite::{self, Opposite};

/// How long `agentctl` waits for the agent next to it.
const DEADLINE: Duration = Duration::from_secs(5);
/// Messages with events that wait for a client to read.
const BATCHES: usize = 4;

/// What an agent knows: itself and the last report of its peer.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// This host.
    pub local: HostStatus,
    /// The opposite host, and when it reported.
    pub peer: Option<(HostStatus, Instant)>,
}

/// What happened on both hosts.
#[derive(Debug, Clone, Default)]
pub struct Timelines {
    /// On this one.
    pub own: Arc<Timeline>,
    /// On the opposite one, as far as it has told, with times by its own clock.
    pub peer: Arc<Timeline>,
    /// How far the peer's clock is ahead of ours, milliseconds; 0 while that is not known.
    pub ahead_millis: i64,
}

impl Timelines {
    /// What is in either timeline beyond what was `told`, oldest first, all with times by our clock.
    fn news(&self, told: &mut Told) -> Vec<Event> {
        if told.timeline != self.peer.id {
            *told = Told { timeline: self.peer.id.clone(), peer: 0, ..*told };
        }
        let mut news: Vec<Event> = self.own.after(told.own).cloned().collect();
        news.extend(self.peer.after(told.peer).cloned().map(|mut event| {
            event.at = event.at.saturating_add_signed(self.ahead_millis.saturating_neg());
            event
        }));
        (told.own, told.peer) = (self.own.last(), self.peer.last());
        news.sort_by_key(|event| event.at);
        news
    }
}

/// Looks at a host when it is asked to.
pub trait Doctor: Send + Sync + 'static {
    /// What is well and what is not. Each look has a deadline: it takes some seconds at most.
    fn examine(&self) -> BoxFuture<'static, Vec<Finding>>;
}

/// What the inspection service tells of.
#[derive(Clone)]
pub struct Inspected {
    /// The state of both hosts.
    pub state: watch::Receiver<Snapshot>,
    /// What happened on both hosts.
    pub timelines: watch::Receiver<Timelines>,
    /// This host's end of the tunnel.
    pub tunnel: watch::Receiver<TunnelReport>,
    /// Looks at this host.
    pub doctor: Arc<dyn Doctor>,
    /// What its ingress publishes, where it has one.
    pub ingress: Option<watch::Receiver<IngressReport>>,
}

/// The last events that a client was told of.
#[derive(Debug, Default)]
struct Told {
    own: u64,
    /// The peer's timeline, which may be another one meanwhile.
    timeline: String,
    peer: u64,
}

/// Why the inspection service could not start, or an agent could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum InspectorError {
    /// The socket could not be made.
    #[error("the agent's socket {path} cannot be made")]
    Bind {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The server ended.
    #[error("the inspection service failed")]
    Serve(#[source] tonic::transport::Error),
    /// Nobody answers on the socket.
    #[error("no agent answers on {path}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// The agent does not know the question: it is of an older release.
    #[error("the agent is of a release that cannot answer this")]
    Unknown,
    /// The agent cannot do that as things are.
    #[error("{0}")]
    Refused(String),
    /// The opposite agent does not do this for this host; it says why.
    #[error("{0}")]
    Forbidden(String),
    /// The opposite agent cannot be asked; the agent says why.
    #[error("{0}")]
    Away(String),
    /// The agent answered with an error.
    #[error("the agent refused the request")]
    Call(#[source] Box<Status>),
    /// The agent's answer makes no sense.
    #[error("the agent's answer cannot be read: bring agent and agentctl to the same release")]
    Answer(#[from] InvalidMessage),
    /// The agent's answer lacks its own status.
    #[error("the agent's answer lacks its own status")]
    Empty,
}

impl InspectorError {
    pub(crate) fn of_call(status: Status) -> Self {
        match status.code() {
            Code::Unimplemented => Self::Unknown,
            Code::FailedPrecondition => Self::Refused(proto::bounded(status.message())),
            Code::PermissionDenied => Self::Forbidden(proto::bounded(status.message())),
            Code::Unavailable if !broken_off(&status) => Self::Away(proto::bounded(status.message())),
            _ => Self::Call(Box::new(status)),
        }
    }
}

/// The inspection service's socket, bound and not served yet.
pub struct InspectionSocket {
    listener: UnixListener,
    path: PathBuf,
    codes: Option<Arc<dyn JoinCodes>>,
}

impl fmt::Debug for InspectionSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InspectionSocket").field("path", &self.path).finish_non_exhaustive()
    }
}

impl InspectionSocket {
    /// Makes a unix socket at `path` (mode 0600, in place of one that a dead agent left). Needs a tokio runtime.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn bind(path: &Path) -> Result<Self, InspectorError> {
        let listener = bind(path).map_err(|source| InspectorError::Bind { path: path.to_owned(), source })?;
        Ok(Self { listener, path: path.to_owned(), codes: None })
    }

    /// Serves join codes too.
    #[must_use]
    pub fn with_codes(mut self, codes: Arc<dyn JoinCodes>) -> Self {
        self.codes = Some(codes);
        self
    }

    /// Serves what is `offered`, and the configuration, and hands on what is for the opposite agent, until stopped, and removes the
    /// socket.
    ///
    /// # Errors
    /// When the server fails as a whole.
    pub async fn serve(
        self,
        offered: Offered,
        configurator: Arc<dyn Configurator>,
        opposite: Opposite,
        stop: CancellationToken,
    ) -> Result<(), InspectorError> {
        let configuration = v1::configuration_server::ConfigurationServer::new(Configuration(configurator))
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        let mut routes = offered.to_ourselves().add_service(configuration).add_service(opposite);
        if let Some(codes) = self.codes {
            routes = routes.add_service(v1::join_codes_server::JoinCodesServer::new(Served(codes)));
        }
        let serving = Server::builder().add_routes(routes).serve_with_incoming(UnixListenerStream::new(self.listener));
        // Not gracefully: a client that keeps its connection must not keep the agent.
        let served = stop.run_until_cancelled(serving).await;
        drop(fs::remove_file(&self.path));
        served.unwrap_or(Ok(())).map_err(InspectorError::Serve)
    }
}

/// The socket appears under its name only once its mode is right.
fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let fresh = path.with_extension("new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&fresh)?;
    fs::set_permissions(&fresh, Permissions::from_mode(0o600))?;
    fs::rename(&fresh, path)?;
    Ok(listener)
}

/// Tells a client of events until it leaves, or all that are known have been told.
async fn tell(
    mut timelines: watch::Receiver<Timelines>,
    follow: bool,
    client: mpsc::Sender<Result<v1::Events, Status>>,
) {
    let mut told = Told::default();
    loop {
        let news: Vec<v1::Event> = timelines.borrow_and_update().news(&mut told).into_iter().map(Into::into).collect();
        for events in news.chunks(MAX_EVENTS) {
            if client.send(Ok(v1::Events { timeline: String::new(), events: events.to_vec() })).await.is_err() {
                return;
            }
        }
        let gone = tokio::select! {
            changed = timelines.changed(), if follow => changed.is_err(),
            () = client.closed(), if follow => true,
            else => true,
        };
        if gone {
            return;
        }
    }
}

#[tonic::async_trait]
impl v1::inspection_server::Inspection for Inspected {
    type EventsStream = ReceiverStream<Result<v1::Events, Status>>;

    async fn events(&self, request: Request<v1::EventsRequest>) -> Result<Response<Self::EventsStream>, Status> {
        let (client, events) = mpsc::channel(BATCHES);
        tokio::spawn(tell(self.timelines.clone(), request.into_inner().follow, client));
        Ok(Response::new(ReceiverStream::new(events)))
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        let snapshot = self.state.borrow().clone();
        let (peer, age) = match snapshot.peer {
            Some((peer, at)) => (Some(peer.into()), Some(at.elapsed().as_secs())),
            None => (None, None),
        };
        Ok(Response::new(v1::StatusResponse { local: Some(snapshot.local.into()), peer, peer_age_seconds: age }))
    }

    async fn doctor(&self, _: Request<v1::DoctorRequest>) -> Result<Response<v1::DoctorReport>, Status> {
        let findings = self.doctor.examine().await.into_iter().map(Into::into).collect();
        Ok(Response::new(v1::DoctorReport { findings }))
    }

    async fn ingress(&self, _: Request<v1::IngressRequest>) -> Result<Response<v1::IngressReport>, Status> {
        let none = "this host has no ingress: it is at home, or its configuration has no section [ingress]";
        let report = self.ingress.as_ref().ok_or_else(|| Status::failed_precondition(none))?.borrow().clone();
        Ok(Response::new(report.into()))
    }

    async fn tunnel(&self, _: Request<v1::TunnelRequest>) -> Result<Response<v1::TunnelReport>, Status> {
        let report = self.tunnel.borrow().clone();
        Ok(Response::new(report.into()))
    }
}

impl Inspected {
    /// This host.
    pub(crate) fn host(&self) -> HostId {
        self.state.borrow().local.host.clone()
    }
}

/// A client of an agent's inspection service.
#[derive(Debug, Clone)]
pub struct Inspector {
    channel: Channel,
    /// What paths begin with.
    origin: Uri,
    client: v1::inspection_client::InspectionClient<Channel>,
}

impl Inspector {
    /// Connects to the agent whose socket is at `path`.
    ///
    /// # Errors
    /// When nobody answers there.
    pub async fn connect(path: &Path) -> Result<Self, InspectorError> {
        let socket = path.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://agent.cloudathome.internal")
            .connect_timeout(DEADLINE)
            .timeout(DEADLINE)
            .connect_with_connector(connector)
            .await
            .map_err(|source| InspectorError::Connect { path: path.to_owned(), source })?;
        Ok(Self::new(channel, Uri::default()))
    }

    fn new(channel: Channel, origin: Uri) -> Self {
        let client = v1::inspection_client::InspectionClient::with_origin(channel.clone(), origin.clone())
            .max_decoding_message_size(2 * MAX_MESSAGE_BYTES);
        Self { channel, origin, client }
    }

    /// The same of the opposite agent, asked by way of this one. It answers for its own reports and operations.
    #[must_use]
    pub fn opposite(&self) -> Self {
        Self::new(self.channel.clone(), Uri::from_static(opposite::PREFIX))
    }

    /// This agent as the opposite one of another.
    #[must_use]
    pub fn as_opposite(&self) -> Opposite {
        Opposite::at(self.channel.clone())
    }

    /// Asks for the status of both hosts: the agent's own, and its peer's with its age.
    ///
    /// # Errors
    /// When the agent does not answer within five seconds or its answer cannot be read.
    pub async fn status(&mut self) -> Result<(HostStatus, Option<(HostStatus, Duration)>), InspectorError> {
        let answer = self.client.status(v1::StatusRequest {}).await.map_err(InspectorError::of_call)?;
        let answer = answer.into_inner();
        let local = answer.local.ok_or(InspectorError::Empty)?.try_into()?;
        let age = Duration::from_secs(answer.peer_age_seconds.unwrap_or_default());
        let peer = answer.peer.map(HostStatus::try_from).transpose()?.map(|peer| (peer, age));
        Ok((local, peer))
    }

    /// Asks for the agent's own tunnel in detail.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn tunnel(&mut self) -> Result<TunnelReport, InspectorError> {
        let answer = self.client.tunnel(v1::TunnelRequest {}).await;
        Ok(answer.map_err(InspectorError::of_call)?.into_inner().try_into()?)
    }

    /// Asks what the ingress of the agent's host publishes.
    ///
    /// # Errors
    /// As [`Self::status`]; [`InspectorError::Refused`] where there is none.
    pub async fn ingress(&mut self) -> Result<IngressReport, InspectorError> {
        let answer = self.client.ingress(v1::IngressRequest {}).await;
        Ok(answer.map_err(InspectorError::of_call)?.into_inner().try_into()?)
    }

    /// Has the agent look at its host.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn doctor(&mut self) -> Result<Vec<Finding>, InspectorError> {
        let answer = self.client.doctor(v1::DoctorRequest {}).await;
        Ok(answer.map_err(InspectorError::of_call)?.into_inner().try_into()?)
    }

    /// Asks what happened on both hosts, oldest first, with times by the agent's clock; with `follow` also what happens from now on,
    /// without end.
    ///
    /// # Errors
    /// As [`Self::status`]; also later, when the agent goes away.
    pub async fn events(
        &mut self,
        follow: bool,
    ) -> Result<impl Stream<Item = Result<Vec<Event>, InspectorError>> + use<>, InspectorError> {
        let stream = self.client.events(v1::EventsRequest { follow }).await.map_err(InspectorError::of_call)?;
        Ok(stream.into_inner().map(|events| {
            let (_, events) = proto::events(events.map_err(InspectorError::of_call)?)?;
            Ok(events)
        }))
    }

    /// Asks for the configuration in force, and what its file says now.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn config(&mut self) -> Result<ConfigReport, InspectorError> {
        let answer = self.configuration().show(v1::ConfigShowRequest {}).await;
        Ok(answer.map_err(InspectorError::of_call)?.into_inner().into())
    }

    /// Has the agent read its configuration again and put it in force, all of it or nothing. A file that cannot be, and one that
    /// was refused, is no error of this call.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn reload(&mut self) -> Result<ConfigReport, InspectorError> {
        let answer = self.configuration().reload(v1::ConfigReloadRequest {}).await;
        Ok(answer.map_err(InspectorError::of_call)?.into_inner().into())
    }

    /// Asks what must be in nothing that is handed on: secrets that are configured, and those that were generated.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn secrets(&mut self) -> Result<Vec<SecretString>, InspectorError> {
        let answer = self.configuration().secrets(v1::SecretsRequest {}).await;
        Ok(answer.map_err(InspectorError::of_call)?.into_inner().secrets.into_iter().map(Into::into).collect())
    }

    pub(crate) fn codes_client(&self) -> v1::join_codes_client::JoinCodesClient<Channel> {
        v1::join_codes_client::JoinCodesClient::new(self.channel.clone())
    }

    fn configuration(&self) -> v1::configuration_client::ConfigurationClient<Channel> {
        v1::configuration_client::ConfigurationClient::new(self.channel.clone())
            .max_decoding_message_size(2 * MAX_MESSAGE_BYTES)
    }

    /// Operations on the services of the agent's host, over the same connection.
    #[must_use]
    pub fn operations(&self) -> OperationsClient {
        let (channel, origin) = (self.channel.clone(), self.origin.clone());
        OperationsClient(v1::operation_client::OperationClient::with_origin(channel, origin))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_hosts_are_told_in_the_order_in_which_things_happened() {
        let event = |host: &str, number, at| Event {
            number,
            at,
            host: host.parse().unwrap(),
            subject: model::Subject::Tunnel,
            service: None,
            kind: model::EventKind::Change,
            text: String::new(),
        };
        let timeline = |id: &str, events: Vec<Event>| Arc::new(Timeline { id: id.to_owned(), events: events.into() });
        // The peer's clock is a minute ahead.
        let mut all = Timelines {
            own: timeline("a", vec![event("vps", 1, 100_000), event("vps", 2, 100_020)]),
            peer: timeline("b", vec![event("attic", 7, 160_010)]),
            ahead_millis: 60_000,
        };
        let mut told = Told::default();
        let times = |news: Vec<Event>| news.into_iter().map(|e| (e.host.to_string(), e.at)).collect::<Vec<_>>();
        let expected = [("vps", 100_000), ("attic", 100_010), ("vps", 100_020)].map(|(h, at)| (h.to_owned(), at));
        assert_eq!(times(all.news(&mut told)), expected);
        assert!(all.news(&mut told).is_empty());
        // The peer was set up anew.
        all.peer = timeline("c", vec![event("attic", 1, 160_030)]);
        assert_eq!(times(all.news(&mut told)), [("attic".to_owned(), 100_030)]);
    }

    #[test]
    fn an_older_agent_is_told_from_one_that_fails() {
        assert!(matches!(InspectorError::of_call(Status::unimplemented("")), InspectorError::Unknown));
        assert!(matches!(InspectorError::of_call(Status::internal("")), InspectorError::Call(_)));
        let refused = InspectorError::of_call(Status::failed_precondition("there is none"));
        assert_eq!(refused.to_string(), "there is none");
        assert!(matches!(InspectorError::of_call(Status::unavailable("")), InspectorError::Away(_)));
        let mut broken = Status::unavailable("");
        broken.set_source(Arc::new(io::Error::other("gone")));
        assert!(matches!(InspectorError::of_call(broken), InspectorError::Call(_)));
    }
}
