//! From bare hosts to a working cloud, as a new user: the packages, `agentctl init` on the VPS, `agentctl join` at home, and a visitor
//! gets Nextcloud. Then everything that a person may do wrong.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::hosts::{EDGE, HOME, Hosts, install, property};
use lab::images::Wanted;
use lab::{System, capability, wait_until};
use serde_json::Value;

/// For a visitor to get the service, and to lose it.
const LIMIT: Duration = Duration::from_secs(120);
/// For Nextcloud to be installed by `join`, which waits for it.
const JOINING: Duration = Duration::from_secs(300);
const NEXTCLOUD: &str = "https://cloud.example.test/status.php";
const VERSION: &str = "1.0";

/// Runs agentctl with this on its standard input, and gives back how it ended.
fn agentctl_with(system: &System, input: &str, arguments: &[&str]) -> Result<Output> {
    let mut command = system.command("timeout")?;
    command.arg(JOINING.as_secs().to_string()).arg("agentctl").args(arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // It may have ended without a look at it.
    let _ = child.stdin.take().context("no standard input")?.write_all(input.as_bytes());
    child.wait_with_output().context("wait for agentctl")
}

fn agentctl(system: &System, arguments: &[&str]) -> Result<Output> {
    agentctl_with(system, "", arguments)
}

/// Runs agentctl at a terminal, where a person types these lines, and gives back what is on the screen.
fn at_a_terminal(system: &System, typed: &str, arguments: &str) -> Result<String> {
    let line = format!("script --quiet --return --command 'agentctl {arguments}' /dev/null");
    let mut command = system.command("timeout")?;
    command.arg(JOINING.as_secs().to_string()).args(["sh", "-c", &line]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.as_mut().context("no standard input")?.write_all(typed.as_bytes())?;
    let output = child.wait_with_output().context("wait for agentctl")?;
    let screen = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    ensure!(output.status.success(), "it ends with {:?}: {screen}", output.status.code());
    Ok(screen)
}

/// Expects agentctl to have refused, with this exit code and these words.
fn refused(output: &Output, code: i32, words: &[&str]) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(code), "it ends with {:?}, not {code}: {said}", output.status.code());
    for word in words {
        ensure!(said.contains(word), "it does not say {word:?}: {said}");
    }
    Ok(())
}

fn done(output: Output) -> Result<String> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "it ends with {:?}: {said}", output.status.code());
    Ok(String::from_utf8(output.stdout)?)
}

/// The answers that stand for a registry of names and an ACME server of the lab's own.
fn answers(hosts: &Hosts) -> Result<()> {
    let edge = format!(
        "acme_directory = \"{}\"\nacme_api_root = \"/etc/cloudathome/api.pem\"\n\
         acme_issuer_root = \"/etc/cloudathome/issuer.pem\"\nblog = false\n",
        hosts.pebble.directory_url()
    );
    hosts.vps.write("/root/answers.toml", edge)?;
    hosts.home.write("/root/answers.toml", "acme_issuer_root = \"/etc/cloudathome/issuer.pem\"\n")
}

const INIT: [&str; 7] =
    ["init", "--domain", "example.test", "--email", "me@example.test", "--answers", "/root/answers.toml"];
const JOIN: [&str; 3] = ["join", "--answers", "/root/answers.toml"];

#[test]
fn two_commands_make_a_cloud() -> Result<()> {
    if !capability::or_skip()? {
        return Ok(());
    }
    let hosts = Hosts::boot(&[Wanted::Caddy], &[Wanted::Nextcloud, Wanted::Postgres, Wanted::Redis])?;
    // There is no registry here; Debian's PostgreSQL goes by the name of the one that a new cloud is given.
    hosts.home.exec(&["docker", "tag", "postgres:15", "postgres:17"])?;
    let begun = Instant::now();
    let step = |what: &str| println!("{:5.1} s {what}", begun.elapsed().as_secs_f32());
    answers(&hosts)?;
    for (system, package) in [(&hosts.vps, EDGE), (&hosts.home, HOME)] {
        install(&hosts, system, package, VERSION)?;
    }
    let checked = everything(&hosts, &step);
    checked.with_context(|| {
        format!("the edge's journal:\n{}\nhome's:\n{}", hosts.vps.journal(EDGE, 30), hosts.home.journal(HOME, 30))
    })
}

