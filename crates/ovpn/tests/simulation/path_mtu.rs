//! Discovery of the MTU of the path between our own ends.

use ovpn::client::ClientConfig;
use ovpn::endpoint::{Endpoint, Event};
use ovpn::path_mtu::PathMtu;
use ovpn::server::ServerConfig;

use crate::network::{Network, SERVER, client_config, packet, server_config};
use crate::seconds;

/// For a whole search.
const SEARCH: u64 = 60;

fn asking() -> ClientConfig {
    ClientConfig { path_mtu: true, ..client_config() }
}

fn answering() -> ServerConfig {
    ServerConfig { path_mtu: true, ..server_config() }
}

/// What the only peer of the server and the client think of the path, and what they have last told of it.
fn known(net: &Network) -> [Option<PathMtu>; 2] {
    let told = |events: &[Event]| {
        events.iter().rev().find_map(|event| match event {
            Event::PathMtu { path_mtu, .. } => Some(*path_mtu),
            _ => None,
        })
    };
    let at_server = net.server.peers()[0].path_mtu;
    assert_eq!(at_server, told(&net.server_events));
    [at_server, told(&net.events[0])]
}

/// A path of IPv4 with the epoch format.
fn path(outside: u16) -> [Option<PathMtu>; 2] {
    [Some(PathMtu { outside, inside: outside - 20 - 8 - 28 }); 2]
}

/// A packet that opens a TCP connection, with this offer of a segment's size.
fn syn(net: &Network, mss: u16) -> Vec<u8> {
    let mut syn = packet(net.address(0).unwrap(), SERVER, 44);
    (syn[6], syn[7], syn[9]) = (0x40, 0, 6);
    (syn[32], syn[33]) = (0x60, 2);
    syn[40..42].copy_from_slice(&[2, 4]);
    syn[42..44].copy_from_slice(&mss.to_be_bytes());
    syn
}

fn clamped(net: &mut Network) -> u16 {
    let syn = syn(net, 9000);
    let arrived = net.client_sends(0, &syn).unwrap();
    u16::from_be_bytes([arrived[42], arrived[43]])
}

#[test]
fn both_ends_know_it_and_follow_it() {
    let mut net = Network::new(1, answering());
    net.add_client("a", asking());
    net.run(seconds(2));
    assert_eq!(known(&net), path(1500));
    assert_eq!(clamped(&mut net), 1444 - 40);
    net.mtu = (1500, 1400);
    // One that is used: that of the packet.
    net.run(seconds(SEARCH));
    assert_eq!(known(&net), path(1400));
    assert_eq!(clamped(&mut net), 1344 - 40);
    net.mtu = (9000, 9000);
    net.run(seconds(600 + SEARCH));
    assert_eq!(known(&net), path(9000));
}

#[test]
fn a_peer_that_moved_is_asked_to_search() {
    let mut net = Network::new(2, answering());
    net.add_client("a", asking());
    net.mtu.1 = 1400;
    net.run(seconds(SEARCH));
    assert_eq!(known(&net), path(1400));
    net.mtu.1 = 1492;
    net.move_client(0, "203.0.113.9:5555");
    clamped(&mut net);
    net.run(seconds(SEARCH));
    assert_eq!(known(&net), path(1492));
}

#[test]
fn a_server_that_doubts_asks_for_a_search() {
    let mut net = Network::new(3, answering());
    let client = net.add_client("a", asking());
    net.run(seconds(2));
    net.mtu.1 = 1300;
    let (now, place) = (net.now(), net.client_place(client));
    net.server.doubt_path(now, place);
    net.run(seconds(SEARCH));
    assert_eq!(known(&net), path(1300));
}

#[test]
fn who_does_not_take_part_is_left_alone() {
    for (client, server) in [(client_config(), answering()), (asking(), server_config())] {
        let mut net = Network::new(4, server);
        net.add_client("a", client);
        net.run(seconds(SEARCH));
        assert_eq!(known(&net), [None, None]);
        assert!(!net.server_said(0).iter().any(|said| said.contains("mtu-discovery")));
        assert_eq!(clamped(&mut net), 1492 - 20 - 8 - 28 - 40);
    }
}

#[test]
fn a_stream_has_no_mtu() {
    let mut net = Network::new(5, answering());
    net.add_client_over_tcp("a", asking());
    net.run(seconds(SEARCH));
    assert_eq!(known(&net), [None, None]);
}
