//! Nextcloud, from the official `nextcloud:apache` image or one that behaves like it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use model::{
    AdminCommand, Check, ContainerSpec, Expect, Expectation, Generation, Hostname, HttpProbe, Limits, Mount,
    MountSource, Network, PortBinding, Probe, Run, SecretFile, ServiceName, ServiceSpec, Target, Unit, VolumeKind,
    VolumeSpec,
};
use secrecy::{ExposeSecret, SecretString};

/// The command that administers Nextcloud, to be followed by its arguments; the working directory is the image's.
pub const OCC: [&str; 2] = ["php", "/var/www/html/occ"];
/// The user that runs [`OCC`]; it refuses others.
pub const OCC_USER: &str = "www-data";

const ADMIN_PASSWORD_PATH: &str = "/run/secrets/nextcloud_admin_password";
/// A first start installs, which takes minutes on old hardware.
const GRACE: Duration = Duration::from_secs(300);

/// What is to be decided about a Nextcloud.
#[derive(Debug, Clone)]
pub struct NextcloudOptions {
    /// The image reference.
    pub image: String,
    /// The service's name; the container, its network and its volume are called after it.
    pub service: ServiceName,
    /// Its public name, once known. Until then it answers to `localhost` only.
    pub hostname: Option<Hostname>,
    /// Where it answers on this host: a tunnel or loopback address.
    pub bind: SocketAddr,
    /// Addresses or networks whose `X-Forwarded-For` is believed; as few as possible. With the engine's iptables
    /// rules, requests through the tunnel come from the edge's tunnel address. Where the engine relays them itself
    /// (iptables off), they come from the private network's gateway, see [`crate::Engine::ensure_network`].
    pub trusted_proxies: Vec<String>,
    /// The administrator's name. Counts at the first start only.
    pub admin_user: String,
    /// The administrator's password. Counts at the first start only.
    pub admin_password: SecretString,
    /// Where it keeps its tables. Counts at the first start only.
    pub database: Database,
}

/// Where Nextcloud keeps its tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Database {
    /// In a file on its volume.
    Sqlite,
}

/// The service: one container, and the check of its status page.
#[must_use]
pub fn nextcloud(options: &NextcloudOptions) -> ServiceSpec {
    let name = options.service.to_string();
    let volume = format!("cloudathome-{}", options.service);
    let container = ContainerSpec {
        name: name.clone(),
        service: options.service.clone(),
        image: options.image.clone(),
        image_id: None,
        entrypoint: Vec::new(),
        command: Vec::new(),
        user: None,
        env: environment(options),
        // The entrypoint reads it as root, and nothing after it needs it.
        secrets: vec![SecretFile {
            path: PathBuf::from(ADMIN_PASSWORD_PATH),
            content: options.admin_password.expose_secret().to_owned(),
            uid: 0,
        }],
        mounts: vec![Mount {
            source: MountSource::Volume(volume.clone()),
            target: PathBuf::from("/var/www/html"),
            read_only: false,
        }],
        network: Network::Private(format!("cloudathome-{}", options.service)),
        aliases: Vec::new(),
        limits: Limits::default(),
        ports: vec![PortBinding { host: options.bind, container: 80 }],
        extra_hosts: BTreeMap::new(),
        dns: Vec::new(),
        // Lets requests in progress end. The official image says so itself; imported ones can't.
        stop_signal: Some("SIGWINCH".to_owned()),
        stop_grace: Duration::from_secs(30),
    };
    ServiceSpec {
        name: options.service.clone(),
        generation: Generation(1),
        run: Run::All,
        units: vec![Unit { container, needs: Vec::new(), ready: None, restart_after: None }],
        checks: vec![status_page(options)],
        setup: Vec::new(),
        volumes: vec![VolumeSpec { name: volume, kind: VolumeKind::Data }],
        upgrade: None,
        admin: Some(AdminCommand {
            container: name,
            user: OCC_USER.to_owned(),
            command: OCC.map(str::to_owned).to_vec(),
        }),
    }
}

