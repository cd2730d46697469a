//! What handshakes begin with: the own identity, who is trusted, and revocation lists in a file that may be replaced at any time.
//!
//! A file that is missing or broken later on does not undo what was revoked: the lists that were read last stay. They
//! stop every handshake when their time is over.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use openssl::asn1::{Asn1Time, Asn1TimeRef};
use openssl::ssl::SslContext;
use openssl::x509::{CrlStatus, X509, X509Crl, X509NameRef};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::TlsError;
use super::context::Material;
use super::verify::unix;
use crate::certificates::Clock;
use crate::config::TlsMaterial;

/// How often the file is looked at, besides when a handshake begins.
const LOOK: Duration = Duration::from_secs(1);
/// How long before a list's end it is warned of.
const WARN_AHEAD: Duration = Duration::from_secs(7 * 86_400);
/// How often that and other trouble is repeated.
const WARN_AGAIN: Duration = Duration::from_secs(86_400);
/// Largest file that is read, bytes.
const LARGEST: u64 = 16 * 1024 * 1024;

/// What connections begin with, and what of revocation is known.
pub(super) struct InForce {
    /// Refuses whom the lists name.
    pub(super) context: SslContext,
    lists: Vec<X509Crl>,
    /// The first end of a list; `None` without lists.
    pub(super) next_update: Option<SystemTime>,
}

impl InForce {
    /// Whether a certificate of a chain that was verified is revoked by now. Its lists' ends do not matter to what they
    /// say.
    pub(super) fn revoke(&self, chain: &[X509]) -> bool {
        let signed = |list: &X509Crl| {
            chain
                .iter()
                .filter(|issuer| is_same(issuer.subject_name(), list.issuer_name()))
                .any(|issuer| issuer.public_key().is_ok_and(|key| list.verify(&key).unwrap_or(false)))
        };
        let names = |list: &X509Crl| chain.iter().any(|one| matches!(list.get_by_cert(one), CrlStatus::Revoked(_)));
        self.lists.iter().any(|list| names(list) && signed(list))
    }
}

/// The own identity with the authorities that are trusted, and the file of lists, where there is one. Both may be replaced while
/// connections go on.
pub(super) struct Trust {
    clock: Clock,
    watched: Mutex<Watched>,
    current: watch::Sender<Arc<InForce>>,
}

/// What connections are made from, what the file looked like when it was last read, and what has been said of it.
struct Watched {
    material: Material,
    path: Option<String>,
    stamp: Option<Stamp>,
    said: Said,
}

#[derive(Default)]
struct Said {
    trouble: Option<String>,
    warned: Option<(Warning, SystemTime)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &str) -> io::Result<Self> {
        let data = fs::metadata(path)?;
        if data.len() > LARGEST {
            return Err(io::Error::other("it is larger than any list of revoked certificates"));
        }
        Ok(Self {
            file: (data.dev(), data.ino()),
            length: data.len(),
            modified: (data.mtime(), data.mtime_nsec()),
            changed: (data.ctime(), data.ctime_nsec()),
        })
    }
}

/// What is to be said of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Warning {
    /// Handshakes are refused. There may be a new file that does not count, for this reason.
    Expired(Option<String>),
    /// They will be soon.
    Ending,
    /// The file does not count, for this reason.
    Unusable(String),
}

impl Trust {
    /// Reads the file for the first time, if there is one.
    pub(super) fn open(material: Material, path: Option<&Path>, clock: Clock) -> Result<Arc<Self>, TlsError> {
        let (watched, in_force) = Watched::begin(material, path)?;
        let current = watch::Sender::new(Arc::new(in_force));
        let this = Arc::new(Self { clock, watched: Mutex::new(watched), current });
        this.warn();
        Ok(this)
    }

