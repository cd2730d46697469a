//! The task that makes the engine agree with what is wanted.
//!
//! It is level-triggered: each pass reads what is desired and what the engine reports, plans, and has the steps taken;
//! events and timers only say when to look again. Nothing is remembered that a pass could not find out, except how
//! often something failed. So it can stop at any point, and the next pass, or the next process, goes on from there.
//!
//! The steps of a service are taken in a task of their own, one service beside the other: a container that takes its
//! time to end, or an image, holds up nobody else. While a service is at work no other steps of it are taken.

mod publish;
mod requests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{BoxStream, StreamExt};
use model::{ContainerSpec, ContainerStatus, Generation, Health, Run, ServiceName, ServiceSpec};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::requests::{Answer, Request};
pub use self::requests::{RequestError, Requests};
use crate::chain;
use crate::engine::{Engine, EngineError, Hint, PullProgress};
use crate::health::{Checks, Key, Start, Verdict};
use crate::observed::{EngineState, Observed};
use crate::plan::{Action, Plan, Step, definition_hash, fits, images_in_question, plan, stop_all_of};
use crate::setup::{self, Outcome, Setup};
use crate::track::{Backoff, Track};
use crate::words::{ending, explain};
use crate::work::{Done, Report, take_all};

/// An engine that is gone is asked again at least this often: one that comes back may have stopped everything.
const ENGINE_RETRY_MAX: Duration = Duration::from_secs(5);
/// A stream of hints that breaks at once is not opened again sooner.
const RESUBSCRIBE: Duration = Duration::from_secs(1);
/// How far images are is told this often.
const PROGRESS: Duration = Duration::from_secs(1);
/// Requests that wait to be heard.
const REQUESTS: usize = 16;
/// After so many looks in a row that failed, some 17 s when it refuses at once, an engine counts as gone for whoever waits
/// for everything to be stopped.
const CLOSING_LOOKS: u32 = 6;

/// How often things are tried.
#[derive(Debug, Clone, Copy)]
pub struct SupervisorOptions {
    /// The engine is looked at this often even when nothing was heard from it.
    pub resync: Duration,
    /// The wait after the first failure; it doubles with each further one.
    pub backoff_first: Duration,
    /// The longest wait between two tries.
    pub backoff_max: Duration,
    /// Up to so many hundredths of a wait are added by chance, so that what failed together is not tried together.
    pub jitter_percent: u32,
    /// A container that has run for so long is no longer looping.
    pub stable_after: Duration,
}

impl Default for SupervisorOptions {
    fn default() -> Self {
        Self {
            resync: Duration::from_secs(10),
            backoff_first: Duration::from_secs(1),
            backoff_max: Duration::from_secs(30),
            jitter_percent: 20,
            stable_after: Duration::from_secs(60),
        }
    }
}

/// A running supervisor, to be watched.
#[derive(Debug)]
pub struct Supervisor {
    /// Every desired container and how it is, in the order of the definitions. Empty until the first look.
    pub statuses: watch::Receiver<Vec<ContainerStatus>>,
    /// How every desired service is.
    pub health: watch::Receiver<BTreeMap<ServiceName, Health>>,
    /// By container name: how many times it was started again after it had ended by itself or hung, since the agent
    /// started.
    pub restarts: watch::Receiver<BTreeMap<String, u64>>,
    /// What it acts on, by service: no step that was planned for anything before is still being taken.
    pub applied: watch::Receiver<BTreeMap<ServiceName, Applied>>,
    /// To ask something of it.
    pub requests: Requests,
    /// Ends soon after the token is cancelled. Containers are left as they are.
    pub task: JoinHandle<()>,
}

/// What of a service's definition a supervisor acts on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Which generation.
    pub generation: Generation,
    /// What is to run of it.
    pub run: Run,
}

