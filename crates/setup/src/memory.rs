//! The host's memory.

use std::fs;

use hostcheck::found;
use model::{Finding, Grade};

/// Whether there are so many MiB of memory, swap included, for `whom`.
pub(crate) fn memory(least: u64, whom: &str, next: &str) -> Finding {
    judged(fs::read_to_string("/proc/meminfo").ok().as_deref().and_then(in_all), least, whom, next)
}

/// MiB of memory and swap, by the kernel's own table.
fn in_all(table: &str) -> Option<u64> {
    let of = |key: &str| -> Option<u64> {
        let line = table.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().next()?.parse().ok()
    };
    Some((of("MemTotal:")? + of("SwapTotal:").unwrap_or_default()) / 1024)
}

fn judged(memory: Option<u64>, least: u64, whom: &str, next: &str) -> Finding {
    let what = "memory";
    match memory {
        None => found(what, Grade::Doubtful, "the kernel does not say how much there is", None),
        Some(mib) if mib < least => {
            found(what, Grade::Bad, format!("{mib} MiB with swap; {whom} needs {least} MiB"), Some(next))
        }
        Some(mib) => found(what, Grade::Good, format!("{mib} MiB with swap"), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_is_told_with_a_remedy() {
        let table = "MemTotal:        1000000 kB\nMemFree:  1 kB\nSwapTotal:        48576 kB\n";
        assert_eq!(in_all(table), Some(1024));
        assert_eq!(in_all("nonsense"), None);
        assert_eq!(judged(Some(1024), 1024, "x", "y").grade, Grade::Good);
        let little = judged(Some(1023), 1024, "Ghost", "--no-blog");
        assert!(little.grade == Grade::Bad && little.next.as_deref() == Some("--no-blog"), "{little:?}");
        assert_eq!(judged(None, 1, "x", "y").grade, Grade::Doubtful);
    }
}
