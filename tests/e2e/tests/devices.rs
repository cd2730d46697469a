//! A device with the profile that `agentctl` makes: each client that can run here takes it and gets to the edge.

use std::fs;
use std::net::SocketAddrV4;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use authority::Authority;
use e2e::{Agent, Binaries, stock};
use lab::images::{self, Wanted};
use lab::{Host, Lab, Peers, Process, Topology, capability, wait_until};
use model::Role;
use pki::{HostIdentity, Validity};
use serde_json::Value;

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

/// An edge with an authority of its own, and the identity of a home that joined it.
fn edge_with_authority(vps: &Host, binaries: &Binaries, more: &str) -> Result<(Agent, HostIdentity)> {
    let state = vps.dir().join("state");
    let mut authority = Authority::create(&state.join("authority"), "ours", SystemTime::now())?;
    let identity = authority.issue(Role::Edge, &"vps".parse()?, Validity::LEAF, SystemTime::now())?;
    let (ca_pem, tls_crypt) = (authority.ca_pem().to_owned(), authority.server_key().clone());
    HostIdentity { ca_pem: ca_pem.clone(), identity, tls_crypt }.save(&state.join("identity"))?;
    let identity = authority.issue(Role::Home, &"attic".parse()?, Validity::LEAF, SystemTime::now())?;
    let home = HostIdentity { ca_pem, identity, tls_crypt: authority.client_key(SystemTime::now())? };
    drop(authority);
    let config = format!(
        "domain = \"example.test\"\nstate_dir = {state:?}\n\n\
         [tunnel]\nmode = \"listen\"\npeer = \"attic\"\n\n{more}"
    );
    let edge = Agent::start(vps, binaries, "edge-agent", &config)?;
    wait_until("the edge", Duration::from_secs(20), || Ok(edge.metrics().is_ok()))?;
    Ok((edge, home))
}

/// What `agentctl device list` says of a device.
fn listed(edge: &Agent, name: &str) -> Result<Option<Value>> {
    let all: Vec<Value> = serde_json::from_str(&edge.agentctl(&["device", "list", "--json"])?)?;
    Ok(all.into_iter().find(|device| device["name"] == name))
}

fn connect(home: &Host, label: &str, program: &Path, profile: &Path) -> Result<Process> {
    let is_newer = label.contains("openvpn-3");
    let mut command = home.command(&program.to_string_lossy());
    if !is_newer {
        command.arg("--config");
    }
    let mut client = home.spawn(label, {
        command.arg(profile);
        command
    })?;
    let log = client.log_path().to_owned();
    let connected = if is_newer { "Connected to" } else { stock::CONNECTED };
    client.wait_until(&format!("{label} to connect"), stock::CONNECT_LIMIT, || {
        Ok(fs::read_to_string(&log)?.contains(connected))
    })?;
    home.exec(&["ping", "-c", "3", "-i", "0.2", "-W", "3", EDGE_INSIDE])?;
    Ok(client)
}

