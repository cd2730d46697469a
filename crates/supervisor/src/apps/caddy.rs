//! Caddy, the ingress, from the official `caddy` image or one that behaves like it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use model::{
    Check, ContainerSpec, HttpProbe, Mount, MountSource, Network, Probe, SecretFile, ServiceName, ServiceSpec, Target,
    Unit, UpgradePath, UpgradeSpec, VolumeKind, VolumeSpec,
};

use super::script;

/// The admin socket's path inside the container; every configuration loaded must name it as
/// `unix//run/caddy-admin/admin.sock|0600`. On the host it is `admin.sock` in [`CaddyOptions::admin_dir`].
pub const ADMIN_SOCKET: &str = "/run/caddy-admin/admin.sock";

/// The file inside the container that the configuration may have visits written to. On the host it is `access.log` in
/// [`CaddyOptions::log_dir`].
pub const ACCESS_LOG: &str = "/var/log/caddy/access.log";

const ADMIN_DIR: &str = "/run/caddy-admin";
const LOG_DIR: &str = "/var/log/caddy";
const BOOTSTRAP_PATH: &str = "/etc/caddy/bootstrap.json";
/// Where the store to be imported is mounted.
const IMPORT_DIR: &str = "/import";
/// So long without an answer of its admin socket, and it is started anew: visitors get nothing from one that hangs.
const HANGS: Duration = Duration::from_secs(60);

/// What is to be decided about Caddy.
#[derive(Debug, Clone)]
pub struct CaddyOptions {
    /// The image reference.
    pub image: String,
    /// The service's name; the container and its volumes are called after it.
    pub service: ServiceName,
    /// A directory of the agent's own on this host, mode 0700, that holds the admin socket.
    pub admin_dir: PathBuf,
    /// A directory on this host for its logs of visits.
    pub log_dir: PathBuf,
    /// Caddy's configuration as JSON for the very first start. Later starts resume from the last one loaded.
    pub bootstrap: String,
    /// Name servers; empty takes the engine's.
    pub dns: Vec<String>,
    /// Further files, for example the root certificate of an ACME server.
    pub files: Vec<SecretFile>,
    /// A directory of this host with the data of another Caddy, whose certificates and accounts are taken over.
    pub import: Option<PathBuf>,
}

/// The service.
#[must_use]
pub fn caddy(options: &CaddyOptions) -> ServiceSpec {
    let name = options.service.to_string();
    let volume = |what: &str| VolumeSpec { name: format!("cloudathome-{name}-{what}"), kind: VolumeKind::State };
    let volumes = vec![volume("data"), volume("config")];
    let mount = |source: MountSource, target: &str, read_only| Mount { source, target: target.into(), read_only };
    let mut mounts: Vec<Mount> = volumes
        .iter()
        .zip(["/data", "/config"])
        .map(|(volume, target)| mount(MountSource::Volume(volume.name.clone()), target, false))
        .collect();
    mounts.push(mount(MountSource::Host(options.admin_dir.clone()), ADMIN_DIR, false));
    mounts.push(mount(MountSource::Host(options.log_dir.clone()), LOG_DIR, false));
    // With `--resume`, the bootstrap counts only while no configuration was ever loaded. So Caddy serves what it
    // served last without waiting for the agent.
    let mut entrypoint = Vec::new();
    let mut command = super::words(&["caddy", "run", "--resume", "--config", BOOTSTRAP_PATH]);
    if let Some(dir) = &options.import {
        mounts.push(mount(MountSource::Host(dir.clone()), IMPORT_DIR, true));
        entrypoint = import_certificates();
        entrypoint.extend(std::mem::take(&mut command));
    }
    let mut files = options.files.clone();
    files.push(SecretFile { path: PathBuf::from(BOOTSTRAP_PATH), content: options.bootstrap.clone(), uid: 0 });
    let container = ContainerSpec {
        entrypoint,
        command,
        secrets: files,
        mounts,
        dns: options.dns.clone(),
        stop_grace: Duration::from_secs(15),
        // Visitors' real addresses, and no relay in between.
        ..ContainerSpec::new(&options.service, name.clone(), options.image.clone(), Network::Host)
    };
    let check = admin_check(&name, &options.admin_dir);
    let unit = Unit { container, needs: Vec::new(), ready: Some(check.clone()), restart_after: Some(HANGS) };
    ServiceSpec {
        checks: vec![check.clone()],
        volumes,
        upgrade: Some(UpgradeSpec {
            path: UpgradePath::NeverDown,
            units: vec![name],
            databases: Vec::new(),
            after: Vec::new(),
            up_to_date: vec![check],
        }),
        ..ServiceSpec::new(options.service.clone(), vec![unit])
    }
}

