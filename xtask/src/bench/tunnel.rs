//! A tunnel that stands, and what it costs.

use std::fs;

use anyhow::{Result, ensure};
use lab::Process;

/// The kernel counts CPU time in hundredths of a second for user space (`USER_HZ`), on all that Debian runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// The ends of a tunnel. Dropping it ends them.
pub(crate) struct Tunnel {
    /// The right end's address inside.
    pub(crate) address: String,
    /// Both ends; none for the bare cable.
    pub(crate) ends: Vec<Process>,
}

impl Tunnel {
    /// Seconds of CPU time, user and system, that both ends have used so far; none for the bare cable.
    pub(crate) fn cpu_seconds(&self) -> Option<f64> {
        let ticks = |stat: &Stat| stat.ticks as f64;
        self.of_processes(|stat| Some(ticks(stat))).map(|ticks| ticks / TICKS_PER_SECOND)
    }

    /// MiB of memory that both ends had at most; none for the bare cable.
    pub(crate) fn peak_memory(&self) -> Option<f64> {
        self.status("VmHWM:")
    }

    /// MiB of memory that both ends have now; none for the bare cable.
    pub(crate) fn memory(&self) -> Option<f64> {
        self.status("VmRSS:")
    }

    fn status(&self, key: &str) -> Option<f64> {
        self.of_processes(|stat| {
            let status = fs::read_to_string(format!("/proc/{}/status", stat.pid)).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            line.trim().trim_end_matches(" kB").parse::<f64>().ok()
        })
        .map(|kib| kib / 1024.0)
    }

    /// # Errors
    /// When an end has stopped.
    pub(crate) fn check(&mut self) -> Result<()> {
        for end in &mut self.ends {
            ensure!(end.is_running(), "an end has stopped: {}", end.log_tail(10));
        }
        Ok(())
    }

    /// Sums up over the processes of both ends, which are those of the groups they were started as.
    fn of_processes(&self, count: impl Fn(&Stat) -> Option<f64>) -> Option<f64> {
        let groups: Vec<u32> = self.ends.iter().map(Process::pid).collect();
        let processes = fs::read_dir("/proc")
            .ok()?
            .flatten()
            .filter_map(|entry| Stat::parse(&fs::read_to_string(entry.path().join("stat")).ok()?));
        let sum = processes.filter(|stat| groups.contains(&stat.group)).filter_map(|stat| count(&stat)).sum();
        (!groups.is_empty()).then_some(sum)
    }
}

/// What matters of a process's `stat` (see proc(5)).
#[derive(Debug, PartialEq)]
struct Stat {
    pid: u32,
    group: u32,
    /// User and system time of all threads, those that have ended among them.
    ticks: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        let pid = text.split(' ').next()?.parse().ok()?;
        // The name is in parentheses and may hold anything.
        let (_, after) = text.rsplit_once(") ")?;
        let fields: Vec<&str> = after.split(' ').collect();
        let [_state, _parent, group, .., _] = fields.as_slice() else { return None };
        let time = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(Self { pid, group: group.parse().ok()?, ticks: time(11)? + time(12)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_process_of_any_name() {
        let text = "4437 (a) b (c) S 1 4400 4400 0 -1 4194304 100 0 0 0 31 7 0 0 20 0 4 0 99 100 200";
        assert_eq!(Stat::parse(text), Some(Stat { pid: 4437, group: 4400, ticks: 38 }));
        assert_eq!(Stat::parse("1 (short) S"), None);
    }
}
