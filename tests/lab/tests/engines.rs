//! Engines: both versions, with and without live-restore, ended and started again, on a full disk.

#[path = "common/tiny_image.rs"]
mod tiny_image;

use std::time::Duration;

use anyhow::Result;
use lab::{Engine, EngineOptions, EngineVersion, Lab, capability, wait_until};
use tiny_image::tiny_image;

const LIMIT: Duration = Duration::from_secs(30);
const SLEEP: &str = "CMD [\"/usr/bin/sleep\",\"1000\"]";

fn with_one_container(options: &EngineOptions) -> Result<(Lab, Engine)> {
    let (lab, engine) = Lab::with_engine(options, &[])?;
    engine.docker(&["import", "-c", SLEEP, &tiny_image(&lab)?.to_string_lossy(), "tiny"])?;
    engine.docker(&["run", "--detach", "--pull", "never", "--name", "one", "tiny"])?;
    Ok((lab, engine))
}

/// When the container was started, and its first process as the engine's namespace numbers it; `0` when it has ended.
fn state(engine: &Engine) -> Result<String> {
    engine.docker(&["inspect", "--format", "{{.State.StartedAt}} {{.State.Pid}}", "one"])
}

#[test]
fn without_live_restore_containers_end_with_the_engine() -> Result<()> {
    if !capability::or_skip()? {
        return Ok(());
    }
    let (_lab, mut engine) = with_one_container(&EngineOptions::default())?;
    engine.docker(&["kill", "--signal", "KILL", "one"])?;
    engine.docker(&["start", "one"])?;
    engine.kill9()?;
    assert!(engine.docker(&["ps"]).is_err(), "nobody answers");
    engine.start()?;
    wait_until("the end of the container", LIMIT, || Ok(state(&engine)?.trim().ends_with(" 0")))?;
    engine.docker(&["start", "one"])?;
    engine.stop()?;
    engine.start()?;
    assert!(state(&engine)?.trim().ends_with(" 0"));
    Ok(())
}

#[test]
fn with_live_restore_containers_go_on_without_the_engine() -> Result<()> {
    if !capability::or_skip()? {
        return Ok(());
    }
    for version in [EngineVersion::Machine, EngineVersion::Sid] {
        let options = EngineOptions { live_restore: true, version, ..EngineOptions::default() };
        let (_lab, mut engine) = with_one_container(&options)?;
        let major: u32 = engine.version().split('.').next().unwrap_or_default().parse()?;
        assert_eq!(major >= 28, version == EngineVersion::Sid, "{}", engine.version());
        let before = state(&engine)?;
        assert!(!before.trim().ends_with(" 0"), "{before}");
        engine.stop()?;
        engine.start()?;
        assert_eq!(state(&engine)?, before);
        engine.kill9()?;
        engine.start()?;
        assert_eq!(state(&engine)?, before);
        // It is the engine's to end, as before.
        engine.docker(&["kill", "one"])?;
        wait_until("the end of the container", LIMIT, || Ok(state(&engine)?.trim().ends_with(" 0")))?;
    }
    Ok(())
}

#[test]
fn a_disk_can_be_full_and_have_room_again() -> Result<()> {
    if !capability::or_skip()? {
        return Ok(());
    }
    let options = EngineOptions { disk: Some(96 << 20), ..EngineOptions::default() };
    let (lab, engine) = with_one_container(&options)?;
    engine.fill_disk(0)?;
    let image = tiny_image(&lab)?;
    let import = || engine.docker(&["import", "-c", SLEEP, &image.to_string_lossy(), "second"]);
    let error = import().expect_err("there is no room");
    assert!(format!("{error:#}").contains("no space left"), "{error:#}");
    engine.free_disk()?;
    import()?;
    Ok(())
}
