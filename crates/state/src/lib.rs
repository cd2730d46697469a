//! Small state files: JSON with a version, written whole or not at all.

#![forbid(unsafe_code)]

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::marker::PhantomData;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The version of the state that this release writes.
const VERSION: u32 = 1;

/// Makes a directory, and those above it, that only we can look into.
///
/// # Errors
/// When it cannot be made, or is not ours.
pub fn private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o700))
}

/// Writes a file with mode 0600: after a power loss it holds `content` or what it held before. What stands beside it under
/// its name with the extension `new` is overwritten.
///
/// # Errors
/// When it cannot be written.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir)?;
    let fresh = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    File::open(dir)?.sync_all()
}

/// Why state could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file is there and cannot be read.
    #[error("state file {} cannot be read", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file holds something else.
    #[error("state file {} is not one of ours; move it away to start afresh", .path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The file was written by a later release.
    #[error("state file {} has version {found}, this release knows {VERSION}; install the later release again", .path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The file could not be written; the one before stays.
    #[error("state file {} cannot be written", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    content: T,
}

/// A state file of type `T`, which must be a struct.
#[derive(Debug)]
pub struct StateFile<T> {
    path: PathBuf,
    content: PhantomData<T>,
}

impl<T: Serialize + DeserializeOwned> StateFile<T> {
    /// The file `name` in `dir`.
    #[must_use]
    pub fn new(dir: &Path, name: &str) -> Self {
        Self { path: dir.join(name), content: PhantomData }
    }

    /// What was stored last; none before the first time.
    ///
    /// # Errors
    /// When the file is there and cannot be used.
    pub fn load(&self) -> Result<Option<T>, StateError> {
        let path = || self.path.clone();
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StateError::Read { path: path(), source }),
        };
        let parse = |source| StateError::Parse { path: path(), source };
        // The version first: the content of another one may look different.
        let version = serde_json::from_slice::<Versioned<serde_json::Value>>(&text).map_err(parse)?.version;
        if version != VERSION {
            return Err(StateError::Version { path: path(), found: version });
        }
        let stored = serde_json::from_slice::<Versioned<T>>(&text).map_err(parse)?;
        Ok(Some(stored.content))
    }

    /// Stores `content`: after a power loss the file holds it or what it held before.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn store(&self, content: &T) -> Result<(), StateError> {
        self.try_store(content).map_err(|source| StateError::Write { path: self.path.clone(), source })
    }

    fn try_store(&self, content: &T) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(&Versioned { version: VERSION, content })?;
        write_private(&self.path, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Thing {
        name: String,
    }

    #[test]
    fn stored_is_loaded_and_a_foreign_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = StateFile::<Thing>::new(&dir.path().join("sub"), "thing.json");
        assert_eq!(file.load().unwrap(), None);
        let thing = Thing { name: "a".into() };
        file.store(&thing).unwrap();
        file.store(&thing).unwrap();
        assert_eq!(file.load().unwrap(), Some(thing));

        fs::write(dir.path().join("sub/thing.json"), r#"{"version":2,"other":1}"#).unwrap();
        assert!(matches!(file.load(), Err(StateError::Version { found: 2, .. })));
        fs::write(dir.path().join("sub/thing.json"), "{").unwrap();
        assert!(matches!(file.load(), Err(StateError::Parse { .. })));
    }
}
