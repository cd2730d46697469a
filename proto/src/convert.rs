//! Conversion between the wire's types and `model`'s: infallible on the way out, checked on the way in.

mod configuration;
mod device;
mod event;
mod finding;
mod identity;
mod ingress;
mod issued;
mod join;
mod operation;
mod published;
mod reach;
mod tunnel;

use std::fmt::Display;
use std::str::FromStr;

use model::{
    ContainerState, ContainerStatus, ControlStatus, DesiredConfig, Generation, Health, HostStatus, OutsideProof,
    PublicName, Role, ServiceAnnouncement, ServiceStatus, Serving, TunnelState, TunnelStatus,
};

use crate::v1;

pub use event::events;

/// A text from the peer longer than this many bytes is refused (reasons are cut, see [`bounded`]).
const MAX_TEXT: usize = 1024;
/// A list from the peer longer than this is refused.
const MAX_ITEMS: usize = 256;

/// A message from the peer that makes no sense.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("field {field} of a control message is invalid: {reason}")]
pub struct InvalidMessage {
    /// The field, as `HostStatus.host`.
    pub field: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

fn invalid(field: &'static str, reason: impl Display) -> InvalidMessage {
    InvalidMessage { field, reason: reason.to_string() }
}

fn missing(field: &'static str) -> InvalidMessage {
    invalid(field, "missing")
}

fn parse<T: FromStr<Err: Display>>(field: &'static str, text: &str) -> Result<T, InvalidMessage> {
    if text.len() > MAX_TEXT {
        return Err(invalid(field, "longer than 1024 bytes"));
    }
    text.parse().map_err(|error| invalid(field, error))
}

fn parse_optional<T: FromStr<Err: Display>>(
    field: &'static str,
    text: Option<String>,
) -> Result<Option<T>, InvalidMessage> {
    text.map(|text| parse(field, &text)).transpose()
}

/// A path to ask for.
fn path(field: &'static str, path: String) -> Result<String, InvalidMessage> {
    let plain = path.bytes().all(|b| b.is_ascii_graphic());
    if !path.starts_with('/') || !plain || path.len() > MAX_TEXT {
        return Err(invalid(field, "must be a printable path that starts with '/'"));
    }
    Ok(path)
}

/// The status of an answer that shows something well.
fn status(field: &'static str, status: Option<u32>) -> Result<Option<u16>, InvalidMessage> {
    let check = |status: u32| {
        u16::try_from(status)
            .ok()
            .filter(|status| (200..500).contains(status))
            .ok_or_else(|| invalid(field, "must be 200 to 499"))
    };
    status.map(check).transpose()
}

fn list<W, M>(field: &'static str, items: Vec<W>) -> Result<Vec<M>, InvalidMessage>
where
    M: TryFrom<W, Error = InvalidMessage>,
{
    if items.len() > MAX_ITEMS {
        return Err(invalid(field, "more than 256 items"));
    }
    items.into_iter().map(M::try_from).collect()
}

/// Text from the peer that is only ever shown: printable and cut to 1024 bytes.
#[must_use]
pub fn bounded(text: &str) -> String {
    let mut shown: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if shown.len() > MAX_TEXT {
        let end = (0..=MAX_TEXT).rev().find(|&at| shown.is_char_boundary(at)).unwrap_or(0);
        shown.truncate(end);
    }
    shown
}

fn role(field: &'static str, text: &str) -> Result<Role, InvalidMessage> {
    match text {
        "edge" => Ok(Role::Edge),
        "home" => Ok(Role::Home),
        other => Err(invalid(field, format_args!("{:?} is neither edge nor home", bounded(other)))),
    }
}

impl From<DesiredConfig> for v1::DesiredConfig {
    fn from(desired: DesiredConfig) -> Self {
        Self {
            generation: desired.generation.0,
            domain: desired.domain.into(),
            edge_address: desired.edge_address.to_string(),
            hostnames: desired.hostnames.into_iter().map(|(name, host)| (name.into(), host.into())).collect(),
            published: desired.published.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::DesiredConfig> for DesiredConfig {
    type Error = InvalidMessage;

    fn try_from(wire: v1::DesiredConfig) -> Result<Self, InvalidMessage> {
        if wire.generation == 0 {
            return Err(invalid("DesiredConfig.generation", "0; the first is 1"));
        }
        if wire.hostnames.len() > MAX_ITEMS {
            return Err(invalid("DesiredConfig.hostnames", "more than 256 items"));
        }
        let hostnames = wire
            .hostnames
            .iter()
            .map(|(name, host)| {
                Ok((parse("DesiredConfig.hostnames key", name)?, parse("DesiredConfig.hostnames", host)?))
            })
            .collect::<Result<_, InvalidMessage>>()?;
        Ok(Self {
            generation: Generation(wire.generation),
            domain: parse("DesiredConfig.domain", &wire.domain)?,
            edge_address: parse("DesiredConfig.edge_address", &wire.edge_address)?,
            hostnames,
            published: list("DesiredConfig.published", wire.published)?,
        })
    }
}

impl From<PublicName> for v1::PublicName {
    fn from(name: PublicName) -> Self {
        Self {
            hostname: name.hostname.into(),
            path: name.path,
            status: name.status.map(u32::from),
            guarded: name.guarded,
        }
    }
}

impl TryFrom<v1::PublicName> for PublicName {
    type Error = InvalidMessage;

    fn try_from(wire: v1::PublicName) -> Result<Self, InvalidMessage> {
        Ok(Self {
            hostname: parse("PublicName.hostname", &wire.hostname)?,
            path: path("PublicName.path", wire.path)?,
            status: status("PublicName.status", wire.status)?,
            guarded: wire.guarded,
        })
    }
}

impl From<Health> for v1::Health {
    fn from(health: Health) -> Self {
        use v1::health::State;
        let stopped = matches!(health, Health::Stopped { .. });
        let (state, reason) = match health {
            Health::Unknown => (State::Unknown, String::new()),
            Health::Starting { reason } => (State::Starting, reason),
            Health::Healthy => (State::Healthy, String::new()),
            Health::Degraded { reason } => (State::Degraded, reason),
            Health::Unhealthy { reason } | Health::Stopped { reason } => (State::Unhealthy, reason),
        };
        Self { state: state.into(), reason: bounded(&reason), stopped }
    }
}

impl From<v1::Health> for Health {
    fn from(wire: v1::Health) -> Self {
        use v1::health::State;
        let reason = bounded(&wire.reason);
        match wire.state() {
            State::Unspecified | State::Unknown => Self::Unknown,
            State::Starting => Self::Starting { reason },
            State::Healthy => Self::Healthy,
            State::Degraded => Self::Degraded { reason },
            State::Unhealthy if wire.stopped => Self::Stopped { reason },
            State::Unhealthy => Self::Unhealthy { reason },
        }
    }
}

impl From<ServiceAnnouncement> for v1::ServiceAnnouncement {
    fn from(service: ServiceAnnouncement) -> Self {
        Self {
            name: service.name.into(),
            hostname: service.hostname,
            upstream: service.upstream.to_string(),
            health_path: service.health_path,
            health: Some(service.health.into()),
            also: service.also,
            health_status: service.health_status.map(u32::from),
            well_known_dav: service.well_known_dav,
            ingress: Some(service.ingress.into()),
            full: service.full,
        }
    }
}

impl TryFrom<v1::ServiceAnnouncement> for ServiceAnnouncement {
    type Error = InvalidMessage;

    fn try_from(wire: v1::ServiceAnnouncement) -> Result<Self, InvalidMessage> {
        Ok(Self {
            name: parse("ServiceAnnouncement.name", &wire.name)?,
            hostname: parse("ServiceAnnouncement.hostname", &wire.hostname)?,
            also: wire.also,
            upstream: parse("ServiceAnnouncement.upstream", &wire.upstream)?,
            health_path: path("ServiceAnnouncement.health_path", wire.health_path)?,
            health_status: status("ServiceAnnouncement.health_status", wire.health_status)?,
            well_known_dav: wire.well_known_dav,
            ingress: wire.ingress.map(TryInto::try_into).transpose()?.unwrap_or_default(),
            health: wire.health.ok_or_else(|| missing("ServiceAnnouncement.health"))?.into(),
            full: wire.full,
        })
    }
}

impl From<HostStatus> for v1::HostStatus {
    fn from(status: HostStatus) -> Self {
        Self {
            host: status.host.into(),
            role: status.role.to_string(),
            version: status.version,
            boot_id: status.boot_id,
            uptime_seconds: status.uptime_seconds,
            generation: status.generation.0,
            tunnel: Some(status.tunnel.into()),
            control: Some(status.control.into()),
            containers: status.containers.into_iter().map(Into::into).collect(),
            services: status.services.into_iter().map(Into::into).collect(),
            outside: status.outside.into_iter().map(Into::into).collect(),
            identity: status.identity.map(Into::into),
        }
    }
}

impl TryFrom<v1::HostStatus> for HostStatus {
    type Error = InvalidMessage;

    fn try_from(wire: v1::HostStatus) -> Result<Self, InvalidMessage> {
        Ok(Self {
            host: parse("HostStatus.host", &wire.host)?,
            role: role("HostStatus.role", &wire.role)?,
            version: bounded(&wire.version),
            boot_id: bounded(&wire.boot_id),
            uptime_seconds: wire.uptime_seconds,
            generation: Generation(wire.generation),
            tunnel: wire.tunnel.ok_or_else(|| missing("HostStatus.tunnel"))?.try_into()?,
            control: wire.control.ok_or_else(|| missing("HostStatus.control"))?.try_into()?,
            containers: list("HostStatus.containers", wire.containers)?,
            services: list("HostStatus.services", wire.services)?,
            outside: list("HostStatus.outside", wire.outside)?,
            identity: wire.identity.map(Into::into),
        })
    }
}

impl From<OutsideProof> for v1::OutsideProof {
    fn from(proof: OutsideProof) -> Self {
        Self { hostname: proof.hostname.into(), failure: proof.failure.map(|failure| bounded(&failure)) }
    }
}

impl TryFrom<v1::OutsideProof> for OutsideProof {
    type Error = InvalidMessage;

    fn try_from(wire: v1::OutsideProof) -> Result<Self, InvalidMessage> {
        Ok(Self {
            hostname: parse("OutsideProof.hostname", &wire.hostname)?,
            failure: wire.failure.map(|failure| bounded(&failure)),
        })
    }
}

impl From<TunnelStatus> for v1::TunnelStatus {
    fn from(status: TunnelStatus) -> Self {
        use v1::tunnel_status::State;
        let state = match status.state {
            TunnelState::Down => State::Down,
            TunnelState::Listening => State::Listening,
            TunnelState::Connecting => State::Connecting,
            TunnelState::Connected => State::Connected,
        };
        Self {
            state: state.into(),
            reason: status.reason,
            address: status.address.map(|address| address.to_string()),
            peer_address: status.peer_address.map(|address| address.to_string()),
            remote: status.remote.map(|remote| remote.to_string()),
            transport: status.transport,
            cipher: status.cipher,
            data_path: status.data_path,
            received_bytes: status.received_bytes,
            sent_bytes: status.sent_bytes,
            peers: status.peers,
            handshakes_failed: status.handshakes_failed,
            packets_dropped: status.packets_dropped,
        }
    }
}

impl TryFrom<v1::TunnelStatus> for TunnelStatus {
    type Error = InvalidMessage;

    fn try_from(wire: v1::TunnelStatus) -> Result<Self, InvalidMessage> {
        use v1::tunnel_status::State;
        let state = match wire.state() {
            State::Unspecified | State::Down => TunnelState::Down,
            State::Listening => TunnelState::Listening,
            State::Connecting => TunnelState::Connecting,
            State::Connected => TunnelState::Connected,
        };
        Ok(Self {
            state,
            reason: wire.reason.map(|reason| bounded(&reason)),
            address: parse_optional("TunnelStatus.address", wire.address)?,
            peer_address: parse_optional("TunnelStatus.peer_address", wire.peer_address)?,
            remote: parse_optional("TunnelStatus.remote", wire.remote)?,
            transport: wire.transport.map(|transport| bounded(&transport)),
            cipher: wire.cipher.map(|cipher| bounded(&cipher)),
            data_path: wire.data_path.map(|path| bounded(&path)),
            received_bytes: wire.received_bytes,
            sent_bytes: wire.sent_bytes,
            peers: wire.peers,
            handshakes_failed: wire.handshakes_failed,
            packets_dropped: wire.packets_dropped,
        })
    }
}

impl From<ControlStatus> for v1::ControlStatus {
    fn from(status: ControlStatus) -> Self {
        Self {
            connected: status.connected,
            peer: status.peer.map(Into::into),
            reason: status.reason,
            last_heard_seconds: status.last_heard_seconds,
            round_trip_micros: status.round_trip_micros,
            clock_ahead_millis: status.clock_ahead_millis,
        }
    }
}

impl TryFrom<v1::ControlStatus> for ControlStatus {
    type Error = InvalidMessage;

    fn try_from(wire: v1::ControlStatus) -> Result<Self, InvalidMessage> {
        Ok(Self {
            connected: wire.connected,
            peer: parse_optional("ControlStatus.peer", wire.peer)?,
            reason: wire.reason.map(|reason| bounded(&reason)),
            last_heard_seconds: wire.last_heard_seconds,
            round_trip_micros: wire.round_trip_micros,
            clock_ahead_millis: wire.clock_ahead_millis,
        })
    }
}

impl From<ContainerStatus> for v1::ContainerStatus {
    fn from(status: ContainerStatus) -> Self {
        use v1::container_status::State;
        let state = match status.state {
            ContainerState::Absent => State::Absent,
            ContainerState::Created => State::Created,
            ContainerState::Running => State::Running,
            ContainerState::Exited => State::Exited,
        };
        Self {
            name: status.name,
            service: status.service.into(),
            image: status.image,
            id: status.id,
            state: state.into(),
            started_at: status.started_at,
            reason: status.reason.map(|reason| bounded(&reason)),
        }
    }
}

impl TryFrom<v1::ContainerStatus> for ContainerStatus {
    type Error = InvalidMessage;

    fn try_from(wire: v1::ContainerStatus) -> Result<Self, InvalidMessage> {
        use v1::container_status::State;
        let state = match wire.state() {
            State::Unspecified | State::Absent => ContainerState::Absent,
            State::Created => ContainerState::Created,
            State::Running => ContainerState::Running,
            State::Exited => ContainerState::Exited,
        };
        Ok(Self {
            name: bounded(&wire.name),
            service: parse("ContainerStatus.service", &wire.service)?,
            image: bounded(&wire.image),
            id: bounded(&wire.id),
            state,
            started_at: wire.started_at,
            reason: wire.reason.map(|reason| bounded(&reason)),
        })
    }
}

impl From<Serving> for v1::Serving {
    fn from(serving: Serving) -> Self {
        use v1::serving::State;
        let (state, reason) = match serving {
            Serving::Unknown => (State::Unknown, String::new()),
            Serving::Yes => (State::Yes, String::new()),
            Serving::Degraded { reason } => (State::Degraded, reason),
            Serving::No { reason } => (State::No, reason),
            Serving::Starting { reason } => (State::Starting, reason),
            Serving::Stopped { reason } => (State::Stopped, reason),
        };
        Self { state: state.into(), reason: bounded(&reason) }
    }
}

impl From<v1::Serving> for Serving {
    fn from(wire: v1::Serving) -> Self {
        use v1::serving::State;
        let reason = bounded(&wire.reason);
        match wire.state() {
            State::Unspecified | State::Unknown => Self::Unknown,
            State::Yes => Self::Yes,
            State::Degraded => Self::Degraded { reason },
            State::No => Self::No { reason },
            State::Starting => Self::Starting { reason },
            State::Stopped => Self::Stopped { reason },
        }
    }
}

impl From<ServiceStatus> for v1::ServiceStatus {
    fn from(status: ServiceStatus) -> Self {
        Self {
            name: status.name.into(),
            host: status.host.into(),
            hostname: status.hostname.map(Into::into),
            upstream: status.upstream.map(|upstream| upstream.to_string()),
            health: Some(status.health.into()),
            serving: Some(status.serving.into()),
            since: status.since,
        }
    }
}

impl TryFrom<v1::ServiceStatus> for ServiceStatus {
    type Error = InvalidMessage;

    fn try_from(wire: v1::ServiceStatus) -> Result<Self, InvalidMessage> {
        Ok(Self {
            name: parse("ServiceStatus.name", &wire.name)?,
            host: parse("ServiceStatus.host", &wire.host)?,
            hostname: parse_optional("ServiceStatus.hostname", wire.hostname)?,
            upstream: parse_optional("ServiceStatus.upstream", wire.upstream)?,
            health: wire.health.map(Into::into).unwrap_or_default(),
            serving: wire.serving.map(Into::into).unwrap_or_default(),
            since: wire.since,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> HostStatus {
        HostStatus {
            host: "attic".parse().unwrap(),
            role: Role::Home,
            version: "0.1.0".into(),
            boot_id: "b".into(),
            uptime_seconds: 7,
            generation: Generation(3),
            tunnel: TunnelStatus {
                state: TunnelState::Connected,
                address: Some("10.86.0.2".parse().unwrap()),
                remote: Some("198.51.100.10:1194".parse().unwrap()),
                transport: Some("tcp".into()),
                cipher: Some("AES-256-GCM".into()),
                data_path: Some("plain, UDP single".into()),
                ..TunnelStatus::default()
            },
            control: ControlStatus { connected: true, peer: Some("vps".parse().unwrap()), ..ControlStatus::default() },
            containers: vec![ContainerStatus {
                name: "nextcloud".into(),
                service: "nextcloud".parse().unwrap(),
                image: "nextcloud:apache".into(),
                id: "0123456789ab".into(),
                state: ContainerState::Running,
                started_at: 5,
                reason: None,
            }],
            services: vec![ServiceStatus {
                name: "nextcloud".parse().unwrap(),
                host: "attic".parse().unwrap(),
                hostname: Some("cloud.example.test".parse().unwrap()),
                upstream: Some("10.86.0.2:8080".parse().unwrap()),
                health: Health::Degraded { reason: "slow".into() },
                serving: Serving::Degraded { reason: "slow".into() },
                since: Some(1_800_000_000),
            }],
            identity: Some(model::IdentityStatus {
                certificate_ends: 1_900_000_000,
                list_ends: Some(1_950_000_000),
                trouble: Some("the edge is away".into()),
            }),
            outside: vec![OutsideProof {
                hostname: "cloud.example.test".parse().unwrap(),
                failure: Some("nothing accepts connections".into()),
            }],
        }
    }

    #[test]
    fn a_status_survives_the_wire() {
        assert_eq!(HostStatus::try_from(v1::HostStatus::from(status())).unwrap(), status());
    }

    #[test]
    fn who_does_not_know_of_stopped_sees_unhealthy() {
        let stopped = Health::Stopped { reason: "by hand".into() };
        let wire = v1::Health::from(stopped.clone());
        assert_eq!(wire.state(), v1::health::State::Unhealthy);
        assert_eq!(Health::from(wire), stopped);
    }

    #[test]
    fn the_wrong_field_is_named() {
        let mut wire = v1::HostStatus::from(status());
        wire.role = "device".into();
        assert_eq!(HostStatus::try_from(wire).unwrap_err().field, "HostStatus.role");

        let mut wire = v1::HostStatus::from(status());
        wire.services[0].upstream = Some("nowhere".into());
        assert_eq!(HostStatus::try_from(wire).unwrap_err().field, "ServiceStatus.upstream");

        let mut wire = v1::HostStatus::from(status());
        wire.containers = vec![wire.containers[0].clone(); MAX_ITEMS + 1];
        assert_eq!(HostStatus::try_from(wire).unwrap_err().field, "HostStatus.containers");
    }

    #[test]
    fn text_to_show_is_bounded_and_printable() {
        let shown = bounded(&format!("a\nb{}", "ü".repeat(MAX_TEXT)));
        assert!(shown.starts_with("a b") && shown.len() <= MAX_TEXT);
    }

    #[test]
    fn a_health_path_must_be_a_path() {
        let good = v1::ServiceAnnouncement {
            name: "nextcloud".into(),
            hostname: "cloud".into(),
            upstream: "10.86.0.2:8080".into(),
            health_path: "/status.php".into(),
            health: Some(v1::Health::default()),
            health_status: Some(204),
            ..v1::ServiceAnnouncement::default()
        };
        assert_eq!(ServiceAnnouncement::try_from(good.clone()).unwrap().health_status, Some(204));
        let wire = v1::ServiceAnnouncement { health_status: Some(500), ..good.clone() };
        assert_eq!(ServiceAnnouncement::try_from(wire).unwrap_err().field, "ServiceAnnouncement.health_status");
        for bad in ["", "status.php", "/a\r\nHost: x"] {
            let wire = v1::ServiceAnnouncement { health_path: bad.into(), ..good.clone() };
            assert_eq!(ServiceAnnouncement::try_from(wire).unwrap_err().field, "ServiceAnnouncement.health_path");
        }
    }
}
