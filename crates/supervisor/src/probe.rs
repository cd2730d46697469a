//! Asks one question of a service and judges the answer.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{HeaderMap, Request, StatusCode, header};
use model::{Check, Expect, Expectation, HttpProbe, Probe, Target};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::engine::{Engine, EngineError};

/// No answer of a health page is larger.
const BODY_LIMIT: usize = 64 * 1024;
/// Characters of a command's output in a reason.
const OUTPUT_CHARS: usize = 200;

/// What was wrong with an answer.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// No connection.
    #[error("nothing answers")]
    Connect(#[source] std::io::Error),
    /// No whole answer in time.
    #[error("no answer within {} s", .0.as_secs_f32())]
    Timeout(Duration),
    /// Not HTTP, broken off, or a larger body than any health page has.
    #[error(transparent)]
    Answer(#[from] exchange::ExchangeError),
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
    /// The right status with the wrong content, in the check's own words.
    #[error("{0}")]
    Content(String),
    /// A command ended with another code than 0.
    #[error("{command} ended with {code}{output}")]
    Command {
        /// The program.
        command: String,
        /// Its exit code.
        code: i64,
        /// What it said, after a colon, if anything.
        output: String,
    },
    /// The command could not be run.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A command is to run in a container, and the check names none.
    #[error("the check names no container to run its command in")]
    NoContainer,
}

/// Asks once. `id` is the engine's id of the check's container, where it has one.
///
/// # Errors
/// What was wrong with the answer.
pub async fn ask<E: Engine>(engine: &E, check: &Check, id: Option<&str>) -> Result<(), CheckError> {
    let whole = async {
        match &check.probe {
            Probe::Http(probe) => match &probe.target {
                Target::Tcp(address) => ask_http(probe, connect(*address).await?).await,
                Target::Unix(path) => {
                    ask_http(probe, UnixStream::connect(path).await.map_err(CheckError::Connect)?).await
                }
            },
            Probe::Tcp(address) => connect(*address).await.map(drop),
            Probe::Exec { user, command } => {
                let id = id.ok_or(CheckError::NoContainer)?;
                let words: Vec<&str> = command.iter().map(String::as_str).collect();
                let result = engine.exec(id, user, &words, check.timeout).await?;
                if result.code == 0 {
                    return Ok(());
                }
                let said = if result.stderr.trim().is_empty() { &result.stdout } else { &result.stderr };
                Err(CheckError::Command {
                    command: command.first().cloned().unwrap_or_default(),
                    code: result.code,
                    output: last_words(said).map(|words| format!(": {words}")).unwrap_or_default(),
                })
            }
        }
    };
    timeout(check.timeout, whole).await.map_err(|_| CheckError::Timeout(check.timeout))?
}

/// The end of a text in one line; none of an empty one.
pub(crate) fn last_words(text: &str) -> Option<String> {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let skip = words.chars().count().saturating_sub(OUTPUT_CHARS);
    (!words.is_empty()).then(|| words.chars().skip(skip).collect())
}

async fn connect(address: SocketAddr) -> Result<TcpStream, CheckError> {
    TcpStream::connect(address).await.map_err(CheckError::Connect)
}

async fn ask_http<S>(probe: &HttpProbe, stream: S) -> Result<(), CheckError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut request = Request::get(&probe.path)
        .header(header::HOST, &probe.host)
        .header(header::USER_AGENT, "cloudathome-health")
        .header(header::CONNECTION, "close");
    if probe.forwarded_https {
        request = request.header("x-forwarded-proto", "https");
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(CheckError::Request)?;
    let answer = exchange::exchange(stream, request, BODY_LIMIT).await?;
    judge(probe, answer.status(), answer.headers(), answer.body())
}

fn judge(probe: &HttpProbe, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Result<(), CheckError> {
    if status.as_u16() != probe.status {
        return Err(CheckError::Status { path: probe.path.clone(), status });
    }
    match probe.expect.iter().find(|expect| !holds(expect, headers, body)) {
        Some(expect) => Err(CheckError::Content(expect.otherwise.clone())),
        None => Ok(()),
    }
}

fn holds(expect: &Expect, headers: &HeaderMap, body: &[u8]) -> bool {
    match &expect.that {
        Expectation::Header { name, value } => headers.get_all(name).iter().any(|found| found == value.as_str()),
        Expectation::Json { pointer, equals } => {
            let body: Option<Value> = serde_json::from_slice(body).ok();
            let wanted: Option<Value> = serde_json::from_str(equals).ok();
            wanted.is_some() && body.as_ref().and_then(|body| body.pointer(pointer)) == wanted.as_ref()
        }
    }
}
