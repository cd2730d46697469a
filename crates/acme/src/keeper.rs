//! Keeps one certificate in force.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use state::{StateError, StateFile};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::account::{self, StoredAccount};
use crate::challenge::{Challenge, chain};
use crate::dns::Dns;
use crate::http::{Http, RootsError};
use crate::order::{Issued, OrderError, order};
use crate::schedule;

/// The clock may be set meanwhile: when to renew is looked at this often.
const LOOK: Duration = Duration::from_secs(600);
/// Between a certificate and the next order at least, unless it lives for less than three times that.
const PAUSE: Duration = Duration::from_secs(3600);

/// What is to be kept.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The certificate's names; a wildcard as `*.example.com`.
    pub names: Vec<String>,
    /// The ACME server's directory URL.
    pub directory: String,
    /// Whom the ACME server may write to.
    pub email: Option<String>,
    /// PEM of the root that the ACME server's own HTTPS chains to, when it is not a public one.
    pub api_root: Option<String>,
}

/// How it stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// The certificate in force, none before the first.
    pub in_force: Option<InForce>,
    /// Why the last order failed; none when it did not, or when there was none.
    pub failure: Option<Failure>,
}

/// A certificate that visitors can be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InForce {
    /// A PEM file, mode 0600, with the chain and then the key. Another certificate has another file.
    pub file: PathBuf,
    /// What it is for.
    pub names: Vec<String>,
    /// When it ends.
    pub not_after: SystemTime,
}

/// An order that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Why, in words that can be shown.
    pub reason: String,
    /// When the next is made.
    pub again: SystemTime,
    /// Whether the new certificate is in force, and only could not be stored.
    pub is_in_force: bool,
}

/// What is stored.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Stored {
    account: Option<StoredAccount>,
    certificate: Option<Certificate>,
}

/// A certificate as it is stored.
#[derive(Clone, Serialize, Deserialize)]
struct Certificate {
    /// Of which authority it is.
    directory: String,
    names: Vec<String>,
    chain_pem: String,
    key_pem: String,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("names", &self.names).finish_non_exhaustive()
    }
}

/// Keeps one certificate in force.
#[derive(Debug)]
pub struct Keeper {
    plan: Plan,
    challenge: Challenge,
    dns: Dns,
    http: Http,
    file: StateFile<Stored>,
    stored: Stored,
    /// Where certificates lie for who shows them.
    dir: PathBuf,
    /// When to renew the one in force.
    renewal: Option<SystemTime>,
    /// Between a certificate and the next order at least: where the clock is wrong, a new one may be due at once.
    pause: Duration,
    /// Whether the file holds something older than what is in force.
    unsaved: bool,
    status: watch::Sender<Status>,
}

impl Keeper {
    /// Continues with what is stored in `state_dir`; certificates for use are laid into `dir`, made with mode 0700.
    ///
    /// # Errors
    /// When what is stored cannot be used, or the roots cannot.
    pub fn open(
        plan: Plan,
        challenge: Challenge,
        dns: Dns,
        state_dir: &Path,
        dir: &Path,
    ) -> Result<(Self, watch::Receiver<Status>), OpenError> {
        let file = StateFile::new(state_dir, "acme.json");
        let stored: Stored = file.load()?.unwrap_or_default();
        let http = Http::new(plan.api_root.as_deref())?;
        state::private_dir(dir).map_err(|source| OpenError::Directory { dir: dir.to_owned(), source })?;
        let (status, receiver) = watch::channel(Status::default());
        let dir = dir.to_owned();
        let mut keeper =
            Self { plan, challenge, dns, http, file, stored, dir, renewal: None, pause: PAUSE, unsaved: false, status };
        if let Some(certificate) = keeper.stored.certificate.clone()
            && let Err(error) = keeper.put_in_force(&certificate)
        {
            warn!(error = chain(&error), "the stored certificate cannot be used: another will be ordered");
        }
        Ok((keeper, receiver))
    }

    /// Orders and renews until it is dropped.
    pub async fn run(mut self) {
        let mut failures = 0;
        loop {
            let now = SystemTime::now();
            if let Some(due) = self.renewal.filter(|due| *due > now && self.fits() && !self.unsaved) {
                sleep(due.duration_since(now).unwrap_or_default().min(LOOK)).await;
                continue;
            }
            let Err(error) = self.renew().await else {
                failures = 0;
                self.status.send_modify(|status| status.failure = None);
                if self.renewal.is_some_and(|due| due <= SystemTime::now()) {
                    warn!(
                        names = self.plan.names.join(", "),
                        "the new certificate is due for renewal already: is this host's clock right?"
                    );
                    sleep(self.pause).await;
                }
                continue;
            };
            failures += 1;
            let pause = schedule::retry(failures, rand::random());
            let reason = chain(&error);
            warn!(names = self.plan.names.join(", "), reason, again_seconds = pause.as_secs(), "no certificate");
            let again = SystemTime::now() + pause;
            let is_in_force = self.unsaved;
            self.status.send_modify(|status| status.failure = Some(Failure { reason, again, is_in_force }));
            sleep(pause).await;
        }
    }

