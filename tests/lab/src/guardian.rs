//! The process that outlives a lab and takes it down.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context, Result, ensure};

const SCRIPT: &str = include_str!("guardian.sh");

/// A shell that waits on a pipe from this process and takes the lab down when the pipe closes: because the lab was
/// dropped, or because this process ended in any way whatever. There is no other take-down.
#[derive(Debug)]
pub(crate) struct Guardian {
    child: Child,
    pipe: Option<ChildStdin>,
    dir: PathBuf,
}

impl Guardian {
    /// Starts to watch over the lab whose files are in `dir`. When this returns, nothing made in `dir` can be left
    /// behind.
    pub(crate) fn watch(dir: &Path) -> Result<Self> {
        let mut child = guardian("watch", dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the lab's guardian: is `sh` there?")?;
        let pipe = child.stdin.take();
        let mut answer = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut answer).context("hear from the lab's guardian")?;
        }
        ensure!(answer.trim() == "watching", "the lab's guardian did not start: see the message above");
        Ok(Self { child, pipe, dir: dir.to_owned() })
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        drop(self.pipe.take());
        // The guardian has said on standard error what it could not remove.
        let ended = self.child.wait();
        if !matches!(ended, Ok(status) if status.success()) {
            eprintln!("lab: the take-down of {} failed", self.dir.display());
        }
    }
}

/// Takes down labs under `parent` that lost their guardian, which only happens when the machine itself goes down.
pub(crate) fn sweep(parent: &Path) -> Result<()> {
    if fs::read_dir(parent).is_ok() {
        guardian("sweep", parent).stdin(Stdio::null()).status().context("sweep up old labs: is `sh` there?")?;
    }
    Ok(())
}

fn guardian(what: &str, dir: &Path) -> Command {
    let mut command = Command::new("sh");
    // A group of its own: Ctrl-C at the terminal is for the lab's owner, not for its guardian.
    command.args(["-c", SCRIPT, "lab-guardian", what]).arg(dir).process_group(0);
    command
}
