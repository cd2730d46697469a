//! What people ask of the services of this host: where a wish becomes a change of a record, a request to the supervisor,
//! or a way into a container.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::{BoxStream, StreamExt, select_all};
use model::{
    ContainerState, ContainerStatus, ExecInput, ExecQuery, Health, LogsQuery, Output, Refusal, Run, RunCommand,
    ServiceName, ServiceSpec,
};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_stream::wrappers::ReceiverStream;

use crate::console::{Console, ConsoleCommand};
use crate::record::{Record, RecordError, Records};
use crate::storage::Storage;
use crate::supervisor::{Applied, Requests};
use crate::upgrade::{Effects, Upgrader};
use crate::{EngineError, chain};

/// Steps that wait to be read.
const STEPS: usize = 64;
/// How long a service may take to start or stop before whoever waits is told that it goes on.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// For a container to end before it is removed for good.
const PURGE_GRACE: Duration = Duration::from_secs(30);
/// A service that is not well for so long after a start is told as a failure.
const UNWELL: Duration = Duration::from_secs(60);

/// What is being done, in words; the last one says why not, when it failed. Dropping it stops listening, not the work.
pub type Steps = BoxStream<'static, Result<String, Refusal>>;
/// What was written. Dropping it ends the reading.
pub type Written = BoxStream<'static, Result<Output, Refusal>>;

/// Operations on the services of this host.
#[derive(Debug)]
pub struct Operations<E, H> {
    /// The way into containers.
    pub engine: Arc<E>,
    /// What services are beyond their configuration.
    pub records: Arc<Records>,
    /// Begins upgrades.
    pub upgrader: Arc<Upgrader<H>>,
    /// Asks the supervisor.
    pub requests: Requests,
    /// What is wanted.
    pub specs: watch::Receiver<Option<Vec<ServiceSpec>>>,
    /// What the supervisor acts on.
    pub applied: watch::Receiver<BTreeMap<ServiceName, Applied>>,
    /// The containers as they are.
    pub statuses: watch::Receiver<Vec<ContainerStatus>>,
    /// The services as they are.
    pub health: watch::Receiver<BTreeMap<ServiceName, Health>>,
    /// Services that are being removed with all that they keep, by whoever asked first.
    pub purging: Arc<Mutex<BTreeSet<ServiceName>>>,
}

impl<E, H> Clone for Operations<E, H> {
    fn clone(&self) -> Self {
        Self {
            engine: Arc::clone(&self.engine),
            records: Arc::clone(&self.records),
            upgrader: Arc::clone(&self.upgrader),
            requests: self.requests.clone(),
            specs: self.specs.clone(),
            applied: self.applied.clone(),
            statuses: self.statuses.clone(),
            health: self.health.clone(),
            purging: Arc::clone(&self.purging),
        }
    }
}

/// Holds a service for a purge, until dropped.
struct Purging {
    service: ServiceName,
    all: Arc<Mutex<BTreeSet<ServiceName>>>,
}

impl Purging {
    fn begin(service: &ServiceName, all: &Arc<Mutex<BTreeSet<ServiceName>>>) -> Result<Self, Refusal> {
        if all.lock().unwrap_or_else(PoisonError::into_inner).insert(service.clone()) {
            Ok(Self { service: service.clone(), all: Arc::clone(all) })
        } else {
            let words = "is being removed with all that it keeps; wait until that has ended";
            Err(Refusal::Refused(format!("{service} {words}")))
        }
    }
}

impl Drop for Purging {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.service);
    }
}

/// Tells whoever asked.
struct Teller(mpsc::Sender<Result<String, Refusal>>);

impl Teller {
    /// Nobody may be listening any more; the work goes on.
    async fn tell(&self, step: impl Into<String>) {
        drop(self.0.send(Ok(step.into())).await);
    }
}

fn steps<F>(work: impl FnOnce(Teller) -> F) -> Steps
where
    F: Future<Output = Result<(), Refusal>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(STEPS);
    let work = work(Teller(sender.clone()));
    tokio::spawn(async move {
        if let Err(refusal) = work.await {
            drop(sender.send(Err(refusal)).await);
        }
    });
    ReceiverStream::new(receiver).boxed()
}

