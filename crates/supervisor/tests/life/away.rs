//! The engine goes away and comes back.

use std::net::TcpListener;
use std::time::Duration;

use lab::{EngineOptions, EngineVersion};
use model::{ContainerState, Probe, ServiceSpec};

use crate::host::Host;
use crate::services::{check, quiet, with_database};
use crate::watched::{Watched, is, says};

const GONE: &str = "no container engine answers";
const NAMES: [&str; 3] = ["blog-db", "blog", "other"];

fn services() -> Vec<ServiceSpec> {
    vec![with_database("blog", "test -e /data/well"), quiet("other")]
}

/// The services, which are healthy.
async fn healthy(options: &EngineOptions, services: &[ServiceSpec]) -> Option<(Host, Watched)> {
    let host = Host::start(options)?;
    let mut agent = Watched::start(&host, services);
    agent.until("blog-db", "running", |status| status.state == ContainerState::Running).await;
    host.sh("blog-db", "touch /data/well");
    agent.until_healthy(&["blog", "other"]).await;
    Some((host, agent))
}

/// Nobody can look, so nothing is called healthy, and why is told.
async fn nothing_is_claimed(agent: &mut Watched) {
    for name in NAMES {
        agent.until(name, "told of the engine", says(GONE)).await;
    }
    for service in ["blog", "other"] {
        agent.until_health(service, "told of the engine", is("unhealthy", GONE)).await;
    }
    assert!(agent.inner.statuses.borrow().iter().all(|status| says("keep running")(status)));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_live_restore_containers_are_adopted_untouched() {
    for version in [EngineVersion::Machine, EngineVersion::Sid] {
        let options = EngineOptions { version, live_restore: true, ..EngineOptions::default() };
        // One that can be asked without the engine, and one that is started anew when it does not answer for long.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut services = services();
        services[0].units[0].restart_after = Some(Duration::from_secs(1));
        services.push(quiet("page"));
        services[2].checks[0].probe = Probe::Tcp(listener.local_addr().unwrap());
        let Some((mut host, mut agent)) = healthy(&options, &services).await else { return };
        let before = NAMES.map(|name| host.run(name));
        for hard in [true, false] {
            if hard { host.engine.kill9() } else { host.engine.stop() }.unwrap();
            nothing_is_claimed(&mut agent).await;
            agent.until_health("page", "told of the engine", is("degraded", GONE)).await;
            // Longer than there is patience with one that does not answer by its own fault.
            tokio::time::sleep(Duration::from_secs(1)).await;
            host.engine.start().unwrap();
            agent.until_healthy(&["blog", "other", "page"]).await;
            assert_eq!(NAMES.map(|name| host.run(name)), before, "{version:?}, the hard way: {hard}");
        }
        assert_eq!(NAMES.map(|name| agent.restarts(name)), [0; 3]);
        agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_live_restore_containers_are_started_again_in_order() {
    for version in [EngineVersion::Machine, EngineVersion::Sid] {
        let options = EngineOptions { version, ..EngineOptions::default() };
        let Some((mut host, mut agent)) = healthy(&options, &services()).await else { return };
        for hard in [true, false] {
            let what = format!("{version:?}, the hard way: {hard}");
            // What needs the database shows that it was started after that was ready, and not before.
            host.sh("blog-db", "rm /data/well");
            let before = NAMES.map(|name| host.run(name));
            if hard { host.engine.kill9() } else { host.engine.stop() }.unwrap();
            nothing_is_claimed(&mut agent).await;
            host.engine.start().unwrap();
            agent.until("blog", "held back", says("waits for blog-db")).await;
            agent.until_healthy(&["other"]).await;
            assert_eq!(host.names("running"), ["cloudathome-blog-db", "cloudathome-other"], "{what}");
            host.sh("blog-db", "touch /data/well");
            agent.until_healthy(&["blog", "other"]).await;
            let after = NAMES.map(|name| host.run(name));
            for (after, before) in after.iter().zip(&before) {
                let id = |run: &str| run.split(' ').next().unwrap().to_owned();
                assert_eq!(id(after), id(before), "{what}");
                assert_ne!(after, before, "{what}");
            }
            // The engine's end is none of their own.
            assert_eq!(NAMES.map(|name| agent.restarts(name)), [0; 3], "{what}");
        }
        agent.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_hangs_is_told_and_nothing_is_started_anew_for_it() {
    let mut services = services();
    for unit in &mut services[0].units {
        unit.ready = Some(check(&unit.container.name, "true"));
        unit.restart_after = Some(Duration::from_secs(3));
    }
    for service in &mut services {
        let ready = service.units.iter_mut().filter_map(|unit| unit.ready.as_mut());
        ready.chain(&mut service.checks).for_each(|check| check.timeout = Duration::from_secs(1));
    }
    let Some((mut host, mut agent)) = healthy(&EngineOptions::default(), &services).await else { return };
    let before = NAMES.map(|name| host.run(name));
    host.engine.freeze().unwrap();
    // What checks show is told long before the engine is given up.
    agent
        .until_health("other", "told of the check", is("unhealthy", "the container engine did not finish within 1 s"))
        .await;
    for service in ["blog", "other"] {
        let hangs = "the container engine did not finish within 15 s; containers that run keep running";
        agent.until_health(service, "told of the engine", is("unhealthy", hangs)).await;
    }
    host.engine.thaw().unwrap();
    agent.until_healthy(&["blog", "other"]).await;
    assert_eq!(NAMES.map(|name| host.run(name)), before);
    assert_eq!(NAMES.map(|name| agent.restarts(name)), [0; 3]);
    agent.stop().await;
}
