//! A host as an installation of Debian with a live systemd.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::debian_root::Root;
use crate::host::{Host, check};
use crate::images::{Image, debian};
use crate::process::Process;
use crate::wait::wait_until;

const CACHE: &str = "/var/cache/cloudathome/hosts";
/// What a rented server has, and an engine: everything that our packages ask for, since a lab has no mirror.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,init,kmod,procps,debconf,iproute2,iputils-ping,curl,openssl,libssl3,\
     ca-certificates,nftables,iptables,docker.io,busybox-static";
/// From power on until systemd says that all is running: two seconds, on a loaded machine many.
const BOOT_LIMIT: Duration = Duration::from_secs(90);
/// Time for what usually takes no time.
const EXEC_LIMIT: Duration = Duration::from_secs(60);
/// Time for an image of hundreds of megabytes.
const LOAD_LIMIT: Duration = Duration::from_secs(120);
const BOOT: &str = include_str!("system/boot.sh");

/// A host on which systemd is the first process, in namespaces of its own: this machine's release of Debian with its own files,
/// journal and Docker engine, in the network of a [`Host`] of the lab. It can load no modules, change no clock, and set those
/// settings of the kernel that are of the network. Dropping it cuts the power.
#[derive(Debug)]
pub struct System {
    host: Host,
    process: Process,
    dir: PathBuf,
}

impl Host {
    /// Boots Debian with systemd on this host, and waits until all of its units run. Its engine is its own, so that
    /// [`Host::start_engine`] has no place beside it.
    ///
    /// # Errors
    /// When the root folder cannot be made (once, from Debian's mirror), or a unit fails: the error names it.
    pub fn boot(&self) -> Result<System> {
        let root = System::provide(&mut |step| eprintln!("{step}"))?;
        let dir = self.dir().join("system");
        let doing = || format!("prepare the disk of {}", self.name());
        fs::create_dir_all(&dir).with_context(doing)?;
        let script = dir.join("boot.sh");
        fs::write(&script, BOOT).with_context(doing)?;
        let lab = self.lab_id()?;
        let mut command = self.command("unshare");
        command
            .args(["--pid", "--mount", "--fork", "--kill-child", "sh"])
            .args([script.as_path(), Path::new("power"), &dir, &root])
            .args([self.name(), &format!("{lab}/{}", self.name())]);
        let process = self.spawn("systemd", command)?;
        let mut system = System { host: self.clone(), process, dir };
        system.wait_until_running(None)?;
        Ok(system)
    }
}

impl System {
    /// Provides the root folder that hosts are booted from, which otherwise happens when the first one boots.
    ///
    /// # Errors
    /// When the cache cannot be written (it needs root), or Debian's mirror gives no packages.
    pub fn provide(progress: &mut dyn FnMut(&str)) -> Result<PathBuf> {
        let suite = debian::own_suite();
        let root = Root {
            builder: "cloudathome hosts 1",
            suite: &suite,
            what: "a host with systemd",
            variant: "minbase",
            packages: PACKAGES,
            programs: &["lib/systemd/systemd", "usr/sbin/dockerd", "usr/sbin/nft"],
        };
        Ok(root.provide(Path::new(CACHE), progress)?.join("root"))
    }

    /// The host that it runs on.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Where a file of this system is to be found from outside, until its next boot.
    ///
    /// # Errors
    /// When it does not run.
    pub fn path(&self, inside: &str) -> Result<PathBuf> {
        Ok(PathBuf::from(format!("/proc/{}/root{inside}", self.init()?)))
    }

