//! What to do so that the engine has the containers that are wanted. Pure: it sees two descriptions and returns
//! steps, so that every case can be tried without an engine.
//!
//! What it never does: touch a container that is not ours, even one that has a name of ours, and remove a volume
//! (no such step exists).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aws_lc_rs::digest;
use model::{ContainerSpec, MountSource, Network, ServiceName};

use crate::NAME_PREFIX;

/// How long a container that is no longer wanted may take to end before it is killed.
const UNWANTED_GRACE: Duration = Duration::from_secs(30);

/// Label: which agent owns the container. A container without it, or with another owner, is foreign.
pub const LABEL_OWNER: &str = "cloudathome.managed-by";
/// Label: the service the container belongs to.
pub const LABEL_SERVICE: &str = "cloudathome.service";
/// Label: [`definition_hash`] of the definition the container was made from.
pub const LABEL_DEFINITION: &str = "cloudathome.definition";
/// Label: the id of the image that the definition's reference meant when the container was made.
pub const LABEL_IMAGE_ID: &str = "cloudathome.image-id";

/// What the engine reports.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// Containers of ours, and foreign ones whose names start with [`NAME_PREFIX`].
    pub containers: Vec<ObservedContainer>,
    /// Names of all networks.
    pub networks: BTreeSet<String>,
    /// Names of all volumes.
    pub volumes: BTreeSet<String>,
}

impl Observed {
    /// Our container for the definition called `name`, if it is there.
    #[must_use]
    pub fn ours(&self, name: &str) -> Option<&ObservedContainer> {
        self.containers.iter().find(|c| c.owned.is_some() && c.name.strip_prefix(NAME_PREFIX) == Some(name))
    }
}

/// A container as the engine reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedContainer {
    /// The engine's id.
    pub id: String,
    /// Its full name, without a leading slash.
    pub name: String,
    /// What our labels say; none for a foreign container.
    pub owned: Option<Owned>,
    /// The image reference it was made from.
    pub image: String,
    /// Its state.
    pub state: EngineState,
    /// How it ended, for [`EngineState::Exited`].
    pub exit_code: Option<i64>,
    /// Unix time of its last start, in seconds.
    pub started_at: Option<i64>,
    /// Unix time of its last end, in seconds.
    pub finished_at: Option<i64>,
}

/// What our labels say about a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    /// The service it belongs to.
    pub service: ServiceName,
    /// The hash of the definition it was made from.
    pub definition: String,
}

/// A container's state in the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineState {
    /// Made, never started.
    Created,
    /// Running.
    Running,
    /// Frozen by someone; left alone.
    Paused,
    /// Ended.
    Exited,
    /// Half removed by the engine; only good for removing.
    Dead,
}

/// Steps in the order they are to be taken, and what cannot be planned.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// What to do. When a step fails, the later ones of the same service must wait for the next plan.
    pub steps: Vec<Step>,
    /// Definitions that can't be made true, with the reason. Nothing of theirs is touched.
    pub refusals: Vec<Refusal>,
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
    /// Have the image on this host. Comes before anything is stopped for it.
    EnsureImage(String),
    /// Make a private network.
    CreateNetwork(String),
    /// Make a volume.
    CreateVolume(String),
    /// Stop and remove a container of ours. Its volumes stay.
    Remove {
        /// The engine's id.
        id: String,
        /// How long it may take to end before it is killed.
        grace: Duration,
    },
    /// Make the container, place its files and start it.
    Create(Box<ContainerSpec>),
    /// Place its files and start it.
    Start {
        /// The engine's id.
        id: String,
        /// Its definition.
        spec: Box<ContainerSpec>,
    },
}

/// A definition that can't be made true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The container's name without our prefix.
    pub container: String,
    /// Its service.
    pub service: ServiceName,
    /// Why, and what to do about it.
    pub reason: String,
}

/// Compares `desired` with `observed`. Definitions of one service stand in the order in which they need each other.
#[must_use]
pub fn plan(desired: &[ContainerSpec], observed: &Observed) -> Plan {
    let mut plan = Plan::default();
    remove_unwanted(desired, observed, &mut plan);
    let mut made = Made { networks: observed.networks.clone(), volumes: observed.volumes.clone() };
    let mut seen = BTreeSet::new();
    for spec in desired {
        let invalid = if seen.insert(spec.name.as_str()) { invalid(spec) } else { Some(duplicate(spec)) };
        match invalid {
            Some(reason) => plan.refuse(spec, reason),
            None => plan_one(spec, observed, &mut made, &mut plan),
        }
    }
    plan
}

