//! The applications: each a pure function from its settings, its place and its secrets to a [`ServiceSpec`].

mod caddy;
mod container;
mod database;
mod elsewhere;
mod external;
mod ghost;
mod mail;
mod nextcloud;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use model::{
    Check, ContainerSpec, Hostname, HttpProbe, Mount, MountSource, Network, PortBinding, Probe, SecretFile,
    ServiceName, Target, VolumeKind, VolumeSpec,
};
use secrecy::{ExposeSecret, SecretString};

pub use caddy::{ACCESS_LOG, ADMIN_SOCKET, CaddyOptions, caddy};
pub use container::{ContainerSettings, Health, container};
pub use external::{ExternalSettings, external};
pub use ghost::{GHOST_HEALTH, GhostDatabase, GhostSecrets, GhostSettings, ghost};
pub use mail::{Mail, MailLogin, MailSecurity};
pub use nextcloud::{
    Database, ExternalDatabase, ExternalKind, NextcloudSecrets, NextcloudSettings, ObjectStore, nextcloud,
};

/// A login that was generated or chosen, for people.
#[derive(Debug, Clone)]
pub struct Credential {
    /// What it is, for example `password`.
    pub label: &'static str,
    /// The value.
    pub value: SecretString,
}

impl Credential {
    /// A login of these words.
    #[must_use]
    pub fn new(label: &'static str, value: impl Into<SecretString>) -> Self {
        Self { label, value: value.into() }
    }
}

/// Where a service stands: what is known only while the agents run, and may change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its name. Its containers, networks and volumes are called after it.
    pub service: ServiceName,
    /// Its public name.
    pub hostname: Hostname,
    /// Where it answers on this host: a tunnel or loopback address.
    pub bind: SocketAddr,
    /// Addresses or networks whose `X-Forwarded-For` is believed; as few as possible.
    pub trusted_proxies: Vec<String>,
}

impl Place {
    /// The name of one of its containers; without `what` the application's own.
    fn container_name(&self, what: &str) -> String {
        if what.is_empty() { self.service.to_string() } else { format!("{}-{what}", self.service) }
    }

    /// The engine's name of one of its volumes; without `what` the application's own.
    fn volume_name(&self, what: &str) -> String {
        format!("{}{}", crate::NAME_PREFIX, self.container_name(what))
    }

    /// A container of its own, in its private network, with nothing chosen yet but its image.
    fn container(&self, what: &str, image: &str) -> ContainerSpec {
        ContainerSpec::new(&self.service, self.container_name(what), image, Network::Private(self.volume_name("")))
    }

    /// The volume and its place in a container.
    fn volume(&self, what: &str, kind: VolumeKind, target: &str) -> (VolumeSpec, Mount) {
        let name = self.volume_name(what);
        let mount =
            Mount { source: MountSource::Volume(name.clone()), target: PathBuf::from(target), read_only: false };
        (VolumeSpec { name, kind }, mount)
    }

    fn publish(&self, container_port: u16) -> PortBinding {
        PortBinding { host: self.bind, container: container_port }
    }

    /// A GET request to the published port, as the ingress would make it.
    fn http_check(&self, path: &str, grace: Duration) -> Check {
        Check {
            container: Some(self.container_name("")),
            probe: Probe::Http(HttpProbe {
                target: Target::Tcp(self.bind),
                path: path.to_owned(),
                host: self.hostname.to_string(),
                forwarded_https: true,
                status: 200,
                expect: Vec::new(),
            }),
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(2),
            grace,
        }
    }
}

/// A file for a container with a secret in it.
fn secret_file(path: &str, secret: &SecretString, uid: u32) -> SecretFile {
    SecretFile { path: PathBuf::from(path), content: secret.expose_secret().to_owned(), uid }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// A shell script as a command, with its arguments as `$1` and so on.
fn script(text: &str, arguments: &[&str]) -> Vec<String> {
    let mut command = words(&["sh", "-euc", text, "sh"]);
    command.extend(words(arguments));
    command
}

#[cfg(test)]
mod tests {
    use model::ServiceSpec;

    use super::*;

    /// A place for the tests of the definitions.
    pub(super) fn place(service: &str, hostname: &str) -> Place {
        Place {
            service: service.parse().unwrap(),
            hostname: hostname.parse().unwrap(),
            bind: "10.86.0.2:8080".parse().unwrap(),
            trusted_proxies: vec!["10.86.0.1".into()],
        }
    }

    /// What must hold of every service, whatever it is.
    pub(super) fn assert_sound(spec: &ServiceSpec, secret: &str) {
        let names: Vec<&str> = spec.units.iter().map(|unit| unit.container.name.as_str()).collect();
        for (position, unit) in spec.units.iter().enumerate() {
            assert_eq!(unit.container.service, spec.name);
            for need in &unit.needs {
                assert!(names[..position].contains(&need.as_str()), "{need} does not come before {}", names[position]);
            }
            for mount in &unit.container.mounts {
                let MountSource::Volume(volume) = &mount.source else { continue };
                assert!(spec.volumes.iter().any(|known| known.name == *volume), "{volume} is not described");
            }
            assert!(unit.container.env.values().all(|value| !value.contains(secret)), "a secret in the environment");
            let argv = unit.container.command.iter().chain(&unit.container.entrypoint);
            assert!(argv.into_iter().all(|word| !word.contains(secret)), "a secret in arguments");
        }
        assert!(!format!("{spec:?}").contains(secret), "a secret is shown");
        let upgrade = spec.upgrade.iter();
        let hooks = spec.setup.iter().chain(upgrade.clone().flat_map(|upgrade| &upgrade.after));
        let mut mentioned: Vec<&str> = hooks.map(|hook| hook.container.as_str()).collect();
        mentioned.extend(spec.checks.iter().filter_map(|check| check.container.as_deref()));
        mentioned.extend(spec.admin.iter().map(|admin| admin.container.as_str()));
        for upgrade in upgrade {
            mentioned.extend(upgrade.units.iter().map(String::as_str));
            mentioned.extend(upgrade.databases.iter().map(|database| database.container.as_str()));
        }
        for name in mentioned {
            assert!(names.contains(&name), "{name} is no container of it");
        }
    }
}
