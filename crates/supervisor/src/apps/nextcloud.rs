//! Nextcloud, from the official `nextcloud:apache` image or one that behaves like it, with PostgreSQL, Redis and cron.

use std::collections::BTreeMap;
use std::time::Duration;

use model::{
    AdminCommand, Check, ContainerSpec, Expect, Expectation, Hook, Mount, Probe, SecretFile, ServiceSpec, Unit,
    UpgradePath, UpgradeSpec, VolumeKind, VolumeSpec,
};
use secrecy::SecretString;

use super::database::{Part, postgres, redis};
use super::elsewhere::elsewhere;
use super::{Credential, Mail, MailSecurity, Place, script, secret_file, words};
use crate::{SecretKind, Secrets, SecretsError};

/// The command that administers Nextcloud, to be followed by its arguments.
const OCC: [&str; 2] = ["php", "/var/www/html/occ"];
/// The user that runs it; it refuses others.
const OCC_USER: &str = "www-data";
/// That user's number: PHP reads the files of secrets at run time.
const OCC_UID: u32 = 33;
/// The database and its role.
const DATABASE: &str = "nextcloud";
const ADMIN_PASSWORD_PATH: &str = "/run/secrets/nextcloud_admin_password";
/// Starts jobs, and when it is asked to stop lets those that run come to their end. As the first process of the container crond
/// itself would not hear that it is asked, and be killed together with its jobs after the whole grace.
const CRON: &str = "/cron.sh & cron=$!
trap 'kill $cron; while grep -qs \"cron[.]php\" /proc/[0-9]*/cmdline; do sleep 1; done; exit 0' TERM
wait $cron";
/// A first start installs, which takes minutes on old hardware.
const GRACE: Duration = Duration::from_secs(300);
/// An upgrade within the entrypoint closes the port, and may take so long with a large database.
const UPGRADE: Duration = Duration::from_secs(2 * 3600);
/// One that was ready and hangs for so long is started anew.
const HANGS: Duration = Duration::from_secs(180);

/// What is to be decided about a Nextcloud.
#[derive(Debug, Clone)]
pub struct NextcloudSettings {
    /// The image reference.
    pub image: String,
    /// Redis' image reference.
    pub redis_image: String,
    /// The administrator's name. Counts at the first start only.
    pub admin_user: String,
    /// Where it keeps its tables. Counts at the first start only.
    pub database: Database,
    /// Where it keeps people's files, if not on its data volume. Counts at the first start only.
    pub object_store: Option<ObjectStore>,
    /// The country whose telephone numbers need no prefix, as in `DE`.
    pub phone_region: Option<String>,
    /// How it sends mail.
    pub mail: Option<Mail>,
    /// Apps to be installed, by their ids.
    pub apps: Vec<String>,
    /// Whether it makes previews of pictures.
    pub previews: bool,
}

/// Where Nextcloud keeps its tables.
#[derive(Debug, Clone)]
pub enum Database {
    /// In a PostgreSQL of its own, from this image.
    Own {
        /// The image reference.
        image: String,
    },
    /// In a database that the person runs.
    External(ExternalDatabase),
}

/// A database that the person runs, with an empty database and a role that owns it.
#[derive(Debug, Clone)]
pub struct ExternalDatabase {
    /// What it is.
    pub kind: ExternalKind,
    /// Its name or address, with a port if it is not the usual one.
    pub address: String,
    /// The database's name.
    pub name: String,
    /// The role.
    pub user: String,
    /// The role's password.
    pub password: SecretString,
    /// The image with the client that dumps it, of a server at least as new.
    pub image: String,
}

impl ExternalDatabase {
    /// Its name or address, and its port.
    pub(super) fn host_and_port(&self) -> (&str, u16) {
        let usual = match self.kind {
            ExternalKind::Postgresql => 5432,
            ExternalKind::Mariadb => 3306,
        };
        let split = self.address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        // A colon within an address is none before a port.
        let (host, port) =
            split.filter(|(host, _)| !host.contains(':') || host.ends_with(']')).unwrap_or((&self.address, usual));
        (host.trim_start_matches('[').trim_end_matches(']'), port)
    }
}

/// What an external database is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExternalKind {
    /// PostgreSQL.
    Postgresql,
    /// MariaDB or MySQL.
    Mariadb,
}

