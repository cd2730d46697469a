//! Mutual TLS of the control channel: both chains are checked against the private CA, then the role.

use std::sync::Arc;

use model::RoleUri;
use pki::Revoked;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use tracing::warn;

use crate::CONNECT_DEADLINE;

/// Why TLS could not be set up or a peer was refused.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// One of our own PEM texts cannot be read.
    #[error("the {what} of this host's identity cannot be read")]
    Pem {
        /// Which of them.
        what: &'static str,
        /// Why.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// Our certificate and key do not make a TLS configuration.
    #[error("this host's identity cannot be used for TLS")]
    Identity(#[from] rustls::Error),
    /// The CA cannot check clients.
    #[error("this host's CA certificate cannot be used to check peers")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// The handshake failed.
    #[error("TLS handshake on the control channel failed")]
    Handshake(#[source] std::io::Error),
    /// The handshake took too long.
    #[error("TLS handshake on the control channel not done within {} s", CONNECT_DEADLINE.as_secs())]
    Deadline,
    /// The certificate carries no role of ours.
    #[error("the peer's certificate is not one of ours")]
    Certificate(#[from] pki::CertificateError),
    /// The certificate is ours and somebody else's.
    #[error("the peer is {found}; only {wanted} may use the control channel here")]
    WrongPeer {
        /// Whom the certificate names.
        found: RoleUri,
        /// Whom it should name.
        wanted: RoleUri,
    },
    /// The certificate counts no more.
    #[error("the certificate of {peer} has been revoked")]
    Revoked {
        /// Whom the certificate names.
        peer: RoleUri,
    },
    /// No certificate was presented.
    #[error("the peer presented no certificate")]
    NoCertificate,
}

/// What a connection that home opens is for; agreed on by ALPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The session, and calls of home. Home is HTTP/2's client.
    Session,
    /// Calls of the edge. Home is HTTP/2's server.
    Calls,
}

impl Purpose {
    const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Session => b"h2",
            Self::Calls => b"cloudathome-calls",
        }
    }

    /// Of a connection that was accepted.
    pub(crate) fn of<S>(stream: &server::TlsStream<S>) -> Self {
        if stream.get_ref().1.alpn_protocol() == Some(Self::Calls.alpn()) { Self::Calls } else { Self::Session }
    }
}

/// The TLS of one agent, for both directions. All clones are one: what replaces identity or lists in one does in all.
#[derive(Clone)]
pub struct ControlTls {
    configs: Arc<watch::Sender<Configs>>,
    revoked: Arc<watch::Sender<Arc<Revoked>>>,
}

/// What connections begin with.
#[derive(Clone)]
struct Configs {
    server: Arc<ServerConfig>,
    session: Arc<ClientConfig>,
    calls: Arc<ClientConfig>,
}

impl std::fmt::Debug for ControlTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControlTls").finish_non_exhaustive()
    }
}

impl Configs {
    fn new(ca_pem: &str, cert_pem: &str, key_pem: &str) -> Result<Self, TlsError> {
        let pem = |what| move |source| TlsError::Pem { what, source };
        let certificates = |what, text: &str| {
            CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>().map_err(pem(what))
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates("CA certificate", ca_pem)? {
            roots.add(certificate)?;
        }
        let roots = Arc::new(roots);
        let chain = certificates("certificate", cert_pem)?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(pem("key"))?;

        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let versions = &[&rustls::version::TLS13];
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build()?;
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())?;
        server.alpn_protocols = [Purpose::Session, Purpose::Calls].map(|purpose| purpose.alpn().to_vec()).to_vec();
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        let mut client_for = |purpose: Purpose| {
            client.alpn_protocols = vec![purpose.alpn().to_vec()];
            Arc::new(client.clone())
        };
        let (session, calls) = (client_for(Purpose::Session), client_for(Purpose::Calls));
        Ok(Self { server: Arc::new(server), session, calls })
    }
}

