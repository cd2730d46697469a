//! A Docker engine of a host's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::host::Host;
use crate::process::Process;

/// Time for an engine to answer: it needs less than a second, on a loaded machine several.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Time for one command: loading an image of hundreds of megabytes takes seconds.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);

/// The first process of the engine's own process and mount namespaces. It collects the shims that outlive `dockerd`, and
/// its end is theirs and every container's. With no AppArmor to be seen the engine does not load its profile into the
/// kernel, which is the machine's.
const INIT: &str = r#"
if [ -d /sys/kernel/security/apparmor ]; then mount -t tmpfs none /sys/kernel/security || exit 1; fi
dockerd "$@"
exit $?
"#;

/// A running Docker engine in a host's network, with its own data, answering at the usual `/run/docker.sock` of that
/// host. Dropping it cuts the power of the engine and all its containers.
#[derive(Debug)]
pub struct Engine {
    host: Host,
    version: String,
    _process: Process,
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
        let lab = self.dir();
        let group = lab.ancestors().nth(2).and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        let group = group.with_context(|| format!("find the lab's name in {}", lab.display()))?;
        // The machine's own /etc/docker/daemon.json is not for this engine.
        let config = self.dir().join("daemon.json");
        fs::write(&config, "{}\n").with_context(|| format!("write {}", config.display()))?;

        let mut command = self.command("unshare");
        command
            .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", INIT, "engine"])
            .args(["-H", "unix:///run/docker.sock", "--exec-opt", "native.cgroupdriver=cgroupfs"])
            .arg(format!("--cgroup-parent=/{group}"))
            .arg(format!("--config-file={}", config.display()))
            .arg(format!("--data-root={}", self.dir().join("docker").display()));
        let mut process = self.spawn("dockerd", command)?;
        let mut version = String::new();
        process.wait_until(&format!("the engine on {}", self.name()), START_LIMIT, || {
            version = self.exec(&["docker", "version", "--format", "{{.Server.Version}}"])?.trim().to_owned();
            Ok(true)
        })?;
        Ok(Engine { host: self.clone(), version, _process: process })
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
}
