//! [`Storage`] on the Docker API.

use std::collections::{BTreeMap, HashMap};

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::errors::Error as DockerError;
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, LogsOptionsBuilder, RemoveContainerOptionsBuilder, RemoveVolumeOptions,
    WaitContainerOptions,
};
use futures_util::stream::StreamExt;
use model::ServiceName;

use super::convert::mount;
use super::{DockerEngine, EXEC_OUTPUT, QUICK, SLOW, found};
use crate::engine::{EngineError, ExecOutput};
use crate::storage::{Helper, ImageFacts, Storage};

/// Label: whose helper the container is. Helpers have no owner's label: they are none of the supervisor's.
const LABEL_HELPER: &str = "cloudathome.helper-of";

impl DockerEngine {
    /// One name for each service, so that two never work on the same volumes.
    fn helper_name(&self, service: &ServiceName) -> String {
        format!("helper.{}.{service}", self.owner)
    }
}

impl Storage for DockerEngine {
    async fn image_facts(&self, reference: &str) -> Result<Option<ImageFacts>, EngineError> {
        let operation = format!("looking for image {reference}");
        let image = self.call(&operation, QUICK, |d| async move { found(d.inspect_image(reference).await) }).await?;
        Ok(image.map(|image| {
            let config = image.config.unwrap_or_default();
            let env = config.env.unwrap_or_default();
            let pairs = env.iter().filter_map(|pair| pair.split_once('='));
            ImageFacts {
                id: image.id.unwrap_or_default(),
                env: pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
                labels: config.labels.unwrap_or_default().into_iter().collect::<BTreeMap<_, _>>(),
            }
        }))
    }

    async fn run_helper(&self, helper: &Helper) -> Result<ExecOutput, EngineError> {
        self.end_helper(&helper.service).await?;
        let name = self.helper_name(&helper.service);
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        let (program, arguments) = helper.command.split_first().map_or((None, &[][..]), |(p, a)| (Some(p.clone()), a));
        let body = ContainerCreateBody {
            image: Some(helper.image.clone()),
            entrypoint: Some(program.into_iter().collect()),
            cmd: Some(arguments.to_vec()),
            user: Some("0:0".to_owned()),
            labels: Some(HashMap::from([(LABEL_HELPER.to_owned(), self.owner.clone())])),
            network_disabled: Some(true),
            host_config: Some(HostConfig {
                network_mode: Some("none".to_owned()),
                mounts: Some(helper.mounts.iter().map(mount).collect()),
                ..Default::default()
            }),
            ..Default::default()
        };
        let created =
            self.call("creating a helper", SLOW, |d| async move { d.create_container(Some(options), body).await });
        let id = created.await?.id;
        let run = self.call("running a helper", helper.deadline, |d| {
            let id = id.clone();
            async move { run(&d, &id).await }
        });
        let output = run.await;
        let ended = self.end_helper(&helper.service).await;
        let output = output?;
        ended.map(|()| output)
    }

    async fn end_helper(&self, service: &ServiceName) -> Result<(), EngineError> {
        let name = self.helper_name(service);
        // With the volumes without a name that an image may ask for.
        let remove = RemoveContainerOptionsBuilder::default().v(true).force(true).build();
        self.call("removing a helper", SLOW, |d| async move { found(d.remove_container(&name, Some(remove)).await) })
            .await
            .map(drop)
    }

    async fn remove_volume(&self, name: &str) -> Result<(), EngineError> {
        let operation = format!("removing volume {name}");
        self.call(&operation, SLOW, |d| async move { found(d.remove_volume(name, None::<RemoveVolumeOptions>).await) })
            .await
            .map(drop)
    }
}

async fn run(docker: &Docker, id: &str) -> Result<ExecOutput, DockerError> {
    docker.start_container(id, None).await?;
    let mut output = ExecOutput { code: -1, stdout: String::new(), stderr: String::new() };
    let mut end = docker.wait_container(id, None::<WaitContainerOptions>);
    while let Some(ended) = end.next().await {
        output.code = match ended {
            Ok(ended) => ended.status_code,
            // The library's way to say that it ended with another code than 0.
            Err(DockerError::DockerContainerWaitError { code, .. }) => code,
            Err(error) => return Err(error),
        };
    }
    let options = LogsOptionsBuilder::default().stdout(true).stderr(true).follow(false).build();
    let mut lines = docker.logs(id, Some(options));
    while let Some(line) = lines.next().await {
        let line = line?;
        let kept = if matches!(line, LogOutput::StdErr { .. }) { &mut output.stderr } else { &mut output.stdout };
        if kept.len() < EXEC_OUTPUT {
            kept.push_str(&line.to_string());
        }
    }
    Ok(output)
}
