//! What there is: containers, networks, volumes and images as the engine reports them, and what checks have shown.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use model::{Generation, ServiceName};

use crate::NAME_PREFIX;

/// Label: which agent owns the container. A container without it, or with another owner, is foreign.
pub const LABEL_OWNER: &str = "cloudathome.managed-by";
/// Label: the container's name without our prefix, as we made it. Labels come along when a person copies a container or
/// commits it to an image; one that bears another name than this is foreign.
pub const LABEL_CONTAINER: &str = "cloudathome.container";
/// Label: the service the container belongs to.
pub const LABEL_SERVICE: &str = "cloudathome.service";
/// Label: the hash of the definition the container was made from.
pub const LABEL_DEFINITION: &str = "cloudathome.definition";
/// Label: the generation of the service that the container was made for.
pub const LABEL_GENERATION: &str = "cloudathome.generation";
/// Label: the container's place in its service's order, from 0; what comes later is stopped earlier.
pub const LABEL_POSITION: &str = "cloudathome.position";

/// What there is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// Containers of ours, and foreign ones whose names start with [`NAME_PREFIX`].
    pub containers: Vec<ObservedContainer>,
    /// Full names of foreign containers that run with our labels, by the name that these say: copies of ours, or ours that
    /// a person renamed.
    pub copies: BTreeMap<String, String>,
    /// Names of all networks.
    pub networks: BTreeSet<String>,
    /// Names of all volumes.
    pub volumes: BTreeSet<String>,
    /// The ids of images by the references and ids that were asked for and are on this host.
    pub images: BTreeMap<String, String>,
    /// Ids of the containers that their checks have shown to be ready.
    pub ready: BTreeSet<String>,
    /// Ids of the containers that run and have not answered for so long that they are to be started anew.
    pub hung: BTreeSet<String>,
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
    /// The id of the image it was made from.
    pub image_id: String,
    /// Its state.
    pub state: EngineState,
    /// How it ended, for [`EngineState::Exited`].
    pub exit_code: Option<i64>,
    /// Unix time of its last start, in seconds.
    pub started_at: Option<i64>,
    /// Unix time of its last end, in seconds.
    pub finished_at: Option<i64>,
    /// How long it may take to end before it is killed, as it was made.
    pub stop_grace: Option<Duration>,
}

/// What our labels say about a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    /// The service it belongs to.
    pub service: ServiceName,
    /// The hash of the definition it was made from.
    pub definition: String,
    /// The generation of the service it was made for.
    pub generation: Generation,
    /// Its place in its service's order when it was made.
    pub position: usize,
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
