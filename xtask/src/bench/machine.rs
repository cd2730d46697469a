//! The machine that a run was made on.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;

use anyhow::{Context, Result};
use serde::Serialize;

/// The machine, and the versions of what was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    kernel: String,
    processor: String,
    cores: usize,
    /// MiB.
    memory: u64,
    /// The load averages when the run began: what else was going on.
    load: String,
    versions: BTreeMap<String, String>,
}

impl Machine {
    /// `versions`: of what is measured, by name.
    pub(crate) fn look(versions: impl IntoIterator<Item = (String, String)>) -> Result<Self> {
        let read = |file: &str| fs::read_to_string(file).with_context(|| format!("read {file}"));
        let value = |text: &str, key: &str| {
            let line = text.lines().find(|line| line.starts_with(key));
            line.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned()))
        };
        let memory = value(&read("/proc/meminfo")?, "MemTotal").unwrap_or_default();
        Ok(Self {
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            processor: value(&read("/proc/cpuinfo")?, "model name").unwrap_or_else(|| "unknown".to_owned()),
            cores: std::thread::available_parallelism()?.get(),
            memory: memory.trim_end_matches(" kB").parse::<u64>().unwrap_or(0) / 1024,
            load: read("/proc/loadavg")?.split(' ').take(3).collect::<Vec<_>>().join(" "),
            versions: versions.into_iter().collect(),
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}, {} cores, {} MiB, Linux {}, load at the start {}",
            self.processor, self.cores, self.memory, self.kernel, self.load
        )?;
        for (name, version) in &self.versions {
            writeln!(f, "  {name}: {version}")?;
        }
        Ok(())
    }
}
