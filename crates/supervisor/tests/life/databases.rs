//! A database that is not well.

use lab::EngineOptions;
use model::ContainerState;

use crate::host::Host;
use crate::services::{quiet, with_database};
use crate::watched::{Watched, is, running, says};

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_an_unhealthy_database_waits_for_it() {
    let Some(host) = Host::start(&EngineOptions::default()) else { return };
    // One whose page comes from the database, and one whose page does not.
    let services = [with_database("blog", "test -e /data/well"), with_database("page", "true"), quiet("other")];
    let mut agent = Watched::start(&host, &services);
    agent.until_healthy(&["other"]).await;
    let other = host.run("other");

    // At first nothing is started that needs it.
    let why = "blog-db: not ready: /bin/sh ended with 1: it repairs its tables";
    agent.until_health("blog", "told", is("unhealthy", why)).await;
    let waits = agent.until("blog", "told to wait", says("waits for blog-db")).await;
    assert_eq!((waits.state, host.has("blog")), (ContainerState::Absent, false));
    host.sh("blog-db", "touch /data/well");
    host.sh("page-db", "touch /data/well");
    agent.until_healthy(&["blog", "page", "other"]).await;
    assert!(host.started("blog-db") < host.started("blog"));

    // Later what runs goes on: it may do without, and is not what is broken.
    let runs = || ["blog", "blog-db", "page", "page-db"].map(|name| host.run(name));
    let before = runs();
    host.sh("blog-db", "rm /data/well");
    host.sh("page-db", "rm /data/well");
    agent.until_health("blog", "told", is("unhealthy", why)).await;
    agent.until_health("page", "told", is("degraded", "page-db: not ready: ")).await;
    agent.until("blog-db", "told", says("not ready: /bin/sh ended with 1: it repairs its tables")).await;
    assert!(running(&agent.status("blog")), "{:?}", agent.status("blog"));

    // And gets well with it.
    host.sh("blog-db", "touch /data/well");
    host.sh("page-db", "touch /data/well");
    agent.until_healthy(&["blog", "page", "other"]).await;
    assert_eq!(runs(), before);
    assert_eq!(host.run("other"), other);
    agent.stop().await;
}
