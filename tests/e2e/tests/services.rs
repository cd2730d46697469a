//! Every kind of service at once: Ghost on the edge at the domain itself, Nextcloud with PostgreSQL, Redis and cron at home, a
//! container and an external service there as well.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Agent, Binaries, Cloud, Dialer, More, outage, proofs, room, sync};
use lab::images::Wanted;
use lab::{EngineOptions, capability, wait_until};
use serde_json::Value;

/// For a service to be set up on a loaded machine.
const LIMIT: Duration = Duration::from_secs(240);
const OWNER: &str = "owner@example.test";
/// Bytes of the disk of home's engine: images and data leave a gigabyte free.
const HOMES_DISK: u64 = 2 << 30;
/// Home's services beside Nextcloud.
const HOMES: &str = r#"
[services.box]
kind = "container"
image = "caddy:2"
port = 8081
container_port = 8000
command = ["caddy", "respond", "--listen", ":8000", "from a container"]
health_path = "/"
memory = "128M"
volumes = { data = "/srv" }

[services.hub]
kind = "external"
address = "192.168.1.1:8123"
port = 8123
health_path = "/"
"#;
/// Answers one request.
const HUB: &str = r#"
end=$(printf '\r')
while IFS= read -r line && [ "$line" != "$end" ]; do :; done
printf 'HTTP/1.1 200 OK\r\nContent-Length: 12\r\nConnection: close\r\n\r\nfrom the LAN'
"#;

#[test]
fn every_kind_is_set_up_and_published() -> Result<()> {
    if !capability::or_skip()? {
        return Ok(());
    }
    let more = More {
        nextcloud: "apps = [\"mail\", \"passwords\"]\nphone_region = \"DE\"\n".to_owned(),
        edge: "[services.blog]\nkind = \"ghost\"\nimage = \"ghost:6.53.0\"\ntitle = \"Notes\"\n\
               database = { image = \"mysql:8\" }\n\
               mail = { host = \"203.0.113.5\", port = 25, security = \"none\", from = \"blog@example.test\" }\n"
            .to_owned(),
        home: format!("[engine]\nkeep_free_mib = {}\n\n{HOMES}", room::KEEP_FREE),
        edge_images: vec![Wanted::Ghost, Wanted::NewerGhost, Wanted::Mariadb],
        home_images: vec![Wanted::Caddy],
        home_engine: EngineOptions { disk: Some(HOMES_DISK), ..EngineOptions::default() },
        ..More::default()
    };
    let binaries = Binaries::beside_this_one()?;
    let mut cloud = Cloud::start_with(Dialer::Home, &binaries, &more, &mut |what| println!("{what}"))?;
    // On home's network, and nowhere else.
    let router = cloud.lab.host("cpe")?;
    let script = router.dir().join("hub.sh");
    fs::write(&script, HUB).with_context(|| format!("write {}", script.display()))?;
    let mut command = router.command("socat");
    command.arg("TCP-LISTEN:8123,bind=192.168.1.1,fork,reuseaddr").arg(format!("EXEC:sh {}", script.display()));
    let mut hub = router.spawn("hub", command)?;
    // Somebody's mail server. It prints what it gets.
    let mail = cloud.lab.host("visitor")?;
    let mut command = mail.command("aiosmtpd");
    command.args(["--nosetuid", "--listen", "203.0.113.5:25"]).env("PYTHONUNBUFFERED", "1");
    let mail = mail.spawn("mail", command)?;

    let checked = check(&mut cloud, &mut hub, &mail);
    if checked.is_err() {
        for agent in [&cloud.edge, &cloud.home] {
            println!("{}\n{}", agent.status_text()?, agent.process.log_tail(40));
        }
    }
    checked?;
    cloud.stop()
}

