//! `agentctl service NAME ...` and `agentctl occ`: has an agent act on a service, and tells what happens.

use std::io::{self, IsTerminal, Write, stderr, stdin, stdout};
use std::path::Path;

use anyhow::anyhow;
use control::{OperateError, OperationsClient, OutputAnswers, StepAnswers};
use futures_util::StreamExt;
use model::{ExecQuery, HostId, LogsQuery, Output, Refusal, RunCommand, ServiceName};

use crate::ask::{AWAY, ask};
use crate::cli::{ExecArgs, LogsArgs, OccArgs, PurgeArgs, ServiceArgs, ServiceCommand};
use crate::exit::{Exit, Failure};
use crate::place::{Place, of_service};
use crate::render::{Colour, clean, credentials};
use crate::terminal::{self, Terminal};

/// Does what `agentctl service` says.
pub(crate) fn run(args: ServiceArgs, colour: Colour, out: &mut dyn Write) -> Result<Exit, Failure> {
    let ServiceArgs { name, host, socket, command } = args;
    let at = &At { socket: socket.as_deref(), host: host.as_ref(), service: &name.clone() };
    match command {
        ServiceCommand::Start => change(at, name, RunCommand::Start),
        ServiceCommand::Stop => change(at, name, RunCommand::Stop),
        ServiceCommand::Restart => change(at, name, RunCommand::Restart),
        ServiceCommand::Logs(args) => logs(at, name, args),
        ServiceCommand::Exec(args) => exec(at, exec_query(name, args)),
        ServiceCommand::Credentials { json } => {
            let list = operate(at, async |client| client.credentials(&name).await)?;
            if json {
                serde_json::to_writer_pretty(&mut *out, &list).map_err(io::Error::from)?;
                writeln!(out)?;
            } else {
                out.write_all(credentials::render(&name, &list, colour).as_bytes())?;
            }
            Ok(Exit::Ok)
        }
        ServiceCommand::Upgrade { to } => {
            let to = to.unwrap_or_default();
            operate(at, async |client| follow(client.upgrade(&name, &to).await?).await)?;
            Ok(Exit::Ok)
        }
        ServiceCommand::Rollback(args) => {
            confirm(
                &name,
                args.yes,
                "What was written into its database and settings since the last upgrade is lost.",
            )?;
            operate(at, async |client| follow(client.rollback(&name).await?).await)?;
            Ok(Exit::Ok)
        }
        ServiceCommand::Purge(args) => purge(at, name, args),
    }
}

/// `agentctl occ`.
pub(crate) fn occ(args: OccArgs) -> Result<Exit, Failure> {
    let query = ExecQuery {
        service: args.service,
        container: None,
        user: None,
        command: args.arguments,
        admin: true,
        terminal: terminal::size(),
    };
    let service = query.service.clone();
    exec(&At { socket: args.socket.as_deref(), host: args.host.as_ref(), service: &service }, query)
}

fn change(at: &At<'_>, name: ServiceName, command: RunCommand) -> Result<Exit, Failure> {
    operate(at, async |client| follow(client.run(&name, command).await?).await)?;
    Ok(Exit::Ok)
}

fn purge(at: &At<'_>, name: ServiceName, args: PurgeArgs) -> Result<Exit, Failure> {
    let warning =
        "Its containers, its database and everything that people put into it are removed and do not come back.";
    confirm(&name, args.yes_remove_everything, warning)?;
    operate(at, async |client| follow(client.purge(&name).await?).await)?;
    Ok(Exit::Ok)
}

