//! What a look at a host found, as text for people.

use model::{Finding, Grade};

use super::{Colour, Table, Tone, clean};
use crate::doctor::Found;

/// The whole text. Of more than one host each has its name above.
pub(crate) fn render(found: &[Found], colour: Colour) -> String {
    let mut text = String::new();
    for (host, findings) in found {
        if found.len() > 1 {
            let before = if text.is_empty() { "" } else { "\n" };
            text.push_str(&format!("{before}{}\n", clean(host.as_str())));
        }
        of_host(findings, colour, &mut text);
    }
    text
}

fn of_host(findings: &[Finding], colour: Colour, text: &mut String) {
    let mut table = Table::default();
    for finding in findings {
        let (tone, word) = match finding.grade {
            Grade::Good => (Tone::Good, "good"),
            Grade::Doubtful => (Tone::Doubtful, "doubtful"),
            Grade::Bad => (Tone::Bad, "BAD"),
        };
        table.row([(tone, word.to_owned()), (Tone::Plain, finding.check.clone()), (Tone::Plain, finding.text.clone())]);
        table.notes(finding.next.clone());
    }
    table.write(colour, text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_bad_comes_with_what_to_do() {
        let finding = |check: &str, grade, text: &str, next: Option<&str>| Finding {
            check: check.into(),
            grade,
            text: text.into(),
            next: next.map(str::to_owned),
        };
        let findings = [
            finding("engine", Grade::Good, "Docker 28.5.2", None),
            finding("disk", Grade::Bad, "0.2 GiB are free", Some("make room")),
        ];
        let expected = "  good  engine  Docker 28.5.2\n  BAD   disk    0.2 GiB are free\n      make room\n";
        let host = |name: &str| name.parse().unwrap();
        assert_eq!(render(&[(host("vps"), findings.to_vec())], Colour::when(false)), expected);
        let both = [(host("vps"), findings.to_vec()), (host("attic"), findings[..1].to_vec())];
        let second = "\nattic\n  good  engine  Docker 28.5.2\n";
        assert_eq!(render(&both, Colour::when(false)), format!("vps\n{expected}{second}"));
    }
}
