//! What visitors notice when home falls silent in the middle of their requests, and while the edge's agent is dead.

use std::process::Command;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use lab::{Http, wait_until};

use crate::{Agent, Cloud};

/// Until new visitors get the holding page.
const HELD: Duration = Duration::from_secs(5);
/// Until a request that had begun has ended: silence is noticed after five seconds.
const ENDED: Duration = Duration::from_secs(9);
/// Until everything is as before.
const BACK: Duration = Duration::from_secs(60);
const BIG: u64 = 64 << 20;

/// Home's agent stops without a word while one visitor uploads, one downloads, and others come and go. `other` is served by
/// the edge itself.
///
/// # Errors
/// Saying what a visitor saw that should not be seen.
pub fn home_falls_silent(cloud: &Cloud, other: &str) -> Result<()> {
    small_windows(cloud)?;
    let visitor = cloud.visitor()?;
    let (user, password) = cloud.login()?;
    let client = cloud.visitor()?.login(&user, &password).limit(Duration::from_secs(60));
    let file = cloud.lab.random_file("outage", BIG)?;
    let url = |name: &str| cloud.url(&format!("/remote.php/dav/files/{user}/{name}"));
    let put = client.upload(&file, &url("down"))?;
    ensure!(put.status == 201, "an upload answers {}", put.status);

    let slow = ["--limit-rate", "2M"];
    scope(|scope| {
        let up = scope.spawn(|| {
            let answer = client.request(&[&slow[..], &["--upload-file", &file.to_string_lossy()]].concat(), &url("up"));
            (answer.map(|answer| answer.status), Instant::now())
        });
        let down = scope.spawn(|| (client.request(&slow, &url("down")).map(|answer| answer.status), Instant::now()));
        // Both are in the middle.
        sleep(Duration::from_secs(4));
        ensure!(!up.is_finished() && !down.is_finished(), "a transfer had ended before home fell silent");
        signal(&cloud.home, "-STOP")?;
        let began = Instant::now();
        let held = holding_page(&visitor, cloud, began);
        let fine = visitor.get(other).map(|answer| answer.status);
        let ends = [("upload", up.join()), ("download", down.join())];
        signal(&cloud.home, "-CONT")?;
        println!("home fell silent: the holding page after {:.1} s", held?.as_secs_f64());
        ensure!(fine? == 200, "{other} did not go on");
        for (what, end) in ends {
            let (answer, at) = end.map_err(|_| anyhow!("the {what} panicked"))?;
            let after = at.duration_since(began);
            println!("the {what} ended {:.1} s after home fell silent", after.as_secs_f64());
            ensure!(after < ENDED, "the {what} stood still for {after:?}");
            ensure!(!matches!(answer, Ok(200..300)), "the {what} seems to have succeeded");
        }
        Ok(())
    })?;
    back(cloud, &visitor)
}

/// Home cannot be reached, and Caddy says so by itself; what the edge serves goes on. The agent is started again.
///
/// # Errors
/// Saying what a visitor saw that should not be seen.
pub fn edge_agent_dies(cloud: &mut Cloud, other: &str) -> Result<()> {
    let visitor = cloud.visitor()?;
    cloud.edge.kill9()?;
    let held = holding_page(&visitor, cloud, Instant::now())?;
    println!("edge-agent dead: the holding page after {:.1} s", held.as_secs_f64());
    ensure!(visitor.get(other)?.status == 200, "{other} did not go on");
    cloud.edge.process.restart()?;
    back(cloud, &visitor)
}

/// From now on little is on its way to a visitor who reads slowly. A window may grow to many megabytes by itself, and these arrive,
/// at the visitor's pace, before the word that no more comes.
pub(crate) fn small_windows(cloud: &Cloud) -> Result<()> {
    cloud.lab.host("visitor")?.exec(&["sysctl", "-qw", "net.ipv4.tcp_rmem=4096 131072 262144"]).map(drop)
}

/// Waits for the page, as a browser that comes anew each time.
pub(crate) fn holding_page(visitor: &Http, cloud: &Cloud, began: Instant) -> Result<Duration> {
    let impatient = visitor.clone().limit(Duration::from_millis(700));
    let browser = ["-H", "Accept: text/html"];
    wait_until("the holding page", HELD + Duration::from_secs(1), || {
        let reply = impatient.request(&browser, &cloud.url("/login"))?;
        ensure!(reply.status == 503, "it answers {}", reply.status);
        ensure!(reply.text().contains("cannot be reached"), "it shows {}", reply.text());
        ensure!(reply.header("retry-after").is_some(), "it does not say when to come again");
        Ok(true)
    })?;
    let took = began.elapsed();
    ensure!(took < HELD, "the holding page came after {took:?}");
    Ok(took)
}

pub(crate) fn back(cloud: &Cloud, visitor: &Http) -> Result<()> {
    wait_until("the service again", BACK, || Ok(visitor.get(&cloud.url("/status.php"))?.status == 200)).map(drop)
}

pub(crate) fn signal(agent: &Agent, signal: &str) -> Result<()> {
    let status = Command::new("kill").args([signal, &agent.process.pid().to_string()]).status().context("run kill")?;
    ensure!(status.success(), "kill ended with {status}");
    Ok(())
}
