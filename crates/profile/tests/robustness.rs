//! No text makes the reader panic or say too much.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use profile::{Profile, ProfileErrors};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,400}") {
        judge(&text);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        judge(&String::from_utf8_lossy(&bytes));
    }

    /// Lines of real options with arguments that may or may not fit.
    #[test]
    fn any_arguments_are_read_or_refused(
        lines in proptest::collection::vec((option(), proptest::collection::vec(argument(), 0..5)), 0..12),
    ) {
        let text: String = lines.iter().map(|(option, words)| format!("{option} {}\n", words.join(" "))).collect();
        judge(&text);
        judge(&format!("client\n<connection>\n{text}</connection>\n"));
    }

    /// Samples, cut and stirred: a piece of one in the place of a piece of another.
    #[test]
    fn damaged_samples_are_read_or_refused(
        (one, other) in (sample(), sample()),
        (from, len, at, cut) in (any::<prop::sample::Index>(), 0..80_usize, any::<prop::sample::Index>(), 0..80_usize),
    ) {
        let from = from.index(other.len());
        let piece = other.get(from..(from + len).min(other.len())).unwrap_or_default();
        let mut damaged = one;
        let at = at.index(damaged.len());
        let end = (at + cut).min(damaged.len());
        damaged.splice(at..end, piece.iter().copied());
        judge(&String::from_utf8_lossy(&damaged));
    }
}

/// A password that lost a letter on the way would be refused by the server, and nobody would know why.
#[test]
fn a_password_in_another_encoding_is_not_guessed() {
    let bytes =
        b"client\nremote a\n# gru\xdf\n<auth-user-pass>\nanna\nschl\xfcssel\n</auth-user-pass>\n<ca>\nx\n</ca>\n";
    let errors = Profile::parse(&String::from_utf8_lossy(bytes)).unwrap_err();
    assert_eq!((errors.problems.len(), errors.problems[0].line), (1, Some(4)), "{errors}");
}

#[test]
fn size_is_bounded() {
    let mut text = "client\n".to_owned();
    while text.len() <= 256 * 1024 {
        text.push_str("route 10.0.0.0 255.0.0.0\n");
    }
    let errors = Profile::parse(&text).unwrap_err();
    assert_eq!(errors.problems.len(), 1);
    assert!(errors.to_string().contains("256 KiB"), "{errors}");
}

#[test]
fn many_problems_are_counted_and_not_all_told() {
    let errors = Profile::parse(&"nonsense\n".repeat(1000)).unwrap_err();
    assert_eq!((errors.problems.len(), errors.omitted), (50, 954));
    assert!(errors.to_string().ends_with("and 954 more"));
}

/// What costs most per byte: unclosed blocks, many blocks, many places with a large key.
#[test]
fn the_worst_texts_are_read_in_no_time() {
    let key = format!("<tls-crypt>\n{}</tls-crypt>\n", "0123456789abcdef\n".repeat(7000));
    let texts = [
        "<a>\n".repeat(60_000),
        "<ca>\nx\n</ca>\n".repeat(18_000),
        format!("{key}{}", "remote a\n".repeat(14_000)),
        format!("{key}{}", "<connection>\nremote a\n</connection>\n".repeat(3_600)),
        format!("{key}{}", "<connection>\n</connection>\n".repeat(4_800)),
        "x\n".repeat(130_000),
        "setenv opt setenv opt setenv opt setenv opt x\n".repeat(5_000),
        "\\ ".repeat(130_000),
    ];
    for text in texts {
        assert!(text.len() <= 256 * 1024);
        let start = Instant::now();
        judge(&text);
        assert!(start.elapsed() < Duration::from_secs(5), "{:?} for {:?}…", start.elapsed(), &text[..20]);
    }
}

/// Whatever is said fits on a screen and does not disturb a terminal.
fn judge(text: &str) {
    let said = match Profile::parse(text) {
        Ok(profile) => {
            assert!((1..=64).contains(&profile.connections.len()));
            profile.notes.iter().map(|note| format!("{note}\n")).collect()
        }
        Err(errors) => {
            let ProfileErrors { problems, .. } = &errors;
            assert!((1..=50).contains(&problems.len()));
            errors.to_string()
        }
    };
    assert!(said.lines().all(|line| line.len() < 1000), "{said}");
    assert!(!said.chars().any(|c| c.is_control() && c != '\n'), "{said:?}");
}

fn option() -> impl Strategy<Value = String> {
    let words: Vec<String> = samples()
        .iter()
        .flat_map(|sample| String::from_utf8_lossy(sample).lines().map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|line| line.split_ascii_whitespace().next().map(str::to_owned))
        .filter(|word| word.starts_with(|c: char| c.is_ascii_lowercase()) && word.len() < 30)
        .collect();
    prop::sample::select(words)
}

fn argument() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<u64>().prop_map(|number| number.to_string()),
        any::<[u8; 4]>().prop_map(|address| std::net::Ipv4Addr::from(address).to_string()),
        any::<([u8; 16], u8)>().prop_map(|(address, bits)| format!("{}/{bits}", std::net::Ipv6Addr::from(address))),
        prop::sample::select(vec![
            "0",
            "1",
            "infinite",
            "server",
            "address",
            "default",
            "net_gateway",
            "dir",
            "opt",
            "no",
            "subnet",
            "DNS",
            "accept",
            "\"",
            "'",
            "\\",
            "#",
            "mtu",
            "udp",
            "tcp6",
            "AES-256-GCM",
            "?:",
            ":",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,12}",
    ]
}

fn sample() -> impl Strategy<Value = Vec<u8>> {
    prop::sample::select(samples())
}

fn samples() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples");
    let mut paths: Vec<_> = ["valid", "invalid"]
        .iter()
        .flat_map(|class| fs::read_dir(folder.join(class)).unwrap().map(|entry| entry.unwrap().path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "ovpn"))
        .collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}