fn check(cloud: &mut Cloud, hub: &mut lab::Process, mail: &lab::Process) -> Result<()> {
    let took = cloud.wait_until_serving()?;
    println!("Nextcloud serves {:.1} s after the agents started", took.as_secs_f64());
    ghost(cloud, mail).context("Ghost on the edge")?;
    nextcloud(cloud).context("Nextcloud at home")?;
    page(cloud, "https://box.example.test/", "from a container").context("the container at home")?;
    page(cloud, "https://hub.example.test/", "from the LAN").context("the external service")?;

    hub.kill9();
    let visitor = cloud.visitor()?;
    wait_until("the holding page in place of what does not answer", LIMIT, || {
        Ok(visitor.get("https://hub.example.test/")?.status == 503)
    })?;
    page(cloud, "https://box.example.test/", "from a container").context("its neighbour")?;

    operated(cloud).context("services operated by agentctl")?;
    proofs::control_is_cut(cloud).context("the control channel is cut")?;
    proofs::data_is_cut(cloud).context("the services' data is cut off")?;
    proofs::the_front_door_is_blocked(cloud).context("the front door is blocked")?;
    room::home_fills_up(cloud).context("home's disk fills up")?;
    outage::home_falls_silent(cloud, "https://example.test/").context("home falls silent")?;
    sync::home_falls_silent(cloud).context("home falls silent in the middle of a sync")?;
    outage::edge_agent_dies(cloud, "https://example.test/").context("edge-agent dies")?;
    restart(cloud).context("edge-agent started again")?;
    imported(cloud).context("certificates of another Caddy")
}

/// What a person does on either host.
fn operated(cloud: &Cloud) -> Result<()> {
    let (edge, home) = (&cloud.edge, &cloud.home);
    let status = home.agentctl(&["occ", "status", "--output=json"])?;
    ensure!(status.contains("\"installed\":true"), "occ says {status}");
    let who = home.agentctl(&["service", "nextcloud", "exec", "--user", "www-data", "--", "id", "-un"])?;
    ensure!(who.trim() == "www-data", "a command ran as {who}");
    let logs = home.agentctl(&["service", "nextcloud", "logs", "--tail", "3", "--container", "nextcloud"])?;
    ensure!(!logs.is_empty() && logs.lines().count() <= 3, "the logs are {logs:?}");
    let logins = edge.agentctl(&["service", "blog", "credentials", "--json"])?;
    let file = edge.host.dir().join("state/secrets/blog-owner-password");
    let password = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    ensure!(logins.contains(OWNER) && logins.contains(password.trim()), "the logins lack the owner's");

    let refused = edge.agentctl(&["service", "nextcloud", "stop"]).err().map(|error| format!("{error:#}"));
    let by_home = "control.edge_may in its configuration is \"inspect\"";
    ensure!(refused.as_deref().is_some_and(|told| told.contains(by_home)), "the edge says {refused:?}");
    let logs = home.agentctl(&["service", "blog", "logs", "--tail", "1"])?;
    ensure!(!logs.is_empty(), "home sees no logs of the edge's service");
    edge.agentctl(&["service", "blog", "stop"])?;
    let running = cloud.edge_engine.docker(&["ps", "--format", "{{.Names}}"])?;
    ensure!(!running.contains("cloudathome-blog"), "after a stop these run: {running}");
    let visitor = cloud.visitor()?;
    wait_until("the holding page of what was stopped", LIMIT, || {
        Ok(visitor.get("https://example.test/")?.status == 503)
    })?;
    edge.agentctl(&["service", "blog", "start"])?;
    page(cloud, "https://example.test/", "Notes")?;
    home.agentctl(&["service", "restart", "box"])?;
    page(cloud, "https://box.example.test/", "from a container")?;
    upgraded(cloud).context("an upgrade and the way back")?;
    purged(cloud).context("a purge")
}

/// Ghost on MariaDB goes up and comes back.
fn upgraded(cloud: &Cloud) -> Result<()> {
    let visitor = cloud.visitor()?;
    let version = || -> Result<String> {
        let site: Value = serde_json::from_slice(&visitor.get("https://example.test/ghost/api/admin/site/")?.body)?;
        Ok(site["site"]["version"].as_str().context("Ghost does not tell its version")?.to_owned())
    };
    ensure!(version()? == "6.53", "Ghost is {} at first", version()?);
    let same = cloud.edge.agentctl(&["service", "blog", "upgrade", "--to", "6.53.0"]).err();
    let same = same.map(|error| format!("{error:#}")).unwrap_or_default();
    ensure!(same.contains("in force already"), "an upgrade to the same says {same:?}");
    let down = cloud.edge.agentctl(&["service", "blog", "upgrade", "--to", "6.1.0"]).err();
    ensure!(down.is_some(), "Ghost may go down");

    cloud.edge.agentctl(&["service", "upgrade", "blog", "--to", "6.65.0"])?;
    page(cloud, "https://example.test/", "Notes")?;
    ensure!(version()? == "6.65", "Ghost is {} after the upgrade", version()?);
    cloud.edge.agentctl(&["service", "blog", "rollback", "--yes"])?;
    page(cloud, "https://example.test/", "Notes")?;
    ensure!(version()? == "6.53", "Ghost is {} after the way back", version()?);
    Ok(())
}

