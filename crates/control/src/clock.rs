//! How far the two hosts are apart: the round trip between their agents, and the difference of their clocks, from times that
//! each report carries (as in NTP, RFC 5905 section 8).

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::v1;
use tokio::time::Instant;

/// Of so many measurements the one with the shortest round trip counts: waiting in queues spoils the others.
const SAMPLES: usize = 8;

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clocks {
    /// From here to the peer's agent and back.
    pub round_trip: Duration,
    /// How far the peer's clock is ahead of ours, milliseconds.
    pub ahead_millis: i64,
}

/// One session's measurements.
#[derive(Debug, Default)]
pub(crate) struct ClockExchange {
    /// What the peer's clock said last, and when that came.
    heard: Option<(u64, Instant)>,
    samples: VecDeque<Clocks>,
}

impl ClockExchange {
    /// What goes to the peer now.
    pub(crate) fn tell(&self, wall: SystemTime, now: Instant) -> v1::Clock {
        let (echo, held) = self.heard.map_or((0, 0), |(sent, at)| (sent, micros(now.duration_since(at))));
        v1::Clock { sent: unix_micros(wall), echo, held }
    }

    /// The peer's came. Returns the best measurement so far, if there is one.
    pub(crate) fn hear(&mut self, clock: &v1::Clock, wall: SystemTime, now: Instant) -> Option<Clocks> {
        self.heard = Some((clock.sent, now));
        let wall = unix_micros(wall);
        // Without an echo nothing was measured; nor when a clock was set meanwhile.
        let away = wall.checked_sub(clock.echo).filter(|_| clock.echo != 0)?;
        let round_trip = away.checked_sub(clock.held)?;
        let ahead = i128::from(clock.sent) + i128::from(round_trip / 2) - i128::from(wall);
        let ahead_millis = i64::try_from(ahead / 1000).ok()?;
        self.samples.push_back(Clocks { round_trip: Duration::from_micros(round_trip), ahead_millis });
        while self.samples.len() > SAMPLES {
            self.samples.pop_front();
        }
        self.samples.iter().min_by_key(|sample| sample.round_trip).copied()
    }
}

fn unix_micros(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, micros)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two ends whose clocks differ by `ahead`, with such ways between them.
    fn measured(ahead: i64, there: u64, back: u64) -> Clocks {
        let (us, start) = (UNIX_EPOCH + Duration::from_secs(1_000_000), Instant::now());
        let ms = Duration::from_millis;
        let peer = |at: u64| us + ms(at.checked_add_signed(ahead).unwrap());
        let (mut ours, mut theirs) = (ClockExchange::default(), ClockExchange::default());
        let first = ours.tell(us, start);
        assert_eq!(theirs.hear(&first, peer(there), start + ms(there)), None);
        // It lies there for a while.
        let answer = theirs.tell(peer(there + 700), start + ms(there + 700));
        let at = there + 700 + back;
        ours.hear(&answer, us + ms(at), start + ms(at)).unwrap()
    }

    #[test]
    fn the_round_trip_and_the_difference_of_the_clocks_come_out() {
        assert_eq!(measured(90_000, 20, 20), Clocks { round_trip: Duration::from_millis(40), ahead_millis: 90_000 });
        assert_eq!(measured(-5, 20, 20), Clocks { round_trip: Duration::from_millis(40), ahead_millis: -5 });
        // Ways of different length can't be told from clocks that differ by half of it.
        assert_eq!(measured(0, 30, 10).ahead_millis, 10);
    }

    #[test]
    fn the_shortest_way_counts_until_it_is_forgotten() {
        let mut ours = ClockExchange::default();
        let (wall, now) = (UNIX_EPOCH + Duration::from_secs(1_000_000), Instant::now());
        let mut hear = |round_trip: u64| {
            let sent = unix_micros(wall);
            ours.hear(&v1::Clock { sent, echo: sent - round_trip, held: 0 }, wall, now).unwrap().round_trip
        };
        assert_eq!(hear(900), Duration::from_micros(900));
        assert_eq!(hear(200), Duration::from_micros(200));
        for _ in 0..SAMPLES - 1 {
            assert_eq!(hear(500), Duration::from_micros(200));
        }
        assert_eq!(hear(500), Duration::from_micros(500));
    }

    #[test]
    fn nonsense_measures_nothing() {
        let mut ours = ClockExchange::default();
        let (wall, now) = (UNIX_EPOCH + Duration::from_secs(1_000_000), Instant::now());
        let sent = unix_micros(wall);
        for (sent, echo, held) in [(sent, sent + 1, 0), (sent, sent - 5, 6), (u64::MAX, 0, 0), (0, 0, u64::MAX)] {
            assert_eq!(ours.hear(&v1::Clock { sent, echo, held }, wall, now), None);
        }
        // What a peer makes up is shown and does no harm.
        assert!(ours.hear(&v1::Clock { sent: u64::MAX, echo: 1, held: 0 }, wall, now).is_some());
    }
}
