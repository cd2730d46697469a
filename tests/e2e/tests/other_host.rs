//! Each host is asked from the other, through the real tunnel, as far as its configuration allows.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{Agent, Binaries, identity};
use lab::{Host, Lab, Topology, capability, wait_until};
use model::Role;
use pki::{Ca, HostIdentity, Validity};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(30);

/// Whom the tunnel of `host` has as a peer, asked from `agent`.
fn peer_of(agent: &Agent, host: &str) -> Result<String> {
    let report: Value = serde_json::from_str(&agent.agentctl(&["tunnel", "--host", host, "--json"])?)?;
    Ok(report["peers"][0]["name"].as_str().unwrap_or_default().to_owned())
}

/// What a command says that fails.
fn refused(agent: &Agent, words: &[&str]) -> String {
    agent.agentctl(words).err().map(|error| format!("{error:#}")).unwrap_or_default()
}

#[test]
fn each_host_is_asked_from_the_other_as_far_as_it_allows() -> Result<()> {
    if !capability::or_skip()? {
        return Ok(());
    }
    let lab = Lab::new(Topology::HomeBehindNat)?;
    let (vps, home) = (lab.host("vps")?, lab.host("home")?);
    let binaries = Binaries::beside_this_one()?;
    let ca = Ca::generate("ours", Validity::from_now(Validity::CA))?;
    let tls_crypt = identity(&ca, Role::Edge, "any", Validity::from_now(Validity::LEAF))?.tls_crypt;
    let start = |host: &Host, role: Role, name: &str, program: &str, more: &str| -> Result<Agent> {
        let (files, state) = (host.dir().join("identity"), host.dir().join("state"));
        let issued = identity(&ca, role, name, Validity::from_now(Validity::LEAF))?;
        HostIdentity { tls_crypt: tls_crypt.clone(), ..issued }.save(&files)?;
        Agent::start(host, &binaries, program, &format!("identity_dir = {files:?}\nstate_dir = {state:?}\n{more}"))
    };
    let listens = "domain = \"example.test\"\n\n[tunnel]\nmode = \"listen\"\npeer = \"attic\"\n";
    let dials = "\n[tunnel]\nmode = \"dial\"\npeer = \"vps\"\nremotes = [\"vps.example.test:1194\"]\n";
    let edge = start(vps, Role::Edge, "vps", "edge-agent", listens)?;
    let attic = start(home, Role::Home, "attic", "home-agent", dials)?;

    // By the connection that home opened for each.
    wait_until("the edge's reports at home", LIMIT, || Ok(peer_of(&attic, "vps").is_ok_and(|peer| peer == "attic")))?;
    wait_until("home's reports at the edge", LIMIT, || Ok(peer_of(&edge, "attic").is_ok_and(|peer| peer == "vps")))?;
    let own = peer_of(&edge, "vps")?;
    ensure!(own == "attic", "of itself the edge says {own}");

    let told = refused(&attic, &["service", "--host", "vps", "nowhere", "restart"]);
    ensure!(told.contains("no service nowhere"), "the edge says {told}");
    wait_until("who asked for it, on both hosts", LIMIT, || {
        let (there, here) = (edge.agentctl(&["events"])?, attic.agentctl(&["events"])?);
        Ok(there.contains("asked on attic: restart") && here.contains("asked on attic: restart"))
    })?;
    let told = refused(&edge, &["service", "--host", "attic", "nowhere", "restart"]);
    ensure!(told.contains("control.edge_may in its configuration is \"inspect\""), "home says {told}");
    let story = attic.agentctl(&["events"])?;
    ensure!(!story.contains("asked on vps"), "home's story has {story}");

    drop(attic);
    wait_until("what the edge says when home is gone", LIMIT, || {
        let told = refused(&edge, &["doctor", "--host", "attic"]);
        Ok(told.contains("attic cannot be asked: there is no control channel"))
    })?;
    Ok(())
}
