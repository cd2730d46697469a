//! The inspection service on the agent's unix socket, and its client.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use model::{HostStatus, TunnelReport};
use proto::{InvalidMessage, MAX_MESSAGE_BYTES, v1};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Server, Uri};
use tonic::{Request, Response, Status};

use crate::operate::{Operations, OperationsClient, Operator};

/// How long `agentctl` waits for the agent next to it.
const DEADLINE: Duration = Duration::from_secs(5);

/// What an agent knows: itself and the last report of its peer.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// This host.
    pub local: HostStatus,
    /// The opposite host, and when it reported.
    pub peer: Option<(HostStatus, Instant)>,
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
    fn of_call(status: Status) -> Self {
        if status.code() == tonic::Code::Unimplemented { Self::Unknown } else { Self::Call(Box::new(status)) }
    }
}

/// The inspection service's socket, bound and not served yet.
#[derive(Debug)]
pub struct InspectionSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl InspectionSocket {
    /// Makes a unix socket at `path` (mode 0600, in place of one that a dead agent left). Needs a tokio runtime.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn bind(path: &Path) -> Result<Self, InspectorError> {
        let listener = bind(path).map_err(|source| InspectorError::Bind { path: path.to_owned(), source })?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Serves the state of both hosts and that of the tunnel, and operations, until stopped, and removes the socket.
    ///
    /// # Errors
    /// When the server fails as a whole.
    pub async fn serve(
        self,
        state: watch::Receiver<Snapshot>,
        tunnel: watch::Receiver<TunnelReport>,
        operator: Arc<dyn Operator>,
        stop: CancellationToken,
    ) -> Result<(), InspectorError> {
        let service = v1::inspection_server::InspectionServer::new(Service { state, tunnel })
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        let operations = v1::operation_server::OperationServer::new(Operations(operator))
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        let serving = Server::builder()
            .add_service(service)
            .add_service(operations)
            .serve_with_incoming(UnixListenerStream::new(self.listener));
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

struct Service {
    state: watch::Receiver<Snapshot>,
    tunnel: watch::Receiver<TunnelReport>,
}

#[tonic::async_trait]
impl v1::inspection_server::Inspection for Service {
    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        let snapshot = self.state.borrow().clone();
        let (peer, age) = match snapshot.peer {
            Some((peer, at)) => (Some(peer.into()), Some(at.elapsed().as_secs())),
            None => (None, None),
        };
        Ok(Response::new(v1::StatusResponse { local: Some(snapshot.local.into()), peer, peer_age_seconds: age }))
    }

    async fn tunnel(&self, _: Request<v1::TunnelRequest>) -> Result<Response<v1::TunnelReport>, Status> {
        let report = self.tunnel.borrow().clone();
        Ok(Response::new(report.into()))
    }
}

/// A client of an agent's inspection service.
#[derive(Debug)]
pub struct Inspector {
    channel: Channel,
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
        let client = v1::inspection_client::InspectionClient::new(channel.clone())
            .max_decoding_message_size(2 * MAX_MESSAGE_BYTES);
        Ok(Self { channel, client })
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

    /// Operations on the services of the agent's host, over the same connection.
    #[must_use]
    pub fn operations(&self) -> OperationsClient {
        OperationsClient(v1::operation_client::OperationClient::new(self.channel.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_agent_is_told_from_one_that_fails() {
        assert!(matches!(InspectorError::of_call(Status::unimplemented("")), InspectorError::Unknown));
        assert!(matches!(InspectorError::of_call(Status::internal("")), InspectorError::Call(_)));
    }
}