    /// Takes other certificates and another file from now on, or none of it.
    pub(super) fn replace(&self, tls: &TlsMaterial, path: Option<&Path>) -> Result<(), TlsError> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let (new, in_force) = Watched::begin(watched.material.with(tls)?, path)?;
        *watched = new;
        self.current.send_replace(Arc::new(in_force));
        Ok(())
    }

    /// What is in force, and news of it.
    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<InForce>> {
        self.current.subscribe()
    }

    /// When the lists that are in force end, where there are any.
    pub(super) fn next_update(&self) -> Option<SystemTime> {
        self.current.borrow().next_update
    }

    /// Takes up what has happened to the file.
    pub(super) async fn refresh(self: &Arc<Self>) {
        if self.next_update().is_none() {
            return;
        }
        let this = Arc::clone(self);
        // Files can take their time. A panic in there is reported by the runtime.
        let _ = tokio::task::spawn_blocking(move || this.look()).await;
    }

    /// Looks at the file from now on until the handle is dropped.
    pub(super) fn watch(self: &Arc<Self>) -> AbortOnDropHandle<()> {
        let this = Arc::clone(self);
        AbortOnDropHandle::new(tokio::spawn(async move {
            let mut look = tokio::time::interval(LOOK);
            look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                look.tick().await;
                this.refresh().await;
                this.warn();
            }
        }))
    }

    fn look(&self) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(path) = &watched.path else { return };
        // Taken before the file is read: what changes in between is seen as a change the next time.
        let (stamp, read) = match Stamp::of(path) {
            Ok(stamp) if watched.stamp == Some(stamp) => return,
            Ok(stamp) => (Some(stamp), read(path, &watched.material)),
            Err(error) => (None, Err(error.to_string())),
        };
        let trouble = match read {
            Ok(in_force) => {
                tracing::info!(path, "the list of revoked certificates was read");
                self.current.send_replace(Arc::new(in_force));
                None
            }
            Err(why) => Some(why),
        };
        watched.stamp = stamp;
        watched.said.trouble = trouble;
    }

    /// Says what somebody should do something about, once a day.
    fn warn(&self) {
        let (now, Some(next_update)) = (self.clock.now(), self.next_update()) else { return };
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let until = Asn1Time::from_unix(unix(next_update)).map(|until| until.to_string()).unwrap_or_default();
        let due = watched.said.due(now, next_update);
        let path = watched.path.as_deref().unwrap_or_default();
        match due {
            None => {}
            Some(Warning::Expired(why)) => tracing::error!(
                path,
                until,
                why,
                "the list of revoked certificates has expired, so EVERY peer is refused: put a new one in its place"
            ),
            Some(Warning::Ending) => tracing::warn!(
                path,
                until,
                "the list of revoked certificates ends soon, and every peer will be refused then: put a new one in its place"
            ),
            Some(Warning::Unusable(why)) => tracing::error!(
                path,
                why,
                until,
                "the list of revoked certificates cannot be used; the one from before counts until it ends: put a good one there"
            ),
        }
    }
}

impl Watched {
    fn begin(material: Material, path: Option<&Path>) -> Result<(Self, InForce), TlsError> {
        let Some(path) = path else {
            let in_force = InForce { context: material.context(None)?, lists: Vec::new(), next_update: None };
            return Ok((Self { material, path: None, stamp: None, said: Said::default() }, in_force));
        };
        let unusable = |why: String| TlsError::Revocation { path: path.to_owned(), why };
        if material.authorities.is_empty() {
            return Err(unusable("lists are signed by an authority, and there is none".to_owned()));
        }
        let text = as_text(path)?.to_owned();
        let stamp = Stamp::of(&text).map_err(|error| unusable(error.to_string()))?;
        let in_force = read(&text, &material).map_err(unusable)?;
        Ok((Self { material, path: Some(text), stamp: Some(stamp), said: Said::default() }, in_force))
    }
}

impl Said {
    /// What is to be said now, if it was not said within the last day.
    fn due(&mut self, now: SystemTime, next_update: SystemTime) -> Option<Warning> {
        let warning = if next_update <= now {
            Warning::Expired(self.trouble.clone())
        } else if let Some(why) = &self.trouble {
            Warning::Unusable(why.clone())
        } else if next_update <= now + WARN_AHEAD {
            Warning::Ending
        } else {
            self.warned = None;
            return None;
        };
        let said = self.warned.as_ref().is_some_and(|(said, at)| {
            *said == warning && now.duration_since(*at).is_ok_and(|since| since < WARN_AGAIN)
        });
        if said {
            return None;
        }
        self.warned = Some((warning.clone(), now));
        Some(warning)
    }
}

/// Reads the lists and makes them count, or says why they cannot be used.
fn read(path: &str, material: &Material) -> Result<InForce, String> {
    let (text, lists, next_update) = load(path, &material.authorities)?;
    let context = material.context(Some(path)).map_err(|error| error.to_string())?;
    // OpenSSL reads the file itself.
    if fs::read_to_string(path).ok() != Some(text) {
        return Err("it changed while it was read".to_owned());
    }
    Ok(InForce { context, lists, next_update: Some(next_update) })
}

