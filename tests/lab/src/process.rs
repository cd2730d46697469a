//! A program running in the background.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::wait_until;

/// A program running on a host, with its log. Dropping it kills the program.
#[derive(Debug)]
pub struct Process {
    what: String,
    command: Command,
    log: PathBuf,
    child: Child,
    ended: Option<ExitStatus>,
}

impl Process {
    pub(crate) fn start(what: String, mut command: Command, log: PathBuf) -> Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("open the log {}", log.display()))?;
        let errors = file.try_clone().with_context(|| format!("open the log {}", log.display()))?;
        command.stdout(file).stderr(errors);
        let child = command.spawn().with_context(|| format!("start {what}"))?;
        Ok(Self { what, command, log, child, ended: None })
    }

    /// The process id, as the machine sees it.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether the program still runs.
    pub fn is_running(&mut self) -> bool {
        if self.ended.is_none() {
            // A child that cannot be waited for is not ours any more, that is: ended.
            self.ended = self.child.try_wait().unwrap_or(Some(ExitStatus::default()));
        }
        self.ended.is_none()
    }

    /// Ends the program the hard way, with no chance to tidy up. Nothing happens if it has ended.
    pub fn kill9(&mut self) {
        if self.is_running() {
            // Both fail only for a child that has gone, which is what is wanted.
            let _ = self.child.kill();
            self.ended = self.child.wait().ok().or(Some(ExitStatus::default()));
        }
    }

    /// Writes a line to the program's standard input, which must have been made a pipe.
    ///
    /// # Errors
    /// When it has none, or does not take it any more.
    pub fn tell(&mut self, line: &str) -> Result<()> {
        let input = self.child.stdin.as_mut().with_context(|| format!("{} has no input", self.what))?;
        writeln!(input, "{line}").with_context(|| format!("tell {} to {line}; {}", self.what, self.log_tail(20)))
    }

    /// Asks the program to end (SIGTERM) and waits for it.
    ///
    /// # Errors
    /// When it has not ended after `limit`; it still runs then.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        if self.is_running() {
            let pid = i32::try_from(self.child.id()).context("read the process id")?;
            kill(Pid::from_raw(pid), Signal::SIGTERM).with_context(|| format!("ask {} to end", self.what))?;
        }
        self.wait(limit)
    }

    /// Waits for the program to end by itself.
    ///
    /// # Errors
    /// When it still runs after `limit`; the error has the end of its log.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.what);
        let waited = wait_until(&what, limit, || Ok(!self.is_running()));
        match (waited, self.ended) {
            (Ok(_), Some(status)) => Ok(status),
            (Err(error), _) => bail!("{error:#}; {}", self.log_tail(20)),
            (Ok(_), None) => bail!("{} gave no exit status", self.what),
        }
    }

    /// Starts the same command again, after [`Process::kill9`] if it still runs. The log goes on.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart(&mut self) -> Result<()> {
        self.kill9();
        self.child = self.command.spawn().with_context(|| format!("start {} again", self.what))?;
        self.ended = None;
        Ok(())
    }

    /// Like [`wait_until`], for something this program is to bring about: fails at once when the program ends.
    ///
    /// # Errors
    /// When `limit` has passed or the program has ended; the error has the end of its log.
    pub fn wait_until(
        &mut self,
        what: &str,
        limit: Duration,
        mut condition: impl FnMut() -> Result<bool>,
    ) -> Result<Duration> {
        let mut ended = false;
        let waited = wait_until(what, limit, || {
            ended = !self.is_running();
            Ok(ended || condition()?)
        });
        match waited {
            Ok(_) if ended => {
                let status = self.ended.map(|status| status.to_string()).unwrap_or_default();
                bail!("{} ended ({status}) before {what}; {}", self.what, self.log_tail(20))
            }
            Ok(took) => Ok(took),
            Err(error) => bail!("{error:#}; {}", self.log_tail(20)),
        }
    }

    /// Where the program's standard output and error go.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Everything the program has printed so far.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn log(&self) -> Result<String> {
        let bytes = fs::read(&self.log).with_context(|| format!("read the log {}", self.log.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The last `lines` lines of the log under a heading, for messages about a failure.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = self.log().unwrap_or_else(|error| format!("{error:#}"));
        let all: Vec<&str> = text.lines().collect();
        let last = all[all.len().saturating_sub(lines)..].join("\n    ");
        format!("the log of {} ends with\n    {last}", self.what)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
    }
}
