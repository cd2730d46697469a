//! An end of the control channel that is made by hand, with a certificate of the test's authority.
#![allow(dead_code, clippy::allow_attributes, reason = "each test program uses a part")]

use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;

use control::ControlTls;
use hyper_util::rt::TokioIo;
use model::Role;
use pki::{Ca, Identity, Subject, Validity};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use secrecy::ExposeSecret;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// What a stream may send before its reader has read, bytes: the smallest that HTTP/2 has by default.
pub(crate) const WINDOW: u32 = 65_535;

fn issued(ca: &Ca, role: Role, name: &str) -> Identity {
    let validity = Validity::from_now(Validity::LEAF);
    ca.issue(&Subject { role, name: name.parse().unwrap(), validity }).unwrap()
}

/// The TLS of an agent.
pub(crate) fn tls(ca: &Ca, role: Role, name: &str) -> ControlTls {
    let identity = issued(ca, role, name);
    ControlTls::new(ca.cert_pem(), &identity.cert_pem, identity.key_pem.expose_secret()).unwrap()
}

fn pems(identity: &Identity) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_slice_iter(identity.cert_pem.as_bytes()).map(Result::unwrap).collect();
    (chain, PrivateKeyDer::from_pem_slice(identity.key_pem.expose_secret().as_bytes()).unwrap())
}

/// Takes connections of anybody.
pub(crate) fn acceptor(ca: &Ca, role: Role, name: &str, protocols: &[&str]) -> TlsAcceptor {
    let (chain, key) = pems(&issued(ca, role, name));
    let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

/// Connections of anybody, for a server.
pub(crate) fn incoming(listener: TcpListener, acceptor: TlsAcceptor) -> ReceiverStream<io::Result<DuplexStream>> {
    let (accepted, incoming) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let (plain, mut inner) = tokio::io::duplex(64 * 1024);
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut stream, &mut inner).await });
            if accepted.send(Ok(plain)).await.is_err() {
                return;
            }
        }
    });
    ReceiverStream::new(incoming)
}

/// A network between the two that can stand still: nothing is lost or closed, and nothing arrives.
pub(crate) async fn network(to: SocketAddrV4) -> (SocketAddrV4, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let SocketAddr::V4(address) = listener.local_addr().unwrap() else { unreachable!("an IPv4 listener") };
    let (flows, flowing) = watch::channel(true);
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(to).await.unwrap();
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            for (mut from, mut to) in [(near_in, far_out), (far_in, near_out)] {
                let mut flowing = flowing.clone();
                tokio::spawn(async move {
                    let mut bytes = vec![0; 16 * 1024];
                    while let Ok(read @ 1..) = from.read(&mut bytes).await {
                        if flowing.wait_for(|flowing| *flowing).await.is_err()
                            || to.write_all(&bytes[..read]).await.is_err()
                        {
                            return;
                        }
                    }
                });
            }
        }
    });
    (address, flows)
}

/// An HTTP/2 client on a connection that is there.
pub(crate) async fn over(stream: DuplexStream) -> Channel {
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_: Uri| {
        let stream = stream.take().ok_or_else(|| io::Error::other("the connection ended"));
        async move { stream }
    });
    Endpoint::from_static("http://home").connect_with_connector(connector).await.unwrap()
}

/// An HTTP/2 connection to whoever listens there.
pub(crate) async fn channel(ca: &Ca, role: Role, name: &str, address: SocketAddr) -> Channel {
    let (chain, key) = pems(&issued(ca, role, name));
    let config = ClientConfig::builder().dangerous().with_custom_certificate_verifier(Arc::new(TakesAny));
    let mut config = config.with_client_auth_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let endpoint = Endpoint::from_static("http://edge").initial_stream_window_size(WINDOW);
    let channel = endpoint.connect_with_connector(tower::service_fn(move |_: Uri| {
        let connector = connector.clone();
        async move {
            let stream = TcpStream::connect(address).await?;
            connector.connect(ServerName::try_from("edge").unwrap(), stream).await.map(TokioIo::new)
        }
    }));
    channel.await.unwrap()
}

/// Who the edge is, is another test's business.
#[derive(Debug)]
struct TakesAny;

impl ServerCertVerifier for TakesAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ED25519, SignatureScheme::RSA_PSS_SHA256]
    }
}