    /// Whether the certificate in force is one of what is planned.
    fn fits(&self) -> bool {
        let certificate = self.stored.certificate.as_ref();
        certificate.is_some_and(|one| one.names == self.plan.names && one.directory == self.plan.directory)
    }

    async fn renew(&mut self) -> Result<(), KeepError> {
        if !self.unsaved {
            self.order().await?;
        }
        self.file.store(&self.stored)?;
        self.unsaved = false;
        Ok(())
    }

    async fn order(&mut self) -> Result<(), KeepError> {
        info!(names = self.plan.names.join(", "), server = self.plan.directory, "ordering a certificate by DNS-01");
        let account = match self.stored.account.as_ref().filter(|account| account.is_of(&self.plan.directory)) {
            Some(known) => {
                let opened = known.open(self.http.clone()).await;
                // What cannot be read will not be read later: the next order makes another.
                if matches!(opened, Err(OrderError::Account(_))) {
                    self.stored.account = None;
                }
                opened?
            }
            None => {
                let email = self.plan.email.as_deref();
                let (account, stored) = account::create(self.http.clone(), &self.plan.directory, email).await?;
                self.stored.account = Some(stored);
                self.file.store(&self.stored)?;
                account
            }
        };
        let ordered = order(&account, &self.plan.names, &self.challenge, &self.dns).await;
        if ordered.as_ref().is_err_and(OrderError::is_unknown_account) {
            self.stored.account = None;
        }
        let Issued { chain_pem, key_pem } = ordered?;
        let Plan { names, directory, .. } = self.plan.clone();
        let certificate = Certificate { directory, names, chain_pem, key_pem };
        self.put_in_force(&certificate)?;
        self.stored.certificate = Some(certificate);
        // It stays in force where it cannot be stored: the disk may be full.
        self.unsaved = true;
        Ok(())
    }

    /// Lays the certificate where it is used, and tells.
    fn put_in_force(&mut self, certificate: &Certificate) -> Result<(), KeepError> {
        let read = read(&certificate.chain_pem).map_err(|what| OrderError::Certificate { what })?;
        let file = self.dir.join(format!("{}.pem", read.serial));
        let text = format!("{}\n{}", certificate.chain_pem.trim_end(), certificate.key_pem);
        if std::fs::read(&file).ok().as_deref() != Some(text.as_bytes()) {
            state::write_private(&file, text.as_bytes())
                .map_err(|source| KeepError::Write { file: file.clone(), source })?;
        }
        self.pause = (read.not_after.duration_since(read.not_before).unwrap_or_default() / 3).min(PAUSE);
        self.renewal = Some(schedule::renewal(read.not_before, read.not_after, rand::random()));
        let seconds = read.not_after.duration_since(SystemTime::now()).unwrap_or_default().as_secs();
        info!(names = certificate.names.join(", "), ends_in_hours = seconds / 3600, "certificate by DNS-01 in force");
        let in_force = InForce { file, names: certificate.names.clone(), not_after: read.not_after };
        self.status.send_replace(Status { in_force: Some(in_force), failure: None });
        Ok(())
    }
}

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error(transparent)]
    Order(#[from] OrderError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("the certificate cannot be written to {}", .file.display())]
    Write {
        file: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// Why a certificate cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// What is stored cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// The roots.
    #[error(transparent)]
    Roots(#[from] RootsError),
    /// No place for certificates.
    #[error("{} cannot be made", .dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// What a certificate says of itself.
struct Read {
    serial: String,
    not_before: SystemTime,
    not_after: SystemTime,
}

fn read(chain_pem: &str) -> Result<Read, String> {
    let der = CertificateDer::from_pem_slice(chain_pem.as_bytes()).map_err(|error| error.to_string())?;
    let (_, certificate) = X509Certificate::from_der(&der).map_err(|error| error.to_string())?;
    let time = |seconds: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    let validity = certificate.validity();
    Ok(Read {
        serial: certificate.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
        not_before: time(validity.not_before.timestamp()),
        not_after: time(validity.not_after.timestamp()),
    })
}
