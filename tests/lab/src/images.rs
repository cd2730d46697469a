//! Container images for the lab's engines: the official ones where a registry can be reached, else images of the same
//! names built from Debian's packages. Either way an image is a file in the cache, which any engine can load.

mod archive;
mod cache;
pub(crate) mod debian;
mod npm;
mod recipe;
mod registry;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cache::Cache;
use recipe::Recipe;
use serde::{Deserialize, Serialize};

/// Names the image to run as Caddy, in place of `caddy:2`.
pub const CADDY_IMAGE: &str = "CLOUDATHOME_CADDY_IMAGE";
/// Names the image to run as Nextcloud, in place of `nextcloud:apache`.
pub const NEXTCLOUD_IMAGE: &str = "CLOUDATHOME_NEXTCLOUD_IMAGE";

const CACHE: &str = "/var/cache/cloudathome/images";
const LOAD_DEADLINE: Duration = Duration::from_secs(300);

/// An image that the lab can provide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// `caddy:2`.
    Caddy,
    /// `nextcloud:apache`; a stand-in where no registry can be reached.
    Nextcloud,
    /// The stand-in for Nextcloud, wherever this runs: `nextcloud:apache`, and in the same archive several versions between which
    /// upgrades go well, fail, or are refused (`docker/nextcloud/BEHAVIOURS.md`).
    NextcloudStandIn,
    /// `postgres:15`.
    Postgres,
    /// `mariadb:10.11`; in one archive with it, and the same, `mysql:8`.
    Mariadb,
    /// `redis:7`.
    Redis,
    /// `ghost:6.53.0`.
    Ghost,
    /// `ghost:6.65.0`, to which the other can be upgraded.
    NewerGhost,
}

impl Wanted {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Caddy, Self::Nextcloud, Self::Postgres, Self::Mariadb, Self::Redis, Self::Ghost, Self::NewerGhost];

    /// The folder in `docker/` with its recipe.
    fn folder(self) -> &'static str {
        match self {
            Self::Caddy => "caddy",
            Self::Nextcloud | Self::NextcloudStandIn => "nextcloud",
            Self::Postgres => "postgres",
            Self::Mariadb => "mariadb",
            Self::Redis => "redis",
            Self::Ghost | Self::NewerGhost => "ghost",
        }
    }

    /// The environment variable that names another image in its place.
    fn variable(self) -> Option<&'static str> {
        match self {
            Self::Caddy => Some(CADDY_IMAGE),
            Self::Nextcloud => Some(NEXTCLOUD_IMAGE),
            _ => None,
        }
    }

    /// Which of its recipe's versions it is, where there are several.
    fn version(self) -> Option<&'static str> {
        match self {
            Self::Ghost => Some("6.53.0"),
            Self::NewerGhost => Some("6.65.0"),
            _ => None,
        }
    }

    /// Whether only our own build will do, for what is in it besides.
    fn is_ours(self) -> bool {
        // MariaDB's archive also has MySQL's name.
        matches!(self, Self::NextcloudStandIn | Self::Mariadb)
    }
}

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
    /// Names of further images in the same archive.
    #[serde(default)]
    pub also: Vec<String>,
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

/// Provides the images of the demo and the end-to-end tests. Blocks for as long as a build takes, which is a minute or
/// two the first time. `progress` hears what is being waited for.
///
/// # Errors
/// As [`one`].
pub fn provide(progress: &mut dyn FnMut(&str)) -> Result<Images> {
    Ok(Images { caddy: one(Wanted::Caddy, progress)?, nextcloud: one(Wanted::Nextcloud, progress)? })
}

/// Provides one image, from the cache where it holds it. Building takes a minute or two, the first time.
///
/// # Errors
/// When the cache cannot be written (it needs root), when an image named in the environment cannot be had, or when no
/// registry and no Debian suite yields the image.
pub fn one(wanted: Wanted, progress: &mut dyn FnMut(&str)) -> Result<Image> {
    let cache = Cache::open(Path::new(CACHE), wanted.folder())?;
    if let Some(variable) = wanted.variable()
        && let Some(reference) = std::env::var(variable).ok().filter(|value| !value.is_empty())
    {
        return cache.named(&reference, progress).with_context(|| {
            format!(
                "cannot provide the image '{reference}': correct {variable}, unset it, or put that image into this \
                 machine's engine"
            )
        });
    }
    let recipe = Recipe::read(&recipe::folder(wanted.folder()))?;
    let recipe = match wanted.version() {
        Some(version) => recipe.of_version(version),
        None => recipe,
    };
    match if wanted.is_ours() { None } else { cache.official(&recipe, progress) } {
        Some(image) => Ok(image),
        None => cache.built(&recipe, progress),
    }
}

/// Makes the image of an agent of ours: the program and what it needs, out of its Debian package `deb`, as an archive at `tar`.
/// `role` is `edge` or `home`; the image is `cloudathome-ROLE:VERSION`.
///
/// # Errors
/// When the cache cannot be written (it needs root), Debian's mirror yields no packages, or `deb` is none.
pub fn of_agent(role: &str, version: &str, deb: &Path, tar: &Path, progress: &mut dyn FnMut(&str)) -> Result<Image> {
    const FOLDER: &str = "agent";
    let cache = Cache::open(Path::new(CACHE), FOLDER)?;
    let recipe = Recipe::read_with(&recipe::folder(FOLDER), &[("ROLE", role), ("VERSION", version)])?;
    cache.with_package(&recipe, deb, tar, progress)
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

    #[test]
    fn a_failed_command_says_what_why_and_what_it_printed() {
        let mut command = bounded(Duration::from_secs(5), "sh");
        command.args(["-c", "echo no space >&2; exit 3"]);
        let error = output(command).unwrap_err().to_string();
        assert_eq!(error, "`sh -c echo no space >&2; exit 3`: exit status: 3\nno space");
    }
}
