//! Ports as the opposite host finds them from outside.

use model::{Port, PortReach, PortService, Protocol, Seen};

use super::{InvalidMessage, MAX_ITEMS, invalid, parse_optional};
use crate::v1;

impl From<PortReach> for v1::PortReach {
    fn from(reach: PortReach) -> Self {
        use v1::port_reach as wire;
        let service = match reach.service {
            PortService::Tunnel => wire::Service::Tunnel,
            PortService::Http => wire::Service::Http,
            PortService::Https => wire::Service::Https,
        };
        let protocol = match reach.port.over {
            Protocol::Udp => wire::Protocol::Udp,
            Protocol::Tcp => wire::Protocol::Tcp,
        };
        let seen = match reach.seen {
            Seen::Answers => wire::Seen::Answers,
            Seen::Refused => wire::Seen::Refused,
            Seen::Silent => wire::Seen::Silent,
            Seen::NoWay => wire::Seen::NoWay,
            Seen::NoAddress => wire::Seen::NoAddress,
        };
        Self {
            service: service.into(),
            protocol: protocol.into(),
            port: reach.port.number.into(),
            address: reach.address.map(|address| address.to_string()),
            seen: seen.into(),
        }
    }
}

/// None where it is about what only later releases know.
fn known(wire: v1::PortReach) -> Result<Option<PortReach>, InvalidMessage> {
    use v1::port_reach as on_wire;
    let service = match wire.service() {
        on_wire::Service::Unspecified => return Ok(None),
        on_wire::Service::Tunnel => PortService::Tunnel,
        on_wire::Service::Http => PortService::Http,
        on_wire::Service::Https => PortService::Https,
    };
    let over = match wire.protocol() {
        on_wire::Protocol::Unspecified => return Ok(None),
        on_wire::Protocol::Udp => Protocol::Udp,
        on_wire::Protocol::Tcp => Protocol::Tcp,
    };
    let seen = match wire.seen() {
        on_wire::Seen::Unspecified => return Ok(None),
        on_wire::Seen::Answers => Seen::Answers,
        on_wire::Seen::Refused => Seen::Refused,
        on_wire::Seen::Silent => Seen::Silent,
        on_wire::Seen::NoWay => Seen::NoWay,
        on_wire::Seen::NoAddress => Seen::NoAddress,
    };
    let number = u16::try_from(wire.port).ok().filter(|&number| number != 0);
    let number = number.ok_or_else(|| invalid("PortReach.port", "must be 1 to 65535"))?;
    let address = parse_optional("PortReach.address", wire.address)?;
    Ok(Some(PortReach { service, port: Port { number, over }, address, seen }))
}

impl From<Vec<PortReach>> for v1::ReachReport {
    fn from(ports: Vec<PortReach>) -> Self {
        Self { ports: ports.into_iter().map(Into::into).collect() }
    }
}

impl TryFrom<v1::ReachReport> for Vec<PortReach> {
    type Error = InvalidMessage;

    fn try_from(wire: v1::ReachReport) -> Result<Self, InvalidMessage> {
        if wire.ports.len() > MAX_ITEMS {
            return Err(invalid("ReachReport.ports", "more than 256 items"));
        }
        wire.ports.into_iter().filter_map(|port| known(port).transpose()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_comes_through_and_nonsense_does_not() {
        let reach = |over, seen| PortReach {
            service: PortService::Https,
            port: Port { number: 443, over },
            address: Some("198.51.100.10".parse().unwrap()),
            seen,
        };
        let all = vec![
            reach(Protocol::Tcp, Seen::Answers),
            reach(Protocol::Udp, Seen::Silent),
            PortReach { address: None, service: PortService::Tunnel, ..reach(Protocol::Udp, Seen::NoAddress) },
            PortReach { service: PortService::Http, ..reach(Protocol::Tcp, Seen::Refused) },
            reach(Protocol::Tcp, Seen::NoWay),
        ];
        let wire = v1::ReachReport::from(all.clone());
        assert_eq!(Vec::<PortReach>::try_from(wire.clone()), Ok(all));
        let first = || wire.ports[0].clone();
        let read = |port| Vec::<PortReach>::try_from(v1::ReachReport { ports: vec![port] });
        for (field, bad) in [
            ("PortReach.port", v1::PortReach { port: 65_536, ..first() }),
            ("PortReach.port", v1::PortReach { port: 0, ..first() }),
            ("PortReach.address", v1::PortReach { address: Some("there".into()), ..first() }),
        ] {
            assert_eq!(read(bad).unwrap_err().field, field);
        }
        // Of a later release.
        for later in [
            v1::PortReach { seen: 99, ..first() },
            v1::PortReach { service: 99, ..first() },
            v1::PortReach { protocol: 99, ..first() },
        ] {
            assert_eq!(read(later), Ok(vec![]));
        }
        let many = v1::ReachReport { ports: vec![first(); MAX_ITEMS + 1] };
        assert_eq!(Vec::<PortReach>::try_from(many).unwrap_err().field, "ReachReport.ports");
    }
}
