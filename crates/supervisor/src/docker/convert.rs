//! Between the Docker API's types and ours.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerStateStatusEnum, ContainerSummary,
    ContainerSummaryStateEnum, CreateImageInfo, EndpointSettings, HostConfig, HostConfigLogConfig, Mount, MountType,
    NetworkInspect, NetworkingConfig, PortBinding, RestartPolicy, RestartPolicyNameEnum,
};
use model::{ContainerSpec, MountSource, Network};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::engine::PullProgress;
use crate::observed::{EngineState, ObservedContainer, Owned};

/// The engine counts processor time in thousandths of millionths.
const NANO_PER_MILLI: i64 = 1_000_000;

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

pub(super) fn runs(summary: &ContainerSummary) -> bool {
    use ContainerSummaryStateEnum::{PAUSED, RESTARTING, RUNNING};
    matches!(summary.state, Some(RUNNING | PAUSED | RESTARTING))
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
    let config = details.config.unwrap_or_default();
    ObservedContainer {
        id,
        name,
        owned,
        image: config.image.unwrap_or(image),
        image_id: details.image.unwrap_or_default(),
        state: engine_state,
        exit_code: state.exit_code,
        started_at: state.started_at.as_deref().and_then(unix_time),
        finished_at: state.finished_at.as_deref().and_then(unix_time),
        stop_grace: config.stop_timeout.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs),
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
        entrypoint: some_list(&spec.entrypoint),
        cmd: some_list(&spec.command),
        user: spec.user.clone(),
        env: Some(spec.env.iter().map(|(key, value)| format!("{key}={value}")).collect()),
        exposed_ports: Some(bindings.keys().cloned().collect()),
        stop_signal: spec.stop_signal.clone(),
        // For the engine when it stops containers by itself, at its own end.
        stop_timeout: Some(i64::try_from(spec.stop_grace.as_secs()).unwrap_or(i64::MAX)),
        networking_config: aliases(spec),
        host_config: Some(HostConfig {
            network_mode: Some(match &spec.network {
                Network::Host => "host".to_owned(),
                Network::Private(name) => name.clone(),
            }),
            port_bindings: Some(bindings),
            mounts: Some(spec.mounts.iter().map(mount).collect()),
            extra_hosts: Some(spec.extra_hosts.iter().map(|(name, address)| format!("{name}:{address}")).collect()),
            dns: some_list(&spec.dns),
            memory: spec.limits.memory.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
            nano_cpus: spec.limits.cpu_milli.map(|milli| i64::from(milli) * NANO_PER_MILLI),
            pids_limit: spec.limits.processes.map(i64::from),
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

fn aliases(spec: &ContainerSpec) -> Option<NetworkingConfig> {
    let Network::Private(network) = &spec.network else { return None };
    let endpoint = EndpointSettings { aliases: Some(spec.aliases.clone()), ..Default::default() };
    let endpoints = HashMap::from([(network.clone(), endpoint)]);
    (!spec.aliases.is_empty()).then_some(NetworkingConfig { endpoints_config: Some(endpoints) })
}

/// What a pull has said of each layer.
#[derive(Debug, Default)]
pub(super) struct Layers {
    layers: HashMap<String, PullProgress>,
}

impl Layers {
    /// Takes in one message. Only those about the transfer carry sizes in bytes; unpacking repeats them.
    pub(super) fn hear(&mut self, message: &CreateImageInfo) {
        let (Some(id), Some(status)) = (&message.id, message.status.as_deref()) else { return };
        let bytes = |number: Option<i64>| number.and_then(|number| u64::try_from(number).ok()).unwrap_or(0);
        match (status, &message.progress_detail) {
            ("Downloading", Some(detail)) => {
                let total = bytes(detail.total);
                self.layers.insert(id.clone(), PullProgress { done: bytes(detail.current).min(total), total });
            }
            ("Verifying Checksum" | "Download complete" | "Extracting" | "Pull complete", _) => {
                if let Some(layer) = self.layers.get_mut(id) {
                    layer.done = layer.total;
                }
            }
            _ => {}
        }
    }

    pub(super) fn sum(&self) -> PullProgress {
        self.layers.values().fold(PullProgress::default(), |sum, layer| PullProgress {
            done: sum.done.saturating_add(layer.done),
            total: sum.total.saturating_add(layer.total),
        })
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
    use bollard::models::ProgressDetail;

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
    fn layers_add_up() {
        let mut layers = Layers::default();
        let mut hear = |id: &str, status: &str, current: i64, total: i64| {
            layers.hear(&CreateImageInfo {
                id: Some(id.into()),
                status: Some(status.into()),
                progress_detail: Some(ProgressDetail { current: Some(current), total: Some(total) }),
                ..Default::default()
            });
            layers.sum()
        };
        assert_eq!(hear("a", "Pulling fs layer", 0, 0), PullProgress::default());
        assert_eq!(hear("a", "Downloading", 10, 100), PullProgress { done: 10, total: 100 });
        assert_eq!(hear("b", "Downloading", 5, 50), PullProgress { done: 15, total: 150 });
        assert_eq!(hear("a", "Extracting", 1, 900), PullProgress { done: 105, total: 150 });
        assert_eq!(hear("c", "Already exists", 0, 0), PullProgress { done: 105, total: 150 });
        assert_eq!(hear("b", "Downloading", -1, -1), PullProgress { done: 100, total: 100 });
    }

    #[test]
    fn the_engines_times_become_seconds() {
        assert_eq!(unix_time("2026-11-23T02:12:29.123456789Z"), Some(1_795_399_949));
        assert_eq!(unix_time("2026-11-23T03:12:29+01:00"), Some(1_795_399_949));
        assert_eq!(unix_time("0001-01-01T00:00:00Z"), None);
        assert_eq!(unix_time(""), None);
    }
}
