//! What is going on, as one screen with curves.

use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

use model::{Serving, TunnelState};

use super::{Colour, Tone, clean, events, human_bytes};
use crate::top::{History, Look};
use crate::verdict::{judge, tunnel_word};

/// From nothing to the most that is seen.
const BARS: [char; 8] =
    ['\u{2581}', '\u{2582}', '\u{2583}', '\u{2584}', '\u{2585}', '\u{2586}', '\u{2587}', '\u{2588}'];
/// Columns before the curves.
const BEFORE: usize = 26;

/// The whole text, for a terminal of so many columns.
pub(crate) fn render(look: &Look, history: &History, columns: usize, colour: Colour, now: SystemTime) -> String {
    let verdict = judge(&look.report);
    let millis = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let moment = events::moment(u64::try_from(millis).unwrap_or(u64::MAX));
    let head = format!("{} at {} UTC, q ends", look.report.local.host, &moment[..moment.len().min(19)]);
    let mut text = format!("{}\n", clean(&head));
    let tone = if verdict.well { Tone::Good } else { Tone::Bad };
    text.push_str(&format!("{}\n\n", colour.paint(tone, &clean(&verdict.summary))));

    let status = &look.tunnel.status;
    let tone = if status.state == TunnelState::Connected { Tone::Good } else { Tone::Bad };
    let mut facts = vec![format!("{} peers", look.tunnel.peers.len()), format!("MTU {}", look.tunnel.mtu)];
    facts.extend(status.transport.as_ref().map(|transport| transport.to_uppercase()));
    facts.extend(status.cipher.clone());
    let facts = clean(&facts.join(", "));
    text.push_str(&format!("Tunnel  {}  {facts}\n", colour.paint(tone, tunnel_word(status.state))));
    curves(history, columns, colour, &mut text);
    text
}

/// When the agent does not answer.
pub(crate) fn render_failure(failure: &str, history: &History, columns: usize, colour: Colour) -> String {
    let lines: Vec<String> = failure.lines().map(clean).collect();
    let mut text = format!("{}\n\nTunnel  unknown\n", colour.paint(Tone::Bad, &lines.join("\n")));
    curves(history, columns, colour, &mut text);
    text
}

fn curves(history: &History, columns: usize, colour: Colour, text: &mut String) {
    let room = columns.saturating_sub(BEFORE);
    let rate = |value: f64| format!("{}/s", human_bytes(value as u64));
    let mut curve = |name: &str, values: &VecDeque<Option<f64>>, shown: &dyn Fn(f64) -> String| {
        let now = values.back().copied().flatten().map_or_else(|| "-".to_owned(), shown);
        text.push_str(&format!("  {name:<10}{now:>12}  {}\n", bars(values, room)));
    };
    curve("in", &history.received, &rate);
    curve("out", &history.sent, &rate);
    curve("round trip", &history.round_trip, &|millis| format!("{millis:.1} ms"));
    curve("dropped", &history.dropped, &|packets| format!("{packets:.0}/s"));
    if history.serving.is_empty() {
        return;
    }
    text.push_str(&format!("\n{}\n", colour.paint(Tone::Strong, "Services")));
    for ((host, name), states) in &history.serving {
        let last = states.back().cloned().unwrap_or_default();
        let (_, tone) = mark(&last);
        let name = clean(&format!("{name} on {host}"));
        let name: String = name.chars().take(BEFORE - 13).collect();
        let word = format!("{:<9}", last.word());
        let marks: String = newest(states, room).map(|state| mark(state).0).collect();
        text.push_str(&format!("  {} {name:<13} {marks}\n", colour.paint(tone, &word)));
    }
}

/// A bar for each value, the newest right; what is not known is empty. The highest is the most of those that are shown.
fn bars(values: &VecDeque<Option<f64>>, room: usize) -> String {
    let most = newest(values, room).flatten().fold(0.0_f64, |most, value| most.max(*value));
    let bar = |value: &Option<f64>| match value {
        None => ' ',
        Some(value) if most > 0.0 => BARS[((value / most * 7.0).round() as usize).min(BARS.len() - 1)],
        Some(_) => BARS[0],
    };
    newest(values, room).map(bar).collect()
}

fn newest<T>(values: &VecDeque<T>, room: usize) -> impl Iterator<Item = &T> {
    values.iter().skip(values.len().saturating_sub(room))
}

/// What people get, in one column.
fn mark(serving: &Serving) -> (char, Tone) {
    match serving {
        Serving::Yes => ('\u{2588}', Tone::Good),
        Serving::Degraded { .. } => ('\u{2584}', Tone::Doubtful),
        Serving::Starting { .. } => ('\u{2582}', Tone::Doubtful),
        Serving::No { .. } => ('x', Tone::Bad),
        Serving::Stopped { .. } => ('_', Tone::Doubtful),
        Serving::Unknown => ('.', Tone::Plain),
    }
}

#[cfg(test)]
mod tests {
    use model::TunnelReport;

    use super::*;
    use crate::render::tests::fake_report;

    #[test]
    fn the_newest_values_are_drawn_against_the_highest_of_them() {
        let values: VecDeque<_> = [Some(900.0), Some(0.0), None, Some(50.0), Some(100.0)].into();
        assert_eq!(bars(&values, 4), "\u{2581} \u{2585}\u{2588}");
        assert_eq!(bars(&values, 0), "");
        assert_eq!(bars(&[Some(0.0), Some(0.0)].into(), 9), "\u{2581}\u{2581}");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let mut history = History::default();
        history.received.extend((0..200).map(|value| Some(f64::from(value) * 1e9)));
        let key = ("attic".parse().unwrap(), "a-service-with-a-very-long-name".parse().unwrap());
        history.serving.insert(key, (0..200).map(|_| Serving::Yes).collect());
        let look = Look { report: fake_report(), tunnel: TunnelReport::default() };
        let text = render(&look, &history, 80, Colour::when(false), SystemTime::UNIX_EPOCH);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.starts_with("vps at 1970-01-01 00:00:00 UTC, q ends\ncloud.example.test is serving\n"), "{text}");
        let failed = render_failure("agentctl: nobody answers\n  next: look", &history, 80, Colour::when(false));
        assert!(failed.starts_with("agentctl: nobody answers\n  next: look\n\nTunnel  unknown\n"), "{failed}");
    }
}
