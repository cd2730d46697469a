//! What can be asked of a running supervisor.

use model::ServiceName;
use tokio::sync::{mpsc, oneshot};

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
