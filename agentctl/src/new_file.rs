//! A file with something secret in it: whole or not at all, readable by its owner only, never in place of another.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use tempfile::NamedTempFile;

/// A file that has no name yet.
#[derive(Debug)]
pub(crate) struct NewFile {
    file: NamedTempFile,
    path: PathBuf,
}

impl NewFile {
    /// Finds out whether a file can be made.
    pub(crate) fn begin(path: &Path) -> anyhow::Result<Self> {
        if fs::symlink_metadata(path).is_ok() {
            bail!("{} is there already: a profile in use is not overwritten", path.display());
        }
        let file = tempfile::Builder::new().prefix(".cloudathome-new-").tempfile_in(parent(path));
        Ok(Self { file: file.with_context(|| format!("cannot write {}", path.display()))?, path: path.to_owned() })
    }

    /// Makes it.
    pub(crate) fn finish(mut self, content: &[u8]) -> anyhow::Result<PathBuf> {
        let path = self.path;
        let written = self.file.write_all(content).and_then(|()| self.file.as_file().sync_all());
        written.with_context(|| format!("cannot write {}", path.display()))?;
        self.file.persist_noclobber(&path).with_context(|| format!("cannot write {}", path.display()))?;
        File::open(parent(&path))
            .and_then(|dir| dir.sync_all())
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn it_is_private_and_takes_nobodys_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("phone.ovpn");
        let late = NewFile::begin(&path).unwrap();
        assert_eq!(NewFile::begin(&path).unwrap().finish(b"one").unwrap(), path);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(late.finish(b"two").is_err());
        assert!(NewFile::begin(&path).unwrap_err().to_string().contains("is there already"));
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "something is left behind");
        assert!(NewFile::begin(&dir.path().join("missing/phone.ovpn")).is_err());
    }
}
