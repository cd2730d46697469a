//! Runs cargo on this workspace.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// The workspace's directory.
pub(crate) fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// A cargo command on this workspace, the one that started this program.
fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace()).args(arguments);
    command
}

/// Runs cargo to its end.
///
/// # Errors
/// When it fails.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let status = cargo(arguments).status().context("run cargo")?;
    ensure!(status.success(), "`cargo {}` failed ({status})", arguments.join(" "));
    Ok(())
}

/// Runs cargo's tests, passing on what they print but for what passed tests printed, of which only the lines that
/// begin with `SKIPPED:` are returned.
///
/// # Errors
/// When a test fails.
pub(crate) fn test(arguments: &[&str], environment: &[(&str, PathBuf)]) -> Result<Vec<String>> {
    let mut command = cargo(arguments);
    command.stdout(Stdio::piped()).envs(environment.iter().map(|(name, value)| (name, value)));
    let mut child = command.spawn().context("run cargo")?;
    let output = child.stdout.take().context("read what cargo prints")?;
    let mut skipped = Vec::new();
    let mut passed = false;
    for line in BufReader::new(output).lines() {
        let line = line.context("read what cargo prints")?;
        if line.starts_with("SKIPPED:") && !skipped.contains(&line) {
            skipped.push(line.clone());
        }
        passed = match line.as_str() {
            "successes:" => true,
            "failures:" => false,
            // A result line ends a section of passed tests' output.
            other if other.starts_with("test result:") => false,
            _ => passed,
        };
        if !passed {
            println!("{line}");
        }
    }
    let status = child.wait().context("wait for cargo")?;
    if !status.success() {
        bail!("`cargo {}` failed ({status})", arguments.join(" "));
    }
    Ok(skipped)
}
