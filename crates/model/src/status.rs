//! What is: the statuses that agents publish, exchange and show.

use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{Generation, HostId, Hostname, Role, ServiceName};

/// How a container or service is, as a check has shown.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Health {
    /// Not checked yet.
    #[default]
    Unknown,
    /// Coming up; not a fault yet.
    Starting {
        /// What it waits for.
        reason: String,
    },
    /// The last check passed.
    Healthy,
    /// Works in part, or failed lately.
    Degraded {
        /// What is wrong.
        reason: String,
    },
    /// Does not work.
    Unhealthy {
        /// What is wrong.
        reason: String,
    },
    /// A person stopped it.
    Stopped {
        /// How to start it.
        reason: String,
    },
}

impl Health {
    /// Whether traffic may be sent to it.
    #[must_use]
    pub fn accepts_traffic(&self) -> bool {
        match self {
            Self::Healthy | Self::Degraded { .. } => true,
            Self::Unknown | Self::Starting { .. } | Self::Unhealthy { .. } | Self::Stopped { .. } => false,
        }
    }

    /// One word for tables.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Starting { .. } => "starting",
            Self::Healthy => "healthy",
            Self::Degraded { .. } => "degraded",
            Self::Unhealthy { .. } => "unhealthy",
            Self::Stopped { .. } => "stopped",
        }
    }

    /// Why it is not healthy, if there is more to say.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Unknown | Self::Healthy => None,
            Self::Starting { reason }
            | Self::Degraded { reason }
            | Self::Unhealthy { reason }
            | Self::Stopped { reason } => Some(reason),
        }
    }
}

/// Everything an agent says about its host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostStatus {
    /// Which host.
    pub host: HostId,
    /// What it is.
    pub role: Role,
    /// The agent's version.
    pub version: String,
    /// New at every start of the agent.
    pub boot_id: String,
    /// Seconds since the agent started.
    pub uptime_seconds: u64,
    /// The generation of the edge's configuration in force; 0 before the first.
    pub generation: Generation,
    /// The tunnel.
    pub tunnel: TunnelStatus,
    /// The control channel.
    pub control: ControlStatus,
    /// Managed containers.
    pub containers: Vec<ContainerStatus>,
    /// Services of this host; on the edge also those it publishes for home.
    pub services: Vec<ServiceStatus>,
    /// The public names as this host fetched them from outside, by its own provider's route. Only a home does.
    #[serde(default)]
    pub outside: Vec<OutsideProof>,
    /// Until when its identity counts. An older agent does not tell.
    #[serde(default)]
    pub identity: Option<IdentityStatus>,
}

/// Until when a host's identity counts. Times are Unix time in seconds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct IdentityStatus {
    /// Its own certificate's end.
    pub certificate_ends: u64,
    /// The end of the list of revoked certificates that it keeps to, where there is one.
    pub list_ends: Option<u64>,
    /// Why what is due could not be renewed, and what to do.
    pub trouble: Option<String>,
}

impl HostStatus {
    /// The host, of which nothing else is known.
    #[must_use]
    pub fn new(host: HostId, role: Role) -> Self {
        Self {
            host,
            role,
            version: String::new(),
            boot_id: String::new(),
            uptime_seconds: 0,
            generation: Generation::default(),
            tunnel: TunnelStatus::default(),
            control: ControlStatus::default(),
            containers: Vec::new(),
            services: Vec::new(),
            outside: Vec::new(),
            identity: None,
        }
    }
}

/// The tunnel's state as one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TunnelState {
    /// Not running.
    #[default]
    Down,
    /// Listening; no peer is connected.
    Listening,
    /// Dialing or in a handshake.
    Connecting,
    /// At least one authenticated peer whose keys are in use.
    Connected,
}

