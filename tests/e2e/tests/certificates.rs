//! A wildcard certificate by DNS-01: edge-agent orders it, an unmodified Caddy shows it.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Agent, Binaries, identity};
use lab::images::{self, Wanted};
use lab::topology::INTERNET;
use lab::{CHALLENGES, Host, Http, Lab, Pebble, Process, Topology, capability, wait_until};
use model::Role;
use pki::{Ca, Validity};

/// For a first start of everything on a loaded machine.
const LIMIT: Duration = Duration::from_secs(120);
const KEY: &str = "key \"edge\" { algorithm hmac-sha256; secret \"QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVowMTIzNDU=\"; };\n";
const ZONE: &str = "$TTL 60\n@ SOA acme.test. hostmaster.acme.test. 1 60 60 60 60\n@ NS acme.test.\n";

#[test]
fn a_wildcard_is_ordered_by_dns_and_shown_for_every_name() -> Result<()> {
    if !capability::or_skip()? {
        return Ok(());
    }
    let caddy = images::one(Wanted::Caddy, &mut |_| {})?;
    let lab = Lab::new(Topology::HomeBehindNat)?;
    let (internet, vps, visitor) = (lab.host("internet")?, lab.host("vps")?, lab.host("visitor")?);
    let pebble = Pebble::start(&lab)?;
    let _named = serve_challenges(internet)?;
    let engine = vps.start_engine()?;
    engine.load(&caddy)?;

    let identity = identity(
        &Ca::generate("lab", Validity::from_now(Validity::CA))?,
        Role::Edge,
        "vps",
        Validity::from_now(Validity::LEAF),
    )?;
    identity.save(&vps.dir().join("identity"))?;
    let key = vps.dir().join("dns.key");
    fs::write(&key, KEY)?;
    vps.exec(&["chmod", "600", &key.to_string_lossy()])?;
    let service = |name: &str, port: u16| {
        format!(
            "[services.{name}]\nkind = \"container\"\nimage = {:?}\nport = {port}\ncontainer_port = 8000\n\
             command = [\"caddy\", \"respond\", \"--listen\", \":8000\", \"this is {name}\"]\nhealth_path = \"/\"\n",
            caddy.name
        )
    };
    let config = |challenge: &str| {
        format!(
            "domain = \"example.test\"\nidentity_dir = {:?}\nstate_dir = {:?}\n\n\
             [tunnel]\nmode = \"listen\"\npeer = \"attic\"\n\n\
             [ingress]\nemail = \"owner@example.test\"\nimage = {:?}\nacme_directory = {:?}\n\
             acme_api_root = {:?}\nacme_issuer_root = {:?}\n\n{challenge}\n{}\n{}",
            vps.dir().join("identity"),
            vps.dir().join("state"),
            caddy.name,
            pebble.directory_url(),
            pebble.api_root(),
            pebble.issuing_root(),
            service("one", 8081),
            service("two", 8082),
        )
    };
    let binaries = Binaries::beside_this_one()?;
    let dns = format!("[ingress.dns_challenge.rfc2136]\nserver = \"{INTERNET}:{CHALLENGES}\"\nkey_file = {key:?}\n");
    let mut edge = Agent::start(vps, &binaries, "edge-agent", &config(&dns))?;
    let client = Http::new(visitor).trust(pebble.issuing_root()).limit(Duration::from_secs(10));
    for name in ["one", "two"] {
        let served = wait_until("the service at its name", LIMIT, || {
            ensure!(edge.process.is_running(), "the edge has ended: {}", edge.process.log_tail(10));
            Ok(client.get(&format!("https://{name}.example.test/")).is_ok_and(|reply| reply.status == 200))
        });
        served.with_context(|| format!("{}\n{}", edge.status_text().unwrap_or_default(), edge.process.log_tail(40)))?;
        ensure!(client.get(&format!("https://{name}.example.test/"))?.text() == format!("this is {name}"));
    }
    let shown = certificate(visitor, "one")?;
    ensure!(shown.contains("DNS:*.example.test"), "{shown}");
    ensure!(certificate(visitor, "two")? == shown);
    ensure!(orders(&lab)? == 1, "{} orders for one certificate", orders(&lab)?);
    ensure!(caddy_reason(&edge)?.is_none(), "{:?}", caddy_reason(&edge)?);

    // The operator's command fails: the person reads why, and visitors see what they saw before.
    edge.process.terminate(Duration::from_secs(15))?;
    let command = vps.dir().join("dns-command");
    fs::write(&command, "#!/bin/sh\necho 'no credit left' >&2\nexit 3\n")?;
    vps.exec(&["chmod", "700", &command.to_string_lossy()])?;
    let failing = format!("[ingress.dns_challenge]\ncommand = {command:?}\nnames = [\"*.example.test\"]\n");
    let mut edge = Agent::start(vps, &binaries, "edge-agent", &config(&failing))?;
    let told = wait_until("the reason to be shown", LIMIT, || {
        let reason = caddy_reason(&edge).unwrap_or_default().unwrap_or_default();
        Ok(reason.contains("no credit left") && reason.contains("the one before is shown, until "))
    });
    told.with_context(|| format!("{}\n{}", edge.status_text().unwrap_or_default(), edge.process.log_tail(40)))?;
    ensure!(certificate(visitor, "one")? == shown, "the certificate before is gone");

    // With other names and a way that works: the next one takes its place.
    edge.process.terminate(Duration::from_secs(15))?;
    let narrower = format!("[ingress.dns_challenge]\nnames = [\"*.example.test\"]\n{dns}");
    let mut edge = Agent::start(vps, &binaries, "edge-agent", &config(&narrower))?;
    let replaced =
        wait_until("the next certificate", LIMIT, || Ok(certificate(visitor, "one").is_ok_and(|now| now != shown)));
    replaced.with_context(|| format!("{}\n{}", edge.status_text().unwrap_or_default(), edge.process.log_tail(40)))?;
    let next = certificate(visitor, "two")?;
    ensure!(next.contains("DNS:*.example.test") && !next.contains("DNS:example.test"), "{next}");
    ensure!(caddy_reason(&edge)?.is_none(), "{:?}", caddy_reason(&edge)?);

    // Given up again: Caddy orders for itself, and nothing of ours is left where it looks.
    edge.process.terminate(Duration::from_secs(15))?;
    let mut edge = Agent::start(vps, &binaries, "edge-agent", &config(""))?;
    let own = wait_until("Caddy's own certificate", LIMIT, || {
        Ok(certificate(visitor, "one").is_ok_and(|shown| shown.contains("DNS:one.example.test")))
    });
    own.with_context(|| format!("{}\n{}", edge.status_text().unwrap_or_default(), edge.process.log_tail(40)))?;
    edge.process.terminate(Duration::from_secs(15))?;
    Ok(())
}

