//! Every test there is, in the order in which they find faults fastest.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use lab::{capability, images, packages};

use crate::progress::Progress;
use crate::{cargo, demo};

/// Runs every test.
pub(crate) fn run() -> Result<()> {
    let progress = Progress::start();
    let needed = packages::BUILD.iter().chain(packages::LAB).chain(packages::IMAGES).chain(packages::TESTS);
    let mut skipped = match packages::ensure(needed, &mut |line| eprintln!("{line}")) {
        Ok(()) => vec![],
        // Without root nothing can be installed; what can run without still does.
        Err(error) => vec![format!("SKIPPED: what needs more packages: {error:#}")],
    };

    progress.step("formatting");
    cargo::run(&["fmt", "--all", "--check"])?;
    progress.step("clippy");
    cargo::run(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    progress.step("building");
    cargo::run(&["build", "--workspace"])?;
    cargo::run(&["test", "--workspace", "--no-run"])?;

    let obstacles = capability::obstacles();
    let mut environment = Vec::new();
    if obstacles.is_empty() {
        progress.step("images");
        let images = images::provide(&mut |line| progress.step(line))?;
        environment.push(("CLOUDATHOME_CADDY", caddy_program(&images.caddy)?));
    }
    progress.step("tests");
    skipped.extend(cargo::test(&["test", "--workspace", "--no-fail-fast", "--", "--show-output"], &environment)?);

    if obstacles.is_empty() {
        progress.step("the demo's check");
        demo::prove(&progress)?;
    } else {
        skipped.push(format!("SKIPPED: the demo's check: {}", obstacles.join("; ")));
    }
    report(&progress, &skipped)
}

fn report(progress: &Progress, skipped: &[String]) -> Result<()> {
    for line in skipped {
        println!("{line}");
    }
    if !skipped.is_empty() && std::env::var("CI").is_ok_and(|value| value == "true") {
        bail!("{} skipped, and CI=true allows none", skipped.len());
    }
    progress.step(&format!("all tests passed, {} skipped", skipped.len()));
    Ok(())
}

/// The image's Caddy as a program of this machine, for the tests that need no engine.
fn caddy_program(image: &images::Image) -> Result<PathBuf> {
    let dir = cargo::workspace().join("target/caddy");
    std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let extract = "tar -xf \"$1\" -C \"$2\" && cd \"$2\" && \
        for layer in $(find . -name 'layer.tar' -o -path './blobs/sha256/*' -type f); do \
        tar -xf \"$layer\" usr/bin/caddy 2>/dev/null || true; done; test -x usr/bin/caddy";
    let status =
        Command::new("sh").args(["-c", extract, "sh"]).arg(&image.tar).arg(&dir).status().context("run tar")?;
    ensure!(status.success(), "{} holds no /usr/bin/caddy", image.tar.display());
    Ok(dir.join("usr/bin/caddy"))
}