/// The tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TunnelStatus {
    /// Its state.
    pub state: TunnelState,
    /// Why it is not connected, when that is known.
    pub reason: Option<String>,
    /// Our address inside.
    pub address: Option<Ipv4Addr>,
    /// The peer's address inside, when it is the opposite agent.
    pub peer_address: Option<Ipv4Addr>,
    /// The peer's address on the underlay.
    pub remote: Option<SocketAddr>,
    /// How the peer is reached on the underlay: `udp` or `tcp`.
    pub transport: Option<String>,
    /// The data-channel cipher.
    pub cipher: Option<String>,
    /// Which of the kernel's offloads packets go by, in words, as in `virtio-uso, UDP segmented`.
    pub data_path: Option<String>,
    /// Bytes of inner packets received since start.
    pub received_bytes: u64,
    /// Bytes of inner packets sent since start.
    pub sent_bytes: u64,
    /// Connected peers.
    pub peers: u32,
    /// Handshakes that failed since start (certificate refused, no answer, wrong message).
    pub handshakes_failed: u64,
    /// Datagrams dropped since start before or at authentication (wrong tls-crypt key, forged, replayed).
    pub packets_dropped: u64,
}

/// The control channel.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ControlStatus {
    /// Whether the stream to the opposite agent is live.
    pub connected: bool,
    /// The opposite host, once it has said hello.
    pub peer: Option<HostId>,
    /// Why it is not connected, when that is known.
    pub reason: Option<String>,
    /// Seconds since the last message from the peer.
    pub last_heard_seconds: Option<u64>,
    /// From here to the peer's agent and back through the tunnel, microseconds: the shortest of the last few.
    pub round_trip_micros: Option<u64>,
    /// How far the peer's clock is ahead of ours, milliseconds.
    pub clock_ahead_millis: Option<i64>,
}

/// A managed container's state in the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerState {
    /// Not there yet.
    Absent,
    /// Made, not started.
    Created,
    /// Running.
    Running,
    /// Ended.
    Exited,
}

/// A managed container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Its name, without our prefix.
    pub name: String,
    /// The service it belongs to.
    pub service: ServiceName,
    /// The image as configured.
    pub image: String,
    /// The engine's id, shortened to 12 characters; empty while absent.
    pub id: String,
    /// Its state.
    pub state: ContainerState,
    /// Unix time of its last start, in seconds; 0 when never started.
    pub started_at: i64,
    /// What stands in the way, if anything.
    pub reason: Option<String>,
}

/// What people get at a public name. `Yes` needs two proofs: the edge fetches the name through its own front door, and home
/// fetches it from outside; for an edge that asks itself proves neither DNS nor the provider's firewall.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Serving {
    /// Nothing is known, or nothing is published.
    #[default]
    Unknown,
    /// Both proofs passed, and the service is well.
    #[serde(rename = "serving")]
    Yes,
    /// One of the proofs failed or is missing, or the service is not quite well.
    Degraded {
        /// What is not as it should be.
        reason: String,
    },
    /// People do not get it.
    #[serde(rename = "down")]
    No {
        /// What the proof saw.
        reason: String,
    },
    /// Not yet; not a fault yet.
    Starting {
        /// What it waits for.
        reason: String,
    },
    /// A person stopped it.
    Stopped {
        /// How to start it.
        reason: String,
    },
}

impl Serving {
    /// One word for tables.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Yes => "serving",
            Self::Degraded { .. } => "degraded",
            Self::No { .. } => "down",
            Self::Starting { .. } => "starting",
            Self::Stopped { .. } => "stopped",
        }
    }

    /// Why it is not serving, if there is more to say.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Unknown | Self::Yes => None,
            Self::Degraded { reason } | Self::No { reason } | Self::Starting { reason } | Self::Stopped { reason } => {
                Some(reason)
            }
        }
    }
}

/// What came of fetching a public name from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutsideProof {
    /// The name.
    pub hostname: Hostname,
    /// Why it failed; none: it passed.
    pub failure: Option<String>,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: ServiceName,
    /// The host it runs on.
    pub host: HostId,
    /// Its public name, once known.
    pub hostname: Option<Hostname>,
    /// Where it answers inside.
    pub upstream: Option<SocketAddr>,
    /// Its health as its host checks it.
    pub health: Health,
    /// What people get at its public name.
    pub serving: Serving,
    /// Since when that is so, Unix time in seconds by the clock of the host that says it; the reason may have changed since.
    #[serde(default)]
    pub since: Option<u64>,
}
