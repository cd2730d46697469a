//! Whether this machine lets a lab run.

use std::env;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};
use nix::unistd::Uid;

use crate::packages;

/// Why no lab can run here, one reason each; empty when one can. Each reason says what to do about it.
pub fn obstacles() -> Vec<String> {
    if !Uid::effective().is_root() {
        // Nothing else can be found out then.
        return vec!["not root: run it as root or with sudo".to_owned()];
    }
    let mut obstacles = Vec::new();
    let missing: Vec<&str> = packages::missing(packages::LAB).iter().map(|package| package.name).collect();
    if !missing.is_empty() {
        obstacles.push(format!("Debian packages are missing ({}): install them", missing.join(" ")));
    }
    let trials = [
        ("no network namespaces", "run outside a container or give it --privileged", "unshare --net true"),
        (
            "no mounts of its own",
            "run outside a container or give it --privileged",
            "unshare --mount --pid --fork true",
        ),
        ("no TUN device", "load the module (modprobe tun)", "unshare --net ip tuntap add dev lab0 mode tun"),
    ];
    for (what, remedy, trial) in trials {
        if let Err(reason) = succeeds(trial) {
            obstacles.push(format!("{what} (`{trial}`: {reason}): {remedy}"));
        }
    }
    obstacles
}

/// For tests: true when a lab can run here. Otherwise prints `SKIPPED:` and the reasons.
///
/// # Errors
/// When no lab can run here but `CI=true`: what is skipped there is never seen by anyone.
pub fn or_skip() -> Result<bool> {
    let obstacles = obstacles();
    if obstacles.is_empty() {
        return Ok(true);
    }
    let reasons = obstacles.join("; ");
    if is_ci() {
        bail!("no lab can run here, and CI=true allows no skip: {reasons}");
    }
    println!("SKIPPED: {reasons}");
    Ok(false)
}

/// For tests that need less than a lab: says on standard output that one is skipped, and why.
///
/// # Panics
/// With `CI=true`: what is skipped there is never seen by anyone.
pub fn skip(reason: &str) {
    assert!(!is_ci(), "skipped although CI=true: {reason}");
    println!("SKIPPED: {reason}");
}

/// Why a test that makes network namespaces, TUN devices and runs `programs` cannot run here, if it cannot.
pub fn missing(programs: &[&str]) -> Option<String> {
    if !Uid::effective().is_root() {
        return Some("not root".to_owned());
    }
    if !Path::new("/dev/net/tun").exists() {
        return Some("there is no /dev/net/tun".to_owned());
    }
    let absent = |program: &&&str| Command::new(program).arg("--version").output().is_err();
    programs.iter().find(absent).map(|program| format!("there is no {program}"))
}

fn is_ci() -> bool {
    env::var("CI").is_ok_and(|value| value == "true")
}

fn succeeds(trial: &str) -> Result<(), String> {
    let mut words = trial.split(' ');
    let output =
        Command::new(words.next().unwrap_or_default()).args(words).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}
