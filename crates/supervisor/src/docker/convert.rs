//! Between the Docker API's types and ours.

use std::collections::HashMap;
use std::net::IpAddr;

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerStateStatusEnum, ContainerSummary, HostConfig,
    HostConfigLogConfig, Mount, MountType, NetworkInspect, PortBinding, RestartPolicy, RestartPolicyNameEnum,
};
use model::{ContainerSpec, MountSource, Network};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::plan::{EngineState, ObservedContainer, Owned};

/// Without a tag the engine would fetch every tag there is.
pub(super) fn with_tag(reference: &str) -> String {
    let last = reference.rsplit('/').next().unwrap_or(reference);
    if last.contains(':') || last.contains('@') { reference.to_owned() } else { format!("{reference}:latest") }
}

pub(super) fn name_of(summary: &ContainerSummary) -> String {
    // A name with a second slash is a legacy link to it from another container.
    let names = summary.names.iter().flatten().map(|name| name.trim_start_matches('/'));
    names.into_iter().find(|name| !name.contains('/')).unwrap_or_default().to_owned()
}

pub(super) fn observed(
    id: String,
    name: String,
    owned: Option<Owned>,
    image: String,
    details: ContainerInspectResponse,
) -> ObservedContainer {
    let state = details.state.unwrap_or_default();
    let engine_state = match state.status.unwrap_or(ContainerStateStatusEnum::EMPTY) {
        ContainerStateStatusEnum::CREATED => EngineState::Created,
        ContainerStateStatusEnum::RUNNING
        | ContainerStateStatusEnum::RESTARTING
        | ContainerStateStatusEnum::STOPPING => EngineState::Running,
        ContainerStateStatusEnum::PAUSED => EngineState::Paused,
        ContainerStateStatusEnum::EXITED | ContainerStateStatusEnum::EMPTY => EngineState::Exited,
        ContainerStateStatusEnum::REMOVING | ContainerStateStatusEnum::DEAD => EngineState::Dead,
    };
    ObservedContainer {
        id,
        name,
        owned,
        image: details.config.and_then(|config| config.image).unwrap_or(image),
        state: engine_state,
        exit_code: state.exit_code,
        started_at: state.started_at.as_deref().and_then(unix_time),
        finished_at: state.finished_at.as_deref().and_then(unix_time),
    }
}

/// The engine writes the year 1 for "never".
fn unix_time(text: &str) -> Option<i64> {
    let seconds = OffsetDateTime::parse(text, &Rfc3339).ok()?.unix_timestamp();
    (seconds > 0).then_some(seconds)
}

pub(super) fn gateway(network: &NetworkInspect) -> Option<IpAddr> {
    let configs = network.ipam.as_ref()?.config.as_ref()?;
    configs.iter().find_map(|config| config.gateway.as_ref()?.parse().ok())
}

pub(super) fn create_body(spec: &ContainerSpec) -> ContainerCreateBody {
    let some_list = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
    let mut bindings: HashMap<String, Option<Vec<PortBinding>>> = HashMap::new();
    for port in &spec.ports {
        let binding =
            PortBinding { host_ip: Some(port.host.ip().to_string()), host_port: Some(port.host.port().to_string()) };
        bindings.entry(format!("{}/tcp", port.container)).or_default().get_or_insert_default().push(binding);
    }
    ContainerCreateBody {
        image: Some(spec.image.clone()),
        cmd: some_list(&spec.command),
        env: Some(spec.env.iter().map(|(key, value)| format!("{key}={value}")).collect()),
        exposed_ports: Some(bindings.keys().cloned().collect()),
        stop_signal: spec.stop_signal.clone(),
        host_config: Some(HostConfig {
            network_mode: Some(match &spec.network {
                Network::Host => "host".to_owned(),
                Network::Private(name) => name.clone(),
            }),
            port_bindings: Some(bindings),
            mounts: Some(spec.mounts.iter().map(mount).collect()),
            extra_hosts: Some(spec.extra_hosts.iter().map(|(name, address)| format!("{name}:{address}")).collect()),
            dns: some_list(&spec.dns),
            // The supervisor alone starts containers: the engine would not retry one whose address was missing.
            restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }),
            // The engine's default keeps everything for ever.
            log_config: Some(HostConfigLogConfig {
                typ: Some("json-file".to_owned()),
                config: Some(HashMap::from([
                    ("max-size".to_owned(), "10m".to_owned()),
                    ("max-file".to_owned(), "3".to_owned()),
                ])),
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub(super) fn mount(mount: &model::Mount) -> Mount {
    let (typ, source) = match &mount.source {
        MountSource::Volume(name) => (MountType::VOLUME, name.clone()),
        MountSource::Host(path) => (MountType::BIND, path.to_string_lossy().into_owned()),
    };
    Mount {
        typ: Some(typ),
        source: Some(source),
        target: Some(mount.target.to_string_lossy().into_owned()),
        read_only: Some(mount.read_only),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_without_a_tag_means_latest() {
        for (given, whole) in [
            ("caddy", "caddy:latest"),
            ("caddy:2", "caddy:2"),
            ("registry.example:5000/caddy", "registry.example:5000/caddy:latest"),
            ("caddy@sha256:abc", "caddy@sha256:abc"),
        ] {
            assert_eq!(with_tag(given), whole);
        }
    }

    #[test]
    fn the_engines_times_become_seconds() {
        assert_eq!(unix_time("2026-11-23T02:12:29.123456789Z"), Some(1_795_399_949));
        assert_eq!(unix_time("2026-11-23T03:12:29+01:00"), Some(1_795_399_949));
        assert_eq!(unix_time("0001-01-01T00:00:00Z"), None);
        assert_eq!(unix_time(""), None);
    }
}