/// SHA-256 in hex of the definition as JSON, with the hashes of the secrets in their place: two definitions have the
/// same one when they are the same.
#[must_use]
pub fn definition_hash(spec: &ContainerSpec) -> String {
    let mut spec = spec.clone();
    for secret in &mut spec.secrets {
        secret.content = sha256_hex(secret.content.as_bytes());
    }
    #[expect(clippy::expect_used, reason = "strings, numbers and maps with string keys always become JSON")]
    let json = serde_json::to_vec(&spec).expect("a definition becomes JSON");
    sha256_hex(&json)
}

/// Networks and volumes that exist or that an earlier step makes.
struct Made {
    networks: BTreeSet<String>,
    volumes: BTreeSet<String>,
}

impl Plan {
    fn step(&mut self, spec: &ContainerSpec, action: Action) {
        self.steps.push(Step { container: spec.name.clone(), service: spec.service.clone(), action });
    }

    fn refuse(&mut self, spec: &ContainerSpec, reason: String) {
        self.refusals.push(Refusal { container: spec.name.clone(), service: spec.service.clone(), reason });
    }
}

/// Comes first: what is no longer wanted may hold a port that a wanted one needs.
fn remove_unwanted(desired: &[ContainerSpec], observed: &Observed, plan: &mut Plan) {
    let wanted: BTreeMap<&str, &ContainerSpec> = desired.iter().map(|spec| (spec.name.as_str(), spec)).collect();
    for container in &observed.containers {
        let Some(owned) = &container.owned else { continue };
        let name = container.name.strip_prefix(NAME_PREFIX);
        if name.is_none_or(|name| !wanted.contains_key(name)) {
            plan.steps.push(Step {
                container: name.unwrap_or(&container.name).to_owned(),
                service: owned.service.clone(),
                action: Action::Remove { id: container.id.clone(), grace: UNWANTED_GRACE },
            });
        }
    }
}

fn plan_one(spec: &ContainerSpec, observed: &Observed, made: &mut Made, plan: &mut Plan) {
    let full_name = format!("{NAME_PREFIX}{}", spec.name);
    let Some(container) = observed.containers.iter().find(|c| c.name == full_name) else {
        return create(spec, None, made, plan);
    };
    let Some(owned) = &container.owned else {
        return plan.refuse(
            spec,
            format!(
                "a container called {full_name} exists and is not ours, so it is left alone; \
                 rename or remove it (docker rename {full_name} NEW) and ours is made"
            ),
        );
    };
    if owned.definition != definition_hash(spec) || container.state == EngineState::Dead {
        return create(spec, Some(container), made, plan);
    }
    match container.state {
        EngineState::Created | EngineState::Exited => {
            plan.step(spec, Action::Start { id: container.id.clone(), spec: Box::new(spec.clone()) });
        }
        EngineState::Running | EngineState::Paused | EngineState::Dead => {}
    }
}

/// Steps that make the container, in place of `old` if there is one. Everything that can fail without it is done
/// before the old one is stopped.
fn create(spec: &ContainerSpec, old: Option<&ObservedContainer>, made: &mut Made, plan: &mut Plan) {
    plan.step(spec, Action::EnsureImage(spec.image.clone()));
    if let Network::Private(network) = &spec.network
        && made.networks.insert(network.clone())
    {
        plan.step(spec, Action::CreateNetwork(network.clone()));
    }
    for mount in &spec.mounts {
        if let MountSource::Volume(volume) = &mount.source
            && made.volumes.insert(volume.clone())
        {
            plan.step(spec, Action::CreateVolume(volume.clone()));
        }
    }
    if let Some(old) = old {
        plan.step(spec, Action::Remove { id: old.id.clone(), grace: spec.stop_grace });
    }
    plan.step(spec, Action::Create(Box::new(spec.clone())));
}

fn duplicate(spec: &ContainerSpec) -> String {
    format!("two definitions are called {}; each needs a name of its own", spec.name)
}

/// What in the definition itself can't be right.
fn invalid(spec: &ContainerSpec) -> Option<String> {
    if spec.network == Network::Host && !spec.ports.is_empty() {
        return Some(format!("{} is in the host's network and can't publish ports", spec.name));
    }
    let open = spec.ports.iter().find(|port| port.host.ip().is_unspecified())?;
    Some(format!(
        "{} would publish {} on every address and so past the host's firewall; name a tunnel or loopback address",
        spec.name, open.host
    ))
}

fn sha256_hex(bytes: &[u8]) -> String {
    digest::digest(&digest::SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
