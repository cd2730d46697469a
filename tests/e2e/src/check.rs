//! The proof that the product does its main job, as a visitor and as an operator see it. Nothing here depends on
//! which image serves: it runs unchanged against the real applications.

use std::collections::BTreeSet;
use std::net::SocketAddrV4;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use lab::http::sha256;
use lab::{Topology, topology, wait_until};
use serde_json::Value;

use crate::cloud::{Cloud, HOSTNAME};

/// Bytes of the file that goes up and comes down again.
const FILE_BYTES: u64 = 200 * 1000 * 1000;
/// For the file, each way.
const TRANSFER_LIMIT: Duration = Duration::from_secs(180);
/// From the death of home-agent to the holding page, and from its start to the service.
const SWITCH_LIMIT: Duration = Duration::from_secs(10);

/// Proves everything, in order; `say` hears of each result.
///
/// # Errors
/// With the first thing that does not hold.
pub fn check(cloud: &mut Cloud, say: &mut dyn FnMut(&str)) -> Result<()> {
    say(&certificate(cloud).context("a certificate of the ACME authority")?);
    say(&statuses(cloud).context("agentctl on both hosts")?);
    say(&metrics(cloud).context("metrics of both agents")?);
    say(&doctor(cloud).context("agentctl doctor on both hosts")?);
    say(&real_address(cloud).context("the visitor's address upstream")?);
    say(&transfer(cloud).context("a large file up and down")?);
    say(&inbound(cloud).context("inbound connections to home")?);
    say(&outage(cloud).context("home-agent killed and started again")?);
    say(&story(cloud).context("the story of that on both hosts")?);
    Ok(())
}

fn certificate(cloud: &Cloud) -> Result<String> {
    let reply = cloud.visitor()?.get(&cloud.url("/status.php"))?;
    ensure!(reply.status == 200, "/status.php answers {}", reply.status);
    let status: Value = serde_json::from_slice(&reply.body).context("read /status.php")?;
    ensure!(status["installed"] == true && status["maintenance"] == false, "/status.php says {status}");
    // Without the lab's root nobody trusts it: the first answer proved the chain.
    let untrusting = lab::Http::new(cloud.lab.host("visitor")?).limit(Duration::from_secs(10));
    ensure!(untrusting.get(&cloud.url("/status.php")).is_err(), "the certificate is trusted without the ACME root");
    Ok(format!("https://{HOSTNAME}/status.php answers 200, its certificate chains to the ACME root"))
}

fn statuses(cloud: &Cloud) -> Result<String> {
    for (agent, role, other) in [(&cloud.edge, "edge", "home"), (&cloud.home, "home", "edge")] {
        wait_until(&format!("{role} to show both hosts serving"), SWITCH_LIMIT, || {
            let status = agent.status()?;
            ensure!(status["local"]["role"] == role, "the local role is {}", status["local"]["role"]);
            ensure!(status["peer"]["role"] == other, "the peer's role is {}", status["peer"]["role"]);
            for side in ["local", "peer"] {
                let services = status[side]["services"].as_array().context("no list of services")?;
                let nextcloud = services.iter().find(|service| service["name"] == "nextcloud");
                let nextcloud = nextcloud.with_context(|| format!("{side} has no service nextcloud"))?;
                ensure!(nextcloud["hostname"] == HOSTNAME, "{side}: its hostname is {}", nextcloud["hostname"]);
                ensure!(nextcloud["serving"]["state"] == "serving", "{side}: serving is {}", nextcloud["serving"]);
            }
            Ok(true)
        })?;
    }
    Ok("agentctl status on either host shows both".to_owned())
}

fn metrics(cloud: &Cloud) -> Result<String> {
    for agent in [&cloud.edge, &cloud.home] {
        let connected = agent.metric("cloudathome_tunnel_connected")?;
        ensure!(connected == Some(1.0), "cloudathome_tunnel_connected is {connected:?} on {}", agent.host.name());
    }
    let took = cloud.edge.metric("cloudathome_proof_duration_seconds")?;
    ensure!(took.is_some_and(|seconds| seconds > 0.0 && seconds < 5.0), "the proof took {took:?} s");
    let ends = cloud.edge.metric("cloudathome_certificate_expiry_timestamp_seconds")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    ensure!(ends.is_some_and(|ends| ends > now), "the certificate ends at {ends:?}, and it is {now}");
    let check = cloud.home.metric("cloudathome_service_check_duration_seconds")?;
    ensure!(check.is_some_and(|seconds| seconds > 0.0), "the health check took {check:?} s");
    Ok("/metrics answers on both and agrees".to_owned())
}

