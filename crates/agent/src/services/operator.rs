//! What people ask of this host's services by `agentctl`, done by the supervisor.

use std::collections::BTreeMap;
use std::sync::Arc;

use control::{Outputs, Steps};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt};
use model::{Credential, ExecInput, ExecQuery, LogsQuery, Refusal, RunCommand, ServiceName};
use secrecy::ExposeSecret;
use supervisor::upgrade::{Automatic, Host, HostClock};
use supervisor::{DockerEngine, Operations, apps};
use tokio::sync::{mpsc, watch};

/// What a person needs to log in, by service.
pub(super) type Logins = BTreeMap<ServiceName, Vec<apps::Credential>>;

/// The operations, and the logins that the configuration and its secrets give.
pub(super) struct Operator {
    pub(super) operations: Operations<DockerEngine, Host<DockerEngine>>,
    pub(super) automatic: Arc<ByItself>,
    pub(super) logins: watch::Receiver<Logins>,
}

/// What begins upgrades by itself.
pub(super) type ByItself = Automatic<Host<DockerEngine>, HostClock>;

impl Operator {
    /// Where a service would go by itself, in lines.
    fn outlook(&self, service: ServiceName) -> Steps {
        let (automatic, known) = (Arc::clone(&self.automatic), self.logins.borrow().contains_key(&service));
        let lines = async move {
            if !known {
                return vec![Err(Refusal::NotFound(format!("this host has no service {service}")))];
            }
            match automatic.outlook(&service).await {
                Ok(lines) => lines.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(Refusal::Refused(error.to_string()))],
            }
        };
        stream::once(lines).flat_map(stream::iter).boxed()
    }
}

impl control::Operator for Operator {
    fn run(&self, service: ServiceName, command: RunCommand) -> Steps {
        self.operations.run(service, command)
    }

    fn logs(&self, query: LogsQuery) -> Outputs {
        self.operations.logs(query)
    }

    fn exec(&self, query: ExecQuery, input: mpsc::Receiver<ExecInput>) -> Outputs {
        self.operations.exec(query, input)
    }

    fn credentials(&self, service: ServiceName) -> BoxFuture<'static, Result<Vec<Credential>, Refusal>> {
        let logins = self.logins.borrow().get(&service).cloned();
        Box::pin(async move {
            let logins = logins.ok_or_else(|| Refusal::NotFound(format!("this host has no service {service}")))?;
            let told = |login: apps::Credential| Credential {
                label: login.label.to_owned(),
                value: login.value.expose_secret().to_owned(),
            };
            Ok(logins.into_iter().map(told).collect())
        })
    }

    fn upgrade(&self, service: ServiceName, to: String) -> Steps {
        if to.is_empty() {
            return self.outlook(service);
        }
        self.operations.upgrade(service, to)
    }

    fn rollback(&self, service: ServiceName) -> Steps {
        self.operations.rollback(service)
    }

    fn purge(&self, service: ServiceName) -> Steps {
        self.operations.purge(service)
    }
}
