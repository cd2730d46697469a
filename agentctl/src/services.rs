//! `agentctl services`: the services of both hosts, prints.

use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use model::{ContainerStatus, Health, ServiceStatus, Serving};
use serde::Serialize;

use crate::ask::ask;
use crate::cli::AskArgs;
use crate::exit::{Exit, Failure};
use crate::render::{self, Colour};
use crate::status::Report;
use crate::verdict::services;

/// A service with what belongs to it, and the form of `--json`.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    #[serde(flatten)]
    pub(crate) status: ServiceStatus,
    /// Its containers.
    pub(crate) containers: Vec<ContainerStatus>,
}

impl Line {
    /// Whether nothing keeps people from it.
    fn is_well(&self) -> bool {
        let named = self.status.hostname.is_some() || self.status.serving != Serving::Unknown;
        self.status.health == Health::Healthy && (!named || self.status.serving == Serving::Yes)
    }
}

/// Asks the agent and prints; the exit code tells whether all services are well.
pub(crate) fn run(args: &AskArgs, colour: Colour, out: &mut dyn Write) -> Result<Exit, Failure> {
    let report = ask(args.socket.as_deref(), Report::of)?;
    let lines = lines(&report);
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &lines).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        out.write_all(render::services::render(&lines, colour, now).as_bytes())?;
    }
    Ok(if lines.iter().all(Line::is_well) { Exit::Ok } else { Exit::Unwell })
}

fn lines(report: &Report) -> Vec<Line> {
    let line = |status: &ServiceStatus| {
        let hosts = std::iter::once(&report.local).chain(&report.peer);
        let containers = hosts.filter(|host| host.host == status.host).flat_map(|host| &host.containers);
        let containers = containers.filter(|container| container.service == status.name).cloned().collect();
        Line { status: status.clone(), containers }
    };
    services(report).into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use model::ContainerState;

    use super::*;
    use crate::render::tests::fake_report;

    #[test]
    fn a_service_comes_with_its_containers() {
        let mut report = fake_report();
        let told = lines(&report);
        assert_eq!((told[0].status.name.as_str(), told[0].containers.len()), ("nextcloud", 1));
        assert!(told.iter().all(Line::is_well));

        let peer = report.peer.as_mut().unwrap();
        peer.containers[0].state = ContainerState::Exited;
        peer.containers[0].reason = Some("exit code 1".into());
        report.local.services[1].serving = Serving::No { reason: "503".into() };
        report.local.services[1].since = Some(60);
        let told = lines(&report);
        assert!(!told[0].is_well());
        let text = render::services::render(&told, Colour::when(false), 120);
        let expected = [
            "  SERVICE    HOST   NAME                STATE  SINCE      HEALTH   CONTAINERS",
            "  nextcloud  attic  cloud.example.test  down   1 min 0 s  healthy  nextcloud (exited)",
            "      down: 503",
            "      container nextcloud: exit code 1",
        ];
        assert_eq!(text.lines().take(4).collect::<Vec<_>>(), expected);
    }
}
