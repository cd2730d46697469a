//! What is set in a configuration, as it may be shown: keys with their values, secrets masked; and what the secrets are, so that nothing
//! else hands them on. A fingerprint of each value, and of the file that it names, tells whether they changed.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use mask::{MASK, is_secret_name};
use model::ConfigChange;
use secrecy::SecretString;
use toml::{Table, Value};

use crate::identity;

/// Keys, besides those that end with `_file` and those below `secrets`, whose value names a file that is read when the
/// configuration is.
const FILES: [&str; 4] = ["acme_api_root", "acme_issuer_root", "basic_auth", "issuer_root"];
/// What changes without a new start.
const CHANGES_LIVE: &str = "services.";

/// What is set.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    /// By the paths of keys.
    set: BTreeMap<String, Setting>,
    /// Not to be shown anywhere.
    secrets: Vec<SecretString>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Setting {
    /// As TOML, masked.
    shown: String,
    /// Of the value, and of the file that it names.
    fingerprint: u64,
}

impl Settings {
    /// Of a configuration, whose named files are read.
    pub(crate) fn of(values: &Table) -> Self {
        let mut settings = Self::default();
        settings.add(values, &mut Vec::new());
        settings
    }

    fn add<'a>(&mut self, table: &'a Table, path: &mut Vec<&'a str>) {
        for (key, value) in table {
            path.push(key);
            match value {
                Value::Table(table) => self.add(table, path),
                value => {
                    let named = named_files(path, value);
                    let setting = Setting {
                        shown: shown(path, value, &mut self.secrets),
                        fingerprint: fingerprint(value, &named, *path == ["identity_dir"], &mut self.secrets),
                    };
                    self.set.insert(path.join("."), setting);
                }
            }
            path.pop();
        }
    }

    /// For people.
    pub(crate) fn shown(&self) -> BTreeMap<String, String> {
        self.set.iter().map(|(key, setting)| (key.clone(), setting.shown.clone())).collect()
    }

    /// What must not be shown: texts of the configuration, and of the files that it names.
    pub(crate) fn secrets(&self) -> &[SecretString] {
        &self.secrets
    }

    /// What another configuration sets differently.
    pub(crate) fn changes(&self, newer: &Self) -> Vec<ConfigChange> {
        let keys: std::collections::BTreeSet<&String> = self.set.keys().chain(newer.set.keys()).collect();
        let differ = keys.into_iter().filter(|key| self.set.get(*key) != newer.set.get(*key));
        let shown = |settings: &Self, key: &String| settings.set.get(key).map(|setting| setting.shown.clone());
        let change = |key: &String| ConfigChange {
            key: key.clone(),
            from: shown(self, key),
            to: shown(newer, key),
            needs_restart: !key.starts_with(CHANGES_LIVE),
        };
        differ.map(change).collect()
    }
}

/// Whether the value is the path of a file.
fn names_file(path: &[&str]) -> bool {
    let [outer @ .., key] = path else { return false };
    key.ends_with("_file") || FILES.contains(key) || outer.last() == Some(&"secrets")
}

fn shown(path: &[&str], value: &Value, secrets: &mut Vec<SecretString>) -> String {
    let key = path.last().copied().unwrap_or_default();
    // Anything may be in an environment, and often is a secret.
    let in_environment = path.len() > 1 && path[path.len() - 2] == "env";
    if !names_file(path) && (in_environment || is_secret_name(key)) {
        secrets.push(value.as_str().map_or_else(|| value.to_string(), str::to_owned).into());
        return format!("\"{MASK}\"");
    }
    masked_value(value, secrets).to_string()
}

/// A value without the secrets in its texts: those of `--password=x`, of the word after `--password`, and in addresses.
fn masked_value(value: &Value, secrets: &mut Vec<SecretString>) -> Value {
    match value {
        Value::String(text) => Value::String(mask::collecting(text, secrets)),
        Value::Array(items) => {
            let mut follows = false;
            let shown = |item: &Value| {
                let option = item.as_str().filter(|word| word.starts_with('-') && !word.contains('='));
                let named = option.is_some_and(is_secret_name);
                match item {
                    Value::String(secret) if std::mem::replace(&mut follows, named) && option.is_none() => {
                        secrets.push(secret.clone().into());
                        Value::String(MASK.to_owned())
                    }
                    item => masked_value(item, secrets),
                }
            };
            Value::Array(items.iter().map(shown).collect())
        }
        other => other.clone(),
    }
}

fn named_files(path: &[&str], value: &Value) -> Vec<PathBuf> {
    match value.as_str().map(Path::new) {
        Some(file) if names_file(path) => vec![file.to_owned()],
        Some(dir) if path == ["identity_dir"] => identity::FILES.iter().map(|name| dir.join(name)).collect(),
        _ => vec![],
    }
}

