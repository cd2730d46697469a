//! Either agent with the original `openvpn` at the other end, across two NATs: it connects, pings, and carries 100 MB
//! each way unchanged.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Agent, Binaries, identity, stock};
use lab::http::sha256;
use lab::{Host, Http, Lab, Topology, capability, wait_until};
use model::Role;
use pki::{Ca, HostIdentity, Validity};

const FILE_BYTES: u64 = 100 * 1000 * 1000;
const TRANSFER_LIMIT: Duration = Duration::from_secs(120);
const EDGE_INSIDE: &str = "10.86.0.1";

struct Identities {
    ca: Ca,
    tls_crypt: HostIdentity,
}

impl Identities {
    fn new() -> Result<Self> {
        let ca = Ca::generate("interop", Validity::from_now(Validity::CA))?;
        let tls_crypt = identity(&ca, Role::Edge, "vps", Validity::from_now(Validity::LEAF))?;
        Ok(Self { ca, tls_crypt })
    }

    /// The identity of `name`, written to its host.
    fn save(&self, host: &Host, role: Role, name: &str) -> Result<PathBuf> {
        let dir = host.dir().join(format!("identity-{name}"));
        let own = identity(&self.ca, role, name, Validity::from_now(Validity::LEAF))?;
        HostIdentity { tls_crypt: self.tls_crypt.tls_crypt.clone(), ..own }.save(&dir)?;
        Ok(dir)
    }
}

/// Serves the lab's files on `address` of `host`; `other` fetches one of 100 MB.
fn carries(lab: &Lab, host: &Host, address: &str, other: &Host) -> Result<()> {
    let sent = lab.random_file(&format!("from-{}.bin", host.name()), FILE_BYTES)?;
    let received = sent.with_extension("received");
    let mut command = host.command("busybox");
    command.args(["httpd", "-f", "-p", &format!("{address}:8000"), "-h"]).arg(lab.dir().join("files"));
    let mut server = host.spawn("httpd", command)?;
    let name = sent.file_name().and_then(|name| name.to_str()).context("a file name")?;
    let client = Http::new(other).limit(TRANSFER_LIMIT);
    server.wait_until("the file server", Duration::from_secs(10), || {
        Ok(client.request(&["--head"], &format!("http://{address}:8000/{name}"))?.status == 200)
    })?;
    let reply = client.download(&format!("http://{address}:8000/{name}"), &received)?;
    ensure!(reply.status == 200, "the file server answered {}", reply.status);
    ensure!(sha256(&sent)? == sha256(&received)?, "the file from {} came changed", host.name());
    println!("100 MB from {} in {:.1} s", host.name(), reply.took.as_secs_f64());
    Ok(())
}

fn pings(host: &Host, address: &str) -> Result<()> {
    host.exec(&["ping", "-c", "3", "-i", "0.2", "-W", "3", address]).map(drop)
}

fn edge_config(dir: &Path, identity: &Path) -> String {
    format!(
        "domain = \"example.test\"\nidentity_dir = {identity:?}\nstate_dir = {dir:?}\n\n\
         [tunnel]\nmode = \"listen\"\npeer = \"attic\"\n"
    )
}

