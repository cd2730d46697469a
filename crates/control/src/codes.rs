//! Join codes, for `agentctl` on the edge: the server's side and the client.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use model::JoinCodeInfo;
use proto::v1;
use secrecy::{ExposeSecret, SecretString};
use tonic::{Request, Response, Status};

use crate::inspector::{Inspector, InspectorError};

/// Makes, lists and ends join codes. What cannot be done says why.
pub trait JoinCodes: Send + Sync + 'static {
    /// A new code for an edge that is reached at `address`, good for `life`.
    fn new_code(
        &self,
        address: Option<Ipv4Addr>,
        life: Duration,
    ) -> BoxFuture<'static, Result<(SecretString, JoinCodeInfo), String>>;
    /// Those that are open, or have ended within a week.
    fn list(&self) -> BoxFuture<'static, Result<Vec<JoinCodeInfo>, String>>;
    /// Ends an open one.
    fn revoke(&self, id: String) -> BoxFuture<'static, Result<JoinCodeInfo, String>>;
}

/// The server's side.
pub(crate) struct Served(pub(crate) Arc<dyn JoinCodes>);

#[tonic::async_trait]
impl v1::join_codes_server::JoinCodes for Served {
    async fn create(&self, request: Request<v1::NewCodeRequest>) -> Result<Response<v1::NewCodeResponse>, Status> {
        let asked = request.into_inner();
        let address = match asked.address.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| Status::invalid_argument("address is no IPv4 address"))?),
        };
        let made = self.0.new_code(address, Duration::from_secs(asked.life_seconds)).await;
        let (code, info) = made.map_err(Status::failed_precondition)?;
        Ok(Response::new(v1::NewCodeResponse { code: code.expose_secret().to_owned(), info: Some(info.into()) }))
    }

    async fn list(&self, _: Request<v1::CodesRequest>) -> Result<Response<v1::CodesResponse>, Status> {
        let codes = self.0.list().await.map_err(Status::failed_precondition)?;
        Ok(Response::new(v1::CodesResponse { codes: codes.into_iter().map(Into::into).collect() }))
    }

    async fn revoke(&self, request: Request<v1::RevokeCodeRequest>) -> Result<Response<v1::JoinCode>, Status> {
        let code = self.0.revoke(request.into_inner().id).await.map_err(Status::failed_precondition)?;
        Ok(Response::new(code.into()))
    }
}

impl Inspector {
    /// Has the agent of an edge make a join code, for an edge that is reached at `address`, good for `life`.
    ///
    /// # Errors
    /// As [`Self::status`]; [`InspectorError::Refused`] says why none is made.
    pub async fn new_code(
        &mut self,
        address: Option<Ipv4Addr>,
        life: Duration,
    ) -> Result<(SecretString, JoinCodeInfo), InspectorError> {
        let address = address.map(|address| address.to_string()).unwrap_or_default();
        let asked = v1::NewCodeRequest { address, life_seconds: life.as_secs() };
        let made = self.codes_client().create(asked).await.map_err(InspectorError::of_call)?.into_inner();
        Ok((made.code.into(), made.info.ok_or(InspectorError::Empty)?.try_into()?))
    }

    /// Asks for the join codes that are open, or have ended within a week.
    ///
    /// # Errors
    /// As [`Self::new_code`].
    pub async fn codes(&mut self) -> Result<Vec<JoinCodeInfo>, InspectorError> {
        let codes = self.codes_client().list(v1::CodesRequest {}).await.map_err(InspectorError::of_call)?;
        Ok(codes.into_inner().codes.into_iter().map(JoinCodeInfo::try_from).collect::<Result<_, _>>()?)
    }

    /// Ends an open join code.
    ///
    /// # Errors
    /// As [`Self::new_code`].
    pub async fn revoke_code(&mut self, id: &str) -> Result<JoinCodeInfo, InspectorError> {
        let code = self.codes_client().revoke(v1::RevokeCodeRequest { id: id.to_owned() }).await;
        Ok(code.map_err(InspectorError::of_call)?.into_inner().try_into()?)
    }
}
