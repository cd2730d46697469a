//! What a managed container is to be. Pure data: the supervisor compares it with what the engine
//! reports and makes the two agree.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ServiceName;

/// One container as it is to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// The container's name in the engine, without the `cloudathome-` prefix that every one of ours carries.
    pub name: String,
    /// The service it belongs to.
    pub service: ServiceName,
    /// Image reference with a tag, a digest or a local image id.
    pub image: String,
    /// The id of the image that the reference meant when this generation of the service was made: a tag that moves
    /// changes nothing. None before it is known.
    pub image_id: Option<String>,
    /// In place of the image's entrypoint; empty takes the image's own.
    pub entrypoint: Vec<String>,
    /// Arguments for the entrypoint; empty takes the image's own.
    pub command: Vec<String>,
    /// The user that it starts as, by name or number; none takes the image's own.
    pub user: Option<String>,
    /// Plain environment. Secrets go into [`ContainerSpec::secrets`].
    pub env: BTreeMap<String, String>,
    /// Files placed into the container before it starts.
    pub secrets: Vec<SecretFile>,
    /// Volumes and bind mounts.
    pub mounts: Vec<Mount>,
    /// Where it is attached.
    pub network: Network,
    /// Further names under which the others in its private network find it, for example `db`.
    pub aliases: Vec<String>,
    /// What it may use at most.
    pub limits: Limits,
    /// Published TCP ports. Must be empty with [`Network::Host`].
    pub ports: Vec<PortBinding>,
    /// Added to the container's host table, name to address.
    pub extra_hosts: BTreeMap<String, String>,
    /// Name servers; empty takes the engine's.
    pub dns: Vec<String>,
    /// The signal that asks it to end, for example `SIGWINCH`; none takes the image's own.
    pub stop_signal: Option<String>,
    /// How long it may take to end before it is killed.
    pub stop_grace: Duration,
}

impl ContainerSpec {
    /// A container of the service with nothing chosen but its image and where it is attached; it has 30 s to end.
    #[must_use]
    pub fn new(service: &ServiceName, name: impl Into<String>, image: impl Into<String>, network: Network) -> Self {
        Self {
            name: name.into(),
            service: service.clone(),
            image: image.into(),
            image_id: None,
            entrypoint: Vec::new(),
            command: Vec::new(),
            user: None,
            env: BTreeMap::new(),
            secrets: Vec::new(),
            mounts: Vec::new(),
            network,
            aliases: Vec::new(),
            limits: Limits::default(),
            ports: Vec::new(),
            extra_hosts: BTreeMap::new(),
            dns: Vec::new(),
            stop_signal: None,
            stop_grace: Duration::from_secs(30),
        }
    }
}

/// What a container may use at most; none of one is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Limits {
    /// Memory, in bytes.
    pub memory: Option<u64>,
    /// Thousandths of a processor.
    pub cpu_milli: Option<u32>,
    /// Processes and threads.
    pub processes: Option<u32>,
}

/// A file with secret content, put into the container through the engine's archive API so that neither its
/// environment nor its labels carry it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretFile {
    /// Absolute path inside the container.
    pub path: PathBuf,
    /// The content.
    pub content: String,
    /// Numeric owner inside the container: the user that reads it.
    pub uid: u32,
}

impl fmt::Debug for SecretFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretFile").field("path", &self.path).field("uid", &self.uid).finish_non_exhaustive()
    }
}

/// Something mounted into a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// What is mounted.
    pub source: MountSource,
    /// Absolute path inside the container.
    pub target: PathBuf,
    /// Whether the container may only read it.
    pub read_only: bool,
}

/// What a mount shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A named volume of ours, created when missing and never removed by reconciliation.
    Volume(String),
    /// A directory of the host.
    Host(PathBuf),
}

/// Where a container is attached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// The host's own network.
    Host,
    /// A bridge of the service's own, created when missing.
    Private(String),
}

/// A published TCP port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortBinding {
    /// Address and port on the host. Must be a tunnel or loopback address.
    pub host: SocketAddr,
    /// Port inside the container.
    pub container: u16,
}
