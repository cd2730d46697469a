//! Whether there is room on the disks for what is going to be made: a test that finds its disk full fails with words about
//! something else.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::sys::statvfs::statvfs;

use crate::cargo;

const GIB: u64 = 1 << 30;
/// A build of everything with all its tests: 11 GiB were measured.
const BUILD: u64 = 12 * GIB;
/// Images, newer engines and peers: 5.1 GiB were measured.
const CACHE: u64 = 6 * GIB;
/// Where engines and hosts of labs keep their data while tests run, several at a time.
const LABS: u64 = 6 * GIB;

/// A directory, how much will be in it when all is done, and what that is.
struct Need {
    dir: PathBuf,
    bytes: u64,
    what: &'static str,
}

/// Refuses to begin where there is too little room for all tests.
pub(crate) fn for_tests() -> Result<()> {
    let needs = [
        Need { dir: cargo::workspace().join("target"), bytes: BUILD, what: "the build" },
        Need { dir: "/var/cache/cloudathome".into(), bytes: CACHE, what: "images and programs of Debian's" },
        Need { dir: lab::LABS.into(), bytes: LABS, what: "the labs" },
    ];
    ensure(&needs)
}

fn ensure(needs: &[Need]) -> Result<()> {
    // By file system: what is missing on it, and for what.
    let mut missing: BTreeMap<u64, (u64, PathBuf, Vec<String>)> = BTreeMap::new();
    for need in needs {
        let there = existing(&need.dir);
        let device = fs::metadata(there).with_context(|| format!("look at {}", there.display()))?.dev();
        let more = need.bytes.saturating_sub(size(&need.dir));
        let (sum, _, whats) = missing.entry(device).or_insert_with(|| (0, there.to_owned(), Vec::new()));
        *sum += more;
        whats.push(format!("{} for {} ({})", gib(more), need.what, need.dir.display()));
    }
    for (bytes, at, whats) in missing.into_values() {
        let stat = statvfs(&at).with_context(|| format!("look at the disk of {}", at.display()))?;
        let free = stat.blocks_available() * stat.fragment_size();
        if free < bytes {
            bail!(
                "{} are free on the disk of {}, and {} more are needed: {}. Make room (`cargo clean` in trees that are done with, \
                 `docker image prune`), then run this again",
                gib(free),
                at.display(),
                gib(bytes),
                whats.join(", ")
            );
        }
    }
    Ok(())
}

/// The directory, or the nearest above it that is there.
fn existing(dir: &Path) -> &Path {
    dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"))
}

/// What is in the directory already. What cannot be looked at counts as nothing.
fn size(dir: &Path) -> u64 {
    let mut sum = 0;
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => todo.push(entry.path()),
                // Of several names of one file each has its part.
                Ok(meta) => sum += meta.blocks() * 512 / meta.nlink().max(1),
                Err(_) => {}
            }
        }
    }
    sum
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / GIB as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_room_is_said_with_what_it_is_for_and_what_is_there_counts() {
        let dir = tempfile::tempdir().unwrap();
        let need = |bytes| Need { dir: dir.path().join("not/there/yet"), bytes, what: "the build" };
        ensure(&[need(1)]).unwrap();
        let error = ensure(&[need(u64::MAX / 2)]).unwrap_err().to_string();
        assert!(error.contains("for the build") && error.contains("Make room"), "{error}");

        fs::write(dir.path().join("file"), vec![1; 1 << 20]).unwrap();
        assert!(size(dir.path()) >= 1 << 20);
    }
}
