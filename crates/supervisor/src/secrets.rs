//! Passwords that are generated once and kept on this host.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::rand;
use secrecy::SecretString;

/// A directory (0700) with one file (0600) per secret.
#[derive(Debug, Clone)]
pub struct Secrets {
    dir: PathBuf,
}

/// What a generated secret is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretKind {
    /// For people to copy: 24 letters and digits without look-alikes, about 139 bits.
    Password,
    /// For programs only: 64 hex digits, 256 bits.
    Hex256,
}

/// Why a secret could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// The directory can't be made or secured.
    #[error("can't prepare the secrets directory {}", dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file can't be read.
    #[error("can't read the secret {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file can't be written.
    #[error("can't store the secret {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file holds nothing: something else truncated it, and what it held is lost.
    #[error(
        "the secret {} is empty; restore it from a backup, or delete it to have a new one made (the service that \
         was set up with the old one must then be told)",
        path.display()
    )]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The name can't be a file name.
    #[error("{name:?} can't name a secret; use a-z, 0-9, '-' and '_'")]
    Name {
        /// The name as given.
        name: String,
    },
    /// The system gave no randomness.
    #[error("the system gave no random bytes")]
    Random,
}

impl Secrets {
    /// Opens the directory and makes it if it is missing. Its parent must exist.
    ///
    /// # Errors
    /// It can't be made or its mode can't be set.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, SecretsError> {
        let dir = dir.into();
        let prepared = match DirBuilder::new().mode(0o700).create(&dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::set_permissions(&dir, Permissions::from_mode(0o700))
            }
            other => other,
        };
        match prepared {
            Ok(()) => Ok(Self { dir }),
            Err(source) => Err(SecretsError::Directory { dir, source }),
        }
    }

    /// The secret called `name`; generated and stored when there is none yet.
    ///
    /// # Errors
    /// A bad name, no randomness, or a file that can't be read or written.
    pub fn get_or_create(&self, name: &str, kind: SecretKind) -> Result<SecretString, SecretsError> {
        let valid = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
        if name.is_empty() || !name.bytes().all(valid) {
            return Err(SecretsError::Name { name: name.to_owned() });
        }
        let path = self.dir.join(name);
        if let Some(secret) = read(&path)? {
            return Ok(secret.into());
        }
        let secret = generate(kind)?;
        match store(&self.dir, &path, &secret) {
            Ok(()) => Ok(secret.into()),
            Err(source) => Err(SecretsError::Write { path, source }),
        }
    }
}

fn read(path: &Path) -> Result<Option<String>, SecretsError> {
    let mut text = String::new();
    let read = File::open(path).and_then(|mut file| file.read_to_string(&mut text));
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(SecretsError::Read { path: path.to_owned(), source }),
        Ok(_) => match text.trim_end() {
            "" => Err(SecretsError::Empty { path: path.to_owned() }),
            secret => Ok(Some(secret.to_owned())),
        },
    }
}

/// After a power loss the file is there whole or not at all.
fn store(dir: &Path, path: &Path, secret: &str) -> io::Result<()> {
    let mut temp = path.as_os_str().to_owned();
    // Secret names hold no dot, so this is no secret's file.
    temp.push(".new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temp)?;
    file.write_all(secret.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&temp, path)?;
    File::open(dir)?.sync_all()
}

fn generate(kind: SecretKind) -> Result<String, SecretsError> {
    match kind {
        SecretKind::Password => pick(b"ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnpqrstuvwxyz23456789", 24),
        SecretKind::Hex256 => pick(b"0123456789abcdef", 64),
    }
}

fn pick(alphabet: &[u8], length: usize) -> Result<String, SecretsError> {
    let mut text = String::with_capacity(length);
    // Bytes at or above the largest multiple of the alphabet's size would favour its first letters.
    let fair = 256 - 256 % alphabet.len();
    while text.len() < length {
        let mut bytes = [0; 64];
        rand::fill(&mut bytes).map_err(|_| SecretsError::Random)?;
        let fair_bytes = bytes.iter().map(|b| usize::from(*b)).filter(|b| *b < fair);
        text.extend(fair_bytes.map(|b| char::from(alphabet[b % alphabet.len()])).take(length - text.len()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn a_secret_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let first = Secrets::open(dir.path().join("s")).unwrap();
        let password = first.get_or_create("admin", SecretKind::Password).unwrap();
        assert_eq!(password.expose_secret().len(), 24);
        let second = Secrets::open(dir.path().join("s")).unwrap();
        let again = second.get_or_create("admin", SecretKind::Password).unwrap();
        assert_eq!(password.expose_secret(), again.expose_secret());
        let other = second.get_or_create("other", SecretKind::Hex256).unwrap();
        assert_eq!(other.expose_secret().len(), 64);
        assert_ne!(other.expose_secret(), again.expose_secret());
    }

    #[test]
    fn only_the_owner_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        Secrets::open(&path).unwrap().get_or_create("admin", SecretKind::Password).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(path.join("admin")).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn an_empty_file_is_an_error_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let secrets = Secrets::open(dir.path()).unwrap();
        fs::write(dir.path().join("admin"), "\n").unwrap();
        assert!(matches!(secrets.get_or_create("admin", SecretKind::Password), Err(SecretsError::Empty { .. })));
    }

    #[test]
    fn names_can_not_climb() {
        let dir = tempfile::tempdir().unwrap();
        let secrets = Secrets::open(dir.path()).unwrap();
        for name in ["", "../x", "a/b", "a.new", "A"] {
            assert!(matches!(secrets.get_or_create(name, SecretKind::Password), Err(SecretsError::Name { .. })));
        }
    }
}