/// By a key of this process' own: a fingerprint tells nobody anything of a secret. What is in files that are followed anyway is no
/// part of it.
fn fingerprint(value: &Value, files: &[PathBuf], followed: bool, secrets: &mut Vec<SecretString>) -> u64 {
    static KEY: OnceLock<RandomState> = OnceLock::new();
    let mut hasher = KEY.get_or_init(RandomState::new).build_hasher();
    hasher.write(value.to_string().as_bytes());
    for file in files {
        // One that is not there has another fingerprint than an empty one.
        match fs::read(file) {
            Ok(content) => {
                if !followed {
                    hasher.write(&content);
                }
                secrets.push(String::from_utf8_lossy(&content).into_owned().into());
            }
            Err(_) if followed => {}
            Err(_) => hasher.write_u8(1),
        }
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn settings(text: &str) -> Settings {
        Settings::of(&text.parse().unwrap())
    }

    #[test]
    fn what_is_set_is_shown_without_its_secrets() {
        let text = r#"
domain = "example.test"
[tunnel]
remotes = ["vps.example.test:1194"]
[services.app]
port = 8081
command = ["serve", "--password", "geheim1", "--token=geheim2", "--verbose", "DB_PASSWORD=geheim3 x"]
env = { DATABASE = "geheim4", PLAIN = "geheim5" }
secrets = { "/run/secrets/db" = "/etc/cloudathome/db-password" }
address = "http://me:geheim6@10.0.0.1:80/path?api_key=1"
api_key = "geheim7"
mail = { password_file = "/etc/cloudathome/smtp" }
"#;
        let settings = settings(text);
        let shown = settings.shown();
        let secrets: Vec<&str> = settings.secrets().iter().map(ExposeSecret::expose_secret).collect();
        for number in 1..=7 {
            assert!(secrets.contains(&&*format!("geheim{number}")), "{number} of {secrets:?}");
        }
        let all = format!("{shown:?}");
        assert!(!all.contains("geheim"), "{all}");
        assert_eq!(shown["domain"], "\"example.test\"");
        assert_eq!(shown["services.app.port"], "8081");
        assert_eq!(shown["tunnel.remotes"], "[\"vps.example.test:1194\"]");
        assert_eq!(shown["services.app.mail.password_file"], "\"/etc/cloudathome/smtp\"");
        assert_eq!(shown["services.app.secrets./run/secrets/db"], "\"/etc/cloudathome/db-password\"");
        assert!(shown["services.app.command"].contains("--verbose"), "{all}");
        assert!(shown["services.app.address"].contains("http://me:***@10.0.0.1:80/path"), "{all}");
    }

    #[test]
    fn a_change_says_what_and_whether_it_needs_a_new_start() {
        let old =
            settings("domain = \"a.test\"\n[services.app]\nport = 1\nenv = { A = \"x\" }\n[services.old]\nport = 2\n");
        let new =
            settings("domain = \"b.test\"\n[services.app]\nport = 3\nenv = { A = \"y\" }\n[services.new]\nport = 2\n");
        let told: Vec<_> = old
            .changes(&new)
            .into_iter()
            .map(|change| (change.key, change.from, change.to, change.needs_restart))
            .collect();
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            told,
            [
                ("domain".to_owned(), some("\"a.test\""), some("\"b.test\""), true),
                ("services.app.env.A".to_owned(), some("\"***\""), some("\"***\""), false),
                ("services.app.port".to_owned(), some("1"), some("3"), false),
                ("services.new.port".to_owned(), None, some("2"), false),
                ("services.old.port".to_owned(), some("2"), None, false),
            ]
        );
        assert!(old.changes(&old.clone()).is_empty());
    }

    #[test]
    fn the_content_of_a_named_file_is_part_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("smtp");
        fs::write(&file, "geheim").unwrap();
        let text = format!("[services.app.mail]\npassword_file = {file:?}\n");
        let old = settings(&text);
        assert!(old.changes(&settings(&text)).is_empty());
        fs::write(&file, "anders").unwrap();
        let changes = old.changes(&settings(&text));
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].from, changes[0].to);
        let identity = settings(&format!("identity_dir = {:?}\n", dir.path()));
        // The agent follows the identity by itself.
        fs::write(dir.path().join("host.key"), "geheim2").unwrap();
        let newer = settings(&format!("identity_dir = {:?}\n", dir.path()));
        assert!(identity.changes(&newer).is_empty());
        assert!(newer.secrets().iter().any(|secret| secret.expose_secret() == "geheim2"));
    }
}
