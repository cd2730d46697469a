//! All that an agent has made in an engine, for the day when its host leaves.

use std::collections::HashMap;
use std::time::Duration;

use bollard::query_parameters::{ListContainersOptionsBuilder, ListNetworksOptionsBuilder, ListVolumesOptionsBuilder};

use super::{DockerEngine, LABEL_OWNER, LABEL_POSITION, QUICK, found, name_of};
use crate::engine::{Engine, EngineError};

/// What is ours in an engine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Belongings {
    /// Ids and names of containers, in the order in which they may be stopped: what others need comes last.
    pub containers: Vec<(String, String)>,
    /// Names of networks.
    pub networks: Vec<String>,
    /// Names of volumes: the services' data.
    pub volumes: Vec<String>,
}

impl DockerEngine {
    /// What this agent has made here, by its label alone: also what a person has renamed.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn belongings(&self) -> Result<Belongings, EngineError> {
        let ours = || HashMap::from([("label", vec![format!("{LABEL_OWNER}={}", self.owner)])]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&ours()).build();
        let listed =
            self.call("listing containers", QUICK, |d| async move { d.list_containers(Some(options)).await }).await?;
        let position = |labels: &HashMap<String, String>| labels.get(LABEL_POSITION)?.parse::<usize>().ok();
        let mut containers: Vec<_> = listed
            .into_iter()
            .map(|summary| {
                let at = summary.labels.as_ref().and_then(position);
                (at, name_of(&summary), summary.id.unwrap_or_default())
            })
            .collect();
        containers.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        let options = ListNetworksOptionsBuilder::default().filters(&ours()).build();
        let networks =
            self.call("listing networks", QUICK, |d| async move { d.list_networks(Some(options)).await }).await?;
        let options = ListVolumesOptionsBuilder::default().filters(&ours()).build();
        let volumes =
            self.call("listing volumes", QUICK, |d| async move { d.list_volumes(Some(options)).await }).await?;
        Ok(Belongings {
            containers: containers.into_iter().map(|(_, name, id)| (id, name)).collect(),
            networks: networks.into_iter().filter_map(|network| network.name).collect(),
            volumes: volumes.volumes.unwrap_or_default().into_iter().map(|volume| volume.name).collect(),
        })
    }

    /// Stops containers of ours, each within `grace`, and removes them with the networks between them. Volumes stay.
    ///
    /// # Errors
    /// Naming what could not be removed. What was removed before it stays so: call again.
    pub async fn remove_containers(&self, ours: &Belongings, grace: Duration) -> Result<(), EngineError> {
        for (id, _) in &ours.containers {
            self.remove(id, grace).await?;
        }
        for name in &ours.networks {
            let operation = format!("removing network {name}");
            self.call(&operation, QUICK, |d| async move { found(d.remove_network(name).await) }).await?;
        }
        Ok(())
    }
}
