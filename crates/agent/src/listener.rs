//! Whom a listening tunnel lets in, and which addresses they get inside.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use model::RoleUri;
use tunnel::{BetweenPeers, Ipv4Prefix, Ipv6Prefix, Listen, StaticPeer};

use crate::config::TunnelSettings;

/// Peers at a time, the opposite agent and devices together.
const MAX_PEERS: usize = 250;

/// A network of IPv6 that leads nowhere, with the listener's address: the tunnel carries none. But clients lead IPv6 into a tunnel, where
/// they refuse it instead of letting it pass by, only if they have an address for it.
const NOWHERE: Ipv6Prefix = Ipv6Prefix { address: nowhere(1), prefix_len: 64 };

const fn nowhere(host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd8e, 0x6c35, 0x2a51, 0, 0, 0, 0, host)
}

/// The listener at `bind` whose own address inside is `address`, for the opposite agent, which has `peer_address`, and for devices.
pub(crate) fn listen(
    settings: &TunnelSettings,
    bind: SocketAddr,
    address: Ipv4Addr,
    opposite: &RoleUri,
    peer_address: Ipv4Addr,
) -> Listen {
    let opposite = StaticPeer {
        name: opposite.to_string(),
        address: Some(peer_address),
        address_ipv6: Some(nowhere(2)),
        ..StaticPeer::default()
    };
    Listen {
        tcp: Some(bind),
        network_ipv6: Some(NOWHERE),
        peers: vec![opposite],
        pool: Some(settings.pool()),
        pool_ipv6: Some(nowhere(3)..=nowhere(u16::MAX)),
        // What devices may not reach, the guard drops.
        between_peers: if settings.devices.forwards() { BetweenPeers::Host } else { BetweenPeers::Drop },
        max_peers: MAX_PEERS,
        ..Listen::new(bind, Some(Ipv4Prefix { address, prefix_len: settings.subnet.prefix_len() }))
    }
}
