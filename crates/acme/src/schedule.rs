//! When a certificate is renewed, and when a failed order is tried again. Pure.

use std::time::{Duration, SystemTime};

/// First wait after an order that failed; then three times as long, up to [`RETRY_MAX`]. So fewer fail in an hour than
/// public authorities allow of one name.
const RETRY_MIN: Duration = Duration::from_secs(60);
const RETRY_MAX: Duration = Duration::from_secs(6 * 3600);

/// When to renew: at two thirds of its life, or up to a twentieth of it earlier. `chance` is from 0 to 1.
pub(crate) fn renewal(not_before: SystemTime, not_after: SystemTime, chance: f64) -> SystemTime {
    let life = not_after.duration_since(not_before).unwrap_or_default();
    let early = life.mul_f64(chance.clamp(0.0, 1.0) / 20.0);
    (not_before + life * 2 / 3).checked_sub(early).unwrap_or(not_before)
}

/// How long to wait after so many failures in a row; up to a quarter more by chance.
pub(crate) fn retry(failures: u32, chance: f64) -> Duration {
    let base = RETRY_MIN.saturating_mul(3u32.saturating_pow(failures.saturating_sub(1))).min(RETRY_MAX);
    base.mul_f64(1.0 + chance.clamp(0.0, 1.0) / 4.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ninety_days_are_renewed_after_sixty() {
        let begin = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let day = Duration::from_secs(86400);
        assert_eq!(renewal(begin, begin + 90 * day, 0.0), begin + 60 * day);
        assert_eq!(renewal(begin, begin + 90 * day, 1.0), begin + 60 * day - 90 * day / 20);
    }

    #[test]
    fn five_fail_in_an_hour_at_most() {
        let waits: Vec<u64> = (1..=8).map(|failures| retry(failures, 0.0).as_secs()).collect();
        assert_eq!(waits, [60, 180, 540, 1620, 4860, 14580, 21600, 21600]);
        assert!(waits[..4].iter().sum::<u64>() < 3600 && waits[..5].iter().sum::<u64>() > 3600);
    }

    proptest! {
        #[test]
        fn any_life_is_renewed_within_it(start in 0u64..1 << 40, life in 0u64..1 << 32, chance in -1.0f64..2.0) {
            let begin = SystemTime::UNIX_EPOCH + Duration::from_secs(start);
            let end = begin + Duration::from_secs(life);
            let at = renewal(begin, end, chance);
            prop_assert!(begin <= at && at <= end);
        }

        #[test]
        fn waits_are_bounded(failures: u32, chance in -1.0f64..2.0) {
            let wait = retry(failures, chance);
            prop_assert!(RETRY_MIN <= wait && wait <= RETRY_MAX * 5 / 4);
        }
    }
}
