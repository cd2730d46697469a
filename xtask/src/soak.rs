//! The soak: our tunnel against stock peers for as long as you like.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use lab::packages;

use crate::cargo;

/// Builds it and lets it run.
pub(crate) fn run(minutes: u32, role: &str, offload: &str) -> Result<()> {
    let needed = packages::BUILD.iter().chain(packages::LAB).chain(packages::TESTS);
    packages::ensure(needed, &mut |line| eprintln!("{line}"))?;
    let both = ["build", "--release", "-p", "soak", "-p", "tunnel", "--bin", "soak", "--example", "peer"];
    let mut command = Command::new(cargo::build("soak", &both)?);
    command.args(["--minutes", &minutes.to_string(), "--role", role, "--offload", offload]);
    let status = command.status().context("run the soak")?;
    ensure!(status.success(), "the soak failed ({status})");
    Ok(())
}
