//! Devices of an edge, for `agentctl` there: the server's side and the client.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use model::{DeviceGrant, DeviceInfo, DeviceQuery, HostId};
use proto::v1;
use tonic::{Request, Response, Status};

use crate::inspector::{Inspector, InspectorError};

/// Gives devices their profiles, lists and revokes them. What cannot be done says why.
pub trait Devices: Send + Sync + 'static {
    /// A new device.
    fn add(&self, query: DeviceQuery) -> BoxFuture<'static, Result<DeviceGrant, String>>;
    /// All, by name.
    fn list(&self) -> BoxFuture<'static, Result<Vec<DeviceInfo>, String>>;
    /// Makes all certificates of a device count no more. Gives back how many counted until now.
    fn revoke(&self, name: HostId) -> BoxFuture<'static, Result<u32, String>>;
    /// A new profile for a device that there is; then its certificates from before count no more.
    fn reissue(&self, query: DeviceQuery) -> BoxFuture<'static, Result<DeviceGrant, String>>;
}

/// The server's side.
pub(crate) struct Offered(pub(crate) Arc<dyn Devices>);

type Granted = Result<Response<v1::DeviceProfileResponse>, Status>;

fn query(request: Request<v1::DeviceProfileRequest>) -> Result<DeviceQuery, Status> {
    DeviceQuery::try_from(request.into_inner()).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn granted(grant: Result<DeviceGrant, String>) -> Granted {
    Ok(Response::new(grant.map_err(Status::failed_precondition)?.into()))
}

#[tonic::async_trait]
impl v1::devices_server::Devices for Offered {
    async fn add(&self, request: Request<v1::DeviceProfileRequest>) -> Granted {
        granted(self.0.add(query(request)?).await)
    }

    async fn list(&self, _: Request<v1::DevicesRequest>) -> Result<Response<v1::DevicesResponse>, Status> {
        let devices = self.0.list().await.map_err(Status::failed_precondition)?;
        Ok(Response::new(v1::DevicesResponse { devices: devices.into_iter().map(Into::into).collect() }))
    }

    async fn revoke(
        &self,
        request: Request<v1::RevokeDeviceRequest>,
    ) -> Result<Response<v1::RevokeDeviceResponse>, Status> {
        let name = request.into_inner().name.parse().map_err(|_| Status::invalid_argument("name is none"))?;
        let revoked = self.0.revoke(name).await.map_err(Status::failed_precondition)?;
        Ok(Response::new(v1::RevokeDeviceResponse { revoked }))
    }

    async fn reissue(&self, request: Request<v1::DeviceProfileRequest>) -> Granted {
        granted(self.0.reissue(query(request)?).await)
    }
}

impl Inspector {
    /// Has the agent of an edge take in a new device.
    ///
    /// # Errors
    /// As [`Self::status`]; [`InspectorError::Refused`] says why it gets no profile, and then nothing has changed.
    pub async fn add_device(&mut self, query: DeviceQuery) -> Result<DeviceGrant, InspectorError> {
        let made = self.devices_client().add(v1::DeviceProfileRequest::from(query)).await;
        Ok(made.map_err(InspectorError::of_call)?.into_inner().into())
    }

    /// Asks for the devices of an edge.
    ///
    /// # Errors
    /// As [`Self::add_device`].
    pub async fn devices(&mut self) -> Result<Vec<DeviceInfo>, InspectorError> {
        let listed = self.devices_client().list(v1::DevicesRequest {}).await.map_err(InspectorError::of_call)?;
        Ok(listed.into_inner().devices.into_iter().map(DeviceInfo::try_from).collect::<Result<_, _>>()?)
    }

    /// Has the agent of an edge revoke all certificates of a device. Gives back how many counted until now.
    ///
    /// # Errors
    /// As [`Self::add_device`].
    pub async fn revoke_device(&mut self, name: &HostId) -> Result<u32, InspectorError> {
        let revoked = self.devices_client().revoke(v1::RevokeDeviceRequest { name: name.to_string() }).await;
        Ok(revoked.map_err(InspectorError::of_call)?.into_inner().revoked)
    }

    /// Has the agent of an edge give a device another profile in place of those that it has.
    ///
    /// # Errors
    /// As [`Self::add_device`].
    pub async fn reissue_device(&mut self, query: DeviceQuery) -> Result<DeviceGrant, InspectorError> {
        let made = self.devices_client().reissue(v1::DeviceProfileRequest::from(query)).await;
        Ok(made.map_err(InspectorError::of_call)?.into_inner().into())
    }
}