fn everything(hosts: &Hosts, step: &dyn Fn(&str)) -> Result<()> {
    step("what is in the way is told, and nothing is changed");
    in_the_way(hosts).context("before init")?;

    step("init");
    let code = done(agentctl(&hosts.vps, &INIT)?)?;
    let letters = code.trim().chars().filter(|&c| c != '-').count();
    ensure!(letters == 60, "the code is {code:?}");
    step("init again");
    again(hosts, &code).context("init again")?;

    step("wrong codes");
    wrong_codes(hosts, &code).context("wrong codes")?;

    step("join");
    let joined = agentctl_with(&hosts.home, &code, &[&JOIN[..], &["--json"]].concat())?;
    let told: Value = serde_json::from_str(&done(joined)?)?;
    step("join has ended");
    ensure!(told["services"][0]["serving"]["state"] == "serving", "join says {told}");
    let answer = hosts.visitor.get(NEXTCLOUD)?;
    ensure!(answer.status == 200, "a visitor gets {}", answer.status);
    ensure!(!hosts.home.path("/var/lib/cloudathome/join.key")?.exists(), "the key of the join is still there");
    let mode = hosts.home.exec(&["stat", "--format", "%a", "/var/lib/cloudathome/identity/host.key"])?;
    ensure!(mode.trim() == "600", "the key of home has mode {mode}");

    step("join again");
    let again = agentctl(&hosts.home, &JOIN)?;
    ensure!(String::from_utf8_lossy(&again.stderr).contains("has joined already"), "it says {again:?}");
    done(again)?;
    let again = agentctl(&hosts.vps, &INIT)?;
    ensure!(String::from_utf8_lossy(&again.stderr).contains("Home is connected"), "init says {again:?}");
    ensure!(done(again)?.is_empty(), "init makes a code for a home that is there");

    step("another home takes its place by a new code, and the one before is out");
    replaced(hosts).context("home set up anew")?;

    step("home leaves, and comes back to its data");
    left_and_back(hosts).context("leave")?;
    step("both are purged, and nothing is left");
    purged(hosts).context("purge")?;
    step("done");
    Ok(())
}

fn in_the_way(hosts: &Hosts) -> Result<()> {
    let (vps, home) = (&hosts.vps, &hosts.home);
    let untouched = || -> Result<()> {
        for (system, role) in [(vps, "edge"), (home, "home")] {
            for path in [format!("/etc/cloudathome/{role}.toml"), "/var/lib/cloudathome".to_owned()] {
                ensure!(!system.path(&path)?.exists(), "{path} was made");
            }
        }
        Ok(())
    };
    // Bad words, on the command line and in a file.
    refused(&agentctl(vps, &["init", "--domain", "not a domain"])?, 2, &["not a domain"])?;
    refused(&agentctl(vps, &["init"])?, 2, &["--domain"])?;
    refused(&agentctl(vps, &["init", "--domain", "example.test", "--email", "me"])?, 2, &["not a mail address"])?;
    vps.write("/root/wrong.toml", "domain = \"example.test\"\ncode = \"x\"\n")?;
    refused(&agentctl(vps, &["init", "--answers", "/root/wrong.toml"])?, 64, &["wrong.toml", "code"])?;
    // A name that leads elsewhere.
    let elsewhere =
        ["init", "--domain", "elsewhere.test", "--email", "me@example.test", "--answers", "/root/answers.toml"];
    let output = agentctl(vps, &elsewhere)?;
    refused(&output, 4, &["*.elsewhere.test", "at your DNS provider: *.elsewhere.test  A  198.51.100.10"])?;
    // The same at a terminal, after a mistake in each answer; it is looked at again, and given up.
    let screen = at_a_terminal(
        vps,
        "not a domain\nelsewhere.test\nme\nme@example.test\n\nlater\nn\n",
        "init --answers /root/answers.toml",
    )?;
    for part in
        ["\"not a domain\":", "\"me\" is not a mail address", "press Enter", "Go on? [Y/n]", "Nothing was changed."]
    {
        ensure!(screen.contains(part), "the screen lacks {part:?}: {screen}");
    }
    ensure!(screen.matches("press Enter").count() == 2, "it is not looked at again: {screen}");
    // Somebody has a port.
    let mut web = vps.command("busybox")?.args(["httpd", "-f", "-p", "80", "-h", "/root"]).spawn()?;
    let taken = wait_until("the port to be taken", LIMIT, || {
        vps.host().connects(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 80), Duration::from_secs(1))
    });
    let busy =
        taken.and_then(|_| refused(&agentctl(vps, &INIT)?, 4, &["80/tcp is in use by busybox", "systemctl status"]));
    vps.exec(&["pkill", "busybox"])?;
    web.wait()?;
    busy?;
    // The engine is away.
    home.exec(&["systemctl", "stop", "docker.socket", "docker.service"])?;
    let output = agentctl(home, &JOIN)?;
    home.exec(&["systemctl", "start", "docker.socket", "docker.service"])?;
    refused(&output, 4, &["no container engine answers", "nothing was changed"])?;
    // A look alone.
    let dry = agentctl(vps, &[&INIT[..], &["--dry-run", "--json"]].concat())?;
    let told: Value = serde_json::from_str(&done(dry)?)?;
    ensure!(told["changed"] == false && told["code"].is_null(), "a dry run says {told}");
    ensure!(told["records"][0]["name"] == "*.example.test", "a dry run says {told}");
    untouched()
}

