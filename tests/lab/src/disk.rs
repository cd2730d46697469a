//! A small disk: a file system in a file.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::sys::statvfs::statvfs;

const FILLER: &str = "filler";

/// Makes an ext4 file system of `bytes` in the file `image`, to be mounted by loop, and returns that path.
///
/// # Errors
/// When it cannot be written, or `mkfs.ext4` fails.
pub(crate) fn create(image: &Path, bytes: u64) -> Result<PathBuf> {
    let doing = || format!("make a disk of {bytes} bytes in {}", image.display());
    File::create(image).and_then(|file| file.set_len(bytes)).with_context(doing)?;
    // Nothing is kept back for root, who is the one to fill it.
    let made = Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(image).output().with_context(doing)?;
    if !made.status.success() {
        bail!("{}: {}", doing(), String::from_utf8_lossy(&made.stderr).trim());
    }
    Ok(image.to_owned())
}

/// Writes a file into the file system at `dir` until `leave` bytes are free there.
///
/// # Errors
/// When it cannot be written to.
pub(crate) fn fill(dir: &Path, leave: u64) -> Result<()> {
    let doing = || format!("fill the disk at {}", dir.display());
    let mut file = File::options().create(true).append(true).open(dir.join(FILLER)).with_context(doing)?;
    let chunk = vec![0; 1 << 20];
    loop {
        let space = statvfs(dir).with_context(doing)?;
        let excess = (space.blocks_available() * space.fragment_size()).saturating_sub(leave);
        let next = usize::try_from(excess).unwrap_or(usize::MAX).min(chunk.len());
        let written = if next == 0 { Ok(0) } else { file.write(&chunk[..next]) };
        match written {
            Ok(0) => break,
            Ok(_) => {}
            // The file system keeps some of what it calls free for itself.
            Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
            Err(error) => return Err(error).with_context(doing),
        }
    }
    // Space is taken for good only when it is on the disk.
    file.sync_all().with_context(doing)
}

/// Removes what [`fill`] wrote.
///
/// # Errors
/// When that cannot be removed.
pub(crate) fn free(dir: &Path) -> Result<()> {
    match fs::remove_file(dir.join(FILLER)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("free the disk at {}", dir.display()))
        }
        _ => Ok(()),
    }
}
