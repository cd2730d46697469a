//! The authority on the edge: its directory, what it issued and revoked, and the join codes by which a home gets its
//! identity. Nothing here has a network or a clock: the time is handed in.
//!
//! | file | what |
//! |---|---|
//! | `authority.json` | its version and name |
//! | `ca/ca.crt`, `ca/ca.key` | the CA's certificate and key |
//! | `tls-crypt-v2.key` | the tunnel's tls-crypt-v2 server key |
//! | `issued/SERIAL.crt` | copies of the certificates that were issued |
//! | `crl.pem` | the list of revoked certificates |
//! | `codes.json` | the join codes, without their secrets |
//! | `lock` | held by the process that has the authority |
//!
//! Directories have mode 0700, files 0600. Each file is replaced in one step.
#![forbid(unsafe_code)]

pub mod code;
pub mod issued;

mod codes;
mod enrolment;
mod error;
mod renewal;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::{HostId, Role};
use ovpn::static_key::StaticKey;
use ovpn::tls_crypt_v2::{Metadata, ServerKey};
use pki::{Ca, CertificateRequest, Identity, RevocationList, Revoked, Serial, Subject, Validity};
use rand::Rng;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use state::StateFile;

pub use codes::{CodeInfo, CodeState, CodesError, DEFAULT_LIFE, MAX_LIFE, Refusal};
pub use enrolment::{CodeFailure, EnrolError, Enrolled, NewCode};
pub use error::AuthorityError;
pub use issued::Issued;
pub use renewal::{RenewError, Renewed};

use codes::Codes;
use error::io_error;

/// How long a signed list is good: as long as a certificate, so that a host that was away for so long that it has no good list any more
/// has no good certificate either.
pub const LIST_LIFE: Duration = Validity::LEAF;
/// A list is signed anew when it is so old.
const LIST_AGE: Duration = Duration::from_secs(30 * 86_400);

const CA_DIR: &str = "ca";
const LOCK: &str = "lock";
const DESCRIPTION: &str = "authority.json";
const CODES: &str = "codes.json";

/// What an authority says of itself.
#[derive(Debug, Serialize, Deserialize)]
struct Description {
    /// For people only.
    name: String,
}

/// The authority, which no other process has at the same time.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
    name: String,
    ca: Ca,
    server_key: ServerKeyText,
    list: RevocationList,
    list_pem: String,
    codes: Codes,
    codes_file: StateFile<Codes>,
    _lock: File,
}

/// The key, and as text.
struct ServerKeyText {
    key: ServerKey,
    text: SecretString,
}

impl std::fmt::Debug for ServerKeyText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerKey(..)")
    }
}

