//! The certificates that were issued, as copies in a directory, and the list of those that were revoked.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use model::RoleUri;
use pki::{Ca, CertificateInfo, RevocationList, Serial};

use crate::error::{AuthorityError, io_error};

/// The list, in the authority's directory.
pub const LIST: &str = "crl.pem";
/// The copies, in the authority's directory.
pub const ISSUED: &str = "issued";

/// A certificate that was issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// Its number.
    pub serial: Serial,
    /// Its holder.
    pub holder: RoleUri,
    /// Valid from.
    pub not_before: SystemTime,
    /// Valid until.
    pub not_after: SystemTime,
    /// Since when it counts no more.
    pub revoked: Option<SystemTime>,
}

impl Issued {
    /// Whether it counts at a time: begun, not ended, not revoked.
    #[must_use]
    pub fn counts_at(&self, now: SystemTime) -> bool {
        self.revoked.is_none() && self.not_before <= now && now < self.not_after
    }
}

/// Keeps a copy of a certificate, so that it can be listed and revoked.
///
/// # Errors
/// When it is not of this authority, or the directory cannot be written.
pub fn record(authority: &Path, cert_pem: &str, ca_pem: &str) -> Result<Serial, AuthorityError> {
    let dir = authority.join(ISSUED);
    let serial =
        Serial::of(cert_pem, ca_pem).map_err(|source| AuthorityError::Certificate { path: dir.clone(), source })?;
    let path = dir.join(format!("{serial}.crt"));
    state::private_dir(&dir)
        .and_then(|()| state::write_private(&path, cert_pem.as_bytes()))
        .map_err(io_error("write", path))?;
    Ok(serial)
}

/// All that were issued, by their holders' names, then by their beginning.
///
/// # Errors
/// Naming the copy that cannot be read.
pub fn all(authority: &Path, ca_pem: &str, list: &RevocationList) -> Result<Vec<Issued>, AuthorityError> {
    let dir = authority.join(ISSUED);
    let mut all = Vec::new();
    for path in copies(&dir).map_err(io_error("look into", dir))? {
        let text = fs::read_to_string(&path).map_err(io_error("read", path.clone()))?;
        let read = || Ok((Serial::of(&text, ca_pem)?, CertificateInfo::from_pem(&text)?));
        let (serial, info) = read().map_err(|source| AuthorityError::Certificate { path, source })?;
        let revoked = list.revoked_at(&serial);
        all.push(Issued { serial, holder: info.role, not_before: info.not_before, not_after: info.not_after, revoked });
    }
    all.sort_by(|a, b| {
        (&a.holder.name, a.not_before, a.serial.to_string()).cmp(&(&b.holder.name, b.not_before, b.serial.to_string()))
    });
    Ok(all)
}

fn copies(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries.collect::<io::Result<Vec<_>>>()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => vec![],
        Err(error) => return Err(error),
    };
    let paths = entries.into_iter().map(|entry| entry.path());
    Ok(paths.filter(|path| path.extension().is_some_and(|extension| extension == "crt")).collect())
}

/// The list of those that were revoked; an empty one where none was signed yet.
///
/// # Errors
/// When it cannot be read.
pub fn list(authority: &Path, ca: &Ca) -> Result<RevocationList, AuthorityError> {
    let path = authority.join(LIST);
    match fs::read_to_string(&path) {
        Ok(text) => {
            RevocationList::from_pem(&text, ca.cert_pem()).map_err(|source| AuthorityError::List { path, source })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(RevocationList::default()),
        Err(error) => Err(io_error("read", path)(error)),
    }
}
