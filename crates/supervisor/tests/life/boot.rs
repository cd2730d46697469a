//! A boot where the engine comes up first, and addresses that come later or change.

use std::net::SocketAddr;

use lab::EngineOptions;
use model::{ContainerSpec, ContainerState, Network, PortBinding, ServiceSpec};

use crate::host::Host;
use crate::services::{RUN, alone, bare, data, quiet, sh};
use crate::watched::{Watched, running, says};

/// Published at the address, as a service of home is at the tunnel's.
fn published(at: &str) -> ServiceSpec {
    let host: SocketAddr = at.parse().unwrap();
    alone(ContainerSpec {
        command: sh(&format!("echo started >> /data/log; httpd -p 80 -h /data; {RUN}")),
        mounts: vec![data("cloudathome-site")],
        network: Network::Private("cloudathome-site".into()),
        ports: vec![PortBinding { host, container: 80 }],
        ..bare("site")
    })
}

/// What a browser on the host gets there.
fn page(host: &Host, at: &str) -> Option<String> {
    host.engine.host().exec(&["curl", "-q", "-sf", "-m", "3", &format!("http://{at}/log")]).ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_start_by_the_agent_and_after_their_addresses() {
    let Some(mut host) = Host::start(&EngineOptions::default()) else { return };
    let (first, second) = ("10.86.0.2:8080", "10.86.0.9:8080");
    host.ip(&["address", "add", "10.86.0.2/32", "dev", "lo"]);
    let mut agent = Watched::start(&host, &[published(first), quiet("other")]);
    let made = agent.until("site", "running", running).await;
    agent.until_healthy(&["other"]).await;
    lab::wait_until("the page", std::time::Duration::from_secs(10), || Ok(page(&host, first).is_some())).unwrap();

    // The host loses power: neither agent nor address are there when the engine comes up, and it starts nothing by itself.
    agent.stop().await;
    host.engine.kill9().unwrap();
    host.ip(&["address", "del", "10.86.0.2/32", "dev", "lo"]);
    host.engine.start().unwrap();
    assert_eq!(host.names("exited"), ["cloudathome-other", "cloudathome-site"]);
    let policy = |name| host.docker(&["inspect", "--format", "{{.HostConfig.RestartPolicy.Name}}", name]);
    assert_eq!(["cloudathome-other", "cloudathome-site"].map(policy), ["no", "no"]);

    // The agent comes up, then its tunnel.
    let mut agent = Watched::start(&host, &[published(first), quiet("other")]);
    agent.until_healthy(&["other"]).await;
    let missing = "can't publish 10.86.0.2:8080: this host does not have the address (yet)";
    let waiting = agent.until("site", "told of the address", says(missing)).await;
    assert_eq!(waiting.state, ContainerState::Exited);
    host.ip(&["address", "add", "10.86.0.2/32", "dev", "lo"]);
    let booted = agent.until("site", "running", running).await;
    assert_eq!(booted.id, made.id);
    let other = host.run("other");

    // The tunnel gets another address, and the definition with it, before the host has it.
    agent.wants(&[published(second), quiet("other")]);
    agent.until("site", "told of the address", says("can't publish 10.86.0.9:8080: this host does not have")).await;
    host.ip(&["address", "del", "10.86.0.2/32", "dev", "lo"]);
    host.ip(&["address", "add", "10.86.0.9/32", "dev", "lo"]);
    let moved = agent.until("site", "moved", running).await;
    assert_ne!(moved.id, made.id);
    lab::wait_until("the page", std::time::Duration::from_secs(10), || Ok(page(&host, second).is_some())).unwrap();
    assert_eq!(page(&host, second).unwrap().lines().count(), 3, "the volume is the old one");
    assert_eq!(page(&host, first), None);
    assert_eq!(host.run("other"), other);
    agent.stop().await;
}
