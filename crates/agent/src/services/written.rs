//! `[services.NAME]` as it stands in the file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use daemon::config::Invalid;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ingress::IngressSection;

/// `[services.NAME]` of any kind. One table of all keys, so that a mistyped one is found with its line; which of them
/// belong to which kind is checked afterwards.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSection {
    pub(super) kind: WrittenKind,
    pub(super) hostname: Option<String>,
    pub(super) also: Option<Vec<String>>,
    pub(super) port: Option<u16>,
    pub(super) ingress: Option<IngressSection>,
    pub(super) image: Option<String>,
    pub(super) redis_image: Option<String>,
    pub(super) database: Option<DatabaseSection>,
    pub(super) object_store: Option<ObjectStoreSection>,
    pub(super) mail: Option<MailSection>,
    pub(super) admin_user: Option<String>,
    pub(super) apps: Option<Vec<String>>,
    pub(super) phone_region: Option<String>,
    pub(super) previews: Option<bool>,
    pub(super) owner_email: Option<String>,
    pub(super) title: Option<String>,
    pub(super) command: Option<Vec<String>>,
    pub(super) user: Option<String>,
    pub(super) env: Option<BTreeMap<String, String>>,
    pub(super) secrets: Option<BTreeMap<String, PathBuf>>,
    pub(super) secrets_uid: Option<u32>,
    pub(super) volumes: Option<BTreeMap<String, PathBuf>>,
    pub(super) state_volumes: Option<BTreeMap<String, PathBuf>>,
    pub(super) container_port: Option<u16>,
    pub(super) memory: Option<String>,
    pub(super) cpus: Option<f64>,
    pub(super) processes: Option<u32>,
    pub(super) health_path: Option<String>,
    pub(super) health_status: Option<u16>,
    pub(super) address: Option<String>,
    pub(super) upgrades: Option<UpgradesSection>,
}

/// `[services.NAME.upgrades]`.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct UpgradesSection {
    pub(super) policy: Option<String>,
    pub(super) window: Option<String>,
}

/// `kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum WrittenKind {
    Nextcloud,
    Ghost,
    Container,
    External,
}

/// `[services.NAME.database]`.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct DatabaseSection {
    pub(super) kind: Option<String>,
    pub(super) image: Option<String>,
    pub(super) address: Option<String>,
    pub(super) name: Option<String>,
    pub(super) user: Option<String>,
    pub(super) password_file: Option<PathBuf>,
}

/// `[services.NAME.object_store]`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ObjectStoreSection {
    pub(super) bucket: String,
    pub(super) host: Option<String>,
    pub(super) port: Option<u16>,
    pub(super) region: Option<String>,
    pub(super) tls: Option<bool>,
    pub(super) path_style: Option<bool>,
    pub(super) key_file: PathBuf,
    pub(super) secret_file: PathBuf,
}

/// `[services.NAME.mail]`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MailSection {
    pub(super) host: String,
    pub(super) port: Option<u16>,
    pub(super) security: Option<String>,
    pub(super) user: Option<String>,
    pub(super) password_file: Option<PathBuf>,
    pub(super) from: String,
}

/// Keys of every kind.
const COMMON: &[&str] = &["kind", "hostname", "also", "port", "ingress"];

impl WrittenKind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Nextcloud => "nextcloud",
            Self::Ghost => "ghost",
            Self::Container => "container",
            Self::External => "external",
        }
    }

    /// The keys of this kind besides [`COMMON`].
    fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Nextcloud => &[
                "image",
                "upgrades",
                "redis_image",
                "database",
                "object_store",
                "mail",
                "admin_user",
                "apps",
                "phone_region",
                "previews",
            ],
            Self::Ghost => &["image", "upgrades", "database", "mail", "owner_email", "title"],
            Self::Container => &[
                "image",
                "upgrades",
                "command",
                "user",
                "env",
                "secrets",
                "secrets_uid",
                "volumes",
                "state_volumes",
                "container_port",
                "memory",
                "cpus",
                "processes",
                "health_path",
                "health_status",
            ],
            Self::External => &["address", "health_path", "health_status"],
        }
    }
}

impl ServiceSection {
    /// Refuses keys that belong to another kind.
    pub(super) fn check_keys(&self, name: &str) -> Result<(), Invalid> {
        let Ok(Value::Object(written)) = serde_json::to_value(self) else { return Ok(()) };
        let keys = self.kind.keys();
        let foreign = |(key, value): &(&String, &Value)| {
            !value.is_null() && !COMMON.contains(&key.as_str()) && !keys.contains(&key.as_str())
        };
        match written.iter().find(foreign) {
            None => Ok(()),
            Some((key, _)) => Err(Invalid::new(
                format!("services.{name}.{key}"),
                format_args!(
                    "is no key of kind = {:?}; it has {}, {}",
                    self.kind.as_str(),
                    COMMON.join(", "),
                    keys.join(", ")
                ),
            )),
        }
    }
}
