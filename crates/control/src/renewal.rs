//! Home's certificate is renewed by the edge that issued it: the server's side and the client.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use pki::{CertificateRequest, Serial};
use proto::v1;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};
use tracing::{info, warn};

use crate::connection::Peer;
use crate::reach::EdgePlace;
use crate::tls::Purpose;
use crate::{HomeLink, opposite};

/// Longest request for a certificate, bytes.
pub(crate) const MAX_REQUEST: usize = 16 * 1024;
/// Home waits so long for a tunnel.
const TUNNEL: Duration = Duration::from_secs(600);
/// And so long for an answer.
const ANSWER: Duration = Duration::from_secs(30);

/// What takes the place of what a host has.
#[derive(Debug)]
pub struct Successor {
    /// Its certificate.
    pub cert_pem: String,
    /// Its tls-crypt-v2 client key, the whole file's text; none: the one that it has stays.
    pub client_key: Option<SecretString>,
}

/// Issues successors of certificates.
pub trait Successors: Send + Sync + 'static {
    /// One for the certificate with this number, which whoever asks has just proved to hold. What cannot be done says why and what
    /// to do.
    fn successor(&self, serial: Serial, request: CertificateRequest) -> BoxFuture<'static, Result<Successor, String>>;
}

/// The server's side. Without anybody who issues it says so.
pub(crate) struct Renewals(pub(crate) Option<Arc<dyn Successors>>);

const NO_AUTHORITY: &str =
    "this edge has no authority of its own: make a new identity where its authority is kept, `agentctl pki issue`";

#[tonic::async_trait]
impl v1::renewal_server::Renewal for Renewals {
    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::RenewResponse>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let peer = peer.ok_or_else(|| Status::unauthenticated("no certificate"))?;
        let successors = self.0.as_ref().ok_or_else(|| Status::failed_precondition(NO_AUTHORITY))?;
        let request = CertificateRequest::from_pem(&request.into_inner().request)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let asked = successors.successor(peer.serial.clone(), request).await;
        let successor = asked.map_err(|why| {
            warn!(home = %peer.role, serial = %peer.serial, why, "home's certificate is not renewed");
            Status::failed_precondition(why)
        })?;
        info!(home = %peer.role, before = %peer.serial, "home's certificate is renewed");
        let client_key = successor.client_key.map(|key| key.expose_secret().to_owned()).unwrap_or_default();
        Ok(Response::new(v1::RenewResponse { certificate: successor.cert_pem, client_key }))
    }
}

/// Home's side: asks the edge.
#[derive(Debug, Clone)]
pub struct RenewalClient {
    place: EdgePlace,
    tunnel_up: watch::Receiver<bool>,
}

impl HomeLink {
    /// Asks the edge of this link for successors of home's certificate.
    #[must_use]
    pub fn renewals(&self) -> RenewalClient {
        RenewalClient { place: self.place(), tunnel_up: self.tunnel_up.clone() }
    }
}

impl RenewalClient {
    /// A successor of the certificate that is in force, for the key of a request (PKCS#10, PEM). Waits some minutes for a tunnel.
    ///
    /// # Errors
    /// Why there is none, and what to do.
    pub async fn renew(&self, request: String) -> Result<Successor, String> {
        let mut up = self.tunnel_up.clone();
        let tunnel = timeout(TUNNEL, up.wait_for(|up| *up)).await;
        tunnel.map_err(|_| "there is no tunnel to the edge: `agentctl why`")?.map_err(|_| "the agent is stopping")?;
        timeout(ANSWER, self.ask(request)).await.map_err(|_| {
            format!(
                "the edge does not answer within {} s: is its agent well? `agentctl doctor` there",
                ANSWER.as_secs()
            )
        })?
    }

    async fn ask(&self, request: String) -> Result<Successor, String> {
        // A connection of its own, and not that of the session, which may be older than the certificate that is in force now.
        let end = CancellationToken::new();
        let connection = self.place.connect(Purpose::Session, end.clone()).await?;
        let _end = end.drop_guard();
        let channel = opposite::client(connection).await;
        let channel = channel.map_err(|error| self.place.failed("opening HTTP/2 to", &error))?;
        let mut client = v1::renewal_client::RenewalClient::new(channel);
        let answer = client.renew(v1::RenewRequest { request }).await.map_err(|status| match status.code() {
            Code::Unimplemented => "the edge's release cannot renew certificates: upgrade the edge".to_owned(),
            Code::FailedPrecondition => format!("the edge says: {}", proto::bounded(status.message())),
            _ => format!("the edge failed: {}: look into its log", proto::bounded(status.message())),
        })?;
        let v1::RenewResponse { certificate, client_key } = answer.into_inner();
        let client_key = (!client_key.is_empty()).then(|| client_key.into());
        Ok(Successor { cert_pem: certificate, client_key })
    }
}
