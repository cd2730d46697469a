//! What an authority issued, as text for people.

use std::time::SystemTime;

use model::IssuedIdentity;

use super::{Colour, Table, Tone, human_time};

/// So long before its end a certificate that does not renew by itself is worth a word, seconds.
const SOON: u64 = 60 * 86_400;

/// The whole text.
pub(crate) fn render(identities: &[IssuedIdentity], colour: Colour, now: SystemTime) -> String {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut table = Table::default();
    table.row(["STATE", "ROLE", "NAME", "ENDS IN", "SERIAL"].map(|head| (Tone::Plain, head.to_owned())));
    for identity in identities {
        let (tone, state, left) = match identity.not_after.checked_sub(now) {
            _ if identity.revoked.is_some() => (Tone::Plain, "revoked", "-".to_owned()),
            None => (Tone::Plain, "ended", "-".to_owned()),
            Some(left) if left < SOON => (Tone::Doubtful, "valid", human_time(left)),
            Some(left) => (Tone::Good, "valid", human_time(left)),
        };
        table.row([
            (tone, state.to_owned()),
            (Tone::Plain, identity.role.to_string()),
            (Tone::Plain, identity.name.to_string()),
            (Tone::Plain, left),
            (Tone::Plain, identity.serial.clone()),
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
    fn each_says_how_it_stands() {
        let one = |name: &str, not_after, revoked| IssuedIdentity {
            serial: "4A".into(),
            role: model::Role::Device,
            name: name.parse().unwrap(),
            not_before: 0,
            not_after,
            revoked,
        };
        let all = [one("phone", 100_000, None), one("laptop", 5, None), one("lost", 100_000, Some(3))];
        let text = render(&all, Colour::when(false), SystemTime::UNIX_EPOCH + Duration::from_secs(13_600));
        let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[1], ["valid", "device", "phone", "1", "d", "0", "h", "4A"]);
        assert_eq!(words[2], ["ended", "device", "laptop", "-", "4A"]);
        assert_eq!(words[3], ["revoked", "device", "lost", "-", "4A"]);
    }
}
