//! Killed at every point of an installation: the next agent finishes it, and nobody was let in before it was whole.

use std::fs;

use lab::Engine;

use crate::agent::Agent;
use crate::toy::{engine, from_point};

/// Whole before anybody may use it.
const READY: &str = "health: healthy ";

fn names(engine: &Engine, what: &[&str], name: &str) -> Vec<String> {
    let listed = engine.docker(&[what, &["--format", "{{.Name}}"]].concat()).unwrap();
    let ours = format!("cloudathome-{name}");
    let is_ours = |other: &&str| **other == ours || other.starts_with(&format!("{ours}-"));
    let mut names: Vec<String> = listed.lines().filter(is_ours).map(str::to_owned).collect();
    names.sort();
    names
}

/// Lets an agent die at a point and the next one go on. Returns whether there is such a point.
fn dies_and_goes_on(engine: &Engine, death: usize) -> bool {
    let name = format!("install-{death}");
    let mut agent = Agent::start(engine, &name, Some(death));
    let point = agent.dies_before(READY);
    assert!(point.is_none() || !agent.lines().iter().any(|line| line == READY), "{:?}", agent.lines());
    drop(agent);

    let mut next = Agent::start(engine, &name, None);
    next.is_healthy();
    eprintln!("died at {point:?}");
    let sh = |container: &str, script: &str| {
        let container = format!("cloudathome-{container}");
        engine.docker(&["exec", &container, "sh", "-c", script]).unwrap().trim().to_owned()
    };
    // One of each, made once.
    let of = |what: &str| format!("cloudathome-{name}{what}");
    let filter = format!("label=cloudathome.service={name}");
    let containers = engine.docker(&["ps", "--all", "--filter", &filter, "--format", "{{.Names}}"]).unwrap();
    let mut containers: Vec<&str> = containers.lines().collect();
    containers.sort_unstable();
    assert_eq!(containers, [of(""), of("-db")], "{point:?}");
    assert_eq!(names(engine, &["volume", "ls"], &name), [of("-data"), of("-db")], "{point:?}");
    assert_eq!(names(engine, &["network", "ls"], &name), [of("")], "{point:?}");
    assert_eq!(sh(&name, "cat /data/log"), "installed", "{point:?}");
    // The secrets are those that were generated first: the database was set up with them, and so was the owner.
    let secrets = engine.host().dir().join(&name).join("secrets");
    let mut kept: Vec<_> = fs::read_dir(&secrets).unwrap().map(|file| file.unwrap().file_name()).collect();
    kept.sort();
    assert_eq!(kept, ["db", "owner"], "{point:?}");
    let secret = |name: &str| fs::read_to_string(secrets.join(name)).unwrap().trim().to_owned();
    assert_eq!(sh(&name, "cat /db/password"), secret("db"), "{point:?}");
    assert_eq!(sh(&name, "cat /data/owner"), secret("owner"), "{point:?}");
    drop(next);
    for container in [of(""), of("-db")] {
        engine.docker(&["rm", "--force", &container]).unwrap();
    }
    // An engine has addresses for some thirty networks.
    engine.docker(&["network", "rm", &of("")]).unwrap();
    point.is_some()
}

#[test]
fn an_agent_killed_at_any_point_of_an_installation_finishes_it() {
    let Some((_lab, engine)) = engine() else { return };
    from_point(1, 16, |death| dies_and_goes_on(&engine, death));
}
