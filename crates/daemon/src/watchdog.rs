//! Whether the daemon's parts go on, told to systemd.
//!
//! Each part that owns something counts while it goes on. As long as all do, systemd gets its pings; when one has not counted
//! within its deadline they stop, and systemd ends the daemon and starts it again (`WatchdogSec=` in the unit).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// Between two looks at the parts.
const LOOK: Duration = Duration::from_secs(1);

/// Looks after the parts of a daemon.
pub struct Watchdog {
    owners: Vec<Owner>,
    state: Box<dyn FnMut() -> String + Send>,
    stop: CancellationToken,
}

struct Owner {
    name: &'static str,
    deadline: Duration,
    count: Box<dyn FnMut() -> u64 + Send>,
    seen: u64,
    at: Instant,
    late: bool,
}

impl Owner {
    /// Whether it has counted within its deadline.
    fn is_well(&mut self, now: Instant) -> bool {
        let count = (self.count)();
        if count != self.seen {
            (self.seen, self.at) = (count, now);
        }
        let late = now.duration_since(self.at) > self.deadline;
        if late && !self.late {
            let seconds = self.deadline.as_secs();
            error!(part = self.name, "no progress for {seconds} s: systemd is not told any more that all is well");
        } else if self.late && !late {
            warn!(part = self.name, "progress again");
        }
        self.late = late;
        !late
    }
}

impl Watchdog {
    /// Looks after nothing yet. Once `stop` is cancelled parts may end, and nobody is late. `state` says in a line how the
    /// daemon is, for `systemctl status`.
    #[must_use]
    pub fn new(stop: CancellationToken, state: impl FnMut() -> String + Send + 'static) -> Self {
        Self { owners: Vec::new(), state: Box::new(state), stop }
    }

    /// Looks after a part whose count changes at least once within `deadline`.
    pub fn watch(&mut self, name: &'static str, deadline: Duration, count: impl FnMut() -> u64 + Send + 'static) {
        let at = Instant::now();
        self.owners.push(Owner { name, deadline, count: Box::new(count), seen: 0, at, late: false });
    }

    /// Looks after a task: `work` is to be run as the returned future. The task counts by itself, and does not while `work`
    /// keeps it from it.
    pub fn attend<W: Future>(
        &mut self,
        name: &'static str,
        deadline: Duration,
        work: W,
    ) -> impl Future<Output = W::Output> + use<W> {
        let count = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&count);
        self.watch(name, deadline, move || counted.load(Ordering::Relaxed));
        async move {
            let counting = async {
                let mut beat = interval(LOOK);
                beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
                loop {
                    beat.tick().await;
                    count.fetch_add(1, Ordering::Relaxed);
                }
            };
            tokio::select! {
                done = work => done,
                () = counting => std::future::pending().await,
            }
        }
    }

    /// Whether every part goes on.
    fn all_well(&mut self, now: Instant) -> bool {
        // Each is asked, so that each is told of.
        self.owners.iter_mut().filter_map(|owner| (!owner.is_well(now)).then_some(())).count() == 0
    }

    /// Tells systemd, for as long as the process lives.
    pub(crate) async fn run(mut self) {
        let wanted = sd_notify::watchdog_enabled();
        if let Some(wanted) = wanted {
            info!(limit = ?wanted, "systemd watches over this process");
        }
        let mut told = String::new();
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            let well = self.stop.is_cancelled() || self.all_well(Instant::now());
            let mut news = Vec::new();
            if well && wanted.is_some() {
                news.push(NotifyState::Watchdog);
            }
            let state = (self.state)();
            if state != told && !self.stop.is_cancelled() {
                told = state;
                news.push(NotifyState::Status(&told));
            }
            // Without systemd this does nothing. One that does not listen will see no pings.
            if !news.is_empty()
                && let Err(error) = sd_notify::notify(&news)
            {
                warn!(%error, "systemd could not be told how the daemon is");
            }
        }
    }
}

impl fmt::Debug for Watchdog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.owners.iter().map(|owner| owner.name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);

    fn watchdog() -> Watchdog {
        Watchdog::new(CancellationToken::new(), String::new)
    }

    #[test]
    fn a_part_that_does_not_count_is_late_until_it_does() {
        let counts = [Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0))];
        let mut watchdog = watchdog();
        for (count, name) in counts.iter().zip(["one", "other"]) {
            let count = Arc::clone(count);
            watchdog.watch(name, DEADLINE, move || count.load(Ordering::Relaxed));
        }
        let begun = Instant::now();
        let mut at = |seconds: u64, counting: &[usize]| {
            for &one in counting {
                counts[one].fetch_add(1, Ordering::Relaxed);
            }
            watchdog.all_well(begun + Duration::from_secs(seconds))
        };
        assert!(at(5, &[0, 1]));
        assert!(at(15, &[0]));
        assert!(!at(16, &[0]), "the other has stood still for more than its deadline");
        assert!(!at(30, &[0]));
        assert!(at(31, &[0, 1]), "and goes on");
        assert!(!at(60, &[]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_counts_while_its_work_waits_and_gives_what_that_gives() {
        let mut watchdog = watchdog();
        let work = async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            7
        };
        let done = watchdog.attend("work", DEADLINE, work);
        assert_eq!((watchdog.owners[0].count)(), 0);
        assert_eq!(done.await, 7);
        assert!((watchdog.owners[0].count)() > 50);
    }
}
