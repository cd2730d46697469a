//! The configuration of an agent, for people to look at.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What is in force, and what the file says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigReport {
    /// The file's path.
    pub file: String,
    /// What is set, by the path of its key, as TOML. Secrets are masked.
    pub in_force: BTreeMap<String, String>,
    /// What the file, the environment and the flags say now and is not in force; after a reload what was changed.
    pub changes: Vec<ConfigChange>,
    /// Why the file cannot be used.
    pub fault: Option<String>,
    /// Why a good file was not put in force by a reload. Nothing of it is.
    pub refused: Option<String>,
}

/// A key that is to be set to something else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigChange {
    /// The path of the key.
    pub key: String,
    /// As TOML, masked; none: not set.
    pub from: Option<String>,
    /// As TOML, masked; none: not set. The same as `from` where the content of a file changed, or a secret.
    pub to: Option<String>,
    /// Whether it takes effect with a new start of the agent only.
    pub needs_restart: bool,
}
