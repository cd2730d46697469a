//! [`Engine`] on the Docker API.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::errors::Error as DockerError;
use bollard::exec::StartExecResults;
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerStateStatusEnum, ContainerSummary, ExecConfig, HostConfig,
    HostConfigLogConfig, Mount, MountType, NetworkCreateRequest, NetworkInspect, PortBinding, RestartPolicy,
    RestartPolicyNameEnum, VolumeCreateRequest,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, CreateImageOptionsBuilder, EventsOptionsBuilder, ListContainersOptionsBuilder,
    ListNetworksOptions, ListVolumesOptions, LogsOptionsBuilder, RemoveContainerOptionsBuilder,
    StopContainerOptionsBuilder, UploadToContainerOptionsBuilder,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use futures_util::stream::{BoxStream, StreamExt};
use model::{ContainerSpec, MountSource, Network, SecretFile};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::{Instant, timeout};
use tracing::info;

use crate::engine::{Engine, EngineError, ExecOutput, Hint};
use crate::plan::{EngineState, LABEL_DEFINITION, LABEL_OWNER, LABEL_SERVICE, Observed, ObservedContainer, Owned};
use crate::{NAME_PREFIX, files};

/// For questions and for commands that the engine answers at once.
const QUICK: Duration = Duration::from_secs(15);
/// For making and starting containers, which waits for disks.
const SLOW: Duration = Duration::from_secs(120);
/// A pull with no sign of life for so long is given up; an image of 500 MB over a thin line has its time.
const PULL_SILENCE: Duration = Duration::from_secs(120);
const PULL_TOTAL: Duration = Duration::from_secs(2 * 3600);
const PULL_REPORT: Duration = Duration::from_secs(10);
/// Kept of a command's output, each for standard output and standard error.
const EXEC_OUTPUT: usize = 1024 * 1024;

/// A Docker engine (20.10 or later) behind its unix socket. The connection is made when it is needed, and anew after
/// the engine was gone, so that an engine that starts late or is upgraded is no special case.
#[derive(Debug)]
pub struct DockerEngine {
    socket: PathBuf,
    owner: String,
    client: Mutex<Option<Docker>>,
}

impl DockerEngine {
    /// The engine at `socket`. Containers are ours when their label names `owner`; two agents on one engine need
    /// different owners.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>, owner: impl Into<String>) -> Self {
        Self { socket: socket.into(), owner: owner.into(), client: Mutex::new(None) }
    }

    /// Where the engine is asked.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A client that speaks a version the engine knows.
    async fn client(&self) -> Result<Docker, EngineError> {
        if let Some(client) = self.client.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Ok(client);
        }
        let connect = async {
            // Every call has its own deadline; the client's must never be the shorter one.
            let longest = PULL_TOTAL.as_secs();
            let client = Docker::connect_with_unix(&self.socket.to_string_lossy(), longest, API_DEFAULT_VERSION)?;
            client.negotiate_version().await
        };
        let client = within(QUICK, "connecting", connect).await?.map_err(|e| self.classify("connecting", e))?;
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(client.clone());
        Ok(client)
    }

    /// Does one thing within its deadline.
    async fn call<T, F>(
        &self,
        operation: &str,
        deadline: Duration,
        request: impl FnOnce(Docker) -> F + Send,
    ) -> Result<T, EngineError>
    where
        F: Future<Output = Result<T, DockerError>> + Send,
    {
        let client = self.client().await?;
        within(deadline, operation, request(client)).await?.map_err(|error| self.classify(operation, error))
    }

    fn classify(&self, operation: &str, source: DockerError) -> EngineError {
        match source {
            DockerError::SocketNotFoundError(_)
            | DockerError::HyperLegacyError { .. }
            | DockerError::HyperResponseError { .. }
            | DockerError::IOError { .. } => {
                // What comes back may be another version.
                *self.client.lock().unwrap_or_else(PoisonError::into_inner) = None;
                EngineError::Unreachable { socket: self.socket.clone(), source }
            }
            source => EngineError::Failed { operation: operation.to_owned(), source },
        }
    }

    /// What our labels say; none when they are missing, another owner's or not understood.
    fn owned(&self, labels: Option<&HashMap<String, String>>) -> Option<Owned> {
        let labels = labels?;
        if labels.get(LABEL_OWNER)? != &self.owner {
            return None;
        }
        let service = labels.get(LABEL_SERVICE)?.parse().ok()?;
        Some(Owned { service, definition: labels.get(LABEL_DEFINITION)?.clone() })
    }

    async fn observe_containers(&self) -> Result<Vec<ObservedContainer>, EngineError> {
        let all = ListContainersOptionsBuilder::default().all(true).build();
        let list =
            self.call("listing containers", QUICK, |d| async move { d.list_containers(Some(all)).await }).await?;
        let mut containers = Vec::new();
        for summary in list {
            let name = name_of(&summary);
            let owned = self.owned(summary.labels.as_ref());
            if owned.is_none() && !name.starts_with(NAME_PREFIX) {
                continue;
            }
            let id = summary.id.unwrap_or_default();
            let details = match &owned {
                Some(_) => self.inspect(&id).await?,
                None => Some(ContainerInspectResponse::default()),
            };
            // One that went away meanwhile.
            let Some(details) = details else { continue };
            let image = summary.image.unwrap_or_default();
            containers.push(observed(id, name, owned, image, details));
        }
        Ok(containers)
    }

    async fn inspect(&self, id: &str) -> Result<Option<ContainerInspectResponse>, EngineError> {
        self.call("inspecting a container", QUICK, |d| async move { found(d.inspect_container(id, None).await) }).await
    }
}

