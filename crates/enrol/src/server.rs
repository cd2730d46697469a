//! The edge's side.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use authority::code::Secret;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use ipnet::Ipv4Net;
use model::{HostId, Hostname};
use pki::CertificateRequest;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

use crate::limits::Limits;
use crate::{Answer, DEADLINE, MAX_BODY, PATH, Refusal, Request};

/// Exchanges at a time.
const MAX_EXCHANGES: usize = 16;
/// Bytes of an HTTP head. Hyper takes no less.
const MAX_HEAD: usize = 8 * 1024;

/// What a home is given, beside what every home is told.
#[derive(Debug)]
pub struct Grant {
    /// Its name.
    pub home: HostId,
    /// Its certificate.
    pub cert_pem: String,
    /// The authority's certificate.
    pub ca_pem: String,
    /// Its tls-crypt-v2 client key.
    pub client_key: SecretString,
    /// The edge's name.
    pub edge: HostId,
    /// Under what services get their names.
    pub domain: Hostname,
    /// The addresses inside the tunnel.
    pub subnet: Ipv4Net,
    /// The port of the control channel.
    pub control_port: u16,
}

/// Why a home is given nothing.
#[derive(Debug)]
pub enum Refused {
    /// Its code does not let it in; it is told so.
    Code(authority::Refusal),
    /// The edge failed; the home is told nothing of why, the log has it.
    Failed(String),
}

/// Decides who is let in.
pub trait Admit: Send + Sync + 'static {
    /// Redeems the secret of a code for an identity.
    fn admit(&self, secret: Secret, request: CertificateRequest) -> BoxFuture<'static, Result<Grant, Refused>>;
}

/// Why enrolment cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// One of the identity's texts cannot be read.
    #[error("the edge's identity cannot be read")]
    Pem(#[from] rustls_pki_types::pem::Error),
    /// They do not make a TLS configuration.
    #[error("the edge's identity cannot be used for TLS")]
    Identity(#[from] rustls::Error),
}

/// The edge's identity, PEM.
pub struct Pems<'a> {
    /// The authority's certificates.
    pub ca: &'a str,
    /// The edge's own.
    pub cert: &'a str,
    /// Its key.
    pub key: &'a str,
}

impl std::fmt::Debug for Pems<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pems").finish_non_exhaustive()
    }
}

/// Takes connections of those who want to join.
#[derive(Clone)]
pub struct Enrolment {
    tls: TlsAcceptor,
    admit: Arc<dyn Admit>,
    /// Held for the time of a look only.
    limits: Arc<Mutex<Limits>>,
    places: Arc<Semaphore>,
}

impl std::fmt::Debug for Enrolment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Enrolment").finish_non_exhaustive()
    }
}

impl Enrolment {
    /// Enrolment at the edge of an identity.
    ///
    /// # Errors
    /// When the texts are no identity.
    pub fn new(identity: &Pems<'_>, admit: Arc<dyn Admit>) -> Result<Self, TlsError> {
        Ok(Self { tls: tls(identity)?, admit, limits: Arc::default(), places: Arc::new(Semaphore::new(MAX_EXCHANGES)) })
    }

    /// Shows another identity from now on.
    ///
    /// # Errors
    /// As [`Enrolment::new`]; the one from before stays.
    pub fn identify(&mut self, identity: &Pems<'_>) -> Result<(), TlsError> {
        self.tls = tls(identity)?;
        Ok(())
    }

