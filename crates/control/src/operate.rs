//! Operations on this host's services: the server's side and the client's.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, StreamExt};
use model::{Credential, ExecInput, ExecQuery, HostId, LogsQuery, Output, Refusal, RunCommand, ServiceName};
use proto::{InvalidMessage, v1};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::offered::Asked;

/// Input that waits for a command to take it.
const INPUT_QUEUE: usize = 16;

/// What is being done, in words; ends when it is done, or with why it was not. Dropping it stops listening, not the work.
pub type Steps = BoxStream<'static, Result<String, Refusal>>;
/// What was written. Dropping it ends the command or the reading.
pub type Outputs = BoxStream<'static, Result<Output, Refusal>>;

/// Does what people ask of the services of this host.
pub trait Operator: Send + Sync + 'static {
    /// Starts, stops or restarts a service.
    fn run(&self, service: ServiceName, command: RunCommand) -> Steps;
    /// What its containers wrote.
    fn logs(&self, query: LogsQuery) -> Outputs;
    /// A command in one of its containers.
    fn exec(&self, query: ExecQuery, input: mpsc::Receiver<ExecInput>) -> Outputs;
    /// What a person needs to log in: where, and with what.
    fn credentials(&self, service: ServiceName) -> BoxFuture<'static, Result<Vec<Credential>, Refusal>>;
    /// Upgrades it to a tag or a whole image reference. Without either it changes nothing, and says what is in force and
    /// where it would go by itself.
    fn upgrade(&self, service: ServiceName, to: String) -> Steps;
    /// Brings back what was before its last upgrade.
    fn rollback(&self, service: ServiceName) -> Steps;
    /// Removes its containers and everything that it keeps.
    fn purge(&self, service: ServiceName) -> Steps;
}

/// Where whoever asks sits.
#[derive(Debug, Clone)]
pub(crate) enum Caller {
    /// On this host.
    Here(HostId),
    /// On the opposite one.
    There(HostId),
}

/// The server's side.
pub(crate) struct Operations {
    pub(crate) operator: Arc<dyn Operator>,
    pub(crate) caller: Caller,
    pub(crate) asked: mpsc::Sender<Asked>,
}

impl Operations {
    /// Nothing is done before the agent has heard of it.
    async fn tell(&self, service: &ServiceName, what: &str) -> Result<(), Status> {
        let (Caller::Here(on) | Caller::There(on)) = &self.caller;
        let asked = Asked { on: on.clone(), service: service.clone(), what: what.to_owned() };
        self.asked.send(asked).await.map_err(|_| Status::unavailable("the agent is stopping"))
    }
}

fn status(refusal: Refusal) -> Status {
    match refusal {
        Refusal::NotFound(text) => Status::not_found(text),
        Refusal::Refused(text) => Status::failed_precondition(text),
        Refusal::Failed(text) => Status::internal(text),
    }
}

fn wrong(error: InvalidMessage) -> Status {
    Status::invalid_argument(error.to_string())
}

fn service(name: &str) -> Result<ServiceName, Status> {
    name.parse().map_err(|error: model::InvalidName| Status::invalid_argument(error.to_string()))
}

type Answer<T> = Result<Response<Pin<Box<dyn futures_util::Stream<Item = Result<T, Status>> + Send>>>, Status>;

fn progress(steps: Steps) -> Answer<v1::Progress> {
    Ok(Response::new(steps.map(|step| step.map(|text| v1::Progress { text }).map_err(status)).boxed()))
}

fn output(outputs: Outputs) -> Answer<v1::Output> {
    Ok(Response::new(outputs.map(|output| output.map(Into::into).map_err(status)).boxed()))
}

#[tonic::async_trait]
impl v1::operation_server::Operation for Operations {
    type RunStream = BoxStream<'static, Result<v1::Progress, Status>>;
    type LogsStream = BoxStream<'static, Result<v1::Output, Status>>;
    type ExecStream = BoxStream<'static, Result<v1::Output, Status>>;
    type UpgradeStream = BoxStream<'static, Result<v1::Progress, Status>>;
    type RollbackStream = BoxStream<'static, Result<v1::Progress, Status>>;
    type PurgeStream = BoxStream<'static, Result<v1::Progress, Status>>;