impl Engine for DockerEngine {
    async fn ping(&self) -> Result<String, EngineError> {
        let version = self.call("asking for the version", QUICK, |d| async move { d.version().await }).await?;
        Ok(version.version.unwrap_or_default())
    }

    async fn observe(&self) -> Result<Observed, EngineError> {
        let containers = self.observe_containers().await?;
        let networks = self
            .call("listing networks", QUICK, |d| async move { d.list_networks(None::<ListNetworksOptions>).await })
            .await?;
        let volumes = self
            .call("listing volumes", QUICK, |d| async move { d.list_volumes(None::<ListVolumesOptions>).await })
            .await?;
        Ok(Observed {
            containers,
            networks: networks.into_iter().filter_map(|network| network.name).collect::<BTreeSet<_>>(),
            volumes: volumes.volumes.unwrap_or_default().into_iter().map(|volume| volume.name).collect(),
        })
    }

    async fn image_id(&self, reference: &str) -> Result<Option<String>, EngineError> {
        let operation = format!("looking for image {reference}");
        let image = self.call(&operation, QUICK, |d| async move { found(d.inspect_image(reference).await) }).await?;
        Ok(image.and_then(|image| image.id))
    }

    async fn pull(&self, reference: &str) -> Result<(), EngineError> {
        let client = self.client().await?;
        let whole = with_tag(reference);
        let options = CreateImageOptionsBuilder::default().from_image(&whole).build();
        let operation = format!("fetching image {reference}");
        let mut progress = client.create_image(Some(options), None, None);
        let follow = async {
            let mut reported: Option<Instant> = None;
            while let Some(message) = within(PULL_SILENCE, &operation, progress.next()).await? {
                let message = message.map_err(|source| match self.classify(&operation, source) {
                    EngineError::Failed { source, .. } => {
                        EngineError::Image { reference: reference.to_owned(), source }
                    }
                    other => other,
                })?;
                if reported.is_none_or(|at| at.elapsed() >= PULL_REPORT) {
                    reported = Some(Instant::now());
                    info!(image = reference, layer = message.id, status = message.status, "fetching image");
                }
            }
            Ok(())
        };
        within(PULL_TOTAL, &operation, follow).await?
    }

    async fn ensure_network(&self, name: &str) -> Result<Option<IpAddr>, EngineError> {
        let operation = format!("making network {name}");
        let owner = self.owner.clone();
        let network = self
            .call(&operation, QUICK, |d| async move {
                if let Some(network) = found(d.inspect_network(name, None).await)? {
                    return Ok(network);
                }
                d.create_network(NetworkCreateRequest {
                    name: name.to_owned(),
                    driver: Some("bridge".to_owned()),
                    labels: Some(HashMap::from([(LABEL_OWNER.to_owned(), owner)])),
                    ..Default::default()
                })
                .await?;
                d.inspect_network(name, None).await
            })
            .await?;
        Ok(gateway(&network))
    }

    async fn ensure_volume(&self, name: &str) -> Result<(), EngineError> {
        let request = VolumeCreateRequest {
            name: Some(name.to_owned()),
            labels: Some(HashMap::from([(LABEL_OWNER.to_owned(), self.owner.clone())])),
            ..Default::default()
        };
        // The engine answers with the existing volume when there is one.
        let operation = format!("making volume {name}");
        self.call(&operation, QUICK, |d| async move { d.create_volume(request).await }).await.map(drop)
    }

    async fn create(&self, spec: &ContainerSpec, labels: BTreeMap<String, String>) -> Result<String, EngineError> {
        let name = format!("{NAME_PREFIX}{}", spec.name);
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        let mut body = create_body(spec);
        let mut labels: HashMap<String, String> = labels.into_iter().collect();
        labels.insert(LABEL_OWNER.to_owned(), self.owner.clone());
        body.labels = Some(labels);
        let operation = format!("creating container {name}");
        let created =
            self.call(&operation, SLOW, |d| async move { d.create_container(Some(options), body).await }).await?;
        Ok(created.id)
    }

    async fn upload(&self, id: &str, files: &[SecretFile]) -> Result<(), EngineError> {
        if files.is_empty() {
            return Ok(());
        }
        let archive = files::pack(files).map_err(EngineError::Pack)?;
        let options = UploadToContainerOptionsBuilder::default().path("/").build();
        let body = bollard::body_full(archive.into());
        self.call("placing files in the container", SLOW, |d| async move {
            d.upload_to_container(id, Some(options), body).await
        })
        .await
    }

