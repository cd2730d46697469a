//! What `docker/<folder>` says about an image, and the hash that names a build of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Counted up when this program starts to build differently from the same sources.
const BUILDER: &str = "cloudathome images 1";

/// `image.toml`, and the folder it lies in.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Recipe {
    /// The official image's name and tag.
    pub(super) name: String,
    /// One line for people who inspect the image.
    pub(super) about: String,
    /// Whether the program inside imitates the one the name promises.
    pub(super) stand_in: bool,
    /// Debian's suites in the order in which they are tried, one for the whole image.
    pub(super) suites: Vec<String>,
    pub(super) variant: Variant,
    pub(super) packages: Vec<String>,
    /// The packages whose versions are shown.
    pub(super) versions_of: Vec<String>,
    /// Shell lines run outside of the image, with its root as `$1`, when the packages are in.
    pub(super) hooks: Vec<String>,
    pub(super) config: Config,
    #[serde(skip)]
    folder: PathBuf,
}

/// How much of Debian comes with the packages; the names are mmdebstrap's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Variant {
    /// The packages and what they depend on, unpacked; no maintainer script has run.
    Extract,
    /// A small system with apt in which the packages are installed.
    Minbase,
}

/// What a container gets from the image. Names and meanings are those of a Dockerfile.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    #[serde(default)]
    pub(super) env: Vec<String>,
    #[serde(default)]
    pub(super) entrypoint: Vec<String>,
    pub(super) cmd: Vec<String>,
    #[serde(default)]
    pub(super) ports: Vec<String>,
    #[serde(default)]
    pub(super) volumes: Vec<String>,
    pub(super) workdir: String,
    pub(super) stop_signal: Option<String>,
}

/// `docker/<name>` of the sources this program was built from.
pub(super) fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docker").join(name)
}

impl Recipe {
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("image.toml");
        let text = fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}: run from a whole source tree", path.display()))?;
        let recipe: Self = toml::from_str(&text).with_context(|| format!("cannot understand {}", path.display()))?;
        Ok(Self { folder: folder.to_owned(), ..recipe })
    }

    /// The files laid over the packages.
    pub(super) fn rootfs(&self) -> PathBuf {
        self.folder.join("rootfs")
    }

    /// Names the image that these sources make on that architecture.
    pub(super) fn hash(&self, architecture: &str) -> Result<String> {
        let mut hash = Sha256::new();
        add(&mut hash, self.base_hash(architecture).as_bytes());
        add(&mut hash, format!("{self:?}").as_bytes());
        let rootfs = self.rootfs();
        add_folder(&mut hash, &rootfs, &rootfs)
            .with_context(|| format!("cannot read the image's files in {}", rootfs.display()))?;
        Ok(short(hash))
    }

    /// Names the part of it that comes from Debian, which is the slow one.
    pub(super) fn base_hash(&self, architecture: &str) -> String {
        let mut hash = Sha256::new();
        add(&mut hash, BUILDER.as_bytes());
        add(&mut hash, architecture.as_bytes());
        let parts = (&self.suites, self.variant, &self.packages, &self.versions_of, &self.hooks);
        add(&mut hash, format!("{parts:?}").as_bytes());
        short(hash)
    }
}

fn add_folder(hash: &mut Sha256, root: &Path, dir: &Path) -> Result<()> {
    let mut paths = fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            add_folder(hash, root, &path)?;
        } else {
            add(hash, path.strip_prefix(root)?.as_os_str().as_encoded_bytes());
            // Only the executable bit gets into the image, as in git.
            let executable = fs::metadata(&path)?.permissions().mode() & 0o100 != 0;
            add(hash, &[u8::from(executable)]);
            add(hash, &fs::read(&path)?);
        }
    }
    Ok(())
}

/// Adds a part with its length, so that no two lists of parts look alike.
fn add(hash: &mut Sha256, part: &[u8]) {
    hash.update((part.len() as u64).to_be_bytes());
    hash.update(part);
}

fn short(hash: Sha256) -> String {
    format!("{:x}", hash.finalize())[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recipes_of_the_sources_are_understood() {
        for (name, image, stand_in) in [("caddy", "caddy:2", false), ("nextcloud", "nextcloud:apache", true)] {
            let recipe = Recipe::read(&folder(name)).unwrap();
            assert_eq!((recipe.name.as_str(), recipe.stand_in), (image, stand_in));
            assert!(recipe.versions_of.iter().all(|package| recipe.packages.contains(package)));
            assert!(recipe.rootfs().is_dir());
        }
    }

    #[test]
    fn the_hash_follows_contents_modes_recipe_and_architecture() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("rootfs/etc")).unwrap();
        fs::copy(folder("caddy").join("image.toml"), dir.path().join("image.toml")).unwrap();
        let file = dir.path().join("rootfs/etc/some.conf");
        let hash = || Recipe::read(dir.path()).unwrap().hash("amd64").unwrap();

        fs::write(&file, "one").unwrap();
        let first = hash();
        assert_eq!(first, hash());
        assert_ne!(first, Recipe::read(dir.path()).unwrap().hash("arm64").unwrap());

        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        let executable = hash();
        fs::write(&file, "two").unwrap();
        let changed = hash();
        fs::rename(&file, dir.path().join("rootfs/etc/other.conf")).unwrap();
        let renamed = hash();
        let hashes = [&first, &executable, &changed, &renamed];
        assert_eq!(hashes.iter().collect::<std::collections::BTreeSet<_>>().len(), 4, "{hashes:?}");
    }

    #[test]
    fn files_alone_do_not_change_the_base() {
        let mut recipe = Recipe::read(&folder("caddy")).unwrap();
        let before = (recipe.base_hash("amd64"), recipe.hash("amd64").unwrap());
        recipe.config.workdir = "/elsewhere".into();
        assert_eq!(recipe.base_hash("amd64"), before.0);
        assert_ne!(recipe.hash("amd64").unwrap(), before.1);
        recipe.packages.push("curl".into());
        assert_ne!(recipe.base_hash("amd64"), before.0);
    }
}