/// Nothing is left, and a start makes it anew.
fn purged(cloud: &Cloud) -> Result<()> {
    let volumes = || cloud.home_engine.docker(&["volume", "ls", "--format", "{{.Name}}"]);
    ensure!(volumes()?.contains("cloudathome-box"), "there is no volume to remove: {}", volumes()?);
    cloud.home.agentctl(&["service", "box", "purge", "--yes-remove-everything"])?;
    let containers = cloud.home_engine.docker(&["ps", "--all", "--format", "{{.Names}}"])?;
    ensure!(!containers.contains("cloudathome-box"), "after a purge these are left: {containers}");
    ensure!(!volumes()?.contains("cloudathome-box"), "after a purge these are left: {}", volumes()?);
    ensure!(volumes()?.contains("cloudathome-nextcloud"), "a purge took what is another's");
    cloud.home.agentctl(&["service", "box", "start"])?;
    page(cloud, "https://box.example.test/", "from a container")
}

fn ghost(cloud: &Cloud, mail: &lab::Process) -> Result<()> {
    let visitor = cloud.visitor()?;
    // The first answer of Ghost that a stranger gets: it has an owner by then.
    let setup = "https://example.test/ghost/api/admin/authentication/setup/";
    let took = wait_until("Ghost at the domain itself", LIMIT, || {
        let reply = visitor.get(setup)?;
        ensure!(reply.status == 200, "{setup} answers {}", reply.status);
        let answer: Value = serde_json::from_slice(&reply.body)?;
        ensure!(answer["setup"][0]["status"] == true, "a stranger could become its owner: {answer}");
        Ok(true)
    })?;
    println!("Ghost serves {:.1} s later", took.as_secs_f64());
    page(cloud, "https://example.test/", "Notes")?;
    let www = visitor.get("https://www.example.test/about/?x=1")?;
    ensure!(www.status == 308, "www answers {}", www.status);
    ensure!(
        www.header("location") == Some("https://example.test/about/?x=1"),
        "www leads to {:?}",
        www.header("location")
    );

    let file = cloud.edge.host.dir().join("state/secrets/blog-owner-password");
    let password = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let login = serde_json::json!({ "username": OWNER, "password": password.trim() }).to_string();
    let json = ["-H", "Content-Type: application/json", "-H", "Origin: https://example.test", "-d", &login];
    let log_in = || visitor.request(&json, "https://example.test/ghost/api/admin/session/");
    let first = log_in()?;
    ensure!(first.status == 201, "the owner's login answers {}: {}", first.status, first.text());
    // From then on, since it can send mail, a device that it does not know needs a number from there.
    let second = log_in()?;
    let asks = second.status == 403 && second.text().contains("2FA_NEW_DEVICE_DETECTED");
    ensure!(asks, "the owner's next login answers {}: {}", second.status, second.text());
    wait_until("Ghost's mail", LIMIT, || {
        let log = mail.log()?;
        Ok(log.contains("blog@example.test") && log.contains(&format!("To: {OWNER}")))
    })?;
    let containers = cloud.edge_engine.docker(&["ps", "--format", "{{.Names}}"])?;
    for name in ["cloudathome-caddy", "cloudathome-blog", "cloudathome-blog-db"] {
        ensure!(containers.lines().any(|line| line == name), "{name} is missing in {containers}");
    }
    Ok(())
}

