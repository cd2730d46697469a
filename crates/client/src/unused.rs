//! Options that a profile may have and that change nothing here, though they mean something elsewhere.

use profile::Note;

/// Names, and why they are passed over.
const UNUSED: &[(&str, &str)] = &[
    ("local", "the system chooses our own address"),
    ("lport", "the system chooses our own port"),
    ("float", "the server's packets are taken from its address only"),
    ("remote-random-hostname", "names are asked as they are"),
    ("proto-force", "the protocol of each remote counts"),
    ("connect-timeout", "a remote gets 4 s to answer, the only one 10 s"),
    ("server-poll-timeout", "a remote gets 4 s to answer, the only one 10 s"),
    ("connect-retry", "the pause is 1 s after the first round of all remotes, doubling to 16 s"),
    ("tls-timeout", "control packets are repeated after 1 s, doubling to 8 s"),
    ("replay-window", "packets may be up to 2048 packets late"),
    ("route-delay", "routes are set as soon as the device has its address"),
    ("tls-cipher", "the TLS library's own choice of strong suites counts"),
    ("tls-ciphersuites", "the TLS library's own choice of strong suites counts"),
    ("tls-groups", "the TLS library's own choice of groups counts"),
    ("tls-cert-profile", "the TLS library's own demands on certificates count"),
    ("push-peer-info", "only what the server needs is told about this machine"),
    ("auth-nocache", "the password is kept in memory as long as the connection lives, and nowhere else"),
    ("topology", "what the server pushes counts; where it pushes nothing, addresses are pairs"),
    ("setenv", "nothing more is told to the server about this machine"),
    ("comp-lzo", "packets are framed for compression only where the server pushes that; nothing is ever compressed"),
    ("compress", "packets are framed for compression only where the server pushes that; nothing is ever compressed"),
    ("verb", "everything that a person needs is told in any case"),
    ("explicit-exit-notify", "the server is always told when the connection ends"),
];

/// One note for each of them that stands in the profile.
pub(crate) fn notes(text: &str) -> Vec<Note> {
    let note = |&(option, reason): &(&str, &'static str)| {
        let line = line_of(text, option)?;
        Some(Note { line: Some(line), option: option.to_owned(), reason: reason.into() })
    };
    UNUSED.iter().filter_map(note).collect()
}

/// The first line, from 1, that holds an option.
pub(crate) fn line_of(text: &str, option: &str) -> Option<usize> {
    let holds = |line: &str| {
        let line = line.trim_start_matches('\u{feff}').trim_start();
        let line = line.strip_prefix("--").unwrap_or(line).trim_start_matches('<');
        let name = line.split(|c: char| c.is_whitespace() || c == '>').next();
        name == Some(option)
    };
    text.lines().position(holds).map(|at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_found_by_their_lines() {
        let text = "\u{feff}client\n# lport 5\n  --lport 1\r\n<connection>\nfloat\n</connection>\n<tls-auth>\nx\n</tls-auth>\n";
        assert_eq!(line_of(text, "client"), Some(1));
        assert_eq!(line_of(text, "lport"), Some(3));
        assert_eq!(line_of(text, "tls-auth"), Some(7));
        assert_eq!(line_of(text, "local"), None);
        let found: Vec<_> = notes(text).into_iter().map(|note| (note.line, note.option)).collect();
        assert_eq!(found, [(Some(3), "lport".to_owned()), (Some(5), "float".to_owned())]);
    }
}