#[test]
fn a_device_comes_in_is_thrown_out_and_let_in_again() -> Result<()> {
    if !capability::or_skip()? {
        return Ok(());
    }
    let peers = Peers::provide(&mut |step| println!("{step}"))?;
    let lab = Lab::new(Topology::HomeBehindNat)?;
    let (vps, home) = (lab.host("vps")?, lab.host("home")?);
    let binaries = Binaries::beside_this_one()?;
    let (mut edge, _) = edge_with_authority(vps, &binaries, "")?;
    let dir = home.dir();
    let profile = dir.join("phone.ovpn");
    let out = profile.to_string_lossy().into_owned();

    // What makes no sense changes nothing.
    let taken = dir.join("taken.ovpn");
    fs::write(&taken, "mine")?;
    for (words, reason) in [
        (&["add", "vps"][..], "vps is the name of a host"),
        (&["add", "attic"], "attic is the name of a host"),
        (&["add", "Phone"], "use 1 to 63 of a-z"),
        (&["add", "phone", "--remote", "a:b:c"], "is not HOST"),
        (&["add", "phone", "--remote=-a"], "is no ASCII host name"),
        (&["add", "phone", "--dns", "dns.example"], "invalid value"),
        (&["add", "phone", "--out", &taken.to_string_lossy()], "is there already"),
        (&["revoke", "phone"], "there is no device phone"),
        (&["reissue", "phone"], "there is no device phone"),
    ] {
        let refused = edge.agentctl(&[&["device"], words].concat()).err().context(format!("{words:?} was taken"))?;
        let said = format!("{refused:#}");
        ensure!(said.contains(reason) && !said.contains("PRIVATE KEY"), "{words:?}: {said}");
    }
    ensure!(edge.agentctl(&["device", "list", "--json"])?.trim() == "[]" && fs::read(&taken)? == b"mine");

    edge.agentctl(&["device", "add", "phone", "--out", &out])?;
    ensure!(fs::metadata(&profile)?.permissions().mode() & 0o777 == 0o600);
    let again = edge.agentctl(&["device", "add", "phone"]).err().context("a second phone was taken")?;
    ensure!(format!("{again:#}").contains("there is a device phone already"), "{again:#}");
    let text = fs::read_to_string(&profile)?;
    ensure!(text.contains("remote edge.example.test 1194 udp\nremote edge.example.test 1194 tcp\n"), "{text}");
    let kept = vps.exec(&["grep", "-rl", "PRIVATE KEY", &vps.dir().join("state/authority/issued").to_string_lossy()]);
    ensure!(kept.is_err(), "the edge keeps a key of a device: {kept:?}");

    let mut client = connect(home, "phone", Path::new("openvpn"), &profile)?;
    wait_until("the device in the list", Duration::from_secs(10), || {
        let phone = listed(&edge, "phone")?.context("no phone")?;
        Ok(phone["connected_since"].is_u64()
            && phone["address"] == "10.86.0.3"
            && phone["received_bytes"].as_u64() > Some(0)
            && phone["last_seen"].is_u64()
            && phone["revoked"].is_null())
    })?;
    let before = edge.metric("cloudathome_tunnel_handshakes_failed_total")?.context("no count of handshakes")?;
    edge.agentctl(&["device", "revoke", "phone"])?;
    let out_after = wait_until("the device to be thrown out", Duration::from_secs(10), || {
        Ok(edge.metric("cloudathome_tunnel_peers")? == Some(0.0))
    })?;
    println!("thrown out after {:.1} s", out_after.as_secs_f64());
    wait_until("it to be refused", Duration::from_secs(60), || {
        Ok(edge.metric("cloudathome_tunnel_handshakes_failed_total")? > Some(before))
    })?;
    client.terminate(Duration::from_secs(10))?;
    let phone = listed(&edge, "phone")?.context("no phone")?;
    ensure!(phone["revoked"].is_u64() && phone["connected_since"].is_null(), "{phone}");

    // What is known of it outlives the agent.
    edge.process.terminate(Duration::from_secs(15))?;
    edge.process.restart()?;
    wait_until("the edge", Duration::from_secs(20), || Ok(edge.metrics().is_ok()))?;
    ensure!(listed(&edge, "phone")?.context("no phone")?["last_seen"] == phone["last_seen"]);

    home.exec(&["ip", "-6", "address", "add", "2001:db8:1::2/64", "dev", "eth0", "nodad"])?;
    home.exec(&["ip", "-6", "route", "add", "default", "via", "2001:db8:1::1", "dev", "eth0"])?;
    ensure!(home.exec(&["ip", "-6", "route", "get", "2001:db8:2::1"])?.contains("dev eth0"));
    // Another profile, by which all of its traffic goes into the tunnel, whatever the client.
    for (name, program) in [
        ("openvpn-2.6", PathBuf::from("openvpn")),
        ("openvpn-2.7", peers.openvpn(&dir)?),
        ("openvpn-3", peers.openvpn3(&dir)?),
    ] {
        let profile = dir.join(format!("{name}.ovpn"));
        edge.agentctl(&["device", "reissue", "phone", "--full", "--out", &profile.to_string_lossy()])?;
        let mut client = connect(home, &format!("full-{name}"), &program, &profile)?;
        let route = home.exec(&["ip", "route", "get", "203.0.113.5"])?;
        ensure!(route.contains("dev tun"), "{name} leaves by {route}");
        // Of IPv6 nothing is carried, and nothing passes by.
        let by_provider =
            home.exec(&["ip", "-6", "route", "get", "2001:db8:2::1"]).is_ok_and(|route| route.contains("dev eth0"));
        ensure!(
            !by_provider,
            "{name}: IPv6 passes by the tunnel\n{}\n{}",
            home.exec(&["ip", "-6", "route"])?,
            client.log()?
        );
        let said = client.log()?;
        for trouble in ["Options error", "WARNING", "DEPRECATED", "ERROR", "CRITICAL", "TLS Error", "Decrypt error"] {
            ensure!(
                !said.contains(trouble),
                "{name}: {trouble} in
{said}"
            );
        }
        // The profile before does not outlive it.
        edge.agentctl(&["device", "revoke", "phone"])?;
        wait_until("the device to be thrown out", Duration::from_secs(10), || {
            Ok(edge.metric("cloudathome_tunnel_peers")? == Some(0.0))
        })?;
        if name == "openvpn-3" {
            fs::write(dir.join(format!("{name}.ovpn.stop")), "")?;
            client.wait(Duration::from_secs(20))?;
        } else {
            client.terminate(Duration::from_secs(10))?;
        }
    }
    Ok(())
}

/// A device of this name on a host, which comes in anew.
fn comes_in(edge: &Agent, host: &Host, name: &str) -> Result<Process> {
    let profile = host.dir().join(format!("{name}.ovpn"));
    edge.agentctl(&["device", "add", name, "--out", &profile.to_string_lossy()])?;
    connect(host, name, Path::new("openvpn"), &profile)
}

