//! Every test there is, in the order in which they find faults fastest.

use anyhow::{Result, bail};
use lab::{Peers, capability, images, packages};

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
        // Built here, so that no test waits for it.
        Peers::provide(&mut |line| progress.step(line))?;
        // The image's Caddy runs on this machine too, for the tests that need no engine.
        let caddy = images.caddy.extract("usr/bin/caddy", &cargo::workspace().join("target/caddy"));
        environment.push(("CLOUDATHOME_CADDY", caddy?));
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
