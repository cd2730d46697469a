//! What devices in the tunnel may reach by way of this host: nothing, unless its configuration says so.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::str::FromStr;

use daemon::config::Invalid;
use hostnet::docker_user;
use hostnet::guard::{Goal, Permit};
use ipnet::Ipv4Net;
use model::{HostId, Role, RoleUri};
use serde::Deserialize;
use tracing::warn;
use tunnel::{PeerConnected, PeerId};

use crate::config::chain;

/// `[devices]` as written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct DevicesSection {
    reach: Vec<String>,
    /// Of single devices, in place of what all may reach.
    #[serde(flatten)]
    each: BTreeMap<String, DeviceSection>,
}

/// `[devices.NAME]` as written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeviceSection {
    reach: Vec<String>,
}

/// Something that a device may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    /// Services: the ingress of the edge, and what home publishes, if home lets it.
    Services,
    /// The internet, by the edge's address.
    Internet,
    /// Other devices.
    Devices,
}

impl Reach {
    /// As configuration writes it.
    const fn word(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::Internet => "internet",
            Self::Devices => "devices",
        }
    }
}

impl FromStr for Reach {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let known = [Self::Services, Self::Internet, Self::Devices].into_iter().find(|reach| reach.word() == word);
        known.ok_or_else(|| format!("{word:?} is none of \"services\", \"internet\" and \"devices\""))
    }
}

/// `[devices]`, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevicePolicy {
    /// This host.
    role: Role,
    usual: BTreeSet<Reach>,
    each: BTreeMap<HostId, BTreeSet<Reach>>,
    /// Whether this host has an ingress.
    pub ingress: bool,
}

impl DevicePolicy {
    /// Of the host of this role: no device reaches anything.
    #[must_use]
    pub fn deny(role: Role) -> Self {
        Self { role, usual: BTreeSet::new(), each: BTreeMap::new(), ingress: false }
    }

    /// What a device may reach, as configuration writes it.
    #[must_use]
    pub fn words(&self, device: &HostId) -> Vec<String> {
        self.reach(device).iter().map(|reach| reach.word().to_owned()).collect()
    }

    fn reach(&self, device: &HostId) -> &BTreeSet<Reach> {
        self.each.get(device).unwrap_or(&self.usual)
    }

    /// Whether packets of devices are forwarded by this host.
    #[must_use]
    pub(crate) fn forwards(&self) -> bool {
        self.role == Role::Edge && (!self.usual.is_empty() || self.each.values().any(|reach| !reach.is_empty()))
    }

    /// What is permitted while these devices are connected, in a tunnel of this subnet. `open_tcp` are the ports of this host's services
    /// where they are in the tunnel.
    pub(crate) fn permits(&self, devices: &ConnectedDevices, subnet: Ipv4Net, open_tcp: &[u16]) -> Vec<Permit> {
        if self.role != Role::Edge {
            // Which device it is, only the edge knows, and anyway it can send what it likes.
            let from = subnet;
            let ports = open_tcp.iter().map(|port| Goal::Tcp(*port)).chain([Goal::Published]);
            let goals = ports.filter(|_| self.usual.contains(&Reach::Services));
            return goals.map(|to| Permit { from, to }).collect();
        }
        let mut permits = Vec::new();
        for (name, address) in devices.0.values() {
            let from = Ipv4Net::from(*address);
            for reach in self.reach(name) {
                let goals = match reach {
                    Reach::Services if self.ingress => {
                        vec![Goal::Tcp(80), Goal::Tcp(443), Goal::Udp(443), Goal::Opposite]
                    }
                    Reach::Services => vec![Goal::Opposite],
                    Reach::Internet => vec![Goal::Internet],
                    Reach::Devices => vec![Goal::Others(subnet)],
                };
                permits.extend(goals.into_iter().map(|to| Permit { from, to }));
            }
        }
        permits
    }
}

impl DevicesSection {
    /// `listens` says whether devices connect to this host.
    pub(crate) fn check(self, role: Role, listens: bool) -> Result<DevicePolicy, Invalid> {
        let read = |key: &str, words: Vec<String>| {
            let read = words.iter().map(|word| word.parse::<Reach>());
            read.collect::<Result<BTreeSet<_>, _>>().map_err(|reason| Invalid::new(key, reason))
        };
        let usual = read("devices.reach", self.reach)?;
        let mut each = BTreeMap::new();
        for (name, section) in self.each {
            let key = format!("devices.{name}");
            let reach = read(&format!("{key}.reach"), section.reach)?;
            each.insert(name.parse::<HostId>().map_err(|error| Invalid::new(&key, error))?, reach);
        }
        let policy = DevicePolicy { usual, each, ..DevicePolicy::deny(role) };
        if role == Role::Home {
            if let Some(name) = policy.each.keys().next() {
                let reason = "home lets all devices in or none: which is which, the edge's configuration says";
                return Err(Invalid::new(format!("devices.{name}"), reason));
            }
            if policy.usual.iter().any(|reach| *reach != Reach::Services) {
                return Err(Invalid::new("devices.reach", "home has \"services\" to give, and nothing else"));
            }
        } else if policy.forwards() && !listens {
            return Err(Invalid::new("devices", "this edge dials home: devices connect to a host that listens"));
        }
        Ok(policy)
    }
}