    async fn start(&self, id: &str) -> Result<(), EngineError> {
        self.call("starting the container", SLOW, |d| async move { d.start_container(id, None).await }).await
    }

    async fn remove(&self, id: &str, grace: Duration) -> Result<(), EngineError> {
        let seconds = i32::try_from(grace.as_secs()).unwrap_or(i32::MAX);
        let stop = StopContainerOptionsBuilder::default().t(seconds).build();
        self.call("stopping the container", grace.saturating_add(SLOW), |d| async move {
            found(d.stop_container(id, Some(stop)).await)
        })
        .await?;
        let remove = RemoveContainerOptionsBuilder::default().v(false).force(true).build();
        self.call("removing the container", SLOW, |d| async move { found(d.remove_container(id, Some(remove)).await) })
            .await
            .map(drop)
    }

    async fn log_tail(&self, id: &str, lines: usize) -> Result<Vec<String>, EngineError> {
        let options =
            LogsOptionsBuilder::default().stdout(true).stderr(true).follow(false).tail(&lines.to_string()).build();
        self.call("reading the container's output", QUICK, |d| async move {
            let mut output = d.logs(id, Some(options));
            let mut tail = Vec::new();
            while let Some(line) = output.next().await {
                tail.push(line?.to_string().trim_end().to_owned());
            }
            Ok(tail)
        })
        .await
    }

    async fn exec(
        &self,
        id: &str,
        user: &str,
        command: &[&str],
        deadline: Duration,
    ) -> Result<ExecOutput, EngineError> {
        let config = ExecConfig {
            user: Some(user.to_owned()),
            cmd: Some(command.iter().map(|&word| word.to_owned()).collect()),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..Default::default()
        };
        let operation = format!("running {} in the container", command.first().unwrap_or(&"nothing"));
        self.call(&operation, deadline, |d| async move {
            let exec = d.create_exec(id, config).await?;
            let mut result = ExecOutput { code: -1, stdout: String::new(), stderr: String::new() };
            if let StartExecResults::Attached { mut output, .. } = d.start_exec(&exec.id, None).await? {
                while let Some(line) = output.next().await {
                    let line = line?;
                    let kept = match line {
                        LogOutput::StdErr { .. } => &mut result.stderr,
                        LogOutput::StdOut { .. } | LogOutput::StdIn { .. } | LogOutput::Console { .. } => {
                            &mut result.stdout
                        }
                    };
                    if kept.len() < EXEC_OUTPUT {
                        kept.push_str(&line.to_string());
                    }
                }
            }
            result.code = d.inspect_exec(&exec.id).await?.exit_code.unwrap_or(-1);
            Ok(result)
        })
        .await
    }

    fn hints(&self) -> BoxStream<'static, Hint> {
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(client) = client else { return futures_util::stream::empty().boxed() };
        let filters = HashMap::from([
            ("type", vec!["container".to_owned()]),
            ("label", vec![format!("{LABEL_OWNER}={}", self.owner)]),
            // Not all: each command run in a container would be three of them.
            ("event", ["die", "start", "destroy", "pause", "unpause", "rename"].map(str::to_owned).to_vec()),
        ]);
        let options = EventsOptionsBuilder::default().filters(&filters).build();
        client.events(Some(options)).take_while(|event| std::future::ready(event.is_ok())).map(|_| Hint).boxed()
    }
}

async fn within<T>(deadline: Duration, operation: &str, future: impl Future<Output = T>) -> Result<T, EngineError> {
    timeout(deadline, future).await.map_err(|_| EngineError::Deadline { operation: operation.to_owned(), deadline })
}

/// Turns the engine's 404 into none.
fn found<T>(result: Result<T, DockerError>) -> Result<Option<T>, DockerError> {
    match result {
        Err(DockerError::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
        other => other.map(Some),
    }
}

/// Without a tag the engine would fetch every tag there is.
fn with_tag(reference: &str) -> String {
    let last = reference.rsplit('/').next().unwrap_or(reference);
    if last.contains(':') || last.contains('@') { reference.to_owned() } else { format!("{reference}:latest") }
}

fn name_of(summary: &ContainerSummary) -> String {
    // A name with a second slash is a legacy link to it from another container.
    let names = summary.names.iter().flatten().map(|name| name.trim_start_matches('/'));
    names.into_iter().find(|name| !name.contains('/')).unwrap_or_default().to_owned()
}

fn observed(
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

fn gateway(network: &NetworkInspect) -> Option<IpAddr> {
    let configs = network.ipam.as_ref()?.config.as_ref()?;
    configs.iter().find_map(|config| config.gateway.as_ref()?.parse().ok())
}

fn create_body(spec: &ContainerSpec) -> ContainerCreateBody {
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

fn mount(mount: &model::Mount) -> Mount {
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
