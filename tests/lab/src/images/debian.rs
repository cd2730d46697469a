//! The part of an image that comes from Debian: a root of one suite, made by mmdebstrap without an engine.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::recipe::{Recipe, Variant};
use super::{bounded, output};

const DEADLINE: Duration = Duration::from_secs(900);
/// Used where apt's own sources name none.
const DEFAULT_MIRROR: &str = "http://deb.debian.org/debian";

/// What a base was made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Base {
    pub(super) suite: String,
    /// `package version`, for the packages whose versions the recipe wants shown.
    pub(super) versions: Vec<String>,
}

/// Debian's name of this machine's architecture.
pub(crate) fn architecture() -> Result<String> {
    let mut dpkg = Command::new("dpkg");
    dpkg.arg("--print-architecture");
    Ok(output(dpkg)?.trim().to_owned())
}

/// The suite of this machine's own Debian.
pub(crate) fn own_suite() -> String {
    let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let named = system.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    // Testing and sid have no name of their own in there.
    named.map_or_else(|| "sid".to_owned(), |suite| suite.trim_matches('"').to_owned())
}

/// Writes the recipe's packages as a tar of a root folder, from the first of its suites that installs.
pub(super) fn build_base(recipe: &Recipe, tar: &Path, progress: &mut dyn FnMut(&str)) -> Result<Base> {
    let mirror = mirror();
    let options = apt_options()?;
    let mut failures = String::new();
    for suite in &recipe.suites {
        progress(&format!("building {} from Debian {suite} ({mirror}), once", recipe.name));
        match bootstrap(recipe, suite, &mirror, &options, tar) {
            Ok(versions) => return Ok(Base { suite: suite.clone(), versions }),
            Err(error) => {
                progress(&format!("{} cannot be built from {suite}", recipe.name));
                failures.push_str(&format!("\n{suite}: {error:#}"));
            }
        }
    }
    bail!("cannot build {}: is the mirror {mirror} within reach, and mmdebstrap installed?{failures}", recipe.name)
}

/// Writes the files that the package `deb` installs to `tar`.
pub(super) fn unpack(deb: &Path, tar: &Path) -> Result<()> {
    let file = fs::File::create(tar).with_context(|| format!("cannot write {}", tar.display()))?;
    let status = Command::new("dpkg-deb").arg("--fsys-tarfile").arg(deb).stdout(file).status();
    let status = status.context("cannot run dpkg-deb")?;
    if !status.success() {
        bail!("dpkg-deb cannot unpack {}: it ended with {status}", deb.display());
    }
    Ok(())
}

fn bootstrap(recipe: &Recipe, suite: &str, mirror: &str, options: &[String], tar: &Path) -> Result<Vec<String>> {
    let versions = tar.with_extension("versions");
    let (variant, hook) = match recipe.variant {
        // mmdebstrap runs the later hooks only in a root whose packages are configured.
        Variant::Extract => ("extract", "--extract-hook"),
        Variant::Minbase => ("minbase", "--customize-hook"),
    };
    let mut mmdebstrap = mmdebstrap("tar", variant, &recipe.packages.join(","), options);
    let ask = r#"APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-cache show --no-all-versions $PACKAGES > "$VERSIONS""#;
    for line in recipe.hooks.iter().map(String::as_str).chain([ask]) {
        mmdebstrap.arg(format!("{hook}={line}"));
    }
    mmdebstrap.env("PACKAGES", recipe.versions_of.join(" ")).env("VERSIONS", &versions);
    mmdebstrap.arg(suite).arg(tar).arg(mirror);
    output(mmdebstrap)?;
    let shown = fs::read_to_string(&versions).with_context(|| format!("cannot read {}", versions.display()))?;
    // It has been read; at worst a small file stays in the cache.
    let _ = fs::remove_file(&versions);
    Ok(parse_versions(&shown))
}

