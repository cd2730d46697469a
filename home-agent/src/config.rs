//! home-agent's configuration file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use agent::config::{
    Common, ControlSection, EngineSection, LogSection, MetricsSection, TunnelSection, Written as CommonWritten,
};
use daemon::ConfigCheck;
use daemon::config::{ConfigError, Invalid, Overrides, load};
use daemon::logs::Format;
use model::{Hostname, Role, ServiceName};
use serde::Deserialize;

/// The file as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    identity_dir: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    #[serde(default)]
    log: LogSection,
    #[serde(default)]
    metrics: MetricsSection,
    #[serde(default)]
    control: ControlSection,
    #[serde(default)]
    engine: EngineSection,
    tunnel: TunnelSection,
    #[serde(default)]
    services: BTreeMap<String, ServiceSection>,
}

/// `[services.NAME]` as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceSection {
    kind: Kind,
    hostname: String,
    image: Option<String>,
    port: Option<u16>,
    admin_user: Option<String>,
}

/// What a service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Nextcloud with its database.
    Nextcloud,
}

/// The checked configuration.
#[derive(Debug)]
pub struct Config {
    /// What both agents have.
    pub common: Common,
    /// The services of this home.
    pub services: Vec<Service>,
}

/// A service, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// What it is.
    pub kind: Kind,
    /// One label under the edge's domain, or a whole name.
    pub hostname: String,
    /// Its image.
    pub image: String,
    /// Its port on this host's tunnel address.
    pub port: u16,
    /// Its administrator.
    pub admin_user: String,
}

impl TryFrom<Written> for Config {
    type Error = Invalid;

    fn try_from(written: Written) -> Result<Self, Invalid> {
        let mut services = Vec::new();
        for (name, section) in written.services {
            let service = Service::check(&name, section)?;
            let taken = |other: &&Service| other.port == service.port || other.hostname == service.hostname;
            if let Some(other) = services.iter().find(taken) {
                let key = if other.port == service.port { "port" } else { "hostname" };
                return Err(Invalid::new(
                    format!("services.{name}.{key}"),
                    format_args!("is the same as that of services.{}", other.name),
                ));
            }
            services.push(service);
        }
        let common = CommonWritten {
            identity_dir: written.identity_dir,
            state_dir: written.state_dir,
            log: written.log,
            metrics: written.metrics,
            control: written.control,
            engine: written.engine,
            tunnel: written.tunnel,
        };
        Ok(Self { common: common.check(Role::Home)?, services })
    }
}

impl Service {
    fn check(name: &str, section: ServiceSection) -> Result<Self, Invalid> {
        let key = |key: &str| format!("services.{name}.{key}");
        let label = section.hostname.parse::<ServiceName>();
        if let Err(error) = &label
            && section.hostname.parse::<Hostname>().is_err()
        {
            return Err(Invalid::new(key("hostname"), error));
        }
        let image = section.image.unwrap_or_else(|| match section.kind {
            Kind::Nextcloud => "nextcloud:apache".to_owned(),
        });
        if image.is_empty() || image.contains(char::is_whitespace) {
            return Err(Invalid::new(key("image"), format_args!("{image:?} is no image reference")));
        }
        let admin_user = section.admin_user.unwrap_or_else(|| "admin".to_owned());
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@');
        if admin_user.is_empty() || !admin_user.chars().all(plain) {
            return Err(Invalid::new(
                key("admin_user"),
                format_args!("{admin_user:?} is no user name; use a-z, A-Z, 0-9, '-', '_', '.' and '@'"),
            ));
        }
        let port = section.port.unwrap_or(8080);
        if port == 0 {
            return Err(Invalid::new(key("port"), "0 is no port; use 1 to 65535"));
        }
        Ok(Self {
            name: name.parse().map_err(|error| Invalid::new(format!("services.{name}"), error))?,
            kind: section.kind,
            hostname: section.hostname,
            image,
            port,
            admin_user,
        })
    }
}

impl ConfigCheck for Config {
    fn logs(&self) -> (Format, &str) {
        (self.common.log_format, &self.common.log_filter)
    }

    fn load(file: &Path, overrides: &Overrides) -> Result<Self, ConfigError> {
        load::<Written, Self>(file, overrides)
    }
}
