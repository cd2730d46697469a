//! The configuration of this agent, for `agentctl`: the server's side.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use model::ConfigReport;
use proto::v1;
use secrecy::{ExposeSecret, SecretString};
use tonic::{Request, Response, Status};

/// Knows the agent's configuration, and puts another in force.
pub trait Configurator: Send + Sync + 'static {
    /// What is in force, and what the file says now. None: the agent is stopping.
    fn show(&self) -> BoxFuture<'static, Option<ConfigReport>>;
    /// Puts what the file says in force, all of it or nothing. None: the agent is stopping.
    fn reload(&self) -> BoxFuture<'static, Option<ConfigReport>>;
    /// What must be in nothing that is handed on. None: the agent is stopping.
    fn secrets(&self) -> BoxFuture<'static, Option<Vec<SecretString>>>;
}

/// The server's side.
pub(crate) struct Configuration(pub(crate) Arc<dyn Configurator>);

fn answer(report: Option<ConfigReport>) -> Result<Response<v1::ConfigReport>, Status> {
    report.map(|report| Response::new(report.into())).ok_or_else(|| Status::unavailable("the agent is stopping"))
}

#[tonic::async_trait]
impl v1::configuration_server::Configuration for Configuration {
    async fn show(&self, _: Request<v1::ConfigShowRequest>) -> Result<Response<v1::ConfigReport>, Status> {
        answer(self.0.show().await)
    }

    async fn secrets(&self, _: Request<v1::SecretsRequest>) -> Result<Response<v1::SecretsResponse>, Status> {
        let secrets = self.0.secrets().await.ok_or_else(|| Status::unavailable("the agent is stopping"))?;
        let secrets = secrets.iter().map(|secret| secret.expose_secret().to_owned()).collect();
        Ok(Response::new(v1::SecretsResponse { secrets }))
    }

    async fn reload(&self, _: Request<v1::ConfigReloadRequest>) -> Result<Response<v1::ConfigReport>, Status> {
        answer(self.0.reload().await)
    }
}