/// An S3 bucket for people's files.
#[derive(Debug, Clone)]
pub struct ObjectStore {
    /// The bucket; made if it is missing.
    pub bucket: String,
    /// The server's name or address; none is Amazon's.
    pub host: Option<String>,
    /// Its port; none is the usual one.
    pub port: Option<u16>,
    /// Its region.
    pub region: Option<String>,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Whether the bucket stands in the path and not in the host's name.
    pub path_style: bool,
    /// The access key.
    pub key: SecretString,
    /// Its secret.
    pub secret: SecretString,
}

/// What is generated for a Nextcloud, once.
#[derive(Debug, Clone)]
pub struct NextcloudSecrets {
    /// The administrator's password. Counts at the first start only.
    pub admin: SecretString,
    /// Redis' password.
    pub redis: SecretString,
    /// The password of the database's role.
    pub database: SecretString,
    /// The password of the database's superuser.
    pub database_admin: SecretString,
}

impl NextcloudSecrets {
    /// Those of `place`'s service; generated where they are missing.
    ///
    /// # Errors
    /// When they cannot be read or stored.
    pub fn open(secrets: &Secrets, service: &model::ServiceName) -> Result<Self, SecretsError> {
        let get = |what: &str, kind| secrets.get_or_create(&format!("{service}-{what}"), kind);
        Ok(Self {
            admin: get("admin-password", SecretKind::Password)?,
            redis: get("redis-password", SecretKind::Hex256)?,
            database: get("database-password", SecretKind::Hex256)?,
            database_admin: get("database-admin-password", SecretKind::Hex256)?,
        })
    }
}

impl NextcloudSettings {
    /// What a person needs to log in.
    #[must_use]
    pub fn credentials(&self, secrets: &NextcloudSecrets) -> Vec<Credential> {
        vec![Credential::new("user", self.admin_user.clone()), Credential::new("password", secrets.admin.clone())]
    }
}

/// The service.
#[must_use]
pub fn nextcloud(settings: &NextcloudSettings, secrets: &NextcloudSecrets, place: &Place) -> ServiceSpec {
    let mut parts: Vec<Part> = Vec::new();
    if let Database::Own { image } = &settings.database {
        parts.push(postgres(place, image, DATABASE, &secrets.database, &secrets.database_admin));
    }
    parts.push(redis(place, &settings.redis_image, &secrets.redis));
    let needs = parts.iter().map(|part| part.unit.container.name.clone()).collect();
    if let Database::External(external) = &settings.database {
        // It serves upgrades only: nothing waits for it.
        parts.push(elsewhere(place, external));
    }

    let (mut volumes, mounts) = volumes(place);
    let app = app(settings, secrets, place, mounts.clone());
    let cron = cron(settings, secrets, place, mounts);
    let (app_name, cron_name) = (app.name.clone(), cron.name.clone());
    let mut databases = Vec::new();
    let mut units = Vec::new();
    for part in parts {
        volumes.extend(part.volumes);
        databases.extend(part.dump);
        units.push(part.unit);
    }
    // Only whether it answers: it does in maintenance mode, which a start anew would not end.
    let answers = place.http_check("/status.php", UPGRADE);
    units.push(Unit { container: app, needs, ready: Some(answers), restart_after: Some(HANGS) });
    units.push(Unit { container: cron, needs: vec![app_name.clone()], ready: None, restart_after: None });

    ServiceSpec {
        checks: vec![ready(place), login_page(place)],
        setup: setup(settings, place),
        volumes,
        upgrade: Some(UpgradeSpec {
            path: UpgradePath::OneMajor,
            units: vec![app_name.clone(), cron_name],
            databases,
            after: vec![
                hook(place, "adding missing database indices", words(&["db:add-missing-indices", "--no-interaction"])),
                Hook { also_fine: vec![1], ..hook(place, "updating the apps", words(&["app:update", "--all"])) },
            ],
            up_to_date: vec![ready(place)],
        }),
        admin: Some(AdminCommand { container: app_name, user: OCC_USER.to_owned(), command: words(&OCC) }),
        ..ServiceSpec::new(place.service.clone(), units)
    }
}

fn volumes(place: &Place) -> (Vec<VolumeSpec>, Vec<Mount>) {
    [place.volume("", VolumeKind::State, "/var/www/html"), place.volume("data", VolumeKind::Data, "/var/www/html/data")]
        .into_iter()
        .unzip()
}