fn again(hosts: &Hosts, code: &str) -> Result<()> {
    let vps = &hosts.vps;
    let file = vps.exec(&["cat", "/etc/cloudathome/edge.toml"])?;
    let process = property(vps, EDGE, "MainPID")?;
    // What was answered is in the configuration.
    let other = done(agentctl(vps, &["init"])?)?;
    ensure!(other != code, "the same code was made twice");
    ensure!(vps.exec(&["cat", "/etc/cloudathome/edge.toml"])? == file, "init changed the configuration");
    ensure!(property(vps, EDGE, "MainPID")? == process, "init started the agent again");
    let moved = ["init", "--domain", "other.test", "--email", "me@example.test"];
    refused(&agentctl(vps, &moved)?, 1, &["the edge of example.test already"])?;
    refused(&agentctl(vps, &["join"])?, 4, &["this host is the edge of a cloud"])
}

fn wrong_codes(hosts: &Hosts, code: &str) -> Result<()> {
    let home = &hosts.home;
    let try_code = |code: &str| agentctl_with(home, code, &JOIN);
    refused(&try_code("")?, 2, &["no join code"])?;
    refused(&try_code("hello")?, 2, &["no join code"])?;
    let mistyped: String = code.chars().rev().collect();
    refused(&try_code(&mistyped)?, 2, &["mistyped"])?;
    // In argv everybody on the host would see it.
    refused(&agentctl(home, &["join", code.trim()])?, 2, &["unexpected argument"])?;
    // Of an edge that is elsewhere, and of one that is not there.
    let elsewhere = agentctl_with(home, code, &[&JOIN[..], &["--edge", "203.0.113.5"]].concat())?;
    refused(&elsewhere, 1, &["nobody answers at 203.0.113.5:1194", "agentctl status"])?;
    // One that ran out, and one that was revoked, say so and nothing else.
    let short = done(agentctl(&hosts.vps, &["code", "new", "--life", "1s"])?)?;
    wait_until("the code to run out", LIMIT, || {
        Ok(done(agentctl(&hosts.vps, &["code", "list"])?)?.contains("expired"))
    })?;
    refused(&try_code(&short)?, 1, &["the code has expired"])?;
    let revoked = agentctl(&hosts.vps, &["code", "new", "--json"])?;
    let revoked: Value = serde_json::from_str(&done(revoked)?)?;
    let (text, id) = (revoked["code"].as_str().context("no code")?, revoked["id"].as_str().context("no id")?);
    done(agentctl(&hosts.vps, &["code", "revoke", id])?)?;
    refused(&try_code(text)?, 1, &["the code was revoked", "agentctl code new"])?;
    ensure!(!home.path("/etc/cloudathome/home.toml")?.exists(), "a wrong code left a configuration");
    Ok(())
}

fn replaced(hosts: &Hosts) -> Result<()> {
    let (vps, home) = (&hosts.vps, &hosts.home);
    let before = home.exec(&["cat", "/var/lib/cloudathome/identity/host.crt"])?;
    let code = done(agentctl(vps, &["code", "new"])?)?;
    home.exec(&["systemctl", "stop", HOME])?;
    home.exec(&["sh", "-c", "mv /etc/cloudathome/home.toml /root/ && rm -r /var/lib/cloudathome/identity"])?;
    let screen = at_a_terminal(home, &format!("{}\n{}\n\n", &code[..30], code.trim()), &JOIN.join(" "))?;
    for part in ["this is no join code", "Go on? [Y/n]", "nextcloud serves: https://cloud.example.test"] {
        ensure!(screen.contains(part), "the screen lacks {part:?}: {screen}");
    }
    ensure!(home.exec(&["cat", "/var/lib/cloudathome/identity/host.crt"])? != before, "the identity is the old one");
    let answer = hosts.visitor.get(NEXTCLOUD)?;
    ensure!(answer.status == 200, "a visitor gets {}", answer.status);
    let list = done(agentctl(vps, &["identity", "list", "--json"])?)?;
    let list: Value = serde_json::from_str(&list)?;
    let homes: Vec<bool> = list
        .as_array()
        .context("no list")?
        .iter()
        .filter(|identity| identity["role"] == "home")
        .map(|identity| identity["revoked"].is_null())
        .collect();
    ensure!(homes.len() == 2 && homes.iter().filter(|counts| **counts).count() == 1, "the homes are {list}");
    // The code is used up.
    home.exec(&["systemctl", "stop", HOME])?;
    home.exec(&["sh", "-c", "mv /etc/cloudathome/home.toml /root/ && mv /var/lib/cloudathome/identity /root/"])?;
    refused(&agentctl_with(home, &code, &JOIN)?, 1, &["the code was used already"])?;
    home.exec(&["sh", "-c", "mv /root/home.toml /etc/cloudathome/ && mv /root/identity /var/lib/cloudathome/"])?;
    home.exec(&["systemctl", "start", HOME]).map(drop)?;
    Ok(())
}

