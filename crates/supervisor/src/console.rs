//! What people do inside a container, beyond what the supervisor asks of an engine.

use std::future::Future;

use futures_util::stream::BoxStream;
use model::{ExecInput, Output, TerminalSize};
use tokio::sync::mpsc;

use crate::EngineError;

/// A container's or a command's output as it comes. The container's name in it is empty: the engine does not know it.
pub type Outputs = BoxStream<'static, Result<Output, EngineError>>;

/// A command for a running container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsoleCommand {
    /// The user inside, by name or number; none takes the container's.
    pub user: Option<String>,
    /// Program and arguments.
    pub command: Vec<String>,
    /// The terminal that it gets, if it gets one.
    pub terminal: Option<TerminalSize>,
}

/// A way into running containers, with output as it comes.
pub trait Console: Send + Sync + 'static {
    /// What the container wrote: the last `tail` lines, and with `follow` what it writes until it ends.
    fn written(&self, id: &str, tail: u32, follow: bool) -> impl Future<Output = Result<Outputs, EngineError>> + Send;

    /// Runs a command. [`Output::Ended`] comes last. An engine has no way to end a command: one whose stream is dropped
    /// loses its input and output, and goes on if it needs neither.
    fn converse(
        &self,
        id: &str,
        command: ConsoleCommand,
        input: mpsc::Receiver<ExecInput>,
    ) -> impl Future<Output = Result<Outputs, EngineError>> + Send;
}
