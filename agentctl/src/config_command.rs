//! `agentctl config`: what is in force in the agent, what its file says, and how that takes effect.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, anyhow};
use model::{ConfigChange, ConfigReport};

use crate::ask::ask;
use crate::cli::{AskArgs, ConfigCheckArgs, ConfigCommand};
use crate::exit::{Exit, Failure};
use crate::render::clean;

/// The programs that can check a file, with the name that it usually has.
const AGENTS: [(&str, &str); 2] = [("edge-agent", "edge.toml"), ("home-agent", "home.toml")];
/// Where configuration files are unless the agent is told otherwise.
const CONFIG_DIR: &str = "/etc/cloudathome";
/// What an agent ends with when its configuration is bad.
const BAD: i32 = 64;

/// Runs one of the commands.
pub(crate) fn run(command: &ConfigCommand, out: &mut dyn Write) -> Result<Exit, Failure> {
    match command {
        ConfigCommand::Show(args) => show(args, out),
        ConfigCommand::Check(args) => check(args, out),
        ConfigCommand::Diff(args) => diff(args, out),
        ConfigCommand::Reload(args) => reload(args, out),
    }
}

fn show(args: &AskArgs, out: &mut dyn Write) -> Result<Exit, Failure> {
    let report = ask(args.socket.as_deref(), async |inspector| inspector.config().await)?;
    if args.json {
        print_json(&report.in_force, out)?;
        return Ok(Exit::Ok);
    }
    writeln!(out, "# In force, from {} and what overrides it. What is not here has its default.", report.file)?;
    write_settings(&report, out)?;
    Ok(Exit::Ok)
}

/// Settings as lines of TOML with whole keys.
pub(crate) fn write_settings(report: &ConfigReport, out: &mut dyn Write) -> io::Result<()> {
    report.in_force.iter().try_for_each(|(key, value)| writeln!(out, "{} = {}", clean(key), clean(value)))
}

fn diff(args: &AskArgs, out: &mut dyn Write) -> Result<Exit, Failure> {
    let report = ask(args.socket.as_deref(), async |inspector| inspector.config().await)?;
    if args.json {
        print_json(&report, out)?;
    } else if report.fault.is_none() {
        if report.changes.is_empty() {
            writeln!(out, "{} is in force", report.file)?;
        }
        write_changes(&report.changes, out)?;
        if report.changes.iter().any(|change| change.needs_restart) {
            writeln!(out, "\nA reload refuses it whole: some of it needs a new start of the agent.")?;
        }
    }
    match &report.fault {
        Some(fault) => Err(bad_file(fault)),
        None => Ok(if report.changes.is_empty() { Exit::Ok } else { Exit::Unwell }),
    }
}

fn reload(args: &AskArgs, out: &mut dyn Write) -> Result<Exit, Failure> {
    let report = ask(args.socket.as_deref(), async |inspector| inspector.reload().await)?;
    if args.json {
        print_json(&report, out)?;
    } else if report.fault.is_none() && report.refused.is_none() {
        match report.changes.len() {
            0 => writeln!(out, "{} was in force already", report.file)?,
            _ => writeln!(out, "{} is in force now:", report.file)?,
        }
        write_changes(&report.changes, out)?;
    }
    match (&report.fault, &report.refused) {
        (Some(fault), _) => Err(bad_file(fault)),
        (None, Some(refused)) => Err(Failure::new(
            anyhow!("{} is not in force, and nothing of it is: {}", report.file, clean(refused)),
            "look at it with agentctl config diff; what needs a new start comes with systemctl restart cloudathome-edge (or \
             cloudathome-home), while containers keep running",
        )),
        (None, None) => Ok(Exit::Ok),
    }
}

fn print_json(value: &impl serde::Serialize, out: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

fn write_changes(changes: &[ConfigChange], out: &mut dyn Write) -> io::Result<()> {
    for change in changes {
        let remark = if change.needs_restart { "  (needs a new start)" } else { "" };
        let key = clean(&change.key);
        let text = |value: &Option<String>| clean(value.as_deref().unwrap_or_default());
        match (&change.from, &change.to) {
            (None, _) => writeln!(out, "+ {key} = {}{remark}", text(&change.to))?,
            (_, None) => writeln!(out, "- {key} = {}{remark}", text(&change.from))?,
            (from, to) if from == to => {
                writeln!(out, "~ {key} = {}, which is another secret or file now{remark}", text(to))?;
            }
            (from, to) => writeln!(out, "~ {key} = {}, was {}{remark}", text(to), text(from))?,
        }
    }
    Ok(())
}

fn bad_file(fault: &str) -> Failure {
    Failure {
        exit: Exit::BadFile,
        error: anyhow!("bad configuration: {}", clean(fault)),
        hint: Some("correct the file; the one before stays in force".to_owned()),
    }
}

/// Has the agent's own program check the file: what it says is what a start would say.
fn check(args: &ConfigCheckArgs, out: &mut dyn Write) -> Result<Exit, Failure> {
    let (program, file) = chosen(args)?;
    let output = Command::new(&program)
        .args(["--check", "--config"])
        .arg(&file)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{} cannot be run", program.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => {
            writeln!(out, "{}: good", file.display())?;
            Ok(Exit::Ok)
        }
        Some(BAD) => {
            // It begins with the program's name.
            let said = said.trim().split_once(": ").map_or(said.trim(), |(_, fault)| fault);
            let hint = Some("correct it; nothing was changed".to_owned());
            Err(Failure { exit: Exit::BadFile, error: anyhow!("{}", clean(said)), hint })
        }
        _ => Err(Failure::new(
            anyhow!("{} could not check it ({}): {}", program.display(), output.status, clean(said.trim())),
            "install agent and agentctl of the same release",
        )),
    }
}

/// Which program is to check which file.
fn chosen(args: &ConfigCheckArgs) -> Result<(PathBuf, PathBuf), Failure> {
    let named = args.role.map(|role| format!("{}-agent", model::Role::from(role)));
    let by_file = |file: &Path| AGENTS.iter().find(|(_, usual)| file.file_name().is_some_and(|name| name == *usual));
    let there = || AGENTS.iter().filter(|(_, usual)| Path::new(CONFIG_DIR).join(usual).is_file());
    let agent = match (&named, &args.file) {
        (Some(named), _) => AGENTS.iter().find(|(program, _)| program == named),
        (None, Some(file)) => {
            by_file(file).or_else(|| one(AGENTS.iter().filter(|(agent, _)| beside_us(agent).is_some())))
        }
        (None, None) => one(there()),
    };
    let Some((agent, usual)) = agent else {
        return Err(Failure::new(
            anyhow!("it is not clear which agent's file it is"),
            "say so with --role edge or --role home, and name the file",
        ));
    };
    let program = beside_us(agent).ok_or_else(|| {
        Failure::new(anyhow!("{agent}, which checks its files itself, is not installed beside agentctl"), "install it")
    })?;
    let file = args.file.clone().unwrap_or_else(|| Path::new(CONFIG_DIR).join(usual));
    Ok((program, file))
}

fn one<T>(mut of: impl Iterator<Item = T>) -> Option<T> {
    of.next().filter(|_| of.next().is_none())
}

/// A program that was installed with this one.
fn beside_us(name: &str) -> Option<PathBuf> {
    let path = std::env::current_exe().ok()?.parent()?.join(name);
    path.is_file().then_some(path)
}