/// What it says of the machine that the lab is on is the machine's business; of the lab itself nothing may be bad.
fn doctor(cloud: &Cloud) -> Result<String> {
    let mut engine = String::new();
    for agent in [&cloud.edge, &cloud.home] {
        let name = agent.host.name();
        let findings = agent.doctor()?;
        let findings = findings.as_array().with_context(|| format!("{name}'s findings are no list"))?;
        let own = agent.status()?["local"]["host"].clone();
        ensure!(findings.iter().any(|finding| finding["host"] != own), "{name} tells nothing of the other host");
        let of = |check: &'static str| {
            let own = own.clone();
            findings.iter().filter(move |finding| finding["check"] == check && finding["host"] == own)
        };
        for check in ["engine", "TUN", "tunnel", "control", "clock", "identity", "CRL", "DNS", "certificate"] {
            ensure!(of(check).all(|finding| finding["grade"] == "good"), "{name}: {findings:#?}");
        }
        ensure!(of("DNS").count() > 0, "{name}: no names");
        engine = of("engine").next().and_then(|found| found["text"].as_str()).context("no engine")?.to_owned();
        ensure!(of("disk").count() == 2 && of("tunnel").count() == 1, "{name}: {findings:#?}");
    }
    Ok(format!("agentctl doctor finds both hosts well; {engine}"))
}

/// The application's access log is where the official image shows who it thinks asked.
fn real_address(cloud: &Cloud) -> Result<String> {
    let visitor = topology::VISITOR.to_string();
    let marker = format!("/status.php?check={}", std::process::id());
    let forged =
        ["-H", "X-Forwarded-For: 192.0.2.66", "-H", "X-Real-IP: 192.0.2.66", "-H", "Forwarded: for=192.0.2.66"];
    let reply = cloud.visitor()?.request(&forged, &cloud.url(&marker))?;
    ensure!(reply.status == 200, "{marker} answers {}", reply.status);
    wait_until("the request in the application's log", SWITCH_LIMIT, || {
        let log = cloud.home_engine.docker(&["logs", "--tail", "200", "cloudathome-nextcloud"])?;
        let line = log.lines().find(|line| line.contains(&marker)).context("it is not there")?;
        ensure!(line.starts_with(&visitor), "the application saw another address: {line}");
        ensure!(!line.contains("192.0.2.66"), "the application saw a forged address: {line}");
        Ok(true)
    })?;
    Ok(format!("the application saw the visitor as {visitor}, forged headers notwithstanding"))
}

fn transfer(cloud: &Cloud) -> Result<String> {
    let (user, password) = cloud.login()?;
    let client = cloud.visitor()?.login(&user, &password).limit(TRANSFER_LIMIT);
    let url = cloud.url(&format!("/remote.php/dav/files/{user}/check.bin"));
    let sent = cloud.lab.random_file("sent.bin", FILE_BYTES)?;
    let received = sent.with_file_name("received.bin");

    let up = client.upload(&sent, &url)?;
    ensure!(matches!(up.status, 201 | 204), "the upload was answered with {}: {}", up.status, up.text());
    let down = client.download(&url, &received)?;
    ensure!(down.status == 200, "the download was answered with {}", down.status);
    ensure!(sha256(&sent)? == sha256(&received)?, "the file came back changed");
    let deleted = client.request(&["-X", "DELETE"], &url)?;
    ensure!(deleted.status == 204, "deleting was answered with {}", deleted.status);
    let stranger = cloud.visitor()?.login(&user, "not the password").get(&url)?;
    ensure!(stranger.status == 401, "a wrong password was answered with {}", stranger.status);

    let megabytes = FILE_BYTES / 1_000_000;
    let (up, down) = (up.took.as_secs_f64(), down.took.as_secs_f64());
    Ok(format!("{megabytes} MB went up in {up:.1} s and came down in {down:.1} s, SHA-256 equal"))
}

