//! The same files for systems without Debian's packages.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{Plan, Role, fill, run};

const INSTALL: &str = include_str!("../files/install.sh");

/// Makes a tarball of the files in `tree`.
pub(crate) fn build(plan: &Plan<'_>, role: Role, tree: &Path, out: &Path) -> Result<PathBuf> {
    let name = format!("{}-{}-{}", role.package(), plan.version, plan.architecture);
    let around = tempfile::tempdir().context("make a directory for the tarball")?;
    let dir = around.path().join(&name);
    fs::create_dir(&dir).context("make a directory for the tarball")?;
    run(Command::new("cp").arg("--archive").arg(tree).arg(dir.join("root")))?;
    let script = dir.join("install.sh");
    fs::write(&script, fill(INSTALL, plan, role)).context("write install.sh")?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).context("write install.sh")?;

    fs::create_dir_all(out).with_context(|| format!("make {}", out.display()))?;
    let path = out.join(format!("{name}.tar.gz"));
    let mut tar = Command::new("tar");
    tar.args([
        "--create",
        "--sort=name",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--use-compress-program=gzip -n",
    ]);
    tar.arg(format!("--mtime=@{}", plan.date)).arg("--directory").arg(around.path()).arg("--file").arg(&path);
    run(tar.arg(&name))?;
    Ok(path)
}
