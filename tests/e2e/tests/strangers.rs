//! Who has no right to the tunnel does not get past the handshake; the edge counts them and stays up.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{Agent, Binaries, identity, stock};
use lab::{Lab, Topology, capability, wait_until};
use model::Role;
use pki::{Ca, HostIdentity, Validity};

const LIMIT: Duration = Duration::from_secs(40);

#[test]
fn strangers_are_refused_and_counted() -> Result<()> {
    if !capability::or_skip()? {
        return Ok(());
    }
    let lab = Lab::new(Topology::HomeBehindNat)?;
    let (vps, home) = (lab.host("vps")?, lab.host("home")?);
    let valid = || Validity::from_now(Validity::LEAF);
    let ours = Ca::generate("ours", Validity::from_now(Validity::CA))?;
    let theirs = Ca::generate("theirs", Validity::from_now(Validity::CA))?;
    let edge_identity = identity(&ours, Role::Edge, "vps", valid())?;
    edge_identity.save(&vps.dir().join("identity"))?;
    let config = format!(
        "domain = \"example.test\"\nidentity_dir = {:?}\nstate_dir = {:?}\n\n[tunnel]\nmode = \"listen\"\npeer = \"attic\"\n",
        vps.dir().join("identity"),
        vps.dir().join("state"),
    );
    let mut edge = Agent::start(vps, &Binaries::beside_this_one()?, "edge-agent", &config)?;
    wait_until("the edge", Duration::from_secs(20), || Ok(edge.metrics().is_ok()))?;

    let now = std::time::SystemTime::now();
    let hour = Duration::from_secs(3600);
    let past = Validity { not_before: now - 2 * hour, not_after: now - hour };
    let with_our_key = |identity: HostIdentity| HostIdentity { tls_crypt: edge_identity.tls_crypt.clone(), ..identity };
    // Checks the edge's certificate against our CA, so that it is the edge that refuses.
    let trusting_us = |identity: HostIdentity| HostIdentity { ca_pem: ours.cert_pem().to_owned(), ..identity };
    let strangers = [
        ("other-ca", "handshakes_failed", with_our_key(trusting_us(identity(&theirs, Role::Home, "attic", valid())?))),
        ("expired", "handshakes_failed", with_our_key(identity(&ours, Role::Home, "attic", past)?)),
        ("wrong-key", "drops", identity(&ours, Role::Home, "attic", valid())?),
    ];
    for (label, counter, stranger) in strangers {
        let dir = home.dir().join(label);

        stranger.save(&dir)?;
        let counter = format!("cloudathome_tunnel_{counter}_total");
        let before = edge.metric(&counter)?.unwrap_or_default();
        let mut client = stock::client(home, label, &dir, "vps.example.test", &[])?;
        let counted = wait_until(&format!("{counter} to count the client {label}"), LIMIT, || {
            Ok(edge.metric(&counter)?.unwrap_or_default() > before)
        });
        let log = client.log()?;
        ensure!(counted.is_ok(), "{label}: {counted:?}; the client says:\n{log}");
        ensure!(!log.contains(stock::CONNECTED), "{label} connected");
        ensure!(edge.metric("cloudathome_tunnel_peers")? == Some(0.0), "{label} counts as a peer");
        client.kill9();
    }

    let friend = home.dir().join("friend");
    with_our_key(identity(&ours, Role::Home, "attic", valid())?).save(&friend)?;
    let mut client = stock::client(home, "friend", &friend, "vps.example.test", &[])?;
    let log = client.log_path().to_owned();
    client.wait_until("a client with the right to it", stock::CONNECT_LIMIT, || {
        Ok(std::fs::read_to_string(&log)?.contains(stock::CONNECTED))
    })?;
    ensure!(edge.process.is_running(), "the edge has ended");
    Ok(())
}
