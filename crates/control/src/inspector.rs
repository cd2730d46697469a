//! The client of an agent's inspection service.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::stream::{Stream, StreamExt};
use hyper_util::rt::TokioIo;
use model::{ConfigReport, Event, Finding, HostStatus, IngressReport, PortReach, TunnelReport};
use proto::{InvalidMessage, MAX_MESSAGE_BYTES, v1};
use secrecy::SecretString;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};

use crate::operate::{OperationsClient, broken_off};
use crate::opposite::{self, Opposite};

/// How long `agentctl` waits for the agent next to it.
const DEADLINE: Duration = Duration::from_secs(5);

/// Why the inspection service could not start, or an agent could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum InspectorError {
    /// The socket could not be made.
    #[error("the agent's socket {path} cannot be made")]
    Bind {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The server ended.
    #[error("the inspection service failed")]
    Serve(#[source] tonic::transport::Error),
    /// Nobody answers on the socket.
    #[error("no agent answers on {path}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
    /// The agent does not know the question: it is of an older release.
    #[error("the agent is of a release that cannot answer this")]
    Unknown,
    /// The agent cannot do that as things are.
    #[error("{0}")]
    Refused(String),
    /// The opposite agent does not do this for this host; it says why.
    #[error("{0}")]
    Forbidden(String),
    /// The opposite agent cannot be asked; the agent says why.
    #[error("{0}")]
    Away(String),
    /// The agent answered with an error.
    #[error("the agent refused the request")]
    Call(#[source] Box<Status>),
    /// The agent's answer makes no sense.
    #[error("the agent's answer cannot be read: bring agent and agentctl to the same release")]
    Answer(#[from] InvalidMessage),
    /// The agent's answer lacks its own status.
    #[error("the agent's answer lacks its own status")]
    Empty,
}

impl InspectorError {
    pub(crate) fn of_call(status: Status) -> Self {
        match status.code() {
            Code::Unimplemented => Self::Unknown,
            Code::FailedPrecondition => Self::Refused(proto::bounded(status.message())),
            Code::PermissionDenied => Self::Forbidden(proto::bounded(status.message())),
            Code::Unavailable if !broken_off(&status) => Self::Away(proto::bounded(status.message())),
            _ => Self::Call(Box::new(status)),
        }
    }
}

/// A client of an agent's inspection service.
#[derive(Debug, Clone)]
pub struct Inspector {
    channel: Channel,
    /// What paths begin with.
    origin: Uri,
    client: v1::inspection_client::InspectionClient<Channel>,
}

impl Inspector {
    /// Connects to the agent whose socket is at `path`.
    ///
    /// # Errors
    /// When nobody answers there.
    pub async fn connect(path: &Path) -> Result<Self, InspectorError> {
        let socket = path.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://agent.cloudathome.internal")
            .connect_timeout(DEADLINE)
            .timeout(DEADLINE)
            .connect_with_connector(connector)
            .await
            .map_err(|source| InspectorError::Connect { path: path.to_owned(), source })?;
        Ok(Self::new(channel, Uri::default()))
    }

    pub(crate) fn new(channel: Channel, origin: Uri) -> Self {
        let client = v1::inspection_client::InspectionClient::with_origin(channel.clone(), origin.clone())
            .max_decoding_message_size(2 * MAX_MESSAGE_BYTES);
        Self { channel, origin, client }
    }

    /// The same of the opposite agent, asked by way of this one. It answers for its own reports and operations.
    #[must_use]
    pub fn opposite(&self) -> Self {
        Self::new(self.channel.clone(), Uri::from_static(opposite::PREFIX))
    }

    /// This agent as the opposite one of another.
    #[must_use]
    pub fn as_opposite(&self) -> Opposite {
        Opposite::at(self.channel.clone())
    }

    /// Asks for the status of both hosts: the agent's own, and its peer's with its age.
    ///
    /// # Errors
    /// When the agent does not answer within five seconds or its answer cannot be read.
    pub async fn status(&mut self) -> Result<(HostStatus, Option<(HostStatus, Duration)>), InspectorError> {
        let answer = self.client.status(v1::StatusRequest {}).await.map_err(InspectorError::of_call)?;
        let answer = answer.into_inner();
        let local = answer.local.ok_or(InspectorError::Empty)?.try_into()?;
        let age = Duration::from_secs(answer.peer_age_seconds.unwrap_or_default());
        let peer = answer.peer.map(HostStatus::try_from).transpose()?.map(|peer| (peer, age));
        Ok((local, peer))
    }

    /// Asks for the agent's own tunnel in detail.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn tunnel(&mut self) -> Result<TunnelReport, InspectorError> {
        let answer = self.client.tunnel(v1::TunnelRequest {}).await;
        Ok(answer.map_err(InspectorError::of_call)?.into_inner().try_into()?)
    }

    /// Asks what the ingress of the agent's host publishes.
    ///
    /// # Errors
    /// As [`Self::status`]; [`InspectorError::Refused`] where there is none.
    pub async fn ingress(&mut self) -> Result<IngressReport, InspectorError> {
        let answer = self.client.ingress(v1::IngressRequest {}).await;
        Ok(answer.map_err(InspectorError::of_call)?.into_inner().try_into()?)
    }

    /// Has the agent look at its host.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn doctor(&mut self) -> Result<Vec<Finding>, InspectorError> {
        let answer = self.client.doctor(v1::DoctorRequest {}).await;
        Ok(answer.map_err(InspectorError::of_call)?.into_inner().try_into()?)
    }

    /// Has the agent look at the ports that the opposite host keeps open to the world.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn reach(&mut self) -> Result<Vec<PortReach>, InspectorError> {
        let answer = self.client.reach(v1::ReachRequest {}).await;
        Ok(answer.map_err(InspectorError::of_call)?.into_inner().try_into()?)
    }

    /// Asks what happened on both hosts, oldest first, with times by the agent's clock; with `follow` also what happens from now on,
    /// without end.
    ///
    /// # Errors
    /// As [`Self::status`]; also later, when the agent goes away.
    pub async fn events(
        &mut self,
        follow: bool,
    ) -> Result<impl Stream<Item = Result<Vec<Event>, InspectorError>> + use<>, InspectorError> {
        let stream = self.client.events(v1::EventsRequest { follow }).await.map_err(InspectorError::of_call)?;
        Ok(stream.into_inner().map(|events| {
            let (_, events) = proto::events(events.map_err(InspectorError::of_call)?)?;
            Ok(events)
        }))
    }

    /// Asks for the configuration in force, and what its file says now.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn config(&mut self) -> Result<ConfigReport, InspectorError> {
        let answer = self.configuration().show(v1::ConfigShowRequest {}).await;
        Ok(answer.map_err(InspectorError::of_call)?.into_inner().into())
    }

    /// Has the agent read its configuration again and put it in force, all of it or nothing. A file that cannot be, and one that
    /// was refused, is no error of this call.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn reload(&mut self) -> Result<ConfigReport, InspectorError> {
        let answer = self.configuration().reload(v1::ConfigReloadRequest {}).await;
        Ok(answer.map_err(InspectorError::of_call)?.into_inner().into())
    }

    /// Asks what must be in nothing that is handed on: secrets that are configured, and those that were generated.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn secrets(&mut self) -> Result<Vec<SecretString>, InspectorError> {
        let answer = self.configuration().secrets(v1::SecretsRequest {}).await;
        Ok(answer.map_err(InspectorError::of_call)?.into_inner().secrets.into_iter().map(Into::into).collect())
    }

    pub(crate) fn identities_client(&self) -> v1::identities_client::IdentitiesClient<Channel> {
        v1::identities_client::IdentitiesClient::new(self.channel.clone())
            .max_decoding_message_size(2 * MAX_MESSAGE_BYTES)
    }

    pub(crate) fn devices_client(&self) -> v1::devices_client::DevicesClient<Channel> {
        v1::devices_client::DevicesClient::new(self.channel.clone()).max_decoding_message_size(2 * MAX_MESSAGE_BYTES)
    }

    pub(crate) fn codes_client(&self) -> v1::join_codes_client::JoinCodesClient<Channel> {
        v1::join_codes_client::JoinCodesClient::new(self.channel.clone())
    }

    fn configuration(&self) -> v1::configuration_client::ConfigurationClient<Channel> {
        v1::configuration_client::ConfigurationClient::new(self.channel.clone())
            .max_decoding_message_size(2 * MAX_MESSAGE_BYTES)
    }

    /// Operations on the services of the agent's host, over the same connection.
    #[must_use]
    pub fn operations(&self) -> OperationsClient {
        let (channel, origin) = (self.channel.clone(), self.origin.clone());
        OperationsClient(v1::operation_client::OperationClient::with_origin(channel, origin))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn an_older_agent_is_told_from_one_that_fails() {
        assert!(matches!(InspectorError::of_call(Status::unimplemented("")), InspectorError::Unknown));
        assert!(matches!(InspectorError::of_call(Status::internal("")), InspectorError::Call(_)));
        let refused = InspectorError::of_call(Status::failed_precondition("there is none"));
        assert_eq!(refused.to_string(), "there is none");
        assert!(matches!(InspectorError::of_call(Status::unavailable("")), InspectorError::Away(_)));
        let mut broken = Status::unavailable("");
        broken.set_source(Arc::new(io::Error::other("gone")));
        assert!(matches!(InspectorError::of_call(broken), InspectorError::Call(_)));
    }
}