impl ControlTls {
    /// Makes it from PEM texts: the private CA, or the two that are trusted while one takes the place of the other, this host's
    /// chain, and its key. Nobody is revoked.
    ///
    /// # Errors
    /// When a text is not PEM, or the key does not fit the certificate.
    pub fn new(ca_pem: &str, cert_pem: &str, key_pem: &str) -> Result<Self, TlsError> {
        let configs = Configs::new(ca_pem, cert_pem, key_pem)?;
        Ok(Self { configs: Arc::new(watch::Sender::new(configs)), revoked: Arc::default() })
    }

    /// Begins connections with another identity from now on; those that are open go on.
    ///
    /// # Errors
    /// As [`ControlTls::new`]; then all is as it was.
    pub fn replace(&self, ca_pem: &str, cert_pem: &str, key_pem: &str) -> Result<(), TlsError> {
        self.configs.send_replace(Configs::new(ca_pem, cert_pem, key_pem)?);
        Ok(())
    }

    /// Refuses whom these lists name from now on, and ends the connections with them.
    pub fn revoke(&self, revoked: Revoked) {
        self.revoked.send_replace(Arc::new(revoked));
    }

    /// Ends when the certificate of a connection's peer is revoked.
    pub(crate) fn until_revoked(
        &self,
        peer: Option<&[CertificateDer<'static>]>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let leaf = peer.and_then(<[_]>::first).cloned();
        let (mut revoked, held) = (self.revoked.subscribe(), Arc::clone(&self.revoked));
        async move {
            // It lasts as long as its sender is held.
            let _held = held;
            let named = revoked.wait_for(|revoked| leaf.as_ref().is_none_or(|leaf| revoked.contains(leaf)));
            drop(named.await);
            warn!("the certificate of the opposite agent has been revoked: its connection ends");
        }
    }

    fn check_peer(&self, certificates: Option<&[CertificateDer<'_>]>, wanted: &RoleUri) -> Result<(), TlsError> {
        let leaf = certificates.and_then(<[_]>::first).ok_or(TlsError::NoCertificate)?;
        let found = pki::role_of(leaf)?;
        if found != *wanted {
            return Err(TlsError::WrongPeer { found, wanted: wanted.clone() });
        }
        if self.revoked.borrow().contains(leaf) { Err(TlsError::Revoked { peer: found }) } else { Ok(()) }
    }

    /// Takes an incoming connection of a peer that is `wanted`.
    ///
    /// # Errors
    /// When the handshake fails or takes longer than [`CONNECT_DEADLINE`], or the peer is not `wanted`.
    pub(crate) async fn accept<S>(&self, stream: S, wanted: &RoleUri) -> Result<server::TlsStream<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let config = Arc::clone(&self.configs.borrow().server);
        let handshake = TlsAcceptor::from(config).accept(stream);
        let stream =
            timeout(CONNECT_DEADLINE, handshake).await.map_err(|_| TlsError::Deadline)?.map_err(TlsError::Handshake)?;
        self.check_peer(stream.get_ref().1.peer_certificates(), wanted)?;
        Ok(stream)
    }

    /// Opens a connection to a peer that is `wanted`.
    ///
    /// # Errors
    /// When the handshake fails or takes longer than [`CONNECT_DEADLINE`], or the peer is not `wanted`.
    pub(crate) async fn connect<S>(
        &self,
        stream: S,
        wanted: &RoleUri,
        purpose: Purpose,
    ) -> Result<client::TlsStream<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        #[expect(clippy::expect_used, reason = "ROLE.cloudathome.internal is a DNS name for every role")]
        let name = ServerName::try_from(pki::server_name(wanted.role)).expect("a DNS name");
        let Configs { session, calls, .. } = self.configs.borrow().clone();
        let config = match purpose {
            Purpose::Session => session,
            Purpose::Calls => calls,
        };
        let handshake = TlsConnector::from(config).connect(name, stream);
        let stream =
            timeout(CONNECT_DEADLINE, handshake).await.map_err(|_| TlsError::Deadline)?.map_err(TlsError::Handshake)?;
        self.check_peer(stream.get_ref().1.peer_certificates(), wanted)?;
        Ok(stream)
    }
}
