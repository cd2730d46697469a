//! What happened to containers, in words for people.

use model::PortBinding;

use crate::chain;
use crate::engine::{Engine, EngineError, PullProgress};
use crate::observed::ObservedContainer;

/// Log lines that go into the reason of a container that ended.
const REASON_LINES: usize = 3;
/// Characters of them.
const REASON_CHARS: usize = 400;
const MEGABYTE: u64 = 1_000_000;

/// How a container ended, with the last lines of its output.
pub(crate) async fn ending<E: Engine>(engine: &E, container: &ObservedContainer) -> String {
    let code = container.exit_code.unwrap_or_default();
    let lines = match engine.log_tail(&container.id, REASON_LINES).await {
        Ok(lines) => lines,
        Err(error) => return format!("ended with exit code {code}; its output can't be read: {}", chain(&error)),
    };
    let text = lines.iter().map(|line| line.trim()).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" | ");
    if text.is_empty() {
        return format!("ended with exit code {code}, without a word");
    }
    let skip = text.chars().count().saturating_sub(REASON_CHARS);
    let tail: String = text.chars().skip(skip).collect();
    format!("ended with exit code {code}; its last words: {tail}")
}

/// The engine's words for the obstacles people meet most, in words that help.
pub(crate) fn explain(error: &EngineError, ports: &[PortBinding]) -> String {
    let text = chain(error);
    let ports = ports.iter().map(|port| port.host.to_string()).collect::<Vec<_>>().join(", ");
    if text.contains("no space left on device") {
        format!(
            "the disk is full where the engine keeps images and volumes: make room (`docker system df` shows who uses \
             it, `docker image prune` removes images that nobody uses); it is tried again by itself. {text}"
        )
    } else if text.contains("cannot assign requested address") {
        format!("can't publish {ports}: this host does not have the address (yet); it is tried again by itself")
    } else if text.contains("address already in use") || text.contains("port is already allocated") {
        format!("can't publish {ports}: another program has the port; `ss -ltnp` names it. {text}")
    } else {
        text
    }
}

/// How far the fetching of an image is.
pub(crate) fn fetching(reference: &str, progress: PullProgress) -> String {
    let megabytes = |bytes: u64| bytes.div_ceil(MEGABYTE);
    match progress.total {
        0 => format!("fetching image {reference}"),
        total => format!("fetching image {reference}: {} of {} MB", megabytes(progress.done), megabytes(total)),
    }
}

/// An id as people see it.
pub(crate) fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}
