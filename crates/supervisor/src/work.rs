//! Takes the steps of one service against the engine, in order, beside the work on other services.

use std::collections::BTreeSet;
use std::sync::Arc;

use model::{ContainerSpec, ServiceName};
use tracing::info;

use crate::engine::{Engine, EngineError};
use crate::plan::{Action, Step};
use crate::words::short;

/// What became of the steps of a service.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) service: ServiceName,
    /// By container.
    pub(crate) results: Vec<(String, Done)>,
}

/// What became of a step.
#[derive(Debug)]
pub(crate) enum Done {
    /// The container with this id was started.
    Started(String),
    /// It was stopped or removed.
    Stopped,
    Failed(EngineError),
}

/// Takes the steps. What fails holds up the same container; a stop or a removal that fails holds up all that follow.
pub(crate) async fn take_all<E: Engine>(engine: Arc<E>, service: ServiceName, steps: Vec<Step>) -> Report {
    let mut results = Vec::new();
    let mut failed = BTreeSet::new();
    for step in steps {
        if failed.contains(&step.container) {
            continue;
        }
        match take(&*engine, &step).await {
            Ok(done) => results.extend(done.map(|done| (step.container, done))),
            Err(error) => {
                let last = step.action.ends_one();
                failed.insert(step.container.clone());
                results.push((step.container, Done::Failed(error)));
                if last {
                    break;
                }
            }
        }
    }
    Report { service, results }
}

impl Action {
    /// Whether it ends a container.
    pub(crate) fn ends_one(&self) -> bool {
        matches!(self, Self::Stop { .. } | Self::Remove { .. })
    }
}

async fn take<E: Engine>(engine: &E, step: &Step) -> Result<Option<Done>, EngineError> {
    let name = &step.container;
    match &step.action {
        // An hour's work, done by the supervisor beside everything else.
        Action::Pull(_) => Ok(None),
        Action::CreateNetwork(network) => {
            info!(container = name, network, "making network");
            engine.ensure_network(network).await?;
            Ok(None)
        }
        Action::CreateVolume(volume) => {
            info!(container = name, volume, "making volume");
            engine.ensure_volume(volume).await?;
            Ok(None)
        }
        Action::Stop { id, grace } => {
            info!(container = name, id = short(id), "stopping container");
            engine.stop(id, *grace).await?;
            Ok(Some(Done::Stopped))
        }
        Action::Remove { id, grace } => {
            info!(container = name, id = short(id), "stopping and removing container");
            engine.remove(id, *grace).await?;
            Ok(Some(Done::Stopped))
        }
        Action::Create { spec, labels } => {
            let id = engine.create(spec, labels.clone()).await?;
            info!(container = name, id = short(&id), image = spec.image, "created container");
            start(engine, id, spec).await.map(Some)
        }
        Action::Start { id, spec } => start(engine, id.clone(), spec).await.map(Some),
    }
}

/// Files are placed before every start: whoever created the container may have been stopped before it came to that.
async fn start<E: Engine>(engine: &E, id: String, spec: &ContainerSpec) -> Result<Done, EngineError> {
    engine.upload(&id, &spec.secrets).await?;
    engine.start(&id).await?;
    info!(container = spec.name, id = short(&id), "started container");
    Ok(Done::Started(id))
}
