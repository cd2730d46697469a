//! What fits into the tunnel without fragments outside: as far as the host's own routes tell (the MTU of a link, what a
//! route says by `ip route ... mtu`, what the kernel has learned of a path from others), and as probes of the paths tell.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use nix::sys::socket::{getsockopt, sockopt};
use ovpn::endpoint::PeerStatus;

use crate::config::MssFix;

/// Header with peer id, packet id of the epoch format, and tag.
const DATA: u16 = 4 + 8 + 16;
const UDP: u16 = 8;
/// A link with less carries no IPv6 (RFC 8200, 5). Packets then need fragments outside.
const LEAST: u16 = 1280;
/// Nobody's (RFC 1112, 4; RFC 9637), so that a default route leads there.
const ELSEWHERE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(240, 0, 0, 1)), IpAddr::V6(Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 1))];

/// What any peer takes whose path is not known: stock peers have buffers for it.
const USUAL: u16 = 1500;

/// The MTU of the device by the paths to the peers, once one of them is known.
pub(crate) fn of_paths(peers: &[PeerStatus]) -> Option<u16> {
    let known = peers.iter().filter_map(|peer| peer.path_mtu).map(|path| path.inside.max(LEAST)).min()?;
    let all = peers.iter().all(|peer| peer.path_mtu.is_some());
    Some(if all { known } else { known.min(USUAL) })
}

/// Whether the route to an address carries a datagram of so many bytes in one piece, as far as the host knows.
pub(crate) fn route_carries(to: IpAddr, datagram: usize) -> bool {
    let to = to.to_canonical();
    let ip = if to.is_ipv4() { 20 } else { 40 };
    of_route(to).is_none_or(|route| datagram + usize::from(ip + UDP) <= usize::from(route))
}

/// Lowers `mtu`, of the device, and what TCP connections are made to fit into to what the route to `peer` carries.
pub(crate) fn fit(peer: IpAddr, mtu: &mut u16, mss_fix: &mut MssFix) {
    let peer = peer.to_canonical();
    if let Some(route) = of_route(peer) {
        lower(route, peer, mtu, mss_fix);
    }
}

/// The same for peers that are not known yet, by the default routes of the families that a socket on `bind` serves.
pub(crate) fn fit_default(bind: SocketAddr, mtu: &mut u16, mss_fix: &mut MssFix) {
    for address in ELSEWHERE.into_iter().filter(|address| address.is_ipv4() || bind.is_ipv6()) {
        fit(address, mtu, mss_fix);
    }
}

fn lower(route: u16, peer: IpAddr, mtu: &mut u16, mss_fix: &mut MssFix) {
    let ip = if peer.is_ipv4() { 20 } else { 40 };
    *mtu = route.saturating_sub(ip + UDP + DATA).max(LEAST).min(*mtu);
    // Other sizes were chosen by somebody.
    if let MssFix::Datagram(bytes) = mss_fix {
        *bytes = route.max(MssFix::LEAST).min(*bytes);
    }
}

/// The MTU of the route to an address, bytes; `None` without a route. Nothing is sent.
fn of_route(to: IpAddr) -> Option<u16> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    // Any port but 0.
    socket.connect((to, 9)).ok()?;
    let mtu = match to {
        IpAddr::V4(_) => getsockopt(&socket, sockopt::IpMtu).ok()?,
        IpAddr::V6(_) => crate::sys::ipv6_mtu(&socket).ok()?,
    };
    Some(u16::try_from(mtu).unwrap_or(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_narrow_route_counts() {
        let fitted = |route, peer: &str, mtu, mut mss_fix| {
            let mut fitted = mtu;
            lower(route, peer.parse().unwrap(), &mut fitted, &mut mss_fix);
            (fitted, mss_fix)
        };
        let usual = MssFix::default();
        assert_eq!(fitted(9000, "192.0.2.1", 1420, usual), (1420, usual));
        assert_eq!(fitted(1500, "2001:db8::1", 1420, usual), (1420, usual));
        assert_eq!(fitted(1476, "192.0.2.1", 1420, usual), (1420, MssFix::Datagram(1476)));
        assert_eq!(fitted(1460, "192.0.2.1", 1420, usual), (1404, MssFix::Datagram(1460)));
        assert_eq!(fitted(1460, "2001:db8::1", 1420, usual), (1384, MssFix::Datagram(1460)));
        assert_eq!(fitted(1280, "2001:db8::1", 1420, usual), (1280, MssFix::Datagram(1280)));
        assert_eq!(fitted(1280, "192.0.2.1", 1000, MssFix::Off), (1000, MssFix::Off));
        assert_eq!(fitted(68, "192.0.2.1", 1420, usual), (1280, MssFix::Datagram(MssFix::LEAST)));
    }

    #[test]
    fn a_route_tells_its_mtu() {
        assert_eq!(of_route(Ipv4Addr::LOCALHOST.into()), Some(u16::MAX));
        // A host without IPv6 has no such route.
        assert!(of_route(Ipv6Addr::LOCALHOST.into()).is_none_or(|mtu| mtu == u16::MAX));
    }
}
