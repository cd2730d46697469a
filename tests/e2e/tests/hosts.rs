//! The packages on two hosts with a live systemd: installed, set up, rebooted, upgraded, removed and purged.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::hosts::{EDGE, HOME, Hosts, INSTALLING, apt, install, property};
use lab::images::Wanted;
use lab::{System, capability, wait_until};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// For the service to answer a visitor: Caddy orders a certificate meanwhile.
const SERVING: Duration = Duration::from_secs(90);
/// How long the tunnel may be down while an agent is upgraded.
const DOWN: f64 = 5.0;
const URL: &str = "https://box.example.test/";
/// Time between two packets that show whether the tunnel is up, in seconds.
const PING: f64 = 0.1;

/// Writes identities and configurations, by hand.
fn set_up(hosts: &Hosts, directory_url: &str) -> Result<()> {
    hosts.vps.exec(&["agentctl", "pki", "init", "--dir", "/root/authority"])?;
    for (role, name) in [("edge", "vps"), ("home", "attic")] {
        let out = format!("/root/{name}");
        let issue = ["agentctl", "pki", "issue", "--ca", "/root/authority", "--role", role, "--name", name];
        hosts.vps.exec(&[&issue[..], &["--out", &out]].concat())?;
    }
    hosts.vps.exec(&["sh", "-c", "mkdir -p /var/lib/cloudathome && mv /root/vps /var/lib/cloudathome/identity"])?;
    hosts.home.exec(&["mkdir", "-p", "/var/lib/cloudathome"])?;
    let (from, to) = (hosts.vps.path("/root/attic")?, hosts.home.path("/var/lib/cloudathome/identity")?);
    lab_copy(&from, &to)?;
    hosts.vps.write(
        "/etc/cloudathome/edge.toml",
        format!(
            "domain = \"example.test\"\nidentity_dir = \"/var/lib/cloudathome/identity\"\n\n\
             [tunnel]\nmode = \"listen\"\npeer = \"attic\"\n\n\
             [ingress]\nemail = \"owner@example.test\"\nacme_directory = \"{directory_url}\"\n\
             acme_api_root = \"/etc/cloudathome/api.pem\"\nacme_issuer_root = \"/etc/cloudathome/issuer.pem\"\n"
        ),
    )?;
    hosts.home.write(
        "/etc/cloudathome/home.toml",
        "identity_dir = \"/var/lib/cloudathome/identity\"\n\n\
         [tunnel]\nmode = \"dial\"\npeer = \"vps\"\nremotes = [\"vps.example.test:1194\"]\n\n\
         [outside]\nissuer_root = \"/etc/cloudathome/issuer.pem\"\n\n\
         [services.box]\nkind = \"container\"\nimage = \"caddy:2\"\nport = 8081\ncontainer_port = 8000\n\
         command = [\"caddy\", \"respond\", \"--listen\", \":8000\", \"from a container\"]\nhealth_path = \"/\"\n\
         volumes = { data = \"/srv\" }\n",
    )
}

fn wait_until_serving(hosts: &Hosts) -> Result<()> {
    let waited = wait_until("the service at its public name", SERVING, || {
        let reply = hosts.visitor.get(URL)?;
        ensure!(reply.status == 200, "{URL} answers {}", reply.status);
        ensure!(reply.text().contains("from a container"), "{URL} answers {:?}", reply.text());
        Ok(true)
    });
    waited.map(drop).with_context(|| {
        format!("the edge's journal:\n{}\nhome's:\n{}", hosts.vps.journal(EDGE, 30), hosts.home.journal(HOME, 30))
    })
}

fn lab_copy(from: &Path, to: &Path) -> Result<()> {
    let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().context("run cp")?;
    ensure!(copied.success(), "cp ended with {copied}");
    Ok(())
}

/// Every container with when it started.
fn containers(system: &System) -> Result<String> {
    let script =
        "docker ps -q --no-trunc | xargs docker inspect --format '{{.Name}} {{.Id}} {{.State.StartedAt}}' | sort";
    system.exec(&["sh", "-c", script])
}

