//! Containers of others that look like ours.

use lab::EngineOptions;

use crate::host::{Host, IMAGE};
use crate::services::{quiet, with_database};
use crate::watched::{Watched, is, running, says};

fn labels(host: &Host, of: &str) -> Vec<String> {
    let format = "{{range $name, $value := .Config.Labels}}--label={{$name}}={{$value}}\n{{end}}";
    host.docker(&["inspect", "--format", format, of]).lines().map(str::to_owned).collect()
}

/// Made by hand.
fn run(host: &Host, name: &str, labels: &[String], image: &str) -> String {
    let labels: Vec<&str> = labels.iter().map(String::as_str).filter(|label| !label.is_empty()).collect();
    let words = ["run", "--detach", "--pull", "never", "--name", name];
    host.docker(&[&words[..], &labels, &[image, "sleep", "1000"]].concat())
}

/// Id, name, start and state of a container by its id.
fn state(host: &Host, id: &str) -> String {
    host.docker(&["inspect", "--format", "{{.Id}} {{.Name}} {{.State.StartedAt}} {{.State.Status}}", id])
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_looks_like_ours_is_left_alone() {
    let Some(host) = Host::start(&EngineOptions::default()) else { return };
    let mut agent = Watched::start(&host, &[quiet("ours")]);
    agent.until_healthy(&["ours"]).await;
    let ours = host.run("ours");
    let all = labels(&host, "cloudathome-ours");
    assert_eq!(all.len(), 6, "{all:?}");

    // With all the labels of ours, as tools make that duplicate a container; from an image that a person made of ours, which
    // has the labels too; with names like ours and some of the labels, or none.
    host.docker(&["commit", "cloudathome-ours", "debug:1"]);
    let others = [
        run(&host, "duplicate", &all, IMAGE),
        run(&host, "cloudathome-ours-debug", &[], "debug:1"),
        run(&host, "cloudathome-taken", &all[..1], IMAGE),
        run(&host, "cloudathome-plain", &[], IMAGE),
        run(&host, "labelled", &all[..1], IMAGE),
    ];
    let states = || others.each_ref().map(|id| state(&host, id));
    let before = states();
    let owned = labels(&host, "cloudathome-ours-debug");
    assert_eq!(owned, all, "labels come along with an image");

    // Wanting something of the names, restarting, wanting something else, stopping everything.
    agent.wants(&[quiet("ours"), quiet("taken"), quiet("plain"), quiet("more")]);
    for name in ["taken", "plain"] {
        let refused = format!("a container called cloudathome-{name} exists and is not ours, so it is left alone");
        agent.until(name, "refused", says(&refused)).await;
        agent.until_health(name, "refused", is("unhealthy", &refused)).await;
    }
    agent.until_healthy(&["ours", "more"]).await;
    assert_eq!(host.run("ours"), ours);
    agent.wants(&[quiet("ours"), quiet("plain")]);
    lab::wait_until("the end of what is not wanted", std::time::Duration::from_secs(20), || Ok(!host.has("more")))
        .unwrap();
    assert_eq!(states(), before);
    host.docker(&["rm", "--force", "cloudathome-plain"]);
    agent.until_healthy(&["ours", "plain"]).await;
    agent.inner.requests.stop_all().await.unwrap();
    assert_eq!(host.names("exited"), ["cloudathome-ours", "cloudathome-plain"]);
    let left = others.iter().enumerate().filter(|(at, _)| *at != 3);
    assert!(left.clone().all(|(at, id)| state(&host, id) == before[at]), "{before:#?}");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_ours_that_was_renamed_is_kept_and_no_second_one_opens_its_data() {
    let Some(host) = Host::start(&EngineOptions::default()) else { return };
    let mut agent = Watched::start(&host, &[with_database("blog", "true")]);
    lab::wait_until("the database", std::time::Duration::from_secs(20), || Ok(host.has("blog-db"))).unwrap();
    agent.until("blog-db", "running", says("not ready")).await;
    host.sh("blog-db", "touch /data/well");
    agent.until_healthy(&["blog"]).await;
    let before = host.run("blog-db");

    host.docker(&["rename", "cloudathome-blog-db", "before"]);
    let refused = "before runs with the labels of cloudathome-blog-db and may have its data open";
    agent.until("blog-db", "refused", says(refused)).await;
    agent
        .until_health("blog", "told of it", |health| health.reason().is_some_and(|reason| reason.contains(refused)))
        .await;
    assert!(!host.has("blog-db"));
    host.docker(&["rename", "before", "cloudathome-blog-db"]);
    agent.until("blog-db", "adopted", running).await;
    agent.until_healthy(&["blog"]).await;
    assert_eq!(host.run("blog-db"), before);

    // Stopped, it is no danger; it stays for whoever wanted it.
    host.docker(&["rename", "cloudathome-blog-db", "before"]);
    agent.until("blog-db", "refused", says(refused)).await;
    host.docker(&["stop", "before"]);
    agent.until("blog-db", "made anew", running).await;
    agent.until_healthy(&["blog"]).await;
    assert_ne!(host.run("blog-db"), before);
    assert_eq!(host.names("exited"), ["before"]);
    agent.stop().await;
}
