//! The task that makes the engine agree with what is wanted.
//!
//! It is level-triggered: each pass reads what is desired and what the engine reports, plans, and executes; events and
//! timers only say when to look again. Nothing is remembered that a pass could not find out, except how often
//! something failed. So it can stop at any point, and the next pass, or the next process, goes on from there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{BoxStream, StreamExt};
use model::{ContainerSpec, ContainerState, ContainerStatus, ServiceName};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::engine::{Engine, EngineError, Hint};
use crate::plan::{
    Action, EngineState, LABEL_DEFINITION, LABEL_IMAGE_ID, LABEL_SERVICE, Observed, ObservedContainer, Plan, Step,
    definition_hash, plan,
};
use crate::track::{Backoff, Track};
use crate::{FETCHING, NAME_PREFIX, chain};

/// An engine that is gone is asked again at least this often: one that comes back may have stopped everything.
const ENGINE_RETRY_MAX: Duration = Duration::from_secs(5);
/// A stream of hints that breaks at once is not opened again sooner.
const RESUBSCRIBE: Duration = Duration::from_secs(1);
/// Log lines that go into the reason of a container that ended.
const REASON_LINES: usize = 3;
/// Characters of them.
const REASON_CHARS: usize = 400;

/// How often things are tried.
#[derive(Debug, Clone, Copy)]
pub struct SupervisorOptions {
    /// The engine is looked at this often even when nothing was heard from it.
    pub resync: Duration,
    /// The wait after the first failure; it doubles with each further one.
    pub backoff_first: Duration,
    /// The longest wait between two tries.
    pub backoff_max: Duration,
    /// A container that has run for so long is no longer looping.
    pub stable_after: Duration,
}

impl Default for SupervisorOptions {
    fn default() -> Self {
        Self {
            resync: Duration::from_secs(10),
            backoff_first: Duration::from_secs(1),
            backoff_max: Duration::from_secs(30),
            stable_after: Duration::from_secs(60),
        }
    }
}

/// A running supervisor, to be watched.
#[derive(Debug)]
pub struct Supervisor {
    /// Every desired container and how it is, in the order of the definitions. Empty until the first look.
    pub statuses: watch::Receiver<Vec<ContainerStatus>>,
    /// By container name: how many times it was started again after it had ended by itself, since the agent started.
    pub restarts: watch::Receiver<BTreeMap<String, u64>>,
    /// Ends soon after the token is cancelled. Containers are left as they are.
    pub task: JoinHandle<()>,
}

impl Supervisor {
    /// Starts supervising. While `desired` holds none nothing is known yet and nothing is touched; an empty list
    /// means that no container is wanted, and ours are removed (their volumes stay).
    pub fn spawn<E: Engine>(
        engine: Arc<E>,
        desired: watch::Receiver<Option<Vec<ContainerSpec>>>,
        options: SupervisorOptions,
        token: CancellationToken,
    ) -> Self {
        let (statuses_sender, statuses) = watch::channel(Vec::new());
        let (restarts_sender, restarts) = watch::channel(BTreeMap::new());
        let worker = Worker {
            engine,
            desired,
            backoff: Backoff {
                first: options.backoff_first,
                max: options.backoff_max,
                stable_after: options.stable_after,
            },
            resync: options.resync,
            statuses: statuses_sender,
            restarts: restarts_sender,
            observed: None,
            engine_failures: 0,
            engine_reason: None,
            tracks: BTreeMap::new(),
            notes: BTreeMap::new(),
            pulls: JoinSet::new(),
            pulling: BTreeSet::new(),
            hints: None,
            subscribed_at: None,
        };
        let task = tokio::spawn(async move {
            // Dropping the work anywhere is fine: see the module's text.
            let _ = token.run_until_cancelled(worker.run()).await;
        });
        Self { statuses, restarts, task }
    }
}

struct Worker<E> {
    engine: Arc<E>,
    desired: watch::Receiver<Option<Vec<ContainerSpec>>>,
    backoff: Backoff,
    resync: Duration,
    statuses: watch::Sender<Vec<ContainerStatus>>,
    restarts: watch::Sender<BTreeMap<String, u64>>,
    /// What the engine reported last.
    observed: Option<Observed>,
    engine_failures: u32,
    engine_reason: Option<String>,
    /// By container name.
    tracks: BTreeMap<String, Track>,
    /// What stands in a container's way in this pass, by name.
    notes: BTreeMap<String, String>,
    pulls: JoinSet<(String, Result<(), EngineError>)>,
    pulling: BTreeSet<String>,
    hints: Option<BoxStream<'static, Hint>>,
    subscribed_at: Option<Instant>,
}

