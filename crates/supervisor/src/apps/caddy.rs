//! Caddy, the ingress, from the official `caddy` image or one that behaves like it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use model::{
    Check, ContainerSpec, Generation, HttpProbe, Limits, Mount, MountSource, Network, Probe, Run, SecretFile,
    ServiceName, ServiceSpec, Target, Unit, VolumeKind, VolumeSpec,
};

/// The admin socket's path inside the container; every configuration loaded must name it as
/// `unix//run/caddy-admin/admin.sock|0600`. On the host it is `admin.sock` in [`CaddyOptions::admin_dir`].
pub const ADMIN_SOCKET: &str = "/run/caddy-admin/admin.sock";

const ADMIN_DIR: &str = "/run/caddy-admin";
const BOOTSTRAP_PATH: &str = "/etc/caddy/bootstrap.json";

/// What is to be decided about Caddy.
#[derive(Debug, Clone)]
pub struct CaddyOptions {
    /// The image reference.
    pub image: String,
    /// The service's name; the container and its volumes are called after it.
    pub service: ServiceName,
    /// A directory of the agent's own on this host, mode 0700, that holds the admin socket.
    pub admin_dir: PathBuf,
    /// Caddy's configuration as JSON for the very first start. Later starts resume from the last one loaded.
    pub bootstrap: String,
    /// Name servers; empty takes the engine's.
    pub dns: Vec<String>,
    /// Further files, for example the root certificate of an ACME server.
    pub files: Vec<SecretFile>,
}

/// The service: one container, and the check that its admin socket answers.
#[must_use]
pub fn caddy(options: &CaddyOptions) -> ServiceSpec {
    let name = options.service.to_string();
    let volume_name = |what: &str| format!("cloudathome-{name}-{what}");
    let volume = |what: &str, target: &str| Mount {
        source: MountSource::Volume(volume_name(what)),
        target: PathBuf::from(target),
        read_only: false,
    };
    let mut files = options.files.clone();
    files.push(SecretFile { path: PathBuf::from(BOOTSTRAP_PATH), content: options.bootstrap.clone(), uid: 0 });
    let container = ContainerSpec {
        name: name.clone(),
        service: options.service.clone(),
        image: options.image.clone(),
        image_id: None,
        entrypoint: Vec::new(),
        // With `--resume`, the bootstrap counts only while no configuration was ever loaded. So Caddy serves what it
        // served last without waiting for the agent.
        command: ["caddy", "run", "--resume", "--config", BOOTSTRAP_PATH].map(str::to_owned).to_vec(),
        user: None,
        env: std::collections::BTreeMap::new(),
        secrets: files,
        mounts: vec![
            volume("data", "/data"),
            volume("config", "/config"),
            Mount {
                source: MountSource::Host(options.admin_dir.clone()),
                target: PathBuf::from(ADMIN_DIR),
                read_only: false,
            },
        ],
        // Visitors' real addresses, and no relay in between.
        network: Network::Host,
        aliases: Vec::new(),
        limits: Limits::default(),
        ports: Vec::new(),
        extra_hosts: std::collections::BTreeMap::new(),
        dns: options.dns.clone(),
        stop_signal: None,
        stop_grace: Duration::from_secs(15),
    };
    let socket = Path::new(ADMIN_SOCKET).file_name().unwrap_or_default();
    let check = Check {
        container: Some(name.clone()),
        probe: Probe::Http(HttpProbe {
            target: Target::Unix(options.admin_dir.join(socket)),
            path: "/config/admin".to_owned(),
            host: "localhost".to_owned(),
            forwarded_https: false,
            status: 200,
            expect: Vec::new(),
        }),
        interval: Duration::from_secs(2),
        timeout: Duration::from_secs(2),
        grace: Duration::from_secs(30),
    };
    let kept = |what| VolumeSpec { name: volume_name(what), kind: VolumeKind::State };
    ServiceSpec {
        name: options.service.clone(),
        generation: Generation(1),
        run: Run::All,
        units: vec![Unit { container, needs: Vec::new(), ready: None, restart_after: None }],
        checks: vec![check],
        setup: Vec::new(),
        volumes: vec![kept("data"), kept("config")],
        upgrade: None,
        admin: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_resumes_and_its_admin_socket_is_on_the_host() {
        let service = caddy(&CaddyOptions {
            image: "caddy:2".into(),
            service: "caddy".parse().unwrap(),
            admin_dir: "/var/lib/cloudathome/caddy-admin".into(),
            bootstrap: "{}".into(),
            dns: vec!["198.51.100.1".into()],
            files: vec![SecretFile { path: "/etc/acme/root.pem".into(), content: "PEM".into(), uid: 0 }],
        });
        let container = &service.units[0].container;
        assert_eq!(container.command.join(" "), "caddy run --resume --config /etc/caddy/bootstrap.json");
        assert_eq!(container.secrets.len(), 2);
        assert_eq!(container.network, Network::Host);
        let Probe::Http(probe) = &service.checks[0].probe else { panic!("another check") };
        assert_eq!(probe.target, Target::Unix("/var/lib/cloudathome/caddy-admin/admin.sock".into()));
        let volumes: Vec<_> = container.mounts.iter().map(|mount| &mount.source).collect();
        assert_eq!(volumes[0], &MountSource::Volume("cloudathome-caddy-data".into()));
        assert_eq!(volumes[1], &MountSource::Volume("cloudathome-caddy-config".into()));
    }
}
