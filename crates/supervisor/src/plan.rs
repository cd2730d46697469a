//! What to do so that the engine has the services that are wanted. Pure: it sees two descriptions and returns steps, so
//! that every case can be tried without an engine.
//!
//! What it never does: touch a container that is not ours, even one that has a name of ours, and remove a volume
//! (no such step exists).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aws_lc_rs::digest;
use model::{ContainerSpec, MountSource, Network, Run, ServiceName, ServiceSpec, Unit};
use serde_json::Value;

use crate::NAME_PREFIX;
use crate::observed::{
    EngineState, LABEL_DEFINITION, LABEL_GENERATION, LABEL_POSITION, LABEL_SERVICE, Observed, ObservedContainer,
};

/// How long a container that is no longer wanted may take to end, if it does not say so itself.
const UNWANTED_GRACE: Duration = Duration::from_secs(30);

/// Steps in the order they are to be taken, and what has none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// What to do. When a step fails, the later ones of the same container must wait for the next plan; when a stop or a
    /// removal does, all later ones of the same service.
    pub steps: Vec<Step>,
    /// Containers that wait for another of their service.
    pub waits: Vec<Note>,
    /// Definitions that can't be made true. Nothing of theirs is touched.
    pub refusals: Vec<Note>,
}

/// One thing to do for one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The container's name without our prefix.
    pub container: String,
    /// Its service.
    pub service: ServiceName,
    /// What to do.
    pub action: Action,
}

/// What a [`Step`] does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Fetch the image by this reference. Comes before anything is stopped for it, and holds up nothing else.
    Pull(String),
    /// Make a private network.
    CreateNetwork(String),
    /// Make a volume.
    CreateVolume(String),
    /// Stop a container of ours.
    Stop {
        /// The engine's id.
        id: String,
        /// How long it may take to end before it is killed.
        grace: Duration,
    },
    /// Stop and remove a container of ours. Its volumes stay.
    Remove {
        /// The engine's id.
        id: String,
        /// How long it may take to end before it is killed.
        grace: Duration,
    },
    /// Make the container, place its files and start it.
    Create {
        /// Its definition, with the image that is on this host.
        spec: Box<ContainerSpec>,
        /// Its labels, besides the owner's.
        labels: BTreeMap<String, String>,
    },
    /// Place its files and start it.
    Start {
        /// The engine's id.
        id: String,
        /// Its definition.
        spec: Box<ContainerSpec>,
    },
}

/// Why a container has no step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The container's name without our prefix.
    pub container: String,
    /// Why, and what to do about it.
    pub reason: String,
}

/// Compares `desired` with `observed`.
///
/// What a service no longer needs goes first, then what is to be stopped or made anew, each in the opposite of the
/// service's order, then what is to be started, in its order, as far as what it needs is ready: the next plan goes on.
#[must_use]
pub fn plan(desired: &[ServiceSpec], observed: &Observed) -> Plan {
    let mut plan = Plan::default();
    remove_unwanted(desired, observed, &mut plan);
    let mut made = Made { networks: observed.networks.clone(), volumes: observed.volumes.clone() };
    let mut seen = BTreeSet::new();
    for service in desired {
        let before = plan.refusals.len();
        for (at, unit) in service.units.iter().enumerate() {
            let spec = &unit.container;
            let fresh = seen.insert(spec.name.as_str());
            let reason = if fresh { refusal(service, at, observed) } else { Some(duplicate(spec)) };
            plan.refusals.extend(reason.map(|reason| note(spec, reason)));
        }
        if plan.refusals.len() == before {
            plan_service(service, observed, &mut made, &mut plan);
        }
    }
    plan
}

/// SHA-256 in hex of the definition as JSON, with the hashes of the secrets in their place: two definitions have the
/// same one when they are the same. What is empty does not count, so that a release that knows more settings finds the
/// same hash for a definition that uses none of them. The image's id does not count either: see [`fits`].
#[must_use]
pub fn definition_hash(spec: &ContainerSpec) -> String {
    let mut spec = spec.clone();
    spec.image_id = None;
    for secret in &mut spec.secrets {
        secret.content = sha256_hex(secret.content.as_bytes());
    }
    #[expect(clippy::expect_used, reason = "strings, numbers and maps with string keys always become JSON")]
    let mut json = serde_json::to_value(&spec).expect("a definition becomes JSON");
    without_empty(&mut json);
    sha256_hex(json.to_string().as_bytes())
}

