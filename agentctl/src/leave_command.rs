//! `agentctl leave` and `agentctl purge`: this host leaves its cloud.

use std::io::{IsTerminal, Write, stdin};

use ::setup::{Leaving, Paths, Remains};
use anyhow::anyhow;
use model::Role;
use serde::Serialize;

use crate::ask::runtime;
use crate::cli::{LeaveArgs, PurgeHostArgs};
use crate::exit::{Exit, Failure};
use crate::setup_command::{be_root, failed, json, line, say};

/// What it prints as JSON.
#[derive(Serialize)]
struct Outcome<'a> {
    role: Role,
    changed: bool,
    plan: &'a [String],
    stays: &'a [String],
}

/// A way to leave.
struct Way<'a> {
    args: &'a LeaveArgs,
    purge: bool,
    /// Whether a flag has said yes.
    agreed: bool,
}

/// Takes this host out. Data stays.
pub(crate) fn leave(args: &LeaveArgs, yes: bool, out: &mut dyn Write) -> Result<Exit, Failure> {
    be_root("leave")?;
    run(&Way { args, purge: false, agreed: yes }, out)
}

/// Takes this host out, and deletes its data.
pub(crate) fn purge(args: &PurgeHostArgs, out: &mut dyn Write) -> Result<Exit, Failure> {
    be_root("purge")?;
    run(&Way { args: &args.leave, purge: true, agreed: args.yes_delete_everything }, out)
}

fn run(way: &Way<'_>, out: &mut dyn Write) -> Result<Exit, Failure> {
    let leaving = Leaving::new(Paths::default(), way.args.role.map(Role::from)).map_err(failed)?;
    let runtime = runtime()?;
    let remains = runtime.block_on(leaving.look()).map_err(failed)?;
    let plan = leaving.plan(&remains, way.purge);
    let stays = if way.purge { Vec::new() } else { leaving.stays(&remains) };
    say(if way.args.dry_run { "This would:" } else { "This will:" });
    plan.iter().for_each(|step| say(&format!("  - {step}")));
    if !stays.is_empty() {
        say("What stays:");
        stays.iter().for_each(|what| say(&format!("  - {what}")));
    }
    let changed = !way.args.dry_run && agreed(way)?;
    if changed {
        say("");
        let done = &mut |step: &str| say(&format!("  done  {step}"));
        runtime.block_on(work(&leaving, &remains, way.purge, done)).map_err(failed)?;
        say(next(leaving.role(), way.purge));
    } else {
        say("Nothing was changed.");
    }
    if way.args.json {
        json(out, &Outcome { role: leaving.role(), changed, plan: &plan, stays: &stays })?;
    }
    Ok(Exit::Ok)
}

async fn work(
    leaving: &Leaving,
    remains: &Remains,
    purge: bool,
    done: &mut dyn FnMut(&str),
) -> Result<(), ::setup::SetupError> {
    if purge { leaving.purge(remains, done).await } else { leaving.leave(remains, done).await }
}

/// Whether the person wants it. Nobody is taken to have said yes.
fn agreed(way: &Way<'_>) -> Result<bool, Failure> {
    if way.agreed {
        return Ok(true);
    }
    if !stdin().is_terminal() {
        let flag = if way.purge { "--yes-delete-everything" } else { "--yes" };
        return Err(Failure {
            exit: Exit::Usage,
            error: anyhow!("there is no terminal to ask at; nothing was changed"),
            hint: Some(format!("say {flag}")),
        });
    }
    if way.purge {
        return Ok(line("Type 'delete' to delete all of it for good, anything else to keep it: ")? == "delete");
    }
    let answer = line("Go on? [y/N] ")?;
    Ok(matches!(answer.to_lowercase().as_str(), "y" | "yes"))
}

/// What a person does next.
fn next(role: Role, purge: bool) -> &'static str {
    match (role, purge) {
        (Role::Edge, _) => "\nVisitors get nothing any more: take the DNS records away, or let them lead elsewhere.",
        (_, false) => {
            "\nOn the edge: `sudo agentctl identity revoke home` lets this identity count no more, also in old backups.\n\
             To come back: `sudo agentctl code new` there, `sudo agentctl join` here; the services take up their data."
        }
        (_, true) => {
            "\nOn the edge: `sudo agentctl identity revoke home` lets this identity count no more, also in old backups."
        }
    }
}