    async fn run(&self, request: Request<v1::RunRequest>) -> Answer<v1::Progress> {
        let command: RunCommand = request.get_ref().command().try_into().map_err(wrong)?;
        let service = service(&request.get_ref().service)?;
        let what = match command {
            RunCommand::Start => "start",
            RunCommand::Stop => "stop",
            RunCommand::Restart => "restart",
        };
        self.tell(&service, what).await?;
        progress(self.operator.run(service, command))
    }

    async fn logs(&self, request: Request<v1::LogsRequest>) -> Answer<v1::Output> {
        let query: LogsQuery = request.into_inner().try_into().map_err(wrong)?;
        // Who looks at its own host leaves no trace; somebody from another one does.
        if matches!(self.caller, Caller::There(_)) {
            self.tell(&query.service, "logs").await?;
        }
        output(self.operator.logs(query))
    }

    async fn exec(&self, request: Request<Streaming<v1::ExecInput>>) -> Answer<v1::Output> {
        let mut wire = request.into_inner();
        let first = wire.message().await?.and_then(|message| message.input);
        let Some(v1::exec_input::Input::Start(start)) = first else {
            return Err(Status::invalid_argument("the first message must be ExecInput.start"));
        };
        let query: ExecQuery = start.try_into().map_err(wrong)?;
        // Its words may hold secrets.
        let what = if query.admin { "a command of its administration program" } else { "a command in its container" };
        self.tell(&query.service, what).await?;
        let (sender, input) = mpsc::channel(INPUT_QUEUE);
        // Ends with the call, or when the command takes no more.
        tokio::spawn(async move {
            while let Ok(Some(message)) = wire.message().await {
                let Some(Ok(input)) = message.input.map(ExecInput::try_from) else { return };
                if sender.send(input).await.is_err() {
                    return;
                }
            }
        });
        output(self.operator.exec(query, input))
    }

    async fn credentials(
        &self,
        request: Request<v1::CredentialsRequest>,
    ) -> Result<Response<v1::CredentialsResponse>, Status> {
        let service = service(&request.get_ref().service)?;
        self.tell(&service, "its logins").await?;
        let credentials = self.operator.credentials(service).await.map_err(status)?;
        Ok(Response::new(v1::CredentialsResponse { credentials: credentials.into_iter().map(Into::into).collect() }))
    }

    async fn upgrade(&self, request: Request<v1::UpgradeRequest>) -> Answer<v1::Progress> {
        let request = request.into_inner();
        let service = service(&request.service)?;
        if !request.to.is_empty() {
            self.tell(&service, &format!("upgrade to {}", request.to)).await?;
        }
        progress(self.operator.upgrade(service, request.to))
    }

    async fn rollback(&self, request: Request<v1::RollbackRequest>) -> Answer<v1::Progress> {
        let service = service(&request.get_ref().service)?;
        self.tell(&service, "rollback").await?;
        progress(self.operator.rollback(service))
    }

    async fn purge(&self, request: Request<v1::PurgeRequest>) -> Answer<v1::Progress> {
        let request = request.get_ref();
        if request.confirm != request.service {
            return Err(Status::failed_precondition(format!(
                "everything that {} keeps would be removed for good; confirm it by its name",
                request.service
            )));
        }
        let service = service(&request.service)?;
        self.tell(&service, "purge").await?;
        progress(self.operator.purge(service))
    }
}