impl<E: Console + Storage, H: Effects> Operations<E, H> {
    /// Starts, stops or restarts a service, and waits until that has happened.
    #[must_use]
    pub fn run(&self, service: ServiceName, command: RunCommand) -> Steps {
        let this = self.clone();
        steps(async move |teller| {
            let spec = this.ours(&service)?;
            match command {
                RunCommand::Start => {
                    this.records.set_stopped(&service, false).map_err(|error| refused(&error))?;
                    teller.tell(format!("starting {service}")).await;
                    this.settled(&service, &teller).await
                }
                RunCommand::Stop => {
                    this.records.set_stopped(&service, true).map_err(|error| refused(&error))?;
                    teller.tell(format!("stopping {service}")).await;
                    this.stopped(&spec, &teller).await
                }
                RunCommand::Restart => {
                    let record = this.records.record(&service);
                    if let Some(words) = record.as_ref().and_then(Record::busy) {
                        return Err(Refusal::Refused(format!("{service} is {words}")));
                    }
                    if record.is_some_and(|record| record.stopped) {
                        return Err(Refusal::Refused(format!(
                            "{service} is stopped; `agentctl service {service} start` starts it"
                        )));
                    }
                    teller.tell(format!("stopping {service}")).await;
                    this.requests.restart(service.clone()).await.map_err(|error| Refusal::Failed(chain(&error)))?;
                    teller.tell(format!("starting {service}")).await;
                    this.settled(&service, &teller).await
                }
            }
        })
    }

    /// Upgrades a service to a tag or an image reference, or goes back when that fails.
    #[must_use]
    pub fn upgrade(&self, service: ServiceName, to: String) -> Steps {
        let this = self.clone();
        steps(async move |teller| {
            this.ours(&service)?;
            this.upgrader.upgrade(&service, &to).await.map_err(|error| Refusal::Refused(chain(&error)))?;
            this.followed(&service, &teller).await
        })
    }

    /// Goes back to what was in force before the last upgrade.
    #[must_use]
    pub fn rollback(&self, service: ServiceName) -> Steps {
        let this = self.clone();
        steps(async move |teller| {
            this.ours(&service)?;
            this.upgrader.rollback(&service).await.map_err(|error| Refusal::Refused(chain(&error)))?;
            this.followed(&service, &teller).await
        })
    }

    /// Removes the containers of a service and everything that it keeps, and gives up what is at work on it. It stays
    /// stopped: a start installs it anew. When it is broken off nothing else can be done with the service but this again.
    #[must_use]
    pub fn purge(&self, service: ServiceName) -> Steps {
        let this = self.clone();
        steps(async move |teller| {
            let spec = this.ours(&service)?;
            let _held = Purging::begin(&service, &this.purging)?;
            let record = this.records.record(&service);
            if let Some(journal) = record.and_then(|record| record.journal) {
                teller.tell(format!("giving up: {service} is {}", journal.words())).await;
            }
            this.upgrader.give_up(&service).await.map_err(|error| refused(&error))?;
            teller.tell(format!("stopping {service}")).await;
            this.stopped(&spec, &teller).await?;
            let failed =
                |error: EngineError| Refusal::Failed(format!("{service} is not wholly removed: {}", chain(&error)));
            this.engine.end_helper(&service).await.map_err(failed)?;
            let observed = this.engine.observe().await.map_err(failed)?;
            let owned = observed.containers.iter().filter(|c| c.owned.as_ref().is_some_and(|o| o.service == service));
            for container in owned {
                teller.tell(format!("removing container {}", container.name)).await;
                this.engine.remove(&container.id, PURGE_GRACE).await.map_err(failed)?;
            }
            for volume in observed.volumes.iter().filter(|volume| keeps(&spec, volume)) {
                teller.tell(format!("removing volume {volume}")).await;
                this.engine.remove_volume(volume).await.map_err(failed)?;
            }
            this.records.renew(&service).map_err(|error| refused(&error))?;
            teller
                .tell(format!(
                    "{service} and all that it kept is gone; `agentctl service {service} start` installs it anew, and \
                     without its section in the configuration it stays gone"
                ))
                .await;
            Ok(())
        })
    }

    /// What the containers of a service wrote, and write.
    #[must_use]
    pub fn logs(&self, query: LogsQuery) -> Written {
        let this = self.clone();
        written(async move { this.try_logs(query).await })
    }

    /// Runs a command in a container of a service.
    #[must_use]
    pub fn exec(&self, query: ExecQuery, input: mpsc::Receiver<ExecInput>) -> Written {
        let this = self.clone();
        written(async move { this.try_exec(query, input).await })
    }

