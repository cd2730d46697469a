//! The journal of an upgrade: which step is at work, and what comes after it. Pure.
//!
//! The journal is part of the service's [`Record`](crate::Record), and the record alone says which images are to run,
//! what of the service runs and whether people may use it ([`Record::wanted`](crate::Record::wanted)). So one atomic
//! write of it takes the service from one step to the next, whole. It is written before a step begins; a step may run
//! any number of times.
//!
//! ```text
//! forward   Prepare ─ Quiesce ─ Snapshot ─ Dump ─┬─ Settle ─ Finish ─┬─ Keep        the new release is in force
//!               └────────┴─────────┴────────┴────│──▶ Clear          │             the old one is, as it was
//! back                                           └── Halt ◀──────────┘
//!                                                    Halt ─ RestoreVolumes ─ RestoreDatabases ─ SettleBack ─ Clear
//! ```
//!
//! Until the switch, which is the write that begins `Settle`, the old release is in force and nothing of it was changed:
//! a failure, and an agent that was stopped, lead to `Clear`. From the switch on until people may use the new release,
//! a failure leads back. From there on nothing leads back but a person's wish.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::record::{Former, LEFT, Record, Release};

/// What is done, or was begun and is done again after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The path is checked, the image fetched, the disk looked at. The service runs and is used.
    Prepare,
    /// Nobody may use the service any more; what is not a database ends.
    Quiesce,
    /// Volumes of [`VolumeKind::State`](model::VolumeKind::State) are copied.
    Snapshot,
    /// Databases are dumped.
    Dump,
    /// The new release runs; it migrates and becomes healthy.
    Settle,
    /// Commands that come after an upgrade.
    Finish,
    /// People use the new release. Copies of releases before the former one are removed.
    Keep,
    /// Everything ends, to go back: with it what an agent before may have left running in it.
    Halt,
    /// Volumes become what was copied.
    RestoreVolumes,
    /// Databases become what was dumped.
    RestoreDatabases,
    /// The old release runs and becomes healthy.
    SettleBack,
    /// People use the old release. Copies that are of no use any more are removed.
    Clear,
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepEnd {
    /// It did what it is for; what is amiss all the same, if anything.
    Done(Option<String>),
    /// It could not.
    Failed(Failure),
    /// Unknown: the agent ended meanwhile.
    Interrupted,
}

/// Why an upgrade failed whose agent was stopped before the new release was begun.
const INTERRUPTED: &str = "the agent was stopped meanwhile; ask for it again";

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// In which step.
    pub step: Step,
    /// Why, in words for people.
    pub reason: String,
    /// The last lines that the failing container wrote.
    pub log: Vec<String>,
}

/// What began the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Asked {
    /// An upgrade was asked for.
    Upgrade,
    /// The way back was asked for.
    Rollback,
}

/// An upgrade, or a way back, that is at work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// What it is.
    pub asked: Asked,
    /// The step at work.
    pub step: Step,
    /// The release that is left, or to which it goes back.
    pub old: Release,
    /// The release that comes, or from which it goes back. Image ids are known after [`Step::Prepare`].
    pub new: Release,
    /// The engine's names of the volumes that are copied.
    pub volumes: Vec<String>,
    /// Units that go on running while the others are stopped: the databases.
    pub databases: Vec<String>,
    /// Unix time of its begin, in seconds.
    pub began_at: i64,
    /// Unix time of the begin of its step, in seconds.
    pub step_at: i64,
    /// Why it goes back, or was given up.
    pub failure: Option<Failure>,
    /// What is amiss, but no reason to go back: what stands in the way of going back and is tried again, or what a
    /// command after the upgrade said.
    pub trouble: Option<String>,
}

/// An upgrade, or a way back, that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// What it was.
    pub asked: Asked,
    /// The older of the two releases.
    pub old: Release,
    /// The newer of the two releases.
    pub new: Release,
    /// Whether the newer one is in force.
    pub new_in_force: bool,
    /// Unix time of its begin, in seconds.
    pub began_at: i64,
    /// Unix time of its end, in seconds.
    pub ended_at: i64,
    /// Why the newer one is not in force; none when a person asked for that.
    pub failure: Option<Failure>,
    /// What is amiss with the release in force.
    pub trouble: Option<String>,
}

