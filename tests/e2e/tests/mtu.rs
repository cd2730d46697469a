//! The MTU inside of the tunnel between the agents: it follows the path, unless it is set. A device that connects with our
//! own client takes part.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Agent, Binaries};
use lab::{Host, Lab, Topology, capability, wait_until};

/// For an agent to start, and for a search on a path whose links tell their MTU.
const LIMIT: Duration = Duration::from_secs(20);

fn agentctl(binaries: &Binaries, words: &[&str]) -> Result<()> {
    let output = Command::new(binaries.path("agentctl")).args(words).output()?;
    ensure!(output.status.success(), "agentctl {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn text(path: PathBuf) -> String {
    path.to_string_lossy().into_owned()
}

/// The MTU and the queue of a link.
fn link(host: &Host, device: &str) -> Result<(u16, u32)> {
    let shown = host.exec(&["ip", "-o", "link", "show", "dev", device])?;
    // Lines are joined by backslashes.
    let shown = shown.replace('\\', " ");
    let after = |word: &str| shown.split_whitespace().skip_while(|&other| other != word).nth(1).context(shown.clone());
    Ok((after("mtu")?.parse()?, after("qlen")?.parse()?))
}

fn wait_for_mtu(host: &Host, device: &str, mtu: u16) -> Result<()> {
    let what = format!("the MTU {mtu} of {device} at {}", host.name());
    wait_until(&what, LIMIT, || Ok(link(host, device)?.0 == mtu)).map(drop)
}

#[test]
fn the_mtu_follows_the_path_unless_it_is_set() -> Result<()> {
    if !capability::or_skip()? {
        return Ok(());
    }
    let lab = Lab::new(Topology::HomeBehindNat)?;
    let (vps, home) = (lab.host("vps")?, lab.host("home")?);
    let binaries = Binaries::beside_this_one()?;
    let authority = text(vps.dir().join("authority"));
    agentctl(&binaries, &["pki", "init", "--dir", &authority])?;
    let hosts = [(vps, "edge", "vps"), (home, "home", "attic")];
    for (host, role, name) in hosts {
        let out = text(host.dir().join("identity"));
        agentctl(&binaries, &["pki", "issue", "--ca", &authority, "--role", role, "--name", name, "--out", &out])?;
    }
    let config = |host: &Host, more: &str| {
        let dir = host.dir();
        let (identity, state) = (dir.join("identity"), dir.join("state"));
        format!("identity_dir = {identity:?}\nstate_dir = {state:?}\n{more}")
    };
    let edge_tunnel = "domain = \"example.test\"\n\n[tunnel]\nmode = \"listen\"\npeer = \"attic\"\n";
    let home_tunnel = "\n[tunnel]\nmode = \"dial\"\npeer = \"vps\"\nremotes = [\"vps.example.test:1194\"]\n";

    let edge = Agent::start(vps, &binaries, "edge-agent", &config(vps, edge_tunnel))?;
    let agent = Agent::start(home, &binaries, "home-agent", &config(home, home_tunnel))?;
    for (host, agent) in [(vps, &edge), (home, &agent)] {
        wait_for_mtu(host, "cah0", 1444)?;
        wait_until("the metrics", LIMIT, || {
            let metrics = agent.metrics()?;
            let path = metrics.lines().find(|line| line.starts_with("cloudathome_tunnel_path_mtu_bytes{"));
            let has_path = path.is_some_and(|line| line.ends_with(" 1500"));
            Ok(has_path && agent.metric("cloudathome_tunnel_mtu_bytes")? == Some(1444.0))
        })?;
    }
    let shown = vps.exec(&[&text(binaries.path("agentctl")), "tunnel"])?;
    ensure!(shown.contains("MTU 1444") && shown.contains("PATH MTU") && shown.contains("  1500  "), "{shown}");

    let profile = text(home.dir().join("phone.ovpn"));
    let words = ["--name", "phone", "--server", "vps", "--remote", "vps.example.test", "--out", &profile];
    agentctl(&binaries, &[&["pki", "profile", "--ca", &authority][..], &words].concat())?;
    for (offload, queue) in [("auto", 64), ("off", 200)] {
        let mut command = home.command(&text(binaries.path("agentctl")));
        let journals = text(home.dir().join("journals"));
        command.args(["connect", "--device", "own0", "--journals", &journals, "--offload", offload, &profile]);
        let mut client = home.spawn(&format!("connect-{offload}"), command)?;
        let log = client.log_path().to_owned();
        client.wait_until("our client's MTU", LIMIT, || {
            Ok(std::fs::read_to_string(&log)?.contains(&format!("set: device up, mtu 1444, queue length {queue}\n")))
        })?;
        ensure!(link(home, "own0")? == (1444, queue), "{:?}", link(home, "own0")?);
        client.terminate(LIMIT)?;
    }

    let (mut edge, mut agent) = (edge, agent);
    for agent in [&mut agent, &mut edge] {
        ensure!(agent.process.terminate(LIMIT)?.success(), "an agent did not end well");
    }
    let set = "mtu = 1300\n";
    let edge = Agent::start(vps, &binaries, "edge-agent", &config(vps, &format!("{edge_tunnel}{set}")))?;
    let agent = Agent::start(home, &binaries, "home-agent", &config(home, &format!("{home_tunnel}{set}")))?;
    for (host, agent) in [(vps, &edge), (home, &agent)] {
        wait_until("the tunnel", LIMIT, || Ok(agent.metric("cloudathome_tunnel_connected")? == Some(1.0)))?;
        wait_for_mtu(host, "cah0", 1300)?;
        let metrics = agent.metrics()?;
        ensure!(!metrics.contains("cloudathome_tunnel_path_mtu_bytes{"), "{metrics}");
    }
    home.exec(&["ping", "-c", "3", "-i", "0.2", "-W", "3", "-s", "1272", "-M", "do", "10.86.0.1"]).context("ping")?;
    Ok(())
}
