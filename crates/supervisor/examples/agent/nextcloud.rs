//! Nextcloud with PostgreSQL.

use std::time::Duration;

use model::{
    Check, DatabaseSpec, Expect, Expectation, HttpProbe, PortBinding, Probe, SecretFile, ServiceSpec, Target,
    UpgradePath, UpgradeSpec, VolumeKind, VolumeSpec,
};

use super::{Error, container, mount, service, unit, words};

const DUMP: &str = "set -e
pg_dumpall --username=nextcloud --roles-only > {dump}.roles
pg_dump --username=nextcloud --format=custom --file={dump}.content nextcloud
pg_restore --list {dump}.content > /dev/null";
const VERIFY: &str = "set -e
test -s {dump}.roles
pg_restore --list {dump}.content > /dev/null";
/// A role that is there already is no fault.
const RESTORE: &str = "set -e
psql --username=nextcloud --dbname=template1 --quiet --file={dump}.roles
dropdb --username=nextcloud --maintenance-db=template1 --if-exists --force nextcloud
createdb --username=nextcloud --maintenance-db=template1 nextcloud
pg_restore --username=nextcloud --dbname=nextcloud --exit-on-error {dump}.content";

pub(crate) fn spec() -> Result<ServiceSpec, Error> {
    let mut spec = service("nextcloud".parse()?);
    let secret = |name: &str, content: &str, uid| SecretFile {
        path: format!("/run/secrets/{name}").into(),
        content: content.into(),
        uid,
    };
    let env = |pairs: &[(&str, &str)]| pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
    let mut db = container(&spec.name, "nextcloud-db".into(), "postgres:15");
    db.env = env(&[
        ("POSTGRES_USER", "nextcloud"),
        ("POSTGRES_DB", "nextcloud"),
        ("POSTGRES_PASSWORD_FILE", "/run/secrets/database"),
    ]);
    db.secrets = vec![secret("database", "database-secret", 999)];
    db.mounts = vec![
        mount("cloudathome-nextcloud-db", "/var/lib/postgresql/data"),
        mount("cloudathome-nextcloud-dumps", "/dumps"),
    ];
    db.aliases = vec!["db".into()];

    let mut app = container(&spec.name, "nextcloud".into(), "nextcloud:32.0.1-apache");
    app.env = env(&[
        ("POSTGRES_HOST", "db"),
        ("POSTGRES_DB", "nextcloud"),
        ("POSTGRES_USER", "nextcloud"),
        ("POSTGRES_PASSWORD_FILE", "/run/secrets/database"),
        ("NEXTCLOUD_ADMIN_USER", "admin"),
        ("NEXTCLOUD_ADMIN_PASSWORD_FILE", "/run/secrets/admin"),
    ]);
    app.secrets = vec![secret("database", "database-secret", 33), secret("admin", "admin-secret", 33)];
    app.mounts = vec![
        mount("cloudathome-nextcloud", "/var/www/html"),
        mount("cloudathome-nextcloud-data", "/var/www/html/data"),
    ];
    app.ports = vec![PortBinding { host: "127.0.0.1:8080".parse()?, container: 80 }];
    app.stop_signal = Some("SIGWINCH".into());
    let pg_ready = "pg_isready --username=nextcloud --host=127.0.0.1 --quiet";
    spec.units = vec![
        unit(db, &[], pg_ready),
        model::Unit { container: app, needs: words(&["nextcloud-db"]), ready: None, restart_after: None },
    ];
    let is = |pointer: &str, equals: &str| Expect {
        that: Expectation::Json { pointer: pointer.into(), equals: equals.into() },
        otherwise: format!("{pointer} is not {equals}"),
    };
    let page = |path: &str, expect| -> Result<Check, Error> {
        Ok(Check {
            container: Some("nextcloud".into()),
            probe: Probe::Http(HttpProbe {
                target: Target::Tcp("127.0.0.1:8080".parse()?),
                path: path.into(),
                host: "localhost".into(),
                forwarded_https: true,
                status: 200,
                expect,
            }),
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(5),
            grace: Duration::from_secs(120),
        })
    };
    let state = vec![is("/installed", "true"), is("/maintenance", "false"), is("/needsDbUpgrade", "false")];
    spec.checks = vec![page("/status.php", state)?, page("/login", Vec::new())?];
    let of = |what: &str, kind| VolumeSpec { name: format!("cloudathome-nextcloud{what}"), kind };
    spec.volumes = vec![
        of("", VolumeKind::State),
        of("-data", VolumeKind::Data),
        of("-db", VolumeKind::Database),
        of("-dumps", VolumeKind::Scratch),
    ];
    spec.upgrade = Some(UpgradeSpec {
        path: UpgradePath::OneMajor,
        units: words(&["nextcloud"]),
        databases: vec![DatabaseSpec {
            container: "nextcloud-db".into(),
            // The volume of the dumps is the engine's, and so root's.
            user: "0".into(),
            directory: "/dumps".into(),
            dump: words(&["sh", "-c", DUMP]),
            verify: words(&["sh", "-c", VERIFY]),
            restore: words(&["sh", "-c", RESTORE]),
        }],
        after: Vec::new(),
        up_to_date: Vec::new(),
    });
    Ok(spec)
}
