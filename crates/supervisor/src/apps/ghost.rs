//! Ghost, from the official `ghost` image or one that behaves like it, with MySQL or, on a small host, SQLite.

use std::time::Duration;

use model::{ContainerSpec, Hook, ServiceName, ServiceSpec, Unit, UpgradePath, UpgradeSpec, VolumeKind, VolumeSpec};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::database::mysql;
use super::{Credential, Mail, MailSecurity, Place, secret_file, words};
use crate::{SecretKind, Secrets, SecretsError};

/// The user that Ghost runs as.
const USER: &str = "node";
const UID: u32 = 1000;
/// The database and its user.
const DATABASE: &str = "ghost";
/// Where the image keeps its configuration, in the directory that it starts in. Ours takes its place: so secrets stay out of
/// the environment in every version.
const CONFIG: &str = "/var/lib/ghost/config.production.json";
const CONTENT: &str = "/var/lib/ghost/content";
/// The folder of [`CONTENT`] in which Ghost keeps an SQLite database.
const SQLITE: &str = "/var/lib/ghost/content/data";
const OWNER: &str = "/run/secrets/ghost_owner.json";
/// The path whose answer shows it well: it asks the database. With that down, most other pages answer 200.
pub const GHOST_HEALTH: &str = "/ghost/api/admin/authentication/setup/";
/// A first start fills the database, an upgrade changes it.
const GRACE: Duration = Duration::from_secs(300);
const HANGS: Duration = Duration::from_secs(120);

/// Makes the owner's account unless there is one. Ghost gives it to the first who asks, so it is done before anybody else
/// can.
const CREATE_OWNER: &str = r"
const url = 'http://127.0.0.1:2368/ghost/api/admin/authentication/setup/';
const headers = {'x-forwarded-proto': 'https', 'content-type': 'application/json'};
const fail = (what) => { console.error(what); process.exit(1); };
(async () => {
  const asked = await fetch(url, {headers, redirect: 'manual'});
  if (asked.status !== 200) fail(`Ghost answered ${asked.status} when asked for its owner`);
  if ((await asked.json()).setup[0].status) return;
  const body = require('node:fs').readFileSync('/run/secrets/ghost_owner.json');
  const made = await fetch(url, {method: 'POST', headers, body, redirect: 'manual'});
  if (made.status !== 201) fail(`Ghost answered ${made.status} to its new owner: ${await made.text()}`);
})().catch((error) => fail(error.message));
";

/// What is to be decided about a Ghost.
#[derive(Debug, Clone)]
pub struct GhostSettings {
    /// The image reference.
    pub image: String,
    /// Where it keeps posts and members. A change does not move them.
    pub database: GhostDatabase,
    /// The owner's mail address, the name to log in with. Counts at the first start only.
    pub owner_email: String,
    /// The title of the site. Counts at the first start only.
    pub title: String,
    /// How it sends mail. Without, a login from a new device is not confirmed by mail.
    pub mail: Option<Mail>,
}

/// Where Ghost keeps posts and members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GhostDatabase {
    /// In a MySQL or MariaDB of its own, from this image.
    Mysql {
        /// The image reference.
        image: String,
    },
    /// In a file: a third of the memory.
    Sqlite,
}

/// What is generated for a Ghost, once.
#[derive(Debug, Clone)]
pub struct GhostSecrets {
    /// The owner's password. Counts at the first start only.
    pub owner: SecretString,
    /// The password of the database's user.
    pub database: SecretString,
    /// The password of the database's superuser.
    pub database_admin: SecretString,
}

impl GhostSecrets {
    /// Those of a service; generated where they are missing.
    ///
    /// # Errors
    /// When they cannot be read or stored.
    pub fn open(secrets: &Secrets, service: &ServiceName) -> Result<Self, SecretsError> {
        let get = |what: &str, kind| secrets.get_or_create(&format!("{service}-{what}"), kind);
        Ok(Self {
            owner: get("owner-password", SecretKind::Password)?,
            database: get("database-password", SecretKind::Hex256)?,
            database_admin: get("database-admin-password", SecretKind::Hex256)?,
        })
    }
}

