//! Answers Caddy's question whether an attempt to log in may pass, on a unix socket that only Caddy reaches.

use std::fs::{self, Permissions};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use crate::guard::{ATTEMPT_HEADER, CLIENT_HEADER, CREDENTIALS_HEADER, SITE_HEADER};
use crate::limiter::{Attempt, Limiter};

/// The socket of whom Caddy asks.
#[derive(Debug)]
pub struct LimitsSocket(UnixListener);

impl LimitsSocket {
    /// Makes a unix socket at `path` (mode 0600, in place of one that a dead agent left). Needs a tokio runtime.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn bind(path: &Path) -> io::Result<Self> {
        // Without it binding fails, with its own reason.
        drop(fs::remove_file(path));
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        Ok(Self(listener))
    }

    /// Answers until stopped: 204 for what may pass, 429 with the seconds to wait for what may not.
    ///
    /// # Errors
    /// When the server fails as a whole.
    pub async fn serve(self, stop: CancellationToken) -> io::Result<()> {
        let limiter = Arc::new(Mutex::new(Limiter::default()));
        let app = Router::new().fallback(answer).with_state(limiter);
        // Not gracefully: Caddy keeps its connections.
        let served = stop.run_until_cancelled(async { axum::serve(self.0, app).await }).await;
        served.unwrap_or(Ok(()))
    }
}

async fn answer(State(limiter): State<Arc<Mutex<Limiter>>>, headers: HeaderMap) -> Response {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    // What Caddy does not ask properly is not an attempt.
    let Ok(client) = text(CLIENT_HEADER).parse::<IpAddr>() else { return StatusCode::NO_CONTENT.into_response() };
    let credentials = headers.get(CREDENTIALS_HEADER).map(HeaderValue::as_bytes).unwrap_or_default();
    let attempt = match text(ATTEMPT_HEADER) {
        "login" => Attempt::Login,
        "credentials" => Attempt::Credentials(credentials),
        _ => return StatusCode::NO_CONTENT.into_response(),
    };
    let verdict = {
        let mut limiter = limiter.lock().unwrap_or_else(PoisonError::into_inner);
        limiter.attempt(Instant::now(), text(SITE_HEADER), client, attempt)
    };
    match verdict {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(wait) => {
            let seconds = HeaderValue::from(wait.as_secs().saturating_add(1));
            (StatusCode::TOO_MANY_REQUESTS, [(RETRY_AFTER, seconds)]).into_response()
        }
    }
}
