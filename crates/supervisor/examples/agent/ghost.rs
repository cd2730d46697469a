//! The real Ghost, with SQLite on a volume of its own.

use std::time::Duration;

use model::{
    Check, HttpProbe, PortBinding, Probe, ServiceSpec, Target, UpgradePath, UpgradeSpec, VolumeKind, VolumeSpec,
};

use super::{Error, container, mount, service};

pub(crate) fn spec() -> Result<ServiceSpec, Error> {
    let mut spec = service("ghost".parse()?);
    let mut app = container(&spec.name, "ghost".into(), "ghost:6.53.0");
    app.env = [
        ("url", "http://127.0.0.1:2368"),
        ("database__client", "sqlite3"),
        ("database__connection__filename", "/var/lib/ghost/database/ghost.db"),
        ("database__useNullAsDefault", "true"),
        ("security__staffDeviceVerification", "false"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    app.mounts = vec![
        mount("cloudathome-ghost-database", "/var/lib/ghost/database"),
        mount("cloudathome-ghost-content", "/var/lib/ghost/content"),
    ];
    // The database's volume is made by the engine, for root.
    app.entrypoint = super::words(&[
        "sh",
        "-c",
        "chown 1000:1000 /var/lib/ghost/database && exec docker-entrypoint.sh node current/index.js",
    ]);
    app.ports = vec![PortBinding { host: "127.0.0.1:2368".parse()?, container: 2368 }];
    spec.units = vec![model::Unit { container: app, needs: Vec::new(), ready: None, restart_after: None }];
    spec.checks = vec![Check {
        container: Some("ghost".into()),
        probe: Probe::Http(HttpProbe {
            target: Target::Tcp("127.0.0.1:2368".parse()?),
            path: "/ghost/api/admin/authentication/setup/".into(),
            host: "127.0.0.1:2368".into(),
            forwarded_https: false,
            status: 200,
            expect: Vec::new(),
        }),
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(5),
        grace: Duration::from_secs(120),
    }];
    spec.volumes = vec![
        VolumeSpec { name: "cloudathome-ghost-database".into(), kind: VolumeKind::State },
        VolumeSpec { name: "cloudathome-ghost-content".into(), kind: VolumeKind::Data },
    ];
    spec.upgrade = Some(UpgradeSpec {
        path: UpgradePath::NeverDown,
        units: vec!["ghost".into()],
        databases: Vec::new(),
        after: Vec::new(),
        up_to_date: Vec::new(),
    });
    Ok(spec)
}
