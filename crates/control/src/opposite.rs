//! The way to the opposite agent: `agentctl` asks the agent next to it for something of the opposite host, and that hands the call
//! on, as it is, over the control channel. Whether it is done is for the opposite agent to decide.

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::NamedService;
use tonic::transport::{Channel, Endpoint, Server, Uri};

use crate::inspector::{Inspector, InspectorError};
use crate::{CONNECT_DEADLINE, HEARTBEAT, SILENCE_LIMIT};

/// Calls below this path are for the opposite agent. One that knows nothing of this answers that it is not implemented.
pub(crate) const PREFIX: &str = "/opposite";
/// The services that calls are handed on for.
const SERVICES: [&str; 2] = ["/cloudathome.control.v1.Inspection/", "/cloudathome.control.v1.Operation/"];
/// Streams of a connection between the agents, the session among them.
const STREAMS: u32 = 16;
/// What may be sent on a stream before it is read, bytes.
const STREAM_WINDOW: u32 = 128 * 1024;
/// And on all of a connection: streams whose readers stand still leave room for the others.
const CONNECTION_WINDOW: u32 = (STREAMS + 4) * STREAM_WINDOW;

/// A connection to the opposite agent, or why there is none.
type Way = Result<Channel, String>;

/// Hands calls on to the opposite agent.
#[derive(Debug, Clone)]
pub struct Opposite(watch::Receiver<Way>);

/// Tells [`Opposite`] which way to go.
#[derive(Debug, Clone)]
pub struct OppositeWay(Arc<watch::Sender<Way>>);

impl Opposite {
    /// There is no way yet, for this reason.
    #[must_use]
    pub fn none(reason: &str) -> (OppositeWay, Self) {
        let (way, receiver) = watch::channel(Err(reason.to_owned()));
        (OppositeWay(Arc::new(way)), Self(receiver))
    }

    /// To ask the opposite agent oneself, as it is connected now.
    ///
    /// # Errors
    /// When there is no way to it; the error says why.
    pub fn inspector(&self) -> Result<Inspector, InspectorError> {
        let channel = self.0.borrow().clone().map_err(InspectorError::Away)?;
        Ok(Inspector::new(channel, Uri::from_static("http://opposite.cloudathome.internal")))
    }

    /// The agent at the other end of this connection.
    pub(crate) fn at(channel: Channel) -> Self {
        Self(watch::channel(Ok(channel)).1)
    }
}

impl OppositeWay {
    pub(crate) fn open(&self, channel: Channel) {
        drop(self.0.send_replace(Ok(channel)));
    }

    pub(crate) fn close(&self, reason: String) {
        drop(self.0.send_replace(Err(reason)));
    }
}

/// A client on a connection whose other end is the opposite agent.
pub(crate) async fn client<S>(stream: S) -> Result<Channel, tonic::transport::Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_: Uri| {
        let stream = stream.take().ok_or_else(|| std::io::Error::other("the connection ended"));
        async move { stream }
    });
    Endpoint::from_static("http://opposite.cloudathome.internal")
        .connect_timeout(CONNECT_DEADLINE)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(HEARTBEAT)
        .keep_alive_timeout(SILENCE_LIMIT.saturating_sub(HEARTBEAT))
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
}

/// A server for the opposite agent.
pub(crate) fn server() -> Server {
    Server::builder()
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keepalive_interval(Some(HEARTBEAT))
        .http2_keepalive_timeout(Some(SILENCE_LIMIT.saturating_sub(HEARTBEAT)))
}

impl NamedService for Opposite {
    const NAME: &'static str = "opposite";
}

impl Service<http::Request<Body>> for Opposite {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let way = self.0.borrow().clone();
        Box::pin(async move { Ok(hand_on(way, request).await.unwrap_or_else(Status::into_http)) })
    }
}

async fn hand_on(way: Way, mut request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
    let path = request.uri().path().strip_prefix(PREFIX).unwrap_or_default();
    let known = SERVICES.iter().any(|service| path.starts_with(service));
    let (true, Ok(uri)) = (known, path.parse()) else {
        return Err(Status::unimplemented("the opposite agent is not asked for this"));
    };
    *request.uri_mut() = uri;
    let mut channel = way.map_err(Status::unavailable)?;
    let broken = |error: tonic::transport::Error| {
        let why = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        Status::unavailable(format!("the opposite host cannot be asked now: {why}"))
    };
    std::future::poll_fn(|context| channel.poll_ready(context)).await.map_err(broken)?;
    channel.call(request).await.map_err(broken)
}
