//! Container images for the lab's engines: the official ones where a registry can be reached, else images of the same
//! names built from Debian's packages. Either way an image is a file in the cache, which any engine can load.

mod archive;
pub(crate) mod debian;
mod recipe;
mod registry;

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use recipe::Recipe;
use serde::{Deserialize, Serialize};

/// Names the image to run as Caddy, in place of `caddy:2`.
pub const CADDY_IMAGE: &str = "CLOUDATHOME_CADDY_IMAGE";
/// Names the image to run as Nextcloud, in place of `nextcloud:apache`.
pub const NEXTCLOUD_IMAGE: &str = "CLOUDATHOME_NEXTCLOUD_IMAGE";

const CACHE: &str = "/var/cache/cloudathome/images";
/// How long a pulled image is used without asking its registry again.
const PULLED_FOR: Duration = Duration::from_secs(24 * 3600);
const LOAD_DEADLINE: Duration = Duration::from_secs(300);

/// What the lab's engines run.
#[derive(Debug, Clone)]
pub struct Images {
    /// For the edge's engine.
    pub caddy: Image,
    /// For home's engine.
    pub nextcloud: Image,
}

/// An image as a file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Image {
    /// What a container's configuration calls it, once loaded.
    pub name: String,
    /// A `docker save` archive.
    #[serde(skip)]
    pub tar: PathBuf,
    /// Where it comes from and in which version, for people.
    pub version: String,
    /// Whether the program inside is an imitation of the one the name promises.
    pub stand_in: bool,
}

impl Image {
    /// Puts the image into the engine that listens on `socket`.
    ///
    /// # Errors
    /// When the engine does not answer, refuses the archive, or takes longer than five minutes.
    pub fn load_into(&self, socket: &Path) -> Result<()> {
        let mut host = OsString::from("unix://");
        host.push(socket);
        let mut docker = bounded(LOAD_DEADLINE, "docker");
        docker.arg("--host").arg(host).args(["load", "--quiet", "--input"]).arg(&self.tar);
        output(docker)
            .with_context(|| format!("cannot load {} ({}) into {}", self.name, self.tar.display(), socket.display()))?;
        Ok(())
    }
}

impl Image {
    /// Takes the file `path` (relative to the image's root) out of the image and puts it under `dir`, for programs that
    /// run on this machine as well. Returns where it is.
    ///
    /// # Errors
    /// When no layer holds it, or the archive cannot be read.
    pub fn extract(&self, path: &str, dir: &Path) -> Result<PathBuf> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let member = |name: &str| {
            let mut tar = Command::new("tar");
            tar.arg("--extract").arg("--to-stdout").arg("--file").arg(&self.tar).arg(name);
            tar
        };
        let manifest: serde_json::Value = serde_json::from_str(&output(member("manifest.json"))?)?;
        let layers = manifest[0]["Layers"].as_array().map(Vec::as_slice).unwrap_or_default();
        // Upper layers come last and win.
        for layer in layers.iter().rev().filter_map(serde_json::Value::as_str) {
            let mut layer = member(layer).stdout(Stdio::piped()).spawn().context("run tar")?;
            let content = layer.stdout.take().map_or_else(Stdio::null, Stdio::from);
            let mut unpack = Command::new("tar");
            unpack.arg("--extract").arg("--directory").arg(dir);
            // Some archives write `./usr`, others `usr`.
            unpack.args(["--wildcards", "--no-anchored", "--", path]).stdin(content).stderr(Stdio::null());
            let found = unpack.status().context("run tar")?.success();
            layer.wait().context("wait for tar")?;
            if found {
                return Ok(dir.join(path));
            }
        }
        bail!("{} ({}) holds no {path}", self.name, self.tar.display())
    }
}

/// Provides every image the lab needs, from the cache where it holds them. Blocks for as long as a build takes, which is
/// a minute or two the first time. `progress` hears what is being waited for.
///
/// # Errors
/// When the cache cannot be written (it needs root), when an image named in the environment cannot be had, or when no
/// registry and no Debian suite yields an image.
pub fn provide(progress: &mut dyn FnMut(&str)) -> Result<Images> {
    let cache = Cache::open(Path::new(CACHE))?;
    Ok(Images {
        caddy: cache.image("caddy", CADDY_IMAGE, progress)?,
        nextcloud: cache.image("nextcloud", NEXTCLOUD_IMAGE, progress)?,
    })
}

/// The folder of archives, locked against a second run for as long as this lives.
struct Cache {
    dir: PathBuf,
    _lock: Flock<File>,
}