fn app(settings: &NextcloudSettings, secrets: &NextcloudSecrets, place: &Place, mounts: Vec<Mount>) -> ContainerSpec {
    let mut app = place.container("", &settings.image);
    let mut env = Environment::running(settings, secrets, place);
    env.installing(settings, secrets, place);
    (app.env, app.secrets) = (env.plain, env.files);
    app.mounts = mounts;
    app.ports = vec![place.publish(80)];
    // Lets requests in progress end. The official image says so itself; imported ones can't.
    app.stop_signal = Some("SIGWINCH".to_owned());
    app
}

fn cron(settings: &NextcloudSettings, secrets: &NextcloudSecrets, place: &Place, mounts: Vec<Mount>) -> ContainerSpec {
    let mut cron = place.container("cron", &settings.image);
    let mut entrypoint = script(CRON, &[]);
    cron.command = entrypoint.split_off(1);
    cron.entrypoint = entrypoint;
    let env = Environment::running(settings, secrets, place);
    (cron.env, cron.secrets) = (env.plain, env.files);
    cron.mounts = mounts;
    // The image's own is Apache's.
    cron.stop_signal = Some("SIGTERM".to_owned());
    cron
}

/// The environment and the files that it names.
struct Environment {
    plain: BTreeMap<String, String>,
    files: Vec<SecretFile>,
}

impl Environment {
    /// What counts at every start, for the web server and for cron alike.
    fn running(settings: &NextcloudSettings, secrets: &NextcloudSecrets, place: &Place) -> Self {
        let mut env = Self { plain: BTreeMap::new(), files: Vec::new() };
        env.set("OVERWRITEPROTOCOL", "https");
        // With it every Host header passes, so a name that changes later takes effect all the same.
        env.set("OVERWRITEHOST", place.hostname.as_str());
        env.set("OVERWRITECLIURL", &format!("https://{}", place.hostname));
        // Uploads are as large as the disk allows: the limit belongs to the person, not to us.
        env.set("APACHE_BODY_LIMIT", "0");
        env.set("PHP_UPLOAD_LIMIT", "16G");
        if !place.trusted_proxies.is_empty() {
            env.set("TRUSTED_PROXIES", &place.trusted_proxies.join(" "));
        }
        env.set("REDIS_HOST", "redis");
        env.file("REDIS_HOST_PASSWORD_FILE", "/run/secrets/redis_password", &secrets.redis);
        if let Some(mail) = &settings.mail {
            env.mail(mail);
        }
        if let Some(store) = &settings.object_store {
            env.object_store(store);
        }
        env
    }

    /// What counts at the first start only.
    fn installing(&mut self, settings: &NextcloudSettings, secrets: &NextcloudSecrets, place: &Place) {
        self.set("NEXTCLOUD_ADMIN_USER", &settings.admin_user);
        self.file("NEXTCLOUD_ADMIN_PASSWORD_FILE", ADMIN_PASSWORD_PATH, &secrets.admin);
        self.set("NEXTCLOUD_TRUSTED_DOMAINS", place.hostname.as_str());
        let (kind, host, name, user, password) = match &settings.database {
            Database::Own { .. } => (ExternalKind::Postgresql, "db", DATABASE, DATABASE, &secrets.database),
            Database::External(external) => (
                external.kind,
                external.address.as_str(),
                external.name.as_str(),
                external.user.as_str(),
                &external.password,
            ),
        };
        let (prefix, database) = match kind {
            ExternalKind::Postgresql => ("POSTGRES", "DB"),
            ExternalKind::Mariadb => ("MYSQL", "DATABASE"),
        };
        self.set(&format!("{prefix}_HOST"), host);
        self.set(&format!("{prefix}_{database}"), name);
        self.set(&format!("{prefix}_USER"), user);
        self.file(&format!("{prefix}_PASSWORD_FILE"), "/run/secrets/database_password", password);
    }

    fn mail(&mut self, mail: &Mail) {
        let (local, domain) = mail.sender_parts();
        self.set("SMTP_HOST", &mail.host);
        self.set("SMTP_PORT", &mail.port.to_string());
        // Nextcloud changes to TLS by itself where the server offers it; `ssl` is TLS from the first byte.
        let secure = match mail.security {
            MailSecurity::Tls => "ssl",
            MailSecurity::StartTls | MailSecurity::None => "",
        };
        self.set("SMTP_SECURE", secure);
        self.set("MAIL_FROM_ADDRESS", local);
        self.set("MAIL_DOMAIN", domain);
        if let Some(login) = &mail.login {
            self.set("SMTP_NAME", &login.user);
            self.file("SMTP_PASSWORD_FILE", "/run/secrets/smtp_password", &login.password);
        }
    }