impl Supervisor {
    /// Starts supervising. While `desired` holds none nothing is known yet and nothing is touched; an empty list
    /// means that no service is wanted, and containers of ours are removed (their volumes stay).
    pub fn spawn<E: Engine>(
        engine: Arc<E>,
        desired: watch::Receiver<Option<Vec<ServiceSpec>>>,
        options: SupervisorOptions,
        token: CancellationToken,
    ) -> Self {
        let (statuses_sender, statuses) = watch::channel(Vec::new());
        let (health_sender, health) = watch::channel(BTreeMap::new());
        let (restarts_sender, restarts) = watch::channel(BTreeMap::new());
        let (applied_sender, applied) = watch::channel(BTreeMap::new());
        let (requests_sender, requests) = mpsc::channel(REQUESTS);
        let worker = Worker {
            checks: Checks::new(Arc::clone(&engine), statuses.clone()),
            engine,
            desired,
            backoff: Backoff {
                first: options.backoff_first,
                max: options.backoff_max,
                jitter_percent: options.jitter_percent,
                stable_after: options.stable_after,
            },
            resync: options.resync,
            statuses: statuses_sender,
            health: health_sender,
            restarts: restarts_sender,
            applied: applied_sender,
            requests,
            observed: None,
            engine_failures: 0,
            engine_reason: None,
            tracks: BTreeMap::new(),
            plan: Plan::default(),
            hanging: BTreeMap::new(),
            work: JoinSet::new(),
            busy: BTreeSet::new(),
            setups: BTreeMap::new(),
            hooks: JoinSet::new(),
            pulls: JoinSet::new(),
            pulling: BTreeMap::new(),
            asked: Vec::new(),
            restarting: BTreeMap::new(),
            answers: Vec::new(),
            closing: false,
            closers: Vec::new(),
            hints: None,
            subscribed_at: None,
        };
        let task = tokio::spawn(async move {
            // Dropping the work anywhere is fine: see the module's text.
            let _ = token.run_until_cancelled(worker.run()).await;
        });
        Self { statuses, health, restarts, applied, requests: Requests(requests_sender), task }
    }
}

struct Worker<E> {
    engine: Arc<E>,
    desired: watch::Receiver<Option<Vec<ServiceSpec>>>,
    backoff: Backoff,
    resync: Duration,
    statuses: watch::Sender<Vec<ContainerStatus>>,
    health: watch::Sender<BTreeMap<ServiceName, Health>>,
    restarts: watch::Sender<BTreeMap<String, u64>>,
    applied: watch::Sender<BTreeMap<ServiceName, Applied>>,
    requests: mpsc::Receiver<Request>,
    checks: Checks<E>,
    /// What the engine reported last, with what checks have shown.
    observed: Option<Observed>,
    engine_failures: u32,
    engine_reason: Option<String>,
    /// By container name.
    tracks: BTreeMap<String, Track>,
    /// The last plan.
    plan: Plan,
    /// Why containers are stopped that hang, by name.
    hanging: BTreeMap<String, String>,
    work: JoinSet<Report>,
    /// Services whose steps are being taken.
    busy: BTreeSet<ServiceName>,
    setups: BTreeMap<ServiceName, Setup>,
    hooks: JoinSet<Outcome>,
    pulls: JoinSet<(String, Result<(), EngineError>)>,
    /// How far each is, by reference.
    pulling: BTreeMap<String, watch::Receiver<PullProgress>>,
    /// Restarts that were asked for, with who waits for it.
    asked: Vec<(ServiceName, Answer)>,
    /// Restarts under way.
    restarting: BTreeMap<ServiceName, Vec<Answer>>,
    /// What is answered once everybody can see it.
    answers: Vec<(Answer, Result<(), RequestError>)>,
    /// The host goes down: nothing is started any more.
    closing: bool,
    /// Who waits for everything to be stopped.
    closers: Vec<Answer>,
    hints: Option<BoxStream<'static, Hint>>,
    subscribed_at: Option<Instant>,
}

