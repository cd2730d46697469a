//! The commands that bring a service's own configuration in line: which of them are due, and what became of them.

use std::sync::Arc;
use std::time::Duration;

use model::{ContainerStatus, Health, Hook, ServiceName, ServiceSpec};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::chain;
use crate::engine::Engine;
use crate::health::Start;
use crate::probe::last_words;
use crate::track::Backoff;

/// The wait after the first failure. A hook is not repeated as often as a container is started: it may ask a server of
/// others.
const FIRST: Duration = Duration::from_secs(5);
/// The longest wait.
const MAX: Duration = Duration::from_secs(600);

/// A hook and the run of its container that it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Due {
    hook: Hook,
    start: Start,
}

/// What became of hooks.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) service: ServiceName,
    results: Vec<(Due, Result<(), String>)>,
}

/// The hooks of one service.
#[derive(Debug, Default)]
pub(crate) struct Setup {
    done: Vec<Due>,
    /// Why the last try did not do all, with the hook.
    failed: Option<(Hook, String)>,
    failures: u32,
    not_before: Option<Instant>,
    running: bool,
}

impl Setup {
    /// The hooks that are to be run now; the caller runs them and tells what became of them.
    pub(crate) fn take_due(&mut self, service: &ServiceSpec, statuses: &[ContainerStatus], now: Instant) -> Vec<Due> {
        let current = |done: &Due| {
            let status = statuses.iter().find(|status| status.name == done.hook.container);
            service.setup.contains(&done.hook) && status.and_then(Start::of).as_ref() == Some(&done.start)
        };
        self.done.retain(current);
        let due = self.due(service, statuses);
        if due.is_empty() {
            // A hook that is no longer wanted has not failed either.
            self.failed = None;
        }
        if self.running || self.not_before.is_some_and(|at| at > now) {
            return Vec::new();
        }
        self.running = !due.is_empty();
        due
    }

    pub(crate) fn ran(&mut self, outcome: Outcome, now: Instant) {
        self.running = false;
        self.failed = None;
        for (due, result) in outcome.results {
            match result {
                Ok(()) => self.done.push(due),
                Err(reason) => {
                    self.failed.get_or_insert((due.hook, reason));
                }
            }
        }
        self.failures = if self.failed.is_some() { self.failures.saturating_add(1) } else { 0 };
        let backoff = Backoff { first: FIRST, max: MAX, jitter_percent: 20, stable_after: Duration::ZERO };
        self.not_before = self.failed.is_some().then(|| now + backoff.delay(self.failures));
    }

    /// When it may be tried again, if not now.
    pub(crate) fn waits_until(&self, now: Instant) -> Option<Instant> {
        self.not_before.filter(|at| *at > now && !self.running)
    }

    /// The health of the service with what its hooks say, where they have a say: once it is healthy without them. While
    /// one that must come before publishing has not succeeded, also because its container does not run, nobody is let in.
    pub(crate) fn judge(&self, service: &ServiceSpec, statuses: &[ContainerStatus], health: Health) -> Health {
        if !health.accepts_traffic() {
            return health;
        }
        let failed = |hook: &Hook| self.failed.as_ref().filter(|(failed, _)| failed == hook);
        let succeeded = |hook: &Hook| due_for(hook, statuses).is_some_and(|due| self.done.contains(&due));
        if let Some(hook) = service.setup.iter().find(|hook| hook.before_publishing && !succeeded(hook)) {
            return match failed(hook) {
                Some((_, reason)) => Health::Unhealthy { reason: told(hook, reason) },
                None => Health::Starting { reason: hook.what.clone() },
            };
        }
        match self.due(service, statuses).iter().find_map(|due| failed(&due.hook)) {
            Some((hook, reason)) if health == Health::Healthy => Health::Degraded { reason: told(hook, reason) },
            _ => health,
        }
    }

    /// Hooks that have not succeeded since their container was started. One whose container does not run has its time
    /// when that does.
    fn due(&self, service: &ServiceSpec, statuses: &[ContainerStatus]) -> Vec<Due> {
        let due = service.setup.iter().filter_map(|hook| due_for(hook, statuses));
        due.filter(|due| !self.done.contains(due)).collect()
    }
}

/// The hook with the run of its container, if that runs.
fn due_for(hook: &Hook, statuses: &[ContainerStatus]) -> Option<Due> {
    let status = statuses.iter().find(|status| status.name == hook.container)?;
    Some(Due { hook: hook.clone(), start: Start::of(status)? })
}

fn told(hook: &Hook, reason: &str) -> String {
    format!("{}: {reason}; it is tried again by itself", hook.what)
}

/// Runs the hooks in order. One that fails does not hold up the others.
pub(crate) async fn run<E: Engine>(engine: Arc<E>, service: ServiceName, due: Vec<Due>) -> Outcome {
    let mut results = Vec::new();
    for due in due {
        let hook = &due.hook;
        let command: Vec<&str> = hook.command.iter().map(String::as_str).collect();
        let result = match engine.exec(due.start.id(), &hook.user, &command, hook.timeout).await {
            Ok(output) if output.code == 0 || hook.also_fine.contains(&output.code) => Ok(()),
            Ok(output) => {
                let said = last_words(&output.stderr).or_else(|| last_words(&output.stdout));
                Err(format!("ended with {}: {}", output.code, said.as_deref().unwrap_or("without a word")))
            }
            Err(error) => Err(chain(&error)),
        };
        match &result {
            Ok(()) => info!(%service, container = hook.container, "{}: done", hook.what),
            Err(reason) => warn!(%service, container = hook.container, reason, "{}: failed", hook.what),
        }
        results.push((due, result));
    }
    Outcome { service, results }
}
