//! gRPC transport: the stream between the agents (mutual TLS inside the tunnel), and inspection and operations, for `agentctl`
//! (unix socket) and, with the rights that configuration gives, for the opposite agent.
//!
//! Who may connect is decided here and nowhere else: [`ControlTls`] takes certificates of the private CA only,
//! and each end takes the one opposite agent only, by role and name, so that a device, which holds a certificate
//! of the same CA, is refused.
//!
//! ```text
//!   home agent ── watch<HomeOutput> ─▶ HomeLink ══ Session stream ══ EdgeService ◀─ watch<EdgeOutput> ── edge agent
//!              ◀─ mpsc<HomeEvent> ──                                             ── mpsc<EdgeEvent> ──▶
//!
//!   agentctl ══ unix socket ══ Offered                     of this host
//!                          └── Opposite ══ calls ══ Offered, within Rights, of the opposite host
//! ```
//! Home opens every connection. Its own calls share that of the session; for the edge's calls it opens a second one, on which
//! it is HTTP/2's server (`cloudathome-calls` in ALPN). What runs on a stream of calls cannot hold up the session: the window of a
//! connection has room for all of its streams.
#![forbid(unsafe_code)]

mod clock;
mod codes;
mod configuration;
mod connection;
mod devices;
mod exchange;
mod identities;
mod inspect;
mod inspector;
mod listen;
mod offered;
mod operate;
mod opposite;
mod reach;
mod renewal;
mod session;
mod tls;

pub use clock::Clocks;
pub use codes::JoinCodes;
pub use configuration::Configurator;
pub use devices::Devices;
pub use identities::{Identities, Revoke};
pub use inspect::{Doctor, Inspected, InspectionSocket, Snapshot, Timelines};
pub use inspector::{Inspector, InspectorError};
pub use listen::{ListenError, bind_on_device, serve_edge};
pub use offered::{Asked, Offered, Rights, UnknownRights};
pub use operate::{OperateError, OperationsClient, Operator, OutputAnswers, Outputs, StepAnswers, Steps};
pub use opposite::{Opposite, OppositeWay};
pub use renewal::{RenewalClient, Successor, Successors};
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