fn nextcloud(cloud: &Cloud) -> Result<()> {
    let containers = cloud.home_engine.docker(&["ps", "--format", "{{.Names}}"])?;
    for what in ["", "-db", "-redis", "-cron"] {
        let name = format!("cloudathome-nextcloud{what}");
        ensure!(containers.lines().any(|line| line == name), "{name} is missing in {containers}");
    }
    let occ = |arguments: &[&str]| {
        let command = ["exec", "--user", "www-data", "cloudathome-nextcloud", "php", "/var/www/html/occ"];
        cloud.home_engine.docker(&[&command, arguments].concat())
    };
    ensure!(occ(&["config:system:get", "dbtype"])?.trim() == "pgsql", "it does not use PostgreSQL");
    wait_until("what is set up after the first start", LIMIT, || {
        ensure!(occ(&["config:system:get", "default_phone_region"])?.trim() == "DE", "the phone region is not set");
        ensure!(occ(&["app:list"])?.contains("mail"), "the app mail is not installed");
        Ok(true)
    })?;
    let roles = "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'oc_%' OR (rolname = 'nextcloud' AND rolcreaterole)";
    let psql = ["exec", "cloudathome-nextcloud-db", "psql", "-U", "postgres", "-tAc", roles];
    ensure!(cloud.home_engine.docker(&psql)?.trim() == "0", "Nextcloud could make a role of its own");
    // One app can't be had: that is told, and the service goes on.
    wait_until("the app that can't be had in the status", LIMIT, || {
        let health = health(&cloud.home, "nextcloud")?;
        ensure!(health["state"] == "degraded", "its health is {health}");
        ensure!(health["reason"].as_str().is_some_and(|reason| reason.contains("passwords")), "its health is {health}");
        Ok(true)
    })?;
    ensure!(cloud.visitor()?.get(&cloud.url("/login"))?.status == 200, "the login page is not there");
    Ok(())
}

/// Ghost must not notice a new agent.
fn restart(cloud: &mut Cloud) -> Result<()> {
    let started = ["inspect", "--format", "{{.Id}} {{.State.StartedAt}}", "cloudathome-blog", "cloudathome-blog-db"];
    let before = cloud.edge_engine.docker(&started)?;
    let visitor = cloud.visitor()?;
    cloud.edge.process.kill9();
    cloud.edge.process.restart()?;
    let mut refused = None;
    wait_until("the new agent to find Ghost healthy", LIMIT, || {
        let reply = visitor.get("https://example.test/")?;
        if reply.status != 200 {
            refused = Some(reply.status);
        }
        Ok(health(&cloud.edge, "blog")?["state"] == "healthy")
    })?;
    ensure!(refused.is_none(), "Ghost answered {refused:?} while the agent started");
    ensure!(cloud.edge_engine.docker(&started)? == before, "a container was touched");
    Ok(())
}

/// A Caddy with an empty volume takes over what another one had, and asks for no new certificate.
fn imported(cloud: &mut Cloud) -> Result<()> {
    let edge = &mut cloud.edge;
    let certificate = || {
        let show = "cat /data/caddy/certificates/*/example.test/example.test.crt";
        cloud.edge_engine.docker(&["exec", "cloudathome-caddy", "sh", "-c", show])
    };
    let before = certificate()?;
    ensure!(before.contains("BEGIN CERTIFICATE"), "the certificate is {before:?}");
    let store = edge.host.dir().join("store");
    let store = store.to_string_lossy();
    cloud.edge_engine.docker(&["cp", "cloudathome-caddy:/data", &store])?;
    edge.process.terminate(LIMIT)?;
    let volume = ["inspect", "--format", "{{range .Mounts}}{{if eq .Destination \"/data\"}}{{.Name}}{{end}}{{end}}"];
    let volume = cloud.edge_engine.docker(&[&volume[..], &["cloudathome-caddy"]].concat())?;
    cloud.edge_engine.docker(&["rm", "--force", "cloudathome-caddy"])?;
    cloud.edge_engine.docker(&["volume", "rm", volume.trim()])?;
    let file = edge.host.dir().join("edge-agent.toml");
    let config = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let config = config.replace("[ingress]\n", &format!("[ingress]\nimport = {store:?}\n"));
    fs::write(&file, config).with_context(|| format!("write {}", file.display()))?;
    edge.process.restart()?;
    page(cloud, "https://example.test/", "Notes")?;
    ensure!(certificate()? == before, "it asked for a new certificate");
    Ok(())
}

fn page(cloud: &Cloud, url: &str, content: &str) -> Result<()> {
    let visitor = cloud.visitor()?;
    wait_until(url, LIMIT, || {
        let reply = visitor.get(url)?;
        ensure!(reply.status == 200, "{url} answers {}", reply.status);
        ensure!(reply.text().contains(content), "{url} shows something else");
        Ok(true)
    })
    .map(drop)
}

fn health(agent: &Agent, service: &str) -> Result<Value> {
    let status = agent.status()?;
    let services = status["local"]["services"].as_array().context("no list of services")?;
    let service = services.iter().find(|known| known["name"] == service);
    Ok(service.context("the service is not there")?["health"].clone())
}
