//! Replacing a directory of files in one step.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::host::file;

/// Why a directory could not be written. The old content is untouched.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// A step failed.
    #[error("cannot {what} {}", .path.display())]
    Io {
        /// The step.
        what: &'static str,
        /// What it was about.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The directory holds something that is not ours to remove.
    #[error("{} holds {file:?}, which does not belong there: move it away, or name another directory", .dir.display())]
    Foreign {
        /// The directory.
        dir: PathBuf,
        /// The file that is not ours.
        file: String,
    },
}

/// One file of a directory.
pub(crate) struct File<'a> {
    pub(crate) name: &'static str,
    pub(crate) content: &'a [u8],
    /// Readable by its owner only.
    pub(crate) secret: bool,
}

/// Makes `dir` hold exactly `files`: after a crash at any moment it is the old one or the new one, whole.
pub(crate) fn replace(dir: &Path, files: &[File<'_>]) -> Result<(), DirectoryError> {
    let parent = match dir.parent() {
        Some(parent) if parent != Path::new("") => parent,
        Some(_) | None => Path::new("."),
    };
    fs::create_dir_all(parent).map_err(io_error("create", parent))?;
    let present = only_ours(dir, files)?;

    // Removed by its drop, with whatever it then holds: the new files after a failure, the old ones after a swap.
    let staging = tempfile::Builder::new()
        .prefix(".cloudathome-new-")
        .tempdir_in(parent)
        .map_err(io_error("create a directory in", parent))?;
    let new = staging.path().join("content");
    DirBuilder::new().mode(0o700).create(&new).map_err(io_error("create", &new))?;
    for file in files {
        write(&new.join(file.name), file)?;
    }
    sync(&new)?;

    let flags = if present { RenameFlags::RENAME_EXCHANGE } else { RenameFlags::RENAME_NOREPLACE };
    renameat2(AT_FDCWD, &new, AT_FDCWD, dir, flags)
        .map_err(io::Error::from)
        .map_err(io_error("move the new files to", dir))?;
    sync(parent)
}

/// Whether the directory exists; an error when it holds anything but `files`, or what an earlier identity had beside
/// them: the other kind of tunnel key, lists of revoked certificates.
fn only_ours(dir: &Path, files: &[File<'_>]) -> Result<bool, DirectoryError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(io_error("read", dir)(error)),
    };
    for entry in entries {
        let name = entry.map_err(io_error("read", dir))?.file_name();
        let goes = [file::TLS_CRYPT, file::TLS_CRYPT_V2, file::REVOKED].iter().any(|other| name == *other);
        if !goes && !files.iter().any(|file| name == file.name) {
            return Err(DirectoryError::Foreign { dir: dir.to_owned(), file: name.to_string_lossy().into_owned() });
        }
    }
    Ok(true)
}

fn write(path: &Path, file: &File<'_>) -> Result<(), DirectoryError> {
    let mode = if file.secret { 0o600 } else { 0o644 };
    let mut handle =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(io_error("create", path))?;
    handle.write_all(file.content).map_err(io_error("write", path))?;
    handle.sync_all().map_err(io_error("write", path))
}

fn sync(dir: &Path) -> Result<(), DirectoryError> {
    fs::File::open(dir).and_then(|handle| handle.sync_all()).map_err(io_error("write", dir))
}

fn io_error<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> DirectoryError + use<'a> {
    move |source| DirectoryError::Io { what, path: path.to_owned(), source }
}