#[test]
fn a_device_reaches_what_the_edge_and_home_let_it_and_nothing_else() -> Result<()> {
    if !capability::or_skip()? {
        return Ok(());
    }
    let caddy = images::one(Wanted::Caddy, &mut |_| {})?;
    let lab = Lab::new(Topology::HomeBehindNat)?;
    let (vps, home, visitor, cpe) = (lab.host("vps")?, lab.host("home")?, lab.host("visitor")?, lab.host("cpe")?);
    let binaries = Binaries::beside_this_one()?;
    // Which sets FORWARD to drop.
    let _edge_engine = vps.start_engine()?;
    let home_engine = home.start_engine()?;
    home_engine.load(&caddy)?;
    ensure!(vps.exec(&["iptables", "-S", "FORWARD"])?.contains("-P FORWARD DROP"));
    let policy = "[devices]\nreach = []\n[devices.phone]\nreach = [\"services\"]\n\
                  [devices.laptop]\nreach = [\"internet\"]\n[devices.tablet]\nreach = [\"devices\"]\n";
    let (mut edge, identity) = edge_with_authority(vps, &binaries, policy)?;
    let state = home.dir().join("state");
    identity.save(&state.join("identity"))?;
    let config = |more: &str| {
        format!(
            "state_dir = {state:?}\n\n[tunnel]\nmode = \"dial\"\nremotes = [\"vps.example.test:1194\"]\npeer = \"vps\"\n\n\
             {more}\n[services.one]\nkind = \"container\"\nimage = {:?}\nport = 8081\ncontainer_port = 8000\n\
             command = [\"caddy\", \"respond\", \"--listen\", \":8000\", \"this is one\"]\nhealth_path = \"/\"\n",
            caddy.name
        )
    };
    let service = SocketAddrV4::new([10, 86, 0, 2].into(), 8081);
    let start_home = |more: &str| -> Result<Agent> {
        let agent = Agent::start(home, &binaries, "home-agent", &config(more))?;
        wait_until("home's service, from the edge", Duration::from_secs(60), || {
            vps.connects(service, Duration::from_secs(1))
        })?;
        Ok(agent)
    };
    let second = Duration::from_secs(1);
    let control = SocketAddrV4::new([10, 86, 0, 1].into(), 7443);
    let pings = |host: &Host, to: &str| host.exec(&["ping", "-c", "1", "-W", "1", to]).is_ok();

    // Home has the last word on what is at home.
    let mut agent = start_home("")?;
    let mut phone = comes_in(&edge, visitor, "phone")?;
    ensure!(!visitor.connects(service, second)?, "home was not asked");
    agent.process.terminate(Duration::from_secs(15))?;
    let _agent = start_home("[devices]\nreach = [\"services\"]\n")?;
    wait_until("the service, from the phone", Duration::from_secs(20), || visitor.connects(service, second))?;
    ensure!(!visitor.connects(control, second)?, "the control channel is no service");
    // The internet's own address leads back to nobody in the tunnel, so that an answer proves the edge's address.
    let internet = lab::topology::INTERNET.to_string();
    let by_tunnel = |host: &Host| host.exec(&["ip", "route", "replace", &internet, "via", EDGE_INSIDE]);
    by_tunnel(visitor)?;
    ensure!(!pings(visitor, &internet), "the phone has the internet");
    phone.terminate(Duration::from_secs(10))?;

    let mut nobody = comes_in(&edge, visitor, "nobody")?;
    by_tunnel(visitor)?;
    ensure!(!visitor.connects(service, second)? && !pings(visitor, &internet) && !pings(visitor, "10.86.0.2"));
    nobody.terminate(Duration::from_secs(10))?;

    let mut laptop = comes_in(&edge, visitor, "laptop")?;
    by_tunnel(visitor)?;
    wait_until("the internet, from the laptop", Duration::from_secs(10), || Ok(pings(visitor, &internet)))?;
    ensure!(!visitor.connects(service, second)? && !pings(visitor, "10.86.0.2"));
    let inside = |name: &str| -> Result<String> {
        let device = listed(&edge, name)?.context("no such device")?;
        Ok(device["address"].as_str().context("it has no address")?.to_owned())
    };

    let mut tablet = comes_in(&edge, cpe, "tablet")?;
    wait_until("the laptop, from the tablet", Duration::from_secs(10), || Ok(pings(cpe, &inside("laptop")?)))?;
    ensure!(!pings(visitor, &inside("tablet")?), "the laptop reaches the tablet");
    ensure!(!cpe.connects(service, second)?, "the tablet reaches home");
    for device in [&mut laptop, &mut tablet] {
        device.terminate(Duration::from_secs(10))?;
    }

    ensure!(vps.exec(&["iptables", "-S"])?.contains("CLOUDATHOME"));
    edge.process.terminate(Duration::from_secs(15))?;
    let left = vps.exec(&["iptables", "-S"])?;
    ensure!(!left.contains("CLOUDATHOME") && left.contains("DOCKER-USER"), "{left}");
    let left = vps.exec(&["nft", "list", "table", "inet", "cloudathome"])?;
    ensure!(!left.contains("masquerade") && !left.contains("10.86.0.3"), "{left}");
    Ok(())
}
