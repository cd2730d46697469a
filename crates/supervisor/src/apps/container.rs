//! Any image that a person wants to run.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use model::{Check, Limits, Probe, SecretFile, ServiceSpec, Unit, UpgradePath, UpgradeSpec, VolumeKind};
use secrecy::{ExposeSecret, SecretString};

use super::Place;

/// It may first migrate what it keeps.
const GRACE: Duration = Duration::from_secs(120);
/// One that hangs for so long is started anew.
const HANGS: Duration = Duration::from_secs(120);

/// What is to be decided about a container of a person's own.
#[derive(Debug, Clone)]
pub struct ContainerSettings {
    /// The image reference.
    pub image: String,
    /// Arguments for the image's entrypoint; empty takes the image's own.
    pub command: Vec<String>,
    /// Who it starts as; none takes the image's own.
    pub user: Option<String>,
    /// Plain environment.
    pub env: BTreeMap<String, String>,
    /// Secrets: each becomes the file `/run/secrets/NAME`, and `NAME_FILE` in the environment says so, which is how the
    /// official images take them.
    pub secrets: BTreeMap<String, SecretString>,
    /// The user inside that reads the secrets.
    pub secrets_uid: u32,
    /// What people put in: volumes by name, with their paths inside. Never copied.
    pub volumes: BTreeMap<String, PathBuf>,
    /// What belongs to the version that runs: volumes that are copied before an upgrade and brought back after a failed one.
    pub state_volumes: BTreeMap<String, PathBuf>,
    /// The port inside on which it answers plain HTTP.
    pub container_port: u16,
    /// What shows it well.
    pub health: Health,
    /// What it may use at most.
    pub limits: Limits,
}

/// What shows that a container works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It accepts connections.
    Tcp,
    /// It answers a request.
    Http {
        /// For this path.
        path: String,
        /// With this status.
        status: u16,
    },
}

/// The service.
#[must_use]
pub fn container(settings: &ContainerSettings, place: &Place) -> ServiceSpec {
    let mut spec = place.container("", &settings.image);
    spec.command.clone_from(&settings.command);
    spec.user.clone_from(&settings.user);
    spec.env.clone_from(&settings.env);
    for (name, secret) in &settings.secrets {
        let path = format!("/run/secrets/{name}");
        spec.env.insert(format!("{name}_FILE"), path.clone());
        spec.secrets.push(SecretFile {
            path: PathBuf::from(path),
            content: secret.expose_secret().to_owned(),
            uid: settings.secrets_uid,
        });
    }
    spec.limits = settings.limits;
    spec.ports = vec![place.publish(settings.container_port)];
    let mut volumes = Vec::new();
    for (kind, named) in [(VolumeKind::Data, &settings.volumes), (VolumeKind::State, &settings.state_volumes)] {
        for (name, target) in named {
            let (volume, mount) = place.volume(name, kind, &target.to_string_lossy());
            volumes.push(volume);
            spec.mounts.push(mount);
        }
    }
    let check = check(settings, place);
    let name = spec.name.clone();
    let unit = Unit { container: spec, needs: Vec::new(), ready: Some(check.clone()), restart_after: Some(HANGS) };
    ServiceSpec {
        checks: vec![check],
        volumes,
        upgrade: Some(UpgradeSpec {
            path: UpgradePath::Free,
            units: vec![name],
            databases: Vec::new(),
            after: Vec::new(),
            up_to_date: Vec::new(),
        }),
        ..ServiceSpec::new(place.service.clone(), vec![unit])
    }
}

fn check(settings: &ContainerSettings, place: &Place) -> Check {
    match &settings.health {
        Health::Tcp => Check { probe: Probe::Tcp(place.bind), ..place.http_check("/", GRACE) },
        Health::Http { path, status } => {
            let mut check = place.http_check(path, GRACE);
            if let Probe::Http(probe) = &mut check.probe {
                probe.status = *status;
            }
            check
        }
    }
}

#[cfg(test)]
mod tests {
    use model::MountSource;

    use super::super::tests::{assert_sound, place};
    use super::*;

    fn settings() -> ContainerSettings {
        ContainerSettings {
            image: "vaultwarden/server:1.34.1".into(),
            command: vec!["/start.sh".into()],
            user: Some("1000:1000".into()),
            env: [("SIGNUPS_ALLOWED".to_owned(), "false".to_owned())].into(),
            secrets: [("ADMIN_TOKEN".to_owned(), "geheim".to_owned().into())].into(),
            secrets_uid: 1000,
            volumes: [("data".to_owned(), "/data".into())].into(),
            state_volumes: [("config".to_owned(), "/config".into())].into(),
            container_port: 80,
            health: Health::Http { path: "/alive".into(), status: 204 },
            limits: Limits { memory: Some(1 << 28), ..Limits::default() },
        }
    }

    #[test]
    fn everything_a_person_says_is_in_the_definition() {
        let spec = container(&settings(), &place("vault", "vault.example.com"));
        assert_sound(&spec, "geheim");
        let container = &spec.units[0].container;
        assert_eq!(container.name, "vault");
        assert_eq!(container.env["ADMIN_TOKEN_FILE"], "/run/secrets/ADMIN_TOKEN");
        assert_eq!((container.secrets[0].uid, container.secrets[0].content.as_str()), (1000, "geheim"));
        assert_eq!(container.mounts[0].source, MountSource::Volume("cloudathome-vault-data".into()));
        assert_eq!(spec.volumes.iter().map(|v| v.kind).collect::<Vec<_>>(), [VolumeKind::Data, VolumeKind::State]);
        assert_eq!(container.ports[0].container, 80);
        assert_eq!(container.limits.memory, Some(1 << 28));
        let Probe::Http(probe) = &spec.checks[0].probe else { panic!() };
        assert_eq!((probe.path.as_str(), probe.status), ("/alive", 204));
    }

    #[test]
    fn without_a_path_a_connection_is_enough() {
        let settings = ContainerSettings { health: Health::Tcp, ..settings() };
        let spec = container(&settings, &place("vault", "vault.example.com"));
        assert_eq!(spec.checks[0].probe, Probe::Tcp("10.86.0.2:8080".parse().unwrap()));
    }
}
