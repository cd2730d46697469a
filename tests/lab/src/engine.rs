//! A Docker engine of a host's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::disk;
use crate::host::Host;
use crate::images::Image;
use crate::newer_docker;
use crate::process::Process;
use crate::wait::wait_until;

/// Time for an engine to answer: it needs less than a second, on a loaded machine several.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Time for an engine to end: it gives its containers ten seconds, where it stops them.
const STOP_LIMIT: Duration = Duration::from_secs(40);
/// Time for one command: loading an image of hundreds of megabytes takes seconds.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);

/// The first process of the engine's own process and mount namespaces; its end is that of `dockerd` and of every
/// container.
const INIT: &str = include_str!("engine/init.sh");

/// Which `dockerd` a host runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EngineVersion {
    /// The machine's own: 20.10 on Debian 12.
    #[default]
    Machine,
    /// The one of Debian sid: 28 or later.
    Sid,
}

impl EngineVersion {
    /// Makes ready what it needs, which otherwise happens when the first engine starts.
    ///
    /// # Errors
    /// When the cache cannot be written (it needs root), or Debian's mirror gives no packages.
    pub fn provide(self, progress: &mut dyn FnMut(&str)) -> Result<()> {
        self.programs(progress).map(drop)
    }

    /// The folder to search for programs first, if not the machine's.
    fn programs(self, progress: &mut dyn FnMut(&str)) -> Result<Option<PathBuf>> {
        match self {
            Self::Machine => Ok(None),
            Self::Sid => newer_docker::provide(progress).map(Some),
        }
    }
}

/// How an engine runs.
#[derive(Debug, Clone, Default)]
pub struct EngineOptions {
    /// Which one it is. Each version keeps its data apart from the other's.
    pub version: EngineVersion,
    /// Whether containers go on while `dockerd` is away (its option `live-restore`).
    pub live_restore: bool,
    /// Its data lies on a file system of its own of this size in bytes, so that it can be full: see
    /// [`Engine::fill_disk`]. At least 16 MiB.
    pub disk: Option<u64>,
}

/// A running Docker engine in a host's network, with its own data, answering at the usual `/run/docker.sock` of that
/// host. Dropping it cuts the power of the engine and all its containers.
#[derive(Debug)]
pub struct Engine {
    host: Host,
    version: String,
    data: PathBuf,
    /// Holds the exit code of `dockerd` when that has ended.
    ended: PathBuf,
    process: Process,
}

impl Host {
    /// Where this host's engine answers, seen from outside; the file is there once the engine runs.
    pub fn engine_socket(&self) -> PathBuf {
        self.run_dir().join("docker.sock")
    }

    /// Starts this host's Docker engine and waits until it answers.
    ///
    /// # Errors
    /// When it does not answer in time; the error has the end of its log.
    pub fn start_engine(&self) -> Result<Engine> {
        self.start_engine_with(&EngineOptions::default())
    }

    /// [`Host::start_engine`], otherwise than usual.
    ///
    /// # Errors
    /// As [`Host::start_engine`]; also when Debian sid gives no engine, or the disk cannot be made.
    pub fn start_engine_with(&self, options: &EngineOptions) -> Result<Engine> {
        let group = self.lab_id()?;
        // The machine's own /etc/docker/daemon.json is not for this engine.
        let config = self.dir().join("daemon.json");
        fs::write(&config, "{}\n").with_context(|| format!("write {}", config.display()))?;
        let programs = options.version.programs(&mut |step| eprintln!("{step}"))?;
        let data = self.dir().join(if programs.is_some() { "docker-sid" } else { "docker" });
        fs::create_dir_all(&data).with_context(|| format!("make {}", data.display()))?;
        let disk = options.disk.map(|bytes| disk::create(&data.with_extension("disk"), bytes)).transpose()?;

        let ended = self.dir().join("engine-ended");
        let mut command = self.command("unshare");
        command
            .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", INIT, "engine"])
            .args(["-H", "unix:///run/docker.sock", "--exec-opt", "native.cgroupdriver=cgroupfs"])
            .arg(format!("--cgroup-parent=/{group}"))
            .arg(format!("--config-file={}", config.display()))
            .arg(format!("--data-root={}", data.display()))
            .env("ENGINE_ENDED", &ended)
            .env("ENGINE_DATA", &data)
            .env("ENGINE_DISK", disk.unwrap_or_default())
            .env("ENGINE_PROGRAMS", programs.unwrap_or_default())
            .stdin(Stdio::piped());
        if options.live_restore {
            command.arg("--live-restore");
        }
        let process = self.spawn("dockerd", command)?;
        let mut engine = Engine { host: self.clone(), version: String::new(), data, ended, process };
        engine.start()?;
        Ok(engine)
    }
}

