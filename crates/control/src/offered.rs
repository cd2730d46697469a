//! What an agent does for whoever asks: all of it for people on its own host, and for the opposite agent what its configuration
//! allows.

use std::sync::Arc;

use model::{HostId, Role, ServiceName};
use proto::{MAX_MESSAGE_BYTES, v1};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Response, Status};

use crate::Operator;
use crate::inspect::Inspected;
use crate::operate::{Caller, Operations};

/// What the opposite agent may do here for people there, beside the session. Each has what stands before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rights {
    /// Nothing.
    Nothing,
    /// Have this host's reports: its end of the tunnel, and how its parts are.
    Inspect,
    /// Operate its services, commands in their containers and logins included.
    Operate,
}

impl Rights {
    /// As configuration writes it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Inspect => "inspect",
            Self::Operate => "operate",
        }
    }

    /// The rights of the opposite agent at the agent of this role unless configuration says otherwise: home decides over home, and
    /// its owner owns the edge too.
    #[must_use]
    pub const fn of_opposite(role: Role) -> Self {
        match role {
            Role::Edge => Self::Operate,
            Role::Home => Self::Inspect,
            Role::Device => Self::Nothing,
        }
    }
}

impl std::str::FromStr for Rights {
    type Err = UnknownRights;

    fn from_str(word: &str) -> Result<Self, UnknownRights> {
        [Self::Nothing, Self::Inspect, Self::Operate]
            .into_iter()
            .find(|rights| rights.word() == word)
            .ok_or_else(|| UnknownRights(word.to_owned()))
    }
}

/// A word that stands for no rights.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of \"nothing\", \"inspect\" and \"operate\"")]
pub struct UnknownRights(String);

/// Somebody asked for something to be done with a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The host where `agentctl` was run, as its agent's certificate names it.
    pub on: HostId,
    /// Which service.
    pub service: ServiceName,
    /// For what, in a few words.
    pub what: String,
}

/// What an agent does for whoever asks.
#[derive(Clone)]
pub struct Offered {
    /// This host.
    pub host: HostId,
    /// What it tells.
    pub inspected: Inspected,
    /// Acts on its services.
    pub operator: Arc<dyn Operator>,
    /// Hears of each request to act before it is done.
    pub asked: mpsc::Sender<Asked>,
}

impl std::fmt::Debug for Offered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Offered").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Offered {
    /// For people on this host.
    pub(crate) fn to_ourselves(&self) -> Routes {
        let inspection = v1::inspection_server::InspectionServer::new(self.inspected.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES);
        Routes::new(inspection).add_service(self.operations(Caller::Here(self.host.clone())))
    }

    /// For the opposite agent, which is the only one that gets here, and may do so much.
    pub(crate) fn to_opposite(&self, host: &HostId, may: Rights) -> Routes {
        let us = self.inspected.state.borrow().local.role;
        let key = if us == Role::Edge { "home_may" } else { "edge_may" };
        let from = |least: Rights| {
            let refusal = format!(
                "{} does not allow this from {host}: control.{key} in its configuration is \"{}\", and this takes \"{}\"",
                self.host,
                may.word(),
                least.word()
            );
            move |request: Request<()>| {
                if may >= least { Ok(request) } else { Err(Status::permission_denied(refusal.clone())) }
            }
        };
        let reports = Reports { inspected: self.inspected.clone(), looking: Arc::new(Semaphore::new(1)) };
        let inspection =
            v1::inspection_server::InspectionServer::new(reports).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let operations = self.operations(Caller::There(host.clone()));
        Routes::new(InterceptedService::new(inspection, from(Rights::Inspect)))
            .add_service(InterceptedService::new(operations, from(Rights::Operate)))
    }

    fn operations(&self, caller: Caller) -> v1::operation_server::OperationServer<Operations> {
        let operations = Operations { operator: Arc::clone(&self.operator), caller, asked: self.asked.clone() };
        v1::operation_server::OperationServer::new(operations).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }
}

/// The reports that the opposite agent may have for the asking. The rest of what it may know the session tells.
struct Reports {
    inspected: Inspected,
    /// Looking at the host costs something: once at a time.
    looking: Arc<Semaphore>,
}

const BY_SESSION: &str = "the opposite agent knows this by the session";

#[tonic::async_trait]
impl v1::inspection_server::Inspection for Reports {
    type EventsStream = ReceiverStream<Result<v1::Events, Status>>;

    async fn events(&self, _: Request<v1::EventsRequest>) -> Result<Response<Self::EventsStream>, Status> {
        Err(Status::permission_denied(BY_SESSION))
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        Err(Status::permission_denied(BY_SESSION))
    }

    async fn doctor(&self, request: Request<v1::DoctorRequest>) -> Result<Response<v1::DoctorReport>, Status> {
        let busy = |_| Status::unavailable(format!("{} is being looked at already: try again", self.inspected.host()));
        let _looking = self.looking.try_acquire().map_err(busy)?;
        self.inspected.doctor(request).await
    }

    async fn ingress(&self, request: Request<v1::IngressRequest>) -> Result<Response<v1::IngressReport>, Status> {
        self.inspected.ingress(request).await
    }

    async fn reach(&self, request: Request<v1::ReachRequest>) -> Result<Response<v1::ReachReport>, Status> {
        self.inspected.reach(request).await
    }

    async fn tunnel(&self, request: Request<v1::TunnelRequest>) -> Result<Response<v1::TunnelReport>, Status> {
        self.inspected.tunnel(request).await
    }
}