fn logs(at: &At<'_>, service: ServiceName, args: LogsArgs) -> Result<Exit, Failure> {
    let names = if args.container.is_some() { Names::Left } else { Names::Shown };
    let query = LogsQuery { service, container: args.container, follow: args.follow, tail: args.tail };
    operate(at, async |client| {
        let mut lines = client.logs(query).await?;
        tokio::select! {
            ended = show(&mut lines, names) => ended.map(drop),
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    })?;
    Ok(Exit::Ok)
}

fn exec_query(service: ServiceName, args: ExecArgs) -> ExecQuery {
    let terminal = if args.no_terminal { None } else { terminal::size() };
    ExecQuery { service, container: args.container, user: args.user, command: args.command, admin: false, terminal }
}

/// The command's exit code becomes ours.
fn exec(at: &At<'_>, query: ExecQuery) -> Result<Exit, Failure> {
    let code = operate(at, async |client| {
        let raw = query.terminal.map(|_| Terminal::raw()).transpose().map_err(|error| broken(&error))?;
        let input = terminal::input(query.terminal.is_some());
        let mut output = client.exec(query, input).await?;
        let code = show(&mut output, Names::Left).await;
        drop(raw);
        code
    })?;
    match code {
        Some(code) => Ok(Exit::Command(u8::try_from(code).unwrap_or(u8::MAX))),
        None => Err(Failure::new(
            anyhow!("the command's end was not told"),
            "look into its container: agentctl service NAME logs",
        )),
    }
}

/// Whether each line says which container wrote it.
#[derive(Clone, Copy)]
enum Names {
    Shown,
    Left,
}

impl Names {
    fn on(self, container: &str, bytes: Vec<u8>) -> Vec<u8> {
        match self {
            Self::Left => bytes,
            Self::Shown => {
                let lines = bytes.split_inclusive(|&byte| byte == b'\n');
                lines.flat_map(|line| [container.as_bytes(), b" | ", line].concat()).collect()
            }
        }
    }
}

/// Prints as it comes; the exit code if one is told.
async fn show(output: &mut OutputAnswers, names: Names) -> Result<Option<i64>, OperateError> {
    while let Some(part) = output.next().await {
        let written = match part? {
            Output::Stdout { container, bytes } => write_now(&mut stdout().lock(), &names.on(&container, bytes)),
            Output::Stderr { container, bytes } => write_now(&mut stderr().lock(), &names.on(&container, bytes)),
            Output::Ended(code) => return Ok(Some(code)),
        };
        match written {
            // A reader that leaves early, as `head` does, has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Some(0)),
            written => written.map_err(|error| broken(&error))?,
        }
    }
    Ok(None)
}

fn write_now(to: &mut dyn Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

fn broken(error: &io::Error) -> OperateError {
    OperateError::Broken(format!("this terminal cannot be used: {error}"))
}

/// Tells each step on standard error.
async fn follow(mut steps: StepAnswers) -> Result<(), OperateError> {
    while let Some(step) = steps.next().await {
        // Where nobody can be told, the work goes on.
        drop(writeln!(stderr(), "{}", clean(&step?)));
    }
    Ok(())
}

/// Asks for the service's name, where a terminal can answer.
fn confirm(name: &ServiceName, yes: bool, warning: &str) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    let hint = "answer on a terminal, or see --help for the flag that confirms it";
    if !stdin().is_terminal() {
        return Err(Failure::new(anyhow!("{warning} Nobody is there to confirm it"), hint));
    }
    write!(stderr(), "{warning}\nType the service's name to go on: ")?;
    let mut answer = String::new();
    stdin().read_line(&mut answer)?;
    if answer.trim() == name.as_str() {
        Ok(())
    } else {
        Err(Failure::new(anyhow!("not confirmed; nothing was changed"), hint))
    }
}

/// What is acted upon.
struct At<'a> {
    /// The agent's socket, if it is not that of the one that runs here.
    socket: Option<&'a Path>,
    /// The service's host, if it was said.
    host: Option<&'a HostId>,
    service: &'a ServiceName,
}

/// Runs operations at the agent of the host that has the service.
fn operate<T>(
    at: &At<'_>,
    work: impl AsyncFnOnce(&mut OperationsClient) -> Result<T, OperateError>,
) -> Result<T, Failure> {
    ask(at.socket, async |inspector| {
        let (local, peer) = inspector.status().await?;
        let place = match of_service(at.service, at.host, &local, peer.as_ref().map(|(peer, _)| peer)) {
            Ok(place) => place,
            Err(failure) => return Ok(Err(failure)),
        };
        let done = work(&mut place.inspector(inspector).operations()).await;
        Ok(done.map_err(|error| explain(&place, error)))
    })?
}

fn explain(place: &Place, error: OperateError) -> Failure {
    let (exit, hint) = match (&error, place) {
        (OperateError::Refused(Refusal::NotFound(_)), _) => {
            (Exit::Failed, "`agentctl status` shows the services of both hosts")
        }
        (OperateError::Refused(Refusal::Refused(_)), _) => (Exit::Failed, "nothing was changed"),
        (OperateError::Refused(Refusal::Failed(_)), _) => (Exit::Failed, "`agentctl status` shows how it is now"),
        (OperateError::Away(_), _) => (Exit::Unreachable, AWAY),
        (OperateError::Unknown, Place::There(_)) => {
            (Exit::Failed, "install both agents of the same release, or run this on that host")
        }
        (OperateError::Unknown | OperateError::Answer(_), _) => {
            (Exit::Failed, "install agent and agentctl of the same release")
        }
        (OperateError::Broken(_), _) => (Exit::Failed, "what was begun goes on; `agentctl status` shows how it is"),
    };
    Failure { exit, error: error.into(), hint: Some(hint.to_owned()) }
}