impl Cache {
    fn open(dir: &Path) -> Result<Self> {
        let advice = || format!("cannot use the image cache {}: run as root (or with sudo)", dir.display());
        fs::create_dir_all(dir).with_context(advice)?;
        let file = File::create(dir.join("lock")).with_context(advice)?;
        let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error).with_context(advice)?;
        Ok(Self { dir: dir.to_owned(), _lock: lock })
    }

    fn image(&self, folder: &str, variable: &str, progress: &mut dyn FnMut(&str)) -> Result<Image> {
        if let Some(reference) = std::env::var(variable).ok().filter(|value| !value.is_empty()) {
            return self.named(&reference, progress).with_context(|| {
                format!(
                    "cannot provide the image '{reference}': correct {variable}, unset it, or put that image into \
                         this machine's engine"
                )
            });
        }
        let recipe = Recipe::read(&recipe::folder(folder))?;
        match self.official(&recipe, progress) {
            Some(image) => Ok(image),
            None => self.built(&recipe, progress),
        }
    }

    /// The image of that name from its registry, where one answers.
    fn official(&self, recipe: &Recipe, progress: &mut dyn FnMut(&str)) -> Option<Image> {
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
    fn named(&self, reference: &str, progress: &mut dyn FnMut(&str)) -> Result<Image> {
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
        let found = registry::pull(reference, &self.dir, &part(&tar))?;
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

    fn built(&self, recipe: &Recipe, progress: &mut dyn FnMut(&str)) -> Result<Image> {
        let architecture = debian::architecture()?;
        let slug = slug(&recipe.name);
        let tar = self.dir.join(format!("{slug}-{}.tar", recipe.hash(&architecture)?));
        if let Some(image) = self.entry(&tar) {
            return Ok(image);
        }
        let base_tar = self.dir.join(format!("base-{slug}-{}.tar", recipe.base_hash(&architecture)));
        let base = match self.note::<debian::Base>(&base_tar) {
            Some(base) => base,
            None => {
                self.forget(&format!("base-{slug}-"));
                let part = part(&base_tar);
                let base = debian::build_base(recipe, &part, progress)?;
                self.keep(&base_tar, base)?
            }
        };
        progress(&format!("packing {}", recipe.name));
        let version = format!("{} from Debian {}", base.versions.join(", "), base.suite);
        self.forget(&format!("{slug}-"));
        archive::write(recipe, &archive::Platform::of(&architecture), &version, &base_tar, &part(&tar))?;
        let image = Image { name: recipe.name.clone(), tar: tar.clone(), version, stand_in: recipe.stand_in };
        self.keep(&tar, image)
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
    Image { name, tar: tar.to_owned(), version: found.version, stand_in: false }
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

/// A command that is ended after `deadline`, and when this thread ends before it.
fn bounded(deadline: Duration, program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "--", "timeout", "--foreground", "--kill-after=20"]);
    command.arg(format!("{}s", deadline.as_secs())).arg(program).stdin(Stdio::null());
    command
}

/// Runs a command to its end and returns what it printed.
pub(crate) fn output(mut command: Command) -> Result<String> {
    let what = shown(&command);
    let done = command.output().with_context(|| format!("cannot run {what}"))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        let lines: Vec<&str> = said.lines().collect();
        let tail = lines[lines.len().saturating_sub(12)..].join("\n");
        let why = if done.status.code() == Some(124) { "took too long".to_owned() } else { done.status.to_string() };
        bail!("`{what}`: {why}\n{tail}");
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// The command line for people, without what `bounded` puts before it.
fn shown(command: &Command) -> String {
    let words: Vec<_> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(|word| word.to_string_lossy()).collect();
    let own = words.iter().position(|word| word.starts_with("--kill-after=")).map_or(0, |limit| limit + 2);
    words[own..].join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        (dir, cache)
    }

    fn kept(cache: &Cache, file: &str) -> PathBuf {
        let tar = cache.dir.join(file);
        fs::write(part(&tar), "archive").unwrap();
        let image = Image { name: "caddy:2".into(), tar: tar.clone(), version: "2.11".into(), stand_in: false };
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

    #[test]
    fn a_failed_command_says_what_why_and_what_it_printed() {
        let mut command = bounded(Duration::from_secs(5), "sh");
        command.args(["-c", "echo no space >&2; exit 3"]);
        let error = output(command).unwrap_err().to_string();
        assert_eq!(error, "`sh -c echo no space >&2; exit 3`: exit status: 3\nno space");
    }
}
