//! The inspection service, and the agent's unix socket on which it is served.

use std::fmt;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::BoxFuture;
use model::{Event, Finding, HostId, HostStatus, IngressReport, PortReach, Timeline, TunnelReport};
use proto::{MAX_EVENTS, MAX_MESSAGE_BYTES, v1};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::codes::{JoinCodes, Served};
use crate::configuration::{Configuration, Configurator};
use crate::devices::{self, Devices};
use crate::identities::{Identities, Issued};
use crate::inspector::InspectorError;
use crate::offered::Offered;
use crate::opposite::Opposite;

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

/// Looks at hosts when it is asked to. Each look has a deadline: it takes some seconds at most.
pub trait Doctor: Send + Sync + 'static {
    /// What of this host is well and what is not.
    fn examine(&self) -> BoxFuture<'static, Vec<Finding>>;

    /// Which of the ports that the opposite host keeps open to the world can be reached from this one. Which those are, and how often
    /// they are looked at, is for this host alone to say. None when too many ask at once.
    fn reach(&self) -> BoxFuture<'static, Option<Vec<PortReach>>>;
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

/// The inspection service's socket, bound and not served yet.
pub struct InspectionSocket {
    listener: UnixListener,
    path: PathBuf,
    codes: Option<Arc<dyn JoinCodes>>,
    identities: Option<Arc<dyn Identities>>,
    devices: Option<Arc<dyn Devices>>,
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
        Ok(Self { listener, path: path.to_owned(), codes: None, identities: None, devices: None })
    }

    /// Serves join codes too.
    #[must_use]
    pub fn with_codes(mut self, codes: Arc<dyn JoinCodes>) -> Self {
        self.codes = Some(codes);
        self
    }

    /// Serves what an authority issued too.
    #[must_use]
    pub fn with_identities(mut self, identities: Arc<dyn Identities>) -> Self {
        self.identities = Some(identities);
        self
    }

    /// Serves devices too.
    #[must_use]
    pub fn with_devices(mut self, devices: Arc<dyn Devices>) -> Self {
        self.devices = Some(devices);
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
        if let Some(identities) = self.identities {
            routes = routes.add_service(v1::identities_server::IdentitiesServer::new(Issued(identities)));
        }
        if let Some(devices) = self.devices {
            routes = routes.add_service(v1::devices_server::DevicesServer::new(devices::Offered(devices)));
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

    async fn reach(&self, _: Request<v1::ReachRequest>) -> Result<Response<v1::ReachReport>, Status> {
        let ports = self.doctor.reach().await;
        let ports = ports.ok_or_else(|| Status::unavailable(format!("too many ask {}: try again", self.host())))?;
        Ok(Response::new(ports.into()))
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
}
