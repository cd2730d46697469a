//! [`Engine`] on the Docker API.

mod belongings;
mod console;
mod convert;
mod storage;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::errors::Error as DockerError;
use bollard::exec::StartExecResults;
use bollard::models::{ContainerInspectResponse, ExecConfig, NetworkCreateRequest, VolumeCreateRequest};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, CreateImageOptionsBuilder, EventsOptionsBuilder, ListContainersOptionsBuilder,
    ListNetworksOptions, ListVolumesOptions, LogsOptionsBuilder, RemoveContainerOptionsBuilder,
    StopContainerOptionsBuilder, UploadToContainerOptionsBuilder,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use futures_util::stream::{BoxStream, StreamExt};
use hyper::Uri;
use hyper::http::uri::PathAndQuery;
use model::{ContainerSpec, Generation, SecretFile};
use tokio::sync::watch;
use tokio::time::timeout;

pub use self::belongings::Belongings;

use self::convert::{Layers, create_body, gateway, name_of, observed, runs, with_tag};
use crate::engine::{Engine, EngineError, EngineInfo, ExecOutput, Hint, PullProgress};
use crate::observed::{
    LABEL_CONTAINER, LABEL_DEFINITION, LABEL_GENERATION, LABEL_OWNER, LABEL_POSITION, LABEL_SERVICE, Observed,
    ObservedContainer, Owned,
};
use crate::{NAME_PREFIX, files};

/// For questions and for commands that the engine answers at once.
const QUICK: Duration = Duration::from_secs(15);
/// For making and starting containers, which waits for disks.
const SLOW: Duration = Duration::from_secs(120);
/// A pull with no sign of life for so long is given up; an image of 500 MB over a thin line has its time.
const PULL_SILENCE: Duration = Duration::from_secs(120);
const PULL_TOTAL: Duration = Duration::from_secs(2 * 3600);
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

/// Whose a container is.
enum Whose {
    /// Made by us, and called as we called it.
    Ours(Owned),
    /// It has the labels of ours with this name, and another name.
    Copy(String),
    /// Somebody else's.
    Foreign,
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

    /// What the engine says of itself.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn info(&self) -> Result<EngineInfo, EngineError> {
        let info = self.call("asking what it is", QUICK, |d| async move { d.info().await }).await?;
        Ok(EngineInfo {
            version: info.server_version.unwrap_or_default(),
            live_restore: info.live_restore_enabled.unwrap_or_default(),
            data_root: info.docker_root_dir.unwrap_or_default().into(),
        })
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
            let client = client.negotiate_version().await?;
            let version = client.client_version();
            // The library asks for the version and then leaves it out, which means the engine's newest.
            Ok(client.with_request_modifier(move |mut request| {
                *request.uri_mut() = versioned(request.uri(), version.major_version, version.minor_version);
                request
            }))
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

    /// Whose a container is.
    fn whose(&self, name: &str, labels: Option<&HashMap<String, String>>) -> Whose {
        let Some((labels, owned)) = labels.and_then(|labels| Some((labels, self.owned(labels)?))) else {
            return Whose::Foreign;
        };
        match (labels.get(LABEL_CONTAINER), name.strip_prefix(NAME_PREFIX)) {
            (Some(label), Some(name)) if label == name => Whose::Ours(owned),
            (Some(label), _) => Whose::Copy(label.clone()),
            (None, Some(_)) => Whose::Ours(owned),
            (None, None) => Whose::Foreign,
        }
    }

    /// What our labels say; none when they are missing, another owner's or not understood.
    fn owned(&self, labels: &HashMap<String, String>) -> Option<Owned> {
        if labels.get(LABEL_OWNER)? != &self.owner {
            return None;
        }
        let number = |label| labels.get(label).and_then(|text| text.parse().ok());
        Some(Owned {
            service: labels.get(LABEL_SERVICE)?.parse().ok()?,
            definition: labels.get(LABEL_DEFINITION)?.clone(),
            generation: Generation(number(LABEL_GENERATION).unwrap_or(0)),
            position: number(LABEL_POSITION).and_then(|at| usize::try_from(at).ok()).unwrap_or(0),
        })
    }

