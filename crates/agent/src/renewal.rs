//! This host's identity is renewed before it ends. At two thirds of its certificate's life the host makes a new key and asks for a
//! certificate for it; the answer takes the place of the old identity in one step, and [`crate::OwnIdentity`] puts it in force.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use control::{RenewalClient, Successor};
use futures_util::future::BoxFuture;
use model::IdentityStatus;
use pki::{HostIdentity, Identity, PrivateKey, RevocationList, Revoked, file};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use tunnel::ClientKey;

use crate::identity::{Ends, InForce};

/// How often it is looked whether something is due: a clock may have been set.
const LOOK: Duration = Duration::from_secs(60);
/// The wait after a first attempt that failed; it doubles up to [`RETRY_MAX`], less up to a half by chance.
const RETRY_MIN: Duration = Duration::from_secs(60);
/// The longest wait: short beside the third of its life that a certificate has left.
const RETRY_MAX: Duration = Duration::from_secs(6 * 3_600);
/// What the text of a tls-crypt-v2 key of a client has, and that of a server has not.
const CLIENT_KEY: &str = "-----BEGIN OpenVPN tls-crypt-v2 client key-----";

/// Issues successors of this host's certificate.
pub trait Issuer: Send + Sync + 'static {
    /// One for the key of a request (PKCS#10, PEM). What cannot be done says why and what to do.
    fn renew(&self, request: String) -> BoxFuture<'static, Result<Successor, String>>;
}

impl Issuer for RenewalClient {
    fn renew(&self, request: String) -> BoxFuture<'static, Result<Successor, String>> {
        let client = self.clone();
        Box::pin(async move { Self::renew(&client, request).await })
    }
}

/// When an identity is renewed, and what becomes of the answer. It has no clock: the time is handed in.
#[derive(Debug)]
pub struct Renewal {
    dir: PathBuf,
    /// Not before.
    next: Option<SystemTime>,
    /// After another attempt that fails.
    wait: Duration,
    trouble: Option<String>,
    list_trouble: Option<String>,
}

/// A request for a certificate, and the key that it is for.
#[derive(Debug)]
pub struct Asked {
    before: HostIdentity,
    key_pem: SecretString,
    /// PKCS#10, PEM.
    pub request: String,
}

impl Renewal {
    /// Renews what lies in `dir`.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, next: None, wait: RETRY_MIN, trouble: None, list_trouble: None }
    }

    /// Why what is due is not renewed, and what to do.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref().or(self.list_trouble.as_deref())
    }

    /// What to ask for, if it is time for it. `identity` is what is in force.
    pub fn begin(&mut self, identity: &HostIdentity, now: SystemTime) -> Option<Asked> {
        let info = identity.info().ok()?;
        if now < info.renew_at() {
            // It was put right by hand.
            self.trouble = None;
            return None;
        }
        // A clock that was set back must not make the wait longer than it was meant to be.
        if self.next.is_some_and(|next| next.duration_since(now).is_ok_and(|rest| !rest.is_zero() && rest <= RETRY_MAX))
        {
            return None;
        }
        let make = || -> anyhow::Result<Asked> {
            let ends = identity.authority_ends()?;
            ensure!(info.not_after < ends, "the authority itself ends then: make a new one and join again");
            let key = PrivateKey::generate()?;
            Ok(Asked { before: identity.clone(), key_pem: key.to_pem(), request: key.request()? })
        };
        make().map_err(|error| self.failed(format!("{error:#}"), now)).ok()
    }

    /// Takes what came of it: an answer that can be used is stored. Whether one was.
    pub fn finish(&mut self, asked: &Asked, answer: Result<Successor, String>, now: SystemTime) -> bool {
        let stored =
            answer.and_then(|successor| self.store(asked, successor, now).map_err(|error| format!("{error:#}")));
        match stored {
            Ok(()) => {
                // What is stored is in force within this time.
                self.next = Some(now + RETRY_MIN);
                (self.wait, self.trouble) = (RETRY_MIN, None);
                true
            }
            Err(why) => {
                self.failed(why, now);
                false
            }
        }
    }

    /// Stores lists of revoked certificates (PEM) beside the identity: those of the authority that this host trusts, as long as they
    /// count, and never older ones than are there. Whether that is done.
    pub fn take_lists(&mut self, lists: &str, now: SystemTime) -> bool {
        let why = self.store_lists(lists, now).err();
        let why = why.map(|error| format!("the edge's list of revoked certificates is not taken: {error:#}"));
        if let Some(why) = why.as_ref().filter(|why| self.list_trouble.as_ref() != Some(*why)) {
            warn!(why, "the list from before counts");
        }
        self.list_trouble = why;
        self.list_trouble.is_none()
    }

    fn store_lists(&self, lists: &str, now: SystemTime) -> anyhow::Result<()> {
        let path = self.dir.join(file::REVOKED);
        let there = self.lists()?;
        if there.as_deref() == Some(lists) {
            return Ok(());
        }
        let ca = self.dir.join(file::CA_CERT);
        let ca_pem = fs::read_to_string(&ca).with_context(|| format!("cannot read {}", ca.display()))?;
        let new = Revoked::from_pem(lists, &ca_pem)?;
        // What lies there and cannot be read is of another authority, or broken: no reason to stay with it.
        let before = there.and_then(|there| Revoked::from_pem(&there, &ca_pem).ok()).unwrap_or_default();
        new.check_successor_of(&before, now)?;
        RevocationList::save(lists, &path).with_context(|| format!("cannot write {}", path.display()))?;
        info!(path = %path.display(), "there is a new list of revoked certificates");
        Ok(())
    }

    /// The lists that lie there.
    fn lists(&self) -> anyhow::Result<Option<String>> {
        let path = self.dir.join(file::REVOKED);
        match fs::read_to_string(&path) {
            Ok(lists) => Ok(Some(lists)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    fn failed(&mut self, why: String, now: SystemTime) {
        let why = format!("this host's certificate is not renewed: {why}");
        if self.trouble.as_ref() != Some(&why) {
            warn!(why, "it is tried again");
        }
        self.trouble = Some(why);
        self.next = Some(now + self.wait.mul_f64(rand::random_range(0.5..1.0)));
        self.wait = (self.wait * 2).min(RETRY_MAX);
    }

    fn store(&self, asked: &Asked, successor: Successor, now: SystemTime) -> anyhow::Result<()> {
        let there = HostIdentity::load(&self.dir)?;
        ensure!(there.is_same(&asked.before), "the identity in {} was replaced meanwhile", self.dir.display());
        let before = asked.before.info()?;
        let mut tls_crypt = there.tls_crypt;
        if let Some(key) = successor.client_key
            && tls_crypt.expose_secret().contains(CLIENT_KEY)
        {
            ClientKey::parse(key.expose_secret()).context("the tls-crypt-v2 client key that came cannot be used")?;
            tls_crypt = key;
        }
        let identity = Identity { cert_pem: successor.cert_pem, key_pem: asked.key_pem.clone() };
        let new = HostIdentity { ca_pem: there.ca_pem, identity, tls_crypt };
        let info = new.check().context("the certificate that came cannot be used")?;
        ensure!(
            info.role == before.role,
            "the certificate that came is that of {}: look into the edge's log",
            info.role
        );
        info.check_valid_at(now).context("the certificate that came cannot be used")?;
        ensure!(info.not_after > before.not_after, "the certificate that came ends no later than this one");
        let lists = self.lists()?;
        new.save_with(&self.dir, lists.as_deref()).context("the new identity cannot be stored")?;
        info!(dir = %self.dir.display(), "this host's certificate is renewed");
        Ok(())
    }
}

/// Renews this host's identity while the agent runs.
pub struct Renewer {
    renewal: Renewal,
    issuer: Option<Arc<dyn Issuer>>,
    in_force: watch::Receiver<InForce>,
    ends: watch::Receiver<Ends>,
    lists: watch::Receiver<Lists>,
    status: watch::Sender<IdentityStatus>,
}

/// The latest lists of revoked certificates (PEM), if there are any.
pub type Lists = Option<Arc<str>>;

impl std::fmt::Debug for Renewer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Renewer").field("renewal", &self.renewal).finish_non_exhaustive()
    }
}

