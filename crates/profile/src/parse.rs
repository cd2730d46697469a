//! From lines to a checked profile.

mod args;
mod connection;
mod network;
mod session;
mod tls;

use std::collections::HashSet;

use self::connection::Draft;
use crate::known::{Class, class};
use crate::lines::{Block, Line, MAX_PROFILE, cut, printable_name};
use crate::problem::{Fault, Note, Problem, ProblemKind, ProfileErrors};
use crate::settings::Profile;

/// Each carries its keys, so their number bounds the memory that a profile takes.
const MAX_CONNECTIONS: usize = 64;

pub(crate) fn parse(text: &str) -> Result<Profile, ProfileErrors> {
    if text.len() > MAX_PROFILE {
        let fault = Fault::malformed("the profile has more than 256 KiB");
        return Err(ProfileErrors::new(vec![fault.at(None, "")]));
    }
    let mut problems = Vec::new();
    let lines = cut(text, 1, &mut problems);
    let mut reader = Reader::new(&lines, problems);
    for line in &lines {
        reader.read(line, false);
    }
    reader.finish()
}

/// Collects what the lines say.
struct Reader {
    /// Everything but the connections.
    profile: Profile,
    /// Connection settings outside of blocks, and the `remote` lines.
    draft: Draft,
    /// One for each `<connection>` block, with its line.
    blocks: Vec<(usize, Draft)>,
    tls_client: bool,
    pull: bool,
    /// Options that the profile allows to pass over.
    optional: HashSet<String>,
    forward_compatible: bool,
    problems: Vec<Problem>,
}

