//! A lab leaves nothing behind, however it ends.

#[path = "common/tiny_image.rs"]
mod tiny_image;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use lab::{Lab, Pebble, Topology, capability, wait_until};
use tiny_image::tiny_image;

/// Set for the process that holds a lab and is killed.
const HOLDER: &str = "LAB_TEST_HOLDS_A_LAB";
const LIMIT: Duration = Duration::from_secs(30);

/// What a lab could leave on the machine, without what other labs have there at the moment.
fn machine() -> Result<BTreeSet<String>> {
    let mut seen = BTreeSet::new();
    let looks = [
        "ip -brief link",
        "nft list ruleset",
        "cat /proc/sys/net/ipv4/ip_forward",
        "cat /proc/self/mountinfo",
        "find /run -maxdepth 1",
        "find /sys/fs/cgroup -maxdepth 3 -type d",
    ];
    for look in looks {
        let mut words = look.split(' ');
        let output = Command::new(words.next().unwrap_or_default()).args(words).output().context(look)?;
        let text = String::from_utf8(output.stdout)?;
        let lines = text.lines().filter(|line| !line.contains("cloudathome-lab-"));
        seen.extend(lines.map(|line| format!("{look}: {line}")));
    }
    Ok(seen)
}

/// All that is left of the lab in `dir`, whose namespaces had these inode numbers.
fn traces(dir: &Path, namespaces: &[u64]) -> Result<Vec<String>> {
    let mut traces = Vec::new();
    if dir.exists() {
        traces.push(format!("{} exists", dir.display()));
    }
    let id = dir.file_name().context("name the lab")?.to_string_lossy().into_owned();
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    traces.extend(mounts.lines().filter(|line| line.contains(&id)).map(|line| format!("mounted: {line}")));
    let groups = Command::new("find").args(["/sys/fs/cgroup", "-name", &id]).output()?;
    traces.extend(String::from_utf8(groups.stdout)?.lines().map(|line| format!("group: {line}")));
    for process in fs::read_dir("/proc")? {
        let process = process?.path();
        let inside = fs::metadata(process.join("ns/net")).is_ok_and(|ns| namespaces.contains(&ns.ino()));
        let command = fs::read_to_string(process.join("cmdline")).unwrap_or_default().replace('\0', " ");
        if inside || command.contains(&id) {
            traces.push(format!("process: {} {command}", process.display()));
        }
    }
    Ok(traces)
}

fn namespaces(dir: &Path) -> Result<Vec<u64>> {
    fs::read_dir(dir.join("ns"))?.map(|entry| Ok(fs::metadata(entry?.path())?.ino())).collect()
}

/// A lab with everything in it, among it containers that run.
fn full_lab() -> Result<(Lab, Pebble, lab::Engine, lab::System)> {
    let lab = Lab::new(Topology::HomeBehindNat)?;
    let pebble = Pebble::start(&lab)?;
    let engine = lab.host("home")?.start_engine()?;
    let image = tiny_image(&lab)?;
    engine.docker(&["import", "-c", "CMD [\"/usr/bin/sleep\",\"1000\"]", &image.to_string_lossy(), "tiny"])?;
    for network in ["bridge", "host"] {
        engine.docker(&["run", "--detach", "--pull", "never", "--network", network, "--restart", "always", "tiny"])?;
    }
    lab.host("home")?.exec(&["ip", "tuntap", "add", "dev", "tun0", "mode", "tun"])?;
    let system = lab.host("vps")?.boot()?;
    Ok((lab, pebble, engine, system))
}

#[test]
fn a_dropped_lab_leaves_the_machine_as_it_was() -> Result<()> {
    if !capability::or_skip()? {
        return Ok(());
    }
    let before = machine()?;
    let (lab, pebble, engine, system) = full_lab()?;
    let (dir, inside) = (lab.dir().to_owned(), namespaces(lab.dir())?);
    assert!(traces(&dir, &inside)?.len() > 10, "the search for traces finds what is there");
    drop(lab);
    assert_eq!(traces(&dir, &inside)?, Vec::<String>::new());
    drop((pebble, engine, system));
    // What else runs on the machine may come and go meanwhile, but not stay.
    wait_until("the machine as it was", LIMIT, || {
        let after = machine()?;
        let new: Vec<&String> = after.difference(&before).collect();
        anyhow::ensure!(new.is_empty(), "{new:#?}");
        Ok(true)
    })?;
    Ok(())
}