impl Step {
    /// What comes after this step when it ended like that; none: the journal ends. The same step: it is to be done
    /// again.
    #[must_use]
    pub fn next(self, end: &StepEnd) -> Option<Self> {
        match (self, end) {
            (Self::Prepare, StepEnd::Done(_)) => Some(Self::Quiesce),
            (Self::Quiesce, StepEnd::Done(_)) => Some(Self::Snapshot),
            (Self::Snapshot, StepEnd::Done(_)) => Some(Self::Dump),
            (Self::Dump, StepEnd::Done(_)) => Some(Self::Settle),
            (Self::Settle, StepEnd::Done(_)) => Some(Self::Finish),
            (Self::Finish, StepEnd::Done(_)) => Some(Self::Keep),
            (Self::Halt, StepEnd::Done(_)) => Some(Self::RestoreVolumes),
            (Self::RestoreVolumes, StepEnd::Done(_)) => Some(Self::RestoreDatabases),
            (Self::RestoreDatabases, StepEnd::Done(_)) => Some(Self::SettleBack),
            // A release that was brought back as it was is better in people's hands than behind a holding page.
            (Self::SettleBack, StepEnd::Done(_) | StepEnd::Failed(_)) => Some(Self::Clear),
            (
                Self::Prepare | Self::Quiesce | Self::Snapshot | Self::Dump,
                StepEnd::Failed(_) | StepEnd::Interrupted,
            ) => Some(Self::Clear),
            (Self::Settle | Self::Finish, StepEnd::Failed(_)) => Some(Self::Halt),
            // Half a way back is no place to stay. What was begun may still be running: it ends with its container.
            (Self::Halt | Self::RestoreVolumes, StepEnd::Failed(_)) => Some(self),
            (Self::RestoreDatabases, StepEnd::Failed(_)) => Some(Self::Halt),
            (Self::RestoreVolumes | Self::RestoreDatabases, StepEnd::Interrupted) => Some(Self::Halt),
            (_, StepEnd::Interrupted) => Some(self),
            // What could not be removed is removed after the next upgrade.
            (Self::Keep | Self::Clear, StepEnd::Done(_) | StepEnd::Failed(_)) => None,
        }
    }

    /// Whether the new release is the one to run.
    #[must_use]
    pub fn runs_new(self) -> bool {
        matches!(self, Self::Settle | Self::Finish | Self::Keep)
    }

    /// Whether the application runs.
    #[must_use]
    pub fn runs_application(self) -> bool {
        !self.runs_databases_only() && !self.runs_nothing()
    }

    /// Whether nothing runs but the databases.
    #[must_use]
    pub fn runs_databases_only(self) -> bool {
        matches!(self, Self::Quiesce | Self::Snapshot | Self::Dump | Self::RestoreDatabases)
    }

    /// Whether nothing runs.
    #[must_use]
    pub fn runs_nothing(self) -> bool {
        matches!(self, Self::Halt | Self::RestoreVolumes)
    }

    /// Whether it is on the way back, before people may use the old release.
    #[must_use]
    pub fn is_back(self) -> bool {
        matches!(self, Self::Halt | Self::RestoreVolumes | Self::RestoreDatabases | Self::SettleBack)
    }

    /// Whether people may use the service.
    #[must_use]
    pub fn published(self) -> bool {
        matches!(self, Self::Prepare | Self::Keep | Self::Clear)
    }

    /// What is done, for people.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Prepare => "checking the way and fetching the image",
            Self::Quiesce => "waiting until the application has ended",
            Self::Halt => "waiting until everything has ended",
            Self::Snapshot => "copying its volumes",
            Self::Dump => "dumping its databases",
            Self::Settle => "waiting until the new release is up to date and healthy",
            Self::Finish => "tidying up in the new release",
            Self::Keep | Self::Clear => "removing copies that are no longer needed",
            Self::RestoreVolumes => "bringing its volumes back",
            Self::RestoreDatabases => "bringing its databases back",
            Self::SettleBack => "waiting until the former release is healthy",
        }
    }
}

impl Failure {
    /// A failure in `step` without a log.
    #[must_use]
    pub fn new(step: Step, reason: impl Into<String>) -> Self {
        Self { step, reason: reason.into(), log: Vec::new() }
    }
}

