//! `agentctl doctor` on two hosts: everything is well first, then one thing after the other is not, and each time a finding says so with
//! its next step.

use std::fs;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use e2e::proofs::Cut;
use e2e::streams::Sink;
use e2e::{Binaries, Cloud, Dialer, More};
use lab::{Process, capability, wait_until};
use pki::RevocationList;
use serde_json::Value;

/// For findings to follow what has happened: what was seen stays good for five seconds, and the tunnel needs ten to go another way.
const LIMIT: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);
/// Its image is nowhere, so it never runs; that it would send mail is enough.
const BLOG: &str = r#"
[services.blog]
kind = "ghost"
image = "nowhere.example.test/ghost:6"
title = "Notes"
mail = { host = "203.0.113.5", port = 2525, security = "none", from = "blog@example.test" }
"#;
/// What is looked at of the edge, and is well at first.
const OF_EDGE: [&str; 14] = [
    "engine",
    "TUN",
    "tunnel",
    "control",
    "clock",
    "identity",
    "CRL",
    "DNS",
    "mail",
    "port 80/tcp",
    "port 443/tcp",
    "port 443/udp",
    "port 1194/udp",
    "port 1194/tcp",
];
/// And of home.
const OF_HOME: [&str; 13] = [
    "engine",
    "TUN",
    "tunnel",
    "control",
    "clock",
    "identity",
    "CRL",
    "DNS",
    "vps 80/tcp",
    "vps 443/tcp",
    "vps 443/udp",
    "vps 1194/udp",
    "vps 1194/tcp",
];

/// What the doctor says of a host, by way of either agent.
struct Findings(Value);

impl Findings {
    /// Of both hosts, asked at home or on the edge.
    fn ask(cloud: &Cloud, at_home: bool) -> Result<Self> {
        Ok(Self(if at_home { &cloud.home } else { &cloud.edge }.doctor()?))
    }

    fn of<'a>(&'a self, host: &str, check: &str) -> impl Iterator<Item = &'a Value> {
        let all = self.0.as_array().map(Vec::as_slice).unwrap_or_default();
        all.iter().filter(move |one| one["host"] == host && one["check"] == check)
    }

    /// Whether there is one of this grade with these words, and a next step with those.
    fn has(&self, host: &str, check: &str, grade: &str, text: &str, next: &str) -> bool {
        let holds = |value: &Value, words: &str| value.as_str().is_some_and(|value| value.contains(words));
        self.of(host, check).any(|one| one["grade"] == grade && holds(&one["text"], text) && holds(&one["next"], next))
    }

    fn is_good(&self, host: &str, check: &str) -> bool {
        let mut found = self.of(host, check).peekable();
        found.peek().is_some() && found.all(|one| one["grade"] == "good")
    }
}

#[test]
fn each_fault_is_found_from_either_end_with_its_next_step() -> Result<()> {
    if !capability::or_skip()? {
        return Ok(());
    }
    let more = More {
        without_nextcloud: true,
        home: Sink::config(),
        edge: BLOG.to_owned(),
        over_tcp_too: true,
        ..More::default()
    };
    let binaries = Binaries::beside_this_one()?;
    let cloud = Cloud::start_with(Dialer::Home, &binaries, &more, &mut |what| println!("{what}"))?;
    let checked = check(&cloud);
    if checked.is_err() {
        for agent in [&cloud.edge, &cloud.home] {
            println!("{}\n{}", agent.status_text()?, agent.process.log_tail(40));
            println!("{:#}", agent.doctor().unwrap_or_default());
        }
    }
    checked?;
    cloud.stop()
}

/// Somebody's mail server.
fn mail(cloud: &Cloud) -> Result<Process> {
    let host = cloud.lab.host("visitor")?;
    let mut command = host.command("aiosmtpd");
    command.args(["--nosetuid", "--listen", "203.0.113.5:2525"]);
    host.spawn("mail", command)
}

fn check(cloud: &Cloud) -> Result<()> {
    let mut mail = mail(cloud)?;
    let _sink = Sink::start(cloud)?;
    for at_home in [true, false] {
        wait_until("both hosts to be found well", LIMIT, || {
            let findings = Findings::ask(cloud, at_home)?;
            let not_well = |(host, check): &(&str, &str)| !findings.is_good(host, check);
            let all = OF_EDGE.map(|check| ("vps", check)).into_iter().chain(OF_HOME.map(|check| ("attic", check)));
            let missing: Vec<_> = all.filter(not_well).collect();
            ensure!(missing.is_empty(), "{missing:?} of {:#}", findings.0);
            Ok(true)
        })?;
    }
    ensure!(
        Findings::ask(cloud, true)?.of("vps", "certificate").count() > 0,
        "no certificate of a public name is looked at"
    );
    // The ingress is shown at home too. That the blog does not serve is its exit code, with which the error has what was printed.
    let shown = cloud.home.agentctl(&["ingress"]).unwrap_or_else(|error| format!("{error:#}"));
    ensure!(shown.contains("sink.example.test"), "of the ingress home shows {shown}");

    the_front_door_is_closed(cloud).context("443 dropped outside")?;
    datagrams_are_dropped(cloud).context("UDP 1194 dropped outside")?;

    mail.kill9();
    let next = "services.blog.mail.host and port right";
    found(cloud, "vps", "mail", "bad", "203.0.113.5:2525, by which blog sends mail, cannot be got to", next)?;
    the_control_channel_is_cut(cloud).context("the control channel is cut")?;
    the_list_has_ended(cloud).context("the list of revoked certificates")
}

