//! One HTTP/1.1 request over a stream that is already open.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// Why there is no whole answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    #[error("no valid HTTP answer came")]
    Http(#[source] hyper::Error),
    #[error("the answer's body did not come whole, or is larger than expected")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Sends the request and reads the answer with at most `limit` bytes of body. Cancelling it closes the stream.
pub(crate) async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
    limit: usize,
) -> Result<Answer, ExchangeError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(ExchangeError::Http)?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(ExchangeError::Http)?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, limit).collect().await.map_err(ExchangeError::Body)?.to_bytes();
        Ok(Answer { status: head.status, headers: head.headers, body })
    };
    tokio::pin!(exchange);
    tokio::pin!(connection);
    // The connection only moves bytes for the exchange; whether it then ends well does not matter.
    tokio::select! {
        answer = &mut exchange => answer,
        _ = &mut connection => exchange.await,
    }
}
