//! Containers that run and do not work.

use std::time::{Duration, Instant};

use lab::EngineOptions;
use model::{ContainerState, ServiceSpec};

use crate::host::Host;
use crate::services::{alone, bare, check, data, quiet};
use crate::watched::{Watched, is, says};

const PATIENCE: Duration = Duration::from_millis(800);

/// Well while there is the file `/data/well`; until then it has its grace.
fn slow(name: &str, grace: Duration, restart_after: Option<Duration>) -> ServiceSpec {
    let mut container = bare(name);
    container.mounts = vec![data(&format!("cloudathome-{name}"))];
    let mut service = alone(container);
    let mut ready = check(name, "test -e /data/well || { echo no page yet >&2; exit 1; }");
    ready.grace = grace;
    service.checks = vec![ready.clone()];
    service.units[0].ready = Some(ready);
    service.units[0].restart_after = restart_after;
    service
}

#[tokio::test(flavor = "multi_thread")]
async fn what_never_gets_healthy_says_why_and_what_hangs_is_started_anew_with_growing_patience() {
    let Some(host) = Host::start(&EngineOptions::default()) else { return };
    let never = slow("never", Duration::from_secs(4), None);
    let hangs = slow("hangs", Duration::ZERO, Some(PATIENCE));
    let mut agent = Watched::start(&host, &[never, hangs, quiet("other")]);
    agent.until_healthy(&["other"]).await;
    let other = host.run("other");

    let saying = "/bin/sh ended with 1: no page yet";
    agent.until_health("never", "starting", is("starting", &format!("not ready yet: {saying}"))).await;
    let never = host.run("never");

    agent.until_health("hangs", "unhealthy", is("unhealthy", &format!("not ready: {saying}"))).await;
    let first = host.run("hangs");
    agent.until("hangs", "told to be started anew", says("so it was started anew: /bin/sh ended with 1")).await;
    let mut restarted = Vec::new();
    for times in 1..=3 {
        agent.until_restarts("hangs", times).await;
        restarted.push(Instant::now());
    }
    let gaps: Vec<_> = restarted.windows(2).map(|pair| pair[1].duration_since(pair[0])).collect();
    // The time between being counted and being seen here is not the supervisor's.
    let slack = Duration::from_millis(300);
    assert!(gaps[0] + slack >= 2 * PATIENCE && gaps[1] + slack >= 4 * PATIENCE, "{gaps:?}");
    let id = |run: &str| run.split(' ').next().unwrap().to_owned();
    assert_eq!(id(&host.run("hangs")), id(&first), "the same container");

    // What is not to be started anew only says so, and nobody else notices.
    agent.until_health("never", "unhealthy", is("unhealthy", &format!("not ready: {saying}"))).await;
    assert_eq!(agent.status("never").state, ContainerState::Running);
    assert_eq!((host.run("never"), agent.restarts("never")), (never, 0));
    assert_eq!((host.run("other"), agent.health("other").word()), (other, "healthy"));

    for name in ["never", "hangs"] {
        host.sh(name, "touch /data/well");
    }
    agent.until_healthy(&["never", "hangs", "other"]).await;
    let well = host.run("hangs");
    // Longer than it had patience at first.
    host.sh("other", "sleep 2");
    assert_eq!(host.run("hangs"), well);
    agent.stop().await;
}