/// Why a step did not happen.
enum Obstacle {
    /// It will by itself; nothing failed.
    Wait(String),
    Failed(EngineError),
}

impl From<EngineError> for Obstacle {
    fn from(error: EngineError) -> Self {
        Self::Failed(error)
    }
}

impl<E: Engine> Worker<E> {
    async fn run(mut self) {
        loop {
            let next = self.pass().await;
            self.wait(next).await;
        }
    }

    /// Looks, plans, executes and publishes once. Returns when to look again at the latest.
    async fn pass(&mut self) -> Instant {
        let desired = self.desired.borrow_and_update().clone();
        if !self.look(desired.as_deref()).await {
            self.publish(desired.as_deref());
            self.engine_failures = self.engine_failures.saturating_add(1);
            self.tracks.values_mut().for_each(Track::lost_sight);
            return Instant::now() + self.backoff.delay(self.engine_failures).min(ENGINE_RETRY_MAX);
        }
        self.engine_failures = 0;
        self.subscribe();
        if let Some(desired) = &desired {
            self.account(desired).await;
            let plan = plan(desired, self.observed.as_ref().unwrap_or(&Observed::default()));
            let idle = plan.steps.is_empty();
            self.notes = plan.refusals.iter().map(|r| (r.container.clone(), r.reason.clone())).collect();
            self.publish(Some(desired));
            if !idle {
                self.execute(desired, plan).await;
                self.look(Some(desired)).await;
            }
        }
        self.publish(desired.as_deref());
        self.next_look()
    }

    /// Reads the engine's state. Returns whether it answered.
    async fn look(&mut self, desired: Option<&[ContainerSpec]>) -> bool {
        match self.engine.observe().await {
            Ok(observed) => {
                if self.engine_reason.take().is_some() {
                    info!("the container engine answers again");
                }
                self.observed = Some(observed);
                true
            }
            Err(error) => {
                let reason = format!("{}; containers that run keep running, and it is asked again", chain(&error));
                if self.engine_reason.as_ref() != Some(&reason) {
                    warn!(containers = desired.map_or(0, <[_]>::len), reason, "the container engine does not answer");
                    self.engine_reason = Some(reason);
                }
                false
            }
        }
    }

    fn subscribe(&mut self) {
        let now = Instant::now();
        if self.hints.is_none() && self.subscribed_at.is_none_or(|at| now.duration_since(at) >= RESUBSCRIBE) {
            self.hints = Some(self.engine.hints());
            self.subscribed_at = Some(now);
        }
    }

    /// Notes what runs and what ended by itself.
    async fn account(&mut self, desired: &[ContainerSpec]) {
        self.tracks.retain(|name, _| desired.iter().any(|spec| &spec.name == name));
        for spec in desired {
            let definition = definition_hash(spec);
            let track = self.tracks.entry(spec.name.clone()).or_default();
            track.wanted(&definition);
            let Some(container) = self.observed.as_ref().and_then(|observed| observed.ours(&spec.name)) else {
                continue;
            };
            if container.owned.as_ref().is_none_or(|owned| owned.definition != definition) {
                // An old one that still runs says nothing about the one that is to replace it.
                continue;
            }
            let now = Instant::now();
            match container.state {
                EngineState::Running | EngineState::Paused => track.seen_running(now, &self.backoff, &container.id),
                EngineState::Exited if track.was_running(&container.id) => {
                    let what = ending(&*self.engine, container).await;
                    let (times, delay) = track.ended(now, &self.backoff, &what);
                    warn!(container = spec.name, times, retry_seconds = delay.as_secs(), "container ended: {what}");
                }
                EngineState::Created | EngineState::Exited | EngineState::Dead => {}
            }
        }
    }

    async fn execute(&mut self, desired: &[ContainerSpec], plan: Plan) {
        // A service with an obstacle gets no further steps in this pass, the others do.
        let mut blocked: BTreeMap<ServiceName, String> =
            plan.refusals.into_iter().map(|refusal| (refusal.service, refusal.container)).collect();
        for step in plan.steps {
            if let Some(by) = blocked.get(&step.service) {
                if *by != step.container {
                    self.notes.entry(step.container).or_insert_with(|| format!("waits for {by}"));
                }
                continue;
            }
            let wanted = desired.iter().any(|spec| spec.name == step.container);
            let now = Instant::now();
            if self.tracks.get(&step.container).is_some_and(|track| track.waits_until(now).is_some()) {
                blocked.insert(step.service, step.container);
                continue;
            }
            match self.take(&step).await {
                Ok(()) => {}
                Err(Obstacle::Wait(why)) => {
                    // A failure stays told while it is tried again.
                    if self.tracks.get(&step.container).is_none_or(|track| track.reason().is_none()) {
                        self.notes.insert(step.container.clone(), why);
                    }
                    blocked.insert(step.service, step.container);
                }
                Err(Obstacle::Failed(error)) if wanted => {
                    self.failed(&step.container, explain(&error, desired, &step.container));
                    blocked.insert(step.service, step.container);
                }
                Err(Obstacle::Failed(error)) => {
                    warn!(container = step.container, "removing a container no longer wanted: {}", chain(&error));
                }
            }
        }
    }