/// mmdebstrap, which then wants suite, target and mirror. `options` are those of [`apt_options`].
pub(crate) fn mmdebstrap(format: &str, variant: &str, packages: &str, options: &[String]) -> Command {
    let mut mmdebstrap = bounded(DEADLINE, "mmdebstrap");
    mmdebstrap.args(["--quiet", "--format", format, "--variant", variant, "--include", packages]);
    mmdebstrap.args(["--aptopt=APT::Install-Recommends \"false\"", "--aptopt=Acquire::Retries \"3\""]);
    for option in options {
        mmdebstrap.arg(format!("--aptopt={option}"));
    }
    mmdebstrap
}

/// The mirror that this machine's apt installs Debian from.
pub(crate) fn mirror() -> String {
    let mut apt = Command::new("apt-get");
    apt.args(["indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages"]);
    output(apt).ok().and_then(|list| parse_mirror(&list)).unwrap_or_else(|| DEFAULT_MIRROR.to_owned())
}

/// What this machine's apt has been told about reaching mirrors and trusting their dates, which mmdebstrap ignores.
pub(crate) fn apt_options() -> Result<Vec<String>> {
    let mut apt = Command::new("apt-config");
    apt.arg("dump");
    Ok(parse_options(&output(apt)?))
}

fn parse_mirror(list: &str) -> Option<String> {
    let mirrors: Vec<&str> = list
        .lines()
        // Security and backports have labels of their own. Before the first `apt-get update` there are no labels.
        .filter_map(|line| line.strip_prefix("Debian ").or_else(|| line.strip_prefix(' ')))
        .map(|uri| uri.trim_end_matches('/'))
        .filter(|uri| uri.starts_with("http") && uri.ends_with("/debian"))
        .collect();
    mirrors.first().map(|&uri| uri.to_owned())
}

fn parse_options(dump: &str) -> Vec<String> {
    let wanted = ["Acquire::http::", "Acquire::https::", "Acquire::Check-Valid-Until", "Acquire::ForceIPv"];
    dump.lines()
        .filter(|line| wanted.iter().any(|prefix| line.starts_with(prefix)) && !line.ends_with("\"\";"))
        .map(|line| line.trim_end_matches(';').to_owned())
        .collect()
}

fn parse_versions(shown: &str) -> Vec<String> {
    let field = |stanza: &str, name: &str| {
        stanza.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(": ")?.to_owned()))
    };
    shown
        .split("\n\n")
        .filter_map(|stanza| Some(format!("{} {}", field(stanza, "Package")?, field(stanza, "Version")?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_one_apt_uses_for_debian_itself() {
        let list = " https://packages.example/apt/\nDebian-Security http://mirror.example/debian-security/\n\
                    Debian http://mirror.example/debian/\nDebian http://deb.debian.org/debian/\n";
        assert_eq!(parse_mirror(list).as_deref(), Some("http://mirror.example/debian"));
        assert_eq!(parse_mirror(" http://fresh.example/debian/\n").as_deref(), Some("http://fresh.example/debian"));
        assert_eq!(parse_mirror("Ubuntu http://archive.example/ubuntu/\n"), None);
    }

    #[test]
    fn only_what_concerns_reaching_a_mirror_is_carried_over() {
        let dump = "APT::Architecture \"amd64\";\nAcquire::http::Proxy \"http://proxy:3128\";\nAcquire::https \"\";\n\
                    Acquire::Check-Valid-Until \"false\";\nAcquire::http::Proxy::local \"\";\nDPkg::Post-Invoke:: \"x\";\n";
        assert_eq!(
            parse_options(dump),
            ["Acquire::http::Proxy \"http://proxy:3128\"", "Acquire::Check-Valid-Until \"false\""]
        );
    }

    #[test]
    fn versions_are_read_from_what_apt_shows() {
        let shown = "Package: caddy\nVersion: 2.11.4-1\nDepends: libc6\n\nPackage: apache2\nVersion: 2.4.69-1\n\n";
        assert_eq!(parse_versions(shown), ["caddy 2.11.4-1", "apache2 2.4.69-1"]);
    }
}
