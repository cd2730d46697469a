//! Sets up the two hosts: [`Edge`] makes a public host an edge (`agentctl init`), [`Home`] makes a host at home its home
//! (`agentctl join`), [`Leaving`] takes either out again (`agentctl leave`, `agentctl purge`).
//!
//! Both go the same way: answers are checked, the host is looked at, and only then something is changed. Every step finds what
//! an earlier run left behind and goes on from there. The configuration is written last, because with it the agent starts with
//! the host.
#![forbid(unsafe_code)]

mod answers;
mod clock;
mod configuration;
mod edge;
mod error;
mod home;
mod host;
mod leave;
mod memory;
mod names;
mod paths;
mod ports;
mod unit;

pub use answers::{AnswerFile, Mail, for_the_agent};
pub use edge::{Edge, EdgeAnswers, Existing, Offer};
pub use error::SetupError;
pub use home::{Home, HomeAnswers, remote};
pub use host::is_ready;
pub use leave::{Leaving, Remains};
pub use names::{Record, RecordKind, public_ipv4, reachable_ipv4};
pub use paths::Paths;