/// Whether the container is what the definition says, made from the image that the definition names by its id, if it
/// does.
#[must_use]
pub fn fits(spec: &ContainerSpec, container: &ObservedContainer) -> bool {
    container.owned.as_ref().is_some_and(|owned| owned.definition == definition_hash(spec))
        && spec.image_id.as_ref().is_none_or(|id| *id == container.image_id)
}

/// Steps that stop all of a service that runs, in the opposite of its order.
pub(crate) fn stop_all_of(service: &ServiceSpec, observed: &Observed) -> Vec<Step> {
    let running = service.units.iter().rev().filter_map(|unit| {
        let container = observed.ours(name(unit)).filter(|container| container.state == EngineState::Running)?;
        Some(Step {
            container: name(unit).to_owned(),
            service: service.name.clone(),
            action: Action::Stop { id: container.id.clone(), grace: unit.container.stop_grace },
        })
    });
    running.collect()
}

/// The references and ids of images that a plan will ask for: those of containers that are to be made.
pub(crate) fn images_in_question(desired: &[ServiceSpec], observed: &Observed) -> BTreeSet<String> {
    let units = desired.iter().flat_map(|service| &service.units).map(|unit| &unit.container);
    let unmade = units.filter(|spec| observed.ours(&spec.name).is_none_or(|container| !fits(spec, container)));
    unmade.flat_map(|spec| [Some(spec.image.clone()), spec.image_id.clone()]).flatten().collect()
}

/// Networks and volumes that exist or that an earlier step makes.
struct Made {
    networks: BTreeSet<String>,
    volumes: BTreeSet<String>,
}

