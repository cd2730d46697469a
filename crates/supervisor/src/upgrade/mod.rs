//! Upgrades with a way back.
//!
//! An upgrade is a [`Journal`] in the service's [`Record`](crate::Record). Killing the agent at any point leaves a record
//! from which the next start finishes or goes back by itself: [`journal`] says which.
//!
//! - [`journal`] decides what comes next; it does no I/O.
//! - [`Effects`] is what the steps do to the host.
//! - [`Automatic`] begins some by itself.
//! - [`Injector`] lets tests end the agent at each point.

mod automatic;
mod choice;
mod drive;
mod effects;
mod host;
mod injector;
pub mod journal;
mod upgrader;
mod version;
mod window;

pub use automatic::{Automatic, Clock, HostClock, Rule};
pub use choice::{NoChoice, Policy, choose};
pub use drive::Retry;
pub use effects::{Effects, copy_name, dump_name};
pub use host::{Host, HostOptions};
pub use injector::{Injector, NoCrash, Point};
pub use journal::{Asked, Ended, Failure, Journal, Step, StepEnd};
pub use upgrader::{UpgradeError, Upgrader};
pub use version::{PathError, Version, check_path, retag};
pub use window::{NoWindow, Window};

#[cfg(test)]
mod simulation;
