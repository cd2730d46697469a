//! What a profile holds, or names in files beside it.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use profile::Source;
use secrecy::{ExposeSecret, SecretString};

/// Largest file that is read: a profile may be so large, and no key or list of authorities is larger.
const MAX_FILE: u64 = 1024 * 1024;

/// The text of a small file. Bytes that are not UTF-8 are replaced: they can stand in comments only.
pub(crate) fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::other("the file has more than 1 MiB"));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A file that a profile names cannot be read.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub(crate) path: PathBuf,
    pub(crate) error: io::Error,
}

/// What a source holds; files are looked for from `dir`.
pub(crate) fn text(source: &Source<String>, dir: &Path) -> Result<String, Unreadable> {
    match source {
        Source::Inline(text) => Ok(text.clone()),
        Source::File(name) => {
            let path = dir.join(name);
            read(&path).map_err(|error| Unreadable { path, error })
        }
    }
}

/// What a source of something secret holds.
pub(crate) fn secret(source: &Source<SecretString>, dir: &Path) -> Result<SecretString, Unreadable> {
    match source {
        Source::Inline(text) => Ok(text.expose_secret().into()),
        Source::File(name) => text(&Source::File(name.clone()), dir).map(Into::into),
    }
}
