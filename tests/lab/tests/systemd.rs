//! Hosts with a live systemd.

use std::time::Duration;

use anyhow::Result;
use lab::{Lab, System, Topology, capability, wait_until};

/// Does as root what an agent does, with the sandbox of an agent's unit; and what it may not do.
const UNIT: &str = "
[Service]
Type=oneshot
ExecStart=/bin/sh -exc 'ip tuntap add dev cah0 mode tun; nft add table inet cloudathome; docker ps'
ExecStart=/bin/sh -xc 'mkdir /etc/cloudathome || sysctl -w net.ipv4.ip_forward=1 || unshare --net true || exit 0; exit 1'
";

/// The unit of the edge without what starts it.
fn sandbox() -> String {
    let unit = include_str!("../../../systemd/cloudathome-edge.service");
    let unwanted = ["[", "Description", "Type", "ExecStart", "ExecReload", "Restart", "Wants", "After", "StartLimit"];
    let lines = unit.lines().filter(|line| !unwanted.iter().any(|word| line.starts_with(word)));
    let lines = lines.filter(|line| !line.starts_with("WatchdogSec") && !line.starts_with("WantedBy"));
    lines.map(|line| format!("{line}\n")).collect()
}

fn container(system: &System) -> Result<String> {
    let script = "mkdir -p /image/bin && cp /bin/busybox /image/bin/ && ln -sf busybox /image/bin/sleep && \
                  tar --create --directory /image . | docker import - tiny >/dev/null && \
                  docker run --detach --pull never --stop-signal KILL --publish 127.0.0.1:8080:80 --memory 64m tiny sleep 1000";
    system.exec(&["sh", "-c", script])
}

#[test]
fn hosts_with_systemd_stand_side_by_side_run_containers_and_reboot() -> Result<()> {
    if !capability::or_skip()? {
        return Ok(());
    }
    let lab = Lab::new(Topology::HomeBehindNat)?;
    let (vps, home) = std::thread::scope(|scope| -> Result<_> {
        let vps = scope.spawn(|| lab.host("vps")?.boot());
        let home = lab.host("home")?.boot()?;
        Ok((vps.join().map_err(|_| anyhow::anyhow!("booting panicked"))??, home))
    })?;

    // Each its own, joined by the lab's network and no other.
    assert_eq!(vps.exec(&["hostname"])?.trim(), "vps");
    assert_ne!(vps.exec(&["cat", "/etc/machine-id"])?, home.exec(&["cat", "/etc/machine-id"])?);
    home.exec(&["ping", "-c", "1", "-W", "5", "vps.example.test"])?;
    assert!(!vps.output(Duration::from_secs(5), &["ping", "-c", "1", "-W", "1", "192.168.1.10"])?.status.success());

    // A sandboxed unit gets the device, nftables and the engine, and nothing else.
    let mut system = home;
    system.write("/etc/systemd/system/sandboxed.service", format!("{UNIT}{}", sandbox()))?;
    let started = system.exec(&["systemctl", "start", "sandboxed"]);
    assert!(started.is_ok(), "{started:?}: {}", system.journal("sandboxed", 30));
    system.exec(&["ip", "link", "show", "cah0"])?;

    let boot = |system: &System| system.exec(&["cat", "/proc/sys/kernel/random/boot_id"]);
    let (before, id) = (boot(&system)?, container(&system)?);
    system.reboot()?;
    assert_ne!(boot(&system)?, before);
    let gone = system.output(Duration::from_secs(5), &["ip", "link", "show", "cah0"])?;
    assert!(!gone.status.success(), "the network is as after power on");
    let state = system.exec(&["docker", "inspect", "--format", "{{.State.Status}}", id.trim()])?;
    assert_eq!(state.trim(), "exited");
    wait_until("the way to the internet", Duration::from_secs(10), || {
        system.exec(&["ping", "-c", "1", "-W", "1", "vps.example.test"]).map(|_| true)
    })?;
    Ok(())
}
