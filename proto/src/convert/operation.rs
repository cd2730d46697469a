//! What people ask of a service.

use model::{Credential, ExecInput, ExecQuery, LogsQuery, Output, RunCommand, TerminalSize};

use super::{InvalidMessage, MAX_ITEMS, MAX_TEXT, invalid, list, missing, parse};
use crate::v1;

/// Text that may be empty, which means none.
fn optional(field: &'static str, text: String) -> Result<Option<String>, InvalidMessage> {
    match text.len() {
        0 => Ok(None),
        1..=MAX_TEXT => Ok(Some(text)),
        _ => Err(invalid(field, "longer than 1024 bytes")),
    }
}

impl TryFrom<v1::run_request::Command> for RunCommand {
    type Error = InvalidMessage;

    fn try_from(command: v1::run_request::Command) -> Result<Self, InvalidMessage> {
        match command {
            v1::run_request::Command::Start => Ok(Self::Start),
            v1::run_request::Command::Stop => Ok(Self::Stop),
            v1::run_request::Command::Restart => Ok(Self::Restart),
            v1::run_request::Command::Unspecified => Err(missing("RunRequest.command")),
        }
    }
}

impl From<RunCommand> for v1::run_request::Command {
    fn from(command: RunCommand) -> Self {
        match command {
            RunCommand::Start => Self::Start,
            RunCommand::Stop => Self::Stop,
            RunCommand::Restart => Self::Restart,
        }
    }
}

impl TryFrom<v1::LogsRequest> for LogsQuery {
    type Error = InvalidMessage;

    fn try_from(wire: v1::LogsRequest) -> Result<Self, InvalidMessage> {
        Ok(Self {
            service: parse("LogsRequest.service", &wire.service)?,
            container: optional("LogsRequest.container", wire.container)?,
            follow: wire.follow,
            tail: wire.tail,
        })
    }
}

impl From<LogsQuery> for v1::LogsRequest {
    fn from(query: LogsQuery) -> Self {
        Self {
            service: query.service.to_string(),
            container: query.container.unwrap_or_default(),
            follow: query.follow,
            tail: query.tail,
        }
    }
}

impl TryFrom<v1::ExecStart> for ExecQuery {
    type Error = InvalidMessage;

    fn try_from(wire: v1::ExecStart) -> Result<Self, InvalidMessage> {
        if wire.command.is_empty() && !wire.admin {
            return Err(missing("ExecStart.command"));
        }
        if wire.command.len() > MAX_ITEMS {
            return Err(invalid("ExecStart.command", "more than 256 words"));
        }
        Ok(Self {
            service: parse("ExecStart.service", &wire.service)?,
            container: optional("ExecStart.container", wire.container)?,
            user: optional("ExecStart.user", wire.user)?,
            command: wire.command,
            admin: wire.admin,
            terminal: wire.terminal.map(TerminalSize::try_from).transpose()?,
        })
    }
}

impl From<ExecQuery> for v1::ExecStart {
    fn from(query: ExecQuery) -> Self {
        Self {
            service: query.service.to_string(),
            container: query.container.unwrap_or_default(),
            user: query.user.unwrap_or_default(),
            command: query.command,
            admin: query.admin,
            terminal: query.terminal.map(Into::into),
        }
    }
}

impl TryFrom<v1::TerminalSize> for TerminalSize {
    type Error = InvalidMessage;

    fn try_from(wire: v1::TerminalSize) -> Result<Self, InvalidMessage> {
        let side = |field, value: u32| u16::try_from(value).map_err(|_| invalid(field, "above 65535"));
        Ok(Self { columns: side("TerminalSize.columns", wire.columns)?, rows: side("TerminalSize.rows", wire.rows)? })
    }
}

impl From<TerminalSize> for v1::TerminalSize {
    fn from(size: TerminalSize) -> Self {
        Self { columns: size.columns.into(), rows: size.rows.into() }
    }
}

impl TryFrom<v1::exec_input::Input> for ExecInput {
    type Error = InvalidMessage;

    fn try_from(wire: v1::exec_input::Input) -> Result<Self, InvalidMessage> {
        use v1::exec_input::Input;
        Ok(match wire {
            Input::Start(_) => return Err(invalid("ExecInput.start", "comes first and once")),
            Input::Stdin(bytes) => Self::Stdin(bytes),
            Input::Eof(v1::ExecEof {}) => Self::Eof,
            Input::Size(size) => Self::Size(size.try_into()?),
        })
    }
}

impl From<ExecInput> for v1::exec_input::Input {
    fn from(input: ExecInput) -> Self {
        match input {
            ExecInput::Stdin(bytes) => Self::Stdin(bytes),
            ExecInput::Eof => Self::Eof(v1::ExecEof {}),
            ExecInput::Size(size) => Self::Size(size.into()),
        }
    }
}

impl TryFrom<v1::Output> for Output {
    type Error = InvalidMessage;

    fn try_from(wire: v1::Output) -> Result<Self, InvalidMessage> {
        use v1::output::Output as Wire;
        let container = optional("Output.container", wire.container)?.unwrap_or_default();
        Ok(match wire.output.ok_or_else(|| missing("Output.output"))? {
            Wire::Stdout(bytes) => Self::Stdout { container, bytes },
            Wire::Stderr(bytes) => Self::Stderr { container, bytes },
            Wire::ExitCode(code) => Self::Ended(code),
        })
    }
}

impl From<Output> for v1::Output {
    fn from(output: Output) -> Self {
        use v1::output::Output as Wire;
        let (container, output) = match output {
            Output::Stdout { container, bytes } => (container, Wire::Stdout(bytes)),
            Output::Stderr { container, bytes } => (container, Wire::Stderr(bytes)),
            Output::Ended(code) => (String::new(), Wire::ExitCode(code)),
        };
        Self { container, output: Some(output) }
    }
}

impl TryFrom<v1::CredentialsResponse> for Vec<Credential> {
    type Error = InvalidMessage;

    fn try_from(wire: v1::CredentialsResponse) -> Result<Self, InvalidMessage> {
        list("CredentialsResponse.credentials", wire.credentials)
    }
}

impl TryFrom<v1::Credential> for Credential {
    type Error = InvalidMessage;

    fn try_from(wire: v1::Credential) -> Result<Self, InvalidMessage> {
        Ok(Self { label: wire.label, value: wire.value })
    }
}

impl From<Credential> for v1::Credential {
    fn from(credential: Credential) -> Self {
        Self { label: credential.label, value: credential.value }
    }
}