/// What is to become of a unit.
enum Task<'a> {
    /// It is as it should be.
    Keep,
    /// Not wanted to run now.
    Stop(&'a ObservedContainer),
    /// It hangs: stopped, and started by a later plan.
    Renew(&'a ObservedContainer),
    Start(&'a ObservedContainer),
    Make {
        old: Option<&'a ObservedContainer>,
        /// The reference or id of it on this host.
        image: String,
    },
    /// To be made, once there is an image.
    Fetch,
    /// To be made, but the image is another one than it was.
    Moved(String),
}

/// Comes first: what is no longer wanted may hold a port that a wanted one needs.
fn remove_unwanted(desired: &[ServiceSpec], observed: &Observed, plan: &mut Plan) {
    let wanted: BTreeSet<&str> =
        desired.iter().flat_map(|service| &service.units).map(|unit| unit.container.name.as_str()).collect();
    let mut unwanted: Vec<_> = observed
        .containers
        .iter()
        .filter_map(|container| Some((container, container.owned.as_ref()?)))
        .filter(|(container, _)| container.name.strip_prefix(NAME_PREFIX).is_none_or(|name| !wanted.contains(name)))
        .collect();
    unwanted.sort_by_key(|(container, owned)| (&owned.service, Reverse(owned.position), &container.name));
    for (container, owned) in unwanted {
        plan.steps.push(Step {
            container: container.name.strip_prefix(NAME_PREFIX).unwrap_or(&container.name).to_owned(),
            service: owned.service.clone(),
            action: Action::Remove { id: container.id.clone(), grace: container.stop_grace.unwrap_or(UNWANTED_GRACE) },
        });
    }
}

fn plan_service(service: &ServiceSpec, observed: &Observed, made: &mut Made, plan: &mut Plan) {
    let tasks: Vec<(&Unit, Task<'_>)> =
        service.units.iter().map(|unit| (unit, task(&service.run, unit, observed))).collect();
    let missing = |unit: &Unit, going: &BTreeSet<&str>| {
        let missing = |need: &&String| going.contains(need.as_str()) || !is_ready(service, need, observed);
        unit.needs.iter().find(missing).cloned()
    };
    let mut going: BTreeSet<&str> = BTreeSet::new();
    for (unit, task) in &tasks {
        let ends = match task {
            Task::Stop(_) | Task::Renew(_) => true,
            // The old one stays as long as its successor would have to wait for what stays as well.
            Task::Make { old: Some(_), .. } => missing(unit, &going).is_none_or(|need| going.contains(need.as_str())),
            Task::Keep | Task::Start(_) | Task::Make { old: None, .. } | Task::Fetch | Task::Moved(_) => false,
        };
        if ends {
            going.insert(name(unit));
        }
    }
    let mut step = |unit: &Unit, action| {
        plan.steps.push(Step { container: name(unit).to_owned(), service: service.name.clone(), action });
    };
    for (unit, task) in tasks.iter().rev() {
        let grace = unit.container.stop_grace;
        match task {
            Task::Stop(container) | Task::Renew(container) => {
                step(unit, Action::Stop { id: container.id.clone(), grace });
            }
            Task::Make { old: Some(old), .. } if going.contains(name(unit)) => {
                step(unit, Action::Remove { id: old.id.clone(), grace });
            }
            _ => {}
        }
    }
    for (at, (unit, task)) in tasks.iter().enumerate() {
        let spec = &unit.container;
        match task {
            Task::Keep | Task::Stop(_) | Task::Renew(_) => continue,
            Task::Fetch => {
                step(unit, Action::Pull(spec.image.clone()));
                continue;
            }
            Task::Moved(reason) => {
                plan.refusals.push(note(spec, reason.clone()));
                continue;
            }
            Task::Start(_) | Task::Make { .. } => {}
        }
        if let Some(need) = missing(unit, &going) {
            plan.waits.push(note(spec, format!("waits for {need}")));
            continue;
        }
        match task {
            Task::Start(container) => {
                step(unit, Action::Start { id: container.id.clone(), spec: Box::new(spec.clone()) });
            }
            Task::Make { image, .. } => {
                for action in surroundings(spec, made) {
                    step(unit, action);
                }
                let labels = BTreeMap::from([
                    (LABEL_SERVICE.to_owned(), service.name.to_string()),
                    (LABEL_DEFINITION.to_owned(), definition_hash(spec)),
                    (LABEL_GENERATION.to_owned(), service.generation.to_string()),
                    (LABEL_POSITION.to_owned(), at.to_string()),
                ]);
                let spec = Box::new(ContainerSpec { image: image.clone(), ..spec.clone() });
                step(unit, Action::Create { spec, labels });
            }
            _ => {}
        }
    }
}

fn task<'a>(run: &Run, unit: &Unit, observed: &'a Observed) -> Task<'a> {
    let spec = &unit.container;
    let container = observed.ours(&spec.name);
    let wanted = match run {
        Run::All => true,
        Run::Nothing => false,
        Run::Only(names) => names.contains(&spec.name),
    };
    match container {
        Some(container) if !wanted => match container.state {
            EngineState::Running | EngineState::Paused => Task::Stop(container),
            EngineState::Created | EngineState::Exited | EngineState::Dead => Task::Keep,
        },
        None if !wanted => Task::Keep,
        Some(container) if fits(spec, container) && container.state != EngineState::Dead => match container.state {
            EngineState::Running if observed.hung.contains(&container.id) => Task::Renew(container),
            EngineState::Running | EngineState::Paused | EngineState::Dead => Task::Keep,
            EngineState::Created | EngineState::Exited => Task::Start(container),
        },
        old => make(spec, old, observed),
    }
}

/// A new container, from the image that the definition names by its id, whatever its reference means now.
fn make<'a>(spec: &ContainerSpec, old: Option<&'a ObservedContainer>, observed: &Observed) -> Task<'a> {
    let meant = observed.images.get(&spec.image);
    match (&spec.image_id, meant) {
        (None, Some(_)) => Task::Make { old, image: spec.image.clone() },
        (Some(id), Some(meant)) if id == meant => Task::Make { old, image: spec.image.clone() },
        (Some(id), _) if observed.images.contains_key(id) => Task::Make { old, image: id.clone() },
        (Some(id), Some(meant)) => Task::Moved(format!(
            "image {} is now another one ({}) than this service was made with ({}), which is no longer on this host; \
             upgrade the service to take the new one, or load the old one with `docker load`",
            spec.image,
            short_id(meant),
            short_id(id)
        )),
        (_, None) => Task::Fetch,
    }
}

