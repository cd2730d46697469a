//! What the authority of an edge issued, for `agentctl` there: the server's side and the client.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use model::{HostId, IssuedIdentity};
use pki::Serial;
use proto::v1;
use tonic::{Request, Response, Status};

use crate::inspector::{Inspector, InspectorError};

/// What is to be revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revoke {
    /// All that was issued to the holder of this name.
    Name(HostId),
    /// One certificate.
    Serial(Serial),
}

/// Lists and revokes what was issued. What cannot be done says why.
pub trait Identities: Send + Sync + 'static {
    /// All, by holder.
    fn list(&self) -> BoxFuture<'static, Result<Vec<IssuedIdentity>, String>>;
    /// Makes certificates count no more. Gives back those that counted until now.
    fn revoke(&self, which: Revoke) -> BoxFuture<'static, Result<Vec<IssuedIdentity>, String>>;
}

/// The server's side.
pub(crate) struct Issued(pub(crate) Arc<dyn Identities>);

fn answer(identities: Result<Vec<IssuedIdentity>, String>) -> Result<Response<v1::IdentitiesResponse>, Status> {
    let certificates = identities.map_err(Status::failed_precondition)?.into_iter().map(Into::into).collect();
    Ok(Response::new(v1::IdentitiesResponse { certificates }))
}

#[tonic::async_trait]
impl v1::identities_server::Identities for Issued {
    async fn list(&self, _: Request<v1::IdentitiesRequest>) -> Result<Response<v1::IdentitiesResponse>, Status> {
        answer(self.0.list().await)
    }

    async fn revoke(
        &self,
        request: Request<v1::RevokeIdentitiesRequest>,
    ) -> Result<Response<v1::IdentitiesResponse>, Status> {
        use v1::revoke_identities_request::Which;
        let invalid = |what| move |_| Status::invalid_argument(format!("which.{what} is none"));
        let which = match request.into_inner().which {
            Some(Which::Name(name)) => Revoke::Name(name.parse().map_err(|_| Status::invalid_argument("no name"))?),
            Some(Which::Serial(serial)) => Revoke::Serial(serial.parse().map_err(invalid("serial"))?),
            None => return Err(Status::invalid_argument("which is missing")),
        };
        answer(self.0.revoke(which).await)
    }
}

impl Inspector {
    /// Asks the agent of an edge what its authority issued.
    ///
    /// # Errors
    /// As [`Self::status`]; [`InspectorError::Refused`] where there is no authority.
    pub async fn identities(&mut self) -> Result<Vec<IssuedIdentity>, InspectorError> {
        let listed = self.identities_client().list(v1::IdentitiesRequest {}).await;
        read(listed.map_err(InspectorError::of_call)?.into_inner())
    }

    /// Has the agent of an edge revoke certificates. Gives back those that counted until now.
    ///
    /// # Errors
    /// As [`Self::identities`].
    pub async fn revoke(&mut self, which: &Revoke) -> Result<Vec<IssuedIdentity>, InspectorError> {
        use v1::revoke_identities_request::Which;
        let which = Some(match which {
            Revoke::Name(name) => Which::Name(name.to_string()),
            Revoke::Serial(serial) => Which::Serial(serial.to_string()),
        });
        let revoked = self.identities_client().revoke(v1::RevokeIdentitiesRequest { which }).await;
        read(revoked.map_err(InspectorError::of_call)?.into_inner())
    }
}

fn read(answer: v1::IdentitiesResponse) -> Result<Vec<IssuedIdentity>, InspectorError> {
    Ok(answer.certificates.into_iter().map(IssuedIdentity::try_from).collect::<Result<_, _>>()?)
}