impl GhostSettings {
    /// What a person needs to log in.
    #[must_use]
    pub fn credentials(&self, secrets: &GhostSecrets) -> Vec<Credential> {
        vec![Credential::new("user", self.owner_email.clone()), Credential::new("password", secrets.owner.clone())]
    }
}

/// The service.
#[must_use]
pub fn ghost(settings: &GhostSettings, secrets: &GhostSecrets, place: &Place) -> ServiceSpec {
    let mut app = app(settings, secrets, place);
    let (content, content_mount) = place.volume("content", VolumeKind::Data, CONTENT);
    app.mounts.push(content_mount);
    let mut volumes: Vec<VolumeSpec> = vec![content];
    let mut units = Vec::new();
    let mut databases = Vec::new();
    let mut needs = Vec::new();
    match &settings.database {
        GhostDatabase::Mysql { image } => {
            let part = mysql(place, image, DATABASE, &secrets.database, &secrets.database_admin);
            volumes.extend(part.volumes);
            databases.extend(part.dump);
            needs.push(part.unit.container.name.clone());
            units.push(part.unit);
        }
        GhostDatabase::Sqlite => {
            // Within the content, all of which the image's entrypoint gives to its user.
            let (files, mount) = place.volume("database", VolumeKind::State, SQLITE);
            app.mounts.push(mount);
            volumes.push(files);
        }
    }
    let name = app.name.clone();
    let answers = place.http_check(GHOST_HEALTH, GRACE);
    units.push(Unit { container: app, needs, ready: Some(answers.clone()), restart_after: Some(HANGS) });
    ServiceSpec {
        checks: vec![answers.clone()],
        setup: vec![create_owner(&name)],
        volumes,
        upgrade: Some(UpgradeSpec {
            path: UpgradePath::NeverDown,
            units: vec![name],
            databases,
            after: Vec::new(),
            up_to_date: vec![answers],
        }),
        ..ServiceSpec::new(place.service.clone(), units)
    }
}

fn app(settings: &GhostSettings, secrets: &GhostSecrets, place: &Place) -> ContainerSpec {
    let mut app = place.container("", &settings.image);
    app.env.insert("NODE_ENV".to_owned(), "production".to_owned());
    let config = SecretString::from(config(settings, secrets, place).to_string());
    let owner = json!({ "setup": [{
        "name": "Owner",
        "email": settings.owner_email,
        "password": secrets.owner.expose_secret(),
        "blogTitle": settings.title,
    }] });
    app.secrets =
        vec![secret_file(CONFIG, &config, UID), secret_file(OWNER, &SecretString::from(owner.to_string()), UID)];
    app.ports = vec![place.publish(2368)];
    app
}

fn config(settings: &GhostSettings, secrets: &GhostSecrets, place: &Place) -> Value {
    let database = match settings.database {
        GhostDatabase::Mysql { .. } => json!({
            "client": "mysql",
            "connection": {
                "host": "db",
                "user": DATABASE,
                "password": secrets.database.expose_secret(),
                "database": DATABASE,
            },
        }),
        GhostDatabase::Sqlite => json!({
            "client": "better-sqlite3",
            "connection": { "filename": format!("{SQLITE}/ghost.db") },
            "useNullAsDefault": true,
        }),
    };
    json!({
        "url": format!("https://{}", place.hostname),
        "server": { "host": "::", "port": 2368 },
        "database": database,
        "mail": settings.mail.as_ref().map_or_else(|| json!({ "transport": "Direct" }), mail),
        "logging": { "transports": ["stdout"] },
        "process": "local",
        "paths": { "contentPath": CONTENT },
        // It would ask for a number that it sends by mail.
        "security": { "staffDeviceVerification": settings.mail.is_some() },
        "sendWelcomeEmail": false,
    })
}

fn mail(mail: &Mail) -> Value {
    let mut options = json!({
        "host": mail.host,
        "port": mail.port,
        "secure": mail.security == MailSecurity::Tls,
        "requireTLS": mail.security == MailSecurity::StartTls,
        "ignoreTLS": mail.security == MailSecurity::None,
    });
    if let Some(login) = &mail.login {
        options["auth"] = json!({ "user": login.user, "pass": login.password.expose_secret() });
    }
    json!({ "transport": "SMTP", "from": mail.from, "options": options })
}

