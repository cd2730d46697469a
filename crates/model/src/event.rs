//! What happened: a host's timeline and its entries.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::{HostId, ServiceName};

/// Something that happened on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its place in the host's timeline, from 1.
    pub number: u64,
    /// When: Unix time in milliseconds.
    pub at: u64,
    /// Whose timeline it is in.
    pub host: HostId,
    /// What it is about.
    pub subject: Subject,
    /// The service that it is about, if it is about one.
    pub service: Option<ServiceName>,
    /// What it means.
    pub kind: EventKind,
    /// What happened, in words for people.
    pub text: String,
}

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// The agent itself.
    Agent,
    /// The tunnel.
    Tunnel,
    /// The control channel.
    Control,
    /// The edge's configuration for home.
    Config,
    /// A container.
    Container,
    /// A service as its host checks it.
    Service,
    /// A public name as visitors get it.
    Serving,
}

impl Subject {
    /// One word for tables.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Tunnel => "tunnel",
            Self::Control => "control",
            Self::Config => "config",
            Self::Container => "container",
            Self::Service => "service",
            Self::Serving => "serving",
        }
    }
}

/// What an event means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// Neither good nor bad, as a start.
    Change,
    /// Something does not work any more, or was refused.
    Fault,
    /// Something works again, or for the first time.
    Recovery,
}

/// The last events of a host, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Timeline {
    /// Made by chance when the timeline began: another one begins when a host is set up anew.
    pub id: String,
    /// The events; their numbers grow and have no gaps but at the beginning.
    pub events: VecDeque<Event>,
}

impl Timeline {
    /// So many events are kept.
    pub const KEPT: usize = 500;

    /// The number of the last event; 0 before the first.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.events.back().map_or(0, |event| event.number)
    }

    /// The events that came after one with this number.
    pub fn after(&self, number: u64) -> impl Iterator<Item = &Event> {
        self.events.iter().skip_while(move |event| event.number <= number)
    }

    /// Adds an event at the end and forgets the oldest beyond [`Self::KEPT`]. One that is not newer is not added. Whether
    /// it was.
    pub fn add(&mut self, event: Event) -> bool {
        if event.number <= self.last() {
            return false;
        }
        self.events.push_back(event);
        while self.events.len() > Self::KEPT {
            self.events.pop_front();
        }
        true
    }
}
