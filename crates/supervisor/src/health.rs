//! Asks a service whether it works, and remembers just enough not to flap.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use model::{ContainerState, ContainerStatus, Health};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{FETCHING, chain};

/// No answer of a health page is larger.
const BODY_LIMIT: usize = 64 * 1024;
/// So many failures in a row make a healthy service unhealthy: one slow answer is no outage.
const FAILURES: u32 = 2;

/// What to ask, and which answer is the right one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// The container that answers, by its name without our prefix; its status explains what a request can't.
    pub container: String,
    /// Where.
    pub target: Target,
    /// The path, for example `/status.php`.
    pub path: String,
    /// The Host header.
    pub host: String,
    /// Whether to say `X-Forwarded-Proto: https`, for services that redirect plain requests.
    pub forwarded_https: bool,
    /// The right answer.
    pub expect: Expectation,
    /// The time between two checks.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// So long after a start, no answer is no fault yet.
    pub grace: Duration,
}

/// Where a service answers HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// At an address.
    Tcp(SocketAddr),
    /// At a unix socket.
    Unix(PathBuf),
}

/// Which answer is the right one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expectation {
    /// Status 200.
    Ok,
    /// Status 200 and Nextcloud's status saying that it is installed, not in maintenance, and needs no upgrade: it
    /// answers 200 in all these cases.
    NextcloudReady,
}

/// What one request showed.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// No connection.
    #[error("nothing answers")]
    Connect(#[source] std::io::Error),
    /// No whole answer in time.
    #[error("no answer within {} s", .0.as_secs_f32())]
    Timeout(Duration),
    /// Not HTTP, or broken off.
    #[error("the answer broke off")]
    Http(#[source] hyper::Error),
    /// A larger body than any health page has, or one that broke off.
    #[error("the answer could not be read")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The check itself can't be put into a request.
    #[error("the check's path or host is not valid")]
    Request(#[source] hyper::http::Error),
    /// The wrong status.
    #[error("{path} answered {status}")]
    Status {
        /// The path asked.
        path: String,
        /// The status.
        status: StatusCode,
    },
    /// The right status with the wrong content.
    #[error("{0}")]
    Content(&'static str),
}

impl HealthCheck {
    /// Asks once.
    ///
    /// # Errors
    /// What was wrong with the answer.
    pub async fn ask(&self) -> Result<(), CheckError> {
        let whole = async {
            match &self.target {
                Target::Tcp(address) => self.ask_over(TcpStream::connect(address).await).await,
                Target::Unix(path) => self.ask_over(UnixStream::connect(path).await).await,
            }
        };
        timeout(self.timeout, whole).await.map_err(|_| CheckError::Timeout(self.timeout))?
    }

    async fn ask_over<S>(&self, stream: std::io::Result<S>) -> Result<(), CheckError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let stream = TokioIo::new(stream.map_err(CheckError::Connect)?);
        let (mut sender, connection) = http1::handshake(stream).await.map_err(CheckError::Http)?;
        let mut request = Request::get(&self.path)
            .header(header::HOST, &self.host)
            .header(header::USER_AGENT, "cloudathome-health")
            .header(header::CONNECTION, "close");
        if self.forwarded_https {
            request = request.header("x-forwarded-proto", "https");
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(CheckError::Request)?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(CheckError::Http)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), BODY_LIMIT).collect().await.map_err(CheckError::Body)?;
            self.judge(status, &body.to_bytes())
        };
        // The connection moves the bytes; it ends when the exchange has.
        let mut exchange = std::pin::pin!(exchange);
        tokio::select! {
            result = &mut exchange => result,
            result = connection => {
                result.map_err(CheckError::Http)?;
                exchange.await
            }
        }
    }

    fn judge(&self, status: StatusCode, body: &[u8]) -> Result<(), CheckError> {
        if status != StatusCode::OK {
            return Err(CheckError::Status { path: self.path.clone(), status });
        }
        match self.expect {
            Expectation::Ok => Ok(()),
            Expectation::NextcloudReady => nextcloud_ready(body).map_err(CheckError::Content),
        }
    }
}

