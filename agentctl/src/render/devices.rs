//! Devices as text for people.

use std::time::SystemTime;

use model::DeviceInfo;
use time::OffsetDateTime;

use super::{Colour, Table, Tone, human_bytes, human_time, or_dash};

/// So long before its end a profile is worth a word, seconds: no client renews it.
const SOON: u64 = 60 * 86_400;

/// The whole text.
pub(crate) fn render(devices: &[DeviceInfo], colour: Colour, now: SystemTime) -> String {
    if devices.is_empty() {
        return "There are no devices: `agentctl device add NAME` makes a profile for one.\n".to_owned();
    }
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut table = Table::default();
    table.row(
        ["STATE", "NAME", "SINCE", "UNTIL", "SEEN", "ADDRESS", "FROM", "IN", "OUT", "MAY REACH"]
            .map(|head| (Tone::Plain, head.to_owned())),
    );
    for device in devices {
        let left = device.not_after.checked_sub(now);
        let (tone, state) = match (device.revoked, left) {
            (Some(_), _) => (Tone::Plain, "revoked"),
            (None, None) => (Tone::Bad, "ended"),
            (None, Some(_)) if device.connected_since.is_some() => (Tone::Good, "connected"),
            (None, Some(_)) => (Tone::Plain, "away"),
        };
        let seen = device.last_seen.map(|at| format!("{} ago", human_time(now.saturating_sub(at))));
        table.row([
            (tone, state.to_owned()),
            (Tone::Plain, device.name.to_string()),
            (Tone::Plain, date(device.not_before)),
            (Tone::Plain, date(device.not_after)),
            or_dash(seen),
            or_dash(device.address.map(|address| address.to_string())),
            or_dash(device.remote.map(|remote| remote.to_string())),
            (Tone::Plain, human_bytes(device.received_bytes)),
            (Tone::Plain, human_bytes(device.sent_bytes)),
            (Tone::Plain, if device.reach.is_empty() { "nothing".to_owned() } else { device.reach.join(", ") }),
        ]);
        match left {
            _ if device.revoked.is_some() => {}
            None => {
                table.note(format!("its profile has ended: `agentctl device reissue {}` makes another", device.name));
            }
            Some(left) if left < SOON => table.note(format!(
                "its profile ends in {}: `agentctl device reissue {}` makes another",
                human_time(left),
                device.name
            )),
            Some(_) => {}
        }
    }
    let mut text = String::new();
    table.write(colour, &mut text);
    text
}

/// The day of a Unix time, UTC.
pub(crate) fn date(seconds: u64) -> String {
    let at = i64::try_from(seconds).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    at.map_or_else(|| seconds.to_string(), |at| at.date().to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_says_how_it_stands_and_what_ends_soon_is_told_ahead() {
        const DAY: u64 = 86_400;
        let now = 20_000 * DAY;
        let phone = DeviceInfo {
            name: "phone".parse().unwrap(),
            not_before: now - DAY,
            not_after: now + 61 * DAY,
            revoked: None,
            connected_since: Some(now - 9),
            address: Some("10.86.0.3".parse().unwrap()),
            last_seen: Some(now - 2),
            remote: Some("203.0.113.9:41234".parse().unwrap()),
            received_bytes: 512,
            sent_bytes: 12_900_000,
            reach: vec!["services".into(), "internet".into()],
        };
        let away = DeviceInfo { connected_since: None, address: None, ..phone.clone() };
        let named = |name: &str, device: &DeviceInfo| DeviceInfo { name: name.parse().unwrap(), ..device.clone() };
        let laptop = DeviceInfo { not_after: now + 3 * DAY, reach: vec![], ..named("laptop", &away) };
        let lost = DeviceInfo { revoked: Some(now), last_seen: None, remote: None, ..named("lost", &away) };
        let old = DeviceInfo { not_after: now - DAY, ..named("old", &away) };
        let text =
            render(&[phone, laptop, lost, old], Colour::when(false), SystemTime::UNIX_EPOCH + Duration::from_secs(now));
        assert_eq!(
            text,
            "\
\x20 STATE      NAME    SINCE       UNTIL       SEEN     ADDRESS    FROM               IN     OUT       MAY REACH
  connected  phone   2024-10-03  2024-12-04  2 s ago  10.86.0.3  203.0.113.9:41234  512 B  12.3 MiB  services, internet
  away       laptop  2024-10-03  2024-10-07  2 s ago  -          203.0.113.9:41234  512 B  12.3 MiB  nothing
      its profile ends in 3 d 0 h: `agentctl device reissue laptop` makes another
  revoked    lost    2024-10-03  2024-12-04  -        -          -                  512 B  12.3 MiB  services, internet
  ended      old     2024-10-03  2024-10-03  2 s ago  -          203.0.113.9:41234  512 B  12.3 MiB  services, internet
      its profile has ended: `agentctl device reissue old` makes another
"
        );
        assert!(render(&[], Colour::when(false), SystemTime::UNIX_EPOCH).contains("no devices"));
    }
}
