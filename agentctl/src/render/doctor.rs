//! What a look at a host found, as text for people.

use model::{Finding, Grade};

use super::{Colour, Table, Tone};

/// The whole text.
pub(crate) fn render(findings: &[Finding], colour: Colour) -> String {
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
    let mut text = String::new();
    table.write(colour, &mut text);
    text
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
        assert_eq!(render(&findings, Colour::when(false)), expected);
    }
}
