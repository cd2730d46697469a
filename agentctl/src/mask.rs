//! Keeps secrets out of what is handed on: those that are known, and what looks like one.

use secrecy::{ExposeSecret, SecretString};

/// In place of a secret.
const MASK: &str = "***";
/// What is shorter is no secret, or would take half of the text with it.
const SHORTEST: usize = 6;
/// Words before what looks like a secret.
const NAMES: [&str; 9] =
    ["password", "passwd", "passphrase", "secret", "token", "api_key", "apikey", "authorization", "cookie"];

/// Masks secrets in texts.
pub(crate) struct Mask {
    /// Longest first: one may be a part of another.
    known: Vec<String>,
}

impl Mask {
    /// Of these: whole, by lines, and what follows the colon in a line, as in a file with users.
    pub(crate) fn new(secrets: &[SecretString]) -> Self {
        let mut known = Vec::new();
        for secret in secrets {
            for line in secret.expose_secret().lines().map(str::trim) {
                let after_colon = line.split_once(':').map(|(_, rest)| rest.trim());
                for text in std::iter::once(line).chain(after_colon).filter(|text| text.len() >= SHORTEST) {
                    let escaped = serde_json::to_string(text).unwrap_or_default();
                    let escaped = escaped.trim_start_matches('"').strip_suffix('"').unwrap_or_default().to_owned();
                    known.extend([text.to_owned(), escaped]);
                }
            }
        }
        known.retain(|text| text.len() >= SHORTEST);
        known.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        known.dedup();
        Self { known }
    }

    /// A text without the secrets that are known.
    pub(crate) fn known(&self, text: &str) -> String {
        self.known.iter().fold(text.to_owned(), |text, secret| text.replace(secret, MASK))
    }

    /// A text of others, also without what looks like a secret.
    pub(crate) fn foreign(&self, text: &str) -> String {
        let mut masked = String::with_capacity(text.len());
        let mut in_key = false;
        for line in self.known(text).split_inclusive('\n') {
            let (begins, ends) =
                (line.contains("PRIVATE KEY-----") && line.contains("BEGIN"), line.contains("-----END"));
            if begins || in_key {
                masked.push_str(if line.ends_with('\n') { "***\n" } else { MASK });
                in_key = !ends;
            } else {
                masked.push_str(&line_without(line));
            }
        }
        masked
    }
}

/// A line without the values of what is called like a secret, and without passwords in addresses.
fn line_without(line: &str) -> String {
    // Of the same length, byte by byte.
    let lower = line.to_ascii_lowercase();
    let mut masked = String::with_capacity(line.len());
    let mut at = 0;
    while at < line.len() {
        let named = NAMES.iter().filter_map(|name| Some(lower[at..].find(name)? + at + name.len())).min();
        let Some(value) = named.map(|end| value_after(line, end)) else { break };
        match value {
            Ok((from, to)) => {
                masked.push_str(&line[at..from]);
                masked.push_str(MASK);
                at = to;
            }
            Err(end) => {
                masked.push_str(&line[at..end]);
                at = end;
            }
        }
    }
    masked.push_str(&line[at..]);
    masked.split_inclusive(' ').map(without_login).collect()
}

/// Where the value begins and ends that is given to the name which ends here; else where to look on.
fn value_after(line: &str, name_end: usize) -> Result<(usize, usize), usize> {
    let rest = &line[name_end..];
    let after_name = rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    let after_quote = after_name.trim_start_matches(['"', '\'', '\\', ' ']);
    let Some(value) = after_quote.strip_prefix([':', '=']) else { return Err(name_end) };
    let mut value = value.trim_start_matches(['"', '\'', '\\', ' ', '[']);
    for scheme in ["Bearer ", "Basic ", "bearer ", "basic "] {
        value = value.strip_prefix(scheme).unwrap_or(value);
    }
    let length = value
        .find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '\\' | ',' | ';' | '&' | ')' | '}' | ']'))
        .unwrap_or(value.len());
    let from = line.len() - value.len();
    if length == 0 { Err(from.max(name_end)) } else { Ok((from, from + length)) }
}

fn without_login(word: &str) -> String {
    let Some((scheme, rest)) = word.split_once("://") else { return word.to_owned() };
    let (authority, path) = rest.split_at(rest.find(['/', ' ', '"', '\n']).unwrap_or(rest.len()));
    match authority.rsplit_once('@').and_then(|(login, host)| Some((login.split_once(':')?.0, host))) {
        Some((user, host)) => format!("{scheme}://{user}:{MASK}@{host}{path}"),
        None => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask() -> Mask {
        Mask::new(&["geheim-eins\n".into(), "me:geheim-zwei".into(), "with\"quote".into(), "1".into()])
    }

    #[test]
    fn what_is_known_is_masked_wherever_it_stands() {
        let text = r#"{"a":"xgeheim-einsx","b":"with\"quote","c":1,"d":"geheim-zwei"}"#;
        assert_eq!(mask().known(text), r#"{"a":"x***x","b":"***","c":1,"d":"***"}"#);
    }

    #[test]
    fn what_looks_like_a_secret_is_masked_in_the_texts_of_others() {
        for (text, expected) in [
            ("login with password=abc now", "login with password=*** now"),
            ("DB_PASSWORD: 'abc def'", "DB_PASSWORD: '*** def'"),
            (r#"{"token":"abc","x":1}"#, r#"{"token":"***","x":1}"#),
            ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
            ("postgres://me:abc@db/x and on", "postgres://me:***@db/x and on"),
            ("the password is wrong", "the password is wrong"),
            ("password=a&token=b", "password=***&token=***"),
            ("password=", "password="),
            ("ends with secret", "ends with secret"),
            ("größe password=ä", "größe password=***"),
        ] {
            assert_eq!(mask().foreign(text), expected);
        }
        let key = "before\n-----BEGIN PRIVATE KEY-----\nMIIabc\n-----END PRIVATE KEY-----\nafter\n";
        assert_eq!(mask().foreign(key), "before\n***\n***\n***\nafter\n");
    }
}
