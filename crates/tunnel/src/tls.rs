//! TLS of the control channel: OpenSSL over an in-memory stream whose other end is the reliability layer.

use std::pin::Pin;

use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::ssl::{
    Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions, SslRef, SslSessionCacheMode, SslVerifyMode, SslVersion,
};
use openssl::x509::{X509, X509ExtendedKeyUsage, X509Ref, X509VerifyResult};
use ovpn::endpoint::{Identity, TlsInput, TlsKey, TlsOutput, TlsSession};
use ovpn::keys::{DYNAMIC_TLS_CRYPT_LABEL, EXPORTER_LABEL, KeyBlock};
use ovpn::static_key::StaticKey;
use ovpn::wrap::Role;
use secrecy::ExposeSecret;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio_openssl::SslStream;

use crate::config::{CertificateDemand, TlsMaterial, TlsVersion, TunnelConfig};

/// Bytes in flight between TLS and the reliability layer.
const PIPE: usize = 64 * 1024;
/// Largest TLS record.
const RECORD: usize = 16 * 1024;

/// Why certificates or keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No certificate of an authority could be read.
    #[error("cannot read the CA certificates (PEM)")]
    Authority(#[source] ErrorStack),
    /// There is no certificate in the text.
    #[error("the {0} text holds no PEM certificate")]
    Empty(&'static str),
    /// The own certificate could not be read or used.
    #[error("cannot use the own certificate (PEM)")]
    Certificate(#[source] ErrorStack),
    /// The own key could not be read, or is not the certificate's.
    #[error("cannot use the own private key (PEM), or it is not the certificate's")]
    Key(#[source] ErrorStack),
    /// OpenSSL refused a setting.
    #[error("cannot set up OpenSSL")]
    Setup(#[source] ErrorStack),
}

/// Makes TLS connections for sessions.
pub(crate) struct TlsFactory {
    context: SslContext,
    role: Role,
    marked: bool,
    expected: Option<String>,
    demand: CertificateDemand,
}

impl TlsFactory {
    /// Reads certificates and keys, and sets what both roles share: peers always verified, no tickets, no resumption,
    /// no renegotiation.
    pub(crate) fn new(config: &TunnelConfig, role: Role, expected: Option<String>) -> Result<Self, TlsError> {
        let mut context = SslContextBuilder::new(SslMethod::tls()).map_err(TlsError::Setup)?;
        let authorities = X509::stack_from_pem(config.tls.ca_pem.as_bytes()).map_err(TlsError::Authority)?;
        if authorities.is_empty() {
            return Err(TlsError::Empty("CA"));
        }
        for authority in authorities {
            context.add_client_ca(&authority).map_err(TlsError::Authority)?;
            context.cert_store_mut().add_cert(authority).map_err(TlsError::Authority)?;
        }
        if role == Role::Server || !config.tls.cert_pem.is_empty() {
            show_certificate(&mut context, &config.tls)?;
        }
        let lowest = match config.tls_version_min {
            TlsVersion::V1_2 => SslVersion::TLS1_2,
            TlsVersion::V1_3 => SslVersion::TLS1_3,
        };
        context.set_min_proto_version(Some(lowest)).map_err(TlsError::Setup)?;
        context.set_num_tickets(0).map_err(TlsError::Setup)?;
        context.set_options(SslOptions::NO_TICKET | SslOptions::NO_RENEGOTIATION | SslOptions::NO_COMPRESSION);
        context.set_session_cache_mode(SslSessionCacheMode::OFF);
        let demand = match role {
            Role::Server => config.admission.certificate,
            Role::Client => CertificateDemand::Required,
        };
        context.set_verify(match demand {
            CertificateDemand::Required => SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT,
            CertificateDemand::Optional => SslVerifyMode::PEER,
            CertificateDemand::None => SslVerifyMode::NONE,
        });
        Ok(Self { context: context.build(), role, marked: config.remote_cert_tls, expected, demand })
    }

    /// Runs a TLS connection as a task, which ends when the session closes `input` or TLS fails.
    pub(crate) fn spawn(
        &self,
        key: TlsKey,
        input: mpsc::Receiver<TlsInput>,
        output: mpsc::Sender<(TlsKey, TlsOutput)>,
    ) -> Result<(), ErrorStack> {
        let (near, far) = tokio::io::duplex(PIPE);
        let stream = SslStream::new(Ssl::new(&self.context)?, near)?;
        let check =
            PeerCheck { role: self.role, marked: self.marked, expected: self.expected.clone(), demand: self.demand };
        tokio::spawn(run(key, stream, far, check, input, output));
        Ok(())
    }
}

fn show_certificate(context: &mut SslContextBuilder, tls: &TlsMaterial) -> Result<(), TlsError> {
    let mut chain = X509::stack_from_pem(tls.cert_pem.as_bytes()).map_err(TlsError::Certificate)?.into_iter();
    let leaf = chain.next().ok_or(TlsError::Empty("own certificate"))?;
    context.set_certificate(&leaf).map_err(TlsError::Certificate)?;
    for intermediate in chain {
        context.add_extra_chain_cert(intermediate).map_err(TlsError::Certificate)?;
    }
    let key = PKey::private_key_from_pem(tls.key_pem.expose_secret().as_bytes()).map_err(TlsError::Key)?;
    context.set_private_key(&key).map_err(TlsError::Key)?;
    context.check_private_key().map_err(TlsError::Key)
}

/// What a certificate that chains to the authority must be besides.
struct PeerCheck {
    role: Role,
    marked: bool,
    expected: Option<String>,
    demand: CertificateDemand,
}

impl PeerCheck {
    /// The identity of an acceptable certificate, or what is wrong with it.
    fn identify(&self, certificate: &X509Ref) -> Result<Identity, String> {
        let common_name = certificate.subject_name().entries_by_nid(Nid::COMMONNAME).next();
        let common_name = common_name.and_then(|entry| entry.data().to_string().ok());
        let names = certificate.subject_alt_names();
        let san_uris = names.iter().flatten().filter_map(|name| name.uri().map(str::to_owned)).collect();
        let identity = Identity { common_name: common_name.unwrap_or_default(), san_uris };
        let (usage, role) = match self.role {
            Role::Client => (X509ExtendedKeyUsage::SSL_SERVER, "server"),
            Role::Server => (X509ExtendedKeyUsage::SSL_CLIENT, "client"),
        };
        let extended = certificate.extended_key_usage();
        if self.marked && !(certificate.key_usage().is_some() && extended.is_some_and(|marks| marks.contains(usage))) {
            return Err(format!("the certificate is not marked for use by a TLS {role}"));
        }
        if identity.common_name.is_empty() && identity.san_uris.is_empty() {
            return Err("the certificate names nobody: it has neither a common name nor a URI".to_owned());
        }
        match &self.expected {
            Some(name) if !identity.is_named(name) => Err(format!("the certificate is not that of '{name}'")),
            _ => Ok(identity),
        }
    }
}

async fn run(
    key: TlsKey,
    mut stream: SslStream<DuplexStream>,
    far: DuplexStream,
    check: PeerCheck,
    input: mpsc::Receiver<TlsInput>,
    output: mpsc::Sender<(TlsKey, TlsOutput)>,
) {
    let (far_read, far_write) = tokio::io::split(far);
    let (messages, queue) = mpsc::channel(16);
    let deliver = deliver(input, far_write, messages);
    let mut collect = std::pin::pin!(collect(key, far_read, &output));
    let failure = tokio::select! {
        why = talk(key, &mut stream, &check, queue, &output) => why,
        // The session is gone, or the driver.
        () = deliver => return,
        () = &mut collect => return,
    };
    // An alert may still stand in the pipe; the end of the stream comes after it.
    drop(stream);
    collect.await;
    // If nobody listens any more there is nobody to tell.
    let _ = output.send((key, TlsOutput::Failed(failure))).await;
}

/// Sorts what the session sends: bytes into the pipe, messages to [`talk`].
async fn deliver(
    mut input: mpsc::Receiver<TlsInput>,
    mut pipe: WriteHalf<DuplexStream>,
    messages: mpsc::Sender<Vec<u8>>,
) {
    while let Some(next) = input.recv().await {
        let gone = match next {
            TlsInput::Start => false,
            TlsInput::Ciphertext(bytes) => pipe.write_all(&bytes).await.is_err(),
            TlsInput::Message(message) => messages.send(message).await.is_err(),
            TlsInput::Close => true,
        };
        if gone {
            // `talk` has ended and says why.
            std::future::pending::<()>().await;
        }
    }
}

/// Takes TLS bytes out of the pipe for the session, until TLS is dropped.
async fn collect(key: TlsKey, mut pipe: ReadHalf<DuplexStream>, output: &mpsc::Sender<(TlsKey, TlsOutput)>) {
    let mut buf = vec![0; RECORD];
    while let Ok(length @ 1..) = pipe.read(&mut buf).await {
        let bytes = buf.get(..length).unwrap_or_default().to_vec();
        if output.send((key, TlsOutput::Ciphertext(bytes))).await.is_err() {
            return;
        }
    }
}

/// Shakes hands, then passes messages both ways, one record each. Returns why it cannot go on.
async fn talk(
    key: TlsKey,
    stream: &mut SslStream<DuplexStream>,
    check: &PeerCheck,
    mut queue: mpsc::Receiver<Vec<u8>>,
    output: &mpsc::Sender<(TlsKey, TlsOutput)>,
) -> String {
    let mut stream = Pin::new(stream);
    let shaken = match check.role {
        Role::Client => stream.as_mut().connect().await,
        Role::Server => stream.as_mut().accept().await,
    };
    if let Err(error) = shaken {
        return match stream.ssl().verify_result() {
            X509VerifyResult::OK => error.to_string(),
            refused => format!("the peer's certificate was refused: {}", refused.error_string()),
        };
    }
    let established = match establish(stream.ssl(), check) {
        Ok(established) => established,
        Err(why) => return why,
    };
    if output.send((key, TlsOutput::Established(Box::new(established)))).await.is_err() {
        return "the driver is gone".to_owned();
    }
    let mut buf = vec![0; RECORD];
    loop {
        tokio::select! {
            read = stream.read(&mut buf) => match read {
                Ok(0) => return "the peer closed TLS".to_owned(),
                Ok(length) => {
                    let message = buf.get(..length).unwrap_or_default().to_vec();
                    if output.send((key, TlsOutput::Message(message))).await.is_err() {
                        return "the driver is gone".to_owned();
                    }
                }
                Err(error) => return error.to_string(),
            },
            Some(message) = queue.recv() => {
                // One write of less than a record's size is one record, as peers demand.
                if let Err(error) = stream.write_all(&message).await {
                    return error.to_string();
                }
            }
        }
    }
}

fn establish(ssl: &SslRef, check: &PeerCheck) -> Result<TlsSession, String> {
    let identity = match ssl.peer_certificate() {
        Some(certificate) => check.identify(&certificate)?,
        // Known by the user name.
        None if check.demand != CertificateDemand::Required => Identity::default(),
        None => return Err("the peer sent no certificate".to_owned()),
    };
    let export = |label| {
        let mut material = [0; 256];
        ssl.export_keying_material(&mut material, label, None).map(|()| material).map_err(|error| error.to_string())
    };
    Ok(TlsSession {
        exporter: KeyBlock::from_exporter(export(EXPORTER_LABEL)?),
        dynamic_tls_crypt: StaticKey::from_bytes(export(DYNAMIC_TLS_CRYPT_LABEL)?),
        identity,
        version: ssl.version_str().to_owned(),
    })
}