    async fn try_logs(&self, query: LogsQuery) -> Result<Written, Refusal> {
        let spec = self.ours(&query.service)?;
        let wanted = match &query.container {
            Some(name) => vec![within(&spec, name)?],
            None => spec.units.iter().map(|unit| unit.container.name.as_str()).collect(),
        };
        let mut all = Vec::new();
        for name in wanted {
            let Some(status) = self.status(name).filter(|status| !status.id.is_empty()) else { continue };
            let output = self.engine.written(&status.id, query.tail, query.follow).await;
            let output = output.map_err(|error| Refusal::Failed(chain(&error)))?;
            let name = name.to_owned();
            all.push(output.map(move |part| match part {
                Ok(part) => Ok(named(part, &name)),
                Err(error) => Err(Refusal::Failed(chain(&error))),
            }));
        }
        if all.is_empty() {
            return Err(Refusal::Refused(format!("no container of {} is there yet", query.service)));
        }
        Ok(select_all(all).boxed())
    }

    async fn try_exec(&self, query: ExecQuery, input: mpsc::Receiver<ExecInput>) -> Result<Written, Refusal> {
        let spec = self.ours(&query.service)?;
        let (container, user, command) = if query.admin {
            let Some(admin) = &spec.admin else {
                return Err(Refusal::Refused(format!("{} has no program of its own to administer it", spec.name)));
            };
            let command = admin.command.iter().cloned().chain(query.command).collect();
            (admin.container.as_str(), Some(admin.user.clone()), command)
        } else {
            let container = match &query.container {
                Some(name) => within(&spec, name)?,
                None => main(&spec)?,
            };
            (container, query.user, query.command)
        };
        let Some(status) = self.status(container).filter(|status| status.state == ContainerState::Running) else {
            return Err(Refusal::Refused(format!(
                "{container} does not run; `agentctl status` says why, `agentctl service {} logs` what it wrote",
                spec.name
            )));
        };
        let command = ConsoleCommand { user, command, terminal: query.terminal };
        let output = self.engine.converse(&status.id, command, input).await;
        let output = output.map_err(|error| Refusal::Failed(chain(&error)))?;
        Ok(output.map(|part| part.map_err(|error| Refusal::Failed(chain(&error)))).boxed())
    }

    /// A service of this host that has containers.
    fn ours(&self, service: &ServiceName) -> Result<ServiceSpec, Refusal> {
        let specs = self.specs.borrow();
        let Some(specs) = specs.as_ref() else {
            return Err(Refusal::Refused(
                "it is not known yet what runs here; `agentctl status` says what is waited for".to_owned(),
            ));
        };
        let Some(spec) = specs.iter().find(|spec| spec.name == *service) else {
            return Err(Refusal::NotFound(format!("this host has no service {service}")));
        };
        if spec.units.is_empty() {
            return Err(Refusal::Refused(format!(
                "{service} is external: it is watched from here, and operated where it runs"
            )));
        }
        Ok(spec.clone())
    }

    fn status(&self, container: &str) -> Option<ContainerStatus> {
        self.statuses.borrow().iter().find(|status| status.name == container).cloned()
    }

    /// Waits until a service works, telling what it waits for.
    async fn settled(&self, service: &ServiceName, teller: &Teller) -> Result<(), Refusal> {
        let mut health = self.health.clone();
        let deadline = Instant::now() + PATIENCE;
        let mut told = None;
        let mut unwell: Option<Instant> = None;
        loop {
            let now = health.borrow_and_update().get(service).cloned().unwrap_or_default();
            match &now {
                Health::Healthy => {
                    teller.tell(format!("{service} is healthy")).await;
                    return Ok(());
                }
                Health::Unhealthy { .. } => unwell = unwell.or_else(|| Some(Instant::now())),
                _ => unwell = None,
            }
            let reason = now.reason().map(str::to_owned);
            if reason.is_some() && reason != told {
                teller.tell(format!("{service} is {}: {}", now.word(), reason.as_deref().unwrap_or_default())).await;
                told = reason;
            }
            if let Health::Degraded { .. } = now {
                return Ok(());
            }
            let until = unwell.map_or(deadline, |since| (since + UNWELL).min(deadline));
            match timeout_at(until, health.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(Refusal::Failed("the agent is stopping".to_owned())),
                Err(_) => {
                    let reason = told.unwrap_or_else(|| "no check has passed yet".to_owned());
                    return Err(Refusal::Failed(format!("{service} does not work yet and is tried again: {reason}")));
                }
            }
        }
    }

