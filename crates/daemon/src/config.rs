//! Configuration: TOML file < environment < flags. Unknown keys are errors, and an error names the file, the line
//! where there is one, the key, the reason and the valid choices.
//!
//! Two types take part: the *written* form as it stands in the file (`serde`, `deny_unknown_fields`), and the
//! *checked* form that the program uses, made from it by `TryFrom` with [`Invalid`] as its error.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use config::{Config, Environment, File, FileFormat};
use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table};

/// A value that parses and still cannot be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// The key's path, as `tunnel.subnet`.
    pub key: String,
    /// What is wrong and what would be right.
    pub reason: String,
}

impl Invalid {
    /// An invalid value of `key`.
    pub fn new(key: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self { key: key.into(), reason: reason.to_string() }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1, when the fault stands in the file.
    pub line: Option<usize>,
    /// The key's path, when one is at fault.
    pub key: Option<String>,
    /// What is wrong, with the valid choices where there are some.
    pub reason: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(key) = &self.key {
            write!(f, ": {key}")?;
        }
        // The fault may stand in a value that carries a secret.
        write!(f, ": {}", mask::masked(&self.reason))
    }
}

impl std::error::Error for ConfigError {}

/// Where values that override the file come from.
#[derive(Debug, Clone)]
pub struct Overrides {
    /// Prefix of environment variables: with `CLOUDATHOME_EDGE`, `CLOUDATHOME_EDGE__TUNNEL__MODE` sets
    /// `tunnel.mode`.
    pub env_prefix: &'static str,
    /// `KEY=VALUE` from flags; they win.
    pub flags: Vec<(String, String)>,
}

/// Where a configuration comes from: it can be read again.
#[derive(Debug, Clone)]
pub struct Source {
    /// The file.
    pub file: PathBuf,
    /// What overrides it.
    pub overrides: Overrides,
}

/// A configuration that can be.
#[derive(Debug)]
pub struct Loaded<Checked> {
    /// What the program uses.
    pub checked: Checked,
    /// What is set, in the file or elsewhere, as it is written. It may hold secrets.
    pub values: Table,
    /// Where it came from.
    pub source: Source,
}

/// Reads, merges and checks.
///
/// # Errors
/// When the file cannot be read or parsed, a key is unknown, a type is wrong, or the written form does not convert.
pub fn load<Written, Checked>(source: &Source) -> Result<Loaded<Checked>, ConfigError>
where
    Written: DeserializeOwned,
    Checked: TryFrom<Written, Error = Invalid>,
{
    let Source { file, overrides } = source;
    let plain = |reason: String| ConfigError { file: file.to_owned(), line: None, key: None, reason };
    let text = fs::read_to_string(file).map_err(|error| {
        plain(match error.kind() {
            std::io::ErrorKind::NotFound => "no such file; name another with --config".to_owned(),
            _ => format!("cannot be read: {error}"),
        })
    })?;

    let mut builder = Config::builder().add_source(File::from_str(&text, FileFormat::Toml)).add_source(
        Environment::with_prefix(overrides.env_prefix).prefix_separator("__").separator("__").try_parsing(true),
    );
    for (key, value) in &overrides.flags {
        builder = builder.set_override(key, value.as_str()).map_err(|error| plain(format!("--set {key}: {error}")))?;
    }
    let merged = builder.build().and_then(|merged| {
        let values = merged.clone().try_deserialize::<Table>()?;
        Ok((merged.try_deserialize::<Written>()?, values))
    });
    let (written, values) =
        merged.map_err(|error| located(file, &text, &error, toml::from_str::<Written>(&text).err()))?;
    let checked = Checked::try_from(written).map_err(|invalid| ConfigError {
        file: file.to_owned(),
        line: line_of_key(&text, &invalid.key),
        key: Some(invalid.key),
        reason: invalid.reason,
    })?;
    Ok(Loaded { checked, values, source: source.clone() })
}

/// The merged form lost the lines: `again`, from parsing the file alone, has them. When the file alone is right, the
/// fault came from the environment or a flag.
fn located(file: &Path, text: &str, merged: &config::ConfigError, again: Option<toml::de::Error>) -> ConfigError {
    let merged = merged.to_string();
    let incomplete = |error: &toml::de::Error| error.message().starts_with("missing field");
    match again {
        Some(error) if !incomplete(&error) || merged.contains("missing") => {
            let at = error.span().map(|span| span.start);
            // A missing key stands nowhere: the span is its whole table, whose name says more than its line.
            let line = at.filter(|_| !incomplete(&error)).map(|at| line_at(text, at));
            let key = at.and_then(|at| key_at(text, at));
            ConfigError { file: file.to_owned(), line, key, reason: error.message().to_owned() }
        }
        _ => ConfigError {
            file: file.to_owned(),
            line: None,
            key: None,
            reason: format!("{merged} (set in the environment or by --set)"),
        },
    }
}

fn line_at(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|&b| b == b'\n').count() + 1
}

/// Calls `visit` with the path, the key's span and the value of every entry, outer ones first.
fn walk(table: &DeTable<'_>, path: &str, visit: &mut impl FnMut(&str, std::ops::Range<usize>, std::ops::Range<usize>)) {
    for (key, value) in table {
        let path = if path.is_empty() { key.get_ref().to_string() } else { format!("{path}.{}", key.get_ref()) };
        visit(&path, key.span(), value.span());
        walk_value(value, &path, visit);
    }
}

