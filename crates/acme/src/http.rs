//! HTTPS to the certificate authority: one request on a connection of its own.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Body;
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Response, Uri};
use instant_acme::{BodyWrapper, BytesResponse, HttpClient};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// For one request.
const DEADLINE: Duration = Duration::from_secs(30);
/// A chain of certificates fits many times.
const MAX_BODY: usize = 1 << 20;

type BoxError = Box<dyn Error + Send + Sync>;

/// Why the roots of a private certificate authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// No PEM.
    #[error("the root certificate of the ACME server is no PEM")]
    Pem(#[source] rustls::pki_types::pem::Error),
    /// Not a certificate, or TLS refuses its own defaults.
    #[error("the root certificate of the ACME server cannot be used")]
    Tls(#[source] rustls::Error),
}

/// Speaks to a certificate authority.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    tls: Arc<ClientConfig>,
}

impl Http {
    /// Trusts `root`, or what browsers trust.
    pub(crate) fn new(root: Option<&str>) -> Result<Self, RootsError> {
        let mut roots = RootCertStore::empty();
        match root {
            Some(pem) => {
                for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                    roots.add(certificate.map_err(RootsError::Pem)?).map_err(RootsError::Tls)?;
                }
            }
            None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(RootsError::Tls)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { tls: Arc::new(config) })
    }
}

/// What time it is by the ACME server of a directory, whose API chains to `root` or to what browsers trust.
///
/// # Errors
/// When it cannot be asked, in words for people.
pub async fn time_of(directory: &str, root: Option<&str>) -> Result<SystemTime, String> {
    let http = Http::new(root).map_err(|error| crate::challenge::chain(&error))?;
    let request = Request::get(directory).body(Full::<Bytes>::default()).map_err(|error| error.to_string())?;
    let answer = timeout(DEADLINE, asked(http.tls, request)).await;
    let answer = answer.map_err(|_| format!("no answer within {} s", DEADLINE.as_secs()))?;
    let answer = answer.map_err(|error| crate::challenge::chain(&*error))?;
    let date = answer.headers().get(hyper::header::DATE).and_then(|date| date.to_str().ok());
    date.and_then(|date| httpdate::parse_http_date(date).ok()).ok_or_else(|| "it tells no time".to_owned())
}

impl HttpClient for Http {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let tls = Arc::clone(&self.tls);
        Box::pin(async move {
            let host = request.uri().authority().map(ToString::to_string).unwrap_or_default();
            let late = |_| BoxError::from(format!("no answer within {} s", DEADLINE.as_secs()));
            let answer = timeout(DEADLINE, asked(tls, request)).await.map_err(late).flatten();
            let answer = answer.map_err(|error| {
                let told = format!("the ACME server {host} cannot be asked: {}", crate::challenge::chain(&*error));
                instant_acme::Error::Other(told.into())
            })?;
            Ok(BytesResponse::from(answer))
        })
    }
}

async fn asked<B>(tls: Arc<ClientConfig>, mut request: Request<B>) -> Result<Response<Full<Bytes>>, BoxError>
where
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let uri = request.uri().clone();
    let (Some("https"), Some(host), Some(authority)) = (uri.scheme_str(), uri.host(), uri.authority()) else {
        return Err(format!("{uri} is no address of HTTPS").into());
    };
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
    let stream = TcpStream::connect((host.trim_matches(['[', ']']), uri.port_u16().unwrap_or(443))).await?;
    let stream = TlsConnector::from(tls).connect(name, stream).await.map_err(trust)?;
    request.headers_mut().insert(HOST, HeaderValue::from_str(authority.as_str())?);
    *request.uri_mut() =
        uri.path_and_query().map_or_else(|| Ok(Uri::from_static("/")), |path| path.as_str().parse())?;
    let (head, body) = exchange::exchange(stream, request, MAX_BODY).await?.into_parts();
    Ok(Response::from_parts(head, Full::new(body)))
}

fn trust(error: io::Error) -> BoxError {
    format!("TLS failed: {error}").into()
}
