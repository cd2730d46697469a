//! What is remembered of each container between passes: how often it failed, and when it may be tried again.

use std::time::Duration;

use tokio::time::Instant;

/// From this many ends in a row on, a container counts as looping and keeps saying so until it has proven stable.
const LOOPING: u32 = 3;
/// The patience with a container that hangs doubles at most so often.
const HANGS_MAX: u32 = 5;

/// How retries are spaced.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    pub(crate) first: Duration,
    pub(crate) max: Duration,
    /// Up to so many hundredths of a wait are added by chance: what failed together is not tried together.
    pub(crate) jitter_percent: u32,
    /// A container that ran for so long is no longer looping.
    pub(crate) stable_after: Duration,
}

impl Backoff {
    /// The wait after the `failures`th failure in a row; doubles from `first` to `max`.
    pub(crate) fn delay(&self, failures: u32) -> Duration {
        let factor = 2_u32.saturating_pow(failures.saturating_sub(1));
        let delay = self.first.saturating_mul(factor).min(self.max);
        delay.saturating_add(delay.saturating_mul(rand::random_range(0..=self.jitter_percent)) / 100)
    }
}

/// One container's past.
#[derive(Debug, Default)]
pub(crate) struct Track {
    definition: String,
    /// Steps that failed in a row.
    failures: u32,
    /// Ends in a row, each soon after its start.
    crashes: u32,
    /// Times in a row that it was stopped because it did not answer.
    hangs: u32,
    not_before: Option<Instant>,
    reason: Option<String>,
    /// The id we saw running or started, and since when we know.
    running: Option<(String, Instant)>,
    /// It ended by itself and has not been started since.
    ended: bool,
    restarts: u64,
}

impl Track {
    /// A new definition deserves a try at once, whatever became of the old one.
    pub(crate) fn wanted(&mut self, definition: &str) {
        if self.definition != definition {
            *self = Self { definition: definition.to_owned(), restarts: self.restarts, ..Self::default() };
        }
    }

    pub(crate) fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// Whether it has ended again and again, each time soon after its start.
    pub(crate) fn is_looping(&self) -> bool {
        self.crashes >= LOOPING
    }

    /// Times it was started again after it had ended by itself.
    pub(crate) fn restarts(&self) -> u64 {
        self.restarts
    }

    /// When it may be tried, if not now.
    pub(crate) fn waits_until(&self, now: Instant) -> Option<Instant> {
        self.not_before.filter(|at| *at > now)
    }

    /// How long it may go without an answer before it is started anew: longer each time that this did not help.
    pub(crate) fn patience(&self, restart_after: Duration) -> Duration {
        restart_after.saturating_mul(2_u32.saturating_pow(self.hangs.min(HANGS_MAX)))
    }

    /// A step failed. Returns whether the reason is another one than before.
    pub(crate) fn failed(&mut self, now: Instant, backoff: &Backoff, reason: String) -> bool {
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(now + backoff.delay(self.failures));
        let news = self.reason.as_deref() != Some(&reason);
        self.reason = Some(reason);
        news
    }

    /// The engine reports it running.
    pub(crate) fn seen_running(&mut self, now: Instant, backoff: &Backoff, id: &str) {
        // A person may have started it.
        self.count_restart();
        match &self.running {
            Some((known, since)) if known == id => {
                if now.duration_since(*since) >= backoff.stable_after {
                    self.crashes = 0;
                }
            }
            _ => self.running = Some((id.to_owned(), now)),
        }
    }

    fn count_restart(&mut self) {
        self.restarts += u64::from(std::mem::take(&mut self.ended));
    }

    /// It has shown that it works.
    pub(crate) fn seen_ready(&mut self, now: Instant, backoff: &Backoff) {
        if self.running.as_ref().is_some_and(|(_, since)| now.duration_since(*since) >= backoff.stable_after) {
            self.hangs = 0;
        }
    }

    /// It runs and nothing is left to do for it.
    pub(crate) fn settled(&mut self) {
        self.failures = 0;
        self.not_before = None;
        if !self.is_looping() {
            self.reason = None;
        }
    }

    /// We started it.
    pub(crate) fn started(&mut self, now: Instant, id: &str) {
        self.running = Some((id.to_owned(), now));
        self.count_restart();
        self.settled();
    }

