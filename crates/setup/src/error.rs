//! Why a host could not be set up.

use std::error::Error;

type BoxError = Box<dyn Error + Send + Sync>;

/// What could not be done, why, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct SetupError {
    what: String,
    next: String,
    #[source]
    source: Option<BoxError>,
}

impl SetupError {
    pub(crate) fn new(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { what: what.into(), next: next.into(), source: None }
    }

    pub(crate) fn because(what: impl Into<String>, source: impl Into<BoxError>, next: impl Into<String>) -> Self {
        Self { what: what.into(), next: next.into(), source: Some(source.into()) }
    }

    /// The next step of the person.
    #[must_use]
    pub fn next(&self) -> &str {
        &self.next
    }
}

/// For what fails when a disk is full or broken.
pub(crate) const LOOK_AT_DISK: &str = "look at the disk (`df -h`), then run this again: it goes on from here";