    /// Waits until the supervisor has heard that nothing is to run of a service, and nothing does: a start that was under way
    /// is over then.
    async fn stopped(&self, spec: &ServiceSpec, teller: &Teller) -> Result<(), Refusal> {
        let runs = |statuses: &Vec<ContainerStatus>| {
            statuses.iter().any(|status| status.service == spec.name && status.state == ContainerState::Running)
        };
        let acts = |all: &BTreeMap<ServiceName, Applied>| all.get(&spec.name).is_some_and(|a| a.run == Run::Nothing);
        let (mut applied, mut statuses) = (self.applied.clone(), self.statuses.clone());
        let ended = async {
            applied.wait_for(acts).await.map(drop)?;
            statuses.wait_for(|statuses| !runs(statuses)).await.map(drop)
        };
        match timeout(PATIENCE, ended).await {
            Ok(Ok(())) => {
                teller.tell(format!("{} is stopped", spec.name)).await;
                Ok(())
            }
            Ok(Err(_)) => Err(Refusal::Failed("the agent is stopping".to_owned())),
            Err(_) => Err(Refusal::Failed(format!("{} has not stopped yet; `agentctl status` says why", spec.name))),
        }
    }

    /// Tells how an upgrade or a way back goes, until it has ended.
    async fn followed(&self, service: &ServiceName, teller: &Teller) -> Result<(), Refusal> {
        let mut records = self.records.watch();
        let mut told = String::new();
        loop {
            let Some(record) = records.borrow_and_update().get(service).cloned() else {
                return Err(Refusal::Failed(format!("the record of {service} is gone")));
            };
            let Some(journal) = &record.journal else {
                let Some(ended) = &record.last else { return Ok(()) };
                let words = format!("{service} {}", ended.words());
                return match &ended.failure {
                    None => {
                        teller.tell(words).await;
                        Ok(())
                    }
                    Some(failure) => Err(Refusal::Failed(
                        [words]
                            .into_iter()
                            .chain(failure.log.iter().map(|line| format!("  {line}")))
                            .collect::<Vec<_>>()
                            .join("\n"),
                    )),
                };
            };
            let words = journal.words();
            if words != told {
                teller.tell(format!("{service} is {words}")).await;
                told = words;
            }
            if records.changed().await.is_err() {
                return Err(Refusal::Failed("the agent is stopping; its next start goes on".to_owned()));
            }
        }
    }
}

/// A stream that begins once `begin` has it.
fn written(begin: impl Future<Output = Result<Written, Refusal>> + Send + 'static) -> Written {
    futures_util::stream::once(begin)
        .flat_map(|begun| match begun {
            Ok(output) => output,
            Err(refusal) => futures_util::stream::iter([Err(refusal)]).boxed(),
        })
        .boxed()
}

fn named(part: Output, container: &str) -> Output {
    let container = container.to_owned();
    match part {
        Output::Stdout { bytes, .. } => Output::Stdout { container, bytes },
        Output::Stderr { bytes, .. } => Output::Stderr { container, bytes },
        ended @ Output::Ended(_) => ended,
    }
}

/// The container of that name, if it is one of the service's.
fn within<'a>(spec: &'a ServiceSpec, name: &str) -> Result<&'a str, Refusal> {
    let names = || spec.units.iter().map(|unit| unit.container.name.as_str());
    names().find(|own| *own == name).ok_or_else(|| {
        let names = names().collect::<Vec<_>>().join(", ");
        Refusal::NotFound(format!("{} has no container {name}; it has {names}", spec.name))
    })
}

/// The container in which a command runs unless another is named: the application's own.
fn main(spec: &ServiceSpec) -> Result<&str, Refusal> {
    let application = spec.upgrade.as_ref().and_then(|upgrade| upgrade.units.first()).map(String::as_str);
    let last = || spec.units.last().map(|unit| unit.container.name.as_str());
    application.or_else(last).ok_or_else(|| Refusal::Refused(format!("{} has no container", spec.name)))
}

/// Whether a volume is one of the service's, or a copy of one.
fn keeps(spec: &ServiceSpec, volume: &str) -> bool {
    spec.volumes.iter().any(|own| {
        volume.strip_prefix(own.name.as_str()).is_some_and(|rest| {
            let copy = rest.strip_prefix(".g").is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
            rest.is_empty() || copy
        })
    })
}

fn refused(error: &RecordError) -> Refusal {
    match error {
        RecordError::State(_) | RecordError::Directory { .. } => Refusal::Failed(chain(error)),
        RecordError::Missing { .. } | RecordError::Busy { .. } => Refusal::Refused(chain(error)),
    }
}
