//! Events as lines for people.

use model::{Event, EventKind};
use time::OffsetDateTime;

use super::{Colour, Tone, clean};

/// One line: when, where, what about, what.
pub(crate) fn line(event: &Event, colour: Colour) -> String {
    let tone = match event.kind {
        EventKind::Change => Tone::Plain,
        EventKind::Fault => Tone::Bad,
        EventKind::Recovery => Tone::Good,
    };
    // The name of a container says already whose it is.
    let service = event.service.as_ref().filter(|_| event.subject != model::Subject::Container);
    let service = service.map(|service| format!("{service} ")).unwrap_or_default();
    let text = colour.paint(tone, &clean(&format!("{service}{}", event.text)));
    format!("{}  {:<12}  {:<9}  {text}\n", moment(event.at), clean(event.host.as_str()), event.subject.word())
}

/// A Unix time in milliseconds as `2026-11-23 16:20:11.045`, in UTC.
pub(crate) fn moment(at: u64) -> String {
    let Ok(time) = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at) * 1_000_000) else {
        return format!("{at} ms");
    };
    format!("{} {:02}:{:02}:{:02}.{:03}", time.date(), time.hour(), time.minute(), time.second(), time.millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_when_where_and_what() {
        let event = Event {
            number: 1,
            at: 1_795_450_811_045,
            host: "attic".parse().unwrap(),
            subject: model::Subject::Service,
            service: Some("nextcloud".parse().unwrap()),
            kind: EventKind::Fault,
            text: "unhealthy: \u{1b}[2Jno database".into(),
        };
        let expected =
            "2026-11-23 16:20:11.045  attic         service    nextcloud unhealthy: \u{fffd}[2Jno database\n";
        assert_eq!(line(&event, Colour::when(false)), expected);
        assert_eq!(moment(u64::MAX), format!("{} ms", u64::MAX));
    }
}
