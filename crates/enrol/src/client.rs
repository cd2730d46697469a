//! Home's side.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use authority::code::{Fingerprint, JoinCode};
use bytes::Bytes;
use exchange::{ExchangeError, exchange};
use http_body_util::Full;
use hyper::{Method, StatusCode, header};
use ipnet::Ipv4Net;
use model::{HostId, Hostname, Role, RoleUri};
use pki::{HostIdentity, Identity, PrivateKey};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use secrecy::ExposeSecret;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::{Answer, DEADLINE, MAX_BODY, PATH, Refusal, Request};

/// Longest reason that is shown, characters.
const MAX_REASON: usize = 200;

/// Why a home could not join. Nothing was changed at home.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Nobody answers there.
    #[error("nobody answers at {0}: is the edge's agent running, and does its provider's firewall let TCP in there?")]
    Connect(SocketAddr, #[source] io::Error),
    /// Who answers is not the edge that made the code.
    #[error("who answers at {0} is not the edge that made this code: nothing was sent there")]
    OtherEdge(SocketAddr),
    /// The edge's certificate does not count now, by this host's clock.
    #[error("the edge's certificate does not count at this time: set the clock of this host, or of the edge")]
    Clock,
    /// The edge hung up: it does not take joins, or hears no more for now.
    #[error("the edge at {0} hung up: it has no authority of its own, or there were too many attempts; wait a minute")]
    HungUp(SocketAddr, #[source] io::Error),
    /// It took too long.
    #[error("the edge at {0} does not answer in time: try again")]
    Deadline(SocketAddr),
    /// The code does not let us in.
    #[error("{0}")]
    Refused(String),
    /// The edge has no better word.
    #[error("the edge answers {0}: {1}")]
    Failed(u16, String),
    /// What it gave cannot be used.
    #[error("what the edge gave cannot be used: {0}; bring both hosts to the same release")]
    Answer(String),
    /// This host failed.
    #[error("this host cannot make its key")]
    Own(#[from] pki::CaError),
}

/// What a home that has joined knows.
#[derive(Debug)]
pub struct Joined {
    /// Its identity, checked.
    pub identity: HostIdentity,
    /// Its name.
    pub home: HostId,
    /// The edge's name.
    pub edge: HostId,
    /// Under what services get their names.
    pub domain: Hostname,
    /// The addresses inside the tunnel.
    pub subnet: Ipv4Net,
    /// The port of the control channel.
    pub control_port: u16,
}

/// Joins the edge at `edge` by a code, with a key of this host's own, which does not leave it.
///
/// # Errors
/// Whatever went wrong; [`JoinError::Refused`] has the edge's own word on the code.
pub async fn join(edge: SocketAddr, code: &JoinCode, key: &PrivateKey) -> Result<Joined, JoinError> {
    timeout(DEADLINE * 2, attempt(edge, code, key)).await.map_err(|_| JoinError::Deadline(edge))?
}

/// Looks whether the edge at `edge` is the one of the code, and takes joins; the code stays as it is. Gives back the time by the
/// edge's clock.
///
/// # Errors
/// As [`join`], but for what the edge says of the code.
pub async fn look(edge: SocketAddr, code: &JoinCode) -> Result<SystemTime, JoinError> {
    let looked = async {
        let (stream, _) = connect(edge, code.fingerprint).await?;
        let get = hyper::Request::builder()
            .uri("/")
            .header(header::HOST, pki::server_name(Role::Edge))
            .body(Full::<Bytes>::default())
            .map_err(|error| unusable(&error))?;
        let answer = sent(stream, get, edge).await?;
        let date = answer.headers().get(header::DATE).and_then(|date| date.to_str().ok());
        date.and_then(|date| httpdate::parse_http_date(date).ok()).ok_or_else(|| unusable(&"it tells no time"))
    };
    timeout(DEADLINE * 2, looked).await.map_err(|_| JoinError::Deadline(edge))?
}

/// A connection to the edge that the fingerprint is of, and who it is.
async fn connect(edge: SocketAddr, fingerprint: Fingerprint) -> Result<(TlsStream<TcpStream>, RoleUri), JoinError> {
    let socket = TcpStream::connect(edge).await.map_err(|error| JoinError::Connect(edge, error))?;
    let connector = TlsConnector::from(Arc::new(tls(fingerprint)?));
    let name = ServerName::try_from(pki::server_name(Role::Edge)).map_err(|error| unusable(&error))?;
    let stream = connector.connect(name, socket).await.map_err(|error| refused(edge, error))?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let holder = chain.first().and_then(|leaf| pki::role_of(leaf).ok()).filter(|holder| holder.role == Role::Edge);
    let holder = holder.ok_or(JoinError::OtherEdge(edge))?;
    Ok((stream, holder))
}

async fn sent(
    stream: TlsStream<TcpStream>,
    request: hyper::Request<Full<Bytes>>,
    edge: SocketAddr,
) -> Result<hyper::Response<Bytes>, JoinError> {
    exchange(stream, request, MAX_BODY).await.map_err(|error| match error {
        ExchangeError::Http(error) => JoinError::HungUp(edge, io::Error::other(error)),
        error @ ExchangeError::Body(_) => unusable(&error),
    })
}

async fn attempt(edge: SocketAddr, code: &JoinCode, key: &PrivateKey) -> Result<Joined, JoinError> {
    let request = Request {
        secret: code.secret.to_hex().expose_secret().to_owned(),
        request: key.request()?,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let (stream, holder) = connect(edge, code.fingerprint).await?;
    let body = serde_json::to_vec(&request).map_err(|error| unusable(&error))?;
    let post = hyper::Request::builder()
        .method(Method::POST)
        .uri(PATH)
        .header(header::HOST, pki::server_name(Role::Edge))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::<Bytes>::from(body))
        .map_err(|error| unusable(&error))?;
    let answer = sent(stream, post, edge).await?;
    let (status, body) = (answer.status(), answer.into_body());
    if status != StatusCode::OK {
        let reason = serde_json::from_slice::<Refusal>(&body).map(|refusal| refusal.reason).unwrap_or_default();
        let reason: String = reason.chars().filter(|c| !c.is_control()).take(MAX_REASON).collect();
        return Err(match status {
            StatusCode::FORBIDDEN => JoinError::Refused(reason),
            status => JoinError::Failed(status.as_u16(), reason),
        });
    }
    let answer: Answer = serde_json::from_slice(&body).map_err(|error| unusable(&error))?;
    let joined = read(answer, code.fingerprint, key)?;
    if joined.edge != holder.name {
        return Err(JoinError::Answer(format!("it calls itself {} and is {}", joined.edge, holder.name)));
    }
    Ok(joined)
}

/// Checks all of an answer.
fn read(answer: Answer, fingerprint: Fingerprint, key: &PrivateKey) -> Result<Joined, JoinError> {
    let authority = pki::certificate_der(&answer.authority).map_err(|error| unusable(&error))?;
    if Fingerprint::of(&authority) != fingerprint {
        return Err(JoinError::Answer("its authority is not the one of the code".to_owned()));
    }
    let identity = HostIdentity {
        ca_pem: answer.authority,
        identity: Identity { cert_pem: answer.certificate, key_pem: key.to_pem() },
        tls_crypt: answer.tls_crypt_v2.into(),
    };
    let info = identity.check().map_err(|error| unusable(&error))?;
    let home: HostId = answer.home.parse().map_err(|error| unusable(&error))?;
    if info.role.role != Role::Home || info.role.name != home {
        return Err(JoinError::Answer(format!("its certificate is for {}", info.role)));
    }
    let subnet = answer.subnet;
    if !subnet.network().is_private() || answer.control_port == 0 {
        return Err(JoinError::Answer("its addresses inside the tunnel are none".to_owned()));
    }
    Ok(Joined {
        identity,
        home,
        edge: answer.edge.parse().map_err(|error| unusable(&error))?,
        domain: answer.domain.parse().map_err(|error| unusable(&error))?,
        subnet,
        control_port: answer.control_port,
    })
}

fn unusable(error: &dyn std::fmt::Display) -> JoinError {
    JoinError::Answer(error.to_string())
}

fn refused(edge: SocketAddr, error: io::Error) -> JoinError {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        )) => JoinError::Clock,
        Some(_) => JoinError::OtherEdge(edge),
        None => JoinError::HungUp(edge, error),
    }
}

fn tls(fingerprint: Fingerprint) -> Result<ClientConfig, JoinError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let pinned = Pinned { fingerprint, provider: provider.clone() };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| unusable(&error))?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(pinned)).with_no_client_auth())
}

/// Trusts the one authority whose certificate has the fingerprint, if the chain brings it along.
#[derive(Debug)]
struct Pinned {
    fingerprint: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let authority = intermediates.iter().find(|certificate| Fingerprint::of(certificate) == self.fingerprint);
        let authority = authority.ok_or(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, &[], server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
