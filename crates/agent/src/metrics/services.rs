//! Metrics of services, their containers and the supervisor that looks after them.

use daemon::exposition::{Family, Labels};
use model::{ContainerState, ContainerStatus, HostStatus, ServiceStatus};

use super::{family, labels, one};
use crate::services::Supervision;

/// Every word for the health of a service.
const HEALTH: [&str; 6] = ["unknown", "starting", "healthy", "degraded", "unhealthy", "stopped"];
/// Every word for what people get at a public name.
const SERVING: [&str; 6] = ["unknown", "starting", "serving", "degraded", "down", "stopped"];

pub(super) fn families(status: &HostStatus, supervision: &Supervision) -> Vec<Family> {
    let services = || status.services.iter();
    let in_state = |service: &ServiceStatus, state: &str, word: &str| {
        let labels = [labels_of(service), vec![("state", word.to_owned())]].concat();
        (labels, f64::from(state == word))
    };
    let health = services().flat_map(|s| HEALTH.map(|word| in_state(s, s.health.word(), word)));
    // What has no public name serves nobody and must not look like a fault.
    let published = services().filter(|service| service.hostname.is_some());
    let serving = published.flat_map(|s| SERVING.map(|word| in_state(s, s.serving.word(), word)));
    let outside = status.outside.iter().map(|proof| {
        let labels = labels(status, [("hostname", proof.hostname.to_string())]);
        (labels, f64::from(proof.failure.is_none()))
    });
    let latencies = supervision.latencies.borrow();
    let latencies = latencies.iter().map(|(name, took)| {
        let labels = labels(status, [("service", name.to_string())]);
        (labels, took.as_secs_f64())
    });
    let container = |container: &ContainerStatus| {
        labels(status, [("service", container.service.to_string()), ("container", container.name.clone())])
    };
    let running = status.containers.iter().map(|c| (container(c), f64::from(c.state == ContainerState::Running)));
    let restarts = supervision.restarts.borrow();
    let restarts =
        status.containers.iter().map(|c| (container(c), restarts.get(&c.name).copied().unwrap_or_default() as f64));
    let passes = *supervision.passes.borrow();
    vec![
        family("cloudathome_service_state", "1 for what people get at its public name", serving),
        family("cloudathome_service_health", "1 for the state that its host finds it in", health),
        family("cloudathome_outside_proof_passed", "1 while home gets the public name from outside", outside),
        family("cloudathome_service_check_duration_seconds", "The slowest of its last health checks", latencies),
        family("cloudathome_container_running", "1 while it runs", running),
        family("cloudathome_container_restarts_total", "Started again after it had ended or hung", restarts),
        one("cloudathome_supervisor_passes_total", "Passes of the supervisor", status, passes.count as f64),
        one(
            "cloudathome_supervisor_passes_failed_total",
            "Passes in which the engine did not answer",
            status,
            passes.failures as f64,
        ),
        one(
            "cloudathome_supervisor_pass_duration_seconds",
            "How long the last pass took",
            status,
            passes.last.as_secs_f64(),
        ),
    ]
}

/// A service is of the host that it runs on, whichever host tells of it.
fn labels_of(service: &ServiceStatus) -> Labels {
    let hostname = service.hostname.as_ref().map(ToString::to_string).unwrap_or_default();
    vec![("host", service.host.to_string()), ("service", service.name.to_string()), ("hostname", hostname)]
}
