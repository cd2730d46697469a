//! An application of a few lines of shell, with code on a volume and a database of its own: quick enough to be killed at
//! every point. It refuses data that is newer than itself.

use std::time::Duration;

use model::{DatabaseSpec, Hook, ServiceSpec, UpgradePath, UpgradeSpec, VolumeKind, VolumeSpec};

use super::{Error, container, mount, service, unit, words};

pub(crate) fn spec(name: &str) -> Result<ServiceSpec, Error> {
    let mut spec = service(name.parse()?);
    let volume = |what: &str| format!("cloudathome-{name}-{what}");
    let image = std::env::var("TOY_IMAGE").unwrap_or_else(|_| "toy:1.0.0".into());
    let (app_name, db_name) = (name.to_owned(), format!("{name}-db"));

    let mut db = container(&spec.name, db_name.clone(), "toydb:1.0.0");
    db.mounts = vec![mount(&volume("db"), "/db"), mount(&volume("dumps"), "/dumps")];
    let mut app = container(&spec.name, app_name.clone(), &image);
    app.mounts = vec![mount(&volume("state"), "/state"), mount(&volume("db"), "/db"), mount(&volume("data"), "/data")];
    spec.units = vec![
        unit(db, &[], "test -e /up"),
        unit(app, &[&db_name], r#"test -e /up && test "$(cat /state/form)" = "$(cat /db/form)""#),
    ];
    let of = |what: &str, kind| VolumeSpec { name: volume(what), kind };
    spec.volumes = vec![
        of("state", VolumeKind::State),
        of("db", VolumeKind::Database),
        of("data", VolumeKind::Data),
        of("dumps", VolumeKind::Scratch),
    ];
    let tidy = Hook {
        what: "tidying up".into(),
        container: app_name.clone(),
        user: "0".into(),
        command: words(&["sh", "-c", "echo tidied >> /data/log"]),
        timeout: Duration::from_secs(10),
        also_fine: Vec::new(),
        before_publishing: false,
    };
    spec.upgrade = Some(UpgradeSpec {
        path: UpgradePath::OneMajor,
        units: vec![app_name],
        databases: vec![DatabaseSpec {
            container: db_name,
            user: "0".into(),
            directory: "/dumps".into(),
            // Slow enough to be met at work by whoever comes after a death.
            dump: words(&["sh", "-c", "cp /db/posts {dump}.posts && sleep 0.3 && cp /db/form {dump}.form"]),
            verify: words(&["sh", "-c", "test -e {dump}.posts && test -s {dump}.form"]),
            restore: words(&[
                "sh",
                "-c",
                "rm -f /db/* && cp {dump}.posts /db/posts && sleep 0.3 && cp {dump}.form /db/form",
            ]),
        }],
        after: vec![tidy],
        up_to_date: Vec::new(),
    });
    Ok(spec)
}
