//! A container image for tests.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use lab::Lab;

/// A root file system of two of this machine's programs, `cat` and `sleep`: enough for a container, from nowhere.
pub(crate) fn tiny_image(lab: &Lab) -> Result<PathBuf> {
    let ldd = Command::new("ldd").args(["/usr/bin/cat", "/usr/bin/sleep"]).output().context("run ldd")?;
    let listing = String::from_utf8(ldd.stdout)?;
    let mut files: Vec<&str> = listing
        .split_whitespace()
        .filter(|word| word.starts_with('/') && !word.ends_with(':'))
        .map(|path| path.trim_start_matches('/'))
        .chain(["usr/bin/cat", "usr/bin/sleep"])
        .collect();
    files.sort_unstable();
    files.dedup();
    let archive = lab.dir().join("files/tiny.tar");
    let made = Command::new("tar").args(["-C", "/", "-chf"]).arg(&archive).args(files).status().context("run tar")?;
    ensure!(made.success(), "tar ended with {made}");
    Ok(archive)
}
