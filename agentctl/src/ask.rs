//! Finds the agent's socket and asks; tells what it means when nobody answers.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use control::{Inspector, InspectorError};

use crate::exit::{Exit, Failure};

/// Where the agents' sockets are unless their configuration says otherwise.
const SOCKET_DIR: &str = "/run/cloudathome";

/// Asks the agent whose socket is at `socket`, or else the one that runs here.
pub(crate) fn ask<T>(
    socket: Option<&Path>,
    question: impl AsyncFnOnce(&mut Inspector) -> Result<T, InspectorError>,
) -> Result<T, Failure> {
    runtime()?.block_on(ask_at(&socket_or_default(socket)?, question))
}

/// Asks the agent whose socket is at `socket`, by a connection of its own.
pub(crate) async fn ask_at<T>(
    socket: &Path,
    question: impl AsyncFnOnce(&mut Inspector) -> Result<T, InspectorError>,
) -> Result<T, Failure> {
    let answer = async { question(&mut Inspector::connect(socket).await?).await };
    answer.await.map_err(|error| match error {
        // Of the many layers between, only the system's own word helps.
        InspectorError::Connect { .. } => unreachable(socket, error),
        error => explain(&format!("the agent on {}", socket.display()), error),
    })
}

/// What the tasks of a command run on.
pub(crate) fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// The named socket, or else that of the agent that runs here.
pub(crate) fn socket_or_default(socket: Option<&Path>) -> Result<PathBuf, Failure> {
    match socket {
        Some(path) => Ok(path.to_owned()),
        None => find_socket(Path::new(SOCKET_DIR)),
    }
}

/// The one socket that is there.
fn find_socket(dir: &Path) -> Result<PathBuf, Failure> {
    let mut found = Vec::new();
    for name in ["edge.sock", "home.sock"] {
        let path = dir.join(name);
        let there = path
            .try_exists()
            .with_context(|| format!("cannot look for {}", path.display()))
            .map_err(|error| Failure { exit: Exit::Unreachable, error, hint: Some("run it with sudo".to_owned()) })?;
        if there {
            found.push(path);
        }
    }
    match (found.pop(), found.pop()) {
        (Some(one), None) => Ok(one),
        (Some(_), Some(_)) => Err(Failure::new(
            anyhow!("both agents run on this host: {0}/edge.sock and {0}/home.sock are there", dir.display()),
            format!("say which one with --socket, as in --socket {}/edge.sock", dir.display()),
        )),
        (None, _) => Err(Failure {
            exit: Exit::Unreachable,
            error: anyhow!("no agent runs here: neither {0}/edge.sock nor {0}/home.sock is there", dir.display()),
            hint: Some(
                "look at the agent with systemctl status cloudathome-edge (or cloudathome-home); \
                 name its socket with --socket where its configuration does"
                    .to_owned(),
            ),
        }),
    }
}

const LOOK: &str = "look at the agent with systemctl status cloudathome-edge (or cloudathome-home)";

/// What it means that nobody answers.
fn unreachable(socket: &Path, error: InspectorError) -> Failure {
    let (error, hint) = match io_cause(&error) {
        Some(io::ErrorKind::PermissionDenied) => {
            (anyhow!("{} may be opened by the agent's user only", socket.display()), "run it with sudo")
        }
        Some(io::ErrorKind::NotFound) => (anyhow!("there is no {}", socket.display()), LOOK),
        Some(io::ErrorKind::ConnectionRefused) => {
            (anyhow!("nobody answers on {}: the agent that made it has ended", socket.display()), LOOK)
        }
        _ => (error.into(), LOOK),
    };
    Failure { exit: Exit::Unreachable, error, hint: Some(hint.to_owned()) }
}

/// What a failed question to an agent means and what can be done.
pub(crate) fn explain(agent: &str, error: InspectorError) -> Failure {
    let (exit, hint) = match &error {
        InspectorError::Call(_) => (
            Exit::Unreachable,
            "try again, then look at the agent's log with journalctl -u cloudathome-edge (or cloudathome-home)",
        ),
        InspectorError::Refused(_) => (Exit::Failed, "ask the agent of the other host"),
        InspectorError::Away(_) => (Exit::Unreachable, AWAY),
        InspectorError::Forbidden(_) => (Exit::Failed, "run it on that host, or change its configuration there"),
        InspectorError::Answer(_) | InspectorError::Empty | InspectorError::Unknown => {
            (Exit::Failed, "install both agents and agentctl of the same release")
        }
        InspectorError::Connect { .. } | InspectorError::Bind { .. } | InspectorError::Serve(_) => (Exit::Failed, LOOK),
    };
    let error = match error {
        InspectorError::Call(status) => anyhow!("{agent} did not answer: {}", status.message()),
        InspectorError::Unknown => anyhow!("{agent} is of a release that cannot answer this"),
        other => other.into(),
    };
    Failure { exit, error, hint: Some(hint.to_owned()) }
}

/// What to do when the opposite host cannot be asked.
pub(crate) const AWAY: &str = "`agentctl status` shows what is wrong with the control channel";

fn io_cause(error: &(dyn std::error::Error + 'static)) -> Option<io::ErrorKind> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_socket_there_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let none = find_socket(dir.path()).unwrap_err();
        assert_eq!(none.exit, Exit::Unreachable);
        assert!(none.to_string().contains("systemctl status cloudathome-edge"), "{none}");

        let home = dir.path().join("home.sock");
        std::fs::write(&home, "").unwrap();
        assert_eq!(find_socket(dir.path()).unwrap(), home);

        std::fs::write(dir.path().join("edge.sock"), "").unwrap();
        let both = find_socket(dir.path()).unwrap_err();
        assert!(both.to_string().contains("--socket"), "{both}");
    }
}
