//! What people see while they wait.

use std::time::Instant;

/// Says what is being done, each line with the seconds since the start.
#[derive(Debug)]
pub(crate) struct Progress {
    started: Instant,
}

impl Progress {
    pub(crate) fn start() -> Self {
        Self { started: Instant::now() }
    }

    /// A step begins.
    pub(crate) fn step(&self, what: &str) {
        eprintln!("[{:>6.1} s] {what}", self.started.elapsed().as_secs_f64());
    }

    /// Something was proven.
    pub(crate) fn proven(&self, what: &str) {
        self.step(&format!("ok: {what}"));
    }
}
