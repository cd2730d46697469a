//! Containers follow their definitions, with either engine.

use std::time::Duration;

use futures_util::StreamExt;
use lab::{EngineOptions, EngineVersion};
use model::{ContainerSpec, ContainerState, ExecInput, Network, Output, PortBinding, SecretFile, TerminalSize};
use supervisor::{Console, ConsoleCommand, Engine};
use tokio::sync::mpsc;

use crate::host::Host;
use crate::services::{RUN, alone, bare, data, sh};
use crate::watched::{Watched, running, says};

fn web() -> ContainerSpec {
    let serve = "echo started >> /data/log; case $(cat /run/secrets/p) in geh?im) ;; *) exit 9;; esac";
    ContainerSpec {
        command: sh(&format!("echo hello; {serve}; {RUN}")),
        secrets: vec![SecretFile { path: "/run/secrets/p".into(), content: "geheim".into(), uid: 33 }],
        mounts: vec![data("cloudathome-test-data")],
        network: Network::Private("cloudathome-test".into()),
        ports: vec![PortBinding { host: "127.0.0.1:8080".parse().unwrap(), container: 80 }],
        ..bare("web")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_older_engine() {
    containers_follow_their_definitions(EngineVersion::Machine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_newer_engine() {
    containers_follow_their_definitions(EngineVersion::Sid).await;
}

async fn containers_follow_their_definitions(version: EngineVersion) {
    let Some(mut host) = Host::start(&EngineOptions { version, ..EngineOptions::default() }) else { return };

    // Made, its file placed, started.
    let mut first = Watched::start(&host, &[alone(web())]);
    assert_eq!(first.engine.ping().await.unwrap(), host.engine.version());
    let made = first.until("web", "running", running).await;
    let file = host.sh("web", "ls -ln /run/secrets/p; ls -ld /run/secrets");
    assert!(file.starts_with("-r--------    1 33       0"), "{file}");
    assert!(file.contains("drwxr-xr-x"), "{file}");
    assert_eq!(host.sh("web", "cat /data/log"), "started");
    assert!(!host.docker(&["inspect", "cloudathome-web"]).contains("geheim"), "the secret shows");

    // Commands in it, with an end, and what it said.
    let ran = first.engine.exec(&made.id, "33", &["sh", "-c", "id -u; echo no >&2; exit 3"], Duration::from_secs(10));
    let ran = ran.await.unwrap();
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (3, "33\n", "no\n"));
    let absent = first.engine.exec(&made.id, "0", &["absent"], Duration::from_secs(10)).await;
    assert!(absent.as_ref().is_err() || absent.as_ref().is_ok_and(|ran| ran.code != 0), "{absent:?}");
    assert_eq!(first.engine.log_tail(&made.id, 5).await.unwrap(), ["hello"]);
    // A conversation: what a person types, a terminal of the right size, the end.
    let (input, receiver) = mpsc::channel(1);
    input.send(ExecInput::Stdin(b"typed\n".to_vec())).await.unwrap();
    let terminal = Some(TerminalSize { rows: 33, columns: 111 });
    let command = sh("read line; echo got $line; busybox stty size; exit 4");
    let command = ConsoleCommand { user: None, command, terminal };
    let mut conversation = first.engine.converse(&made.id, command, receiver).await.unwrap();
    let (mut said, mut last) = (Vec::new(), None);
    while let Some(part) = conversation.next().await {
        match part.unwrap() {
            Output::Stdout { bytes, .. } => said.extend(bytes),
            other => last = Some(other),
        }
    }
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains("got typed") && said.contains("33 111"), "{said}");
    assert_eq!(last, Some(Output::Ended(4)));
    // What it wrote, and what it writes from then on.
    let mut written = first.engine.written(&made.id, 1, true).await.unwrap();
    let mut line = async || match written.next().await {
        Some(Ok(Output::Stdout { bytes, .. })) => String::from_utf8(bytes).unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(line().await, "hello\n");
    host.sh("web", "echo news > /proc/1/fd/1");
    assert_eq!(line().await, "news\n");

    // The agent goes, the container stays; the next agent adopts it.
    first.stop().await;
    let run = host.run("web");
    let mut agent = Watched::start(&host, &[alone(web())]);
    assert_eq!(agent.until("web", "adopted", running).await, made);
    host.sh("web", "sleep 2");
    assert_eq!(host.run("web"), run);

    // A new definition makes a new container on the old volume.
    let mut changed = web();
    changed.env.insert("NEW".into(), "1".into());
    agent.wants(&[alone(changed.clone())]);
    let replaced = agent.until("web", "replaced", |s| running(s) && s.id != made.id).await;
    assert_eq!(host.sh("web", "cat /data/log; echo $NEW"), "started\nstarted\n1");

    // Killed: started again, after a pause, as the same container.
    host.docker(&["kill", "cloudathome-web"]);
    agent.until("web", "ended", |s| s.state == ContainerState::Exited).await;
    agent.until("web", "told why", says("ended with exit code 137; its last words: hello")).await;
    let again = agent.until("web", "started again", running).await;
    assert_eq!(again.id, replaced.id);
    agent.until_restarts("web", 1).await;

    // An image that can't be had says why; so does an address that is missing, which is awaited.
    let imageless = ContainerSpec { image: "registry.invalid/none:1".into(), ..bare("imageless") };
    let nameless = ContainerSpec { image: "No Such Name".into(), ..bare("nameless") };
    let commandless = ContainerSpec { command: vec!["/absent".into()], ..bare("commandless") };
    let homeless = ContainerSpec {
        ports: vec![PortBinding { host: "10.99.0.2:8080".parse().unwrap(), container: 80 }],
        network: Network::Private("cloudathome-test".into()),
        ..bare("homeless")
    };
    let all = [changed.clone(), imageless, nameless, commandless, homeless.clone()].map(alone);
    agent.wants(&all);
    let absent = "is not on this host and could not be fetched; check its name and the way to its registry";
    agent.until("imageless", "told", says(&format!("image registry.invalid/none:1 {absent}"))).await;
    agent.until("nameless", "told", says("No Such Name")).await;
    agent.until("commandless", "told", says("/absent")).await;
    let stuck = agent.until("homeless", "stuck", says("10.99.0.2:8080: this host does not have the address")).await;
    assert_eq!(stuck.state, ContainerState::Created);
    host.ip(&["address", "add", "10.99.0.2/32", "dev", "lo"]);
    let housed = agent.until("homeless", "started", running).await;
    assert_eq!(housed.id, stuck.id);

    // What is no longer wanted goes.
    agent.wants(&[changed, homeless].map(alone));
    lab::wait_until("the end of what is not wanted", Duration::from_secs(20), || Ok(!host.has("commandless"))).unwrap();
    agent.until("web", "untouched", |s| *s == again).await;

    // The engine goes and stops everything; back again, everything is started again. Wanting none removes containers and
    // keeps volumes.
    host.engine.stop().unwrap();
    agent.until("web", "without engine", says("no container engine answers")).await;
    host.engine.start().unwrap();
    assert_eq!(agent.until("web", "back", running).await.id, again.id);
    agent.until("homeless", "back", running).await;
    assert_eq!(host.sh("web", "cat /data/log").lines().count(), 4);
    agent.wants(&[]);
    lab::wait_until("the end of all", Duration::from_secs(20), || Ok(host.names("running").is_empty())).unwrap();
    let volumes = host.docker(&["volume", "ls", "--quiet"]);
    assert!(volumes.lines().any(|volume| volume == "cloudathome-test-data"), "{volumes}");
    agent.stop().await;
    host.engine.stop().unwrap();
}