fn walk_value(
    value: &Spanned<DeValue<'_>>,
    path: &str,
    visit: &mut impl FnMut(&str, std::ops::Range<usize>, std::ops::Range<usize>),
) {
    match value.get_ref() {
        DeValue::Table(table) => walk(table, path, visit),
        DeValue::Array(items) => items.iter().for_each(|item| walk_value(item, path, visit)),
        _ => {}
    }
}

/// The path of the innermost key at an offset.
fn key_at(text: &str, offset: usize) -> Option<String> {
    let table = DeTable::parse(text).ok()?;
    let mut found = None;
    walk(table.get_ref(), "", &mut |path, key, value| {
        if key.contains(&offset) || value.contains(&offset) {
            found = Some(path.to_owned());
        }
    });
    found
}

/// The line of a key, or of the nearest table around it that stands in the file.
fn line_of_key(text: &str, wanted: &str) -> Option<usize> {
    let table = DeTable::parse(text).ok()?;
    let mut best: Option<(usize, usize)> = None;
    walk(table.get_ref(), "", &mut |path, key, _| {
        let outer = wanted == path || wanted.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'));
        if outer && best.is_none_or(|(length, _)| path.len() >= length) {
            best = Some((path.len(), key.start));
        }
    });
    best.map(|(_, start)| line_at(text, start))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Written {
        host: String,
        tunnel: Tunnel,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Tunnel {
        mode: Mode,
        #[serde(default)]
        mtu: u16,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "lowercase")]
    enum Mode {
        Listen,
        Dial,
    }

    #[derive(Debug)]
    struct Checked(Written);

    impl TryFrom<Written> for Checked {
        type Error = Invalid;

        fn try_from(written: Written) -> Result<Self, Invalid> {
            if written.tunnel.mtu > 9000 {
                return Err(Invalid::new("tunnel.mtu", format_args!("{} is above 9000", written.tunnel.mtu)));
            }
            Ok(Self(written))
        }
    }

    fn try_load(text: &str, flags: &[(&str, &str)]) -> Result<Checked, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("agent.toml");
        fs::write(&file, text).unwrap();
        let flags = flags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let overrides = Overrides { env_prefix: "DAEMON_TEST_NOT_SET", flags };
        Ok(load::<Written, Checked>(&Source { file, overrides })?.checked)
    }

    const GOOD: &str = "host = \"vps\"\n\n[tunnel]\nmode = \"listen\"\nmtu = 1400\n";

    #[test]
    fn a_good_file_loads_and_flags_win() {
        assert_eq!(try_load(GOOD, &[]).unwrap().0.tunnel.mode, Mode::Listen);
        assert_eq!(try_load(GOOD, &[("tunnel.mode", "dial")]).unwrap().0.tunnel.mode, Mode::Dial);
        assert_eq!(try_load(GOOD, &[]).unwrap().0.host, "vps");
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_choices() {
        let error = try_load("host = \"vps\"\n[tunnel]\nmode = \"dial\"\nmtuu = 3\n", &[]).unwrap_err();
        assert_eq!((error.line, error.key.as_deref()), (Some(4), Some("tunnel.mtuu")));
        assert!(error.reason.contains("`mode`") && error.reason.contains("`mtu`"), "{error}");
    }

    #[test]
    fn a_wrong_type_is_named_with_its_line() {
        let error = try_load("host = \"vps\"\n[tunnel]\nmode = \"dial\"\nmtu = \"fast\"\n", &[]).unwrap_err();
        assert_eq!((error.line, error.key.as_deref()), (Some(4), Some("tunnel.mtu")));
    }

    #[test]
    fn a_wrong_choice_names_the_right_ones() {
        let error = try_load("host = \"vps\"\n[tunnel]\nmode = \"both\"\n", &[]).unwrap_err();
        assert_eq!((error.line, error.key.as_deref()), (Some(3), Some("tunnel.mode")));
        assert!(error.reason.contains("listen") && error.reason.contains("dial"), "{error}");
    }

    #[test]
    fn an_impossible_value_is_named_with_its_line() {
        let error = try_load(&GOOD.replace("1400", "9999"), &[]).unwrap_err();
        assert_eq!((error.line, error.key.as_deref()), (Some(5), Some("tunnel.mtu")));
    }

    #[test]
    fn a_missing_key_and_a_syntax_error_are_told() {
        let error = try_load("host = \"vps\"\n[tunnel]\nmtu = 3\n", &[]).unwrap_err();
        assert!(error.reason.contains("missing field `mode`"), "{error}");
        let error = try_load("host = \"vps\"\n[tunnel\n", &[]).unwrap_err();
        assert_eq!(error.line, Some(2), "{error}");
    }

    #[test]
    fn a_fault_in_a_flag_is_not_blamed_on_the_file() {
        let error = try_load(GOOD, &[("tunnel.mtuu", "3")]).unwrap_err();
        assert_eq!(error.line, None);
        assert!(error.reason.contains("--set"), "{error}");
    }

    #[test]
    fn a_missing_file_says_so() {
        let overrides = Overrides { env_prefix: "X", flags: vec![] };
        let source = Source { file: "/nonexistent/edge.toml".into(), overrides };
        let error = load::<Written, Checked>(&source).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/edge.toml: no such file"), "{error}");
    }
}