    fn object_store(&mut self, store: &ObjectStore) {
        self.set("OBJECTSTORE_S3_BUCKET", &store.bucket);
        self.set("OBJECTSTORE_S3_SSL", if store.tls { "true" } else { "false" });
        self.set("OBJECTSTORE_S3_USEPATH_STYLE", if store.path_style { "true" } else { "false" });
        if let Some(host) = &store.host {
            self.set("OBJECTSTORE_S3_HOST", host);
        }
        if let Some(port) = store.port {
            self.set("OBJECTSTORE_S3_PORT", &port.to_string());
        }
        if let Some(region) = &store.region {
            self.set("OBJECTSTORE_S3_REGION", region);
        }
        self.file("OBJECTSTORE_S3_KEY_FILE", "/run/secrets/s3_key", &store.key);
        self.file("OBJECTSTORE_S3_SECRET_FILE", "/run/secrets/s3_secret", &store.secret);
    }

    fn set(&mut self, name: &str, value: &str) {
        self.plain.insert(name.to_owned(), value.to_owned());
    }

    fn file(&mut self, variable: &str, path: &str, secret: &SecretString) {
        self.set(variable, path);
        self.files.push(secret_file(path, secret, OCC_UID));
    }
}

/// Nextcloud's own word that it works. It answers 200 in all these cases.
fn ready(place: &Place) -> Check {
    let flag = |name: &str, value: &str, otherwise: &str| Expect {
        that: Expectation::Json { pointer: format!("/{name}"), equals: value.to_owned() },
        otherwise: otherwise.to_owned(),
    };
    let mut check = place.http_check("/status.php", GRACE);
    if let Probe::Http(probe) = &mut check.probe {
        probe.expect = vec![
            flag("installed", "true", "Nextcloud is not installed yet"),
            flag("maintenance", "false", "Nextcloud is in maintenance mode; `occ maintenance:mode --off` ends it"),
            flag("needsDbUpgrade", "false", "Nextcloud waits for a database upgrade; `occ upgrade` does it"),
        ];
    }
    check
}

/// The page that needs everything: without Redis the status is fine and this is not.
fn login_page(place: &Place) -> Check {
    Check { interval: Duration::from_secs(10), timeout: Duration::from_secs(5), ..place.http_check("/login", GRACE) }
}

/// What the environment cannot say.
fn setup(settings: &NextcloudSettings, place: &Place) -> Vec<Hook> {
    let preview = if settings.previews { "true" } else { "false" };
    let hostname = place.hostname.as_str();
    let region = settings.phone_region.as_deref().unwrap_or_default();
    let text = "occ() { php /var/www/html/occ --no-interaction \"$@\" >/dev/null; }
        occ config:system:set trusted_domains 1 --value=\"$1\"
        occ background:cron
        occ config:system:set maintenance_window_start --type=integer --value=1
        occ config:system:set enable_previews --type=boolean --value=\"$2\"
        occ config:system:set preview_max_x --type=integer --value=2048
        occ config:system:set preview_max_y --type=integer --value=2048
        if [ -n \"$3\" ]; then occ config:system:set default_phone_region --value=\"$3\"; fi";
    let mut hooks = vec![Hook {
        what: "bringing Nextcloud's settings in line".to_owned(),
        container: place.container_name(""),
        user: OCC_USER.to_owned(),
        command: script(text, &[hostname, preview, region]),
        timeout: Duration::from_secs(120),
        also_fine: Vec::new(),
        before_publishing: false,
    }];
    hooks.extend(settings.apps.iter().map(|app| Hook {
        what: format!("installing the app {app}"),
        container: place.container_name(""),
        user: OCC_USER.to_owned(),
        // One that is there is enabled; its download may take its time on a thin line.
        command: script(
            "occ() { php /var/www/html/occ --no-interaction \"$@\"; }
             occ app:enable \"$1\" >/dev/null 2>&1 || occ app:install \"$1\"",
            &[app],
        ),
        timeout: Duration::from_secs(600),
        also_fine: Vec::new(),
        before_publishing: false,
    }));
    hooks
}

fn hook(place: &Place, what: &str, occ: Vec<String>) -> Hook {
    Hook {
        what: what.to_owned(),
        container: place.container_name(""),
        user: OCC_USER.to_owned(),
        command: [words(&OCC), occ].concat(),
        timeout: UPGRADE,
        also_fine: Vec::new(),
        before_publishing: false,
    }
}

#[cfg(test)]
#[path = "nextcloud_tests.rs"]
mod tests;
