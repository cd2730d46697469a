//! The little that is asked of a container engine, so that the rest knows no engine by name.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::stream::BoxStream;
use model::{ContainerSpec, SecretFile};
use tokio::sync::watch;

use crate::observed::Observed;

/// A container engine. Every call has a deadline of its own; none is retried here.
pub trait Engine: Send + Sync + 'static {
    /// Whether it answers; its version.
    fn ping(&self) -> impl Future<Output = Result<String, EngineError>> + Send;

    /// Our containers, foreign ones with names like ours, networks and volumes; nothing of images and checks.
    fn observe(&self) -> impl Future<Output = Result<Observed, EngineError>> + Send;

    /// The id of the image that `reference` means on this host; none when it is not here.
    fn image_id(&self, reference: &str) -> impl Future<Output = Result<Option<String>, EngineError>> + Send;

    /// Fetches an image from its registry. May take many minutes. What was fetched before a break is not fetched again.
    fn pull(
        &self,
        reference: &str,
        progress: watch::Sender<PullProgress>,
    ) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Makes a private bridge network unless one of this name exists, and returns the host's address in it: where
    /// requests seem to come from when the engine relays them.
    fn ensure_network(&self, name: &str) -> impl Future<Output = Result<Option<IpAddr>, EngineError>> + Send;

    /// Makes a volume unless one of this name exists.
    fn ensure_volume(&self, name: &str) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Makes a container with the name [`crate::NAME_PREFIX`] and `spec.name`, restart policy `no`, and returns its
    /// id. `labels` come on top of the owner's.
    fn create(
        &self,
        spec: &ContainerSpec,
        labels: BTreeMap<String, String>,
    ) -> impl Future<Output = Result<String, EngineError>> + Send;

    /// Places files in a container that does not run. The directory of each becomes root's with mode 0755.
    fn upload(&self, id: &str, files: &[SecretFile]) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Starts a container.
    fn start(&self, id: &str) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Asks a container to end and kills it after `grace`. One that does not run, or is gone, is a success.
    fn stop(&self, id: &str, grace: Duration) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Asks a container to end, kills it after `grace`, removes it. Its named volumes stay. A container that is gone
    /// already is a success.
    fn remove(&self, id: &str, grace: Duration) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// The last `lines` lines of a container's output.
    fn log_tail(&self, id: &str, lines: usize) -> impl Future<Output = Result<Vec<String>, EngineError>> + Send;

    /// Runs a command in a running container as `user`, for at most `deadline`.
    fn exec(
        &self,
        id: &str,
        user: &str,
        command: &[&str],
        deadline: Duration,
    ) -> impl Future<Output = Result<ExecOutput, EngineError>> + Send;

    /// Says when something may have changed. Hints may be lost and repeated; the stream ends when the engine goes.
    fn hints(&self) -> BoxStream<'static, Hint>;
}

/// How far a pull is. Layers become known one by one, so that the total grows at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PullProgress {
    /// Bytes here already.
    pub done: u64,
    /// Bytes of the layers that are known.
    pub total: u64,
}

/// Something about a container of ours may have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hint;

/// What a command in a container left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// Its exit code.
    pub code: i64,
    /// What it wrote to standard output, at most 1 MiB.
    pub stdout: String,
    /// What it wrote to standard error, at most 1 MiB.
    pub stderr: String,
}

/// Why the engine did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Nothing answers at its socket.
    #[error("no container engine answers at {}; see `systemctl status docker`", socket.display())]
    Unreachable {
        /// Where it was asked.
        socket: PathBuf,
        /// Why not.
        #[source]
        source: bollard::errors::Error,
    },
    /// It took too long.
    #[error("{operation}: the container engine did not finish within {} s", deadline.as_secs())]
    Deadline {
        /// What was asked.
        operation: String,
        /// How long it had.
        deadline: Duration,
    },
    /// It refused or failed.
    #[error("{operation} failed")]
    Failed {
        /// What was asked.
        operation: String,
        /// Why.
        #[source]
        source: bollard::errors::Error,
    },
    /// The image is not here and could not be fetched.
    #[error(
        "image {reference} is not on this host and could not be fetched; check its name and the way to its registry, \
         or load it with `docker load`"
    )]
    Image {
        /// The reference as configured.
        reference: String,
        /// Why.
        #[source]
        source: bollard::errors::Error,
    },
    /// Files could not be packed for the container.
    #[error("packing files for the container failed")]
    Pack(#[source] std::io::Error),
}

/// What an engine says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineInfo {
    /// Its version, as in `28.5.2`.
    pub version: String,
    /// Whether containers go on while it is away.
    pub live_restore: bool,
    /// Where it keeps images and volumes.
    pub data_root: PathBuf,
}
