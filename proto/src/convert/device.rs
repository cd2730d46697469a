//! Devices and their profiles.

use model::{DeviceGrant, DeviceInfo, DeviceQuery};
use secrecy::ExposeSecret;

use super::{InvalidMessage, MAX_ITEMS, bounded, invalid, parse, parse_optional};
use crate::v1;

impl From<DeviceQuery> for v1::DeviceProfileRequest {
    fn from(query: DeviceQuery) -> Self {
        Self {
            name: query.name.into(),
            remotes: query.remotes,
            full: query.full,
            dns: query.dns.iter().map(ToString::to_string).collect(),
        }
    }
}

impl TryFrom<v1::DeviceProfileRequest> for DeviceQuery {
    type Error = InvalidMessage;

    fn try_from(wire: v1::DeviceProfileRequest) -> Result<Self, InvalidMessage> {
        if wire.remotes.len() > MAX_ITEMS || wire.dns.len() > MAX_ITEMS {
            return Err(invalid("DeviceProfileRequest", "more than 256 remotes or name servers"));
        }
        let dns = wire.dns.iter().map(|address| parse("DeviceProfileRequest.dns", address));
        Ok(Self {
            name: parse("DeviceProfileRequest.name", &wire.name)?,
            dns: dns.collect::<Result<_, _>>()?,
            remotes: wire.remotes,
            full: wire.full,
        })
    }
}

impl From<DeviceGrant> for v1::DeviceProfileResponse {
    fn from(grant: DeviceGrant) -> Self {
        let profile = grant.profile.expose_secret().to_owned();
        Self { profile, not_after: grant.not_after, revoked: grant.revoked, reach: grant.reach }
    }
}

impl From<v1::DeviceProfileResponse> for DeviceGrant {
    fn from(wire: v1::DeviceProfileResponse) -> Self {
        let reach = shown(&wire.reach);
        Self { profile: wire.profile.into(), not_after: wire.not_after, revoked: wire.revoked, reach }
    }
}

fn shown(reach: &[String]) -> Vec<String> {
    reach.iter().take(MAX_ITEMS).map(|word| bounded(word)).collect()
}

impl From<DeviceInfo> for v1::Device {
    fn from(device: DeviceInfo) -> Self {
        Self {
            name: device.name.into(),
            not_before: device.not_before,
            not_after: device.not_after,
            revoked: device.revoked,
            connected_since: device.connected_since,
            address: device.address.map(|address| address.to_string()),
            last_seen: device.last_seen,
            remote: device.remote.map(|remote| remote.to_string()),
            received_bytes: device.received_bytes,
            sent_bytes: device.sent_bytes,
            reach: device.reach,
        }
    }
}

impl TryFrom<v1::Device> for DeviceInfo {
    type Error = InvalidMessage;

    fn try_from(wire: v1::Device) -> Result<Self, InvalidMessage> {
        Ok(Self {
            name: parse("Device.name", &wire.name)?,
            not_before: wire.not_before,
            not_after: wire.not_after,
            revoked: wire.revoked,
            connected_since: wire.connected_since,
            address: parse_optional("Device.address", wire.address)?,
            last_seen: wire.last_seen,
            remote: parse_optional("Device.remote", wire.remote)?,
            received_bytes: wire.received_bytes,
            sent_bytes: wire.sent_bytes,
            reach: shown(&wire.reach),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_and_told_survives_the_wire() {
        let query = DeviceQuery {
            name: "phone".parse().unwrap(),
            remotes: vec!["vps.example.test/tcp".into()],
            full: true,
            dns: vec!["192.0.2.53".parse().unwrap()],
        };
        assert_eq!(DeviceQuery::try_from(v1::DeviceProfileRequest::from(query.clone())).unwrap(), query);
        let mut wire = v1::DeviceProfileRequest::from(query);
        wire.dns = vec!["example".into()];
        assert_eq!(DeviceQuery::try_from(wire).unwrap_err().field, "DeviceProfileRequest.dns");

        let device = DeviceInfo {
            name: "phone".parse().unwrap(),
            not_before: 1,
            not_after: 2,
            revoked: Some(3),
            connected_since: Some(4),
            address: Some("10.86.0.3".parse().unwrap()),
            last_seen: Some(5),
            remote: Some("[2001:db8::9]:41234".parse().unwrap()),
            received_bytes: 6,
            sent_bytes: 7,
            reach: vec!["services".into()],
        };
        assert_eq!(DeviceInfo::try_from(v1::Device::from(device.clone())).unwrap(), device);
        let mut wire = v1::Device::from(device);
        wire.remote = Some("nowhere".into());
        assert_eq!(DeviceInfo::try_from(wire).unwrap_err().field, "Device.remote");
    }
}