impl Reader {
    /// Leave to pass options over counts for the whole file, wherever it is given.
    fn new(lines: &[Line<'_>], problems: Vec<Problem>) -> Self {
        let mut optional = HashSet::new();
        let mut forward_compatible = false;
        for line in lines {
            match (line.name.as_str(), line.words.as_slice()) {
                ("ignore-unknown-option", names) => optional.extend(names.iter().cloned()),
                ("setenv", [name, value, ..]) if name == "FORWARD_COMPATIBLE" => forward_compatible = value == "1",
                _ => {}
            }
        }
        Self {
            profile: session::defaults(),
            draft: Draft::default(),
            blocks: Vec::new(),
            tls_client: false,
            pull: false,
            optional,
            forward_compatible,
            problems,
        }
    }

    /// `optional` when this one line may be passed over.
    fn read(&mut self, line: &Line<'_>, optional: bool) {
        let result = match self.apply(line) {
            Ok(true) => Ok(()),
            Ok(false) => self.classify(line, "no such option; mistyped?"),
            Err(fault) => Err(fault),
        };
        if let Err(fault) = result {
            self.fault(line, fault, optional);
        }
    }

    /// Whether the option is one that we act on.
    fn apply(&mut self, line: &Line<'_>) -> Result<bool, Fault> {
        match (line.name.as_str(), line.block) {
            ("connection", Some(block)) => self.connection_block(line.number, block),
            ("client", _) => {
                line.flag()?;
                self.tls_client = true;
                self.pull = true;
            }
            ("tls-client", _) => self.tls_client = line.flag()?,
            ("pull", _) => self.pull = line.flag()?,
            ("ignore-unknown-option", _) => drop(line.some(1)?),
            ("setenv", _) => self.setenv(line)?,
            _ => {
                return Ok(self.draft.apply(line)?
                    || self.tls_option(line)?
                    || self.network_option(line)?
                    || self.session_option(line)?);
            }
        }
        Ok(true)
    }

    fn connection_block(&mut self, number: usize, block: Block<'_>) {
        let mut draft = self.draft.for_block();
        for line in cut(block.body, block.first_line, &mut self.problems) {
            let result = match draft.apply(&line) {
                Ok(true) => Ok(()),
                Ok(false) => self.classify(&line, "not an option of <connection>; move it out of the block"),
                Err(fault) => Err(fault),
            };
            if let Err(fault) = result {
                self.fault(&line, fault, false);
            }
        }
        self.blocks.push((number, draft));
    }

    /// For an option that is not acted on: a note, or what is wrong with it.
    fn classify(&mut self, line: &Line<'_>, unknown: &'static str) -> Result<(), Fault> {
        match class(&line.name) {
            Some((Class::Ignored, reason)) => {
                self.note(line, reason);
                Ok(())
            }
            Some((Class::Unsupported, reason)) => Err(Fault::unsupported(reason)),
            Some((Class::Refused, reason)) => Err(Fault::refused(reason)),
            None if printable_name(&line.name).is_empty() => {
                Err(Fault::malformed("the line is not an option; keys and certificates belong between their tags"))
            }
            None => Err(Fault { kind: ProblemKind::Unknown, reason: unknown.into() }),
        }
    }

    fn fault(&mut self, line: &Line<'_>, fault: Fault, optional: bool) {
        let optional = optional || self.optional.contains(&line.name);
        let forgiven = match fault.kind {
            ProblemKind::Unknown => optional || self.forward_compatible,
            ProblemKind::Unsupported => optional,
            ProblemKind::Malformed | ProblemKind::Refused | ProblemKind::Missing => false,
        };
        if forgiven {
            self.note(line, "not known here, and the profile allows to pass it over");
        } else {
            self.problems.push(fault.at(Some(line.number), &printable_name(&line.name)));
        }
    }

    fn note(&mut self, line: &Line<'_>, reason: impl Into<std::borrow::Cow<'static, str>>) {
        let option = printable_name(&line.name);
        self.profile.notes.push(Note { line: Some(line.number), option, reason: reason.into() });
    }

    fn setenv(&mut self, line: &Line<'_>) -> Result<(), Fault> {
        let words = line.some(1)?;
        match words {
            [opt, name, rest @ ..] if opt == "opt" => {
                let name = name.strip_prefix("--").unwrap_or(name).to_owned();
                let inner = Line { number: line.number, name, words: rest.to_vec(), block: None };
                self.read(&inner, true);
            }
            [name, ..] if name == "FORWARD_COMPATIBLE" => {}
            [name, value] if name.starts_with("UV_") || name == "IV_GUI_VER" || name == "IV_SSO" => {
                self.profile.peer_info.push((name.clone(), value.clone()));
            }
            [name, ..] if name == "CLIENT_CERT" => self.note(line, "whether there is a certificate is seen by itself"),
            _ => self.note(line, "an environment is for scripts, and none are run"),
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Profile, ProfileErrors> {
        self.check_role();
        self.finish_connections();
        self.check_tls();
        if self.problems.is_empty() { Ok(self.profile) } else { Err(ProfileErrors::new(self.problems)) }
    }

    fn check_role(&mut self) {
        if !self.tls_client {
            self.missing("client", "the profile is not a client's; add 'client'");
        } else if !self.pull {
            self.missing("pull", "a tunnel without settings from the server is not supported; add 'client'");
        }
    }

    fn finish_connections(&mut self) {
        let draft = std::mem::take(&mut self.draft);
        let shared = draft.wrapping.clone();
        let mut drafts = std::mem::take(&mut self.blocks);
        if drafts.is_empty() {
            drafts.push((0, draft));
        } else if !draft.remotes.is_empty() {
            self.profile.notes.push(Note {
                line: None,
                option: "remote".to_owned(),
                reason: "outside of <connection> blocks it counts only when there are none".into(),
            });
        }
        if drafts.iter().map(|(_, draft)| draft.remotes.len()).sum::<usize>() > MAX_CONNECTIONS {
            self.problems.push(Fault::malformed("there are more than 64").at(None, "remote"));
            return;
        }
        for (number, mut draft) in drafts {
            if draft.wrapping.is_empty() {
                draft.wrapping = shared.clone();
            }
            let at = (number > 0).then_some(number);
            match draft.finish() {
                Ok(connections) => self.profile.connections.extend(connections),
                Err((option, _)) if self.has_problem(option) => {}
                Err((option, fault)) => self.problems.push(fault.at(at, option)),
            }
        }
    }

    /// Says nothing where the option is there but could not be followed, which has been said already.
    fn missing(&mut self, option: &str, reason: &'static str) {
        if !self.has_problem(option) {
            let fault = Fault { kind: ProblemKind::Missing, reason: reason.into() };
            self.problems.push(fault.at(None, option));
        }
    }

    fn has_problem(&self, option: &str) -> bool {
        self.problems.iter().any(|problem| problem.option == option)
    }
}
