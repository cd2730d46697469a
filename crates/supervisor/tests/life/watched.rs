//! A supervisor in the test's own process, and what it tells.

use std::sync::Arc;
use std::time::Duration;

use model::{ContainerState, ContainerStatus, Health, ServiceSpec};
use supervisor::{DockerEngine, Supervisor, SupervisorOptions};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::host::Host;

const LIMIT: Duration = Duration::from_secs(40);

/// As in life, with less patience.
const OPTIONS: SupervisorOptions = SupervisorOptions {
    resync: Duration::from_secs(1),
    backoff_first: Duration::from_millis(300),
    backoff_max: Duration::from_secs(1),
    jitter_percent: 20,
    stable_after: Duration::from_secs(3),
};

pub(crate) struct Watched {
    pub(crate) engine: Arc<DockerEngine>,
    pub(crate) inner: Supervisor,
    desired: watch::Sender<Option<Vec<ServiceSpec>>>,
    token: CancellationToken,
}

impl Watched {
    /// A supervisor that knows what is wanted.
    pub(crate) fn start(host: &Host, services: &[ServiceSpec]) -> Self {
        let (watched, desired) = (Arc::new(DockerEngine::new(host.socket(), "test-agent")), Some(services.to_vec()));
        let (desired, receiver) = watch::channel(desired);
        let token = CancellationToken::new();
        let inner = Supervisor::spawn(Arc::clone(&watched), receiver, OPTIONS, token.clone());
        Self { engine: watched, inner, desired, token }
    }

    pub(crate) fn wants(&self, services: &[ServiceSpec]) {
        self.desired.send_replace(Some(services.to_vec()));
    }

    /// Waits until the container's status fits.
    #[track_caller]
    pub(crate) fn until(
        &mut self,
        name: &str,
        what: &str,
        fits: impl Fn(&ContainerStatus) -> bool,
    ) -> impl Future<Output = ContainerStatus> {
        let at = std::panic::Location::caller();
        async move {
            let find = |all: &[ContainerStatus]| all.iter().find(|status| status.name == name && fits(status)).cloned();
            let wait = self.inner.statuses.wait_for(|all| find(all).is_some());
            let found = timeout(LIMIT, wait).await.ok().and_then(|all| find(&all.unwrap()));
            found.unwrap_or_else(|| panic!("{at}: {name} is never {what}: {}", self.describe()))
        }
    }

    /// Waits until the service's health fits.
    #[track_caller]
    pub(crate) fn until_health(
        &mut self,
        service: &str,
        what: &str,
        fits: impl Fn(&Health) -> bool,
    ) -> impl Future<Output = Health> {
        let at = std::panic::Location::caller();
        async move {
            let key = service.parse().unwrap();
            let wait = self.inner.health.wait_for(|all| all.get(&key).is_some_and(&fits));
            let found = timeout(LIMIT, wait).await.ok().and_then(|all| all.unwrap().get(&key).cloned());
            found.unwrap_or_else(|| panic!("{at}: {service} is never {what}: {}", self.describe()))
        }
    }

    /// Waits until all these services are healthy.
    #[track_caller]
    pub(crate) fn until_healthy(&mut self, services: &[&str]) -> impl Future<Output = ()> {
        let at = std::panic::Location::caller();
        async move {
            let wait = self.inner.health.wait_for(|all| {
                let healthy = |service: &&str| all.get(&service.parse().unwrap()) == Some(&Health::Healthy);
                services.iter().all(healthy)
            });
            let healthy = timeout(LIMIT, wait).await.is_ok();
            assert!(healthy, "{at}: {services:?} are never healthy: {}", self.describe());
        }
    }

    pub(crate) fn health(&self, service: &str) -> Health {
        self.inner.health.borrow()[&service.parse().unwrap()].clone()
    }

    pub(crate) fn status(&self, name: &str) -> ContainerStatus {
        self.inner.statuses.borrow().iter().find(|status| status.name == name).unwrap().clone()
    }

    pub(crate) fn restarts(&self, name: &str) -> u64 {
        self.inner.restarts.borrow().get(name).copied().unwrap_or(0)
    }

    /// Waits until it was started again so often.
    pub(crate) async fn until_restarts(&mut self, name: &str, times: u64) {
        let wait = self.inner.restarts.wait_for(|restarts| restarts.get(name).is_some_and(|seen| *seen >= times));
        let counted = timeout(LIMIT, wait).await.is_ok();
        assert!(counted, "{name} is not restarted {times} times: {}", self.describe());
    }

    pub(crate) async fn stop(self) {
        self.token.cancel();
        timeout(Duration::from_secs(5), self.inner.task).await.unwrap().unwrap();
    }

    fn describe(&self) -> String {
        format!("{:#?} {:#?}", self.inner.statuses.borrow(), self.inner.health.borrow())
    }
}

/// It runs, and there is nothing to be said.
pub(crate) fn running(status: &ContainerStatus) -> bool {
    status.state == ContainerState::Running && status.reason.is_none()
}

/// Its reason has this text.
pub(crate) fn says(text: &str) -> impl Fn(&ContainerStatus) -> bool {
    move |status| status.reason.as_ref().is_some_and(|reason| reason.contains(text))
}

/// It is this, by its word, and says that.
pub(crate) fn is(word: &str, text: &str) -> impl Fn(&Health) -> bool {
    move |health| health.word() == word && health.reason().unwrap_or_default().contains(text)
}
