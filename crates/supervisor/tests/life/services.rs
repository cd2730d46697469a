//! Small services.

use std::time::Duration;

use model::{Check, ContainerSpec, Mount, MountSource, Network, Probe, ServiceSpec, Unit, VolumeKind, VolumeSpec};

use crate::host::IMAGE;

/// Runs until it is asked to end, and then ends at once, so that stopping takes no time.
pub(crate) const RUN: &str = "trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done";

pub(crate) fn sh(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
}

/// A container of a service of the same name that only runs.
pub(crate) fn bare(name: &str) -> ContainerSpec {
    ContainerSpec {
        command: sh(RUN),
        stop_grace: Duration::from_secs(5),
        ..ContainerSpec::new(&name.parse().unwrap(), name, IMAGE, Network::Host)
    }
}

/// The volume at `/data`.
pub(crate) fn data(volume: &str) -> Mount {
    Mount { source: MountSource::Volume(volume.into()), target: "/data".into(), read_only: false }
}

/// Whether a script ends well in the container; asked often, and a wrong answer is a fault at once.
pub(crate) fn check(container: &str, script: &str) -> Check {
    Check {
        container: Some(container.into()),
        probe: Probe::Exec { user: "0".into(), command: sh(script) },
        interval: Duration::from_millis(300),
        timeout: Duration::from_secs(10),
        grace: Duration::ZERO,
    }
}

/// The container as a service of its own.
pub(crate) fn alone(container: ContainerSpec) -> ServiceSpec {
    let name = container.service.clone();
    ServiceSpec::new(name, vec![Unit { container, needs: Vec::new(), ready: None, restart_after: None }])
}

/// An application and its database, `NAME-db`, which is ready while there is the file `/data/well`: on a volume that both
/// have. The application is well when `question` ends well in it.
pub(crate) fn with_database(name: &str, question: &str) -> ServiceSpec {
    let volume = format!("cloudathome-{name}");
    let db_name = format!("{name}-db");
    let app = ContainerSpec { mounts: vec![data(&volume)], ..bare(name) };
    let db = ContainerSpec { name: db_name.clone(), ..app.clone() };
    let ready = check(&db_name, "test -e /data/well || { echo it repairs its tables >&2; exit 1; }");
    let mut service = alone(app);
    service.units[0].needs = vec![db_name];
    service.units.insert(0, Unit { container: db, needs: Vec::new(), ready: Some(ready), restart_after: None });
    service.checks = vec![check(name, question)];
    service.volumes = vec![VolumeSpec { name: volume, kind: VolumeKind::Database }];
    service
}

/// One that is well as long as it runs.
pub(crate) fn quiet(name: &str) -> ServiceSpec {
    let mut service = alone(bare(name));
    service.checks = vec![check(name, "true")];
    service
}
