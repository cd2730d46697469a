//! What can be asked of a running supervisor, and how it is answered.

use std::sync::Arc;

use model::{ServiceName, ServiceSpec};
use tokio::sync::{mpsc, oneshot};
use tracing::info;

use super::Worker;
use crate::engine::Engine;
use crate::observed::EngineState;
use crate::plan::stop_all_of;
use crate::work::take_all;

/// After so many looks in a row that failed, some 17 s when it refuses at once, an engine counts as gone for whoever waits
/// for everything to be stopped.
const CLOSING_LOOKS: u32 = 6;

/// Asks something of a supervisor.
#[derive(Debug, Clone)]
pub struct Requests(pub(super) mpsc::Sender<Request>);

/// Why a request was not fulfilled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No service of this name has containers.
    #[error("there is no service {0} with containers of ours")]
    Unknown(ServiceName),
    /// A container could not be stopped.
    #[error("{0}")]
    Failed(String),
    /// The supervisor has ended.
    #[error("the agent is stopping")]
    Stopping,
}

pub(super) type Answer = oneshot::Sender<Result<(), RequestError>>;

#[derive(Debug)]
pub(super) enum Request {
    Restart(ServiceName, Answer),
    StopAll(Answer),
}

impl Requests {
    /// Stops all containers of a service in the opposite of its order; they are started again in its order. Returns
    /// when they are stopped, and statuses and health say so.
    ///
    /// # Errors
    /// When there is no such service, a container does not stop, or the engine does not answer.
    pub async fn restart(&self, service: ServiceName) -> Result<(), RequestError> {
        self.ask(|answer| Request::Restart(service, answer)).await
    }

    /// Stops every service, each in the opposite of its order, and starts nothing again: the host is going down.
    /// Returns when nothing of ours runs any more. The next supervisor starts what is wanted.
    ///
    /// # Errors
    /// When the supervisor ends before, or the engine has not answered for a while.
    pub async fn stop_all(&self) -> Result<(), RequestError> {
        self.ask(Request::StopAll).await
    }

    async fn ask(&self, request: impl FnOnce(Answer) -> Request) -> Result<(), RequestError> {
        let (answer, answered) = oneshot::channel();
        self.0.send(request(answer)).await.map_err(|_| RequestError::Stopping)?;
        answered.await.map_err(|_| RequestError::Stopping)?
    }
}

impl<E: Engine> Worker<E> {
    /// Stops the services whose restart was asked for; the next plan starts them.
    pub(super) fn restart_asked(&mut self, desired: &[ServiceSpec]) {
        for (name, answer) in std::mem::take(&mut self.asked) {
            let stops = match (&self.observed, desired.iter().find(|service| service.name == name)) {
                (Some(observed), Some(service)) if !service.units.is_empty() => stop_all_of(service, observed),
                _ => {
                    self.answers.push((answer, Err(RequestError::Unknown(name))));
                    continue;
                }
            };
            if stops.is_empty() {
                self.answers.push((answer, Ok(())));
            } else if let Some(others) = self.restarting.get_mut(&name) {
                others.push(answer);
            } else if self.busy.contains(&name) {
                self.asked.push((name, answer));
            } else {
                info!(service = %name, "restarting, as was asked for");
                self.restarting.insert(name.clone(), vec![answer]);
                self.busy.insert(name.clone());
                self.work.spawn(take_all(Arc::clone(&self.engine), name, stops));
            }
        }
    }

    /// Without an engine nobody can see what became of what was asked. Whoever waits for everything to be stopped waits on:
    /// a busy engine answers again.
    pub(super) fn answer_unseen(&mut self) {
        let mut unseen: Vec<Answer> = self.answers.drain(..).map(|(answer, _)| answer).collect();
        unseen.extend(self.asked.drain(..).map(|(_, answer)| answer));
        if self.engine_failures >= CLOSING_LOOKS {
            unseen.append(&mut self.closers);
        }
        for answer in unseen {
            drop(answer.send(Err(RequestError::Failed(self.engine_reason.clone().unwrap_or_default()))));
        }
    }

    /// What is not known to be wanted is not touched: the engine stops it at its own end.
    pub(super) fn answer_closers(&mut self, known: bool) {
        let mut ours = self.observed.iter().flat_map(|observed| &observed.containers).filter(|c| c.owned.is_some());
        let stopped = ours.all(|container| !matches!(container.state, EngineState::Running | EngineState::Paused));
        if !known || stopped && self.busy.is_empty() {
            for answer in std::mem::take(&mut self.closers) {
                drop(answer.send(Ok(())));
            }
        }
    }
}
