//! Join codes, as text for people.

use std::time::SystemTime;

use model::{JoinCodeInfo, JoinCodeState};

use super::{Colour, Table, Tone, clean, human_time};

/// The whole text.
pub(crate) fn render(codes: &[JoinCodeInfo], colour: Colour, now: SystemTime) -> String {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut table = Table::default();
    table.row(["STATE", "CODE", "FOR", "MADE", "ENDS IN"].map(|head| (Tone::Plain, head.to_owned())));
    for code in codes {
        let is_open = code.state == JoinCodeState::Open;
        let left = if is_open { human_time(code.expires.saturating_sub(now)) } else { "-".to_owned() };
        table.row([
            (if is_open { Tone::Good } else { Tone::Plain }, code.state.as_str().to_owned()),
            (Tone::Plain, clean(&code.id)),
            (Tone::Plain, code.home.to_string()),
            (Tone::Plain, format!("{} ago", human_time(now.saturating_sub(code.created)))),
            (Tone::Plain, left),
        ]);
    }
    let mut text = String::new();
    table.write(colour, &mut text);
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn open_codes_say_until_when() {
        let code = |id: &str, state| JoinCodeInfo {
            id: id.into(),
            home: "home".parse().unwrap(),
            created: 1_000,
            expires: 4_600,
            state,
        };
        let codes = [code("7Q2K", JoinCodeState::Open), code("AAAA", JoinCodeState::Used)];
        let text = render(&codes, Colour::when(false), SystemTime::UNIX_EPOCH + Duration::from_secs(1_060));
        let expected = "  STATE  CODE  FOR   MADE         ENDS IN\n  \
                        open   7Q2K  home  1 min 0 s ago  59 min 0 s\n  \
                        used   AAAA  home  1 min 0 s ago  -\n";
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(&text), words(expected));
    }
}