fn admin_check(container: &str, admin_dir: &Path) -> Check {
    let socket = Path::new(ADMIN_SOCKET).file_name().unwrap_or_default();
    Check {
        container: Some(container.to_owned()),
        probe: Probe::Http(HttpProbe {
            target: Target::Unix(admin_dir.join(socket)),
            path: "/config/admin".to_owned(),
            host: "localhost".to_owned(),
            forwarded_https: false,
            status: 200,
            expect: Vec::new(),
        }),
        interval: Duration::from_secs(2),
        timeout: Duration::from_secs(2),
        grace: Duration::from_secs(30),
    }
}

/// A command that lays into Caddy's data what the directory at [`IMPORT_DIR`] has and it has not, and then runs its
/// arguments. What is there already, a certificate renewed since above all, stays.
#[must_use]
fn import_certificates() -> Vec<String> {
    // The directory is that of Caddy's data itself, or the one above it as XDG_DATA_HOME.
    let text = "from=/import; [ -d /import/caddy ] && from=/import/caddy
        for part in certificates acme; do
          [ -d \"$from/$part\" ] || continue
          files=$(cd \"$from\" && find \"$part\" -type f)
          printf '%s\\n' \"$files\" | while IFS= read -r file; do
            [ -z \"$file\" ] && continue
            [ -e \"/data/caddy/$file\" ] && continue
            mkdir -p \"/data/caddy/$(dirname \"$file\")\"
            cp \"$from/$file\" \"/data/caddy/$file.importing\"
            chmod 600 \"/data/caddy/$file.importing\"
            mv \"/data/caddy/$file.importing\" \"/data/caddy/$file\"
          done
        done
        exec \"$@\"";
    script(text, &[])
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;

    fn options() -> CaddyOptions {
        CaddyOptions {
            image: "caddy:2".into(),
            service: "caddy".parse().unwrap(),
            admin_dir: "/var/lib/cloudathome/caddy-admin".into(),
            log_dir: "/var/lib/cloudathome/caddy-logs".into(),
            bootstrap: "{}".into(),
            dns: vec!["198.51.100.1".into()],
            files: vec![SecretFile { path: "/etc/acme/root.pem".into(), content: "PEM".into(), uid: 0 }],
            import: None,
        }
    }

    #[test]
    fn it_resumes_and_its_admin_socket_is_on_the_host() {
        let spec = caddy(&options());
        let container = &spec.units[0].container;
        assert_eq!(container.command.join(" "), "caddy run --resume --config /etc/caddy/bootstrap.json");
        assert!(container.entrypoint.is_empty());
        assert_eq!(container.secrets.len(), 2);
        assert_eq!(container.network, Network::Host);
        let Probe::Http(probe) = &spec.checks[0].probe else { panic!() };
        assert_eq!(probe.target, Target::Unix("/var/lib/cloudathome/caddy-admin/admin.sock".into()));
        let volumes: Vec<_> = container.mounts.iter().map(|mount| &mount.source).collect();
        assert_eq!(volumes[0], &MountSource::Volume("cloudathome-caddy-data".into()));
        assert_eq!(volumes[1], &MountSource::Volume("cloudathome-caddy-config".into()));
    }

    /// Runs the import in two plain directories.
    fn import(from: &Path, data: &Path) {
        let mut command = import_certificates();
        command[2] = command[2].replace("/import", from.to_str().unwrap()).replace("/data", data.to_str().unwrap());
        let done = Command::new(&command[0]).args(&command[1..]).arg("true").status().unwrap();
        assert!(done.success());
    }

    #[test]
    fn a_store_is_taken_over_and_nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let (from, data) = (dir.path().join("old"), dir.path().join("volume"));
        let certificates = "caddy/certificates/acme-v02.api.letsencrypt.org-directory/example.com";
        fs::create_dir_all(from.join(certificates)).unwrap();
        fs::create_dir_all(from.join("caddy/locks")).unwrap();
        fs::create_dir_all(data.join(certificates)).unwrap();
        fs::write(from.join(certificates).join("example.com.crt"), "old").unwrap();
        fs::write(from.join(certificates).join("example.com.key"), "key").unwrap();
        fs::write(from.join("caddy/locks/x.lock"), "lock").unwrap();
        fs::write(data.join(certificates).join("example.com.crt"), "renewed").unwrap();
        for from in [from.clone(), from.join("caddy")] {
            import(&from, &data);
            assert_eq!(fs::read_to_string(data.join(certificates).join("example.com.crt")).unwrap(), "renewed");
            assert_eq!(fs::read_to_string(data.join(certificates).join("example.com.key")).unwrap(), "key");
            assert!(!data.join("caddy/locks").exists());
        }
    }

    #[test]
    fn the_import_is_read_only_and_ends_in_caddy() {
        let spec = caddy(&CaddyOptions { import: Some("/srv/old".into()), ..options() });
        let container = &spec.units[0].container;
        assert!(container.mounts.iter().any(|mount| mount.target == Path::new("/import") && mount.read_only));
        assert!(container.entrypoint.join(" ").ends_with("sh caddy run --resume --config /etc/caddy/bootstrap.json"));
    }
}
