//! Root folders of Debian in a cache: of sid for programs that this machine's own Debian does not have, of that for whole hosts.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

use crate::images::{debian, output};

/// The suite of what this machine's own Debian does not have.
pub(crate) const SID: &str = "sid";

/// What a root folder holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Root<'a> {
    /// Counted up when this program starts to build differently from the same packages.
    pub(crate) builder: &'a str,
    /// Debian's name of the release.
    pub(crate) suite: &'a str,
    /// What it is, for people.
    pub(crate) what: &'a str,
    /// mmdebstrap's: `minbase` installs, `extract` only unpacks.
    pub(crate) variant: &'a str,
    /// Separated by commas.
    pub(crate) packages: &'a str,
    /// What must be there afterwards.
    pub(crate) programs: &'a [&'a str],
}

impl Root<'_> {
    /// Provides the folder below `cache`, which holds `root` and an empty `mount`. Building it takes half a minute, once.
    /// Nothing may be written to `root`. `progress` hears what is being waited for.
    ///
    /// # Errors
    /// When the cache cannot be written (it needs root), or Debian's mirror gives no packages.
    pub(crate) fn provide(&self, cache: &Path, progress: &mut dyn FnMut(&str)) -> Result<PathBuf> {
        let advice = || format!("cannot use the cache {}: run as root (or with sudo)", cache.display());
        fs::create_dir_all(cache).with_context(advice)?;
        let lock = File::create(cache.join("lock")).with_context(advice)?;
        let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error).with_context(advice)?;

        let hash = Sha256::digest([self.builder, self.suite, self.packages, &debian::architecture()?].join("\n"));
        let dir = cache.join(format!("{}-{}", self.suite, &format!("{hash:x}")[..16]));
        if !dir.exists() {
            self.build(&dir, progress)?;
        }
        Ok(dir)
    }

    /// Makes `dir` appear whole.
    fn build(&self, dir: &Path, progress: &mut dyn FnMut(&str)) -> Result<()> {
        let part = dir.with_extension("part");
        if part.exists() {
            fs::remove_dir_all(&part).with_context(|| format!("cannot remove {}", part.display()))?;
        }
        let mut directories = DirBuilder::new();
        directories.mode(0o755).recursive(true);
        directories.create(part.join("mount")).with_context(|| format!("cannot make {}", part.display()))?;
        let suite = self.suite;
        let (root, mirror) = (part.join("root"), debian::mirror());
        progress(&format!("unpacking {} from Debian {suite} ({mirror}), once", self.what));
        let mut mmdebstrap = debian::mmdebstrap("directory", self.variant, self.packages, &debian::apt_options()?);
        mmdebstrap.arg(suite).arg(&root).arg(&mirror);
        output(mmdebstrap).with_context(|| {
            format!("cannot build Debian {suite}: is the mirror {mirror} within reach, and mmdebstrap installed?")
        })?;
        for program in self.programs {
            if !root.join(program).is_file() {
                bail!("Debian {suite} has no /{program} any more: see what its packages hold now");
            }
        }
        fs::rename(&part, dir).with_context(|| format!("cannot keep {}", dir.display()))
    }
}