    /// We stopped it, for a reason that is none of its own; it may be started at once.
    pub(crate) fn stopped(&mut self) {
        self.running = None;
        self.ended = false;
        self.crashes = 0;
        self.settled();
    }

    /// The engine was gone. When it comes back and the container does not run, that is no end of its own.
    pub(crate) fn lost_sight(&mut self) {
        self.running = None;
    }

    /// Whether its end is news: we knew it running.
    pub(crate) fn was_running(&self, id: &str) -> bool {
        self.running.as_ref().is_some_and(|(known, _)| known == id)
    }

    /// It ended by itself. Returns how many times in a row, and the wait before it is started again.
    pub(crate) fn ended(&mut self, now: Instant, backoff: &Backoff, what: &str) -> (u32, Duration) {
        if let Some((_, since)) = self.running.take()
            && now.duration_since(since) >= backoff.stable_after
        {
            self.crashes = 0;
        }
        self.ended = true;
        self.crashes = self.crashes.saturating_add(1);
        let delay = backoff.delay(self.crashes);
        self.not_before = Some(now + delay);
        self.reason = Some(match self.crashes {
            1 => what.to_owned(),
            times => format!("ended {times} times in a row; {what}"),
        });
        (self.crashes, delay)
    }

    /// We stopped it because it did not answer. It is started again at once.
    pub(crate) fn hung(&mut self, why: String) {
        self.running = None;
        self.ended = true;
        self.hangs = self.hangs.saturating_add(1);
        self.not_before = None;
        self.reason = Some(why);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const BACKOFF: Backoff = Backoff {
        first: Duration::from_secs(1),
        max: Duration::from_secs(30),
        jitter_percent: 0,
        stable_after: Duration::from_secs(60),
    };

    #[test]
    fn delays_double_to_the_limit() {
        let delays: Vec<u64> = [1, 2, 3, 5, 6, 1000].map(|n| BACKOFF.delay(n).as_secs()).into();
        assert_eq!(delays, [1, 2, 4, 16, 30, 30]);
        let spread = Backoff { jitter_percent: 50, ..BACKOFF };
        let delays: BTreeSet<Duration> = (0..50).map(|_| spread.delay(2)).collect();
        assert!(delays.len() > 5, "{delays:?}");
        assert!(delays.iter().all(|delay| (2000..=3000).contains(&delay.as_millis())), "{delays:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn patience_grows_until_it_works_again() {
        let now = Instant::now();
        let (mut track, minute) = (Track::default(), Duration::from_secs(60));
        assert_eq!(track.patience(minute), minute);
        track.started(now, "a");
        track.hung("no answer".into());
        track.started(now, "a");
        assert_eq!((track.patience(minute), track.restarts()), (2 * minute, 1));
        track.seen_ready(now + Duration::from_secs(5), &BACKOFF);
        assert_eq!(track.patience(minute), 2 * minute);
        track.seen_ready(now + Duration::from_secs(61), &BACKOFF);
        assert_eq!(track.patience(minute), minute);
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_is_told_until_it_is_over() {
        let now = Instant::now();
        let mut track = Track::default();
        track.started(now, "a");
        assert_eq!(track.ended(now, &BACKOFF, "code 1"), (1, Duration::from_secs(1)));
        track.started(now, "a");
        assert_eq!(track.reason(), None, "one restart is no loop");
        assert_eq!(track.ended(now, &BACKOFF, "code 1"), (2, Duration::from_secs(2)));
        track.started(now, "a");
        assert_eq!(track.ended(now, &BACKOFF, "code 1"), (3, Duration::from_secs(4)));
        track.started(now, "a");
        assert!(track.is_looping());
        assert_eq!(track.reason(), Some("ended 3 times in a row; code 1"));
        track.seen_running(now + Duration::from_secs(61), &BACKOFF, "a");
        track.settled();
        assert_eq!(track.reason(), None);
        assert_eq!(track.restarts(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_definition_is_tried_at_once() {
        let now = Instant::now();
        let mut track = Track::default();
        track.wanted("one");
        assert!(track.failed(now, &BACKOFF, "no".into()));
        assert!(!track.failed(now, &BACKOFF, "no".into()));
        assert!(track.waits_until(now).is_some());
        track.wanted("one");
        assert!(track.waits_until(now).is_some());
        track.wanted("two");
        assert!(track.waits_until(now).is_none());
    }
}