impl<E: Engine> Worker<E> {
    async fn run(mut self) {
        loop {
            let next = self.pass().await;
            self.wait(next).await;
        }
    }

    /// What is wanted now.
    fn wanted(&mut self) -> Option<Vec<ServiceSpec>> {
        let mut desired = self.desired.borrow_and_update().clone()?;
        if self.closing {
            desired.iter_mut().for_each(|service| service.run = Run::Nothing);
        }
        Some(desired)
    }

    /// Looks, plans, has steps taken and publishes once. Returns when to look again at the latest.
    async fn pass(&mut self) -> Instant {
        let desired = self.wanted();
        if !self.look(desired.as_deref()).await {
            self.publish(desired.as_deref());
            self.engine_failures = self.engine_failures.saturating_add(1);
            self.tracks.values_mut().for_each(Track::lost_sight);
            self.answer_unseen();
            return Instant::now() + self.backoff.delay(self.engine_failures).min(ENGINE_RETRY_MAX);
        }
        self.engine_failures = 0;
        self.subscribe();
        if let Some(desired) = &desired {
            self.checks.follow(desired);
            self.account(desired).await;
            self.plan = plan(desired, self.observed.as_ref().unwrap_or(&Observed::default()));
            self.settle(desired);
            self.restart_asked(desired);
            self.dispatch();
            self.acknowledge(desired);
        }
        self.publish(desired.as_deref());
        for (answer, result) in std::mem::take(&mut self.answers) {
            // Who no longer waits does not need to know.
            drop(answer.send(result));
        }
        self.run_hooks(desired.as_deref().unwrap_or_default());
        self.answer_closers(desired.is_some());
        self.next_look(desired.as_deref().unwrap_or_default())
    }

