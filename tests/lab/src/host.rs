//! One machine of the lab.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns};

use crate::process::Process;
use crate::topology::Station;

/// Time that [`Host::exec`] gives a command.
const EXEC_LIMIT: Duration = Duration::from_secs(30);

/// One machine of the lab: a network namespace, a `/run` of its own and the lab's name service.
///
/// A command on a host sees the machine's own files except `/run`, `/etc/resolv.conf` and `/etc/nsswitch.conf`. So an
/// agent or engine may keep its socket under `/run` as usual and not meet the one of another host; everything else that
/// two hosts must not share (state, configuration) belongs under [`Host::dir`]. `/sys` shows the machine's own devices:
/// ask the kernel by netlink (`ip`) for those of the host.
#[derive(Debug, Clone)]
pub struct Host {
    name: &'static str,
    address: Ipv4Addr,
    lab: PathBuf,
}

impl Host {
    /// Prepares the files of a host; its namespace must be there or come before the first command.
    pub(crate) fn create(lab: &Path, station: Station) -> Result<Self> {
        let host = Self { name: station.name, address: station.address, lab: lab.to_owned() };
        let doing = || format!("prepare the files of host {}", host.name);
        fs::create_dir_all(host.run_dir().join("lock")).with_context(doing)?;
        let enter = host.enter_script()?;
        fs::write(host.enter_path(), enter).with_context(doing)?;
        fs::set_permissions(host.enter_path(), fs::Permissions::from_mode(0o700)).with_context(doing)?;
        Ok(host)
    }

    /// The host's name in the lab, for example `vps`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The host's own address (a router's towards the internet).
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Directory for this host's files; it goes with the lab.
    pub fn dir(&self) -> PathBuf {
        self.lab.join("hosts").join(self.name)
    }

    /// The name of the lab that it is in.
    pub(crate) fn lab_id(&self) -> Result<String> {
        let name = self.lab.file_name().map(|name| name.to_string_lossy().into_owned());
        name.with_context(|| format!("find the lab's name in {}", self.lab.display()))
    }

    /// Where the host's `/run` is to be found from outside.
    pub fn run_dir(&self) -> PathBuf {
        self.dir().join("run")
    }

    /// Script that runs the command given to it, or a shell, as this host: for people who want to look inside.
    pub fn enter_path(&self) -> PathBuf {
        self.dir().join("enter")
    }

