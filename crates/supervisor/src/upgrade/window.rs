//! When upgrades may begin by themselves: a time of the day, on all days or on some.

use std::fmt;
use std::str::FromStr;

use jiff::civil::{Date, DateTime, Time, Weekday};
use jiff::{Span, ToSpan};

const DAYS: [(&str, Weekday); 7] = [
    ("Mon", Weekday::Monday),
    ("Tue", Weekday::Tuesday),
    ("Wed", Weekday::Wednesday),
    ("Thu", Weekday::Thursday),
    ("Fri", Weekday::Friday),
    ("Sat", Weekday::Saturday),
    ("Sun", Weekday::Sunday),
];

/// A window, in the host's local time. One that ends before it begins ends on the next day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// The days on which it begins; none: all.
    days: Vec<Weekday>,
    from: Time,
    to: Time,
}

/// A text that is no window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is no window such as \"03:00-05:00\", \"Sun 03:00-05:00\" or \"Sat,Sun 23:00-02:00\"")]
pub struct NoWindow;

impl Default for Window {
    /// From three to five at night.
    fn default() -> Self {
        Self { days: Vec::new(), from: Time::constant(3, 0, 0, 0), to: Time::constant(5, 0, 0, 0) }
    }
}

impl FromStr for Window {
    type Err = NoWindow;

    fn from_str(text: &str) -> Result<Self, NoWindow> {
        let (days, times) = match text.split_once(' ') {
            Some((days, times)) => (days.split(',').map(day).collect::<Result<_, _>>()?, times),
            None => (Vec::new(), text),
        };
        let (from, to) = times.split_once('-').ok_or(NoWindow)?;
        let (from, to) = (time(from)?, time(to)?);
        if from == to { Err(NoWindow) } else { Ok(Self { days, from, to }) }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = DAYS.iter().filter(|(_, day)| self.days.contains(day)).map(|(name, _)| *name).collect();
        if !names.is_empty() {
            write!(f, "{} ", names.join(","))?;
        }
        write!(f, "{}-{}", self.from.strftime("%H:%M"), self.to.strftime("%H:%M"))
    }
}

impl Window {
    /// When the window that `now` lies in began, and when it ends.
    #[must_use]
    pub fn around(&self, now: DateTime) -> Option<(DateTime, DateTime)> {
        let days = [now.date().checked_sub(1.day()).ok(), Some(now.date())];
        days.into_iter().flatten().filter_map(|day| self.on(day)).find(|(begin, end)| (*begin..*end).contains(&now))
    }

    /// When the next one begins after `now`.
    #[must_use]
    pub fn next(&self, now: DateTime) -> Option<DateTime> {
        let day = |ahead: i64| now.date().checked_add(Span::new().days(ahead)).ok();
        (0..=7).filter_map(day).filter_map(|day| self.on(day)).map(|(begin, _)| begin).find(|begin| *begin > now)
    }

    /// That which begins on a day.
    fn on(&self, day: Date) -> Option<(DateTime, DateTime)> {
        if !self.days.is_empty() && !self.days.contains(&day.weekday()) {
            return None;
        }
        let end = if self.to < self.from { day.checked_add(1.day()).ok()? } else { day };
        Some((day.to_datetime(self.from), end.to_datetime(self.to)))
    }
}

fn day(text: &str) -> Result<Weekday, NoWindow> {
    DAYS.iter().find(|(name, _)| *name == text).map(|(_, day)| *day).ok_or(NoWindow)
}

/// `HH:MM`.
fn time(text: &str) -> Result<Time, NoWindow> {
    let number = |text: &str| {
        let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<i8>().ok()).flatten().ok_or(NoWindow)
    };
    let (hour, minute) = text.split_once(':').ok_or(NoWindow)?;
    Time::new(number(hour)?, number(minute)?, 0, 0).map_err(|_| NoWindow)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> DateTime {
        text.parse().unwrap()
    }

    #[test]
    fn windows_are_read_and_shown() {
        for text in ["03:00-05:00", "23:30-01:15", "Sun 03:00-05:00", "Mon,Sat 00:00-23:59"] {
            assert_eq!(text.parse::<Window>().unwrap().to_string(), text);
        }
        assert_eq!(Window::default().to_string(), "03:00-05:00");
        for text in
            ["", "3-5", "03:00", "03:00-03:00", "24:00-01:00", "03:60-04:00", "So 03:00-05:00", "Sun, 03:00-05:00"]
        {
            assert_eq!(text.parse::<Window>(), Err(NoWindow), "{text}");
        }
    }

    #[test]
    fn a_window_may_go_past_midnight_and_belongs_to_the_day_of_its_begin() {
        let window: Window = "Sat 23:00-02:00".parse().unwrap();
        // 2026-01-03 is a Saturday.
        let begin = at("2026-01-03T23:00");
        let around = Some((begin, at("2026-01-04T02:00")));
        for (now, expected) in [
            ("2026-01-03T22:59:59", None),
            ("2026-01-03T23:00", around),
            ("2026-01-04T01:59:59", around),
            ("2026-01-04T02:00", None),
            ("2026-01-04T23:30", None),
            ("2026-01-03T01:00", None),
        ] {
            assert_eq!(window.around(at(now)), expected, "{now}");
        }
        assert_eq!(window.next(at("2026-01-03T22:59:59")), Some(begin));
        assert_eq!(window.next(begin), Some(at("2026-01-10T23:00")));
    }

    proptest! {
        #[test]
        fn the_next_window_is_the_first_after_now(
            from in 0i8..24, to in 0i8..24, minute in 0i8..60, days in prop::sample::subsequence(DAYS.to_vec(), 0..=7),
            day in 0i64..800, second in 0i64..86_400,
        ) {
            let days: Vec<&str> = days.iter().map(|(name, _)| *name).collect();
            let days = if days.is_empty() { String::new() } else { format!("{} ", days.join(",")) };
            let text = format!("{days}{from:02}:{minute:02}-{to:02}:00");
            prop_assume!(!text.ends_with(&format!("{to:02}:00-{to:02}:00")));
            let window: Window = text.parse().unwrap();
            prop_assert_eq!(window.to_string(), text);
            let now = at("2026-01-01T00:00").checked_add(Span::new().days(day).seconds(second)).unwrap();
            let next = window.next(now).unwrap();
            prop_assert!(next > now);
            prop_assert_eq!(window.around(next).map(|(begin, _)| begin), Some(next));
            // Nothing between now and then but what began before now.
            let before = next.checked_sub(1.second()).unwrap();
            prop_assert!(window.around(before).is_none_or(|(begin, _)| begin <= now));
            if let Some((begin, end)) = window.around(now) {
                prop_assert!(begin <= now && now < end);
            }
        }

        #[test]
        fn no_text_panics(text in ".{0,20}") {
            let _ = text.parse::<Window>();
        }
    }
}
