//! One HTTP/1.1 request on a connection of its own.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::header::{ACCEPT, HOST, HeaderName, USER_AGENT};
use hyper::{Request, Response, Uri};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::repository::is_loopback;

/// For one request.
const DEADLINE: Duration = Duration::from_secs(30);
/// A thousand names of tags fit many times.
const MAX_BODY: usize = 4 << 20;

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// Nobody accepts connections.
    #[error("no connection")]
    Connect(#[source] io::Error),
    /// TLS failed, or its certificate is none that browsers trust.
    #[error("TLS failed")]
    Tls(#[source] io::Error),
    /// The request cannot be written.
    #[error("no valid request")]
    Request(#[source] hyper::http::Error),
    /// No whole answer.
    #[error(transparent)]
    Answer(#[from] exchange::ExchangeError),
    /// It took too long.
    #[error("no answer within {} s", DEADLINE.as_secs())]
    Deadline,
}

/// An HTTP server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) plain: bool,
}

impl Server {
    /// That of an address; none when it is not one of HTTPS, or of HTTP on loopback.
    pub(crate) fn of(uri: &Uri) -> Option<Self> {
        let host = uri.host().filter(|host| !host.is_empty())?.to_owned();
        let plain = match uri.scheme_str()? {
            "https" => false,
            "http" if is_loopback(&host) => true,
            _ => return None,
        };
        Some(Self { host, port: uri.port_u16().unwrap_or(if plain { 80 } else { 443 }), plain })
    }

    /// Asks for a path.
    pub(crate) async fn get(
        &self,
        tls: &Arc<ClientConfig>,
        path: &str,
        header: Option<(HeaderName, String)>,
    ) -> Result<Response<Bytes>, ExchangeError> {
        timeout(DEADLINE, self.try_get(tls, path, header)).await.map_err(|_| ExchangeError::Deadline)?
    }

    async fn try_get(
        &self,
        tls: &Arc<ClientConfig>,
        path: &str,
        header: Option<(HeaderName, String)>,
    ) -> Result<Response<Bytes>, ExchangeError> {
        let usual = if self.plain { 80 } else { 443 };
        let host = if self.port == usual { self.host.clone() } else { format!("{}:{}", self.host, self.port) };
        let mut request = Request::get(path).header(HOST, host).header(USER_AGENT, "cloudathome");
        request = request.header(ACCEPT, "application/json");
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(ExchangeError::Request)?;
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(ExchangeError::Connect)?;
        if self.plain {
            return Ok(exchange::exchange(stream, request, MAX_BODY).await?);
        }
        let name =
            ServerName::try_from(self.host.clone()).map_err(|error| ExchangeError::Tls(io::Error::other(error)))?;
        let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await.map_err(ExchangeError::Tls)?;
        Ok(exchange::exchange(stream, request, MAX_BODY).await?)
    }
}
