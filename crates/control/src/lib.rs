//! gRPC transport: the stream between the agents (mutual TLS inside the tunnel), and for `agentctl` (unix socket) the
//! inspection of both hosts and the operations on the services of its own.
//!
//! Who may connect is decided here and nowhere else: [`ControlTls`] takes certificates of the private CA only,
//! and each end takes the one opposite agent only, by role and name, so that a device, which holds a certificate
//! of the same CA, is refused.
//!
//! ```text
//!   home agent ── watch<HomeOutput> ─▶ HomeLink ══ Session stream ══ EdgeService ◀─ watch<EdgeOutput> ── edge agent
//!              ◀─ mpsc<HomeEvent> ──                                             ── mpsc<EdgeEvent> ──▶
//! ```
#![forbid(unsafe_code)]

mod clock;
mod configuration;
mod exchange;
mod inspect;
mod listen;
mod operate;
mod session;
mod tls;

pub use clock::Clocks;
pub use configuration::Configurator;
pub use inspect::{Doctor, Inspected, InspectionSocket, Inspector, InspectorError, Snapshot, Timelines};
pub use listen::{ListenError, bind_on_device, serve_edge};
pub use operate::{OperateError, OperationsClient, Operator, OutputAnswers, Outputs, StepAnswers, Steps};
pub use session::{
    ConfigResult, EdgeEvent, EdgeOutput, EdgeService, HomeEvent, HomeLink, HomeOutput, Introduction, News, SessionId,
};
pub use tls::{ControlTls, TlsError};

use std::time::Duration;

/// A report goes out at least this often.
pub const HEARTBEAT: Duration = Duration::from_secs(2);
/// A stream on which nothing was heard for this long is closed.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(5);
/// Connecting, and each handshake, may take this long.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
