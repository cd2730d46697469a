//! What people ask of a service, and what comes back.

use std::fmt;

use serde::Serialize;

use crate::ServiceName;

/// Whether a service runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunCommand {
    /// From now on.
    Start,
    /// No more, until it is started again, also after the agent's or the host's next start.
    Stop,
    /// Stopped in order and started in order.
    Restart,
}

/// Which of what containers wrote is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogsQuery {
    /// The service.
    pub service: ServiceName,
    /// Of this container only, by its name without our prefix.
    pub container: Option<String>,
    /// Whether what is written from now on follows.
    pub follow: bool,
    /// How many of the last lines of each container come first.
    pub tail: u32,
}

/// A command in a container of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecQuery {
    /// The service.
    pub service: ServiceName,
    /// The container, by its name without our prefix; none takes the service's main one.
    pub container: Option<String>,
    /// The user inside; none takes the container's.
    pub user: Option<String>,
    /// Program and arguments; for [`ExecQuery::admin`] the arguments only. Never empty otherwise.
    pub command: Vec<String>,
    /// Whether the arguments are for the service's administration program.
    pub admin: bool,
    /// The terminal that the command gets, if it gets one.
    pub terminal: Option<TerminalSize>,
}

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Width.
    pub columns: u16,
    /// Height.
    pub rows: u16,
}

/// What a running command is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecInput {
    /// For its standard input.
    Stdin(Vec<u8>),
    /// Its standard input ends.
    Eof,
    /// Its terminal has another size.
    Size(TerminalSize),
}

/// What a container or a command wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// To standard output.
    Stdout {
        /// Which container, by its name without our prefix; empty for a command.
        container: String,
        /// What.
        bytes: Vec<u8>,
    },
    /// To standard error.
    Stderr {
        /// Which container, by its name without our prefix; empty for a command.
        container: String,
        /// What.
        bytes: Vec<u8>,
    },
    /// The command ended with this code; nothing follows.
    Ended(i64),
}

/// A part of what a person needs to log in to a service.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct Credential {
    /// What it is, for example `password`.
    pub label: String,
    /// The value.
    pub value: String,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("label", &self.label).finish_non_exhaustive()
    }
}

/// Why a service was not operated on as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such service or container.
    #[error("{0}")]
    NotFound(String),
    /// It can't be done as things are; nothing was changed.
    #[error("{0}")]
    Refused(String),
    /// It was tried and failed; the text says what state it left.
    #[error("{0}")]
    Failed(String),
}
