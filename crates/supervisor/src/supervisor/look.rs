//! What the supervisor sees: what the engine reports, what checks have shown of it, and what ended by itself.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use model::{Health, ServiceSpec};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::{Worker, units};
use crate::chain;
use crate::engine::{Engine, EngineError};
use crate::health::{Key, Start, Verdict};
use crate::observed::{EngineState, Observed};
use crate::plan::{definition_hash, fits, images_in_question};
use crate::words::ending;

/// A stream of hints that breaks at once is not opened again sooner.
const RESUBSCRIBE: Duration = Duration::from_secs(1);
/// An engine that takes longer than this to say what there is does not hold up the news of checks.
const LATE: Duration = Duration::from_millis(500);

impl<E: Engine> Worker<E> {
    /// Reads the engine's state. Returns whether it answered.
    pub(super) async fn look(&mut self, desired: Option<&[ServiceSpec]>) -> bool {
        let engine = Arc::clone(&self.engine);
        let mut observing = pin!(observe(&*engine, desired.unwrap_or_default()));
        let mut late = pin!(sleep(LATE));
        let result = loop {
            tokio::select! {
                result = &mut observing => break result,
                () = &mut late, if !late.is_elapsed() => {}
                () = self.checks.heard() => {}
            }
            if late.is_elapsed() {
                self.publish(desired);
            }
        };
        match result {
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

    pub(super) fn subscribe(&mut self) {
        let now = Instant::now();
        if self.hints.is_none() && self.subscribed_at.is_none_or(|at| now.duration_since(at) >= RESUBSCRIBE) {
            self.hints = Some(self.engine.hints());
            self.subscribed_at = Some(now);
        }
    }

    /// Notes what runs, what is ready, what hangs and what ended by itself.
    pub(super) async fn account(&mut self, desired: &[ServiceSpec]) {
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
                    if let Some(why) = hangs(&verdict, patience, self.seen_since, now).filter(|_| current) {
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
    pub(super) fn settle(&mut self, desired: &[ServiceSpec]) {
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

/// Why the container is to be started anew, if it has not answered for longer than one has patience. Only the time in which
/// the engine answered counts: what hung before may have been the engine that the check goes through.
fn hangs(verdict: &Verdict, patience: Option<Duration>, seen: Option<Instant>, now: Instant) -> Option<String> {
    let failing = now.duration_since(verdict.failing_since?.max(seen?));
    let reason = verdict.health.reason()?;
    (failing >= patience?)
        .then(|| format!("did not answer for {} s, so it was started anew: {reason}", failing.as_secs()))
}
