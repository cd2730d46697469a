//! Join codes, as they can be shown.

use serde::Serialize;

use crate::HostId;

/// A join code without its secret. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JoinCodeInfo {
    /// What it is called.
    pub id: String,
    /// The name of the home that it lets in.
    pub home: HostId,
    /// Made at.
    pub created: u64,
    /// Good until.
    pub expires: u64,
    /// How it stands.
    pub state: JoinCodeState,
}

/// How a join code stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum JoinCodeState {
    /// It can be used.
    Open,
    /// It let a home in.
    Used,
    /// It was revoked.
    Revoked,
    /// Its time is over.
    Expired,
}

impl JoinCodeState {
    /// The state as a word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Used => "used",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
        }
    }
}