impl Authority {
    /// Makes an authority: its directory appears whole or not at all, and never in place of anything. `name` is for
    /// people only, 1 to 64 characters.
    ///
    /// # Errors
    /// [`AuthorityError::Exists`] where there is something already; when it cannot be written.
    pub fn create(dir: &Path, name: &str, now: SystemTime) -> Result<Self, AuthorityError> {
        let filled = match fs::read_dir(dir) {
            Ok(mut entries) => entries.next().is_some(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(io_error("look into", dir)(error)),
        };
        if filled {
            return Err(AuthorityError::Exists(dir.to_owned()));
        }
        let parent = match dir.parent() {
            Some(parent) if parent != Path::new("") => parent,
            Some(_) | None => Path::new("."),
        };
        fs::create_dir_all(parent).map_err(io_error("make", parent))?;
        let staging = tempfile::Builder::new()
            .prefix(".cloudathome-new-")
            .tempdir_in(parent)
            .map_err(io_error("make a directory in", parent))?;
        let new = staging.path().join("authority");
        fs::DirBuilder::new().mode(0o700).create(&new).map_err(io_error("make", &new))?;

        let ca = Ca::generate(name, Validity::from(now, Validity::CA))?;
        ca.save(&new.join(CA_DIR))?;
        let mut bytes = [0; 128];
        rand::rng().fill_bytes(&mut bytes);
        let key_path = new.join(pki::file::TLS_CRYPT_V2);
        state::write_private(&key_path, ServerKey::from_bytes(bytes).to_text().as_bytes())
            .map_err(io_error("write", key_path))?;
        write_list(&new, &ca, &mut RevocationList::default(), now)?;
        StateFile::new(&new, DESCRIPTION).store(&Description { name: name.to_owned() })?;

        // Takes the place of an empty directory, and refuses one that was filled meanwhile.
        fs::rename(&new, dir)
            .and_then(|()| File::open(parent)?.sync_all())
            .map_err(io_error("put the authority at", dir))?;
        Self::open(dir)
    }

    /// Takes an authority up, until it is dropped.
    ///
    /// # Errors
    /// When there is none, another process has it, or a file of it cannot be used.
    pub fn open(dir: &Path) -> Result<Self, AuthorityError> {
        let description = StateFile::<Description>::new(dir, DESCRIPTION).load()?;
        let name = description.ok_or_else(|| AuthorityError::Missing(dir.to_owned()))?.name;
        let lock = lock(dir)?;
        let ca = Ca::load(&dir.join(CA_DIR))?;
        let key_path = dir.join(pki::file::TLS_CRYPT_V2);
        let text = fs::read_to_string(&key_path).map_err(io_error("read", &key_path))?;
        let key = ServerKey::parse(&text).map_err(|source| AuthorityError::ServerKey { path: key_path, source })?;
        let list = issued::list(dir, &ca)?;
        let list_path = dir.join(issued::LIST);
        let list_pem = fs::read_to_string(&list_path).map_err(io_error("read", list_path))?;
        let codes_file = StateFile::new(dir, CODES);
        let codes = codes_file.load()?.unwrap_or_default();
        let server_key = ServerKeyText { key, text: text.into() };
        Ok(Self { dir: dir.to_owned(), name, ca, server_key, list, list_pem, codes, codes_file, _lock: lock })
    }

    /// Whether there is an authority in a directory; it need not be whole.
    #[must_use]
    pub fn is_at(dir: &Path) -> bool {
        dir.join(DESCRIPTION).exists()
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its name, for people only.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The CA's certificate.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        self.ca.cert_pem()
    }

    /// The tunnel's tls-crypt-v2 server key, the whole file's text.
    #[must_use]
    pub fn server_key(&self) -> &SecretString {
        &self.server_key.text
    }

    /// The list of revoked certificates as it was signed last.
    #[must_use]
    pub fn list_pem(&self) -> &str {
        &self.list_pem
    }

    /// Issues a certificate with a new key, valid from `now` (less an hour, for clocks that differ) for `life`, and not beyond
    /// the authority's own end.
    ///
    /// # Errors
    /// When `life` is no span of time, or the copy that is kept cannot be written.
    pub fn issue(
        &mut self,
        role: Role,
        name: &HostId,
        life: Duration,
        now: SystemTime,
    ) -> Result<Identity, AuthorityError> {
        let subject = Subject { role, name: name.clone(), validity: self.validity(now, life) };
        let identity = self.ca.issue(&subject)?;
        issued::record(&self.dir, &identity.cert_pem, self.ca.cert_pem())?;
        Ok(identity)
    }

    /// Issues a certificate for the key of a request, as [`Authority::issue`] does. The result is PEM.
    ///
    /// # Errors
    /// As [`Authority::issue`].
    pub fn certify(
        &mut self,
        request: &CertificateRequest,
        role: Role,
        name: &HostId,
        life: Duration,
        now: SystemTime,
    ) -> Result<String, AuthorityError> {
        let subject = Subject { role, name: name.clone(), validity: self.validity(now, life) };
        let cert_pem = self.ca.certify(&subject, request)?;
        issued::record(&self.dir, &cert_pem, self.ca.cert_pem())?;
        Ok(cert_pem)
    }

    /// What ends after the authority would count no longer than that either, and not be renewed in time.
    fn validity(&self, now: SystemTime, life: Duration) -> Validity {
        let wanted = Validity::from(now, life);
        Validity { not_after: wanted.not_after.min(self.ca.ends()), ..wanted }
    }

    /// All certificates that were issued.
    ///
    /// # Errors
    /// When a copy cannot be read.
    pub fn issued(&self) -> Result<Vec<Issued>, AuthorityError> {
        issued::all(&self.dir, self.ca.cert_pem(), &self.list)
    }

    /// Makes certificates count no more, and signs the list that says so. Those on it already stay as they are.
    ///
    /// # Errors
    /// When the list cannot be written; then nothing is revoked.
    pub fn revoke(&mut self, serials: &[Serial], now: SystemTime) -> Result<(), AuthorityError> {
        let mut list = self.list.clone();
        for serial in serials {
            list.revoke(serial.clone(), now);
        }
        self.put_list(list, now)
    }

    /// Revokes all certificates of a holder. Gives back their numbers.
    ///
    /// # Errors
    /// As [`Authority::revoke`]; when a copy cannot be read.
    pub fn revoke_all(&mut self, role: Role, name: &HostId, now: SystemTime) -> Result<Vec<Serial>, AuthorityError> {
        let serials = self.unrevoked(role, name)?;
        if !serials.is_empty() {
            self.revoke(&serials, now)?;
        }
        Ok(serials)
    }

    fn unrevoked(&self, role: Role, name: &HostId) -> Result<Vec<Serial>, AuthorityError> {
        let of_holder =
            |issued: &Issued| issued.holder.role == role && issued.holder.name == *name && issued.revoked.is_none();
        Ok(self.issued()?.into_iter().filter(of_holder).map(|issued| issued.serial).collect())
    }

    /// Whether it is time to sign the list anew: long before it ends.
    #[must_use]
    pub fn list_is_due(&self, now: SystemTime) -> bool {
        let ends = Revoked::from_pem(&self.list_pem, self.ca.cert_pem()).ok().and_then(|list| list.ends());
        ends.is_none_or(|ends| ends < now + LIST_LIFE - LIST_AGE)
    }

    /// Signs the list anew, so that it does not end.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn sign_list(&mut self, now: SystemTime) -> Result<(), AuthorityError> {
        self.put_list(self.list.clone(), now)
    }

