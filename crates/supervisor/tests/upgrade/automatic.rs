//! Upgrades that begin by themselves, and images that are named by their digest, with a real registry.

use std::time::Duration;

use lab::{Engine, Registry, wait_until};

use crate::agent::Agent;
use crate::toy;

const PATIENCE: Duration = Duration::from_secs(30);

/// How often the registry was asked for tags.
fn asked(registry: &Registry) -> usize {
    let log = registry.log().unwrap();
    log.lines().filter(|line| line.contains("\"GET /v2/toy/tags/list")).count()
}

/// The digest by which the registry knows an image.
fn digest(engine: &Engine, name: &str) -> String {
    engine.docker(&["pull", name]).unwrap();
    let known = engine.docker(&["image", "inspect", "--format", "{{index .RepoDigests 0}}", name]).unwrap();
    engine.docker(&["rmi", name]).unwrap();
    known.trim().split_once('@').unwrap().1.to_owned()
}

#[test]
fn the_newest_tag_that_the_policy_permits_comes_in_its_window_and_one_that_failed_is_not_tried_again() {
    let Some((lab, engine)) = toy::engine() else { return };
    let registry = Registry::start(engine.host()).unwrap();
    let image = registry.push(&engine, "toy:1.0.0", "toy:1.0.0").unwrap();
    let name = image.strip_suffix(":1.0.0").unwrap().to_owned();
    for tag in ["1.0.1", "1.1.0", "1.0.9-other"] {
        registry.push(&engine, "toy:1.1.0", &format!("toy:{tag}")).unwrap();
    }
    let env = [("TOY_IMAGE", image.as_str()), ("POLICY", "patch"), ("WINDOW", "03:00-05:00"), ("SETTLE", "60")];
    let mut agent = Agent::start_with(&engine, "toy-a", None, &env);
    agent.is_healthy();
    assert_eq!(asked(&registry), 0, "nobody asks outside of the window");
    let outlook = agent.outlook();
    assert!(
        outlook.contains("policy patch, 03:00-05:00, next Thursday 2026-01-01 03:00")
            && outlook.ends_with(&format!("now it would go to {name}:1.0.1")),
        "{outlook}"
    );

    agent.tell("clock 2026-01-01T03:00");
    assert_eq!(agent.hears("ended: "), format!("upgraded to {name}:1.0.1, toydb:1.0.0 (generation 2)"));
    agent.is_healthy();

    // Once a window; the next one meets an upgrade that fails.
    registry.push(&engine, "toy:1.2.0", "toy:1.0.2").unwrap();
    let before = asked(&registry);
    agent.tell("clock 2026-01-01T04:59");
    agent.tell("clock 2026-01-02T03:10");
    let failed = agent.hears("ended: ");
    assert!(
        failed.starts_with(&format!(
            "went back to {name}:1.0.1, toydb:1.0.0 (generation 2): the upgrade to {name}:1.0.2"
        )),
        "{failed}"
    );
    assert_eq!(asked(&registry), before + 1);
    agent.is_healthy();

    // Not again, not even by a new agent, until there is another.
    drop(agent);
    let mut agent = Agent::start_with(&engine, "toy-a", None, &env);
    agent.is_healthy();
    agent.tell("clock 2026-01-03T03:10");
    wait_until("the registry to be asked", PATIENCE, || Ok(asked(&registry) == before + 2)).unwrap();
    let outlook = agent.outlook();
    assert!(outlook.contains(&format!("now it would stay: {name}:1.0.2 was tried before and left")), "{outlook}");
    toy::application(&lab, &engine, "toy:1.3.0", 2, "");
    registry.push(&engine, "toy:1.3.0", "toy:1.0.3").unwrap();

    // A registry that is away changes nothing; it is asked again in the same window.
    registry.break_after(0);
    agent.tell("clock 2026-01-04T03:10");
    wait_until("the agent to say so", PATIENCE, || {
        Ok(agent.outlook().contains("2026-01-04 03:10: the registry 127.0.0.1 cannot be asked"))
    })
    .unwrap();
    agent.is_healthy();
    registry.mend();
    agent.tell("clock 2026-01-04T03:20");
    assert_eq!(agent.hears("ended: "), format!("upgraded to {name}:1.0.3, toydb:1.0.0 (generation 4)"));

    // What a person went back from does not come again.
    let back = agent.carries_out("rollback");
    assert!(back.starts_with(&format!("went back to {name}:1.0.1")), "{back}");
    let before = asked(&registry);
    agent.tell("clock 2026-01-05T03:10");
    wait_until("the registry to be asked", PATIENCE, || Ok(asked(&registry) == before + 1)).unwrap();
    let outlook = agent.outlook();
    assert!(outlook.contains(&format!("{name}:1.0.3 was tried before and left")), "{outlook}");
}

#[test]
fn an_image_may_be_named_by_its_digest() {
    let Some((_lab, engine)) = toy::engine() else { return };
    let registry = Registry::start(engine.host()).unwrap();
    let old = registry.push(&engine, "toy:1.0.0", "toy:1.0.0").unwrap();
    let new = registry.push(&engine, "toy:1.1.0", "toy:1.1.0").unwrap();
    // What the tag means by now is something else, and nobody asks for it.
    let image = format!("{old}@{}", digest(&engine, &old));
    let (by_both, by_digest) = (format!("{new}@{}", digest(&engine, &new)), digest(&engine, &old));
    registry.push(&engine, "toy:1.2.0", "toy:1.0.0").unwrap();
    let env = [("TOY_IMAGE", image.as_str()), ("POLICY", "minor"), ("SETTLE", "60")];
    let mut agent = Agent::start_with(&engine, "toy-b", None, &env);
    agent.is_healthy();
    let runs = |engine: &Engine| {
        engine.docker(&["exec", "cloudathome-toy-b", "sh", "-c", "cat /state/form"]).unwrap().trim().to_owned()
    };
    assert_eq!(runs(&engine), "1");

    agent.tell("clock 2026-01-01T03:10");
    let outlook = agent.outlook();
    assert!(outlook.contains(&format!("now it would stay: {image} is pinned by its digest")), "{outlook}");
    assert_eq!(asked(&registry), 0);

    let upgraded = agent.carries_out(&format!("upgrade {by_both}"));
    assert_eq!(upgraded, format!("upgraded to {by_both}, toydb:1.0.0 (generation 2)"));
    agent.is_healthy();
    assert_eq!(runs(&engine), "2");

    // A digest alone says no version, and neither does this image.
    let name = old.strip_suffix(":1.0.0").unwrap();
    let refused = agent.carries_out(&format!("upgrade {name}@{by_digest}"));
    assert!(refused.contains("does not say its version"), "{refused}");
    let back = agent.carries_out("rollback");
    assert_eq!(back, format!("went back to {image}, toydb:1.0.0 (generation 1)"));
    agent.is_healthy();
    assert_eq!(runs(&engine), "1");
}
