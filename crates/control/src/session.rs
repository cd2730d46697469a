//! The session between home and edge: home opens it, both say hello, then each sends its latest state.

mod edge;
mod home;

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use model::{Event, Generation, HostId, Role, RoleUri, Timeline};
use proto::{MAX_EVENTS, PROTOCOL, v1};
use tokio::time::Instant;

pub use edge::{EdgeEvent, EdgeOutput, EdgeService};
pub(crate) use home::RETRY_MAX;
pub use home::{HomeEvent, HomeLink, HomeOutput};

use crate::clock::{ClockExchange, Clocks};
use crate::exchange::Ended;

/// Messages waiting to be written to a stream; more than this waits for the peer to read.
const OUTBOUND_MESSAGES: usize = 4;

/// What an agent says of itself when a session opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introduction {
    /// Its host.
    pub host: HostId,
    /// Its role.
    pub role: Role,
    /// Its version, for people.
    pub agent_version: String,
    /// New at every start.
    pub boot_id: String,
    /// Whether it keeps to what a service asks of the ingress; an older release would publish it without its guards.
    pub keeps_to_ingress_options: bool,
    /// Whether an agent can be asked for something by the edge: home opens a connection for that, which the edge takes.
    pub keeps_to_calls: bool,
}

/// In `Hello.keeps_to`.
const INGRESS_OPTIONS: &str = "ingress-options";
/// In `Hello.keeps_to`.
const CALLS: &str = "calls";

impl From<Introduction> for v1::Hello {
    fn from(us: Introduction) -> Self {
        Self {
            protocol: PROTOCOL,
            host: us.host.into(),
            role: us.role.to_string(),
            agent_version: us.agent_version,
            boot_id: us.boot_id,
            keeps_to: [(us.keeps_to_ingress_options, INGRESS_OPTIONS), (us.keeps_to_calls, CALLS)]
                .into_iter()
                .filter(|(keeps, _)| *keeps)
                .map(|(_, what)| what.to_owned())
                .collect(),
        }
    }
}

/// Holds the peer's hello against the certificate it came with.
fn introduced(hello: v1::Hello, peer: &RoleUri) -> Result<Introduction, Ended> {
    if hello.protocol != PROTOCOL {
        return Err(Ended::Refused(format!(
            "the peer speaks version {} of the control protocol, this agent {PROTOCOL}: bring both agents to the same release",
            hello.protocol
        )));
    }
    if hello.host != peer.name.as_str() || hello.role != peer.role.as_str() {
        return Err(Ended::Refused(format!("the peer's hello does not match its certificate ({peer})")));
    }
    let short = |text: String| text.chars().filter(|c| c.is_ascii_graphic()).take(64).collect();
    Ok(Introduction {
        host: peer.name.clone(),
        role: peer.role,
        agent_version: short(hello.agent_version),
        boot_id: short(hello.boot_id),
        keeps_to_ingress_options: hello.keeps_to.iter().any(|what| what == INGRESS_OPTIONS),
        keeps_to_calls: hello.keeps_to.iter().any(|what| what == CALLS),
    })
}

/// Tells one session from the one that replaced it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId(u64);

/// Events that the peer tells of; some may be known already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// The id of the timeline that they are of.
    pub timeline: String,
    /// The events, in order.
    pub events: Vec<Event>,
}

/// What became of a desired configuration at home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigResult {
    /// Which configuration.
    pub generation: Generation,
    /// In force, or the reason why not.
    pub outcome: Result<(), String>,
}

/// The part of a session that both ends have in common: the timeline goes out, and times come and go with the reports.
#[derive(Debug, Default)]
struct Shared {
    /// The number of the last event that was sent.
    told: u64,
    clock: ClockExchange,
}

impl Shared {
    fn lock(shared: &Mutex<Self>) -> std::sync::MutexGuard<'_, Self> {
        shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is new in the timeline, and the time.
    fn due(&mut self, timeline: &Timeline) -> (Vec<v1::Events>, v1::Clock) {
        let new: Vec<v1::Event> = timeline.after(self.told).cloned().map(Into::into).collect();
        self.told = timeline.last().max(self.told);
        let batch = |events: &[v1::Event]| v1::Events { timeline: timeline.id.clone(), events: events.to_vec() };
        (new.chunks(MAX_EVENTS).map(batch).collect(), self.clock.tell(SystemTime::now(), Instant::now()))
    }

    fn hear(&mut self, clock: &v1::Clock) -> Option<Clocks> {
        self.clock.hear(clock, SystemTime::now(), Instant::now())
    }
}

/// Why a host cannot be asked.
fn away(host: &HostId, ended: &Ended) -> String {
    format!("{host} cannot be asked: there is no control channel: {ended}")
}

/// What the peer says that happened there; on no other host.
fn news(wire: v1::Events, peer: &HostId) -> Result<News, Ended> {
    let (timeline, mut events) = proto::events(wire).map_err(|error| Ended::Refused(error.to_string()))?;
    events.retain(|event| event.host == *peer);
    Ok(News { timeline, events })
}