    /// Writes a file of this system, with the directories above it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, inside: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let path = self.path(inside)?;
        let doing = || format!("write {inside} on {}", self.host.name());
        fs::create_dir_all(path.parent().unwrap_or(&path)).with_context(doing)?;
        fs::write(path, content).with_context(doing)
    }

    /// A command on this system, as root, in no unit. Standard input is empty.
    ///
    /// # Errors
    /// When it does not run.
    pub fn command(&self, program: &str) -> Result<Command> {
        let mut command = Command::new("nsenter");
        command.args(["--all", "--target", &self.init()?.to_string(), "env", "-i", "HOME=/root", "LANG=C.UTF-8"]);
        command.args(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", program]);
        command.stdin(Stdio::null());
        Ok(command)
    }

    /// Runs a command to its end, a minute at most, and returns its standard output.
    ///
    /// # Errors
    /// When it cannot be run, takes too long, or ends with another status than 0; the error has what it printed.
    pub fn exec(&self, argv: &[&str]) -> Result<String> {
        self.exec_within(EXEC_LIMIT, argv)
    }

    /// [`System::exec`] with another limit.
    ///
    /// # Errors
    /// As [`System::exec`].
    pub fn exec_within(&self, limit: Duration, argv: &[&str]) -> Result<String> {
        check(self.host.name(), argv, self.output(limit, argv)?)
    }

    /// Runs a command to its end, `limit` at most, whatever its status.
    ///
    /// # Errors
    /// When it cannot be started, or takes longer (it is killed then).
    pub fn output(&self, limit: Duration, argv: &[&str]) -> Result<Output> {
        let mut command = self.command("timeout")?;
        command.args(["--kill-after=1", &limit.as_secs_f32().to_string()]).args(argv);
        let output = command.output().with_context(|| format!("run `{}` on {}", argv.join(" "), self.host.name()))?;
        ensure!(output.status.code() != Some(124), "`{}` took longer than {limit:?} and was ended", argv.join(" "));
        Ok(output)
    }

    /// Loads an image into this system's engine.
    ///
    /// # Errors
    /// When the engine does not take it.
    pub fn load(&self, image: &Image) -> Result<()> {
        let file = fs::File::open(&image.tar).with_context(|| format!("read {}", image.tar.display()))?;
        let mut load = self.command("timeout")?;
        load.args([&LOAD_LIMIT.as_secs().to_string(), "docker", "load", "--quiet"]).stdin(file);
        let argv = ["docker", "load"];
        check(self.host.name(), &argv, load.output().with_context(|| format!("load {}", image.name))?).map(drop)
    }

    /// Lets systemd reboot, with all that units do at their end, and waits until all of them run again.
    ///
    /// # Errors
    /// When it takes longer than a minute and a half, or a unit fails.
    pub fn reboot(&mut self) -> Result<()> {
        let before = self.init()?;
        // The answer may be cut off by the reboot.
        self.command("systemctl")?.arg("reboot").stderr(Stdio::null()).status().context("ask systemd to reboot")?;
        self.wait_until_running(Some(before))
    }

    /// The machine's id of the process that this system knows by `pid`.
    ///
    /// # Errors
    /// When there is none.
    pub fn process(&self, pid: u32) -> Result<u32> {
        let space = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid"));
        let own = space(&self.init()?.to_string()).context("find the system's processes")?;
        for entry in fs::read_dir("/proc").context("list processes")? {
            let name = entry.context("list processes")?.file_name().to_string_lossy().into_owned();
            // What is not a process, or has ended, has none.
            if !space(&name).is_ok_and(|space| space == own) {
                continue;
            }
            let status = fs::read_to_string(format!("/proc/{name}/status")).unwrap_or_default();
            let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            if ids.and_then(|ids| ids.split_whitespace().last()) == Some(pid.to_string().as_str()) {
                return name.parse().context("read a process id");
            }
        }
        bail!("there is no process {pid} on {}", self.host.name())
    }

    /// The last lines of a unit's journal, for messages about a failure.
    pub fn journal(&self, unit: &str, lines: usize) -> String {
        let count = lines.to_string();
        let argv = ["journalctl", "--no-pager", "--output=cat", "--unit", unit, "--lines", &count];
        self.exec(&argv).unwrap_or_else(|error| format!("{error:#}"))
    }

    fn wait_until_running(&mut self, not: Option<u32>) -> Result<()> {
        let (host, file) = (self.host.name(), self.dir.join("init"));
        self.process.wait_until(&format!("systemd on {host}"), BOOT_LIMIT, || {
            let init = read_init(&file)?;
            Ok(Some(init) != not)
        })?;
        let mut state = String::new();
        wait_until(&format!("the units on {host}"), BOOT_LIMIT, || {
            let output = self.output(EXEC_LIMIT, &["systemctl", "is-system-running"])?;
            state = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            ensure!(state == "running" || state == "degraded", "systemd is {state:?}; {}", self.process.log_tail(10));
            Ok(true)
        })?;
        if state == "degraded" {
            bail!("units failed on {host}: {}", self.exec(&["systemctl", "--failed", "--no-pager"])?);
        }
        Ok(())
    }

    fn init(&self) -> Result<u32> {
        read_init(&self.dir.join("init"))
    }
}

/// The first process, as the machine sees it.
fn read_init(file: &Path) -> Result<u32> {
    let pid = fs::read_to_string(file).context("the host is off")?;
    pid.trim().parse().with_context(|| format!("read the process id {pid:?}"))
}