/// Stops one thread of a process, as a debugger does, until the process ends. The others go on.
fn wedge(process: u32, name: &'static str) -> Result<JoinHandle<()>> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).context("list threads")?;
    let is_it = |path: &PathBuf| fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name);
    let task = tasks.filter_map(|task| Some(task.ok()?.path())).find(is_it).context("find the thread")?;
    let thread = Pid::from_raw(task.file_name().unwrap().to_string_lossy().parse()?);
    let (stopped, is_stopped) = std::sync::mpsc::channel();
    // Who traces must be the one to wait.
    let tracer = std::thread::spawn(move || {
        ptrace::seize(thread, ptrace::Options::empty()).unwrap();
        ptrace::interrupt(thread).unwrap();
        waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
        stopped.send(()).unwrap();
        while !matches!(
            waitpid(thread, Some(WaitPidFlag::__WALL)),
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(_)
        ) {}
    });
    is_stopped.recv().context("stop the thread")?;
    Ok(tracer)
}

/// How long the tunnel stood still at most while `work` was done, in seconds.
fn longest_gap(hosts: &Hosts, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let log = hosts.packages.join("ping.log");
    let file = fs::File::create(&log).context("make the log of ping")?;
    let mut ping = hosts.home.command("ping")?;
    ping.args(["-n", "-i", &PING.to_string(), "10.86.0.1"]).stdout(file).stderr(Stdio::null());
    let mut ping = ping.spawn().context("run ping")?;
    let answers = || -> Result<Vec<f64>> {
        let text = fs::read_to_string(&log).context("read what ping printed")?;
        let numbers = text.lines().filter(|line| line.contains("bytes from"));
        let numbers = numbers.filter_map(|line| line.split("icmp_seq=").nth(1)?.split(' ').next()?.parse().ok());
        Ok(numbers.collect())
    };
    let result = wait_until("packets through the tunnel", SERVING, || Ok(answers()?.len() > 5)).and_then(|_| {
        work()?;
        let so_far = answers()?.len();
        wait_until("packets through the tunnel again", SERVING, || Ok(answers()?.len() > so_far + 10))
    });
    // It may have ended by itself, for which there is no reason.
    let _ = ping.kill();
    let _ = ping.wait();
    result?;
    let answers = answers()?;
    Ok(answers.windows(2).map(|pair| (pair[1] - pair[0]) * PING).fold(0.0, f64::max))
}

