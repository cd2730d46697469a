//! What `agentctl init` and `agentctl join` have in common: questions, findings, steps.

use std::io::{self, IsTerminal, stderr, stdin};
use std::path::{Path, PathBuf};

use ::setup::{AnswerFile, Mail, SetupError, is_ready};
use anyhow::anyhow;
use model::{Finding, HostId};

use crate::cli::SetupArgs;
use crate::exit::{Exit, Failure};
use crate::render::{Colour, doctor};

/// How often a question is asked before it is given up.
const TRIES: u32 = 5;

/// A failure with the next step that set-up knows.
pub(crate) fn failed(error: SetupError) -> Failure {
    let next = error.next().to_owned();
    Failure::new(error, next)
}

/// Only root can do it.
pub(crate) fn be_root(command: &str) -> Result<(), Failure> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Failure::new(anyhow!("only root can set this host up"), format!("sudo agentctl {command}")))
}

/// The answer file, or an empty one.
pub(crate) fn answers(args: &SetupArgs) -> Result<AnswerFile, Failure> {
    match &args.answers {
        None => Ok(AnswerFile::default()),
        Some(path) => read(path),
    }
}

fn read(path: &Path) -> Result<AnswerFile, Failure> {
    AnswerFile::read(path).map_err(|error| Failure { exit: Exit::BadFile, ..failed(error) })
}

/// A file that is answered with.
pub(crate) fn file_for_agent(path: PathBuf) -> Result<PathBuf, Failure> {
    ::setup::for_the_agent(&path).map_err(bad_answer)
}

/// A mail server that is answered with.
pub(crate) fn mail(mail: Option<Mail>) -> Result<Option<Mail>, Failure> {
    mail.map(Mail::checked).transpose().map_err(bad_answer)
}

/// An answer that cannot be.
pub(crate) fn bad_answer(text: String) -> Failure {
    Failure { exit: Exit::Usage, error: anyhow!(text), hint: Some("correct it; nothing was changed".to_owned()) }
}

/// Says a step, or anything else that is no data.
pub(crate) fn say(text: &str) {
    eprintln!("{text}");
}

/// The answer to a question that nothing else answers; `what` names it where nobody can be asked. A wrong one is asked for again.
pub(crate) fn asked<T>(question: &str, what: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<T, Failure> {
    if !stdin().is_terminal() {
        return Err(Failure {
            exit: Exit::Usage,
            error: anyhow!("{what} is not said, and there is no terminal to ask at"),
            hint: Some(format!("say it by a flag or in the answer file: {what}")),
        });
    }
    for _ in 0..TRIES {
        match read(&line(question)?) {
            Ok(answer) => return Ok(answer),
            Err(wrong) => say(&format!("  {wrong}")),
        }
    }
    Err(Failure::new(anyhow!("{what} is still not said"), "try again when you have it"))
}

/// One line of the person's.
pub(crate) fn line(question: &str) -> Result<String, Failure> {
    eprint!("{question}");
    let mut answer = String::new();
    if stdin().read_line(&mut answer)? == 0 {
        return Err(Failure::new(anyhow!("there was no answer"), "nothing was changed; try again"));
    }
    Ok(answer.trim().to_owned())
}

/// Whether somebody sits there who can be asked.
pub(crate) fn has_person(args: &SetupArgs) -> bool {
    !args.yes && stdin().is_terminal()
}

/// Shows what was found, to people.
pub(crate) fn show(findings: &[Finding]) {
    let colour = Colour::when(stderr().is_terminal());
    // One host's findings are shown without its name.
    if let Ok(host) = "this-host".parse::<HostId>() {
        eprint!("{}", doctor::render(&[(host, findings.to_vec())], colour));
    }
}

/// Ends it when something that was found forbids to go on.
pub(crate) fn ready(findings: &[Finding]) -> Result<(), Failure> {
    if is_ready(findings) {
        return Ok(());
    }
    Err(Failure {
        exit: Exit::Unwell,
        error: anyhow!("this host is not ready; nothing was changed"),
        hint: Some("do what stands below each BAD, then run this again".to_owned()),
    })
}

/// Tells what will be done, and asks whether to go on where somebody can be asked.
pub(crate) fn agreed(plan: &[String], args: &SetupArgs) -> Result<bool, Failure> {
    say(if args.dry_run { "\nThis would:" } else { "\nThis will:" });
    for step in plan {
        say(&format!("  - {step}"));
    }
    if args.dry_run {
        say("Nothing was changed.");
        return Ok(false);
    }
    if has_person(args) {
        let answer = line("Go on? [Y/n] ")?;
        if !matches!(answer.to_lowercase().as_str(), "" | "y" | "yes") {
            say("Nothing was changed.");
            return Ok(false);
        }
    }
    Ok(true)
}

/// Prints JSON.
pub(crate) fn json(out: &mut dyn io::Write, value: &impl serde::Serialize) -> Result<(), Failure> {
    serde_json::to_writer_pretty(&mut *out, value).map_err(io::Error::from)?;
    writeln!(out)?;
    Ok(())
}
