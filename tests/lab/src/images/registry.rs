//! Images that others made: from the engine of this machine, or from a registry by way of an engine of our own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{bounded, output};

/// Answers without an account, with a request to log in.
const REGISTRY: &str = "https://registry-1.docker.io/v2/";
/// The engine's folder in the workspace.
const ENGINE: &str = "engine";
const PROBE_DEADLINE: Duration = Duration::from_secs(4);
const ASK_DEADLINE: Duration = Duration::from_secs(10);
const START_DEADLINE: Duration = Duration::from_secs(30);
const STOP_DEADLINE: Duration = Duration::from_secs(20);
const PULL_DEADLINE: Duration = Duration::from_secs(1200);
const SAVE_DEADLINE: Duration = Duration::from_secs(300);

/// An image that an engine holds.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) id: String,
    /// Where it comes from, for people.
    pub(super) version: String,
}

/// Whether Docker's registry answers from here, through a proxy where the environment names one.
pub(super) fn is_reachable() -> bool {
    let mut curl = bounded(PROBE_DEADLINE, "curl");
    curl.args(["--silent", "--output", "/dev/null", "--connect-timeout", "2", "--write-out", "%{http_code}", REGISTRY]);
    output(curl).is_ok_and(|code| code == "200" || code == "401")
}

/// The image as the engine that `docker` talks to by default holds it, if there is one that does.
pub(super) fn held(reference: &str) -> Option<Found> {
    inspect(&Client::default(), reference).ok()
}

/// Writes an image of that engine to the archive `tar`.
pub(super) fn save(reference: &str, tar: &Path) -> Result<()> {
    write(&Client::default(), reference, tar)
}

/// Pulls an image and writes it to the archive `tar`. The engine that does it lives in `workspace` for the while; it has
/// no network of its own and leaves the machine's as it was.
pub(super) fn pull(reference: &str, workspace: &Path, tar: &Path) -> Result<Found> {
    let engine = Engine::start(workspace)?;
    let mut docker = engine.client.docker(PULL_DEADLINE);
    docker.args(["pull", "--quiet", reference]);
    output(docker)?;
    let found = inspect(&engine.client, reference)?;
    write(&engine.client, reference, tar)?;
    Ok(found)
}

fn inspect(client: &Client, reference: &str) -> Result<Found> {
    let mut docker = client.docker(ASK_DEADLINE);
    docker.args(["image", "inspect", "--format", "{{.Id}} {{range .RepoDigests}}{{.}} {{end}}", reference]);
    let said = output(docker)?;
    let mut words = said.split_whitespace();
    let id = words.next().context("the engine named no image id")?.to_owned();
    let version = words.next().unwrap_or(&id).to_owned();
    Ok(Found { id, version })
}

fn write(client: &Client, reference: &str, tar: &Path) -> Result<()> {
    let mut docker = client.docker(SAVE_DEADLINE);
    docker.args(["save", "--output"]).arg(tar).arg(reference);
    output(docker).map(drop)
}

/// The `docker` command, for the default engine or for the one at a socket.
#[derive(Debug, Default)]
struct Client {
    socket: Option<PathBuf>,
}

impl Client {
    fn docker(&self, deadline: Duration) -> Command {
        let mut docker = bounded(deadline, "docker");
        if let Some(socket) = &self.socket {
            docker.arg("--host").arg(format!("unix://{}", socket.display()));
        }
        docker
    }
}

/// An engine for pulling alone. Dropping it stops it and removes what it made.
struct Engine {
    process: Child,
    client: Client,
    dir: PathBuf,
}

impl Engine {
    fn start(workspace: &Path) -> Result<Self> {
        let dir = workspace.join(ENGINE);
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let socket = dir.join("docker.sock");
        let log_path = dir.join("log");
        let log = fs::File::create(&log_path)?;
        // The machine's own daemon.json says things that are not for this engine, or that contradict the options below.
        let settings = dir.join("daemon.json");
        fs::write(&settings, "{}")?;
        // The thread that starts it also waits for it, so it cannot outlive us.
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "--", "dockerd", "--bridge=none", "--iptables=false", "--ip-forward=false"])
            .arg("--config-file")
            .arg(settings)
            .arg("--data-root")
            .arg(dir.join("data"))
            .arg("--exec-root")
            .arg(dir.join("exec"))
            .arg("--pidfile")
            .arg(dir.join("pid"))
            .arg("--host")
            .arg(format!("unix://{}", socket.display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start dockerd to pull images with: is docker.io installed?")?;
        let mut engine = Self { process, client: Client { socket: Some(socket) }, dir };
        engine.wait_until_ready().with_context(|| {
            let log = fs::read_to_string(&log_path).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            format!(
                "dockerd, started to pull images with, is not ready:\n{}",
                lines[lines.len().saturating_sub(8)..].join("\n")
            )
        })?;
        Ok(engine)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait()? {
                bail!("it ended with {status}");
            }
            let mut docker = self.client.docker(ASK_DEADLINE);
            docker.args(["version", "--format", "{{.Server.Version}}"]);
            match output(docker) {
                Ok(_) => return Ok(()),
                Err(error) if begun.elapsed() > START_DEADLINE => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    fn wait_until_ended(&mut self) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < STOP_DEADLINE {
            match self.process.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(50)),
                Ok(Some(_)) | Err(_) => return true,
            }
        }
        false
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.process.id()) {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        if !self.wait_until_ended() {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
        remove(&self.dir);
    }
}

/// Releases what an engine that was killed holds in the workspace.
pub(super) fn release(workspace: &Path) {
    remove(&workspace.join(ENGINE));
}

/// Removes an engine's folder as far as that is possible; the next engine tries again.
fn remove(dir: &Path) {
    // dockerd leaves this mount behind, and nothing below a mount can be removed.
    let _ = umount2(&dir.join("exec/netns/default"), MntFlags::MNT_DETACH);
    let _ = fs::remove_dir_all(dir);
}
