//! Who reaches whom in a lab.

#[path = "common/web_server.rs"]
mod web_server;

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::Result;
use lab::topology::{HOME_PRIVATE, HOME_PUBLIC, HOME_ROUTER, PROVIDER, VISITOR, VPS};
use lab::{Lab, Process, Topology, capability, wait_until};
use web_server::web_server;

const LIMIT: Duration = Duration::from_secs(10);
/// Time given to a connection that must not come about.
const REFUSED: Duration = Duration::from_secs(1);

#[test]
fn home_behind_nat_reaches_out_and_nobody_reaches_in() -> Result<()> {
    if !capability::or_skip()? {
        return Ok(());
    }
    let lab = Lab::new(Topology::HomeBehindNat)?;
    let (home, vps, visitor) = (lab.host("home")?, lab.host("vps")?, lab.host("visitor")?);
    let _at_vps = web_server(vps)?;
    let _at_home = web_server(home)?;

    // By name, so that the name service and both NATs have their part.
    let seen = lab::Http::new(home).get("http://cloud.example.test/")?;
    assert_eq!(seen.text(), PROVIDER.to_string(), "home is seen under its provider's address");
    let seen = lab::Http::new(visitor).get("http://cloud.example.test/")?;
    assert_eq!(seen.text(), VISITOR.to_string());

    for from in [visitor, vps] {
        for address in [HOME_PRIVATE, HOME_ROUTER, PROVIDER] {
            assert!(
                !from.connects(SocketAddrV4::new(address, 80), REFUSED)?,
                "{} reached {address}, which must not be reachable",
                from.name()
            );
        }
    }
    assert!(lab.inbound_connections_dropped()? >= 2, "the provider saw both attempts on its address");
    Ok(())
}

#[test]
fn public_home_is_reached() -> Result<()> {
    if !capability::or_skip()? {
        return Ok(());
    }
    let lab = Lab::new(Topology::HomePublic)?;
    let (home, vps) = (lab.host("home")?, lab.host("vps")?);
    let _at_home = web_server(home)?;
    assert_eq!(lab::Http::new(vps).get(&format!("http://{HOME_PUBLIC}/"))?.text(), VPS.to_string());
    assert!(lab.host("isp").is_err());
    Ok(())
}

#[test]
fn labs_stand_side_by_side() -> Result<()> {
    if !capability::or_skip()? {
        return Ok(());
    }
    let (one, two) = (Lab::new(Topology::HomeBehindNat)?, Lab::new(Topology::HomeBehindNat)?);
    let _at_one = web_server(one.host("vps")?)?;
    let to = SocketAddrV4::new(VPS, 80);
    assert!(one.host("visitor")?.connects(to, LIMIT)?);
    assert!(!two.host("visitor")?.connects(to, REFUSED)?, "the other lab has nobody at that address");

    // A file under /run is its host's own.
    one.host("vps")?.exec(&["touch", "/run/mark"])?;
    assert!(one.host("vps")?.exec(&["test", "-e", "/run/mark"]).is_ok());
    for (lab, host) in [(&one, "home"), (&two, "vps")] {
        assert!(lab.host(host)?.exec(&["test", "-e", "/run/mark"]).is_err());
    }

    // The first lab's namespaces go although the second has copies of their mounts.
    let namespace = one.dir().join("ns/vps");
    drop(one);
    assert!(!namespace.exists());
    assert!(two.host("home")?.exec(&["getent", "ahostsv4", "cloud.example.test"])?.contains(&VPS.to_string()));
    Ok(())
}

#[test]
fn processes_can_be_killed_ended_and_started_again() -> Result<()> {
    if !capability::or_skip()? {
        return Ok(());
    }
    let lab = Lab::new(Topology::HomePublic)?;
    let home = lab.host("home")?;
    let mut command = home.command("sh");
    command.args(["-c", "echo begun; exec sleep 1000"]);
    let mut process = home.spawn("sleeper", command)?;
    let begun = |process: &Process| process.log().map(|log| log.matches("begun").count());
    wait_until("the first start", LIMIT, || Ok(begun(&process)? == 1))?;
    assert!(process.is_running());
    process.kill9();
    assert!(!process.is_running());

    process.restart()?;
    wait_until("the second start", LIMIT, || Ok(begun(&process)? == 2))?;
    assert!(!process.terminate(LIMIT)?.success(), "ended by the signal");

    let mut command = home.command("sh");
    command.args(["-c", "echo the reason; exit 3"]);
    let mut failing = home.spawn("failing", command)?;
    let error = failing.wait_until("a miracle", LIMIT, || Ok(false)).unwrap_err().to_string();
    assert!(error.contains("a miracle") && error.contains("the reason") && error.contains('3'), "{error}");

    let error = home.exec(&["sh", "-c", "echo bad luck >&2; exit 7"]).unwrap_err().to_string();
    assert!(error.contains("bad luck") && error.contains("home") && error.contains('7'), "{error}");
    let error = home.exec_within(REFUSED, &["sleep", "1000"]).unwrap_err().to_string();
    assert!(error.contains("took longer"), "{error}");
    Ok(())
}
