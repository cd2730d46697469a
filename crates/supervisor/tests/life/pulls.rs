//! Images that come from a registry, and a registry that is away.

use std::time::Duration;

use lab::{EngineOptions, EngineVersion, Registry, wait_until};
use model::{ContainerSpec, ContainerState, ServiceSpec};

use crate::host::{Host, IMAGE};
use crate::services::{alone, bare, check, quiet};
use crate::watched::{Watched, is, running, says};

const LIMIT: Duration = Duration::from_secs(60);
const BYTES: u64 = 24 << 20;

/// An image as [`IMAGE`], with a layer that can't be packed smaller.
fn push_large(host: &Host, registry: &Registry) -> String {
    let file = host.lab.random_file("content", BYTES).unwrap();
    host.docker(&["create", "--pull", "never", "--name", "large", IMAGE]);
    host.docker(&["cp", file.to_str().unwrap(), "large:/content"]);
    host.docker(&["commit", "large", "large:1"]);
    host.docker(&["rm", "large"]);
    let name = registry.push(&host.engine, "large:1", "large:1").unwrap();
    host.docker(&["rmi", "large:1"]);
    name
}

fn from(image: &str, name: &str) -> ServiceSpec {
    let mut service = alone(ContainerSpec { image: image.into(), ..bare(name) });
    service.checks = vec![check(name, "true")];
    service
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_shows_how_far_it_is_and_goes_on_after_a_break() {
    for version in [EngineVersion::Machine, EngineVersion::Sid] {
        let Some(host) = Host::start(&EngineOptions { version, ..EngineOptions::default() }) else { return };
        let registry = Registry::start(host.engine.host()).unwrap();
        let image = push_large(&host, &registry);
        let before = from(IMAGE, "site");
        let mut agent = Watched::start(&host, &[before.clone(), quiet("other")]);
        agent.until_healthy(&["site", "other"]).await;
        let (site, other) = (host.run("site"), host.run("other"));

        // A registry that is away leaves what runs alone, also what is to be replaced.
        registry.break_after(0);
        let after = from(&image, "site");
        agent.wants(&[after.clone(), from(&image, "second"), quiet("other")]);
        let absent = format!("image {image} is not on this host and could not be fetched");
        agent.until("site", "told of the registry", says(&absent)).await;
        agent.until_health("site", "told of the registry", is("degraded", &absent)).await;
        agent.until_health("second", "told of the registry", is("unhealthy", &absent)).await;
        assert_eq!((host.run("site"), host.run("other")), (site.clone(), other.clone()));

        // It comes back, and breaks off in the middle.
        registry.break_after(BYTES / 2);
        let told = format!("fetching image {image}: ");
        agent.until("site", "told how far it is", says(&told)).await;
        wait_until("the break", LIMIT, || Ok(registry.is_broken())).unwrap();
        let halfway = agent.until("site", "told how far it is", says(" of 26 MB")).await;
        assert_eq!((halfway.state, host.run("site")), (ContainerState::Running, site.clone()));
        assert_eq!(agent.health("site").word(), "degraded");
        registry.mend();
        agent.until("site", "replaced", |status| running(status) && !site.starts_with(&status.id)).await;
        agent.until_healthy(&["site", "second", "other"]).await;
        assert!(registry.log().unwrap().contains("HTTP/1.1\" 206 "), "{version:?}: the rest was asked for");
        assert_eq!(host.run("other"), other);
        agent.stop().await;
    }
}
