//! Engines and the ACME server of a lab.

#[path = "common/tiny_image.rs"]
mod tiny_image;
#[path = "common/web_server.rs"]
mod web_server;

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::Result;
use lab::http::sha256;
use lab::topology::{INTERNET, PROVIDER};
use lab::{Http, Lab, Pebble, Topology, capability, wait_until};
use tiny_image::tiny_image;
use web_server::web_server;

const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn two_engines_run_containers_each_on_its_own_network() -> Result<()> {
    if !capability::or_skip()? {
        return Ok(());
    }
    let lab = Lab::new(Topology::HomeBehindNat)?;
    let image = tiny_image(&lab)?;
    let (vps, home) = (lab.host("vps")?.start_engine()?, lab.host("home")?.start_engine()?);
    for engine in [&vps, &home] {
        engine.docker(&["import", "-c", "CMD [\"/usr/bin/sleep\",\"1000\"]", &image.to_string_lossy(), "tiny"])?;
        engine.docker(&["run", "--detach", "--pull", "never", "--name", "one", "tiny"])?;
        assert_eq!(engine.docker(&["ps", "--format", "{{.Names}}"])?.trim(), "one");
        // The lab's names, without being told.
        let names = engine.docker(&["exec", "one", "/usr/bin/cat", "/etc/resolv.conf"])?;
        assert!(names.contains(&INTERNET.to_string()), "{names}");
        // As strict as on a fresh host.
        assert!(engine.host().exec(&["iptables", "-S", "FORWARD"])?.contains("-P FORWARD DROP"));
    }

    // A saved image can be loaded by the other engine.
    let archive = lab.dir().join("files/saved.tar");
    home.docker(&["tag", "tiny", "saved:1"])?;
    home.docker(&["save", "--output", &archive.to_string_lossy(), "saved:1"])?;
    vps.load_image(&archive)?;
    assert!(vps.docker(&["images", "--format", "{{.Repository}}"])?.contains("saved"));

    // Host networking is the host's network: here, a connection from home's host network comes from the provider.
    let described = lab.describe().join("\n");
    assert!(described.contains(&home.host().engine_socket().display().to_string()), "{described}");
    let addresses = home.docker(&[
        "run",
        "--rm",
        "--pull",
        "never",
        "--network",
        "host",
        "tiny",
        "/usr/bin/cat",
        "/proc/net/fib_trie",
    ])?;
    assert!(addresses.contains("192.168.1.10") && !addresses.contains(&PROVIDER.to_string()), "{addresses}");
    Ok(())
}

#[test]
fn acme_server_answers_by_name_and_gives_its_root() -> Result<()> {
    if !capability::or_skip()? {
        return Ok(());
    }
    let lab = Lab::new(Topology::HomeBehindNat)?;
    let pebble = Pebble::start(&lab)?;
    let vps = lab.host("vps")?;
    let reply = Http::new(vps).trust(pebble.api_root()).get(&pebble.directory_url())?;
    assert_eq!(reply.status, 200);
    assert!(reply.text().contains("newOrder"), "{}", reply.text());
    assert!(reply.header("content-type").is_some_and(|value| value.contains("json")));
    assert!(std::fs::read_to_string(pebble.issuing_root())?.contains("BEGIN CERTIFICATE"));
    let untrusting = Http::new(vps).get(&pebble.directory_url());
    assert!(untrusting.is_err(), "its certificate is the lab's own");
    // The name service knows no other names and says so at once.
    wait_until("a quick no", LIMIT, || Ok(vps.exec(&["getent", "ahostsv4", "elsewhere.invalid"]).is_err()))?;
    assert!(vps.connects(SocketAddrV4::new(INTERNET, 14000), LIMIT)?);
    Ok(())
}

#[test]
fn a_large_file_goes_and_comes_back_whole() -> Result<()> {
    if !capability::or_skip()? {
        return Ok(());
    }
    let lab = Lab::new(Topology::HomeBehindNat)?;
    let (vps, visitor) = (lab.host("vps")?, lab.host("visitor")?);
    let file = lab.random_file("large", 20_000_000)?;
    let received = lab.dir().join("files/received");
    let _server = web_server(vps)?;

    // The server knows no `Expect`; curl would wait a second for its answer.
    let client = Http::new(visitor);
    let url = "http://cloud.example.test/large";
    let sent = client.request(&["--header", "Expect:", "--upload-file", &file.to_string_lossy()], url)?;
    assert_eq!(sent.status, 201);
    assert_eq!(client.download(url, &received)?.status, 200);
    assert_eq!(sha256(&received)?, sha256(&file)?);
    Ok(())
}