fn inbound(cloud: &Cloud) -> Result<String> {
    if cloud.lab.topology() == Topology::HomePublic {
        return Ok("home has a public address here: inbound connections are not in question".to_owned());
    }
    let visitor = cloud.lab.host("visitor")?;
    let mut tried = 0;
    for address in [topology::PROVIDER, topology::HOME_ROUTER, topology::HOME_PRIVATE] {
        for port in [80, 443, 1194, 8080] {
            let to = SocketAddrV4::new(address, port);
            ensure!(!visitor.connects(to, Duration::from_secs(1))?, "{to} lets the visitor in");
            tried += 1;
        }
    }
    Ok(format!("{tried} inbound connections to home's addresses failed"))
}

fn outage(cloud: &mut Cloud) -> Result<String> {
    let visitor = cloud.visitor()?.limit(Duration::from_secs(5));
    let url = cloud.url("/status.php");
    let container = |cloud: &Cloud| {
        cloud.home_engine.docker(&["inspect", "--format", "{{.Id}} {{.State.StartedAt}}", "cloudathome-nextcloud"])
    };
    let before = container(cloud)?;

    let killed = Instant::now();
    cloud.home.kill9()?;
    wait_until("the holding page", SWITCH_LIMIT, || {
        let reply = visitor.get(&url)?;
        ensure!(reply.status == 503, "{url} answers {}", reply.status);
        ensure!(reply.header("retry-after").is_some(), "the holding page has no Retry-After");
        Ok(true)
    })?;
    let held = killed.elapsed();

    let started = Instant::now();
    cloud.home.process.restart()?;
    wait_until("the service", SWITCH_LIMIT, || {
        let reply = visitor.get(&url)?;
        ensure!(reply.status == 200, "{url} answers {}", reply.status);
        Ok(true)
    })?;
    let back = started.elapsed();
    let after = container(cloud)?;
    ensure!(before == after, "the container was touched: {before} became {after}");
    Ok(format!(
        "home-agent killed: holding page after {:.1} s; started: back after {:.1} s, the container untouched",
        held.as_secs_f64(),
        back.as_secs_f64()
    ))
}

/// Either host tells it, from what both saw.
fn story(cloud: &Cloud) -> Result<String> {
    let mut first = String::new();
    for agent in [&cloud.edge, &cloud.home] {
        let name = agent.host.name();
        wait_until(&format!("{name} to tell the story"), SWITCH_LIMIT, || {
            // Its exit code is 0 once the service is proven to serve again.
            let story: Value = serde_json::from_str(&agent.agentctl(&["why", "nextcloud", "--json"])?)?;
            ensure!(story["serves"] == true && story["reason"].is_null(), "it says {story}");
            let events = story["events"].as_array().context("no list of events")?;
            let hosts: BTreeSet<&str> = events.iter().filter_map(|event| event["host"].as_str()).collect();
            ensure!(hosts.len() == 2, "it is told by {hosts:?}");
            ensure!(events.windows(2).all(|two| two[0]["at"].as_u64() <= two[1]["at"].as_u64()), "it is not in order");
            let restart =
                |event: &Value| event["text"].as_str().is_some_and(|text| text.contains("it had not been stopped"));
            ensure!(events.iter().any(restart), "home-agent's new start is missing in {story}");
            first = story["first"]["text"].as_str().context("nothing failed first")?.to_owned();
            ensure!(story["first"]["kind"] == "fault", "the first sign is {}", story["first"]);
            Ok(true)
        })?;
        let text = agent.agentctl(&["events", "--service", "nextcloud"])?;
        ensure!(text.contains(&format!("{HOSTNAME} is down")), "agentctl events on {name} says:\n{text}");
    }
    let control = cloud.home.status()?["local"]["control"].clone();
    ensure!(control["round_trip_micros"].as_u64().is_some_and(|micros| micros < 1_000_000), "home says {control}");
    ensure!(control["clock_ahead_millis"].as_i64().is_some_and(|ahead| ahead.abs() < 1000), "home says {control}");
    Ok(format!("agentctl why tells it on either host; it began with \"{first}\""))
}
