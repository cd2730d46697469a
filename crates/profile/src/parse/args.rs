//! The arguments of a line as what they mean.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use secrecy::SecretString;

use crate::lines::Line;
use crate::problem::{Fault, shown};
use crate::settings::Source;

/// Longest time that an option may name: more than a century.
const MAX_SECONDS: u64 = u32::MAX as u64;

impl Line<'_> {
    /// At least so many words.
    pub(super) fn some(&self, least: usize) -> Result<&[String], Fault> {
        if self.block.is_some() {
            Err(Fault::malformed("it is written as a line, not as a block"))
        } else if self.words.len() < least {
            Err(Fault::malformed(match least {
                1 => "its argument is missing".to_owned(),
                _ => format!("it takes at least {least} arguments"),
            }))
        } else {
            Ok(&self.words)
        }
    }

    /// So many words and no more.
    pub(super) fn between(&self, counts: RangeInclusive<usize>) -> Result<&[String], Fault> {
        let words = self.some(*counts.start())?;
        match counts.end() {
            most if words.len() <= *most => Ok(words),
            0 => Err(Fault::malformed("it takes no argument")),
            1 => Err(Fault::malformed("it takes one argument only")),
            most => Err(Fault::malformed(format!("it takes at most {most} arguments"))),
        }
    }

    /// No argument; always `true`.
    pub(super) fn flag(&self) -> Result<bool, Fault> {
        self.between(0..=0).map(|_| true)
    }

    /// One argument, not empty.
    pub(super) fn one(&self) -> Result<&str, Fault> {
        self.one_or_two().and_then(|(first, second)| match second {
            None => Ok(first),
            Some(_) => Err(Fault::malformed("it takes one argument only")),
        })
    }

    /// One argument, not empty, and perhaps a second.
    pub(super) fn one_or_two(&self) -> Result<(&str, Option<&str>), Fault> {
        match self.between(1..=2)? {
            [first, ..] if first.is_empty() => Err(Fault::malformed("its argument is empty")),
            [first] => Ok((first, None)),
            [first, second, ..] => Ok((first, Some(second))),
            [] => Err(Fault::malformed("its argument is missing")),
        }
    }

    /// One whole number.
    pub(super) fn number<T: FromStr + PartialOrd + Display>(&self, range: RangeInclusive<T>) -> Result<T, Fault> {
        number(self.one()?, range)
    }

    /// One number of seconds.
    pub(super) fn seconds(&self) -> Result<Duration, Fault> {
        seconds(self.one()?)
    }

    /// One number of seconds, where 0 means never.
    pub(super) fn seconds_or_never(&self) -> Result<Option<Duration>, Fault> {
        Ok(Some(self.seconds()?).filter(|time| !time.is_zero()))
    }

    /// A block, or the name of a file.
    pub(super) fn source(&self) -> Result<Source<String>, Fault> {
        match self.block {
            None => Ok(Source::File(self.one()?.to_owned())),
            Some(block) if block.body.trim().is_empty() => Err(Fault::malformed("the block is empty")),
            Some(block) => Ok(Source::Inline(block.body.to_owned())),
        }
    }

    /// A block, or the name of a file, of something secret.
    pub(super) fn secret_source(&self) -> Result<Source<SecretString>, Fault> {
        Ok(match self.source()? {
            Source::File(file) => Source::File(file),
            Source::Inline(text) => Source::Inline(text.into()),
        })
    }
}

pub(super) fn number<T: FromStr + PartialOrd + Display>(word: &str, range: RangeInclusive<T>) -> Result<T, Fault> {
    word.parse().ok().filter(|number| range.contains(number)).ok_or_else(|| {
        let (low, high) = range.into_inner();
        Fault::malformed(format!("'{}' is not a number from {low} to {high}", shown(word)))
    })
}

pub(super) fn seconds(word: &str) -> Result<Duration, Fault> {
    number(word, 0..=MAX_SECONDS).map(Duration::from_secs)
}

/// One of a few words.
pub(super) fn choice<T: Copy>(word: &str, choices: &[(&str, T)]) -> Result<T, Fault> {
    choices.iter().find(|choice| choice.0 == word).map(|choice| choice.1).ok_or_else(|| {
        let known: Vec<_> = choices.iter().map(|choice| choice.0).collect();
        Fault::malformed(format!("'{}' is none of {}", shown(word), known.join(", ")))
    })
}