    async fn take(&mut self, step: &Step) -> Result<(), Obstacle> {
        let name = &step.container;
        match &step.action {
            Action::EnsureImage(reference) => self.ensure_image(reference).await,
            Action::CreateNetwork(network) => {
                info!(container = name, network, "making network");
                self.engine.ensure_network(network).await?;
                Ok(())
            }
            Action::CreateVolume(volume) => {
                info!(container = name, volume, "making volume");
                Ok(self.engine.ensure_volume(volume).await?)
            }
            Action::Remove { id, grace } => {
                info!(container = name, id = short(id), "stopping and removing container");
                Ok(self.engine.remove(id, *grace).await?)
            }
            Action::Create(spec) => {
                let image = self.engine.image_id(&spec.image).await?.unwrap_or_default();
                let labels = BTreeMap::from([
                    (LABEL_SERVICE.to_owned(), spec.service.to_string()),
                    (LABEL_DEFINITION.to_owned(), definition_hash(spec)),
                    (LABEL_IMAGE_ID.to_owned(), image),
                ]);
                let id = self.engine.create(spec, labels).await?;
                info!(container = name, id = short(&id), image = spec.image, "created container");
                self.start(&id, spec).await
            }
            Action::Start { id, spec } => self.start(id, spec).await,
        }
    }

    /// Files are placed before every start: whoever created the container may have been stopped before it came to that.
    async fn start(&mut self, id: &str, spec: &ContainerSpec) -> Result<(), Obstacle> {
        self.engine.upload(id, &spec.secrets).await?;
        self.engine.start(id).await?;
        info!(container = spec.name, id = short(id), "started container");
        self.tracks.entry(spec.name.clone()).or_default().started(Instant::now(), id);
        Ok(())
    }

    /// A pull may take an hour and runs beside everything else.
    async fn ensure_image(&mut self, reference: &str) -> Result<(), Obstacle> {
        let fetching = || Obstacle::Wait(format!("{FETCHING} {reference}"));
        if self.pulling.contains(reference) {
            return Err(fetching());
        }
        if self.engine.image_id(reference).await?.is_some() {
            return Ok(());
        }
        info!(image = reference, "the image is not on this host; fetching it");
        let (engine, reference) = (Arc::clone(&self.engine), reference.to_owned());
        self.pulling.insert(reference.clone());
        let obstacle = fetching();
        self.pulls.spawn(async move {
            let result = engine.pull(&reference).await;
            (reference, result)
        });
        Err(obstacle)
    }

    fn pulled(&mut self, reference: &str, result: Result<(), EngineError>) {
        self.pulling.remove(reference);
        let Err(error) = result else {
            info!(image = reference, "fetched image");
            return;
        };
        let reason = chain(&error);
        let desired = self.desired.borrow().clone().unwrap_or_default();
        for spec in desired.iter().filter(|spec| spec.image == reference) {
            self.failed(&spec.name, reason.clone());
        }
    }

    fn failed(&mut self, name: &str, reason: String) {
        let track = self.tracks.entry(name.to_owned()).or_default();
        if track.failed(Instant::now(), &self.backoff, reason.clone()) {
            warn!(container = name, "{reason}");
        } else {
            debug!(container = name, "still: {reason}");
        }
    }

    fn publish(&self, desired: Option<&[ContainerSpec]>) {
        let mut statuses: Vec<ContainerStatus> = match (desired, &self.observed) {
            (Some(desired), _) => desired.iter().map(|spec| self.status(spec)).collect(),
            (None, Some(observed)) => observed.containers.iter().filter_map(adopted_status).collect(),
            (None, None) => Vec::new(),
        };
        if let Some(reason) = &self.engine_reason {
            for status in &mut statuses {
                status.reason = Some(reason.clone());
            }
        }
        // Counters first: whoever sees the status of a container that runs again finds it counted.
        let restarts = self.tracks.iter().map(|(name, track)| (name.clone(), track.restarts())).collect();
        replace(&self.restarts, restarts);
        replace(&self.statuses, statuses);
    }

