//! Keeps containers as they are wanted: a pure plan from what is desired and what the engine reports, and the task
//! that carries it out, again and again, until there is nothing left to do.
//!
//! - [`apps`] turns a few options into a service: its containers, their order, and the checks that prove it healthy.
//! - [`plan`] compares; it does no I/O.
//! - [`Supervisor`] owns the engine, executes, checks, restarts with backoff and publishes statuses.
//! - [`Engine`] is all that is asked of a container engine; [`DockerEngine`] is the implementation.
//! - [`Console`] is the way into running containers, for people.
//! - [`Operations`] is what people ask of services.
//! - [`probe`] asks services whether they work; [`Secrets`] generates and keeps passwords.
#![forbid(unsafe_code)]

pub mod apps;
mod console;
mod docker;
mod engine;
mod files;
mod health;
pub mod observed;
mod operations;
pub mod plan;
pub mod probe;
mod record;
mod secrets;
mod setup;
mod storage;
mod supervisor;
mod track;
pub mod upgrade;
mod words;
mod work;

pub use console::{Console, ConsoleCommand, Outputs};
pub use docker::{Belongings, DockerEngine};
pub use engine::{Engine, EngineError, EngineInfo, ExecOutput, Hint, PullProgress};
pub use operations::{Operations, Steps, Written};
pub use record::{Former, PinnedImage, Record, RecordError, RecordMap, Records, Release, Wanted};
pub use secrets::{SecretKind, Secrets, SecretsError};
pub use storage::{Helper, ImageFacts, Storage};
pub use supervisor::{Applied, Passes, RequestError, Requests, Supervisor, SupervisorOptions};

/// Every container of ours is called this and its own name.
pub const NAME_PREFIX: &str = "cloudathome-";

/// An error and its causes in one line, as a status shows it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Wrapping errors often print their cause already.
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
