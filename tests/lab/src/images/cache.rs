//! The folder in which images are kept, and how one gets there.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::recipe::{self, Recipe};
use super::{Image, archive, debian, npm, registry};

/// How long a pulled image is used without asking its registry again.
const PULLED_FOR: Duration = Duration::from_secs(24 * 3600);

/// The folder of archives, in which one image is locked against a second run for as long as this lives.
pub(super) struct Cache {
    dir: PathBuf,
    /// For what is needed while an image is made.
    workspace: PathBuf,
    _lock: Flock<File>,
}

impl Cache {
    /// Opens `dir` to provide the image of the recipe in `docker/<folder>`.
    pub(super) fn open(dir: &Path, folder: &str) -> Result<Self> {
        let advice = || format!("cannot use the image cache {}: run as root (or with sudo)", dir.display());
        fs::create_dir_all(dir).with_context(advice)?;
        let file = File::create(dir.join(format!("{folder}.lock"))).with_context(advice)?;
        let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error).with_context(advice)?;
        Ok(Self { dir: dir.to_owned(), workspace: dir.join(format!("{folder}.work")), _lock: lock })
    }

    /// The image of that name from its registry, where one answers.
    pub(super) fn official(&self, recipe: &Recipe, progress: &mut dyn FnMut(&str)) -> Option<Image> {
        if let Some(image) = self.pulled_lately(&recipe.name) {
            return Some(image);
        }
        if !registry::is_reachable() {
            return None;
        }
        match self.pulled(&recipe.name, progress) {
            Ok(image) => Some(image),
            Err(error) => {
                progress(&format!("could not pull {}, so it is built from Debian's packages: {error:#}", recipe.name));
                None
            }
        }
    }

    /// The image that was asked for by name: as the machine's own engine has it, or from its registry.
    pub(super) fn named(&self, reference: &str, progress: &mut dyn FnMut(&str)) -> Result<Image> {
        // Asked for each time: a name in that engine may mean another image by now.
        let Some(found) = registry::held(reference) else {
            return self.pulled(reference, progress);
        };
        let tar = self.dir.join(format!("{}-held-{}.tar", slug(reference), found.id.trim_start_matches("sha256:")));
        if let Some(image) = self.entry(&tar) {
            return Ok(image);
        }
        progress(&format!("copying {reference} from this machine's engine"));
        registry::save(reference, &part(&tar))?;
        self.keep(&tar, others_image(reference, found, &tar))
    }

    fn pulled(&self, reference: &str, progress: &mut dyn FnMut(&str)) -> Result<Image> {
        if let Some(image) = self.pulled_lately(reference) {
            return Ok(image);
        }
        progress(&format!("pulling {reference}"));
        let tar = self.pulled_tar(reference);
        let found = registry::pull(reference, &self.cleared_workspace()?, &part(&tar))?;
        self.keep(&tar, others_image(reference, found, &tar))
    }

    fn pulled_lately(&self, reference: &str) -> Option<Image> {
        let tar = self.pulled_tar(reference);
        let written = fs::metadata(&tar).and_then(|meta| meta.modified()).ok()?;
        let age = SystemTime::now().duration_since(written).unwrap_or_default();
        if age < PULLED_FOR { self.entry(&tar) } else { None }
    }

    fn pulled_tar(&self, reference: &str) -> PathBuf {
        self.dir.join(format!("{}-pulled.tar", slug(reference)))
    }

    /// The image as its recipe makes it.
    pub(super) fn built(&self, recipe: &Recipe, progress: &mut dyn FnMut(&str)) -> Result<Image> {
        let architecture = debian::architecture()?;
        let slug = slug(&recipe.name);
        let tar = self.dir.join(format!("{slug}-{}.tar", recipe.hash(&architecture)?));
        if let Some(image) = self.entry(&tar) {
            return Ok(image);
        }
        let (base_tar, base) = self.base(recipe, &architecture, progress)?;
        let npm = self.npm(recipe, &architecture, progress)?;
        progress(&format!("packing {}", recipe.name));
        let debian = format!("packages of Debian {}", base.suite);
        let mut layers = vec![archive::Layer { tar: &base_tar, source: &debian }];
        if let Some((tar, what)) = &npm {
            layers.push(archive::Layer { tar, source: what });
        }
        let version = match &npm {
            Some((_, what)) => format!("{what} on Debian {}", base.suite),
            None => format!("{} from Debian {}", base.versions.join(", "), base.suite),
        };
        self.forget(&format!("{slug}-"));
        archive::write(
            recipe,
            &archive::Platform::of(&architecture),
            &version,
            &layers,
            &self.cleared_workspace()?,
            &part(&tar),
        )?;
        let also = recipe.tags.iter().map(|tag| tag.name.clone()).collect();
        let image = Image { name: recipe.name.clone(), also, tar: tar.clone(), version, stand_in: recipe.stand_in };
        self.keep(&tar, image)
    }

    /// Writes the image of the recipe to `tar`, with what the Debian package `deb` installs in it. Only what lies below that is kept.
    pub(super) fn with_package(
        &self,
        recipe: &Recipe,
        deb: &Path,
        tar: &Path,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Image> {
        let architecture = debian::architecture()?;
        let (base_tar, base) = self.base(recipe, &architecture, progress)?;
        progress(&format!("packing {}", recipe.name));
        let workspace = self.cleared_workspace()?;
        // Beside the folder that is packed, and in the same file system.
        let files = part(&self.dir.join(format!("{}-package.tar", slug(&recipe.name))));
        debian::unpack(deb, &files)?;
        let (debian, package) = (format!("packages of Debian {}", base.suite), deb.display().to_string());
        let layers =
            [archive::Layer { tar: &base_tar, source: &debian }, archive::Layer { tar: &files, source: &package }];
        let version = recipe.name.rsplit(':').next().unwrap_or_default();
        let platform = archive::Platform::of(&architecture);
        archive::write(recipe, &platform, version, &layers, &workspace, tar)?;
        fs::remove_file(&files).with_context(|| format!("cannot remove {}", files.display()))?;
        let version = format!("{version} on Debian {}", base.suite);
        Ok(Image { name: recipe.name.clone(), also: Vec::new(), tar: tar.to_owned(), version, stand_in: false })
    }

    /// The layer of Debian's packages.
    fn base(
        &self,
        recipe: &Recipe,
        architecture: &str,
        progress: &mut dyn FnMut(&str),
    ) -> Result<(PathBuf, debian::Base)> {
        let prefix = format!("base-{}-", slug(recipe.family()));
        let tar = self.dir.join(format!("{prefix}{}.tar", recipe.base_hash(architecture)));
        if let Some(base) = self.note::<debian::Base>(&tar) {
            return Ok((tar, base));
        }
        self.forget(&prefix);
        let base = debian::build_base(recipe, &part(&tar), progress)?;
        let base = self.keep(&tar, base)?;
        Ok((tar, base))
    }

    /// The layer from npm's registry, if the recipe has one, and what it is, for people.
    fn npm(
        &self,
        recipe: &Recipe,
        architecture: &str,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Option<(PathBuf, String)>> {
        let (Some(npm), Some(version)) = (&recipe.npm, &recipe.version) else { return Ok(None) };
        let prefix = format!("npm-{}-", slug(&recipe.name));
        let tar = self.dir.join(format!("{prefix}{}.tar", recipe::npm_hash(npm, version, architecture)));
        let what = format!("{} {version} of npm", npm.package);
        if self.note::<String>(&tar).is_none() {
            self.forget(&prefix);
            progress(&format!("building {} from npm's packages, once: this takes minutes", recipe.name));
            npm::build(npm, version, architecture, &self.cleared_workspace()?, &part(&tar))?;
            self.keep(&tar, what.clone())?;
        }
        Ok(Some((tar, what)))
    }

    /// The workspace, empty. What was cut short has left something in it.
    fn cleared_workspace(&self) -> Result<PathBuf> {
        let failed = || format!("cannot clear {}", self.workspace.display());
        if self.workspace.exists() {
            registry::release(&self.workspace);
            fs::remove_dir_all(&self.workspace).with_context(failed)?;
        }
        fs::create_dir(&self.workspace).with_context(failed)?;
        Ok(self.workspace.clone())
    }

    /// The image whose archive lies at `tar`, if it is there whole.
    fn entry(&self, tar: &Path) -> Option<Image> {
        let image: Image = self.note(tar)?;
        Some(Image { tar: tar.to_owned(), ..image })
    }

    /// What was noted about the archive at `tar`, if both are there.
    fn note<T: for<'de> Deserialize<'de>>(&self, tar: &Path) -> Option<T> {
        if !tar.exists() {
            return None;
        }
        serde_json::from_slice(&fs::read(note_of(tar)).ok()?).ok()
    }

    /// Moves the finished `<tar>.part` into place, its note first: an archive that is there is whole and described.
    fn keep<T: Serialize>(&self, tar: &Path, note: T) -> Result<T> {
        let failed = || format!("cannot keep {} in the image cache", tar.display());
        let part = part(tar);
        fs::set_permissions(&part, fs::Permissions::from_mode(0o644)).with_context(failed)?;
        fs::write(note_of(tar), serde_json::to_vec(&note)?).with_context(failed)?;
        File::open(note_of(tar)).and_then(|file| file.sync_all()).with_context(failed)?;
        File::open(&part).and_then(|file| file.sync_all()).with_context(failed)?;
        fs::rename(&part, tar).with_context(failed)?;
        Ok(note)
    }

    /// Removes what an earlier state of the sources left, except for pulled images: the cache holds one build of each.
    fn forget(&self, prefix: &str) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_build = !name.contains("-pulled.") && !name.contains("-held-");
            if name.starts_with(prefix) && is_build {
                // One that stays costs space and nothing else.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

fn others_image(reference: &str, found: registry::Found, tar: &Path) -> Image {
    // An archive carries no digests: an image named by one is found by its id.
    let name = if reference.contains('@') { found.id } else { reference.to_owned() };
    Image { name, also: Vec::new(), tar: tar.to_owned(), version: found.version, stand_in: false }
}

fn note_of(tar: &Path) -> PathBuf {
    tar.with_extension("json")
}

fn part(tar: &Path) -> PathBuf {
    tar.with_extension("tar.part")
}

/// A file name for an image's name.
fn slug(reference: &str) -> String {
    reference.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path(), "caddy").unwrap();
        (dir, cache)
    }

    fn kept(cache: &Cache, file: &str) -> PathBuf {
        let tar = cache.dir.join(file);
        fs::write(part(&tar), "archive").unwrap();
        let image = Image {
            name: "caddy:2".into(),
            also: Vec::new(),
            tar: tar.clone(),
            version: "2.11".into(),
            stand_in: false,
        };
        cache.keep(&tar, image).unwrap();
        tar
    }

    #[test]
    fn a_kept_image_is_found_again_and_half_of_one_is_not() {
        let (_dir, cache) = cache();
        let tar = kept(&cache, "caddy-2-abc.tar");
        let found = cache.entry(&tar).unwrap();
        assert_eq!((found.name.as_str(), &found.tar), ("caddy:2", &tar));
        fs::write(part(&cache.dir.join("caddy-2-def.tar")), "half").unwrap();
        assert!(cache.entry(&cache.dir.join("caddy-2-def.tar")).is_none());
        fs::remove_file(note_of(&tar)).unwrap();
        assert!(cache.entry(&tar).is_none());
    }

    #[test]
    fn a_new_build_replaces_the_last_one_and_leaves_the_rest() {
        let (_dir, cache) = cache();
        let old = kept(&cache, "caddy-2-abc.tar");
        let others =
            ["base-caddy-2-abc.tar", "caddy-2-pulled.tar", "nextcloud-apache-abc.tar"].map(|f| kept(&cache, f));
        cache.forget("caddy-2-");
        assert!(!old.exists() && !note_of(&old).exists());
        assert!(others.iter().all(|tar| tar.exists()));
    }

    #[test]
    fn a_pulled_image_is_asked_for_again_after_a_day() {
        let (_dir, cache) = cache();
        let tar = kept(&cache, "caddy-2-pulled.tar");
        assert!(cache.pulled_lately("caddy:2").is_some());
        let yesterday = SystemTime::now() - PULLED_FOR - Duration::from_secs(1);
        File::options().write(true).open(&tar).unwrap().set_modified(yesterday).unwrap();
        assert!(cache.pulled_lately("caddy:2").is_none());
    }
}