    /// Containers of ours and those with names like ours, and [`Observed::copies`].
    async fn observe_containers(&self) -> Result<(Vec<ObservedContainer>, BTreeMap<String, String>), EngineError> {
        let all = ListContainersOptionsBuilder::default().all(true).build();
        let list =
            self.call("listing containers", QUICK, |d| async move { d.list_containers(Some(all)).await }).await?;
        let (mut containers, mut copies) = (Vec::new(), BTreeMap::new());
        for summary in list {
            let name = name_of(&summary);
            let owned = match self.whose(&name, summary.labels.as_ref()) {
                Whose::Ours(owned) => Some(owned),
                Whose::Copy(of) => {
                    if runs(&summary) {
                        copies.insert(of, name.clone());
                    }
                    None
                }
                Whose::Foreign => None,
            };
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
        Ok((containers, copies))
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
        let (containers, copies) = self.observe_containers().await?;
        let networks = self
            .call("listing networks", QUICK, |d| async move { d.list_networks(None::<ListNetworksOptions>).await })
            .await?;
        let volumes = self
            .call("listing volumes", QUICK, |d| async move { d.list_volumes(None::<ListVolumesOptions>).await })
            .await?;
        Ok(Observed {
            containers,
            copies,
            networks: networks.into_iter().filter_map(|network| network.name).collect::<BTreeSet<_>>(),
            volumes: volumes.volumes.unwrap_or_default().into_iter().map(|volume| volume.name).collect(),
            ..Observed::default()
        })
    }

    async fn image_id(&self, reference: &str) -> Result<Option<String>, EngineError> {
        let operation = format!("looking for image {reference}");
        let image = self.call(&operation, QUICK, |d| async move { found(d.inspect_image(reference).await) }).await?;
        Ok(image.and_then(|image| image.id))
    }

    async fn pull(&self, reference: &str, progress: watch::Sender<PullProgress>) -> Result<(), EngineError> {
        let client = self.client().await?;
        let whole = with_tag(reference);
        let options = CreateImageOptionsBuilder::default().from_image(&whole).build();
        let operation = format!("fetching image {reference}");
        let mut messages = client.create_image(Some(options), None, None);
        let follow = async {
            let mut layers = Layers::default();
            while let Some(message) = within(PULL_SILENCE, &operation, messages.next()).await? {
                let message = message.map_err(|source| match self.classify(&operation, source) {
                    EngineError::Failed { source, .. } => {
                        EngineError::Image { reference: reference.to_owned(), source }
                    }
                    other => other,
                })?;
                layers.hear(&message);
                progress.send_replace(layers.sum());
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
        labels.insert(LABEL_CONTAINER.to_owned(), spec.name.clone());
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

    async fn stop(&self, id: &str, grace: Duration) -> Result<(), EngineError> {
        let seconds = i32::try_from(grace.as_secs()).unwrap_or(i32::MAX);
        let stop = StopContainerOptionsBuilder::default().t(seconds).build();
        self.call("stopping the container", grace.saturating_add(SLOW), |d| async move {
            found(d.stop_container(id, Some(stop)).await)
        })
        .await
        .map(drop)
    }

    async fn remove(&self, id: &str, grace: Duration) -> Result<(), EngineError> {
        self.stop(id, grace).await?;
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

/// The same request for a named version of the API.
fn versioned(uri: &Uri, major: usize, minor: usize) -> Uri {
    let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = format!("/v{major}.{minor}{path}").parse().ok();
    Uri::from_parts(parts).unwrap_or_else(|_| uri.clone())
}

/// Turns the engine's 404 into none.
fn found<T>(result: Result<T, DockerError>) -> Result<Option<T>, DockerError> {
    match result {
        Err(DockerError::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
        other => other.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn an_older_engine_is_asked_in_its_own_version() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("docker.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let (sender, mut requests) = mpsc::channel(8);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 4096];
                let length = stream.read(&mut request).await.unwrap();
                let line = String::from_utf8_lossy(&request[..length]).lines().next().unwrap().to_owned();
                sender.send(line).await.unwrap();
                let body = r#"{"Version":"20.10.24","ApiVersion":"1.41","MinAPIVersion":"1.12","Id":"sha256:abc"}"#;
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let engine = DockerEngine::new(&socket, "test");
        assert_eq!(engine.image_id("caddy:2").await.unwrap().unwrap(), "sha256:abc");
        assert_eq!(requests.recv().await.unwrap(), "GET /version HTTP/1.1");
        assert_eq!(requests.recv().await.unwrap(), "GET /v1.41/images/caddy:2/json HTTP/1.1");
    }

    #[tokio::test]
    async fn an_engine_that_is_not_there_is_named() {
        let error = DockerEngine::new("/nowhere/docker.sock", "test").ping().await.unwrap_err();
        assert!(error.to_string().contains("no container engine answers at /nowhere/docker.sock"), "{error}");
    }
}
