//! A registry of images, and a pull that breaks off and goes on.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::{EngineOptions, EngineVersion, Lab, Registry, capability, wait_until};

const LIMIT: Duration = Duration::from_secs(60);
const BYTES: u64 = 40 << 20;

/// An image of one layer that cannot be packed smaller, and its archive's name.
fn large_image(lab: &Lab) -> Result<String> {
    lab.random_file("content", BYTES)?;
    let (files, archive) = (lab.dir().join("files"), lab.dir().join("files/large.tar"));
    let made = Command::new("tar").arg("-C").arg(&files).arg("-cf").arg(&archive).arg("content").status()?;
    ensure!(made.success(), "tar ended with {made}");
    Ok(archive.to_string_lossy().into_owned())
}

#[test]
fn a_pull_breaks_off_and_goes_on_where_it_was() -> Result<()> {
    if !capability::or_skip()? {
        return Ok(());
    }
    for version in [EngineVersion::Machine, EngineVersion::Sid] {
        let (lab, engine) = Lab::with_engine(&EngineOptions { version, ..EngineOptions::default() }, &[])?;
        let registry = Registry::start(engine.host())?;
        engine.docker(&["import", &large_image(&lab)?, "large:1"])?;
        let name = registry.push(&engine, "large:1", "large:1")?;
        engine.docker(&["rmi", "large:1"])?;
        assert!(engine.docker(&["image", "inspect", &name]).is_err());

        registry.break_after(BYTES / 2);
        let mut pull = engine.host().command("docker");
        pull.args(["pull", &name]);
        let mut pull = engine.host().spawn("pull", pull)?;
        wait_until("the break", LIMIT, || Ok(registry.is_broken()))?;
        wait_until("the engine to try again", LIMIT, || Ok(pull.log()?.to_lowercase().contains("retrying")))?;
        registry.mend();
        let status = pull.wait(LIMIT)?;
        ensure!(status.success(), "{}", pull.log_tail(20));
        let digest = engine.docker(&["image", "inspect", "--format", "{{index .RepoDigests 0}}", &name])?;
        assert!(digest.contains("@sha256:"), "{digest}");
        assert!(registry.log()?.contains("HTTP/1.1\" 206 "), "the rest was asked for: {}", registry.log()?);

        // By its digest, as a person pins it; and not at all while the registry is away.
        engine.docker(&["rmi", &name])?;
        engine.docker(&["pull", digest.trim()])?;
        engine.docker(&["rmi", digest.trim()])?;
        registry.break_after(0);
        assert!(engine.docker(&["pull", &name]).is_err());
    }
    Ok(())
}
