//! What the supervisor tells: each container's state, each service's health, with what stands in the way.

use model::{ContainerSpec, ContainerState, ContainerStatus, Health, Run, ServiceSpec, Unit};
use tokio::sync::watch;

use super::Worker;
use crate::NAME_PREFIX;
use crate::engine::Engine;
use crate::health::{Key, Start, Trouble, compose};
use crate::observed::{EngineState, ObservedContainer};
use crate::plan::{Action, Note};
use crate::setup::Setup;
use crate::track::Track;
use crate::words::{fetching, short};

impl<E: Engine> Worker<E> {
    pub(super) fn publish(&self, desired: Option<&[ServiceSpec]>) {
        let statuses: Vec<ContainerStatus> = match (desired, &self.observed) {
            (Some(desired), _) => desired.iter().flat_map(|service| self.statuses_of(service)).collect(),
            (None, Some(observed)) => observed.containers.iter().filter_map(adopted_status).collect(),
            (None, None) => Vec::new(),
        };
        let health = desired.unwrap_or_default().iter().map(|service| {
            let bare = self.bare_health(service, &statuses);
            let health = match self.setups.get(&service.name) {
                Some(setup) => setup.judge(service, &statuses, bare),
                None => Setup::default().judge(service, &statuses, bare),
            };
            (service.name.clone(), health)
        });
        let health = health.collect();
        // Counters first: whoever sees the status of a container that runs again finds it counted.
        let restarts = self.tracks.iter().map(|(name, track)| (name.clone(), track.restarts())).collect();
        replace(&self.restarts, restarts);
        replace(&self.latencies, self.checks.latencies());
        replace(&self.statuses, statuses);
        replace(&self.health, health);
    }

    /// The health of a service but for its setup.
    pub(super) fn bare_health(&self, service: &ServiceSpec, statuses: &[ContainerStatus]) -> Health {
        match &service.run {
            Run::All => {}
            Run::Nothing => return Health::Stopped { reason: STOPPED.to_owned() },
            Run::Only(_) => return Health::Starting { reason: HELD.to_owned() },
        }
        let troubles: Vec<Trouble> =
            service.units.iter().filter_map(|unit| Some(self.trouble(service, unit)?.of(service, unit))).collect();
        let own = service.checks.iter().enumerate().map(|(at, check)| {
            let verdict = self.checks.verdict(&Key::Service(service.name.clone(), at));
            let start = check
                .container
                .as_ref()
                .and_then(|name| Start::of(statuses.iter().find(|status| status.name == *name)?));
            // What it said of an earlier run is no news of this one.
            if verdict.start == start { verdict.health } else { Health::Unknown }
        });
        compose(&troubles, &own.collect::<Vec<_>>())
    }

    fn statuses_of<'a>(&'a self, service: &'a ServiceSpec) -> impl Iterator<Item = ContainerStatus> + 'a {
        service.units.iter().map(|unit| {
            let spec = &unit.container;
            let container = self.observed.as_ref().and_then(|observed| observed.ours(&spec.name));
            ContainerStatus {
                name: spec.name.clone(),
                service: service.name.clone(),
                image: spec.image.clone(),
                id: container.map(|container| short(&container.id).to_owned()).unwrap_or_default(),
                state: container.map_or(ContainerState::Absent, |container| state(container.state)),
                started_at: container.and_then(|container| container.started_at).unwrap_or(0),
                reason: self.trouble(service, unit).and_then(|trouble| trouble.told()),
            }
        })
    }

    /// What is wrong with a container, if anything.
    fn trouble(&self, service: &ServiceSpec, unit: &Unit) -> Option<Trouble> {
        let spec = &unit.container;
        let name = &spec.name;
        let noted = |notes: &[Note]| notes.iter().find(|note| note.container == *name).map(|note| note.reason.clone());
        let container = self.observed.as_ref().and_then(|observed| observed.ours(name));
        let running = container.is_some_and(|container| container.state == EngineState::Running);
        let track = self.tracks.get(name);
        let known = track.and_then(Track::reason).map(str::to_owned);
        if let Some(reason) = &self.engine_reason {
            return Some(Trouble::Fault(reason.clone()));
        }
        if let Some(reason) = noted(&self.plan.refusals) {
            return Some(Trouble::Fault(reason));
        }
        match &service.run {
            Run::Nothing if !running => return Some(Trouble::Pending(STOPPED.to_owned())),
            Run::Only(names) if !running && !names.contains(name) => return Some(Trouble::Pending(HELD.to_owned())),
            _ => {}
        }
        if let Some(reason) = known.clone().filter(|_| track.is_some_and(Track::is_looping)) {
            return Some(Trouble::Fault(reason));
        }
        if let Some(pending) = self.fetching(spec, known.is_some()) {
            return Some(Trouble::Pending(pending));
        }
        if container.is_some_and(|container| container.state == EngineState::Paused) {
            let how = format!("paused by someone; `docker unpause {NAME_PREFIX}{name}` lets it go on");
            return Some(Trouble::Fault(how));
        }
        if let Some(reason) = known {
            return Some(Trouble::Fault(reason));
        }
        if let Some(reason) = noted(&self.plan.waits) {
            return Some(Trouble::Pending(reason));
        }
        if !running {
            return Some(Trouble::Pending(String::new()));
        }
        unit.ready.as_ref()?;
        let verdict = self.checks.verdict(&Key::Unit(name.clone()));
        if verdict.start != container.and_then(Start::seen) {
            return Some(Trouble::Pending(String::new()));
        }
        match verdict.health {
            Health::Healthy | Health::Degraded { .. } => None,
            Health::Unknown => Some(Trouble::Pending(String::new())),
            Health::Starting { reason } => Some(Trouble::Pending(format!("not ready yet: {reason}"))),
            Health::Unhealthy { reason } | Health::Stopped { reason } => {
                Some(Trouble::Fault(format!("not ready: {reason}")))
            }
        }
    }

    /// How far its image is, if one is on its way. What failed before stays told until bytes come.
    fn fetching(&self, spec: &ContainerSpec, failed: bool) -> Option<String> {
        let mut steps = self.plan.steps.iter().filter(|step| step.container == spec.name);
        steps.find(|step| matches!(step.action, Action::Pull(_)))?;
        let progress = *self.pulling.get(&spec.image)?.borrow();
        (!failed || progress.done > 0).then(|| fetching(&spec.image, progress))
    }
}

/// Why a service does not run that a person stopped.
const STOPPED: &str = "stopped by hand";
/// Why a part of a service does not run.
const HELD: &str = "stopped while an upgrade or a restore is at work";

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
