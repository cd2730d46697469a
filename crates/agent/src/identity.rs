//! This host's identity while the agent runs. One task looks at the files in `identity_dir` and at the list of revoked certificates,
//! as the tunnel does for its list; what has changed and can be used is in force at once, for what begins from then on.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail, ensure};
use control::ControlTls;
use model::RoleUri;
use pki::{HostIdentity, Revoked, file};
use secrecy::ExposeSecret;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::config::Common;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// What could not be used is tried again after so long, also when it has not changed: a clock may have been set.
const TRY_AGAIN: Duration = Duration::from_secs(60);
/// Files of an identity that count.
pub(crate) const FILES: [&str; 6] =
    [file::CA_CERT, file::HOST_CERT, file::HOST_KEY, file::TLS_CRYPT, file::TLS_CRYPT_V2, file::REVOKED];

/// What is in force.
#[derive(Debug, Clone)]
pub struct InForce {
    /// The certificates and keys.
    pub identity: HostIdentity,
    /// Where the lists of revoked certificates lie, if there are any.
    pub crl: Option<PathBuf>,
}

/// Until when it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// This host's own certificate.
    pub certificate: SystemTime,
    /// The first of the lists of revoked certificates, if there are any.
    pub crl: Option<SystemTime>,
}

/// Follows the files.
#[derive(Debug)]
pub struct OwnIdentity {
    dir: PathBuf,
    /// `tunnel.crl`.
    crl: Option<PathBuf>,
    /// Who this host is. That does not change without a new start.
    role: RoleUri,
    tls: ControlTls,
    in_force: watch::Sender<InForce>,
    ends: watch::Sender<Ends>,
    seen: Vec<Option<Stamp>>,
    trouble: Option<(String, Instant)>,
}

/// What a file looked like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let data = fs::metadata(path).ok()?;
        Some(Self {
            file: (data.dev(), data.ino()),
            length: data.len(),
            modified: (data.mtime(), data.mtime_nsec()),
            changed: (data.ctime(), data.ctime_nsec()),
        })
    }
}

impl OwnIdentity {
    /// Puts what the configuration has read in force, for the control channel too.
    ///
    /// # Errors
    /// When certificate and key cannot be used for TLS, or the list of revoked certificates is none.
    pub fn new(common: &Common) -> anyhow::Result<Self> {
        Self::open(common.identity_dir.clone(), common.tunnel.crl.clone(), common.identity.clone())
    }

    pub(crate) fn open(dir: PathBuf, crl: Option<PathBuf>, identity: HostIdentity) -> anyhow::Result<Self> {
        let info = identity.info().context("the identity's certificate")?;
        let own = &identity.identity;
        let tls = ControlTls::new(&identity.ca_pem, &own.cert_pem, own.key_pem.expose_secret())?;
        let in_force = InForce { crl: crl.clone(), identity };
        let ends = Ends { certificate: info.not_after, crl: None };
        let mut this = Self {
            dir,
            crl,
            role: info.role,
            tls,
            in_force: watch::Sender::new(in_force),
            ends: watch::Sender::new(ends),
            seen: Vec::new(),
            trouble: None,
        };
        this.seen = this.stamps();
        this.take()?;
        Ok(this)
    }

    /// Who this host is.
    #[must_use]
    pub fn role(&self) -> &RoleUri {
        &self.role
    }

    /// The control channel's TLS, which follows.
    #[must_use]
    pub fn tls(&self) -> ControlTls {
        self.tls.clone()
    }

