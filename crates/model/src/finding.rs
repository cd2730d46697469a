//! What a look at a host found.

use serde::{Deserialize, Serialize};

/// How something on a host is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at, one word or two.
    pub check: String,
    /// How it is.
    pub grade: Grade,
    /// What was found, in words for people.
    pub text: String,
    /// What to do about it, if anything.
    pub next: Option<String>,
}

/// How good a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// As it should be.
    Good,
    /// It works, and may not for ever, or not as well as it could.
    Doubtful,
    /// It does not work, or soon will not.
    Bad,
}
