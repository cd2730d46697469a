//! Debian packages, and tarballs for other systems, out of programs that are built.
//!
//! One package a role, with `agentctl` in each: so one file is all that a host needs, and the two, which would both have
//! `agentctl`, never meet on a host, because two agents would take each other's routes for leftovers.
#![forbid(unsafe_code)]

mod deb;
mod staging;
mod tarball;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// What a package is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The public host.
    Edge,
    /// The host behind NAT.
    Home,
}

impl Role {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Edge, Self::Home];

    /// `edge` or `home`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Home => "home",
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Edge => Self::Home,
            Self::Home => Self::Edge,
        }
    }

    fn package(self) -> String {
        format!("cloudathome-{}", self.word())
    }

    fn whereabouts(self) -> &'static str {
        match self {
            Self::Edge => "on the public host",
            Self::Home => "at home",
        }
    }
}

/// What to make packages of.
#[derive(Debug, Clone)]
pub struct Plan<'a> {
    /// The workspace, for units, examples and texts.
    pub workspace: &'a Path,
    /// Directory with `edge-agent`, `home-agent` and `agentctl` for the architecture.
    pub programs: &'a Path,
    /// An `agentctl` that runs on this machine, for manual pages and completions.
    pub agentctl: &'a Path,
    /// Debian's version, as in `0.1.0`.
    pub version: &'a str,
    /// Debian's name of the architecture, as in `amd64`.
    pub architecture: &'a str,
    /// The time that files bear, in seconds of Unix time, so that the same content makes the same package.
    pub date: u64,
    /// Whether packages are to be made fast and not small.
    pub fast: bool,
}

/// Makes the package of `role` in `out`, and gives its path.
///
/// # Errors
/// When a program is missing, or one of Debian's tools (`dpkg-deb`, `dpkg-shlibdeps`, `strip`) fails.
pub fn deb(plan: &Plan<'_>, role: Role, out: &Path) -> Result<PathBuf> {
    let tree = staging::stage(plan, role)?;
    deb::build(plan, role, tree.path(), out)
}

/// Makes the tarball of `role` in `out`, with a script that installs it, and gives its path.
///
/// # Errors
/// When a program is missing, or `strip` or `tar` fails.
pub fn tarball(plan: &Plan<'_>, role: Role, out: &Path) -> Result<PathBuf> {
    let tree = staging::stage(plan, role)?;
    tarball::build(plan, role, tree.path(), out)
}

/// Replaces the words between `@` in a text of ours.
fn fill(text: &str, plan: &Plan<'_>, role: Role) -> String {
    text.replace("@ROLE@", role.word())
        .replace("@UPPER@", &role.word().to_uppercase())
        .replace("@WHERE@", role.whereabouts())
        .replace("@VERSION@", plan.version)
        .replace("@ARCH@", plan.architecture)
}

/// Runs a command to its end and gives what it printed.
fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} ended with {}: {}", output.status, stderr.trim());
    String::from_utf8(output.stdout).with_context(|| format!("read what {command:?} printed"))
}