#[test]
fn packages_live_on_two_hosts() -> Result<()> {
    if !capability::or_skip()? {
        return Ok(());
    }
    let mut hosts = Hosts::boot(&[Wanted::Caddy], &[Wanted::Caddy])?;
    let begun = std::time::Instant::now();
    let step = |what: &str| println!("{:5.1} s {what}", begun.elapsed().as_secs_f32());

    step("installing");
    for (system, package) in [(&hosts.vps, EDGE), (&hosts.home, HOME)] {
        install(&hosts, system, package, "1.0")?;
        // Nothing has failed for want of a configuration, and the next start of the host will do.
        assert_eq!(property(system, package, "ActiveState")?, "inactive");
        assert_eq!(property(system, package, "UnitFileState")?, "enabled");
        assert_eq!(system.exec(&["systemctl", "--failed", "--quiet", "--no-legend"])?, "");
        system.exec(&["test", "-s", "/usr/share/man/man1/agentctl-status.1.gz"])?;
    }
    assert_eq!(hosts.vps.exec(&["sysctl", "-n", "net.ipv4.tcp_migrate_req"])?.trim(), "1");

    step("setting up");
    // What is waited for below.
    hosts.vps.write(&format!("/etc/systemd/system/{EDGE}.service.d/sooner.conf"), "[Service]\nWatchdogSec=4s\n")?;
    hosts.vps.exec(&["systemctl", "daemon-reload"])?;
    set_up(&hosts, &hosts.pebble.directory_url())?;
    for (system, package) in [(&hosts.vps, EDGE), (&hosts.home, HOME)] {
        let started = system.exec(&["systemctl", "start", package]);
        ensure!(started.is_ok(), "{started:?}: {}", system.journal(package, 20));
    }
    wait_until_serving(&hosts)?;

    for (system, package) in [(&hosts.vps, EDGE), (&hosts.home, HOME)] {
        // Fails when there is more left open than 3.0.
        system.exec(&["systemd-analyze", "security", "--no-pager", "--threshold=30", package])?;
        wait_until("the line for people", SERVING, || {
            let line = property(system, package, "StatusText")?;
            ensure!(line.contains("Tunnel connected to") && line.contains("1 of 1 services serving"), "{line}");
            Ok(true)
        })?;
    }

    step("a thread of the edge stands still");
    let process: u32 = property(&hosts.vps, EDGE, "MainPID")?.parse()?;
    let before = containers(&hosts.vps)?;
    let tracer = wedge(hosts.vps.process(process)?, "tunnel")?;
    wait_until("a start by the watchdog", SERVING, || {
        let now = property(&hosts.vps, EDGE, "MainPID")?;
        Ok(now != "0" && now != process.to_string() && property(&hosts.vps, EDGE, "ActiveState")? == "active")
    })?;
    tracer.join().unwrap();
    let journal = hosts.vps.journal(EDGE, 100);
    ensure!(journal.contains("no progress") && journal.contains("Watchdog timeout"), "{journal}");
    assert_eq!(property(&hosts.vps, EDGE, "NRestarts")?, "1");
    assert_eq!(containers(&hosts.vps)?, before);
    wait_until_serving(&hosts)?;

    step("upgrading");
    for (system, package) in [(&hosts.vps, EDGE), (&hosts.home, HOME)] {
        let (before, process) = (containers(system)?, property(system, package, "MainPID")?);
        let down = longest_gap(&hosts, || {
            install(&hosts, system, package, "1.1")?;
            wait_until("the new release", SERVING, || {
                Ok(property(system, package, "MainPID")? != process
                    && property(system, package, "ActiveState")? == "active")
            })
            .map(drop)
        })?;
        step(&format!("{package} upgraded; the tunnel was down for {down:.1} s"));
        ensure!(down < DOWN, "the tunnel was down for {down:.1} s");
        assert_eq!(containers(system)?, before);
    }
    wait_until_serving(&hosts)?;

    step("a release that does not take the configuration");
    let file = "/etc/cloudathome/home.toml";
    let good = hosts.home.exec(&["cat", file])?;
    hosts.home.write(file, format!("nonsense = 1\n{good}"))?;
    let process = property(&hosts.home, HOME, "MainPID")?;
    let told = apt(&hosts.home, &["install", "--reinstall", "/root/cloudathome-home_1.1_amd64.deb"])?;
    ensure!(told.contains("nonsense") && told.contains("goes on"), "{told}");
    assert_eq!(property(&hosts.home, HOME, "MainPID")?, process);
    hosts.home.write(file, good)?;

    step("rebooting home");
    hosts.home.reboot()?;
    wait_until_serving(&hosts)?;
    step("rebooting the edge");
    hosts.vps.reboot()?;
    wait_until_serving(&hosts)?;

    step("removing");
    let told = apt(&hosts.home, &["remove", HOME])?;
    ensure!(told.contains("Configuration and data stay"), "{told}");
    assert_eq!(hosts.home.exec(&["docker", "ps", "--quiet"])?, "");
    let link = hosts.home.output(INSTALLING, &["ip", "link", "show", "cah0"])?;
    assert!(!link.status.success(), "the link is gone");
    hosts.home.exec(&["docker", "volume", "inspect", "cloudathome-box-data"])?;
    hosts.home.exec(&["test", "-e", "/var/lib/cloudathome/identity/host.key"])?;
    step("installing again");
    install(&hosts, &hosts.home, HOME, "1.1")?;
    wait_until_serving(&hosts)?;

    step("purging");
    let told = apt(&hosts.home, &["purge", HOME])?;
    ensure!(told.contains("Kept:"), "{told}");
    hosts.home.exec(&["test", "-e", "/var/lib/cloudathome/identity/host.key"])?;
    // With a terminal, which `script` gives, it asks.
    install(&hosts, &hosts.home, HOME, "1.1")?;
    let purge = "echo delete | script --quiet --return --command 'dpkg --purge cloudathome-home' /dev/null";
    let told = hosts.home.exec_within(INSTALLING, &["sh", "-c", purge])?;
    ensure!(told.contains("Deleted."), "{told}");
    for gone in ["/var/lib/cloudathome", "/etc/cloudathome"] {
        assert!(!hosts.home.path(gone)?.exists(), "{gone} is gone");
    }
    assert_eq!(hosts.home.exec(&["docker", "volume", "ls", "--quiet"])?, "");
    assert_eq!(hosts.home.exec(&["docker", "ps", "--all", "--quiet"])?, "");
    step("done");
    Ok(())
}