/// Says what the host itself is missing, and takes away what was left behind.
pub(crate) async fn prepare(policy: &DevicePolicy) {
    if policy.forwards() {
        let forwarding = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward");
        if forwarding.is_ok_and(|value| value.trim() == "0") {
            warn!(
                "this host forwards nothing, so that devices reach nothing beyond it: set net.ipv4.ip_forward=1 (Docker does)"
            );
        }
    } else {
        end(policy).await;
    }
}

/// Has Docker let through what devices are permitted.
pub(crate) async fn forward(policy: &DevicePolicy, device: &str, opposite: Ipv4Addr) {
    if policy.forwards()
        && let Err(error) = docker_user::ensure(device, opposite).await
    {
        warn!(error = chain(&error), "Docker's rules may keep devices from what they are permitted");
    }
}

/// Takes back what Docker was told.
pub(crate) async fn end(policy: &DevicePolicy) {
    if policy.role == Role::Edge
        && let Err(error) = docker_user::remove().await
    {
        warn!(error = chain(&error), "what lets devices past Docker's rules could not be removed");
    }
}

/// The devices that are connected.
#[derive(Debug, Default)]
pub(crate) struct ConnectedDevices(BTreeMap<PeerId, (HostId, Ipv4Addr)>);

impl ConnectedDevices {
    /// Returns whether it is a device.
    pub(crate) fn add(&mut self, peer: &PeerConnected) -> bool {
        let uris = peer.identity.san_uris.iter();
        let device = uris.filter_map(|uri| uri.parse::<RoleUri>().ok()).find(|uri| uri.role == Role::Device);
        let Some((device, address)) = device.zip(peer.address) else { return false };
        self.0.insert(peer.peer, (device.name, address));
        true
    }

    /// Returns whether it was one.
    pub(crate) fn remove(&mut self, peer: PeerId) -> bool {
        self.0.remove(&peer).is_some()
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(role: Role, text: &str, listens: bool) -> Result<DevicePolicy, String> {
        let section: DevicesSection = toml::from_str(text).map_err(|error| error.to_string())?;
        section.check(role, listens).map_err(|invalid| format!("{invalid:?}"))
    }

    #[test]
    fn what_each_device_may_open_is_what_is_written_and_nothing_is_the_default() {
        let subnet: Ipv4Net = "10.86.0.0/24".parse().unwrap();
        let name = |name: &str| name.parse::<HostId>().unwrap();
        let connected = ConnectedDevices(BTreeMap::from([
            (3, (name("phone"), [10, 86, 0, 3].into())),
            (4, (name("laptop"), [10, 86, 0, 4].into())),
        ]));
        let text = "reach = [\"services\"]\n[laptop]\nreach = [\"internet\", \"devices\"]\n";
        let policy = DevicePolicy { ingress: true, ..check(Role::Edge, text, true).unwrap() };
        assert!(policy.forwards());
        let of = |from: &str, to| Permit { from: from.parse().unwrap(), to };
        let phone = [Goal::Tcp(80), Goal::Tcp(443), Goal::Udp(443), Goal::Opposite].map(|to| of("10.86.0.3/32", to));
        let laptop = [Goal::Internet, Goal::Others(subnet)].map(|to| of("10.86.0.4/32", to));
        assert_eq!(policy.permits(&connected, subnet, &[7443]), [&phone[..], &laptop[..]].concat());

        assert_eq!(policy.words(&name("laptop")), ["internet", "devices"]);
        assert_eq!(policy.words(&name("tablet")), ["services"]);

        let nothing = check(Role::Edge, "", true).unwrap();
        assert!(!nothing.forwards() && nothing.permits(&connected, subnet, &[7443]).is_empty());
        assert!(!check(Role::Edge, "[phone]\nreach = []\n", false).unwrap().forwards());

        let home = check(Role::Home, "reach = [\"services\"]", false).unwrap();
        assert!(!home.forwards());
        let all = [Goal::Tcp(8080), Goal::Published].map(|to| of("10.86.0.0/24", to));
        assert_eq!(home.permits(&ConnectedDevices::default(), subnet, &[8080]), all);
        assert!(check(Role::Home, "", false).unwrap().permits(&connected, subnet, &[8080]).is_empty());
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (role, text, listens, reason) in [
            (Role::Edge, "reach = [\"lan\"]", true, "is none of"),
            (Role::Edge, "[phone]\nreach = [\"all\"]", true, "devices.phone.reach"),
            (Role::Edge, "[Phone]\nreach = []", true, "devices.Phone"),
            (Role::Edge, "[phone]\nreech = []", true, "unknown field"),
            (Role::Edge, "phone = 3", true, "invalid type"),
            (Role::Edge, "reach = [\"internet\"]", false, "dials home"),
            (Role::Home, "reach = [\"internet\"]", false, "nothing else"),
            (Role::Home, "[phone]\nreach = [\"services\"]", false, "all devices in or none"),
        ] {
            let error = check(role, text, listens).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
