//! Whether the host's clock is right, by that of somebody else.

use std::time::{Duration, SystemTime};

use hostcheck::found;
use model::{Finding, Grade};

/// Certificates are made an hour older than they are; one-time codes and logs suffer long before.
const DOUBTFUL: Duration = Duration::from_secs(5);
const BAD: Duration = Duration::from_secs(120);

pub(crate) fn clock(theirs: SystemTime, ours: SystemTime, whose: &str) -> Finding {
    let what = "clock";
    let (by, way) = match ours.duration_since(theirs) {
        Ok(by) => (by, "ahead of"),
        Err(behind) => (behind.duration(), "behind"),
    };
    let text = format!("{} s {way} that of {whose}", by.as_secs());
    let next = Some("let it be set from the network: `timedatectl set-ntp true`, then `timedatectl` tells");
    match by {
        by if by >= BAD => found(what, Grade::Bad, text, next),
        by if by >= DOUBTFUL => found(what, Grade::Doubtful, text, next),
        _ => found(what, Grade::Good, format!("as that of {whose}"), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_held_against_another() {
        let now = SystemTime::now();
        let grade = |theirs| clock(theirs, now, "the edge").grade;
        assert_eq!(grade(now - Duration::from_secs(4)), Grade::Good);
        assert_eq!(grade(now + Duration::from_secs(60)), Grade::Doubtful);
        assert_eq!([now + BAD, now - BAD].map(grade), [Grade::Bad; 2]);
        let ahead = clock(now - Duration::from_secs(3600), now, "the edge");
        assert_eq!(ahead.text, "3600 s ahead of that of the edge");
    }
}