/// A name server that takes updates of what proves the domain.
fn serve_challenges(internet: &Host) -> Result<Process> {
    let dir = internet.dir().join("named");
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("zone"), ZONE)?;
    let config = format!(
        "options {{ directory \"{0}\"; listen-on port {CHALLENGES} {{ {INTERNET}; }}; listen-on-v6 {{ none; }};
           pid-file \"{0}/pid\"; session-keyfile \"{0}/session.key\"; recursion no; dnssec-validation no; }};
         controls {{ }};
         {KEY}
         zone \"_acme-challenge.example.test\" {{ type primary; file \"zone\"; update-policy {{ grant edge zonesub TXT; }}; }};\n",
        dir.display()
    );
    fs::write(dir.join("named.conf"), config)?;
    let mut command = internet.command("/usr/sbin/named");
    command.args(["-g", "-n", "1", "-c"]).arg(dir.join("named.conf"));
    let mut named = internet.spawn("named", command)?;
    named.wait_until("the name server", Duration::from_secs(20), || {
        let port = CHALLENGES.to_string();
        let ask = ["dig", "+tcp", "+short", "-p", &port, "@198.51.100.1", "_acme-challenge.example.test", "NS"];
        Ok(internet.exec(&ask)?.contains("acme.test."))
    })?;
    Ok(named)
}

/// The names of the certificate that a visitor is shown, and its number.
fn certificate(visitor: &Host, name: &str) -> Result<String> {
    let script = format!(
        "openssl s_client -connect {name}.example.test:443 -servername {name}.example.test </dev/null 2>/dev/null |
           openssl x509 -noout -serial -ext subjectAltName"
    );
    visitor.exec(&["sh", "-c", &script])
}

/// How many orders the ACME server got.
fn orders(lab: &Lab) -> Result<usize> {
    let log = fs::read_to_string(lab.dir().join("logs/internet-pebble.log")).context("read the ACME server's log")?;
    Ok(log.matches("orders in the db").count())
}

/// Why Caddy does not do all that is wanted.
fn caddy_reason(edge: &Agent) -> Result<Option<String>> {
    let status = edge.status()?;
    let services = status["local"]["services"].as_array().context("no list of services")?;
    let caddy = services.iter().find(|service| service["name"] == "caddy").context("no caddy")?;
    Ok(caddy["health"]["reason"].as_str().map(str::to_owned))
}