fn create_owner(container: &str) -> Hook {
    Hook {
        what: "making the owner's account".to_owned(),
        container: container.to_owned(),
        user: USER.to_owned(),
        command: words(&["node", "-e", CREATE_OWNER]),
        timeout: Duration::from_secs(60),
        also_fine: Vec::new(),
        // Whoever asks first becomes its owner.
        before_publishing: true,
    }
}

#[cfg(test)]
mod tests {
    use model::Probe;

    use super::super::MailLogin;
    use super::super::tests::{assert_sound, place};
    use super::*;

    fn settings(database: GhostDatabase) -> GhostSettings {
        GhostSettings {
            image: "ghost:6.53.0".into(),
            database,
            owner_email: "me@example.com".into(),
            title: "Notes".into(),
            mail: None,
        }
    }

    fn made(settings: &GhostSettings) -> (ServiceSpec, Value) {
        let secret = |text: &str| SecretString::from(text.to_owned());
        let secrets = GhostSecrets {
            owner: secret("geheim-a"),
            database: secret("geheim-b"),
            database_admin: secret("geheim-c"),
        };
        let spec = ghost(settings, &secrets, &place("ghost", "example.com"));
        assert_sound(&spec, "geheim");
        let app = &spec.units.last().unwrap().container;
        let config = app.secrets.iter().find(|file| file.path.to_str() == Some(CONFIG)).unwrap();
        let config = serde_json::from_str(&config.content).unwrap();
        (spec, config)
    }

    #[test]
    fn with_mysql_the_database_comes_first_and_is_dumped() {
        let (spec, config) = made(&settings(GhostDatabase::Mysql { image: "mysql:8".into() }));
        assert_eq!(spec.units[1].needs, ["ghost-db"]);
        assert_eq!(config["database"]["connection"]["host"], "db");
        assert_eq!(config["database"]["connection"]["password"], "geheim-b");
        assert_eq!(spec.upgrade.unwrap().databases[0].container, "ghost-db");
        assert_eq!(config["url"], "https://example.com");
    }

    #[test]
    fn with_sqlite_its_file_is_copied_before_an_upgrade_and_the_content_is_not() {
        let (spec, config) = made(&settings(GhostDatabase::Sqlite));
        assert_eq!(spec.units.len(), 1);
        let kinds: Vec<_> = spec.volumes.iter().map(|volume| (volume.name.as_str(), volume.kind)).collect();
        assert_eq!(
            kinds,
            [("cloudathome-ghost-content", VolumeKind::Data), ("cloudathome-ghost-database", VolumeKind::State)]
        );
        let file = config["database"]["connection"]["filename"].as_str().unwrap();
        assert!(file.starts_with(spec.units[0].container.mounts[1].target.to_str().unwrap()));
    }

    #[test]
    fn nobody_is_let_in_before_it_has_an_owner() {
        let (spec, _) = made(&settings(GhostDatabase::Sqlite));
        let Probe::Http(probe) = &spec.checks[0].probe else { panic!() };
        assert!(probe.forwarded_https && probe.path == GHOST_HEALTH);
        assert_eq!(spec.setup[0].command[..2], ["node", "-e"]);
        assert!(spec.setup[0].before_publishing);
    }

    #[test]
    fn devices_are_verified_only_where_mail_works() {
        let (_, config) = made(&settings(GhostDatabase::Sqlite));
        assert_eq!(config["security"]["staffDeviceVerification"], false);
        let mail = Mail {
            host: "smtp.example.com".into(),
            port: 587,
            security: MailSecurity::StartTls,
            login: Some(MailLogin { user: "me".into(), password: "geheim-d".to_owned().into() }),
            from: "blog@example.com".into(),
        };
        let (_, config) = made(&GhostSettings { mail: Some(mail), ..settings(GhostDatabase::Sqlite) });
        assert_eq!(config["security"]["staffDeviceVerification"], true);
        assert_eq!(config["mail"]["options"]["requireTLS"], true);
        assert_eq!(config["mail"]["options"]["auth"]["pass"], "geheim-d");
    }
}
