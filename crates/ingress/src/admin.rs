//! Caddy's admin endpoint on its unix socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use exchange::ExchangeError;
use http_body_util::Full;
use hyper::{Method, Request, Response};
use serde_json::Value;
use tokio::net::UnixStream;

/// Caddy answers within milliseconds; opening listeners on a busy machine takes longer.
const DEADLINE: Duration = Duration::from_secs(15);
/// Far above any configuration of ours.
const MAX_ANSWER: usize = 4 << 20;

/// Why Caddy did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Nobody listens.
    #[error("cannot reach Caddy's admin endpoint {}: is its container running?", .socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The exchange failed halfway.
    #[error("Caddy's admin endpoint gave no proper answer")]
    Exchange(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No answer came in time.
    #[error("Caddy's admin endpoint gave no answer within {} s", DEADLINE.as_secs())]
    Timeout,
    /// It said no. The configuration before stays in force.
    #[error("Caddy refused: {reason} (HTTP {status})")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Caddy's own words.
        reason: String,
    },
}

impl From<ExchangeError> for AdminError {
    fn from(error: ExchangeError) -> Self {
        Self::Exchange(Box::new(error))
    }
}

/// A client of the admin endpoint. Each call opens a connection of its own, so a restarted Caddy is no special case.
#[derive(Debug, Clone)]
pub struct AdminClient {
    socket: PathBuf,
}

impl AdminClient {
    /// A client for a socket as seen from this process.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Replaces the whole configuration: all of it takes effect, or none.
    ///
    /// # Errors
    /// With Caddy's own reason when it refuses. Calling again is the caller's business.
    pub async fn load(&self, config: &Value) -> Result<(), AdminError> {
        self.call(Method::POST, "/load", Bytes::from(config.to_string())).await.map(drop)
    }

    /// The configuration in force, as it was loaded.
    ///
    /// # Errors
    /// When Caddy cannot be asked.
    pub async fn current(&self) -> Result<Value, AdminError> {
        let answer = self.call(Method::GET, "/config/", Bytes::new()).await?;
        serde_json::from_slice(answer.body()).map_err(|error| AdminError::Exchange(Box::new(error)))
    }

    async fn call(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Bytes>, AdminError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(hyper::header::HOST, "localhost")
            .header(hyper::header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| AdminError::Exchange(Box::new(error)))?;
        let exchange = async {
            let stream = UnixStream::connect(&self.socket)
                .await
                .map_err(|source| AdminError::Connect { socket: self.socket.clone(), source })?;
            Ok::<_, AdminError>(exchange::exchange(stream, request, MAX_ANSWER).await?)
        };
        let answer = tokio::time::timeout(DEADLINE, exchange).await.map_err(|_| AdminError::Timeout)??;
        if answer.status().is_success() {
            return Ok(answer);
        }
        Err(AdminError::Refused { status: answer.status().as_u16(), reason: reason(answer.body()) })
    }
}

/// Caddy says why in `{"error": "..."}`.
fn reason(body: &[u8]) -> String {
    match serde_json::from_slice::<Value>(body) {
        Ok(Value::Object(fields)) if fields.get("error").is_some_and(Value::is_string) => {
            fields["error"].as_str().unwrap_or_default().to_owned()
        }
        Ok(_) | Err(_) => String::from_utf8_lossy(body).trim().chars().take(500).collect(),
    }
}