/// The containers of all services, running or not.
fn containers(system: &System) -> Result<String> {
    system.exec(&["docker", "ps", "--all", "--format", "{{.Names}}"])
}

fn left_and_back(hosts: &Hosts) -> Result<()> {
    let (vps, home) = (&hosts.vps, &hosts.home);
    let volumes = || home.exec(&["docker", "volume", "ls", "--quiet"]);
    let before = volumes()?;
    ensure!(before.contains("cloudathome-nextcloud-data"), "the volumes are {before}");
    let kept = home.exec(&["cat", "/var/lib/cloudathome/secrets/nextcloud-admin-password"])?;

    refused(&agentctl(home, &["leave"])?, 2, &["there is no terminal", "--yes"])?;
    let dry = agentctl(home, &["leave", "--dry-run", "--json"])?;
    let told: Value = serde_json::from_str(&done(dry)?)?;
    ensure!(told["changed"] == false && told["stays"][0].to_string().contains("cloudathome-nextcloud-data"), "{told}");
    let screen = at_a_terminal(home, "n\n", "leave")?;
    ensure!(screen.contains("Nothing was changed."), "the screen is {screen}");
    ensure!(containers(home)?.contains("cloudathome-nextcloud"), "a look has removed something");

    // Twice, and also with an agent that has been killed.
    home.exec(&["systemctl", "kill", "--signal=KILL", HOME])?;
    for _ in 0..2 {
        done(agentctl(home, &["leave", "--yes"])?)?;
        ensure!(containers(home)?.is_empty(), "these are left: {}", containers(home)?);
        ensure!(volumes()? == before, "the volumes are {}", volumes()?);
        ensure!(property(home, HOME, "ActiveState")? == "inactive", "the agent runs");
        ensure!(property(home, HOME, "UnitFileState")? == "disabled", "the agent starts with the host");
        let link = home.output(LIMIT, &["ip", "link", "show", "cah0"])?;
        ensure!(!link.status.success(), "the link is there");
        let table = home.output(LIMIT, &["nft", "list", "table", "inet", "cloudathome"])?;
        ensure!(!table.status.success(), "the guard is there");
        home.exec(&["test", "-e", "/etc/cloudathome/home.toml.left"])?;
        ensure!(!home.path("/var/lib/cloudathome/identity")?.exists(), "the identity is there");
    }
    done(agentctl(vps, &["identity", "revoke", "home"])?)?;
    let code = done(agentctl(vps, &["code", "new"])?)?;
    done(agentctl_with(home, &code, &JOIN)?)?;
    let password = home.exec(&["cat", "/var/lib/cloudathome/secrets/nextcloud-admin-password"])?;
    ensure!(password == kept && volumes()? == before, "it did not come back to its data");
    let answer = hosts.visitor.get(NEXTCLOUD)?;
    ensure!(answer.status == 200, "a visitor gets {}", answer.status);
    Ok(())
}

fn purged(hosts: &Hosts) -> Result<()> {
    for (system, typed) in [(&hosts.home, "yes\n"), (&hosts.vps, "\n")] {
        refused(&agentctl(system, &["purge"])?, 2, &["--yes-delete-everything"])?;
        let screen = at_a_terminal(system, typed, "purge")?;
        ensure!(screen.contains("DELETE the volumes") && screen.contains("Nothing was changed."), "{screen}");
    }
    let screen = at_a_terminal(&hosts.home, "delete\n", "purge")?;
    ensure!(screen.contains("/var/lib/cloudathome deleted"), "the screen is {screen}");
    done(agentctl(&hosts.vps, &["purge", "--yes-delete-everything"])?)?;
    for system in [&hosts.vps, &hosts.home] {
        ensure!(containers(system)?.is_empty(), "these are left: {}", containers(system)?);
        ensure!(system.exec(&["docker", "volume", "ls", "--quiet"])?.is_empty(), "volumes are left");
        let networks = system.exec(&["docker", "network", "ls", "--format", "{{.Name}}"])?;
        ensure!(!networks.contains("cloudathome"), "networks are left: {networks}");
        for dir in ["/var/lib/cloudathome", "/etc/cloudathome"] {
            ensure!(!system.path(dir)?.exists(), "{dir} is left");
        }
    }
    Ok(())
}
