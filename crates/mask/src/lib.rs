//! Texts for people without what looks like a secret in them, for places where nobody knows which secrets there are: a faulty value of
//! a configuration, the output of somebody's command.

use secrecy::SecretString;

/// In place of a secret.
pub const MASK: &str = "***";
/// Words in the name of what is secret.
const SECRET: [&str; 7] = ["password", "passwd", "passphrase", "secret", "token", "credential", "private"];

/// Whether what is called so is secret: `password`, `api_key`, `--auth-token`.
#[must_use]
pub fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET.iter().any(|word| name.contains(word)) || name == "key" || name.ends_with("_key") || name.ends_with("-key")
}

/// A text without what looks like a secret: what follows `password=` and its like, and passwords in addresses.
#[must_use]
pub fn masked(text: &str) -> String {
    collecting(text, &mut Vec::new())
}

/// As [`masked`]; what was masked is added to `secrets`.
#[must_use]
pub fn collecting(text: &str, secrets: &mut Vec<SecretString>) -> String {
    let words: Vec<String> = text.split(' ').map(|word| of_word(word, secrets)).collect();
    words.join(" ")
}

fn of_word(word: &str, secrets: &mut Vec<SecretString>) -> String {
    const ENDS: [char; 4] = ['?', '&', ';', ','];
    let word = without_login(word, secrets);
    let part = |part: &str| match part.split_once('=') {
        Some((name, value)) if is_secret_name(name) && !value.trim_end_matches(ENDS).is_empty() => {
            let (secret, end) = value.split_at(value.trim_end_matches(ENDS).len());
            secrets.push(secret.into());
            format!("{name}={MASK}{end}")
        }
        _ => part.to_owned(),
    };
    word.split_inclusive(ENDS).map(part).collect()
}

/// An address without the password in it.
fn without_login(word: &str, secrets: &mut Vec<SecretString>) -> String {
    let Some((scheme, rest)) = word.split_once("://") else { return word.to_owned() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let login = authority.rsplit_once('@').and_then(|(login, host)| Some((login.split_once(':')?, host)));
    let Some(((user, password), host)) = login else { return word.to_owned() };
    secrets.push(password.into());
    format!("{scheme}://{user}:{MASK}@{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_secret_is_masked_and_nothing_else() {
        for (text, expected) in [
            ("invalid value: string \"http://me:geheim@10.0.0.1\"", "invalid value: string \"http://me:***@10.0.0.1\""),
            (
                "curl: https://api.test/zone?api_key=geheim&name=a failed",
                "curl: https://api.test/zone?api_key=***&name=a failed",
            ),
            ("DB_PASSWORD=geheim, port=1", "DB_PASSWORD=***, port=1"),
            ("services.blog.mail.password_file: no such file", "services.blog.mail.password_file: no such file"),
            ("http://10.0.0.1:80/a@b", "http://10.0.0.1:80/a@b"),
        ] {
            assert_eq!(masked(text), expected);
        }
    }
}
