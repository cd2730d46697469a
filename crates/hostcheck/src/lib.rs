//! Looks at what a host must have for the agents to work, before they are set up and for `agentctl doctor` afterwards.
#![forbid(unsafe_code)]

mod engine;
mod mail;
pub mod public;
mod room;
mod tun;

pub use engine::engine;
pub use mail::{MailServer, mail};
pub use room::Rooms;
pub use tun::tun;

use model::{Finding, Grade};

/// A finding.
#[must_use]
pub fn found(check: &str, grade: Grade, text: impl Into<String>, next: Option<&str>) -> Finding {
    Finding { check: check.to_owned(), grade, text: text.into(), next: next.map(str::to_owned) }
}
