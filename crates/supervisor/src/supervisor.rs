//! The task that makes the engine agree with what is wanted.
//!
//! It is level-triggered: each pass reads what is desired and what the engine reports, plans, and has the steps taken;
//! events and timers only say when to look again. Nothing is remembered that a pass could not find out, except how
//! often something failed. So it can stop at any point, and the next pass, or the next process, goes on from there.
//!
//! The steps of a service are taken in a task of their own, one service beside the other: a container that takes its
//! time to end, or an image, holds up nobody else. While a service is at work no other steps of it are taken.

mod look;
mod publish;
mod requests;
mod steps;
mod wait;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::BoxStream;
use model::{ContainerSpec, ContainerStatus, Generation, Health, Run, ServiceName, ServiceSpec};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::requests::{Answer, Request};
pub use self::requests::{RequestError, Requests};
use crate::engine::{Engine, EngineError, Hint, PullProgress};
use crate::health::Checks;
use crate::observed::Observed;
use crate::plan::{Plan, plan};
use crate::setup::{Outcome, Setup};
use crate::track::{Backoff, Track};
use crate::work::Report;

/// An engine that is gone is asked again at least this often: one that comes back may have stopped everything.
const ENGINE_RETRY_MAX: Duration = Duration::from_secs(5);
/// Requests that wait to be heard.
const REQUESTS: usize = 16;

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
    /// How its passes went.
    pub passes: watch::Receiver<Passes>,
    /// By service: how long the slowest of its checks took to answer, or to fail, when it was asked last.
    pub latencies: watch::Receiver<BTreeMap<ServiceName, Duration>>,
    /// What it acts on, by service: no step that was planned for anything before is still being taken.
    pub applied: watch::Receiver<BTreeMap<ServiceName, Applied>>,
    /// To ask something of it.
    pub requests: Requests,
    /// Ends soon after the token is cancelled. Containers are left as they are.
    pub task: JoinHandle<()>,
}

/// How the passes of a supervisor went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Passes {
    /// Passes since the agent started.
    pub count: u64,
    /// Those in which the engine did not say what there is.
    pub failures: u64,
    /// How long the last one took. The steps are not in it: they are taken beside.
    pub last: Duration,
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
        let (passes_sender, passes) = watch::channel(Passes::default());
        let (latencies_sender, latencies) = watch::channel(BTreeMap::new());
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
            passes: passes_sender,
            latencies: latencies_sender,
            applied: applied_sender,
            requests,
            observed: None,
            engine_failures: 0,
            seen_since: None,
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
        let requests = Requests(requests_sender);
        Self { statuses, health, restarts, passes, latencies, applied, requests, task }
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
    passes: watch::Sender<Passes>,
    latencies: watch::Sender<BTreeMap<ServiceName, Duration>>,
    applied: watch::Sender<BTreeMap<ServiceName, Applied>>,
    requests: mpsc::Receiver<Request>,
    checks: Checks<E>,
    /// What the engine reported last, with what checks have shown.
    observed: Option<Observed>,
    engine_failures: u32,
    /// Since when the engine has answered whenever it was looked at.
    seen_since: Option<Instant>,
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
            let begun = Instant::now();
            let next = self.pass().await;
            self.passes.send_modify(|passes| {
                passes.count += 1;
                passes.failures += u64::from(self.engine_failures > 0);
                passes.last = begun.elapsed();
            });
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
            self.seen_since = None;
            self.tracks.values_mut().for_each(Track::lost_sight);
            self.answer_unseen();
            return Instant::now() + self.backoff.delay(self.engine_failures).min(ENGINE_RETRY_MAX);
        }
        self.engine_failures = 0;
        self.seen_since.get_or_insert_with(Instant::now);
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
}

fn units(services: &[ServiceSpec]) -> impl Iterator<Item = &ContainerSpec> {
    services.iter().flat_map(|service| &service.units).map(|unit| &unit.container)
}

#[cfg(test)]
#[path = "supervisor_tests.rs"]
mod tests;