/// What must exist before the container.
fn surroundings(spec: &ContainerSpec, made: &mut Made) -> Vec<Action> {
    let mut actions = Vec::new();
    if let Network::Private(network) = &spec.network
        && made.networks.insert(network.clone())
    {
        actions.push(Action::CreateNetwork(network.clone()));
    }
    for mount in &spec.mounts {
        if let MountSource::Volume(volume) = &mount.source
            && made.volumes.insert(volume.clone())
        {
            actions.push(Action::CreateVolume(volume.clone()));
        }
    }
    actions
}

/// Whether a container of the service can be used by those that need it.
fn is_ready(service: &ServiceSpec, need: &str, observed: &Observed) -> bool {
    let unit = service.units.iter().find(|unit| name(unit) == need);
    let container = observed.ours(need).filter(|container| container.state == EngineState::Running);
    match (unit, container) {
        (Some(unit), Some(container)) => unit.ready.is_none() || observed.ready.contains(&container.id),
        _ => false,
    }
}

fn name(unit: &Unit) -> &str {
    &unit.container.name
}

fn note(spec: &ContainerSpec, reason: String) -> Note {
    Note { container: spec.name.clone(), reason }
}

fn duplicate(spec: &ContainerSpec) -> String {
    format!("two definitions are called {}; each needs a name of its own", spec.name)
}

/// Why the unit can't be as it is defined, if so.
fn refusal(service: &ServiceSpec, at: usize, observed: &Observed) -> Option<String> {
    let unit = &service.units[at];
    let spec = &unit.container;
    let full_name = format!("{NAME_PREFIX}{}", spec.name);
    if observed.containers.iter().any(|c| c.name == full_name && c.owned.is_none()) {
        return Some(format!(
            "a container called {full_name} exists and is not ours, so it is left alone; \
             rename or remove it (docker rename {full_name} NEW) and ours is made"
        ));
    }
    if let Some(copy) = observed.copies.get(&spec.name).filter(|_| observed.ours(&spec.name).is_none()) {
        return Some(format!(
            "{copy} runs with the labels of {full_name} and may have its data open, so no second one is started beside \
             it; if it is the old one, name it back (docker rename {copy} {full_name}), else stop it (docker stop {copy})"
        ));
    }
    if spec.service != service.name {
        return Some(format!("{} is defined as a part of {} and stands in {}", spec.name, spec.service, service.name));
    }
    if let Some(need) = unit.needs.iter().find(|need| !service.units[..at].iter().any(|unit| name(unit) == *need)) {
        return Some(format!("{} needs {need}, which does not come before it in {}", spec.name, service.name));
    }
    if spec.network == Network::Host && !spec.ports.is_empty() {
        return Some(format!("{} is in the host's network and can't publish ports", spec.name));
    }
    let open = spec.ports.iter().find(|port| port.host.ip().is_unspecified())?;
    Some(format!(
        "{} would publish {} on every address and so past the host's firewall; name a tunnel or loopback address",
        spec.name, open.host
    ))
}

/// Leaves out null, and lists and objects with nothing in them.
fn without_empty(value: &mut Value) {
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    };
    match value {
        // An empty part of a list has its place there.
        Value::Array(list) => list.iter_mut().for_each(without_empty),
        Value::Object(map) => {
            map.values_mut().for_each(without_empty);
            map.retain(|_, value| !empty(value));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn short_id(id: &str) -> &str {
    id.get(..19).unwrap_or(id)
}

fn sha256_hex(bytes: &[u8]) -> String {
    digest::digest(&digest::SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
