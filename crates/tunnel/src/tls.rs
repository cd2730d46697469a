//! TLS of the control channel: OpenSSL over an in-memory stream whose other end is the reliability layer.

mod context;
mod crl;
#[cfg(test)]
mod tests;
mod verify;

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use openssl::error::ErrorStack;
use openssl::ssl::{Ssl, SslRef};
use openssl::x509::X509;
use ovpn::endpoint::{Identity, TlsInput, TlsKey, TlsOutput, TlsSession};
use ovpn::keys::{DYNAMIC_TLS_CRYPT_LABEL, EXPORTER_LABEL, KeyBlock};
use ovpn::static_key::StaticKey;
use ovpn::wrap::Role;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio_openssl::SslStream;
use tokio_util::task::AbortOnDropHandle;

use crate::certificates::{Clock, NameCheck};
use crate::config::{CertificateDemand, TunnelConfig};
use crate::report::TunnelIdentity;
use context::Material;
pub use crl::check_crl;
use crl::{InForce, Trust};
use verify::{PeerCheck, Refusal};

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
    /// The lists of revoked certificates cannot be used.
    #[error("cannot use the list of revoked certificates {}: {why}", .path.display())]
    Revocation {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// OpenSSL refused a setting.
    #[error("cannot set up OpenSSL")]
    Setup(#[source] ErrorStack),
}

/// Makes TLS connections for sessions.
pub(crate) struct TlsFactory {
    trust: Arc<Trust>,
    check: Arc<PeerCheck>,
    clock: Clock,
    /// Where connections run: handshakes take milliseconds, for which packets do not wait.
    runtime: Handle,
    /// Looks at the revocation lists while the factory lives.
    _watching: AbortOnDropHandle<()>,
}

impl TlsFactory {
    /// Reads certificates, key and revocation lists. `name` is whose certificate a dialer expects.
    pub(crate) fn new(config: &TunnelConfig, role: Role, name: Option<NameCheck>) -> Result<Self, TlsError> {
        let material = Material::read(config, role)?;
        let check = PeerCheck {
            role,
            marked: config.remote_cert_tls,
            name,
            fingerprints: config.peer_fingerprints.clone(),
            has_authority: !material.authorities.is_empty(),
            demand: match role {
                Role::Server => config.admission.certificate,
                Role::Client => CertificateDemand::Required,
            },
        };
        let trust = Trust::open(material, config.crl.as_deref(), config.clock.clone())?;
        let watching = trust.watch();
        let (check, clock, runtime) = (Arc::new(check), config.clock.clone(), Handle::current());
        Ok(Self { trust, check, clock, runtime, _watching: watching })
    }

    /// Which end connections are of.
    pub(crate) fn role(&self) -> Role {
        self.check.role
    }

    /// Begins connections with another identity from now on. After an error all is as it was.
    pub(crate) fn replace(&self, identity: &TunnelIdentity) -> Result<(), TlsError> {
        self.trust.replace(&identity.tls, identity.crl.as_deref())
    }

    /// When the revocation lists in force end, if there are any.
    pub(crate) fn crl_next_update(&self) -> Option<SystemTime> {
        self.trust.next_update()
    }

    /// Runs a TLS connection as a task, which ends when the session closes `input` or TLS fails.
    pub(crate) fn spawn(
        &self,
        key: TlsKey,
        input: mpsc::Receiver<TlsInput>,
        output: mpsc::Sender<(TlsKey, TlsOutput)>,
    ) {
        let (check, trust, clock) = (Arc::clone(&self.check), Arc::clone(&self.trust), self.clock.clone());
        self.runtime.spawn(run(key, trust, check, clock, input, output));
    }
}

async fn run(
    key: TlsKey,
    trust: Arc<Trust>,
    check: Arc<PeerCheck>,
    clock: Clock,
    input: mpsc::Receiver<TlsInput>,
    output: mpsc::Sender<(TlsKey, TlsOutput)>,
) {
    trust.refresh().await;
    let mut in_force = trust.subscribe();
    let context = in_force.borrow_and_update().context.clone();
    let (near, far) = tokio::io::duplex(PIPE);
    let now = clock.now();
    let begin = || {
        let mut ssl = Ssl::new(&context)?;
        let refusal = check.install(&mut ssl, now);
        Ok((SslStream::new(ssl, near)?, refusal))
    };
    let (stream, refusal) = match begin() {
        Ok(begun) => begun,
        Err(error) => {
            let error: ErrorStack = error;
            // If nobody listens any more there is nobody to tell; the same below.
            let _ = output.send((key, TlsOutput::Failed(error.to_string()))).await;
            return;
        }
    };
    let connection = Connection { key, check, now, refusal, in_force, output: output.clone() };
    let (far_read, far_write) = tokio::io::split(far);
    let (messages, queue) = mpsc::channel(16);
    let deliver = deliver(input, far_write, messages);
    let mut collect = std::pin::pin!(collect(key, far_read, &output));
    let failure = tokio::select! {
        // It owns the stream, which is dropped with it: an alert may still stand in the pipe, and the end of the stream
        // comes after it.
        why = connection.talk(stream, queue) => why,
        // The session is gone, or the driver.
        () = deliver => return,
        () = &mut collect => return,
    };
    collect.await;
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

/// One connection and what judges its peer.
struct Connection {
    key: TlsKey,
    check: Arc<PeerCheck>,
    /// When it began.
    now: SystemTime,
    refusal: Refusal,
    in_force: watch::Receiver<Arc<InForce>>,
    output: mpsc::Sender<(TlsKey, TlsOutput)>,
}

impl Connection {
    /// Shakes hands, then passes messages both ways, one record each. Returns why it cannot go on.
    async fn talk(mut self, mut stream: SslStream<DuplexStream>, mut queue: mpsc::Receiver<Vec<u8>>) -> String {
        let mut stream = Pin::new(&mut stream);
        let shaken = match self.check.role {
            Role::Client => stream.as_mut().connect().await,
            Role::Server => stream.as_mut().accept().await,
        };
        if let Err(error) = shaken {
            let refused = self.refusal.lock().unwrap_or_else(PoisonError::into_inner).take();
            return refused.unwrap_or_else(|| error.to_string());
        }
        let established = match self.establish(stream.ssl()) {
            Ok(established) => established,
            Err(why) => return why,
        };
        let chain: Vec<X509> = stream.ssl().verified_chain().into_iter().flatten().map(ToOwned::to_owned).collect();
        if self.pass(TlsOutput::Established(Box::new(established))).await {
            return "the driver is gone".to_owned();
        }
        let mut buf = vec![0; RECORD];
        loop {
            tokio::select! {
                read = stream.read(&mut buf) => match read {
                    Ok(0) => return "the peer closed TLS".to_owned(),
                    Ok(length) => {
                        let message = buf.get(..length).unwrap_or_default().to_vec();
                        if self.pass(TlsOutput::Message(message)).await {
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
                Ok(()) = self.in_force.changed() => {
                    if self.in_force.borrow_and_update().revoke(&chain) {
                        return "the peer's certificate has been revoked".to_owned();
                    }
                }
            }
        }
    }

    /// Hands something to the session; true when there is nobody any more.
    async fn pass(&self, output: TlsOutput) -> bool {
        self.output.send((self.key, output)).await.is_err()
    }

    fn establish(&self, ssl: &SslRef) -> Result<TlsSession, String> {
        let identity = match ssl.peer_certificate() {
            Some(certificate) => self.check.identify(&certificate, self.now)?,
            // Known by the user name.
            None if self.check.demand != CertificateDemand::Required => Identity::default(),
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
}