impl Journal {
    /// What is at work, in a sentence for people.
    #[must_use]
    pub fn words(&self) -> String {
        let what = match (self.asked, &self.failure) {
            (Asked::Upgrade, None) => format!("being upgraded to {}", self.new.words()),
            (Asked::Upgrade, Some(failure)) => {
                let kept = if failure.step < Step::Settle { "staying at" } else { "going back to" };
                format!("{kept} {} because the upgrade failed ({})", self.old.words(), failure.reason)
            }
            (Asked::Rollback, _) => format!("going back to {} because a person asked for it", self.old.words()),
        };
        let trouble = self.trouble.as_ref().map(|trouble| format!("; {trouble}")).unwrap_or_default();
        format!("{what}: {}{trouble}", self.step.words())
    }
}

impl Ended {
    /// What came of it, in a sentence for people.
    #[must_use]
    pub fn words(&self) -> String {
        let (old, new) = (self.old.words(), self.new.words());
        let what = match (self.asked, self.new_in_force, &self.failure) {
            (_, true, _) => format!("upgraded to {new}"),
            (Asked::Rollback, ..) => format!("went back to {old}"),
            (Asked::Upgrade, false, Some(failure)) => {
                let kept = if failure.step < Step::Settle { "stays at" } else { "went back to" };
                format!("{kept} {old}: the upgrade to {new} failed ({}): {}", failure.step.words(), failure.reason)
            }
            (Asked::Upgrade, false, None) => format!("stays at {old}"),
        };
        let trouble = self.trouble.as_ref().map(|trouble| format!("; {trouble}"));
        format!("{what}{}", trouble.unwrap_or_default())
    }
}

impl Record {
    /// The record after the journal's step ended like that.
    #[must_use]
    pub fn advance(&self, end: &StepEnd, now: i64) -> Self {
        let Some(journal) = &self.journal else { return self.clone() };
        let Some(step) = journal.step.next(end) else { return self.finish(journal, now) };
        let mut next = journal.clone();
        let towards_new = next.step < Step::Halt;
        match end {
            StepEnd::Done(trouble) => next.trouble.clone_from(trouble),
            StepEnd::Failed(failure) if towards_new => next.failure = Some(failure.clone()),
            StepEnd::Failed(failure) => next.trouble = Some(failure.reason.clone()),
            StepEnd::Interrupted if step == Step::Clear && towards_new => {
                next.failure = Some(Failure::new(journal.step, INTERRUPTED));
            }
            StepEnd::Interrupted => {}
        }
        if next.step != step {
            next.step_at = now;
        }
        next.step = step;
        Self { journal: Some(next), ..self.clone() }
    }

    /// The former release that stays once the journal has ended.
    pub(crate) fn former_after(&self, journal: &Journal) -> Option<Former> {
        if journal.step.runs_new() {
            return Some(Former {
                release: journal.old.clone(),
                volumes: journal.volumes.clone(),
                databases: journal.databases.clone(),
                left_at: journal.began_at,
            });
        }
        // The release that is in force again is no former one.
        self.former.clone().filter(|former| former.release.generation != journal.old.generation)
    }

    /// The images that are left once the journal has ended. One that failed before anything was stopped, or because the agent was,
    /// is not among them: a full disk or a restart says nothing about the image.
    fn left_after(&self, journal: &Journal) -> Vec<String> {
        let of = |release: &Release| -> BTreeSet<String> {
            release.images.values().map(|image| image.reference.clone()).collect()
        };
        let mut left = self.left.clone();
        let new: Vec<String> = of(&journal.new).difference(&of(&journal.old)).cloned().collect();
        left.retain(|image| !new.contains(image));
        let says_nothing = |failure: &Failure| failure.step == Step::Prepare || failure.reason == INTERRUPTED;
        let known = new.iter().any(|image| self.left.contains(image));
        if !journal.step.runs_new() && (known || !journal.failure.as_ref().is_some_and(says_nothing)) {
            left.extend(new);
        }
        left.drain(..left.len().saturating_sub(LEFT));
        left
    }

    fn finish(&self, journal: &Journal, now: i64) -> Self {
        let new_in_force = journal.step.runs_new();
        let release = if new_in_force { &journal.new } else { &journal.old };
        Self {
            left: self.left_after(journal),
            release: release.clone(),
            former: self.former_after(journal),
            last: Some(Ended {
                asked: journal.asked,
                old: journal.old.clone(),
                new: journal.new.clone(),
                new_in_force,
                began_at: journal.began_at,
                ended_at: now,
                failure: journal.failure.clone(),
                trouble: journal.trouble.clone(),
            }),
            journal: None,
            ..self.clone()
        }
    }
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
