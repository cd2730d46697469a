//! Containers that end again and again.

use lab::EngineOptions;
use model::{ContainerSpec, ContainerState, ContainerStatus, ServiceSpec};

use crate::host::Host;
use crate::services::{RUN, alone, bare, check, data, quiet, sh};
use crate::watched::{Watched, is, running, says};

/// Ends at once unless it is told where its schema is, or finds one.
fn needs_schema(name: &str, schema: Option<&str>) -> ServiceSpec {
    let script =
        format!("test -n \"$SCHEMA$(cat /data/schema)\" || {{ echo opening; echo no schema >&2; exit 7; }}; {RUN}");
    let mut container =
        ContainerSpec { command: sh(&script), mounts: vec![data(&format!("cloudathome-{name}"))], ..bare(name) };
    container.env.extend(schema.map(|schema| ("SCHEMA".to_owned(), schema.to_owned())));
    let mut service = alone(container);
    service.checks = vec![check(name, "true")];
    service
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_is_told_with_its_last_words_and_ends_with_its_cause() {
    let Some(host) = Host::start(&EngineOptions::default()) else { return };
    let services = |schema| [needs_schema("redefined", schema), needs_schema("mended", None), quiet("other")];
    let mut agent = Watched::start(&host, &services(None));
    agent.until_healthy(&["other"]).await;
    let other = host.run("other");

    let why = "ended with exit code 7; its last words: ";
    for name in ["redefined", "mended"] {
        let looping = agent.until(name, "looping", says("times in a row")).await;
        let reason = looping.reason.unwrap();
        assert!(reason.contains(why) && reason.contains("opening") && reason.contains("no schema"), "{reason}");
        agent.until_health(name, "unhealthy", is("unhealthy", why)).await;
    }
    // It is tried again and again, by the same container.
    let tried = agent.restarts("mended");
    agent.until_restarts("mended", tried + 1).await;
    let mended = agent.status("mended").id;

    // Defined rightly, it runs at once and nothing is left to be said of the loop.
    let looped = agent.status("redefined").id;
    agent.wants(&services(Some("here")));
    let anew = |status: &ContainerStatus| running(status) && status.id != looped;
    let now = agent.until("redefined", "running", anew).await;
    agent.until_healthy(&["redefined"]).await;

    // A cause that goes is enough, too; but it has to prove itself.
    host.docker(&[
        "run",
        "--rm",
        "--pull",
        "never",
        "--volume",
        "cloudathome-mended:/data",
        crate::host::IMAGE,
        "sh",
        "-c",
        "echo 1 > /data/schema",
    ]);
    let first = agent
        .until("mended", "running, and doubted", |status| {
            status.state == ContainerState::Running && says("times in a row")(status)
        })
        .await;
    assert_eq!(first.id, mended);
    agent.until_health("mended", "degraded", is("degraded", why)).await;
    agent.until_healthy(&["mended", "redefined", "other"]).await;
    assert_eq!(agent.status("mended").id, mended);
    assert_eq!(agent.status("redefined").id, now.id);
    assert_eq!(host.run("other"), other);
    agent.stop().await;
}
