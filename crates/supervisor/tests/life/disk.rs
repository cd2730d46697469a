//! A full disk under the engine.

use lab::{EngineOptions, Registry};

use crate::host::Host;
use crate::services::{alone, bare, quiet};
use crate::watched::{Watched, is, running, says};

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_named_and_disturbs_nothing_that_runs() {
    let options = EngineOptions { disk: Some(64 << 20), ..EngineOptions::default() };
    let Some(host) = Host::start(&options) else { return };
    let registry = Registry::start(host.engine.host()).unwrap();
    // Other content than that of the test's own image, so that it has to be fetched.
    let archive = host.lab.random_file("content", 4 << 20).unwrap();
    let tar = host.lab.dir().join("files/more.tar");
    let (from, into) = (archive.parent().unwrap().to_str().unwrap(), tar.to_str().unwrap());
    host.engine.host().exec(&["tar", "-C", from, "-cf", into, "content"]).unwrap();
    host.docker(&["import", into, "more:1"]);
    let fetched = registry.push(&host.engine, "more:1", "more:1").unwrap();
    host.docker(&["rmi", "more:1"]);

    let mut agent = Watched::start(&host, &[quiet("other")]);
    agent.until_healthy(&["other"]).await;
    let other = host.run("other");
    host.engine.fill_disk(0).unwrap();

    let mut pulled = bare("pulled");
    pulled.image = fetched;
    pulled.entrypoint = vec!["/content".into()];
    agent.wants(&[quiet("other"), quiet("late"), alone(pulled)]);
    let full = "the disk is full where the engine keeps images and volumes: make room";
    agent.until("late", "told of the disk", says(full)).await;
    agent.until("pulled", "told of the disk", says(full)).await;
    agent.until_health("late", "told of the disk", is("unhealthy", full)).await;
    // More than one look later nothing has changed for those who need no more room.
    let later = host.sh("other", "sleep 1; echo still here");
    assert_eq!((later.as_str(), host.run("other")), ("still here", other.clone()));
    assert!(running(&agent.status("other")), "{:?}", agent.status("other"));
    assert_eq!(agent.health("other").word(), "healthy");

    host.engine.free_disk().unwrap();
    agent.until_healthy(&["late", "other"]).await;
    // It has no program, which is seen only once it is there.
    agent.until("pulled", "fetched", says("unable to start container process")).await;
    assert_eq!(host.run("other"), other);
    agent.stop().await;
}
