//! Every test there is, in the order in which they find faults fastest.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail, ensure};
use lab::images::{self, Wanted};
use lab::{EngineVersion, Peers, System, capability, packages};

use crate::cargo::TestBinary;
use crate::progress::Progress;
use crate::{cargo, demo, room};

/// How the tests of the tunnel with stock peers run: most of the time they wait, so many at a time, except for floods,
/// which need what the machine can do.
const INTEROP: &[(&str, &[&str])] =
    &[("all but floods", &["--test-threads=8", "--skip=flood::"]), ("floods", &["--test-threads=1", "flood::"])];

/// Tests of the tunnel with stock peers that are of sessions, whichever way packets go: run by one way only.
const SESSIONS: &[&str] = &["auth::", "certificates::", "failover::", "nat::", "probes::", "push::", "versions::"];

/// A test program that mostly waits for engines: so many of its tests at a time, however few cores there are.
const ENGINES: (&str, &str, &str) = ("crates/supervisor", "life", "--test-threads=4");

/// Runs every test.
pub(crate) fn run() -> Result<()> {
    let progress = Progress::start();
    room::for_tests()?;
    let needed = packages::BUILD
        .iter()
        .chain(packages::PACKAGE)
        .chain(packages::LAB)
        .chain(packages::IMAGES)
        .chain(packages::TESTS);
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
    let binaries = cargo::build_tests()?;

    let obstacles = capability::obstacles();
    let mut environment = Vec::new();
    if obstacles.is_empty() {
        progress.step("images");
        // Built here, so that no test waits for it.
        for wanted in Wanted::ALL {
            images::one(wanted, &mut |line| progress.step(line))?;
        }
        Peers::provide(&mut |line| progress.step(line))?;
        EngineVersion::Sid.provide(&mut |line| progress.step(line))?;
        System::provide(&mut |line| progress.step(line))?;
        // The image's Caddy runs on this machine too, for the tests that need no engine.
        let caddy = images::one(Wanted::Caddy, &mut |line| progress.step(line))?;
        let caddy = caddy.extract("usr/bin/caddy", &cargo::workspace().join("target/caddy"));
        environment.push(("CLOUDATHOME_CADDY", caddy?));
    }
    run_tests(&progress, &binaries, &environment, &mut skipped)?;

    if obstacles.is_empty() {
        progress.step("the demo's check");
        demo::prove(&progress)?;
    } else {
        skipped.push(format!("SKIPPED: the demo's check: {}", obstacles.join("; ")));
    }
    report(&progress, &skipped)
}

/// Runs all test programs, of whose failures none keeps the next from running.
fn run_tests(
    progress: &Progress,
    binaries: &[TestBinary],
    environment: &[(&str, PathBuf)],
    skipped: &mut Vec<String>,
) -> Result<()> {
    let mut failed = Vec::new();
    let mut run = |title: String, mut command: Command| -> Result<()> {
        progress.step(&title);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        if !cargo::test(command, skipped)? {
            failed.push(title);
        }
        Ok(())
    };
    let (interop, others): (Vec<_>, Vec<_>) = binaries.iter().partition(|binary| binary.is("crates/tunnel", "interop"));
    // Under another name it would be left out, and nobody would see.
    ensure!(interop.len() == 1, "there is no test program `interop` of crates/tunnel");
    for binary in others {
        let package = binary.package.strip_prefix(cargo::workspace()).unwrap_or(&binary.package);
        let (mut command, (of, name, threads)) = (binary.command(), ENGINES);
        if binary.is(of, name) {
            command.arg(threads);
        }
        run(format!("tests: {} of {}", binary.name, package.display()), command)?;
    }
    run("tests: documentation".to_owned(), cargo::doc_tests())?;
    for offload in ["auto", "off"] {
        for (phase, words) in INTEROP {
            for binary in &interop {
                let mut command = binary.command();
                command.args(*words).env("CLOUDATHOME_OFFLOAD", offload);
                if offload == "off" {
                    command.args(SESSIONS.iter().map(|module| format!("--skip={module}")));
                }
                run(format!("tests: the tunnel with stock peers, offload {offload}, {phase}"), command)?;
            }
        }
    }
    ensure!(failed.is_empty(), "failed: {}", failed.join("; "));
    Ok(())
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
