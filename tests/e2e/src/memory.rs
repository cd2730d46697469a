//! What a process needs of the machine's memory.

use std::fs;

use anyhow::{Context, Result};

/// Memory of a process, in MiB.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// What is in the machine's memory of it.
    pub resident: f64,
    /// Of that, what no file has.
    pub own: f64,
    /// The most that `resident` has been since the process began, or since [`forget_peak`].
    pub peak: f64,
}

impl Memory {
    /// The memory of the process now.
    ///
    /// # Errors
    /// When it has ended.
    pub fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/status");
        let status = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok());
            kib.map(|kib| kib / 1024.0).with_context(|| format!("{path} has no {name}"))
        };
        Ok(Self { resident: field("VmRSS")?, own: field("RssAnon")?, peak: field("VmHWM")? })
    }
}

/// Begins a process' peak anew, from what it has now.
///
/// # Errors
/// When it has ended, or is another user's.
pub fn forget_peak(pid: u32) -> Result<()> {
    let path = format!("/proc/{pid}/clear_refs");
    fs::write(&path, "5").with_context(|| format!("write {path}"))
}