fn nextcloud_ready(body: &[u8]) -> Result<(), &'static str> {
    let status: Value = serde_json::from_slice(body).map_err(|_| "the status page is not Nextcloud's")?;
    let flag = |key: &str| status.get(key).and_then(Value::as_bool);
    match (flag("installed"), flag("maintenance"), flag("needsDbUpgrade")) {
        (Some(true), Some(false), Some(false)) => Ok(()),
        (None, _, _) | (_, None, _) | (_, _, None) => Err("the status page is not Nextcloud's"),
        (Some(false), _, _) => Err("Nextcloud is not installed yet"),
        (_, Some(true), _) => Err("Nextcloud is in maintenance mode; `occ maintenance:mode --off` ends it"),
        (_, _, Some(true)) => Err("Nextcloud waits for a database upgrade; `occ upgrade` does it"),
    }
}

/// Checks until the token is cancelled. `containers` wakes the check early and gives the reason when a container does
/// not run.
pub fn spawn(
    check: HealthCheck,
    containers: watch::Receiver<Vec<ContainerStatus>>,
    token: CancellationToken,
) -> watch::Receiver<Health> {
    let (sender, receiver) = watch::channel(Health::Unknown);
    tokio::spawn(async move {
        let _ = token.run_until_cancelled(watch_health(check, containers, sender)).await;
    });
    receiver
}

async fn watch_health(
    check: HealthCheck,
    mut containers: watch::Receiver<Vec<ContainerStatus>>,
    sender: watch::Sender<Health>,
) {
    let mut memory = Memory::default();
    loop {
        let container = containers.borrow_and_update().iter().find(|status| status.name == check.container).cloned();
        let answer = check.ask().await.map_err(|error| chain(&error));
        let health = memory.judge(answer, container.as_ref(), check.grace, unix_now());
        sender.send_if_modified(|old| {
            if *old == health {
                return false;
            }
            match &health {
                Health::Unhealthy { reason } => warn!(container = check.container, reason, "unhealthy"),
                other => info!(container = check.container, reason = other.reason(), "{}", other.word()),
            }
            *old = health;
            true
        });
        tokio::select! {
            () = sleep(check.interval) => {}
            Ok(()) = containers.changed() => {}
        }
    }
}

/// What earlier checks showed.
#[derive(Debug, Default)]
struct Memory {
    failures: u32,
    healthy: bool,
    /// The start (id and time) for which it has been healthy; its grace is over.
    proven: Option<(String, i64)>,
}

impl Memory {
    fn judge(
        &mut self,
        answer: Result<(), String>,
        container: Option<&ContainerStatus>,
        grace: Duration,
        now: i64,
    ) -> Health {
        let start = container.map(|container| (container.id.clone(), container.started_at));
        let known = container.and_then(|container| container.reason.clone());
        let Err(failure) = answer else {
            *self = Self { failures: 0, healthy: true, proven: start };
            return match known {
                Some(reason) => Health::Degraded { reason },
                None => Health::Healthy,
            };
        };
        self.failures = self.failures.saturating_add(1);
        let state = container.map_or(ContainerState::Absent, |container| container.state);
        if self.healthy && self.failures < FAILURES && state == ContainerState::Running {
            return Health::Healthy;
        }
        self.healthy = false;
        let starting = match (&known, state) {
            (Some(reason), _) => reason.starts_with(FETCHING),
            (None, ContainerState::Absent | ContainerState::Created | ContainerState::Exited) => true,
            (None, ContainerState::Running) => {
                let started = start.as_ref().map_or(0, |(_, at)| *at);
                let age = u64::try_from(now.saturating_sub(started)).unwrap_or(0);
                self.proven != start && age < grace.as_secs()
            }
        };
        let reason = known.unwrap_or(failure);
        if starting { Health::Starting { reason } } else { Health::Unhealthy { reason } }
    }
}

fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
