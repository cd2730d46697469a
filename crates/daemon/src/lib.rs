//! The process shell of a daemon: configuration, logs, metrics, signals, readiness, watchdog, shutdown. Nothing here knows
//! what the daemon is for.
#![forbid(unsafe_code)]

pub mod config;
pub mod exposition;
pub mod logs;
pub mod metrics;
mod run;
mod watchdog;

pub use run::{Args, ConfigCheck, Ready, host_is_stopping, run, until_first_ends};
pub use watchdog::Watchdog;

/// Exit codes, stable across releases.
pub mod exit {
    /// Stopped as asked.
    pub const OK: u8 = 0;
    /// Failed while running.
    pub const FAILED: u8 = 1;
    /// The configuration, or a file it names, cannot be used; nothing was bound or changed (`EX_USAGE`).
    pub const CONFIG: u8 = 64;
}
