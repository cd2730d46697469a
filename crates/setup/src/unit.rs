//! The agent as a service of systemd.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use model::Role;
use tokio::process::Command;
use tokio::time::timeout;

use crate::SetupError;

/// For systemd to start an agent, which says itself when it is ready.
const STARTING: Duration = Duration::from_secs(120);
/// For a look at a configuration.
const CHECKING: Duration = Duration::from_secs(30);

pub(crate) fn unit(role: Role) -> String {
    format!("cloudathome-{role}")
}

/// The agent's program, as its package installs it.
pub(crate) fn program(role: Role) -> String {
    format!("/usr/bin/{role}-agent")
}

/// Whether systemd runs this host.
pub(crate) fn has_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Whether the agent runs.
pub(crate) async fn is_active(role: Role) -> bool {
    let asked = run(STARTING, "systemctl", &["is-active", "--quiet", &unit(role)]).await;
    asked.is_ok_and(|output| output.status.success())
}

/// Starts the agent now and with the host, and waits until it is ready.
pub(crate) async fn start(role: Role) -> Result<(), SetupError> {
    let unit = unit(role);
    let what = || format!("{unit} could not be started");
    let next = format!("`journalctl -u {unit} -n 50` tells more; then run this again: it goes on from here");
    let output = run(STARTING, "systemctl", &["enable", "--now", &unit]).await;
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let lines = ["--unit", &unit, "--lines", "5", "--output", "cat", "--no-pager"];
            let journal =
                run(CHECKING, "journalctl", &lines).await.map(|output| text(&output.stdout)).unwrap_or_default();
            Err(SetupError::new(format!("{}: {}\n{journal}", what(), text(&output.stderr)), next))
        }
        Err(error) => Err(SetupError::because(what(), error, next)),
    }
}

/// Stops the agent, now and for later starts of the host. Its containers go on.
pub(crate) async fn stop(role: Role) -> Result<(), SetupError> {
    let unit = unit(role);
    let what = || format!("{unit} could not be stopped");
    let next = "`systemctl status` tells more; then run this again";
    match run(STARTING, "systemctl", &["disable", "--now", &unit]).await {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(SetupError::new(format!("{}: {}", what(), text(&output.stderr)), next)),
        Err(error) => Err(SetupError::because(what(), error, next)),
    }
}

/// Whether systemd knows the agent.
pub(crate) fn is_installed(role: Role) -> bool {
    ["/lib/systemd/system", "/usr/lib/systemd/system", "/etc/systemd/system"]
        .iter()
        .any(|dir| Path::new(dir).join(format!("{}.service", unit(role))).exists())
}

/// Has the agent's program look at a configuration.
pub(crate) async fn check(role: Role, file: &Path) -> Result<(), SetupError> {
    let program = program(role);
    let next = "bring agentctl and the agent to the same release; or correct the answers, then run this again";
    let file = file.to_string_lossy();
    match run(CHECKING, &program, &["--check", "--config", &file]).await {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(SetupError::new(format!("the configuration does not pass: {}", text(&output.stderr)), next)),
        Err(error) => Err(SetupError::because(format!("{program} could not be run"), error, next)),
    }
}

async fn run(limit: Duration, program: &str, arguments: &[&str]) -> std::io::Result<Output> {
    let mut command = Command::new(program);
    command.args(arguments).kill_on_drop(true);
    timeout(limit, command.output()).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}