    /// What is in force, and news of it.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<InForce> {
        self.in_force.subscribe()
    }

    /// Until when it is.
    #[must_use]
    pub fn ends(&self) -> watch::Receiver<Ends> {
        self.ends.subscribe()
    }

    /// Follows the files until stopped.
    ///
    /// # Errors
    /// Never by itself.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(look.tick()).await.is_some() {
            // Files can take their time.
            self = tokio::task::spawn_blocking(move || {
                self.look();
                self
            })
            .await
            .context("the look at the identity's files panicked")?;
        }
        Ok(())
    }

    fn look(&mut self) {
        // Taken before the files are read: what changes in between is seen as a change the next time.
        let stamps = self.stamps();
        let again = self.trouble.as_ref().is_some_and(|(_, at)| at.elapsed() >= TRY_AGAIN);
        if stamps == self.seen && !again {
            return;
        }
        self.seen = stamps;
        self.trouble = match self.take() {
            Ok(()) => {
                info!(dir = %self.dir.display(), "the identity's files were read");
                None
            }
            Err(error) => {
                let why = format!("{error:#}");
                if self.trouble.as_ref().is_none_or(|(said, _)| *said != why) {
                    error!(dir = %self.dir.display(), why, "the identity cannot be used; the one from before counts");
                }
                Some((why, Instant::now()))
            }
        };
    }

    /// Puts what the files hold in force, or nothing of it.
    fn take(&self) -> anyhow::Result<()> {
        let identity = HostIdentity::load(&self.dir)?;
        let info = identity.info()?;
        ensure!(
            info.role == self.role,
            "it is that of {}, and this host is {}: start the agent anew",
            info.role,
            self.role
        );
        if let Err(why) = info.check_valid_at(SystemTime::now())
            && self.ends.borrow().certificate > SystemTime::now()
        {
            bail!(why);
        }
        let in_dir = self.dir.join(file::REVOKED);
        let crl = self.crl.clone().or_else(|| in_dir.exists().then_some(in_dir));
        let revoked = match &crl {
            None => Revoked::default(),
            Some(path) => fs::read_to_string(path)
                .map_err(anyhow::Error::from)
                .and_then(|lists| Ok(Revoked::from_pem(&lists, &identity.ca_pem)?))
                .with_context(|| format!("the list of revoked certificates {}", path.display()))?,
        };
        let own = &identity.identity;
        self.tls.replace(&identity.ca_pem, &own.cert_pem, own.key_pem.expose_secret())?;
        self.ends.send_replace(Ends { certificate: info.not_after, crl: revoked.ends() });
        self.tls.revoke(revoked);
        self.in_force.send_if_modified(|in_force| {
            let changed = in_force.crl != crl || !in_force.identity.is_same(&identity);
            *in_force = InForce { identity, crl };
            changed
        });
        Ok(())
    }

    fn stamps(&self) -> Vec<Option<Stamp>> {
        let in_dir = FILES.iter().map(|name| self.dir.join(name));
        in_dir.chain(self.crl.clone()).map(|path| Stamp::of(&path)).collect()
    }
}

#[cfg(test)]
mod tests {
    use model::Role;
    use pki::{Ca, RevocationList, Subject, Validity, generate_static_key};

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn ca(name: &str) -> Ca {
        Ca::generate(name, Validity::from_now(Validity::CA)).unwrap()
    }

    fn identity(ca: &Ca, name: &str, life: Duration) -> HostIdentity {
        let subject = Subject { role: Role::Home, name: name.parse().unwrap(), validity: Validity::from_now(life) };
        let identity = ca.issue(&subject).unwrap();
        HostIdentity { ca_pem: ca.cert_pem().to_owned(), identity, tls_crypt: generate_static_key() }
    }

    #[test]
    fn what_lies_in_the_directory_counts_as_soon_as_it_can_be_used() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("identity");
        let ca = ca("first");
        let first = identity(&ca, "attic", DAY);
        first.save(&dir).unwrap();
        let mut own = OwnIdentity::open(dir.clone(), None, first).unwrap();
        let (mut in_force, ends) = (own.subscribe(), own.ends());
        own.look();
        assert!(!in_force.has_changed().unwrap());

        let second = identity(&ca, "attic", 2 * DAY);
        second.save(&dir).unwrap();
        own.look();
        assert!(in_force.borrow_and_update().identity.is_same(&second));
        assert_eq!(ends.borrow().certificate, second.info().unwrap().not_after);

        // Of another host, ended, and half written: nothing of them counts.
        let ended = Validity { not_before: SystemTime::now() - 2 * DAY, not_after: SystemTime::now() - DAY };
        let subject = Subject { role: Role::Home, name: "attic".parse().unwrap(), validity: ended };
        let ended = HostIdentity { identity: ca.issue(&subject).unwrap(), ..second.clone() };
        for bad in [identity(&ca, "cellar", DAY), ended] {
            bad.save(&dir).unwrap();
            own.look();
            assert!(own.trouble.is_some() && !in_force.has_changed().unwrap());
        }
        second.save(&dir).unwrap();
        fs::write(dir.join(file::HOST_CERT), "").unwrap();
        own.look();
        assert!(own.trouble.is_some() && !in_force.has_changed().unwrap());
        second.save(&dir).unwrap();
        own.look();
        assert!(own.trouble.is_none());

        // Two authorities, and a list that appears.
        let new = self::ca("second");
        let both = format!("{}{}", ca.cert_pem(), new.cert_pem());
        let third = HostIdentity { ca_pem: both, ..identity(&new, "attic", 3 * DAY) };
        third.save(&dir).unwrap();
        own.look();
        assert!(in_force.borrow_and_update().identity.is_same(&third));
        let list = new.sign_list(&mut RevocationList::default(), SystemTime::now(), 5 * DAY).unwrap();
        fs::write(dir.join(file::REVOKED), list).unwrap();
        own.look();
        assert_eq!(in_force.borrow_and_update().crl, Some(dir.join(file::REVOKED)));
        assert!(ends.borrow().crl.is_some_and(|end| end > SystemTime::now() + 4 * DAY));
        fs::write(dir.join(file::REVOKED), "nonsense").unwrap();
        own.look();
        assert!(own.trouble.is_some());
    }
}