#[test]
fn a_stock_client_connects_to_our_edge() -> Result<()> {
    if !capability::or_skip()? {
        return Ok(());
    }
    let lab = Lab::new(Topology::HomeBehindNat)?;
    let (vps, home) = (lab.host("vps")?, lab.host("home")?);
    let identities = Identities::new()?;
    let config = edge_config(&vps.dir().join("state"), &identities.save(vps, Role::Edge, "vps")?);
    let mut edge = Agent::start(vps, &Binaries::beside_this_one()?, "edge-agent", &config)?;
    edge.process.wait_until("the edge's metrics", Duration::from_secs(20), || Ok(edge_up(&edge.host)))?;

    let phone = identities.save(home, Role::Device, "phone")?;
    // Without the option a stock client leaves without a word.
    let notify = ["--explicit-exit-notify", "1"];
    let mut client = stock::client(home, "openvpn", &phone, "vps.example.test", &notify)?;
    let log = client.log_path().to_owned();
    client.wait_until("the stock client to connect", stock::CONNECT_LIMIT, || {
        Ok(std::fs::read_to_string(&log)?.contains(stock::CONNECTED))
    })?;
    pings(home, EDGE_INSIDE)?;
    let inside = home.exec(&["ip", "-brief", "-4", "address", "show", "dev", "stock0"])?;
    let inside = inside.split_whitespace().find_map(|word| word.split_once('/')).context("its address")?.0;
    pings(vps, inside)?;
    carries(&lab, vps, EDGE_INSIDE, home)?;
    carries(&lab, home, inside, vps)?;
    let log = client.log()?;
    for trouble in ["WARNING: '", "TLS Error", "packet error", "Decrypt error"] {
        ensure!(!log.contains(trouble), "the stock client complains: {trouble}");
    }
    ensure!(edge.metric("cloudathome_tunnel_peers")? == Some(1.0), "the edge does not count its peer");

    client.terminate(Duration::from_secs(10))?;
    wait_until("the edge to notice that the client left", Duration::from_secs(10), || {
        Ok(edge.metric("cloudathome_tunnel_peers")? == Some(0.0))
    })?;
    ensure!(edge.process.terminate(Duration::from_secs(15))?.success(), "the edge did not end well");
    Ok(())
}

fn edge_up(host: &Host) -> bool {
    let client = Http::new(host).limit(Duration::from_secs(2));
    client.get("http://127.0.0.1:9586/healthz").is_ok_and(|reply| reply.status == 200)
}

#[test]
fn our_home_connects_to_a_stock_server() -> Result<()> {
    if !capability::or_skip()? {
        return Ok(());
    }
    let lab = Lab::new(Topology::HomeBehindNat)?;
    let (vps, home) = (lab.host("vps")?, lab.host("home")?);
    let identities = Identities::new()?;
    let server_identity = identities.save(vps, Role::Edge, "vps")?;
    let network = ("10.86.0.0", "255.255.255.0");
    let mut server = stock::server(vps, "openvpn", &server_identity, network, &[])?;
    let log = server.log_path().to_owned();
    server.wait_until("the stock server", stock::CONNECT_LIMIT, || {
        Ok(std::fs::read_to_string(&log)?.contains(stock::CONNECTED))
    })?;

    let config = format!(
        "identity_dir = {:?}\nstate_dir = {:?}\n\n[tunnel]\nmode = \"dial\"\npeer = \"vps\"\n\
         remotes = [\"vps.example.test:1194\"]\n",
        identities.save(home, Role::Home, "attic")?,
        home.dir().join("state"),
    );
    let mut agent = Agent::start(home, &Binaries::beside_this_one()?, "home-agent", &config)?;
    let host = agent.host.clone();
    agent.process.wait_until("the home-agent to connect", stock::CONNECT_LIMIT, || {
        Ok(host.exec(&["ping", "-c", "1", "-W", "1", EDGE_INSIDE]).is_ok())
    })?;
    ensure!(agent.metric("cloudathome_tunnel_connected")? == Some(1.0), "the agent does not say that it is connected");
    pings(home, EDGE_INSIDE)?;
    let inside = "10.86.0.2";
    pings(vps, inside)?;
    carries(&lab, vps, EDGE_INSIDE, home)?;
    carries(&lab, home, inside, vps)?;
    let log = server.log()?;
    for trouble in ["WARNING: '", "TLS Error", "packet error", "Decrypt error"] {
        ensure!(!log.contains(trouble), "the stock server complains: {trouble}");
    }
    ensure!(agent.process.terminate(Duration::from_secs(15))?.success(), "the agent did not end well");
    Ok(())
}
