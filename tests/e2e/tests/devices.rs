//! A device with the profile that `agentctl` makes: each client that can run here takes it and gets to the edge.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{Agent, Binaries, stock};
use lab::{Lab, Peers, Topology, capability, wait_until};

const EDGE_INSIDE: &str = "10.86.0.1";

/// Runs agentctl to its end.
fn agentctl(binaries: &Binaries, words: &[&str]) -> Result<()> {
    let output = Command::new(binaries.path("agentctl")).args(words).output()?;
    ensure!(output.status.success(), "agentctl {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
fn every_client_takes_the_profile_that_we_write() -> Result<()> {
    if !capability::or_skip()? {
        return Ok(());
    }
    let peers = Peers::provide(&mut |step| println!("{step}"))?;
    let lab = Lab::new(Topology::HomeBehindNat)?;
    let (vps, home) = (lab.host("vps")?, lab.host("home")?);
    let binaries = Binaries::beside_this_one()?;
    let path = |path: PathBuf| path.to_string_lossy().into_owned();
    let (authority, identity) = (path(vps.dir().join("authority")), path(vps.dir().join("identity")));
    agentctl(&binaries, &["pki", "init", "--dir", &authority])?;
    let issue = ["pki", "issue", "--ca", &authority, "--role", "edge", "--name", "vps", "--out", &identity];
    agentctl(&binaries, &issue)?;
    let config = format!(
        "domain = \"example.test\"\nidentity_dir = {identity:?}\nstate_dir = {:?}\n\n\
         [tunnel]\nmode = \"listen\"\npeer = \"attic\"\n",
        vps.dir().join("state"),
    );
    let edge = Agent::start(vps, &binaries, "edge-agent", &config)?;
    wait_until("the edge", Duration::from_secs(20), || Ok(edge.metrics().is_ok()))?;

    let dir = home.dir();
    let clients = [
        ("openvpn-3", peers.openvpn3(&dir)?, "Connected to"),
        ("openvpn-2.6", PathBuf::from("openvpn"), stock::CONNECTED),
        ("openvpn-2.7", peers.openvpn(&dir)?, stock::CONNECTED),
    ];
    for (name, program, connected) in clients {
        // UDP, and TCP where that is all there is.
        for remote in ["vps.example.test", "vps.example.test/tcp"] {
            let label = format!("{name}-{}", if remote.ends_with("tcp") { "tcp" } else { "udp" });
            let profile = path(dir.join(format!("{label}.ovpn")));
            let device = label.replace('.', "-");
            let words = ["--name", &device, "--server", "vps", "--remote", remote, "--out", &profile];
            agentctl(&binaries, &[&["pki", "profile", "--ca", &authority][..], &words].concat())?;
            let mut command = home.command(&program.to_string_lossy());
            if name != "openvpn-3" {
                command.arg("--config");
            }
            command.arg(&profile);
            let mut client = home.spawn(&label, command)?;
            let log = client.log_path().to_owned();
            client.wait_until(&format!("{label} to connect"), stock::CONNECT_LIMIT, || {
                Ok(fs::read_to_string(&log)?.contains(connected))
            })?;
            home.exec(&["ping", "-c", "3", "-i", "0.2", "-W", "3", EDGE_INSIDE])?;
            let said = client.log()?;
            for trouble in ["Options error", "WARNING", "DEPRECATED", "ERROR", "CRITICAL", "TLS Error", "Decrypt error"]
            {
                ensure!(!said.contains(trouble), "{label}: {trouble} in\n{said}");
            }
            if name == "openvpn-3" {
                // Its goodbye takes effect at once.
                fs::write(format!("{profile}.stop"), "")?;
                wait_until("the edge to notice that it left", Duration::from_secs(10), || {
                    Ok(edge.metric("cloudathome_tunnel_peers")? == Some(0.0))
                })?;
            } else {
                client.terminate(Duration::from_secs(10))?;
            }
        }
    }

    // NetworkManager, which runs openvpn itself, makes a connection of it that means the same.
    let program = path(peers.network_manager(&dir)?);
    let profile = path(dir.join("openvpn-2.7-udp.ovpn"));
    let said = home.exec(&[&program, &profile])?;
    for part in [
        "connection-type = tls",
        "remote = vps.example.test:1194:udp\\, vps.example.test:1194:tcp",
        "remote-cert-tls = server",
        "verify-x509-name = name:vps",
        "tls-version-min = 1.2",
        "-tls-crypt.pem",
        "-key.pem",
    ] {
        ensure!(said.contains(part), "NetworkManager has no '{part}' in\n{said}");
    }
    Ok(())
}