impl Engine {
    /// The host it runs on.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The engine's version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Starts `dockerd` again after [`Engine::stop`] or [`Engine::kill9`], and waits until it answers.
    ///
    /// # Errors
    /// When it does not answer in time; the error has the end of its log.
    pub fn start(&mut self) -> Result<()> {
        // Absent the first time.
        let _ = fs::remove_file(&self.ended);
        self.process.tell("start")?;
        let (host, ended, mut version) = (&self.host, &self.ended, String::new());
        let mut code = None;
        self.process.wait_until(&format!("the engine on {}", host.name()), START_LIMIT, || {
            code = fs::read_to_string(ended).ok();
            if code.is_none() {
                version = host.exec(&["docker", "version", "--format", "{{.Server.Version}}"])?.trim().to_owned();
            }
            Ok(true)
        })?;
        if let Some(code) = code {
            bail!("dockerd on {} ended with {}; {}", host.name(), code.trim(), self.process.log_tail(20));
        }
        self.version = version;
        Ok(())
    }

    /// Asks `dockerd` to end (SIGTERM) and waits for it. It stops its containers first, unless it runs with `live_restore`.
    ///
    /// # Errors
    /// When it takes longer than forty seconds.
    pub fn stop(&mut self) -> Result<()> {
        self.end("TERM")
    }

    /// Ends `dockerd` the hard way (SIGKILL). Its containers go on, for as long as it does not come back without
    /// `live_restore`.
    ///
    /// # Errors
    /// When it does not end.
    pub fn kill9(&mut self) -> Result<()> {
        self.end("KILL")
    }

    /// Lets `dockerd` take connections and answer nobody (SIGSTOP), until [`Engine::thaw`]. Its containers go on.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn freeze(&mut self) -> Result<()> {
        self.process.tell("STOP")
    }

    /// Lets `dockerd` go on after [`Engine::freeze`].
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn thaw(&mut self) -> Result<()> {
        self.process.tell("CONT")
    }

    fn end(&mut self, signal: &str) -> Result<()> {
        self.process.tell(signal)?;
        wait_until(&format!("the end of the engine on {}", self.host.name()), STOP_LIMIT, || Ok(self.ended.exists()))
            .map(drop)
    }

    /// Runs `docker` with these arguments on the engine's host, two minutes at most, and returns what it printed. Give
    /// `run` and `create` `--pull never`: a missing image otherwise hangs on a registry that cannot be reached.
    ///
    /// # Errors
    /// When it fails; the error has its standard error.
    pub fn docker(&self, arguments: &[&str]) -> Result<String> {
        let argv: Vec<&str> = ["docker"].into_iter().chain(arguments.iter().copied()).collect();
        self.host.exec_within(COMMAND_LIMIT, &argv)
    }

    /// Loads the images of an archive in the format of `docker save`.
    ///
    /// # Errors
    /// When the archive cannot be read or is not one.
    pub fn load_image(&self, archive: &Path) -> Result<()> {
        let path = archive.to_string_lossy();
        self.docker(&["load", "--quiet", "--input", &path]).with_context(|| format!("load {path}")).map(|_| ())
    }

    /// Loads an image that the lab provides.
    ///
    /// # Errors
    /// As [`Engine::load_image`].
    pub fn load(&self, image: &Image) -> Result<()> {
        self.load_image(&image.tar)
    }

    /// A command on the engine's host as by [`Host::command`], which sees the engine's own disk, if it has one, where the engine
    /// has it: others on the host see an empty folder there.
    pub fn command(&self, program: &str) -> Command {
        let disk = self.data.with_extension("disk");
        if !disk.exists() {
            return self.host.command(program);
        }
        let mut command = self.host.command("sh");
        // The same disk: mount finds that the file is in use, and takes the device that it has.
        command
            .args(["-c", "mount -o loop \"$0\" \"$1\" && shift && exec \"$@\""])
            .arg(disk)
            .arg(&self.data)
            .arg(program);
        command
    }

    /// Fills the engine's disk with a file until `leave` bytes are free.
    ///
    /// # Errors
    /// When the engine has no disk of its own ([`EngineOptions::disk`]), or it cannot be written to.
    pub fn fill_disk(&self, leave: u64) -> Result<()> {
        disk::fill(&self.disk()?, leave)
    }

    /// Removes the file of [`Engine::fill_disk`], if it is there.
    ///
    /// # Errors
    /// As [`Engine::fill_disk`].
    pub fn free_disk(&self) -> Result<()> {
        disk::free(&self.disk()?)
    }

    /// The engine's data on its own disk: mounted where only the engine's own processes see it.
    fn disk(&self) -> Result<PathBuf> {
        if !self.data.with_extension("disk").exists() {
            bail!("the engine on {} was started without a disk of its own", self.host.name());
        }
        let pid = self.process.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
            .with_context(|| format!("find the engine's first process below {pid}"))?;
        let init = children.split_whitespace().next().context("the engine's first process has ended")?;
        let path = self.data.strip_prefix("/").unwrap_or(&self.data);
        Ok(Path::new("/proc").join(init).join("root").join(path))
    }
}
