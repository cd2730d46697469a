//! How a command ends: its exit code, and what is said when it failed.

use std::fmt;
use std::process::ExitCode;

use crate::render::clean;

/// The exit codes, stable across releases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done; of `status`: everything is healthy and every service is serving; of `tunnel`: the opposite agent is connected.
    Ok,
    /// Could not be done.
    Failed,
    /// The command line makes no sense; clap ends the process with it.
    Usage,
    /// No agent answers, or the other host's cannot be asked.
    Unreachable,
    /// The agent answered, and something is not well.
    Unwell,
    /// A profile or a configuration cannot be used.
    BadFile,
    /// A command in a container ended with this code.
    Command(u8),
}

impl Exit {
    /// The table for `--help` and the manual pages.
    pub const HELP: &'static str = "\
Exit codes:
  0  done; of status: everything is healthy and every service is serving; of tunnel: the opposite agent is connected
  1  could not be done
  2  the command line makes no sense
  3  the agent, or the other host's by way of it, cannot be reached
  4  the agent answered, and something is not well: degraded, not serving, or not connected
  64  the profile or the configuration, or a file that it names, cannot be used; nothing was changed
Of `service NAME exec` and of `occ`, which run a command in a container, it is the command's own code.";

    /// The number that the process ends with.
    fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::Unwell => 4,
            Self::BadFile => 64,
            Self::Command(code) => code,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command could not be done.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What failed, with its causes.
    pub error: anyhow::Error,
    /// What to do next, when that is known.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure that ends with [`Exit::Failed`] and a next step.
    pub(crate) fn new(error: impl Into<anyhow::Error>, hint: impl Into<String>) -> Self {
        Self { exit: Exit::Failed, error: error.into(), hint: Some(hint.into()) }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { exit: Exit::Failed, error: error.into(), hint: None }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Some of it may be another host's words, which must not steer this terminal.
        let error = format!("{:#}", self.error);
        let lines: Vec<String> = error.lines().map(clean).collect();
        writeln!(f, "agentctl: {}", lines.join("\n"))?;
        if let Some(hint) = &self.hint {
            writeln!(f, "  next: {hint}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn the_help_names_every_code() {
        for exit in [Exit::Ok, Exit::Failed, Exit::Usage, Exit::Unreachable, Exit::Unwell, Exit::BadFile] {
            assert!(Exit::HELP.contains(&format!("\n  {}  ", exit.code())), "{exit:?}");
        }
    }

    #[test]
    fn the_words_of_another_host_do_not_steer_the_terminal() {
        let failure = Failure::from(anyhow::anyhow!("line 1\n\u{1b}]52;c;x\u{7}"));
        assert!(!failure.to_string().contains('\u{1b}'), "{failure:?}");
        assert!(failure.to_string().starts_with("agentctl: line 1\n"));
    }

    #[test]
    fn a_failure_says_what_why_and_what_next() {
        let cause = io::Error::from(io::ErrorKind::PermissionDenied);
        let failure = Failure::new(anyhow::Error::new(cause).context("cannot write x"), "run it with sudo");
        assert_eq!(failure.to_string(), "agentctl: cannot write x: permission denied\n  next: run it with sudo\n");
    }
}
