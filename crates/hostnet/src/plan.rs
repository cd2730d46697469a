//! From the wanted and the observed state to the changes between them. Pure.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::Ipv4Net;

use crate::state::{Change, Route, Target, Wanted};

/// What the kernel has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Observed {
    /// All links by name.
    pub(crate) links: BTreeMap<String, ObservedLink>,
    /// The routes that carry our protocol number.
    pub(crate) routes: Vec<Route>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct ObservedLink {
    pub(crate) index: u32,
    pub(crate) up: bool,
    pub(crate) mtu: u32,
    pub(crate) tx_queue_len: u32,
    pub(crate) addresses: Vec<Ipv4Net>,
}

/// The changes in the order they must happen, or the name of the wanted link that does not exist.
pub(crate) fn plan(wanted: &Wanted, observed: &Observed) -> Result<Vec<Change>, String> {
    let mut changes = Vec::new();
    let (unwanted, missing) = route_differences(wanted, observed);
    // Before anything else, so that there is no moment at which packets for the tunnel take the default route.
    let (guards, ways): (Vec<_>, Vec<_>) =
        missing.into_iter().partition(|route| matches!(route.target, Target::Unreachable));
    changes.extend(guards.into_iter().map(Change::AddRoute));

    for link in &wanted.links {
        let is = observed.links.get(&link.device).ok_or_else(|| link.device.clone())?;
        let address = Ipv4Net::from(link.address);
        // First the new one, then away with the old: the last address to go would take all routes with it.
        if !is.addresses.contains(&address) {
            changes.push(Change::AddAddress { device: link.device.clone(), address });
        }
        for other in is.addresses.iter().filter(|other| **other != address) {
            changes.push(Change::RemoveAddress { device: link.device.clone(), address: *other });
        }
        let mtu = (is.mtu != link.mtu).then_some(link.mtu);
        let tx_queue_len = (is.tx_queue_len != link.tx_queue_len).then_some(link.tx_queue_len);
        if !is.up || mtu.is_some() || tx_queue_len.is_some() {
            changes.push(Change::SetLink { device: link.device.clone(), mtu, tx_queue_len });
        }
    }
    changes.extend(unwanted.into_iter().map(Change::RemoveRoute));
    changes.extend(ways.into_iter().map(Change::AddRoute));
    Ok(changes)
}

fn route_differences(wanted: &Wanted, observed: &Observed) -> (Vec<Route>, Vec<Route>) {
    let wanted: BTreeSet<Route> = wanted
        .links
        .iter()
        .flat_map(|link| link.routes.iter().map(|net| (net, Target::Device(link.device.clone()))))
        .chain(wanted.unreachable.iter().map(|net| (net, Target::Unreachable)))
        .map(|(net, target)| Route { destination: net.trunc(), target })
        .collect();
    let observed: BTreeSet<Route> = observed.routes.iter().cloned().collect();
    (observed.difference(&wanted).cloned().collect(), wanted.difference(&observed).cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::LinkState;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn wanted(routes: &[&str]) -> Wanted {
        Wanted {
            links: vec![LinkState {
                device: "tun0".to_owned(),
                address: "10.86.0.2".parse().unwrap(),
                mtu: 1420,
                tx_queue_len: 64,
                routes: routes.iter().map(|text| net(text)).collect(),
            }],
            unreachable: vec![net("10.86.0.0/24")],
        }
    }

    fn observed(link: ObservedLink, routes: &[Route]) -> Observed {
        Observed { links: BTreeMap::from([("tun0".to_owned(), link)]), routes: routes.to_vec() }
    }

    #[test]
    fn a_new_link_gets_everything_with_the_unreachable_route_first() {
        let observed = observed(ObservedLink { mtu: 1500, tx_queue_len: 500, ..Default::default() }, &[]);
        let shown: Vec<String> =
            plan(&wanted(&["10.86.0.0/24"]), &observed).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "add route unreachable 10.86.0.0/24",
                "add address 10.86.0.2/32 to tun0",
                "set tun0 up, mtu 1420, queue length 64",
                "add route 10.86.0.0/24 on tun0",
            ]
        );
    }

    #[test]
    fn what_matches_is_left_alone_and_the_rest_goes() {
        let link = ObservedLink {
            index: 7,
            up: true,
            mtu: 1420,
            tx_queue_len: 64,
            addresses: vec![net("10.86.0.2/32"), net("10.9.0.1/24")],
        };
        let guard = Route { destination: net("10.86.0.0/24"), target: Target::Unreachable };
        let old = Route { destination: net("10.86.0.0/24"), target: Target::Device("tun0".to_owned()) };
        let changes = plan(&wanted(&[]), &observed(link, &[guard, old.clone()])).unwrap();
        assert_eq!(
            changes,
            [
                Change::RemoveAddress { device: "tun0".to_owned(), address: net("10.9.0.1/24") },
                Change::RemoveRoute(old)
            ]
        );
    }

    #[test]
    fn a_missing_link_is_named() {
        assert_eq!(plan(&wanted(&[]), &Observed::default()).unwrap_err(), "tun0");
    }
}
