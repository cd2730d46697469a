//! From `[services.NAME]` as written to services that can be.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use daemon::config::Invalid;
use model::{Hostname, Limits, Role, ServiceName};
use secrecy::SecretString;
use supervisor::apps::{
    ContainerSettings, Database, ExternalDatabase, ExternalKind, ExternalSettings, GhostDatabase, GhostSettings,
    Health, Mail, MailLogin, MailSecurity, NextcloudSettings, ObjectStore,
};
use supervisor::upgrade::{Policy, Rule};

use super::ingress::{self, Published};
use super::written::{DatabaseSection, MailSection, ObjectStoreSection, ServiceSection, UpgradesSection, WrittenKind};
use crate::config::absolute;

/// A service, checked.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// One label under the edge's domain, a whole name under it, or `@` for the domain itself.
    pub hostname: String,
    /// Further names that lead visitors to it.
    pub also: Vec<String>,
    /// Its port on this host's address for services. Of an external service on the edge nothing is published there: 0.
    pub port: u16,
    /// When and how far it is upgraded by itself.
    pub upgrades: Rule,
    /// What else is asked of the ingress.
    pub ingress: Published,
    /// What it is.
    pub kind: Kind,
}

/// What a service is.
#[derive(Debug, Clone)]
pub enum Kind {
    /// Nextcloud with what it needs.
    Nextcloud(Box<NextcloudSettings>),
    /// Ghost with its database.
    Ghost(Box<GhostSettings>),
    /// A person's own image.
    Container(Box<ContainerSettings>),
    /// Something that serves already.
    External(ExternalSettings),
}

/// Docker refuses to limit a container to less.
const MIN_MEMORY: u64 = 6 << 20;

/// Checks all services of a host of `role`. `owner` is the mail address of who owns the host, where that is known.
///
/// # Errors
/// Naming the key.
pub fn check(
    written: BTreeMap<String, ServiceSection>,
    role: Role,
    owner: Option<&str>,
) -> Result<Vec<Service>, Invalid> {
    let mut services: Vec<Service> = Vec::new();
    for (name, section) in written {
        section.check_keys(&name)?;
        let service = Section { name: &name, role, owner }.check(section)?;
        if let Some(other) = services.iter().find(|other| other.port == service.port && service.port != 0) {
            return Err(same(&name, "port", other));
        }
        if let Some(other) = services.iter().find(|other| other.hostname == service.hostname) {
            return Err(same(&name, "hostname", other));
        }
        let inside = |outer: &ServiceName| name.strip_prefix(outer.as_str()).is_some_and(|rest| rest.starts_with('-'));
        if let Some(other) = services.iter().find(|other| inside(&other.name)) {
            return Err(Invalid::new(
                format!("services.{name}"),
                format_args!("begins as names of containers of services.{0} do ({0}-...); use another", other.name),
            ));
        }
        services.push(service);
    }
    ingress::check_judges(&services)?;
    Ok(services)
}

fn same(name: &str, key: &str, other: &Service) -> Invalid {
    Invalid::new(
        format!("services.{name}.{key}"),
        format_args!("is the same as that of services.{}; choose another", other.name),
    )
}

/// What a section is checked against.
struct Section<'a> {
    name: &'a str,
    role: Role,
    owner: Option<&'a str>,
}

