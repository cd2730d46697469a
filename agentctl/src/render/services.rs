//! The services of both hosts as a table.

use model::{ContainerState, ContainerStatus};

use super::{Colour, Table, Tone, health_cell, or_dash, reasons, serving_cell, since_cell};
use crate::services::Line;
use crate::verdict::container_word;

/// The whole text. `now` is Unix time in seconds.
pub(crate) fn render(lines: &[Line], colour: Colour, now: u64) -> String {
    if lines.is_empty() {
        return "No service is configured on either host\n".to_owned();
    }
    let mut table = Table::default();
    let heads = ["SERVICE", "HOST", "NAME", "STATE", "SINCE", "HEALTH", "CONTAINERS"];
    table.row(heads.map(|head| (Tone::Plain, head.to_owned())));
    for Line { status, containers } in lines {
        table.row([
            (Tone::Plain, status.name.to_string()),
            (Tone::Plain, status.host.to_string()),
            or_dash(status.hostname.as_ref().map(ToString::to_string)),
            serving_cell(&status.serving, status.hostname.is_some()),
            since_cell(status, now),
            health_cell(&status.health),
            container_cell(containers),
        ]);
        reasons(status).for_each(|reason| table.note(reason));
        for container in containers {
            table.notes(container.reason.as_ref().map(|reason| format!("container {}: {reason}", container.name)));
        }
    }
    let mut text = String::new();
    table.write(colour, &mut text);
    text
}

fn container_cell(containers: &[ContainerStatus]) -> (Tone, String) {
    if containers.is_empty() {
        return or_dash(None);
    }
    let all_run = containers.iter().all(|container| container.state == ContainerState::Running);
    let word = |container: &ContainerStatus| match container.state {
        ContainerState::Running => container.name.clone(),
        state => format!("{} ({})", container.name, container_word(state)),
    };
    let tone = if all_run { Tone::Plain } else { Tone::Bad };
    (tone, containers.iter().map(word).collect::<Vec<_>>().join(", "))
}