    fn status(&self, spec: &ContainerSpec) -> ContainerStatus {
        let container = self.observed.as_ref().and_then(|observed| observed.ours(&spec.name));
        let paused = container
            .is_some_and(|container| container.state == EngineState::Paused)
            .then(|| format!("paused by someone; `docker unpause {NAME_PREFIX}{}` lets it go on", spec.name));
        let known = self.tracks.get(&spec.name).and_then(Track::reason);
        ContainerStatus {
            name: spec.name.clone(),
            service: spec.service.clone(),
            image: spec.image.clone(),
            id: container.map(|container| short(&container.id).to_owned()).unwrap_or_default(),
            state: container.map_or(ContainerState::Absent, |container| state(container.state)),
            started_at: container.and_then(|container| container.started_at).unwrap_or(0),
            reason: self.notes.get(&spec.name).cloned().or(paused).or_else(|| known.map(str::to_owned)),
        }
    }

    fn next_look(&self) -> Instant {
        let now = Instant::now();
        let retries = self.tracks.values().filter_map(|track| track.waits_until(now));
        retries.fold(now + self.resync, Instant::min)
    }

    async fn wait(&mut self, until: Instant) {
        let hint = async {
            match &mut self.hints {
                Some(hints) => hints.next().await,
                None => std::future::pending().await,
            }
        };
        let desired = async {
            if self.desired.changed().await.is_err() {
                // Whoever knew what is wanted is gone; what was wanted last still is.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = desired => {}
            hint = hint => {
                if hint.is_none() {
                    self.hints = None;
                }
            }
            Some(done) = self.pulls.join_next() => match done {
                Ok((reference, result)) => self.pulled(&reference, result),
                Err(error) => {
                    warn!("fetching an image was broken off: {error}");
                    self.pulling.clear();
                    self.pulls.abort_all();
                }
            },
            () = sleep_until(until) => {}
        }
    }
}

/// How a container ended, with the last lines of its output.
async fn ending<E: Engine>(engine: &E, container: &ObservedContainer) -> String {
    let code = container.exit_code.unwrap_or_default();
    let lines = match engine.log_tail(&container.id, REASON_LINES).await {
        Ok(lines) => lines,
        Err(error) => return format!("ended with exit code {code}; its output can't be read: {}", chain(&error)),
    };
    let text = lines.iter().map(|line| line.trim()).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" | ");
    if text.is_empty() {
        return format!("ended with exit code {code}, without a word");
    }
    let skip = text.chars().count().saturating_sub(REASON_CHARS);
    let tail: String = text.chars().skip(skip).collect();
    format!("ended with exit code {code}; its last words: {tail}")
}

/// The engine's words for the two obstacles people meet most, in words that help.
fn explain(error: &EngineError, desired: &[ContainerSpec], name: &str) -> String {
    let text = chain(error);
    let ports = desired.iter().find(|spec| spec.name == name).map_or(&[][..], |spec| &spec.ports);
    let ports = ports.iter().map(|port| port.host.to_string()).collect::<Vec<_>>().join(", ");
    if text.contains("cannot assign requested address") {
        format!("can't publish {ports}: this host does not have the address (yet); it is tried again by itself")
    } else if text.contains("address already in use") || text.contains("port is already allocated") {
        format!("can't publish {ports}: another program has the port; `ss -ltnp` names it. {text}")
    } else {
        text
    }
}

/// Wakes the receivers only when there is something new.
fn replace<T: PartialEq>(sender: &watch::Sender<T>, new: T) {
    sender.send_if_modified(|old| {
        let differs = *old != new;
        *old = new;
        differs
    });
}

fn adopted_status(container: &ObservedContainer) -> Option<ContainerStatus> {
    let owned = container.owned.as_ref()?;
    Some(ContainerStatus {
        name: container.name.strip_prefix(NAME_PREFIX).unwrap_or(&container.name).to_owned(),
        service: owned.service.clone(),
        image: container.image.clone(),
        id: short(&container.id).to_owned(),
        state: state(container.state),
        started_at: container.started_at.unwrap_or(0),
        reason: Some("left as it is until it is known what is wanted".to_owned()),
    })
}

fn state(state: EngineState) -> ContainerState {
    match state {
        EngineState::Created => ContainerState::Created,
        EngineState::Running | EngineState::Paused => ContainerState::Running,
        EngineState::Exited | EngineState::Dead => ContainerState::Exited,
    }
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

#[cfg(test)]
#[path = "supervisor_tests.rs"]
mod tests;
