//! What the word `serving` rests on, shown with `box`, a container at home: each way to it is cut by itself, and the status must say
//! so and nothing worse.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Host, wait_until};
use serde_json::Value;

use crate::{Agent, Cloud};

/// Until a status tells of a cut. An edge proves what serves every 15 s.
const TOLD: Duration = Duration::from_secs(25);
/// Until everything serves again.
const BACK: Duration = Duration::from_secs(60);

/// The control channel is cut, and data flows: visitors notice nothing, and neither status calls the service down.
///
/// # Errors
/// When one of them does.
pub fn control_is_cut(cloud: &Cloud) -> Result<()> {
    serves(cloud, "before anything is cut")?;
    let visitor = cloud.visitor()?;
    let cut = Cut::new(&cloud.edge.host, "input", "tcp dport 7443")?;
    let (mut answers, mut states) = (Vec::new(), Vec::new());
    wait_until("both agents to miss the control channel", TOLD, || {
        answers.push(visitor.get("https://box.example.test/")?.status);
        let mut missing = true;
        for agent in [&cloud.edge, &cloud.home] {
            let status = agent.status()?;
            missing &= status["local"]["control"]["connected"] == false;
            states.push(state(&status)?);
        }
        Ok(missing)
    })?;
    ensure!(answers.iter().all(|status| *status == 200), "visitors got {answers:?}");
    ensure!(!states.iter().any(|state| state == "down"), "the service was called {states:?}");
    let home = cloud.home.status()?;
    ensure!(state(&home)? == "degraded", "without the edge's word home says {}", service(&home)?["serving"]);
    cut.heal()?;
    serves(cloud, "after the control channel was cut")
}

/// The services' data is cut off, and everything else lives: nobody says that it serves.
///
/// # Errors
/// When somebody does.
pub fn data_is_cut(cloud: &Cloud) -> Result<()> {
    let status = cloud.edge.status()?;
    let upstream = service(&status)?["upstream"].as_str().context("no upstream")?;
    let (_, port) = upstream.rsplit_once(':').context("an upstream without a port")?;
    let cut = Cut::new(&cloud.edge.host, "output", &format!("oifname != \"lo\" tcp dport {port}"))?;
    wait_until("both to call it down", TOLD, || {
        let (edge, home) = (cloud.edge.status()?, cloud.home.status()?);
        ensure!(edge["local"]["control"]["connected"] == true, "the control channel went with it");
        ensure!(edge["local"]["tunnel"]["state"] == "connected", "the tunnel went with it");
        Ok(state(&edge)? == "down" && state(&home)? == "down")
    })?;
    let since = service(&cloud.edge.status()?)?["since"].as_u64();
    ensure!(since.is_some(), "it does not say since when");
    cut.heal()?;
    serves(cloud, "after its data was cut off")
}

/// The edge's provider drops what visitors send to port 443. The edge itself gets its names all the same; home does not.
///
/// # Errors
/// When that reads as serving.
pub fn the_front_door_is_blocked(cloud: &mut Cloud) -> Result<()> {
    let cut = Cut::new(&cloud.edge.host, "input", "iifname != \"lo\" tcp dport 443")?;
    // Home fetches at once when it starts, and once a minute later.
    cloud.home.process.kill9();
    cloud.home.process.restart()?;
    wait_until("both to tell of it", BACK, || {
        let mut told = true;
        for agent in [&cloud.edge, &cloud.home] {
            let status = agent.status()?;
            let serving = &service(&status)?["serving"];
            let reason = serving["reason"].as_str().unwrap_or_default();
            told &= serving["state"] == "degraded" && reason.contains("from outside: by 198.51.100.10");
        }
        Ok(told)
    })?;
    cut.heal()?;
    serves(cloud, "after its front door was blocked")
}

fn serves(cloud: &Cloud, when: &str) -> Result<()> {
    wait_until(&format!("both to say that it serves {when}"), BACK, || {
        Ok(state(&cloud.edge.status()?)? == "serving" && state(&cloud.home.status()?)? == "serving")
    })
    .with_context(|| format!("{}\n{}", said(&cloud.edge), said(&cloud.home)))
    .map(drop)
}

fn said(agent: &Agent) -> String {
    agent.status_text().unwrap_or_else(|error| format!("{error:#}"))
}

fn state(status: &Value) -> Result<String> {
    Ok(service(status)?["serving"]["state"].as_str().context("no state")?.to_owned())
}

fn service(status: &Value) -> Result<&Value> {
    let services = status["local"]["services"].as_array().context("no list of services")?;
    services.iter().find(|service| service["name"] == "box").context("the container at home is not there")
}

/// Packets that are dropped on a host until [`Cut::heal`]; one at a time on each.
#[derive(Debug)]
pub struct Cut<'a> {
    host: &'a Host,
}

impl<'a> Cut<'a> {
    /// Drops what matches `what`, in the words of nftables, at `hook`: `input` or `output`.
    ///
    /// # Errors
    /// When the host's nftables refuse.
    pub fn new(host: &'a Host, hook: &str, what: &str) -> Result<Self> {
        let rules = format!(
            "table inet cut {{ chain cut {{ type filter hook {hook} priority -300; policy accept; {what} drop; }}; }}"
        );
        host.exec(&["nft", &rules])?;
        Ok(Self { host })
    }

    /// Lets everything through again.
    ///
    /// # Errors
    /// When the host's nftables refuse.
    pub fn heal(self) -> Result<()> {
        self.host.exec(&["nft", "delete table inet cut"])?;
        Ok(())
    }
}
