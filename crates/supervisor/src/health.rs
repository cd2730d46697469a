//! Asks services again and again whether they work, remembers just enough not to flap, and puts the answers together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::{Check, ContainerState, ContainerStatus, Health, Run, ServiceName, ServiceSpec, Unit};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::chain;
use crate::engine::{Engine, EngineError};
use crate::observed::{EngineState, ObservedContainer};
use crate::probe::{CheckError, ask};
use crate::words::short;

/// So many failures in a row make a healthy service unhealthy: one slow answer is no outage.
const FAILURES: u32 = 2;
/// News of checks that wait to be heard.
const NEWS: usize = 64;

/// Which check.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    /// The readiness of the container of this name.
    Unit(String),
    /// One of a service's own.
    Service(ServiceName, usize),
}

/// One run of a container: its id, as statuses show it, and its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Start {
    id: String,
    at: i64,
}

impl Start {
    /// The run that the engine reports, if it runs.
    pub(crate) fn seen(container: &ObservedContainer) -> Option<Self> {
        (container.state == EngineState::Running)
            .then(|| Self { id: short(&container.id).to_owned(), at: container.started_at.unwrap_or(0) })
    }

    /// The container's id, shortened.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The run that the status shows, if it shows one.
    pub(crate) fn of(status: &ContainerStatus) -> Option<Self> {
        (status.state == ContainerState::Running).then(|| Self { id: status.id.clone(), at: status.started_at })
    }
}

/// What a check has shown.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Verdict {
    /// The run of its container that it holds for; none of an external service, or before there is one.
    pub(crate) start: Option<Start>,
    /// Never degraded.
    pub(crate) health: Health,
    /// Since when it has been unhealthy.
    pub(crate) failing_since: Option<Instant>,
}

/// The checks of all services, each in a task of its own.
pub(crate) struct Checks<E> {
    engine: Arc<E>,
    statuses: watch::Receiver<Vec<ContainerStatus>>,
    running: BTreeMap<Key, Running>,
    sender: mpsc::Sender<(Key, Verdict)>,
    news: mpsc::Receiver<(Key, Verdict)>,
}

struct Running {
    service: ServiceName,
    check: Check,
    verdict: Verdict,
    /// How long the last answer took.
    latency: watch::Receiver<Option<Duration>>,
    _task: DropGuard,
}

impl<E: Engine> Checks<E> {
    pub(crate) fn new(engine: Arc<E>, statuses: watch::Receiver<Vec<ContainerStatus>>) -> Self {
        let (sender, news) = mpsc::channel(NEWS);
        Self { engine, statuses, running: BTreeMap::new(), sender, news }
    }

    /// Checks what these services say, and nothing else.
    pub(crate) fn follow(&mut self, services: &[ServiceSpec]) {
        let mut wanted = BTreeMap::new();
        for service in services.iter().filter(|service| service.run != Run::Nothing) {
            for unit in &service.units {
                let key = || Key::Unit(unit.container.name.clone());
                wanted.extend(unit.ready.as_ref().map(|check| (key(), (&service.name, check))));
            }
            let own = service.checks.iter().enumerate();
            wanted.extend(own.map(|(at, check)| (Key::Service(service.name.clone(), at), (&service.name, check))));
        }
        let same = |running: &Running, (service, check): &(&ServiceName, &Check)| {
            (&running.service, &running.check) == (*service, *check)
        };
        self.running.retain(|key, running| wanted.get(key).is_some_and(|wanted| same(running, wanted)));
        for (key, (service, check)) in wanted {
            if !self.running.contains_key(&key) {
                let running = self.start(key.clone(), service.clone(), check.clone());
                self.running.insert(key, running);
            }
        }
    }

    /// What a check has shown last.
    pub(crate) fn verdict(&self, key: &Key) -> Verdict {
        self.running.get(key).map(|running| running.verdict.clone()).unwrap_or_default()
    }

    /// By service: how long the slowest of its checks took when it was asked last.
    pub(crate) fn latencies(&self) -> BTreeMap<ServiceName, Duration> {
        let mut slowest = BTreeMap::new();
        for running in self.running.values() {
            if let Some(took) = *running.latency.borrow() {
                let known: &mut Duration = slowest.entry(running.service.clone()).or_default();
                *known = took.max(*known);
            }
        }
        slowest
    }

    /// Waits until a check has something new to say, and notes it.
    pub(crate) async fn heard(&mut self) {
        // The other end is in this hand as well, so that it never ends.
        if let Some((key, verdict)) = self.news.recv().await
            && let Some(running) = self.running.get_mut(&key)
        {
            running.verdict = verdict;
        }
    }

    fn start(&self, key: Key, service: ServiceName, check: Check) -> Running {
        let token = CancellationToken::new();
        let (took, latency) = watch::channel(None);
        let (engine, statuses, sender) = (Arc::clone(&self.engine), self.statuses.clone(), self.sender.clone());
        let work = watch_check(engine, key, check.clone(), statuses, sender, took);
        tokio::spawn(token.clone().run_until_cancelled_owned(work));
        Running { service, check, verdict: Verdict::default(), latency, _task: token.drop_guard() }
    }
}