/// Nextcloud's status page: it answers 200 also in maintenance and while an upgrade is due, so its words count.
fn status_page(options: &NextcloudOptions) -> Check {
    let is = |pointer: &str, equals: &str, otherwise: &str| Expect {
        that: Expectation::Json { pointer: pointer.to_owned(), equals: equals.to_owned() },
        otherwise: otherwise.to_owned(),
    };
    Check {
        container: Some(options.service.to_string()),
        probe: Probe::Http(HttpProbe {
            target: Target::Tcp(options.bind),
            path: "/status.php".to_owned(),
            host: options.hostname.as_ref().map_or_else(|| "localhost".to_owned(), Hostname::to_string),
            forwarded_https: true,
            status: 200,
            expect: vec![
                is("/installed", "true", "Nextcloud is not installed yet"),
                is("/maintenance", "false", "Nextcloud is in maintenance mode; `occ maintenance:mode --off` ends it"),
                is("/needsDbUpgrade", "false", "Nextcloud waits for a database upgrade; `occ upgrade` does it"),
            ],
        }),
        interval: Duration::from_secs(2),
        timeout: Duration::from_secs(2),
        grace: GRACE,
    }
}

fn environment(options: &NextcloudOptions) -> BTreeMap<String, String> {
    let mut env: BTreeMap<String, String> = [
        ("NEXTCLOUD_ADMIN_USER", options.admin_user.as_str()),
        ("NEXTCLOUD_ADMIN_PASSWORD_FILE", ADMIN_PASSWORD_PATH),
        ("OVERWRITEPROTOCOL", "https"),
        // Uploads are as large as the disk allows: the limit belongs to the person, not to us.
        ("APACHE_BODY_LIMIT", "0"),
        ("PHP_UPLOAD_LIMIT", "16G"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    match options.database {
        Database::Sqlite => env.insert("SQLITE_DATABASE".to_owned(), "nextcloud".to_owned()),
    };
    if !options.trusted_proxies.is_empty() {
        env.insert("TRUSTED_PROXIES".to_owned(), options.trusted_proxies.join(" "));
    }
    if let Some(hostname) = &options.hostname {
        // Trusted domains are written at the first start only; the overwrites count at every start, and with them
        // every Host header passes, so a name that changes later takes effect all the same.
        env.insert("NEXTCLOUD_TRUSTED_DOMAINS".to_owned(), hostname.to_string());
        env.insert("OVERWRITEHOST".to_owned(), hostname.to_string());
        env.insert("OVERWRITECLIURL".to_owned(), format!("https://{hostname}"));
    }
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> NextcloudOptions {
        NextcloudOptions {
            image: "nextcloud:apache".into(),
            service: "nextcloud".parse().unwrap(),
            hostname: Some("cloud.example.com".parse().unwrap()),
            bind: "10.86.0.2:8080".parse().unwrap(),
            trusted_proxies: vec!["10.86.0.1".into()],
            admin_user: "admin".into(),
            admin_password: "geheim".to_owned().into(),
            database: Database::Sqlite,
        }
    }

    #[test]
    fn the_password_is_in_a_file_only() {
        let service = nextcloud(&options());
        assert!(!format!("{service:?}").contains("geheim"));
        let container = &service.units[0].container;
        assert!(container.env.values().all(|value| !value.contains("geheim")));
        let secret = &container.secrets[0];
        assert_eq!(container.env["NEXTCLOUD_ADMIN_PASSWORD_FILE"], secret.path.to_str().unwrap());
        assert_eq!((secret.content.as_str(), secret.uid), ("geheim", 0));
    }

    #[test]
    fn the_name_is_told_for_install_and_for_run_time() {
        let env = nextcloud(&options()).units.remove(0).container.env;
        assert_eq!(env["NEXTCLOUD_TRUSTED_DOMAINS"], "cloud.example.com");
        assert_eq!(env["OVERWRITEHOST"], "cloud.example.com");
        assert_eq!(env["OVERWRITECLIURL"], "https://cloud.example.com");
        assert_eq!(env["OVERWRITEPROTOCOL"], "https");
        assert_eq!(env["TRUSTED_PROXIES"], "10.86.0.1");
        let unnamed = nextcloud(&NextcloudOptions { hostname: None, ..options() });
        assert!(!unnamed.units[0].container.env.contains_key("OVERWRITEHOST"));
        let Probe::Http(probe) = &unnamed.checks[0].probe else { panic!("another check") };
        assert_eq!(probe.host, "localhost");
    }
}
