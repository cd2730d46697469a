//! Whether a public name serves, asked through the front door as a visitor would.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use model::PublicName;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::guard::PROBE_HEADER;
use crate::holding::HOLDING_HEADER;
use crate::proxy::{NONCE_HEADER, PROOF_HEADER};

const DEADLINE: Duration = Duration::from_secs(5);
/// A health page is small; more than this is not one.
const MAX_BODY: usize = 1 << 20;

/// Why the extra roots cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// No PEM.
    #[error("the extra root certificates are not PEM")]
    Pem(#[source] rustls::pki_types::pem::Error),
    /// No certificate in it, or an unusable one.
    #[error("an extra root certificate cannot be used")]
    Certificate(#[source] rustls::Error),
    /// The TLS library refused its own defaults.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
}

/// What a probe that passed saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeReport {
    /// The HTTP status.
    pub status: u16,
    /// When the name's certificate expires.
    pub not_after: SystemTime,
    /// How long it took, connecting included.
    pub elapsed: Duration,
}

/// Why a name does not serve, in words that can be shown as they are.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Nobody accepts connections.
    #[error("nothing accepts connections on {address}")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The ingress has no certificate for the name.
    #[error(
        "its certificate has not been issued yet; if this lasts: does the name point to this host, and are ports 80 and \
         443 open? `docker logs cloudathome-caddy` has Caddy's reasons"
    )]
    NoCertificate(#[source] io::Error),
    /// The certificate is expired.
    #[error("its certificate has expired, or this host's clock is wrong")]
    Expired(#[source] io::Error),
    /// The certificate chains to no root we know.
    #[error("its certificate was issued by nobody that visitors trust")]
    Untrusted(#[source] io::Error),
    /// The certificate is another name's.
    #[error("the certificate it shows is for another name")]
    OtherName(#[source] io::Error),
    /// TLS failed otherwise.
    #[error("the TLS handshake failed")]
    Tls(#[source] io::Error),
    /// The certificate's end cannot be read.
    #[error("its certificate cannot be read: {0}")]
    Certificate(String),
    /// No HTTP answer.
    #[error("it gave no proper HTTP answer")]
    Http(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The ingress shows the holding page.
    #[error("it shows the holding page (HTTP {status})")]
    Holding {
        /// The status: 503.
        status: u16,
    },
    /// Another status than the right one.
    #[error("it answers HTTP {status} instead of {expected}")]
    Status {
        /// The status.
        status: u16,
        /// The right one, in words.
        expected: String,
    },
    /// The answer is not one that our ingress got from the upstream for this question.
    #[error("something else answers in its place: another server, or a cache between")]
    Elsewhere,
    /// It took too long.
    #[error("{stage} took longer than {} s", DEADLINE.as_secs())]
    Timeout {
        /// What it was about.
        stage: &'static str,
    },
}

/// Probes names. Trusts what browsers trust, and extra roots if told so.
#[derive(Clone)]
pub struct Prober {
    config: Arc<ClientConfig>,
    /// By which the ingress recognizes it.
    token: Option<String>,
}

impl fmt::Debug for Prober {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prober").finish_non_exhaustive()
    }
}

impl Prober {
    /// A prober that trusts the public roots and those in `extra_roots_pem`, an ACME server's of a lab for example.
    ///
    /// # Errors
    /// When the extra roots cannot be used.
    pub fn new(extra_roots_pem: Option<&str>) -> Result<Self, RootsError> {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        for root in CertificateDer::pem_slice_iter(extra_roots_pem.unwrap_or_default().as_bytes()) {
            roots.add(root.map_err(RootsError::Pem)?).map_err(RootsError::Certificate)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(RootsError::Tls)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        // A resumed session would not show the certificate that is served now.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self { config: Arc::new(config), token: None })
    }

    /// Shows this secret, by which it passes where only some people may: see [`Guard::probe_token`](crate::Guard).
    #[must_use]
    pub fn with_token(self, token: String) -> Self {
        Self { token: Some(token), ..self }
    }

    /// Fetches a public name from `address`, expecting a valid certificate, the right status, and, unless it is guarded, an
    /// answer that its upstream has given to this very question.
    ///
    /// # Errors
    /// Saying how far it got.
    pub async fn probe(&self, address: SocketAddr, public: &PublicName) -> Result<ProbeReport, ProbeError> {
        let PublicName { hostname, path, status: expected, guarded } = public;
        let started = Instant::now();
        let deadline = tokio::time::Instant::from_std(started + DEADLINE);

        let stream = tokio::time::timeout_at(deadline, TcpStream::connect(address))
            .await
            .map_err(|_| ProbeError::Timeout { stage: "connecting" })?
            .map_err(|source| ProbeError::Connect { address, source })?;
        let name = ServerName::try_from(hostname.to_string()).map_err(|e| ProbeError::Tls(io::Error::other(e)))?;
        let handshake = TlsConnector::from(self.config.clone()).connect(name, stream);
        let stream = tokio::time::timeout_at(deadline, handshake)
            .await
            .map_err(|_| ProbeError::Timeout { stage: "the TLS handshake" })?
            .map_err(tls_error)?;
        let not_after = not_after(stream.get_ref().1.peer_certificates())?;

        let nonce = format!("{:032x}", rand::random::<u128>());
        let mut request = Request::get(path)
            .header(NONCE_HEADER, &nonce)
            .header(hyper::header::HOST, hostname.as_str())
            .header(hyper::header::USER_AGENT, "cloudathome-probe");
        if let Some(token) = &self.token {
            request = request.header(PROBE_HEADER, token);
        }
        let request = request.body(Full::new(Bytes::new())).map_err(|error| ProbeError::Http(Box::new(error)))?;
        let answer = tokio::time::timeout_at(deadline, exchange::exchange(stream, request, MAX_BODY))
            .await
            .map_err(|_| ProbeError::Timeout { stage: "the answer" })?
            .map_err(|error| ProbeError::Http(Box::new(error)))?;
        let status = answer.status().as_u16();
        if answer.headers().contains_key(HOLDING_HEADER) {
            return Err(ProbeError::Holding { status });
        }
        if expected.map_or(status >= 500, |expected| expected != status) {
            let expected = expected.map_or_else(|| "one below 500".to_owned(), |expected| expected.to_string());
            return Err(ProbeError::Status { status, expected });
        }
        if !guarded && answer.headers().get(PROOF_HEADER).is_none_or(|proof| proof.as_bytes() != nonce.as_bytes()) {
            return Err(ProbeError::Elsewhere);
        }
        Ok(ProbeReport { status, not_after, elapsed: started.elapsed() })
    }
}

fn tls_error(error: io::Error) -> ProbeError {
    let Some(cause) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return ProbeError::Tls(error);
    };
    match cause {
        // Caddy's answer to a name it has no certificate for.
        rustls::Error::AlertReceived(AlertDescription::InternalError | AlertDescription::UnrecognisedName) => {
            ProbeError::NoCertificate(error)
        }
        rustls::Error::InvalidCertificate(certificate) => match certificate {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => ProbeError::Expired(error),
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                ProbeError::OtherName(error)
            }
            CertificateError::UnknownIssuer => ProbeError::Untrusted(error),
            _ => ProbeError::Tls(error),
        },
        _ => ProbeError::Tls(error),
    }
}

fn not_after(chain: Option<&[CertificateDer<'_>]>) -> Result<SystemTime, ProbeError> {
    let leaf =
        chain.and_then(|chain| chain.first()).ok_or_else(|| ProbeError::Certificate("none was shown".to_owned()))?;
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|error| ProbeError::Certificate(error.to_string()))?;
    u64::try_from(leaf.validity().not_after.timestamp())
        .ok()
        .and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)))
        .ok_or_else(|| ProbeError::Certificate("its end lies outside of all times".to_owned()))
}