async fn watch_check<E: Engine>(
    engine: Arc<E>,
    key: Key,
    check: Check,
    mut statuses: watch::Receiver<Vec<ContainerStatus>>,
    sender: mpsc::Sender<(Key, Verdict)>,
    took: watch::Sender<Option<Duration>>,
) {
    let start = |all: &Vec<ContainerStatus>| {
        let name = check.container.as_ref()?;
        Start::of(all.iter().find(|status| status.name == *name)?)
    };
    let mut memory = Memory::default();
    let mut told = Verdict::default();
    loop {
        let now = start(&statuses.borrow_and_update());
        let verdict = if check.container.is_some() && now.is_none() {
            memory = Memory::default();
            took.send_replace(None);
            Verdict::default()
        } else {
            let asked = Instant::now();
            let answer = ask(&*engine, &check, now.as_ref().map(|start| start.id.as_str())).await;
            took.send_replace(Some(asked.elapsed()));
            let health = match answer {
                // Nobody has seen how the service is.
                Err(CheckError::Engine(EngineError::Unreachable { .. })) => Health::Unknown,
                answer => memory.judge(answer.map_err(|error| chain(&error)), now.as_ref(), check.grace, unix_now()),
            };
            let failing = matches!(health, Health::Unhealthy { .. });
            let failing_since = failing.then(|| told.failing_since.unwrap_or_else(Instant::now));
            Verdict { start: now.clone(), health, failing_since }
        };
        if verdict != told {
            told = verdict.clone();
            if sender.send((key.clone(), verdict)).await.is_err() {
                return;
            }
        }
        let other = async {
            if statuses.wait_for(|all| start(all) != now).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = sleep(check.interval) => {}
            () = other => {}
        }
    }
}

/// What earlier answers showed.
#[derive(Debug, Default)]
struct Memory {
    failures: u32,
    healthy: bool,
    /// The run for which it has been healthy; its grace is over.
    proven: Option<Start>,
}

impl Memory {
    fn judge(&mut self, answer: Result<(), String>, start: Option<&Start>, grace: Duration, now: i64) -> Health {
        let Err(reason) = answer else {
            *self = Self { failures: 0, healthy: true, proven: start.cloned() };
            return Health::Healthy;
        };
        self.failures = self.failures.saturating_add(1);
        let same = self.proven.as_ref() == start;
        if self.healthy && same && self.failures < FAILURES {
            return Health::Healthy;
        }
        self.healthy = false;
        let young = start.is_some_and(|start| {
            let age = u64::try_from(now.saturating_sub(start.at)).unwrap_or(0);
            !same && age < grace.as_secs()
        });
        if young { Health::Starting { reason } } else { Health::Unhealthy { reason } }
    }
}

/// What is wrong with a container. Without words: there is nothing to say but that it is not ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// On its way; no fault.
    Pending(String),
    /// A fault.
    Fault(String),
}

impl Trouble {
    fn reason(&self) -> &str {
        match self {
            Self::Pending(reason) | Self::Fault(reason) => reason,
        }
    }

    /// What the container's status shows.
    pub(crate) fn told(&self) -> Option<String> {
        Some(self.reason().to_owned()).filter(|reason| !reason.is_empty())
    }

    /// The same in words for the service: with the container's name where that is not the service's own.
    pub(crate) fn of(self, service: &ServiceSpec, unit: &Unit) -> Self {
        let name = &unit.container.name;
        let words = |reason: String| match (reason.is_empty(), name == service.name.as_str()) {
            (true, _) => format!("{name} is being started"),
            (false, true) => reason,
            (false, false) => format!("{name}: {reason}"),
        };
        match self {
            Self::Pending(reason) => Self::Pending(words(reason)),
            Self::Fault(reason) => Self::Fault(words(reason)),
        }
    }
}

/// The health of a service from what its containers lack (in their order), what its own checks have shown, and whether
/// its checks are all there is. Only what its checks have shown to answer is healthy or degraded.
pub(crate) fn compose(troubles: &[Trouble], checks: &[Health]) -> Health {
    // The first container in trouble is the likeliest cause: the others may need it.
    let fault = troubles.iter().find(|trouble| matches!(trouble, Trouble::Fault(_)));
    let trouble = fault.or(troubles.first());
    if !checks.is_empty() && checks.iter().all(|health| *health == Health::Healthy) {
        return match trouble {
            Some(trouble) => Health::Degraded { reason: trouble.reason().to_owned() },
            None => Health::Healthy,
        };
    }
    match trouble {
        Some(Trouble::Fault(reason)) => return Health::Unhealthy { reason: reason.clone() },
        Some(Trouble::Pending(reason)) => return Health::Starting { reason: reason.clone() },
        None => {}
    }
    let severity = |health: &&Health| match health {
        Health::Healthy => 0,
        Health::Degraded { .. } => 1,
        Health::Unknown => 2,
        Health::Starting { .. } => 3,
        Health::Unhealthy { .. } | Health::Stopped { .. } => 4,
    };
    // Of equals the first.
    checks.iter().rev().max_by_key(severity).cloned().unwrap_or(Health::Healthy)
}

fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
