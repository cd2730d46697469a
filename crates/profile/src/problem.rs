//! What is said about lines that could not be followed.

use std::borrow::Cow;
use std::fmt;

/// Problems kept; a file that is no profile at all would otherwise yield one per line.
const MAX_PROBLEMS: usize = 50;

/// Everything that stands in the way of using a profile. Holds no value of an option that may be secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ProfileErrors {
    /// In the order of the file; at least one, at most 50.
    pub problems: Vec<Problem>,
    /// How many more there were.
    pub omitted: usize,
}

impl ProfileErrors {
    pub(crate) fn new(mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
        let omitted = problems.len().saturating_sub(MAX_PROBLEMS);
        problems.truncate(MAX_PROBLEMS);
        Self { problems, omitted }
    }
}

impl fmt::Display for ProfileErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the profile cannot be used")?;
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        if self.omitted > 0 {
            write!(f, "\n  and {} more", self.omitted)?;
        }
        Ok(())
    }
}

/// One thing that stands in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line of the file, from 1; `None` when something is missing from the whole.
    pub line: Option<usize>,
    /// The option's name; empty when the line names none.
    pub option: String,
    /// Which class it is of.
    pub kind: ProblemKind,
    /// Why, and what to do.
    pub reason: Cow<'static, str>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, option, kind, reason } = self;
        if let Some(line) = line {
            write!(f, "line {line}: ")?;
        }
        if !option.is_empty() {
            write!(f, "'{option}' ")?;
        }
        write!(f, "{kind}: {reason}")
    }
}

/// The classes of problems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// The line or its arguments make no sense.
    Malformed,
    /// No such option is known.
    Unknown,
    /// A real option whose meaning would be lost here.
    Unsupported,
    /// It would run a program or load a library, or it belongs to a server.
    Refused,
    /// Something that has to be there is not.
    Missing,
}

impl fmt::Display for ProblemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::Unsupported => "unsupported",
            Self::Refused => "refused",
            Self::Missing => "missing",
        })
    }
}

/// An option that was passed over although the profile can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Line of the file, from 1; `None` when it is about the whole.
    pub line: Option<usize>,
    /// The option's name.
    pub option: String,
    /// Why.
    pub reason: Cow<'static, str>,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, option, reason } = self;
        match line {
            Some(line) => write!(f, "line {line}: '{option}': {reason}"),
            None => write!(f, "'{option}': {reason}"),
        }
    }
}

/// Why one option cannot be followed, before line and name are put to it.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) kind: ProblemKind,
    pub(crate) reason: Cow<'static, str>,
}

impl Fault {
    pub(crate) fn malformed(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { kind: ProblemKind::Malformed, reason: reason.into() }
    }

    pub(crate) fn unsupported(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { kind: ProblemKind::Unsupported, reason: reason.into() }
    }

    pub(crate) fn refused(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { kind: ProblemKind::Refused, reason: reason.into() }
    }

    pub(crate) fn at(self, line: Option<usize>, option: &str) -> Problem {
        Problem { line, option: option.to_owned(), kind: self.kind, reason: self.reason }
    }
}

/// A value as it may stand in a message: short, and without characters that could disturb a terminal.
pub(crate) fn shown(value: &str) -> String {
    const LONGEST: usize = 60;
    let mut text: String = value.chars().take(LONGEST).map(|c| if c.is_control() { '?' } else { c }).collect();
    if value.chars().nth(LONGEST).is_some() {
        text.push('…');
    }
    text
}
