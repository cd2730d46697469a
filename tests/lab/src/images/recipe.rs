//! What `docker/<folder>` says about an image, and the hash that names a build of it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::debian;
use super::npm::Npm;

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
    /// Debian's suites in the order in which they are tried, one for the whole image; `machine` is this machine's own.
    pub(super) suites: Vec<String>,
    pub(super) variant: Variant,
    pub(super) packages: Vec<String>,
    /// The packages whose versions are shown.
    pub(super) versions_of: Vec<String>,
    /// Shell lines run outside of the image, with its root as `$1`, when the packages are in.
    pub(super) hooks: Vec<String>,
    pub(super) config: Config,
    /// Further images of the same layers, in the same archive.
    #[serde(default)]
    pub(super) tags: Vec<Tag>,
    /// What is laid over the packages from npm's registry.
    pub(super) npm: Option<Npm>,
    /// The version of it that this image is of.
    #[serde(skip)]
    pub(super) version: Option<String>,
    #[serde(skip)]
    folder: PathBuf,
}

/// An image that differs from the recipe's only in its name and environment.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tag {
    pub(super) name: String,
    /// Set beside, or in place of, what the recipe sets.
    #[serde(default)]
    pub(super) env: BTreeMap<String, String>,
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
        Self::read_with(folder, &[])
    }

    /// As [`Recipe::read`], each of these words between `@` replaced by what stands beside it.
    pub(super) fn read_with(folder: &Path, words: &[(&str, &str)]) -> Result<Self> {
        let path = folder.join("image.toml");
        let text = fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}: run from a whole source tree", path.display()))?;
        let text = words.iter().fold(text, |text, (word, meant)| text.replace(&format!("@{word}@"), meant));
        let recipe: Self = toml::from_str(&text).with_context(|| format!("cannot understand {}", path.display()))?;
        let suites =
            recipe.suites.iter().map(|suite| if suite == "machine" { debian::own_suite() } else { suite.clone() });
        Ok(Self { suites: suites.collect(), folder: folder.to_owned(), ..recipe })
    }

    /// The recipe for one version of what it takes from npm's registry.
    pub(super) fn of_version(self, version: &str) -> Self {
        let name = self.name.split(':').next().unwrap_or_default();
        Self { name: format!("{name}:{version}"), version: Some(version.to_owned()), ..self }
    }

    /// The name without what differs from version to version.
    pub(super) fn family(&self) -> &str {
        if self.version.is_some() { self.name.split(':').next().unwrap_or_default() } else { &self.name }
    }

    /// All images that it makes: name and environment of each.
    pub(super) fn images(&self) -> Vec<(String, Vec<String>)> {
        let own = (self.name.clone(), self.config.env.clone());
        let tagged = self.tags.iter().map(|tag| {
            let is_replaced = |line: &&String| line.split_once('=').is_some_and(|(name, _)| tag.env.contains_key(name));
            let kept = self.config.env.iter().filter(|line| !is_replaced(line)).cloned();
            (tag.name.clone(), kept.chain(tag.env.iter().map(|(name, value)| format!("{name}={value}"))).collect())
        });
        std::iter::once(own).chain(tagged).collect()
    }

    /// The files laid over the packages.
    pub(super) fn rootfs(&self) -> PathBuf {
        self.folder.join("rootfs")
    }

    /// Names the image that these sources make on that architecture.
    pub(super) fn hash(&self, architecture: &str) -> Result<String> {
        let mut hash = Sha256::new();
        add(&mut hash, self.base_hash(architecture).as_bytes());
        // Where the sources lie makes no difference.
        add(&mut hash, format!("{:?}", Self { folder: PathBuf::new(), ..self.clone() }).as_bytes());
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

/// Names the part of an image that comes from npm's registry.
pub(super) fn npm_hash(npm: &Npm, version: &str, architecture: &str) -> String {
    let mut hash = Sha256::new();
    // What is compiled asks for the libraries of the suite it was compiled in.
    for part in [BUILDER, architecture, &debian::own_suite(), version, &format!("{npm:?}")] {
        add(&mut hash, part.as_bytes());
    }
    short(hash)
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
        let known = [
            ("caddy", "caddy:2", false),
            ("nextcloud", "nextcloud:apache", true),
            ("postgres", "postgres:15", false),
            ("mariadb", "mariadb:10.11", false),
            ("redis", "redis:7", false),
            ("ghost", "ghost:6", false),
            ("agent", "cloudathome-@ROLE@:@VERSION@", false),
        ];
        for (name, image, stand_in) in known {
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
