//! Either agent with the original `openvpn` at the other end, across two NATs: it connects, pings, and carries 100 MB
//! each way unchanged.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

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

/// Carries 100 MB from `stock`, which listens on `address` inside the tunnel, to `ours` and back. Our side opens every
/// connection: it lets nobody in from the tunnel but to its own ports.
fn carries(lab: &Lab, ours: &Host, stock: &Host, address: &str) -> Result<()> {
    let sent = lab.random_file("sent.bin", FILE_BYTES)?;
    for (what, port, to_us) in [("to us", 8001, true), ("from us", 8002, false)] {
        let received = sent.with_file_name(format!("received-{port}.bin"));
        let from = format!("OPEN:{},rdonly", sent.display());
        let to = format!("OPEN:{},creat,wronly", received.display());
        let listen = format!("TCP-LISTEN:{port},bind={address}");
        let connect = format!("TCP:{address}:{port},retry=50,interval=0.1");
        let (listener, connector) =
            if to_us { ([&from, &listen], [&connect, &to]) } else { ([&listen, &to], [&from, &connect]) };
        let mut command = stock.command("socat");
        command.arg("-u").args(listener);
        let mut server = stock.spawn("socat", command)?;
        let started = Instant::now();
        ours.exec_within(TRANSFER_LIMIT, &["socat", "-u", connector[0], connector[1]])?;
        ensure!(server.wait(TRANSFER_LIMIT)?.success(), "the stock side did not get through: {}", server.log_tail(3));
        ensure!(sha256(&sent)? == sha256(&received)?, "100 MB {what} came changed");
        println!("100 MB {what} in {:.1} s", started.elapsed().as_secs_f64());
    }
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
    carries(&lab, vps, home, inside)?;
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
    carries(&lab, home, vps, EDGE_INSIDE)?;
    let log = server.log()?;
    for trouble in ["WARNING: '", "TLS Error", "packet error", "Decrypt error"] {
        ensure!(!log.contains(trouble), "the stock server complains: {trouble}");
    }
    ensure!(agent.process.terminate(Duration::from_secs(15))?.success(), "the agent did not end well");
    Ok(())
}
