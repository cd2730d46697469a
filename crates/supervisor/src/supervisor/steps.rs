//! What the supervisor has done: the steps of a plan, images, setup; and what becomes of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::{Run, ServiceName, ServiceSpec};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::requests::RequestError;
use super::{Applied, Worker, units};
use crate::engine::{Engine, EngineError, PullProgress};
use crate::plan::{Action, Step};
use crate::setup;
use crate::words::explain;
use crate::work::{Done, Report, take_all};

impl<E: Engine> Worker<E> {
    /// Has the steps taken, but for those of services at work and of containers that wait after a failure.
    pub(super) fn dispatch(&mut self) {
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

    /// Says what is acted on. Of services at work that is open as long as something else is wanted than before: the steps
    /// may be for either.
    pub(super) fn acknowledge(&self, desired: &[ServiceSpec]) {
        self.applied.send_if_modified(|applied| {
            let before = applied.clone();
            applied.retain(|name, _| desired.iter().any(|service| &service.name == name));
            for service in desired {
                let acts_on = Applied { generation: service.generation, run: service.run.clone() };
                if !self.busy.contains(&service.name) {
                    applied.insert(service.name.clone(), acts_on);
                } else if applied.get(&service.name).is_some_and(|before| *before != acts_on) {
                    applied.remove(&service.name);
                }
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

    pub(super) fn pulled(&mut self, reference: &str, result: Result<(), EngineError>) {
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
    pub(super) fn worked(&mut self, report: Report) {
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
    pub(super) fn run_hooks(&mut self, desired: &[ServiceSpec]) {
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
}