impl Renewer {
    /// Renews what lies in `dir` and is in force; without an issuer it only tells until when that counts. `lists` are the authority's,
    /// and are put there too.
    #[must_use]
    pub fn new(
        dir: PathBuf,
        issuer: Option<Arc<dyn Issuer>>,
        in_force: watch::Receiver<InForce>,
        ends: watch::Receiver<Ends>,
        lists: watch::Receiver<Lists>,
    ) -> Self {
        let status = watch::Sender::new(IdentityStatus::default());
        let this = Self { renewal: Renewal::new(dir), issuer, in_force, ends, lists, status };
        this.tell();
        this
    }

    /// Until when this host's identity counts, and why it is not renewed.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<IdentityStatus> {
        self.status.subscribe()
    }

    /// Renews what is due until stopped.
    ///
    /// # Errors
    /// Never by itself.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut running: Option<(Asked, BoxFuture<'static, Result<Successor, String>>)> = None;
        loop {
            if running.is_none()
                && let Some(issuer) = &self.issuer
            {
                let identity = self.in_force.borrow_and_update().identity.clone();
                let asked = self.renewal.begin(&identity, SystemTime::now());
                running = asked.map(|asked| {
                    let answer = issuer.renew(asked.request.clone());
                    (asked, answer)
                });
            }
            let lists = self.lists.borrow_and_update().clone();
            if let Some(lists) = lists {
                // Also those that could not be stored the last time. Files can take their time.
                self = tokio::task::spawn_blocking(move || {
                    self.renewal.take_lists(&lists, SystemTime::now());
                    self
                })
                .await
                .context("storing the list of revoked certificates panicked")?;
            }
            self.tell();
            let answer = async {
                match &mut running {
                    Some((_, answer)) => answer.await,
                    None => std::future::pending().await,
                }
            };
            let answer = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                answer = answer => answer,
                () = sleep(LOOK) => continue,
                Ok(()) = self.in_force.changed() => continue,
                Ok(()) = self.ends.changed() => continue,
                Ok(()) = self.lists.changed() => continue,
            };
            if let Some((asked, _)) = running.take() {
                // Files can take their time.
                self = tokio::task::spawn_blocking(move || {
                    self.renewal.finish(&asked, answer, SystemTime::now());
                    self
                })
                .await
                .context("renewing the identity panicked")?;
            }
        }
    }

    fn tell(&self) {
        let unix = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let Ends { certificate, crl } = *self.ends.borrow();
        let trouble = self.renewal.trouble().map(str::to_owned);
        let now = IdentityStatus { certificate_ends: unix(certificate), list_ends: crl.map(unix), trouble };
        self.status.send_if_modified(|status| {
            let changed = *status != now;
            *status = now;
            changed
        });
    }
}

#[cfg(test)]
mod tests;