    fn put_list(&mut self, mut list: RevocationList, now: SystemTime) -> Result<(), AuthorityError> {
        self.list_pem = write_list(&self.dir, &self.ca, &mut list, now)?;
        self.list = list;
        Ok(())
    }

    /// A new tls-crypt-v2 client key, wrapped for the server, with the time it was made. The whole file's text.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn client_key(&self, now: SystemTime) -> Result<SecretString, AuthorityError> {
        let mut bytes = [0; 256];
        rand::rng().fill_bytes(&mut bytes);
        let made = now.duration_since(UNIX_EPOCH).map(|since| since.as_secs()).unwrap_or_default();
        let metadata = Metadata::Timestamp(i64::try_from(made).unwrap_or(i64::MAX));
        let key = self.server_key.key.issue(StaticKey::from_bytes(bytes), &metadata).map_err(AuthorityError::Wrap)?;
        Ok(key.to_text().into())
    }
}

fn write_list(dir: &Path, ca: &Ca, list: &mut RevocationList, now: SystemTime) -> Result<String, AuthorityError> {
    let pem = ca.sign_list(list, now, LIST_LIFE)?;
    let path = dir.join(issued::LIST);
    state::write_private(&path, pem.as_bytes()).map_err(io_error("write", path))?;
    Ok(pem)
}

fn lock(dir: &Path) -> Result<File, AuthorityError> {
    let path = dir.join(LOCK);
    let mut options = OpenOptions::new();
    let file = options.create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = file.map_err(io_error("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(AuthorityError::InUse(dir.to_owned())),
        Err(TryLockError::Error(error)) => Err(io_error("lock", path)(error)),
    }
}
