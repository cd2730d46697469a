//! The replay window: which packet ids were seen already.

/// Ids behind the newest one that are still told apart. Larger than the 64 of stock peers, which is not less safe
/// and survives more reordering.
const WINDOW: u64 = 2048;
const WORDS: usize = (WINDOW / 64) as usize;

/// Remembers the newest ids in a ring of bits.
///
/// Check before authentication is cheap but proves nothing: call [`ReplayWindow::is_fresh`] early if it helps, and
/// [`ReplayWindow::accept`] only with ids that were authenticated.
#[derive(Clone, Debug)]
pub struct ReplayWindow {
    highest: u64,
    bits: [u64; WORDS],
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self { highest: 0, bits: [0; WORDS] }
    }
}

impl ReplayWindow {
    /// Whether `id` is neither zero, nor seen, nor too old.
    #[must_use]
    pub fn is_fresh(&self, id: u64) -> bool {
        if id == 0 {
            return false;
        }
        if id > self.highest {
            return true;
        }
        self.highest - id < WINDOW && self.bits[Self::word(id)] & Self::mask(id) == 0
    }

    /// Records an authenticated `id`. Returns false, and changes nothing, when it is not fresh.
    pub fn accept(&mut self, id: u64) -> bool {
        if !self.is_fresh(id) {
            return false;
        }
        if id > self.highest {
            let steps = id - self.highest;
            if steps >= WINDOW {
                self.bits = [0; WORDS];
            } else {
                for passed in self.highest + 1..=id {
                    self.bits[Self::word(passed)] &= !Self::mask(passed);
                }
            }
            self.highest = id;
        }
        self.bits[Self::word(id)] |= Self::mask(id);
        true
    }

    fn word(id: u64) -> usize {
        ((id / 64) % WORDS as u64) as usize
    }

    fn mask(id: u64) -> u64 {
        1 << (id % 64)
    }
}

/// The window of a wrapped control channel, whose ids are counted within a session start time.
#[derive(Clone, Debug, Default)]
pub struct TimedReplayWindow {
    time: u32,
    window: ReplayWindow,
}

impl TimedReplayWindow {
    /// Records an authenticated pair. A later time starts a new window, an earlier one is refused. The time is only
    /// compared with earlier ones of the same peer, never with a clock: a device with a wrong clock must connect.
    pub fn accept(&mut self, time: u32, id: u32) -> bool {
        if time < self.time {
            return false;
        }
        if time > self.time {
            if id == 0 {
                return false;
            }
            *self = Self { time, window: ReplayWindow::default() };
        }
        self.window.accept(u64::from(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn edges_of_the_window() {
        let mut window = ReplayWindow::default();
        assert!(!window.accept(0));
        assert!(window.accept(5000));
        assert!(window.accept(5000 - WINDOW + 1));
        assert!(!window.accept(5000 - WINDOW));
        assert!(!window.accept(5000));
        assert!(window.accept(u64::from(u32::MAX)));
    }

    #[test]
    fn time_moves_only_forward() {
        let mut window = TimedReplayWindow::default();
        assert!(window.accept(10, 1));
        assert!(!window.accept(10, 1));
        assert!(window.accept(11, 1));
        assert!(!window.accept(10, 2));
        assert!(!window.accept(12, 0));
        assert!(window.accept(11, 2), "a refused id must not have moved the time");
    }

    proptest! {
        #[test]
        fn agrees_with_a_set(ids in proptest::collection::vec(0u64..9000, 0..400)) {
            let (mut window, mut seen, mut highest) = (ReplayWindow::default(), BTreeSet::new(), 0);
            for id in ids {
                let expected = id != 0 && !seen.contains(&id) && (id > highest || highest - id < WINDOW);
                prop_assert_eq!(window.accept(id), expected);
                if expected {
                    seen.insert(id);
                    highest = highest.max(id);
                }
            }
        }
    }
}