    /// Reads the engine's state. Returns whether it answered.
    async fn look(&mut self, desired: Option<&[ServiceSpec]>) -> bool {
        match observe(&*self.engine, desired.unwrap_or_default()).await {
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
                    warn!(services = desired.map_or(0, <[_]>::len), reason, "the container engine does not answer");
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

    /// Notes what runs, what is ready, what hangs and what ended by itself.
    async fn account(&mut self, desired: &[ServiceSpec]) {
        let Some(mut observed) = self.observed.take() else { return };
        self.tracks.retain(|name, _| observed.ours(name).is_some() || units(desired).any(|unit| &unit.name == name));
        for service in desired {
            for unit in &service.units {
                let spec = &unit.container;
                let track = self.tracks.entry(spec.name.clone()).or_default();
                track.wanted(&definition_hash(spec));
                let Some(container) = observed.ours(&spec.name) else { continue };
                let (id, now) = (container.id.clone(), Instant::now());
                if container.state == EngineState::Running {
                    let verdict = self.checks.verdict(&Key::Unit(spec.name.clone()));
                    let current = verdict.start.is_some() && verdict.start == Start::seen(container);
                    if current && verdict.health == Health::Healthy {
                        track.seen_ready(now, &self.backoff);
                        observed.ready.insert(id.clone());
                    }
                    let patience = unit.restart_after.map(|after| track.patience(after));
                    if let Some(why) = hangs(&verdict, patience, now).filter(|_| current) {
                        self.hanging.insert(spec.name.clone(), why);
                        observed.hung.insert(id.clone());
                    }
                }
                let Some(container) = observed.ours(&spec.name) else { continue };
                // An old one that still runs says nothing about the one that is to replace it, and what we do to a
                // container is none of its own doing.
                if self.busy.contains(&service.name) || !fits(spec, container) {
                    continue;
                }
                match container.state {
                    EngineState::Running | EngineState::Paused => track.seen_running(now, &self.backoff, &id),
                    EngineState::Exited if track.was_running(&id) => {
                        let what = ending(&*self.engine, container).await;
                        let (times, delay) = track.ended(now, &self.backoff, &what);
                        warn!(container = spec.name, times, retry_seconds = delay.as_secs(), "container ended: {what}");
                    }
                    EngineState::Created | EngineState::Exited | EngineState::Dead => {}
                }
            }
        }
        self.observed = Some(observed);
    }

    /// Forgets what stood in the way of containers that run and for which nothing is left to do.
    fn settle(&mut self, desired: &[ServiceSpec]) {
        let Some(observed) = &self.observed else { return };
        let steps = self.plan.steps.iter().map(|step| step.container.as_str());
        let open: BTreeSet<&str> = steps.chain(self.plan.refusals.iter().map(|note| note.container.as_str())).collect();
        for spec in units(desired).filter(|spec| !open.contains(spec.name.as_str())) {
            let runs = observed.ours(&spec.name).is_some_and(|container| container.state == EngineState::Running);
            if let Some(track) = self.tracks.get_mut(&spec.name).filter(|_| runs) {
                track.settled();
            }
        }
    }

    /// Stops the services whose restart was asked for; the next plan starts them.
    fn restart_asked(&mut self, desired: &[ServiceSpec]) {
        for (name, answer) in std::mem::take(&mut self.asked) {
            let stops = match (&self.observed, desired.iter().find(|service| service.name == name)) {
                (Some(observed), Some(service)) if !service.units.is_empty() => stop_all_of(service, observed),
                _ => {
                    self.answers.push((answer, Err(RequestError::Unknown(name))));
                    continue;
                }
            };
            if stops.is_empty() {
                self.answers.push((answer, Ok(())));
            } else if let Some(others) = self.restarting.get_mut(&name) {
                others.push(answer);
            } else if self.busy.contains(&name) {
                self.asked.push((name, answer));
            } else {
                info!(service = %name, "restarting, as was asked for");
                self.restarting.insert(name.clone(), vec![answer]);
                self.busy.insert(name.clone());
                self.work.spawn(take_all(Arc::clone(&self.engine), name, stops));
            }
        }
    }

    /// Has the steps taken, but for those of services at work and of containers that wait after a failure.
    fn dispatch(&mut self) {
        let now = Instant::now();
        let mut by_service: BTreeMap<ServiceName, Vec<Step>> = BTreeMap::new();
        for step in self.plan.steps.clone() {
            if let Action::Pull(reference) = &step.action {
                if self.waits(&step.container, now) {
                    continue;
                }
                self.fetch(reference);
            } else if !self.busy.contains(&step.service) {
                by_service.entry(step.service.clone()).or_default().push(step);
            }
        }
        for (service, steps) in by_service {
            let mut ready = Vec::new();
            for step in steps {
                if !self.waits(&step.container, now) {
                    ready.push(step);
                } else if step.action.ends_one() {
                    // What comes after it relies on that.
                    break;
                }
            }
            if !ready.is_empty() {
                self.busy.insert(service.clone());
                self.work.spawn(take_all(Arc::clone(&self.engine), service, ready));
            }
        }
    }

    /// Says what is acted on, but for services at work: their steps may have been planned for something else.
    fn acknowledge(&self, desired: &[ServiceSpec]) {
        self.applied.send_if_modified(|applied| {
            let before = applied.clone();
            applied.retain(|name, _| desired.iter().any(|service| &service.name == name));
            for service in desired.iter().filter(|service| !self.busy.contains(&service.name)) {
                let acts_on = Applied { generation: service.generation, run: service.run.clone() };
                applied.insert(service.name.clone(), acts_on);
            }
            *applied != before
        });
    }

    fn waits(&self, container: &str, now: Instant) -> bool {
        self.tracks.get(container).is_some_and(|track| track.waits_until(now).is_some())
    }

    /// A pull may take an hour and runs beside everything else.
    fn fetch(&mut self, reference: &str) {
        if self.pulling.contains_key(reference) {
            return;
        }
        info!(image = reference, "the image is not on this host; fetching it");
        let (engine, reference) = (Arc::clone(&self.engine), reference.to_owned());
        let (progress, receiver) = watch::channel(PullProgress::default());
        self.pulling.insert(reference.clone(), receiver);
        self.pulls.spawn(async move {
            let result = engine.pull(&reference, progress).await;
            (reference, result)
        });
    }

    fn pulled(&mut self, reference: &str, result: Result<(), EngineError>) {
        self.pulling.remove(reference);
        let Err(error) = result else {
            info!(image = reference, "fetched image");
            return;
        };
        let reason = explain(&error, &[]);
        let desired = self.desired.borrow().clone().unwrap_or_default();
        for spec in units(&desired).filter(|spec| spec.image == reference) {
            self.failed(&spec.name, reason.clone());
        }
    }

    /// Notes what became of the steps of a service.
    fn worked(&mut self, report: Report) {
        self.busy.remove(&report.service);
        let desired = self.desired.borrow().clone().unwrap_or_default();
        let mut restarted = Ok(());
        for (name, done) in report.results {
            let track = self.tracks.entry(name.clone()).or_default();
            match done {
                Done::Started(id) => track.started(Instant::now(), &id),
                Done::Stopped => match self.hanging.remove(&name) {
                    Some(why) => {
                        warn!(container = name, "stopped, to be started anew: {why}");
                        track.hung(why);
                    }
                    None => track.stopped(),
                },
                Done::Failed(error) => {
                    let ports = units(&desired).find(|spec| spec.name == name).map_or(&[][..], |spec| &spec.ports);
                    let reason = explain(&error, ports);
                    restarted = Err(RequestError::Failed(reason.clone()));
                    self.failed(&name, reason);
                }
            }
        }
        let answers = self.restarting.remove(&report.service).unwrap_or_default();
        self.answers.extend(answers.into_iter().map(|answer| (answer, restarted.clone())));
    }

    fn failed(&mut self, name: &str, reason: String) {
        let track = self.tracks.entry(name.to_owned()).or_default();
        if track.failed(Instant::now(), &self.backoff, reason.clone()) {
            warn!(container = name, "{reason}");
        } else {
            debug!(container = name, "still: {reason}");
        }
    }

    /// Runs the setup of services that are healthy without it.
    fn run_hooks(&mut self, desired: &[ServiceSpec]) {
        self.setups.retain(|name, _| desired.iter().any(|service| service.name == *name));
        let statuses = self.statuses.borrow().clone();
        for service in desired.iter().filter(|service| service.run == Run::All && !service.setup.is_empty()) {
            if !self.busy.contains(&service.name) && self.bare_health(service, &statuses).accepts_traffic() {
                let setup = self.setups.entry(service.name.clone()).or_default();
                let due = setup.take_due(service, &statuses, Instant::now());
                if !due.is_empty() {
                    self.hooks.spawn(setup::run(Arc::clone(&self.engine), service.name.clone(), due));
                }
            }
        }
    }

    /// Without an engine nobody can see what became of what was asked. Whoever waits for everything to be stopped waits on:
    /// a busy engine answers again.
    fn answer_unseen(&mut self) {
        let mut unseen: Vec<Answer> = self.answers.drain(..).map(|(answer, _)| answer).collect();
        unseen.extend(self.asked.drain(..).map(|(_, answer)| answer));
        if self.engine_failures >= CLOSING_LOOKS {
            unseen.append(&mut self.closers);
        }
        for answer in unseen {
            drop(answer.send(Err(RequestError::Failed(self.engine_reason.clone().unwrap_or_default()))));
        }
    }

    /// What is not known to be wanted is not touched: the engine stops it at its own end.
    fn answer_closers(&mut self, known: bool) {
        let mut ours = self.observed.iter().flat_map(|observed| &observed.containers).filter(|c| c.owned.is_some());
        let stopped = ours.all(|container| !matches!(container.state, EngineState::Running | EngineState::Paused));
        if !known || stopped && self.busy.is_empty() {
            for answer in std::mem::take(&mut self.closers) {
                drop(answer.send(Ok(())));
            }
        }
    }

    fn next_look(&self, desired: &[ServiceSpec]) -> Instant {
        let now = Instant::now();
        let retries = self.tracks.values().filter_map(|track| track.waits_until(now));
        let hooks = self.setups.values().filter_map(|setup| setup.waits_until(now));
        let hangs = desired.iter().flat_map(|service| &service.units).filter_map(|unit| {
            let name = &unit.container.name;
            let since = self.checks.verdict(&Key::Unit(name.clone())).failing_since?;
            Some(since + self.tracks.get(name)?.patience(unit.restart_after?)).filter(|at| *at > now)
        });
        retries.chain(hooks).chain(hangs).fold(now + self.resync, Instant::min)
    }

    async fn wait(&mut self, until: Instant) {
        loop {
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
                () = desired => return,
                hint = hint => {
                    if hint.is_none() {
                        self.hints = None;
                    }
                    return;
                }
                () = self.checks.heard() => return,
                Some(request) = self.requests.recv() => {
                    match request {
                        Request::Restart(service, answer) => self.asked.push((service, answer)),
                        Request::StopAll(answer) => {
                            self.closing = true;
                            self.closers.push(answer);
                        }
                    }
                    return;
                }
                Some(done) = self.work.join_next() => {
                    match done {
                        Ok(report) => self.worked(report),
                        Err(error) => {
                            warn!("work on a service was broken off: {error}");
                            self.work.abort_all();
                            self.busy.clear();
                            self.restarting.clear();
                        }
                    }
                    return;
                }
                Some(done) = self.hooks.join_next() => {
                    match done {
                        Ok(outcome) => {
                            if let Some(setup) = self.setups.get_mut(&outcome.service) {
                                setup.ran(outcome, Instant::now());
                            }
                        }
                        Err(error) => {
                            warn!("setting up a service was broken off: {error}");
                            self.hooks.abort_all();
                            self.setups.clear();
                        }
                    }
                    return;
                }
                Some(done) = self.pulls.join_next() => {
                    match done {
                        Ok((reference, result)) => self.pulled(&reference, result),
                        Err(error) => {
                            warn!("fetching an image was broken off: {error}");
                            self.pulls.abort_all();
                            self.pulling.clear();
                        }
                    }
                    return;
                }
                () = sleep(PROGRESS), if !self.pulling.is_empty() => {}
                () = sleep_until(until) => return,
            }
            let desired = self.desired.borrow().clone();
            self.publish(desired.as_deref());
        }
    }
}

/// What there is, with the images that the plan will ask for.
async fn observe<E: Engine>(engine: &E, desired: &[ServiceSpec]) -> Result<Observed, EngineError> {
    let mut observed = engine.observe().await?;
    for reference in images_in_question(desired, &observed) {
        match engine.image_id(&reference).await {
            Ok(id) => observed.images.extend(id.map(|id| (reference, id))),
            // A name that the engine does not understand is the trouble of its service alone: fetching it says why.
            Err(EngineError::Failed { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(observed)
}

fn units(services: &[ServiceSpec]) -> impl Iterator<Item = &ContainerSpec> {
    services.iter().flat_map(|service| &service.units).map(|unit| &unit.container)
}

/// Why the container is to be started anew, if it has not answered for longer than one has patience.
fn hangs(verdict: &Verdict, patience: Option<Duration>, now: Instant) -> Option<String> {
    let failing = now.duration_since(verdict.failing_since?);
    let reason = verdict.health.reason()?;
    (failing >= patience?)
        .then(|| format!("did not answer for {} s, so it was started anew: {reason}", failing.as_secs()))
}

#[cfg(test)]
#[path = "supervisor_tests.rs"]
mod tests;