/// Waits until either end tells it.
fn found(cloud: &Cloud, host: &str, check: &str, grade: &str, text: &str, next: &str) -> Result<()> {
    for at_home in [true, false] {
        wait_until(&format!("{check} of {host} to be {grade}"), LIMIT, || {
            let findings = Findings::ask(cloud, at_home)?;
            let told: Vec<_> = findings.of(host, check).collect();
            ensure!(findings.has(host, check, grade, text, next), "it is told: {told:?}");
            Ok(true)
        })?;
    }
    Ok(())
}

fn good_again(cloud: &Cloud, host: &str, check: &str) -> Result<()> {
    let what = format!("{check} of {host} to be well again");
    wait_until(&what, LIMIT, || Ok(Findings::ask(cloud, true)?.is_good(host, check))).map(drop)
}

fn the_front_door_is_closed(cloud: &Cloud) -> Result<()> {
    let cut = Cut::new(&cloud.edge.host, "input", "iifname != \"lo\" tcp dport 443")?;
    let text = "not reachable from outside, as seen by attic: 198.51.100.10 does not answer; visitors get nothing";
    found(cloud, "vps", "port 443/tcp", "bad", text, "let 443/tcp in, at the provider's firewall")?;
    found(cloud, "attic", "vps 443/tcp", "bad", "not reachable from here", "let 443/tcp in at vps")?;
    ensure!(Findings::ask(cloud, false)?.is_good("vps", "port 80/tcp"), "80 is said to be closed with it");
    cut.heal()?;
    good_again(cloud, "vps", "port 443/tcp")?;

    // A firewall that says so.
    let rules = "table inet cut { chain cut { type filter hook input priority -300; policy accept; \
                 iifname != \"lo\" udp dport 443 reject; }; }";
    cloud.edge.host.exec(&["nft", rules])?;
    found(
        cloud,
        "vps",
        "port 443/udp",
        "doubtful",
        "198.51.100.10 refuses; browsers do without HTTP/3",
        "let 443/udp in",
    )?;
    cloud.edge.host.exec(&["nft", "delete table inet cut"])?;
    good_again(cloud, "vps", "port 443/udp")
}

fn datagrams_are_dropped(cloud: &Cloud) -> Result<()> {
    let cut = Cut::new(&cloud.edge.host, "input", "iifname != \"lo\" udp dport 1194")?;
    let text = "does not answer; the tunnel can go over TCP only, which is slower";
    found(cloud, "vps", "port 1194/udp", "doubtful", text, "let 1194/udp in, at the provider's firewall")?;
    let findings = Findings::ask(cloud, false)?;
    ensure!(findings.is_good("vps", "port 1194/tcp"), "{:#}", findings.0);
    found(cloud, "vps", "tunnel", "doubtful", "connected over TCP", "UDP 1194")?;
    cut.heal()?;
    good_again(cloud, "vps", "port 1194/udp")?;
    good_again(cloud, "vps", "tunnel")?;
    // The way that is not in use is looked at all the same.
    let cut = Cut::new(&cloud.edge.host, "input", "iifname != \"lo\" tcp dport 1194")?;
    found(
        cloud,
        "vps",
        "port 1194/tcp",
        "doubtful",
        "the tunnel has no other way where UDP is blocked",
        "let 1194/tcp in",
    )?;
    ensure!(Findings::ask(cloud, true)?.is_good("vps", "tunnel"), "the tunnel over UDP is no longer well");
    cut.heal()?;
    good_again(cloud, "vps", "port 1194/tcp")
}

/// Sessions go on until their keys are renewed.
fn the_list_has_ended(cloud: &Cloud) -> Result<()> {
    let list = cloud.ca.sign_list(&mut RevocationList::default(), SystemTime::now() - 3 * DAY, 2 * DAY)?;
    fs::write(cloud.edge.host.dir().join("identity/crl.pem"), list)?;
    wait_until("the list's end to be found", LIMIT, || {
        let findings = Findings::ask(cloud, false)?;
        let text = "the list of revoked certificates ended 1 day ago: the tunnel refuses everybody";
        Ok(findings.has("vps", "CRL", "bad", text, "agentctl pki crl"))
    })?;
    Ok(())
}

/// Each host speaks for itself only.
fn the_control_channel_is_cut(cloud: &Cloud) -> Result<()> {
    let cut = Cut::new(&cloud.edge.host, "input", "tcp dport 7443")?;
    wait_until("home's agent to be out of reach", LIMIT, || {
        let findings = Findings::ask(cloud, false)?;
        Ok(findings.has("vps", "ports", "doubtful", "not looked at from outside", "`agentctl doctor` on attic")
            && findings.has("attic", "agent", "doubtful", "not looked at", "agentctl status"))
    })?;
    // Home still tells what it sees.
    ensure!(Findings::ask(cloud, true)?.is_good("attic", "vps 443/tcp"), "home tells nothing of the edge's ports");
    cut.heal()
}