/// Whether a status tells of the connection, and nobody at its other end has said it.
pub(crate) fn broken_off(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

/// Why an operation did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum OperateError {
    /// The agent says why not.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The agent does not know the request: it is of an older release.
    #[error("the agent is of a release that cannot do this")]
    Unknown,
    /// The agent's answer makes no sense.
    #[error("the agent's answer cannot be read: bring agent and agentctl to the same release")]
    Answer(#[from] InvalidMessage),
    /// The opposite agent cannot be asked; the agent says why. Nothing was begun.
    #[error("{0}")]
    Away(String),
    /// The connection to the agent broke off; what was begun goes on.
    #[error("the connection to the agent broke off: {0}")]
    Broken(String),
}

impl From<Status> for OperateError {
    fn from(status: Status) -> Self {
        let text = status.message().to_owned();
        if broken_off(&status) {
            return Self::Broken(text);
        }
        match status.code() {
            Code::Unavailable => Self::Away(text),
            Code::PermissionDenied => Refusal::Refused(text).into(),
            Code::NotFound => Refusal::NotFound(text).into(),
            Code::FailedPrecondition | Code::InvalidArgument => Refusal::Refused(text).into(),
            Code::Internal => Refusal::Failed(text).into(),
            Code::Unimplemented => Self::Unknown,
            _ => Self::Broken(text),
        }
    }
}

/// A client of an agent's operations; [`crate::Inspector::operations`] makes one.
#[derive(Debug, Clone)]
pub struct OperationsClient(pub(crate) v1::operation_client::OperationClient<tonic::transport::Channel>);

/// What the agent says while it works.
pub type StepAnswers = BoxStream<'static, Result<String, OperateError>>;
/// What was written at the agent's host.
pub type OutputAnswers = BoxStream<'static, Result<Output, OperateError>>;

fn steps(answer: Result<Response<Streaming<v1::Progress>>, Status>) -> Result<StepAnswers, OperateError> {
    Ok(answer?.into_inner().map(|step| Ok(step?.text)).boxed())
}

fn outputs(answer: Result<Response<Streaming<v1::Output>>, Status>) -> Result<OutputAnswers, OperateError> {
    Ok(answer?.into_inner().map(|output| Ok(output?.try_into()?)).boxed())
}

impl OperationsClient {
    /// As [`Operator::run`].
    ///
    /// # Errors
    /// When the agent refuses or cannot be asked; so for every call.
    pub async fn run(&mut self, service: &ServiceName, command: RunCommand) -> Result<StepAnswers, OperateError> {
        let command = v1::run_request::Command::from(command) as i32;
        steps(self.0.run(v1::RunRequest { service: service.to_string(), command }).await)
    }

    /// As [`Operator::logs`].
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn logs(&mut self, query: LogsQuery) -> Result<OutputAnswers, OperateError> {
        outputs(self.0.logs(v1::LogsRequest::from(query)).await)
    }

    /// As [`Operator::exec`].
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn exec(
        &mut self,
        query: ExecQuery,
        input: mpsc::Receiver<ExecInput>,
    ) -> Result<OutputAnswers, OperateError> {
        let wire = |input| v1::ExecInput { input: Some(input) };
        let start = wire(v1::exec_input::Input::Start(query.into()));
        let rest = ReceiverStream::new(input).map(move |input| wire(input.into()));
        outputs(self.0.exec(futures_util::stream::iter([start]).chain(rest)).await)
    }

    /// As [`Operator::credentials`].
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn credentials(&mut self, service: &ServiceName) -> Result<Vec<Credential>, OperateError> {
        let answer = self.0.credentials(v1::CredentialsRequest { service: service.to_string() }).await?;
        Ok(answer.into_inner().try_into()?)
    }

    /// As [`Operator::upgrade`].
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn upgrade(&mut self, service: &ServiceName, to: &str) -> Result<StepAnswers, OperateError> {
        steps(self.0.upgrade(v1::UpgradeRequest { service: service.to_string(), to: to.to_owned() }).await)
    }

    /// As [`Operator::rollback`].
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn rollback(&mut self, service: &ServiceName) -> Result<StepAnswers, OperateError> {
        steps(self.0.rollback(v1::RollbackRequest { service: service.to_string() }).await)
    }

    /// As [`Operator::purge`]; a person has confirmed it.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn purge(&mut self, service: &ServiceName) -> Result<StepAnswers, OperateError> {
        let service = service.to_string();
        steps(self.0.purge(v1::PurgeRequest { confirm: service.clone(), service }).await)
    }
}