    /// Serves one connection, of which `read` was read already, in a task of its own. Connections beyond the limits are
    /// closed.
    pub fn take(&self, socket: TcpStream, peer: SocketAddr, read: Vec<u8>) {
        let heard = self.limits.lock().unwrap_or_else(PoisonError::into_inner).admits(peer.ip(), Instant::now());
        if !heard {
            debug!(%peer, "too many attempts to join: this one is not heard");
            return;
        }
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            debug!(%peer, "too many attempts to join at a time: this one is not heard");
            return;
        };
        let enrolment = self.clone();
        tokio::spawn(async move {
            let served = timeout(DEADLINE, enrolment.serve(Begun { read, at: 0, socket }, peer)).await;
            if let Ok(Err(error)) = served {
                debug!(%peer, error, "an attempt to join broke off");
            }
            drop(place);
        });
    }

    async fn serve(&self, socket: Begun, peer: SocketAddr) -> Result<(), String> {
        let stream = self.tls.accept(socket).await.map_err(|error| error.to_string())?;
        let answer = service_fn(|request| async move { Ok::<_, Infallible>(self.answer(request, peer).await) });
        hyper::server::conn::http1::Builder::new()
            .keep_alive(false)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), answer)
            .await
            .map_err(|error| error.to_string())
    }

    async fn answer(&self, request: hyper::Request<Incoming>, peer: SocketAddr) -> Response<Full<Bytes>> {
        if request.uri().path() != PATH {
            return refuse(StatusCode::NOT_FOUND, "there is nothing here");
        }
        if request.method() != Method::POST {
            return refuse(StatusCode::METHOD_NOT_ALLOWED, "this takes POST only");
        }
        let Ok(body) = Limited::new(request.into_body(), MAX_BODY).collect().await else {
            return refuse(StatusCode::PAYLOAD_TOO_LARGE, "the request is too long, or broke off");
        };
        let Ok(asked) = serde_json::from_slice::<Request>(&body.to_bytes()) else {
            return refuse(StatusCode::BAD_REQUEST, "the request cannot be read: bring both hosts to the same release");
        };
        let secret = Secret::from_hex(&asked.secret);
        let (Some(secret), Ok(request)) = (secret, CertificateRequest::from_pem(&asked.request)) else {
            return refuse(StatusCode::BAD_REQUEST, "the request cannot be read: bring both hosts to the same release");
        };
        match self.admit.admit(secret, request).await {
            Ok(grant) => {
                let version: String = asked.version.chars().filter(|c| c.is_ascii_graphic()).take(40).collect();
                info!(%peer, home = %grant.home, version, "home has joined by a code");
                reply(StatusCode::OK, &granted(&grant))
            }
            Err(Refused::Code(refusal)) => {
                info!(%peer, reason = %refusal, "an attempt to join was refused");
                refuse(StatusCode::FORBIDDEN, &refusal.to_string())
            }
            Err(Refused::Failed(error)) => {
                warn!(%peer, error, "a home could not be let in");
                refuse(StatusCode::INTERNAL_SERVER_ERROR, "the edge failed: look at its log")
            }
        }
    }
}

fn tls(identity: &Pems<'_>) -> Result<TlsAcceptor, TlsError> {
    // The authority's certificate goes along: the home knows that one.
    let chain: Vec<_> = [identity.cert, identity.ca]
        .iter()
        .flat_map(|pem| CertificateDer::pem_slice_iter(pem.as_bytes()))
        .collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?;
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn granted(grant: &Grant) -> Answer {
    Answer {
        edge: grant.edge.to_string(),
        home: grant.home.to_string(),
        certificate: grant.cert_pem.clone(),
        authority: grant.ca_pem.clone(),
        tls_crypt_v2: grant.client_key.expose_secret().to_owned(),
        domain: grant.domain.to_string(),
        subnet: grant.subnet,
        control_port: grant.control_port,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

fn refuse(status: StatusCode, reason: &str) -> Response<Full<Bytes>> {
    reply(status, &Refusal { reason: reason.to_owned() })
}

fn reply(status: StatusCode, body: &impl Serialize) -> Response<Full<Bytes>> {
    let body = serde_json::to_vec(body).unwrap_or_default();
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

/// A connection whose beginning was read by somebody else.
struct Begun {
    read: Vec<u8>,
    at: usize,
    socket: TcpStream,
}

impl AsyncRead for Begun {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let waiting = self.read.get(self.at..).unwrap_or_default();
        if waiting.is_empty() {
            return Pin::new(&mut self.socket).poll_read(context, buf);
        }
        let length = waiting.len().min(buf.remaining());
        buf.put_slice(waiting.get(..length).unwrap_or_default());
        self.at += length;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Begun {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}