#[test]
fn a_killed_owner_leaves_nothing() -> Result<()> {
    if !capability::or_skip()? {
        return Ok(());
    }
    if std::env::var_os(HOLDER).is_some() {
        let (lab, _pebble, _engine, _system) = full_lab()?;
        println!("\nholding {}", lab.dir().display());
        loop {
            std::thread::park();
        }
    }
    let mut owner = Command::new(std::env::current_exe()?)
        .args(["--exact", "a_killed_owner_leaves_nothing", "--nocapture"])
        .env(HOLDER, "1")
        .stdout(Stdio::piped())
        .spawn()?;
    let lines = BufReader::new(owner.stdout.take().context("hear from the owner")?).lines();
    let dir = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("holding ").map(PathBuf::from));
    let dir = dir.context("the owner of the lab failed: see its message above")?;
    let inside = namespaces(&dir)?;
    assert!(inside.len() == 6, "{inside:?}");
    owner.kill()?;
    owner.wait()?;
    wait_until("the guardian's work", LIMIT, || {
        let traces = traces(&dir, &inside)?;
        anyhow::ensure!(traces.is_empty(), "{traces:#?}");
        Ok(true)
    })?;
    Ok(())
}

#[test]
fn the_next_lab_sweeps_up_one_whose_guardian_has_gone() -> Result<()> {
    if !capability::or_skip()? {
        return Ok(());
    }
    // As after a power cut, but with a process and a mount that are still there.
    let old = tempfile::Builder::new().prefix("cloudathome-lab-").tempdir_in("/var/tmp")?.keep();
    fs::create_dir(old.join("ns"))?;
    let namespace = old.join("ns/home");
    fs::write(&namespace, "")?;
    let made = Command::new("unshare").arg(format!("--net={}", namespace.display())).arg("true").status()?;
    anyhow::ensure!(made.success(), "unshare ended with {made}");
    let inside = namespaces(&old)?;
    let net = format!("--net={}", namespace.display());
    let mut left_over = Command::new("nsenter").arg(net).args(["sleep", "1000"]).spawn()?;
    let touched = Command::new("touch").args(["-d", "2 minutes ago"]).arg(&old).status()?;
    anyhow::ensure!(touched.success(), "touch ended with {touched}");

    let lab = Lab::new(Topology::HomePublic)?;
    left_over.wait()?;
    // Another test's lab may be the one that is sweeping.
    wait_until("the old lab's end", LIMIT, || Ok(traces(&old, &inside)?.is_empty()))?;
    assert!(lab.dir().exists());
    Ok(())
}

#[test]
fn a_lab_that_cannot_be_built_leaves_nothing() -> Result<()> {
    if !capability::or_skip()? {
        return Ok(());
    }
    if std::env::var_os(HOLDER).is_some() {
        let error = Lab::new(Topology::HomeBehindNat).unwrap_err();
        println!("\nfailed: {error:#}");
        return Ok(());
    }
    // A search path with everything but the name service, which is the last thing a lab needs.
    let programs = tempfile::tempdir()?;
    for dir in ["/usr/bin", "/usr/sbin"] {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_name() != "dnsmasq" {
                let _ = std::os::unix::fs::symlink(entry.path(), programs.path().join(entry.file_name()));
            }
        }
    }
    let output = Command::new(std::env::current_exe()?)
        .args(["--exact", "a_lab_that_cannot_be_built_leaves_nothing", "--nocapture"])
        .env(HOLDER, "1")
        .env("PATH", programs.path())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let reason = text.lines().find(|line| line.starts_with("failed: ")).context(text.clone())?;
    assert!(reason.contains("dnsmasq"), "{reason}");
    let dir = reason.split('\'').find(|word| word.contains("cloudathome-lab-"));
    if let Some(dir) = dir {
        assert!(!Path::new(dir).exists());
    }
    Ok(())
}
