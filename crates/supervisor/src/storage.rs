//! What an upgrade asks of an engine, beyond what the supervisor does: images, volumes and short-lived helpers.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use model::{Mount, ServiceName};

use crate::engine::{Engine, EngineError, ExecOutput};

/// An image on this host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageFacts {
    /// Its id.
    pub id: String,
    /// The environment that it gives its containers.
    pub env: BTreeMap<String, String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// A command in a container of its own, without a network, as root. A service has one at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Helper {
    /// For which service.
    pub service: ServiceName,
    /// The reference or id of an image on this host.
    pub image: String,
    /// What it sees.
    pub mounts: Vec<Mount>,
    /// Program and arguments.
    pub command: Vec<String>,
    /// How long it may take.
    pub deadline: Duration,
}

/// An engine whose volumes can be copied.
pub trait Storage: Engine {
    /// What an image on this host says of itself; none when it is not here.
    fn image_facts(&self, reference: &str) -> impl Future<Output = Result<Option<ImageFacts>, EngineError>> + Send;

    /// Runs a helper to its end and removes it. One of the same service that an agent before left behind is ended first.
    fn run_helper(&self, helper: &Helper) -> impl Future<Output = Result<ExecOutput, EngineError>> + Send;

    /// Ends and removes the helper of a service, if there is one.
    fn end_helper(&self, service: &ServiceName) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Removes a volume for ever, with what is in it. One that is gone is a success.
    fn remove_volume(&self, name: &str) -> impl Future<Output = Result<(), EngineError>> + Send;
}