    /// A command as this host. Add arguments and environment as usual; the started process *is* the program, so its
    /// process id can be signalled. Standard input is empty.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("sh");
        command.arg(self.enter_path()).arg(program).stdin(Stdio::null());
        // Ctrl-C at the terminal is for the lab's owner; what runs in the lab ends with the lab.
        command.process_group(0);
        command
    }

    /// Runs a command to its end, 30 seconds at most, and returns its standard output.
    ///
    /// # Errors
    /// When it cannot be run, takes too long, or ends with another status than 0; the error has its standard error.
    pub fn exec(&self, argv: &[&str]) -> Result<String> {
        self.exec_within(EXEC_LIMIT, argv)
    }

    /// [`Host::exec`] with another limit.
    ///
    /// # Errors
    /// As [`Host::exec`].
    pub fn exec_within(&self, limit: Duration, argv: &[&str]) -> Result<String> {
        check(self.name, argv, self.output(limit, argv)?)
    }

    /// Runs a command to its end, `limit` at most, whatever its status.
    ///
    /// # Errors
    /// When it cannot be started or takes longer than `limit` (it is killed then).
    pub fn output(&self, limit: Duration, argv: &[&str]) -> Result<Output> {
        let output = self
            .command("timeout")
            .args(["--kill-after=1", &limit.as_secs_f32().to_string()])
            .args(argv)
            .output()
            .with_context(|| format!("run `{}` on {}", argv.join(" "), self.name))?;
        // timeout's own answer for a command that it had to end.
        if output.status.code() == Some(124) {
            bail!("`{}` on {} took longer than {limit:?} and was ended", argv.join(" "), self.name);
        }
        Ok(output)
    }

    /// Starts `command` (from [`Host::command`]) in the background. What it prints is added to a log named after the
    /// host and `label`.
    ///
    /// # Errors
    /// When the log cannot be written or the command not be started.
    pub fn spawn(&self, label: &str, command: Command) -> Result<Process> {
        let log = self.lab.join("logs").join(format!("{}-{label}.log", self.name));
        Process::start(format!("{label} on {}", self.name), command, log)
    }

    /// Runs `work` on a thread in this host's network, for as long as it takes. It sees the machine's own files.
    ///
    /// # Errors
    /// When the thread cannot be made or moved there, or `work` panics.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let namespace = self.lab.join("ns").join(self.name);
        let doing = || format!("enter the network of {}", self.name);
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().spawn_scoped(scope, || {
                setns(File::open(&namespace)?, CloneFlags::CLONE_NEWNET)?;
                Ok(work())
            });
            let done: io::Result<T> = thread.with_context(doing)?.join().map_err(|_| anyhow!("the work panicked"))?;
            done.with_context(doing)
        })
    }

    /// Whether this host gets a TCP connection to `to` within `limit`.
    ///
    /// # Errors
    /// When the probe (curl) cannot be run; a connection that fails is `Ok(false)`.
    pub fn connects(&self, to: SocketAddrV4, limit: Duration) -> Result<bool> {
        let seconds = limit.as_secs_f32().to_string();
        let url = format!("http://{to}/");
        let probe = ["curl", "-q", "-s", "-o", "/dev/null", "-m", &seconds, "-w", "%{time_connect}", &url];
        let output = self.output(limit + Duration::from_secs(5), &probe)?;
        let connected_after: f32 = String::from_utf8_lossy(&output.stdout)
            .trim()
            .parse()
            .with_context(|| format!("read curl's report on {to}: is curl installed?"))?;
        Ok(connected_after > 0.0)
    }

    fn enter_script(&self) -> Result<String> {
        let mut inside = String::new();
        for (file, system) in [("resolv.conf", "/etc/resolv.conf"), ("nsswitch.conf", "/etc/nsswitch.conf")] {
            let ours = self.lab.join(file);
            // On many machines the name leads to a file under /run, which is our own directory in here.
            match fs::canonicalize(system) {
                Ok(real) => match real.strip_prefix("/run") {
                    Ok(below) => {
                        let copy = self.run_dir().join(below);
                        fs::create_dir_all(copy.parent().unwrap_or(&copy))
                            .and_then(|()| fs::copy(&ours, &copy))
                            .with_context(|| format!("put the name service of {} in place", self.name))?;
                    }
                    Err(_) => writeln!(inside, "mount --bind '{}' {system} &&", ours.display())?,
                },
                Err(error) => bail!("find {system}: {error}; the machine's own name service must be set up first"),
            }
        }
        Ok(format!(
            r#"#!/bin/sh
# Runs a command, or a shell, as host {name} of this lab: in its network, with its /run and the lab's names.
unset http_proxy https_proxy all_proxy no_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY
unset DOCKER_HOST DOCKER_CONTEXT
export DOCKER_CONFIG='{dir}/docker-cli' PS1='{name}# '
[ $# -gt 0 ] || set -- sh
exec nsenter --net='{ns}' unshare --mount sh -c "
{inside}mount --bind '{run}' /run &&
exec \"\$@\"" sh "$@"
"#,
            name = self.name,
            dir = self.dir().display(),
            ns = self.lab.join("ns").join(self.name).display(),
            run = self.run_dir().display(),
        ))
    }
}

/// What a command printed that ended well; an error says why one did not.
pub(crate) fn check(host: &str, argv: &[&str], output: Output) -> Result<String> {
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let stdout = String::from_utf8_lossy(&output.stdout);
        bail!("`{}` on {host} ended with {}: {}", argv.join(" "), output.status, tail(&stderr, &stdout));
    }
    String::from_utf8(output.stdout).with_context(|| format!("read what `{}` on {host} printed", argv.join(" ")))
}

/// The words that explain a failure: the last of standard error, else of standard output.
fn tail(stderr: &str, stdout: &str) -> String {
    let text = if stderr.trim().is_empty() { stdout } else { stderr };
    let lines: Vec<&str> = text.trim().lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}
