//! The part of an image that comes from npm's registry.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{archive, bounded, output};

/// Compiling takes minutes, on a loaded machine many.
const DEADLINE: Duration = Duration::from_secs(2400);
const SCRIPT: &str = include_str!("npm/build.sh");

/// A package, with its dependencies as its own lock file has them, and the Node it runs on.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Npm {
    pub(super) package: String,
    /// The version of Node, for which npm's registry has a package per architecture.
    node: String,
    /// The version of what compiles.
    node_gyp: String,
    /// Shell lines run when all is there, with the layer's root as `$1`, the package's folder as `$2`, Node's as `$3`, and
    /// the package's version in `VERSION`.
    hooks: Vec<String>,
}

/// Writes the package in that version as a layer. It is built in `dir`, which must be empty.
pub(super) fn build(npm: &Npm, version: &str, architecture: &str, dir: &Path, layer: &Path) -> Result<()> {
    let node = format!("node-linux-{}", if architecture == "amd64" { "x64" } else { architecture });

    let mut build = bounded(DEADLINE, "sh");
    build.args(["-c", SCRIPT, "npm-build"]).arg(dir).args([&npm.package, version]);
    build.args([&format!("{node}@{}", npm.node), &npm.node_gyp]);
    output(build).with_context(|| {
        format!(
            "cannot build {} {version}: is npm's registry within reach, and npm, g++, make and python3 installed?",
            npm.package
        )
    })?;
    for hook in &npm.hooks {
        let mut command = Command::new("sh");
        command.args(["-euc", hook, "hook"]).arg(dir.join("root")).arg(dir.join("app"));
        command.arg(dir.join("tools/node_modules").join(&node)).env("VERSION", version);
        output(command)?;
    }
    archive::pack(&dir.join("root"), layer, &[])?;
    fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))
}