impl Section<'_> {
    fn key(&self, key: &str) -> String {
        format!("services.{}.{key}", self.name)
    }

    fn invalid(&self, key: &str, reason: impl std::fmt::Display) -> Invalid {
        Invalid::new(self.key(key), reason)
    }

    fn check(&self, mut section: ServiceSection) -> Result<Service, Invalid> {
        let name: ServiceName =
            self.name.parse().map_err(|error| Invalid::new(format!("services.{}", self.name), error))?;
        if name.as_str() == "caddy" {
            return Err(Invalid::new("services.caddy", "is the name of the ingress; use another"));
        }
        let (hostname, also, port) = match section.kind {
            WrittenKind::Nextcloud => ("cloud", vec![], Some(8080)),
            WrittenKind::Ghost => ("@", vec!["www".to_owned()], Some(2368)),
            WrittenKind::Container => (name.as_str(), vec![], None),
            WrittenKind::External => (name.as_str(), vec![], (self.role == Role::Edge).then_some(0)),
        };
        let also = match (section.also.take(), &section.hostname) {
            (Some(names), _) => names,
            // Beside another name than the usual one nothing else is asked for.
            (None, Some(_)) => vec![],
            (None, None) => also,
        };
        let hostname = section.hostname.take().unwrap_or_else(|| hostname.to_owned());
        self.hostname("hostname", &hostname)?;
        also.iter().try_for_each(|name| self.hostname("also", name))?;
        let external_on_edge = section.kind == WrittenKind::External && self.role == Role::Edge;
        let port = match section.port {
            Some(_) if external_on_edge => {
                return Err(self.invalid("port", "is for services at home; here the ingress asks the address itself"));
            }
            Some(0) => return Err(self.invalid("port", "0 is no port; use 1 to 65535")),
            Some(port) => port,
            None => port.ok_or_else(|| {
                self.invalid("port", "is missing; choose a free port of this host, as in port = 8081")
            })?,
        };
        let upgrades = self.upgrades(section.upgrades.take().unwrap_or_default())?;
        let ingress = section.ingress.take().unwrap_or_default().check(self.name, section.kind)?;
        let kind = match section.kind {
            WrittenKind::Nextcloud => Kind::Nextcloud(Box::new(self.nextcloud(section)?)),
            WrittenKind::Ghost => Kind::Ghost(Box::new(self.ghost(section)?)),
            WrittenKind::Container => Kind::Container(Box::new(self.container(section)?)),
            WrittenKind::External => Kind::External(self.external(section)?),
        };
        Ok(Service { name, hostname, also, port, upgrades, ingress, kind })
    }

    fn hostname(&self, key: &str, text: &str) -> Result<(), Invalid> {
        match text.parse::<ServiceName>() {
            Err(error) if text != "@" && text.parse::<Hostname>().is_err() => Err(self.invalid(key, error)),
            _ => Ok(()),
        }
    }

    fn upgrades(&self, section: UpgradesSection) -> Result<Rule, Invalid> {
        let policy = match section.policy.as_deref() {
            None | Some("off") => Policy::Off,
            Some("patch") => Policy::Patch,
            Some("minor") => Policy::Minor,
            Some(other) => {
                return Err(self.invalid(
                    "upgrades.policy",
                    format_args!("{other:?} is not known; use \"off\", \"patch\" or \"minor\""),
                ));
            }
        };
        let window = section.window.map(|text| {
            text.parse().map_err(|error| self.invalid("upgrades.window", format_args!("{text:?} is wrong: {error}")))
        });
        Ok(Rule { policy, window: window.transpose()?.unwrap_or_default() })
    }

    fn nextcloud(&self, section: ServiceSection) -> Result<NextcloudSettings, Invalid> {
        let admin_user = section.admin_user.unwrap_or_else(|| "admin".to_owned());
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@');
        if admin_user.is_empty() || !admin_user.chars().all(plain) {
            return Err(self.invalid(
                "admin_user",
                format_args!("{admin_user:?} is no user name; use a-z, A-Z, 0-9, '-', '_', '.' and '@'"),
            ));
        }
        if let Some(region) = &section.phone_region
            && (region.len() != 2 || !region.bytes().all(|b| b.is_ascii_uppercase()))
        {
            return Err(self.invalid("phone_region", format_args!("{region:?} is no country's two letters, as in DE")));
        }
        let apps = section.apps.unwrap_or_default();
        let id = |app: &String| {
            !app.is_empty() && app.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        };
        if let Some(app) = apps.iter().find(|app| !id(app)) {
            return Err(self.invalid(
                "apps",
                format_args!(
                    "{app:?} is no app's id: that has a-z, 0-9 and '_', and ends its page's address in the app store"
                ),
            ));
        }
        Ok(NextcloudSettings {
            image: self.image("image", section.image, "nextcloud:apache")?,
            redis_image: self.image("redis_image", section.redis_image, "redis:7")?,
            admin_user,
            database: self.nextcloud_database(section.database.unwrap_or_default())?,
            object_store: section.object_store.map(|store| self.object_store(store)).transpose()?,
            phone_region: section.phone_region,
            mail: section.mail.map(|mail| self.mail(mail)).transpose()?,
            apps,
            previews: section.previews.unwrap_or(true),
        })
    }

    fn nextcloud_database(&self, section: DatabaseSection) -> Result<Database, Invalid> {
        let kind = match section.kind.as_deref() {
            None | Some("postgresql") => ExternalKind::Postgresql,
            Some("mariadb" | "mysql") => ExternalKind::Mariadb,
            Some(other) => {
                return Err(self.invalid(
                    "database.kind",
                    format_args!("{other:?} is not known; use \"postgresql\", or \"mariadb\" with an address"),
                ));
            }
        };
        let Some(address) = section.address else {
            if kind == ExternalKind::Mariadb {
                return Err(
                    self.invalid("database.kind", "a database of its own is PostgreSQL; name another's address")
                );
            }
            for (key, set) in [
                ("name", section.name.is_some()),
                ("user", section.user.is_some()),
                ("password_file", section.password_file.is_some()),
            ] {
                if set {
                    return Err(self.invalid(
                        &format!("database.{key}"),
                        "belongs to a database elsewhere, with an address; what it brings along is set up by itself",
                    ));
                }
            }
            return Ok(Database::Own { image: self.image("database.image", section.image, "postgres:17")? });
        };
        let needed = |key: &str, value: Option<String>| {
            value.filter(|value| !value.is_empty()).ok_or_else(|| {
                self.invalid(
                    &format!("database.{key}"),
                    "is missing; a database elsewhere needs name, user and password_file",
                )
            })
        };
        let client = match kind {
            ExternalKind::Postgresql => "postgres:17",
            ExternalKind::Mariadb => "mariadb:11.4",
        };
        Ok(Database::External(ExternalDatabase {
            image: self.image("database.image", section.image, client)?,
            kind,
            address,
            name: needed("name", section.name)?,
            user: needed("user", section.user)?,
            password: match section.password_file {
                Some(path) => self.secret("database.password_file", path)?,
                None => return Err(self.invalid("database.password_file", "is missing")),
            },
        }))
    }

    fn object_store(&self, section: ObjectStoreSection) -> Result<ObjectStore, Invalid> {
        Ok(ObjectStore {
            bucket: section.bucket,
            host: section.host,
            port: section.port,
            region: section.region,
            tls: section.tls.unwrap_or(true),
            path_style: section.path_style.unwrap_or(false),
            key: self.secret("object_store.key_file", section.key_file)?,
            secret: self.secret("object_store.secret_file", section.secret_file)?,
        })
    }

    fn ghost(&self, section: ServiceSection) -> Result<GhostSettings, Invalid> {
        let owner_email = section
            .owner_email
            .or(self.owner.map(str::to_owned))
            .ok_or_else(|| self.invalid("owner_email", "is missing; Ghost's owner logs in with a mail address"))?;
        self.mail_address("owner_email", &owner_email)?;
        let database = section.database.unwrap_or_default();
        for (key, set) in [
            ("address", database.address.is_some()),
            ("name", database.name.is_some()),
            ("user", database.user.is_some()),
            ("password_file", database.password_file.is_some()),
        ] {
            if set {
                return Err(self.invalid(&format!("database.{key}"), "Ghost brings its database along"));
            }
        }
        let database = match database.kind.as_deref() {
            None | Some("mysql" | "mariadb") => {
                GhostDatabase::Mysql { image: self.image("database.image", database.image, "mysql:8.4")? }
            }
            Some("sqlite") if database.image.is_some() => {
                return Err(self.invalid("database.image", "SQLite is a file and needs no image"));
            }
            Some("sqlite") => GhostDatabase::Sqlite,
            Some(other) => {
                return Err(self.invalid(
                    "database.kind",
                    format_args!("{other:?} is not known; use \"mysql\", or \"sqlite\" on a small host"),
                ));
            }
        };
        Ok(GhostSettings {
            image: self.image("image", section.image, "ghost:6")?,
            database,
            owner_email,
            title: section.title.unwrap_or_else(|| self.name.to_owned()),
            mail: section.mail.map(|mail| self.mail(mail)).transpose()?,
        })
    }

    fn container(&self, section: ServiceSection) -> Result<ContainerSettings, Invalid> {
        let Some(image) = section.image else {
            return Err(self.invalid("image", "is missing; name one, as in \"vaultwarden/server:1.34.1\""));
        };
        let Some(container_port @ 1..) = section.container_port else {
            return Err(self.invalid("container_port", "is missing; it is the port that answers HTTP inside"));
        };
        let env = section.env.unwrap_or_default();
        let mut secrets = BTreeMap::new();
        for (name, path) in section.secrets.unwrap_or_default() {
            let secret = self.secret(&format!("secrets.{name}"), path)?;
            secrets.insert(name, secret);
        }
        let is_variable = |name: &str| {
            !name.starts_with(|c: char| c.is_ascii_digit())
                && !name.is_empty()
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        for (key, name) in env.keys().map(|name| ("env", name)).chain(secrets.keys().map(|name| ("secrets", name))) {
            if !is_variable(name) {
                return Err(self.invalid(key, format_args!("{name:?} is no variable's name; use letters, digits, '_'")));
            }
        }
        let volumes = self.volumes("volumes", section.volumes)?;
        let state_volumes = self.volumes("state_volumes", section.state_volumes)?;
        if let Some(both) = volumes.keys().find(|name| state_volumes.contains_key(*name)) {
            return Err(self.invalid(&format!("state_volumes.{both}"), "stands in volumes as well; use another name"));
        }
        let health = match (section.health_path, section.health_status) {
            (None, None) => Health::Tcp,
            (None, Some(_)) => return Err(self.invalid("health_status", "needs a health_path to ask for")),
            (Some(path), status) => Health::Http { path: self.path(path)?, status: self.status(status)? },
        };
        Ok(ContainerSettings {
            image: self.image("image", Some(image), "")?,
            command: section.command.unwrap_or_default(),
            user: section.user,
            env,
            secrets,
            secrets_uid: section.secrets_uid.unwrap_or(0),
            volumes,
            state_volumes,
            container_port,
            health,
            limits: Limits {
                memory: section.memory.map(|text| self.memory(&text)).transpose()?,
                cpu_milli: section.cpus.map(|cpus| self.cpus(cpus)).transpose()?,
                processes: section.processes,
            },
        })
    }

    fn external(&self, section: ServiceSection) -> Result<ExternalSettings, Invalid> {
        let address = section.address.unwrap_or_default();
        let parsed: SocketAddr =
            address.parse().ok().filter(|address: &SocketAddr| address.port() != 0).ok_or_else(|| {
                self.invalid("address", format_args!("{address:?} is not ADDRESS:PORT, as in 192.168.1.5:8123"))
            })?;
        if section.health_path.is_none() && section.health_status.is_some() {
            return Err(self.invalid("health_status", "needs a health_path to ask for"));
        }
        Ok(ExternalSettings {
            address: parsed,
            health_path: section.health_path.map(|path| self.path(path)).transpose()?,
            health_status: self.status(section.health_status)?,
        })
    }

    fn mail(&self, section: MailSection) -> Result<Mail, Invalid> {
        self.mail_address("mail.from", &section.from)?;
        let (security, port) = match section.security.as_deref() {
            None | Some("tls") => (MailSecurity::Tls, 465),
            Some("starttls") => (MailSecurity::StartTls, 587),
            Some("none") => (MailSecurity::None, 25),
            Some(other) => {
                return Err(self.invalid(
                    "mail.security",
                    format_args!("{other:?} is not known; use \"tls\", \"starttls\" or \"none\""),
                ));
            }
        };
        let login = match (section.user, section.password_file) {
            (None, None) => None,
            (Some(user), Some(path)) => Some(MailLogin { user, password: self.secret("mail.password_file", path)? }),
            (Some(_), None) => return Err(self.invalid("mail.password_file", "is missing beside user")),
            (None, Some(_)) => return Err(self.invalid("mail.user", "is missing beside password_file")),
        };
        Ok(Mail { host: section.host, port: section.port.unwrap_or(port), security, login, from: section.from })
    }

    fn mail_address(&self, key: &str, text: &str) -> Result<(), Invalid> {
        match text.split_once('@') {
            Some((user, host)) if !user.is_empty() && host.contains('.') && !text.contains(char::is_whitespace) => {
                Ok(())
            }
            _ => Err(self.invalid(key, format_args!("{text:?} is not a mail address"))),
        }
    }

    fn image(&self, key: &str, image: Option<String>, default: &str) -> Result<String, Invalid> {
        let image = image.unwrap_or_else(|| default.to_owned());
        if is_reference(&image) {
            Ok(image)
        } else {
            Err(self.invalid(
                key,
                format_args!("{image:?} is no image reference; write NAME:TAG with a name in lower case, or NAME:TAG@sha256:DIGEST"),
            ))
        }
    }

    fn volumes(
        &self,
        key: &str,
        volumes: Option<BTreeMap<String, PathBuf>>,
    ) -> Result<BTreeMap<String, PathBuf>, Invalid> {
        let volumes = volumes.unwrap_or_default();
        for (name, path) in &volumes {
            let key = format!("{key}.{name}");
            name.parse::<ServiceName>().map_err(|error| self.invalid(&key, error))?;
            if !path.is_absolute() {
                return Err(self.invalid(&key, format_args!("{} is not an absolute path inside", path.display())));
            }
        }
        Ok(volumes)
    }

    /// The content of a file with a secret, without the newline at its end.
    fn secret(&self, key: &str, path: PathBuf) -> Result<SecretString, Invalid> {
        let path = absolute(&self.key(key), Some(path), "")?;
        let content = read(&path).map_err(|reason| self.invalid(key, reason))?;
        match content.trim_end_matches(['\r', '\n']) {
            "" => Err(self.invalid(key, format_args!("{} is empty", path.display()))),
            secret => Ok(secret.to_owned().into()),
        }
    }

    fn path(&self, path: String) -> Result<String, Invalid> {
        if model::is_target(&path) {
            Ok(path)
        } else {
            Err(self.invalid("health_path", format_args!("{path:?} is no plain path that begins with '/'")))
        }
    }

    fn status(&self, status: Option<u16>) -> Result<u16, Invalid> {
        match status.unwrap_or(200) {
            status @ 200..=499 => Ok(status),
            other => Err(self.invalid("health_status", format_args!("{other} shows nothing well; use 200 to 499"))),
        }
    }

    fn memory(&self, text: &str) -> Result<u64, Invalid> {
        let (digits, factor) = match text.strip_suffix('G') {
            Some(digits) => (digits, 1 << 30),
            None => (text.strip_suffix('M').unwrap_or(text), 1 << 20),
        };
        let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
        bytes
            .filter(|bytes| *bytes >= MIN_MEMORY && text.ends_with(['M', 'G']))
            .ok_or_else(|| self.invalid("memory", format_args!("{text:?} is not 6M or more, as in 512M or 2G")))
    }

    fn cpus(&self, cpus: f64) -> Result<u32, Invalid> {
        let milli = (cpus * 1000.0).round();
        if (10.0..=1_000_000.0).contains(&milli) {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "within the range just checked"
            )]
            let milli = milli as u32;
            Ok(milli)
        } else {
            Err(self.invalid("cpus", format_args!("{cpus} is not 0.01 or more")))
        }
    }
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;

/// Whether the engine can understand this as the name of an image, with a tag or a digest.
fn is_reference(text: &str) -> bool {
    let (name, digest) = text.split_once('@').unwrap_or((text, "sha256:0"));
    // What comes after the last colon is a tag, unless it is a registry's port.
    let (name, tag) = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (name, "latest"),
    };
    let tag_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let name_char = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '.' | '-' | '/' | ':');
    let fits = |text: &str, of: &dyn Fn(char) -> bool| !text.is_empty() && text.chars().all(of);
    fits(name, &name_char) && fits(tag, &tag_char) && fits(digest, &|c| c.is_ascii_alphanumeric() || c == ':')
}
