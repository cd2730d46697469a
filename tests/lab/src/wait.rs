//! Waiting for a condition.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// Time between two looks at a condition: short enough not to be felt, long enough not to load a small machine.
const PAUSE: Duration = Duration::from_millis(50);

/// Looks at `condition` until it is `Ok(true)` and returns how long that took.
///
/// `Ok(false)` and `Err` both mean "not yet": a probe normally fails until what it probes is there.
///
/// # Errors
/// When `limit` has passed: the error names `what` was awaited and the last failure seen, if there was one.
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> Result<bool>) -> Result<Duration> {
    let begun = Instant::now();
    loop {
        let last = match condition() {
            Ok(true) => return Ok(begun.elapsed()),
            Ok(false) => None,
            Err(error) => Some(error),
        };
        if begun.elapsed() >= limit {
            let seconds = limit.as_secs_f32();
            return Err(match last {
                Some(error) => error.context(format!("waited {seconds:.1} s in vain for {what}; the last try said")),
                None => anyhow!("waited {seconds:.1} s in vain for {what}"),
            });
        }
        sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_as_soon_as_the_condition_holds() {
        let mut looks = 0;
        let took = wait_until("the third look", Duration::from_secs(5), || {
            looks += 1;
            if looks < 2 { Err(anyhow!("too early")) } else { Ok(looks == 3) }
        })
        .unwrap();
        assert_eq!(looks, 3);
        assert!(took < Duration::from_secs(5));
    }

    #[test]
    fn says_what_was_awaited_and_what_was_seen_last() {
        let error = wait_until("a miracle", Duration::ZERO, || Err(anyhow!("sky is empty"))).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("a miracle") && text.contains("sky is empty"), "{text}");
    }
}
