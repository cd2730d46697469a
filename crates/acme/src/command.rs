//! A command of the operator's own that changes the DNS.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command as Process};
use tokio::time::timeout;

/// For one change. Some providers' interfaces are slow.
const DEADLINE: Duration = Duration::from_secs(120);
/// What is kept of what it prints: the last of it.
const MAX_OUTPUT: usize = 64 << 10;
/// What is told of that.
const MAX_TOLD: usize = 400;
/// All of its environment: it may be a script, and nothing of the agent's own is its business.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a command did not do it.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It cannot be run.
    #[error("{} cannot be run: is it there, executable, and does its first line name an interpreter?", .path.display())]
    Start {
        /// The command.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It failed.
    #[error("{} {verb} failed ({status}){output}", .path.display())]
    Failed {
        /// The command.
        path: PathBuf,
        /// What it was to do.
        verb: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// What it printed last, behind a colon; empty when nothing.
        output: String,
    },
    /// It took too long and was ended.
    #[error("{} {verb} took longer than {} s and was ended", .path.display(), .limit.as_secs())]
    Deadline {
        /// The command.
        path: PathBuf,
        /// What it was to do.
        verb: &'static str,
        /// How long it had.
        limit: Duration,
    },
}

/// A command that is run as `COMMAND present NAME VALUE` and `COMMAND cleanup NAME VALUE`.
#[derive(Debug, Clone)]
pub struct Command {
    path: PathBuf,
    deadline: Duration,
}

impl Command {
    /// The program at this absolute path.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), deadline: DEADLINE }
    }

    pub(crate) async fn present(&self, name: &str, value: &str) -> Result<(), CommandError> {
        self.run("present", name, value).await
    }

    pub(crate) async fn cleanup(&self, name: &str, value: &str) -> Result<(), CommandError> {
        self.run("cleanup", name, value).await
    }

    async fn run(&self, verb: &'static str, name: &str, value: &str) -> Result<(), CommandError> {
        let mut command = Process::new(&self.path);
        command.args([verb, name, value]).env_clear().env("PATH", PATH).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).process_group(0);
        let mut child = command.spawn().map_err(|source| CommandError::Start { path: self.path.clone(), source })?;
        // Whoever it started goes with it, also when nobody waits for the result any more.
        let _group = Group::of(&child);
        let ended = timeout(self.deadline, output(&mut child)).await;
        let path = self.path.clone();
        match ended {
            Err(_) => Err(CommandError::Deadline { path, verb, limit: self.deadline }),
            Ok(Err(source)) => Err(CommandError::Start { path, source }),
            Ok(Ok((status, _))) if status.success() => Ok(()),
            Ok(Ok((status, output))) => Err(CommandError::Failed { path, verb, status, output: told(&output) }),
        }
    }
}

/// Waits for the end and for everything it prints.
async fn output(child: &mut Child) -> io::Result<(ExitStatus, String)> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (stdout, stderr, status) = tokio::join!(last(stdout), last(stderr), child.wait());
    let printed = [stdout?, stderr?].concat();
    Ok((status?, String::from_utf8_lossy(&printed).into_owned()))
}

/// The last of what comes.
async fn last(stream: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let (mut kept, mut chunk) = (Vec::new(), vec![0; 4096]);
    let Some(mut stream) = stream else { return Ok(kept) };
    loop {
        let read = stream.read(&mut chunk).await?;
        if read == 0 {
            return Ok(kept);
        }
        kept.extend_from_slice(&chunk[..read]);
        kept.drain(..kept.len().saturating_sub(MAX_OUTPUT));
    }
}

/// The end of the output on one line, without what a terminal would obey and without what looks like a secret.
fn told(output: &str) -> String {
    let line = output.split_whitespace().collect::<Vec<_>>().join(" ");
    let line: Vec<char> = line.chars().filter(|letter| !letter.is_control()).collect();
    if line.is_empty() {
        return String::new();
    }
    let line: Vec<char> = mask::masked(&line.into_iter().collect::<String>()).chars().collect();
    format!(": {}", line[line.len().saturating_sub(MAX_TOLD)..].iter().collect::<String>())
}

/// A process group, ended with this.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Usually nobody is left.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn script(dir: &Path, text: &str) -> Command {
        let (text_file, path) = (dir.join("text"), dir.join("dns"));
        fs::write(&text_file, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&text_file, fs::Permissions::from_mode(0o700)).unwrap();
        // By another process: what this one has open for writing a child of another test may still have, and then nobody
        // can run it.
        assert!(std::process::Command::new("cp").arg(&text_file).arg(&path).status().unwrap().success());
        Command::new(&path)
    }

    #[tokio::test]
    async fn it_is_told_what_to_do_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let command = script(dir.path(), &format!("echo \"$@\" > {0}; env >> {0}", out.display()));
        command.present("_acme-challenge.example.com", "-abc_").await.unwrap();
        let seen = fs::read_to_string(out).unwrap();
        assert!(seen.starts_with("present _acme-challenge.example.com -abc_\n"), "{seen}");
        assert!(!seen.contains("CARGO") && !seen.contains("HOME="), "{seen}");
    }

    #[tokio::test]
    async fn what_it_says_when_it_fails_reaches_the_person() {
        let dir = tempfile::tempdir().unwrap();
        let command = script(dir.path(), "echo no such zone >&2; printf '\\033[31m'; exit 3");
        let error = command.cleanup("n", "v").await.unwrap_err().to_string();
        assert!(error.contains("dns cleanup failed (exit status: 3): ") && error.contains("no such zone"), "{error}");
        assert!(!error.contains('\u{1b}'), "{error}");
        let error = Command::new(&dir.path().join("none")).present("n", "v").await.unwrap_err();
        assert!(matches!(error, CommandError::Start { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn one_that_hangs_is_ended_with_whoever_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let mut command = script(dir.path(), &format!("sleep 1000 & echo $! > {}; wait", pid.display()));
        command.deadline = Duration::from_millis(500);
        let error = command.present("n", "v").await.unwrap_err();
        assert!(matches!(error, CommandError::Deadline { verb: "present", .. }), "{error:?}");
        let pid = fs::read_to_string(pid).unwrap();
        let stat = || fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        for _ in 0..100 {
            if stat().is_empty() || stat().contains(") Z ") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("its child lives on: {}", stat());
    }
}
