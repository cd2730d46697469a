//! One HTTP/1.1 request over a stream that is already open: of TCP, TLS or a unix socket.
#![forbid(unsafe_code)]

use std::error::Error;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Body;
use hyper::client::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// Why there is no whole answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// Not HTTP, or the stream ended before the answer.
    #[error("no valid HTTP answer came")]
    Http(#[source] hyper::Error),
    /// The body broke off, or is larger than was allowed.
    #[error("the answer's body did not come whole, or is larger than expected")]
    Body(#[source] Box<dyn Error + Send + Sync>),
}

/// Sends the request and reads the answer, with at most `limit` bytes of body. Cancelling it closes the stream; it has no deadline
/// of its own.
///
/// # Errors
/// When no whole answer came.
pub async fn exchange<B>(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<B>,
    limit: usize,
) -> Result<Response<Bytes>, ExchangeError>
where
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(ExchangeError::Http)?;
    let exchange = async {
        let (head, body) = sender.send_request(request).await.map_err(ExchangeError::Http)?.into_parts();
        let body = Limited::new(body, limit).collect().await.map_err(ExchangeError::Body)?.to_bytes();
        Ok(Response::from_parts(head, body))
    };
    let mut exchange = std::pin::pin!(exchange);
    // The connection only moves bytes for the exchange; whether it then ends well does not matter.
    tokio::select! {
        answer = &mut exchange => answer,
        _ = connection => exchange.await,
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Empty;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// What becomes of an answer of these bytes, after which the stream ends.
    async fn answered(bytes: &'static str) -> Result<Response<Bytes>, ExchangeError> {
        let (near, mut far) = tokio::io::duplex(4096);
        let server = async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(far.read_u8().await.unwrap());
            }
            far.write_all(bytes.as_bytes()).await.unwrap();
        };
        let request = Request::get("/").header("host", "test").body(Empty::<Bytes>::new()).unwrap();
        tokio::join!(exchange(near, request, 8), server).0
    }

    #[tokio::test]
    async fn an_answer_is_whole_or_an_error() {
        let answer = answered("HTTP/1.1 404 Not Found\r\ncontent-length: 8\r\n\r\n12345678").await.unwrap();
        assert_eq!((answer.status().as_u16(), &answer.body()[..]), (404, &b"12345678"[..]));
        let to_the_end = answered("HTTP/1.1 200 OK\r\n\r\n1234").await.unwrap();
        assert_eq!(to_the_end.body(), "1234");
        let large = answered("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n123456789").await;
        assert!(matches!(large, Err(ExchangeError::Body(_))), "{large:?}");
        let broken = answered("HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n123").await;
        assert!(matches!(broken, Err(ExchangeError::Body(_))), "{broken:?}");
        for nonsense in ["", "220 mail ready\r\n", "HTTP/1.1 200"] {
            let nothing = answered(nonsense).await;
            assert!(matches!(nothing, Err(ExchangeError::Http(_))), "{nonsense:?}: {nothing:?}");
        }
    }
}