/// The file's text, the lists in it, and when the first of them ends.
fn load(path: &str, authorities: &[X509]) -> Result<(String, Vec<X509Crl>, SystemTime), String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let lists = parse(&text)?;
    let mut ends = Vec::new();
    for list in &lists {
        check(list, authorities)?;
        let end = list.next_update().ok_or("one of its lists does not say when it ends")?;
        ends.push(system_time(end).ok_or("one of its lists has no end that this system can express")?);
    }
    let next_update = ends.into_iter().min().ok_or("it holds no PEM list of revoked certificates (X509 CRL)")?;
    let known = |list: &X509Crl| authorities.iter().any(|one| is_same(one.subject_name(), list.issuer_name()));
    if !lists.iter().any(known) {
        return Err("no list in it is of the tunnel's authority, so every peer would be refused".to_owned());
    }
    Ok((text, lists, next_update))
}

/// Whether a tunnel with this authority could start with the file at `path`: when the first of its lists ends, which may
/// be over.
///
/// # Errors
/// Says what is wrong with the file or the authority.
pub fn check_crl(path: &Path, ca_pem: &str) -> Result<SystemTime, TlsError> {
    let authorities = X509::stack_from_pem(ca_pem.as_bytes()).map_err(TlsError::Authority)?;
    let unusable = |why| TlsError::Revocation { path: path.to_owned(), why };
    let text = as_text(path)?;
    Stamp::of(text).map_err(|error| unusable(error.to_string()))?;
    load(text, &authorities).map(|(_, _, end)| end).map_err(unusable)
}

/// OpenSSL takes only such paths.
fn as_text(path: &Path) -> Result<&str, TlsError> {
    let text = path.to_str().filter(|text| !text.contains('\0'));
    text.ok_or_else(|| TlsError::Revocation { path: path.to_owned(), why: "its name is not UTF-8".to_owned() })
}

fn parse(text: &str) -> Result<Vec<X509Crl>, String> {
    const BEGIN: &str = "-----BEGIN X509 CRL-----";
    let starts = text.match_indices(BEGIN).map(|(at, _)| text.get(at..).unwrap_or_default());
    starts.map(|list| X509Crl::from_pem(list.as_bytes()).map_err(|error| error.to_string())).collect()
}

/// A list in the name of an authority that is known must be signed by it.
fn check(list: &X509Crl, authorities: &[X509]) -> Result<(), String> {
    let mut named = authorities.iter().filter(|one| is_same(one.subject_name(), list.issuer_name())).peekable();
    if named.peek().is_none() {
        // An intermediate authority's, which its chain will bring along.
        return Ok(());
    }
    if named.any(|one| one.public_key().is_ok_and(|key| list.verify(&key).unwrap_or(false))) {
        Ok(())
    } else {
        Err("one of its lists is not signed by the authority that it names".to_owned())
    }
}

fn is_same(one: &X509NameRef, other: &X509NameRef) -> bool {
    one.try_cmp(other).is_ok_and(std::cmp::Ordering::is_eq)
}

fn system_time(time: &Asn1TimeRef) -> Option<SystemTime> {
    let since = Asn1Time::from_unix(0).ok()?.diff(time).ok()?;
    let seconds = i64::from(since.days) * 86_400 + i64::from(since.secs);
    UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_told_once_a_day() {
        let day = |number: u64| UNIX_EPOCH + Duration::from_secs(number * 86_400);
        let mut watched = Said::default();
        assert_eq!(watched.due(day(0), day(100)), None);
        assert_eq!(watched.due(day(92), day(100)), None);
        assert_eq!(watched.due(day(93), day(100)), Some(Warning::Ending));
        assert_eq!(watched.due(day(94) - Duration::from_secs(1), day(100)), None);
        assert_eq!(watched.due(day(94), day(100)), Some(Warning::Ending));
        watched.trouble = Some("why".to_owned());
        assert_eq!(watched.due(day(94), day(100)), Some(Warning::Unusable("why".to_owned())));
        assert_eq!(watched.due(day(94), day(100)), None);
        for number in [100, 101] {
            assert_eq!(watched.due(day(number), day(100)), Some(Warning::Expired(Some("why".to_owned()))));
        }
        watched.trouble = None;
        assert_eq!(watched.due(day(101), day(200)), None);
        // A clock that went back does not silence it.
        assert_eq!(watched.due(day(195), day(200)), Some(Warning::Ending));
        assert_eq!(watched.due(day(194), day(200)), Some(Warning::Ending));
    }
}
