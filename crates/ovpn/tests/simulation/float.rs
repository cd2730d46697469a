//! Peers that change their address.

use std::time::Duration;

use ovpn::drops::DropReason;
use ovpn::endpoint::{Endpoint, Event};
use ovpn::underlay::Underlay;

use crate::network::{Network, SERVER, client_config, packet, server_config};
use crate::seconds;

const ELSEWHERE: &str = "203.0.113.9:5555";

fn connected(names: &[&str]) -> Network {
    let mut server = server_config();
    server.renewal.after = seconds(10);
    let mut net = Network::new(30, server);
    for name in names {
        net.add_client(name, client_config());
    }
    net.run(seconds(2));
    assert_eq!(net.server.peers().len(), names.len());
    net
}

fn remote_of_first(net: &Network) -> Underlay {
    net.server.peers()[0].connected.remote
}

#[test]
fn the_session_follows_its_data() {
    let mut net = connected(&["a"]);
    let address = net.address(0).unwrap();
    for turn in 0..20 {
        let place = format!("203.0.113.{turn}:{}", 40_000 + turn);
        net.move_client(0, &place);
        let back = packet(SERVER, address, 80);
        assert_eq!(net.server_sends(&back), None, "the server cannot know yet");
        let there = packet(address, SERVER, 80);
        assert_eq!(net.client_sends(0, &there), Some(there));
        assert_eq!(net.server_sends(&back), Some(back), "and at once the way back is known");
        assert_eq!(remote_of_first(&net), Underlay::udp(place.parse().unwrap()));
        net.run(seconds(5));
    }
    // Control packets have followed: the keys were renewed all along.
    assert!(net.server.counters().renewals_completed >= 9);
    assert_eq!((net.server.counters().renewals_failed, net.server.counters().handshakes_completed), (0, 1));
    let floats = net.server_events.iter().filter(|event| matches!(event, Event::Floated { .. })).count();
    assert_eq!(floats, 20);
    net.client_shuts_down(0);
    net.run(seconds(1));
    assert!(net.server.peers().is_empty());
}

#[test]
fn a_ping_is_enough() {
    let mut net = connected(&["a"]);
    net.move_client(0, ELSEWHERE);
    // Pushed: a ping after five seconds of silence.
    net.run(seconds(6));
    assert_eq!(remote_of_first(&net), Underlay::udp(ELSEWHERE.parse().unwrap()));
}

#[test]
fn forged_and_replayed_packets_move_nobody() {
    let mut net = connected(&["a"]);
    let (home, address) = (remote_of_first(&net), net.address(0).unwrap());
    let elsewhere = Underlay::udp(ELSEWHERE.parse().unwrap());
    let inner = packet(address, SERVER, 80);
    let sealed = net.client_seals(0, &inner);
    assert!(net.deliver_to_server(0, &sealed).is_some());
    let sent = net.recorded.len();

    assert_eq!(net.deliver_to_server_from(elsewhere, &sealed), None);
    assert_eq!(net.server.counters().drops.of(DropReason::Replay), 1);
    for at in 0..sealed.len() {
        let mut forged = net.client_seals(0, &inner);
        forged[at] ^= 0x20;
        assert_eq!(net.deliver_to_server_from(elsewhere, &forged), None, "byte {at}");
    }
    // The first format has no number to find the peer by.
    let mut first_format = net.client_seals(0, &inner);
    first_format.drain(..3);
    first_format[0] = 6 << 3;
    assert_eq!(net.deliver_to_server_from(elsewhere, &first_format), None);
    net.run(Duration::from_millis(100));
    assert_eq!((remote_of_first(&net), net.recorded.len()), (home, sent), "no move, and no answer");
    let back = packet(SERVER, address, 80);
    assert_eq!(net.server_sends(&back), Some(back));
}

#[test]
fn guesses_from_unknown_addresses_are_bounded() {
    let mut net = connected(&["a"]);
    let elsewhere = Underlay::udp(ELSEWHERE.parse().unwrap());
    let address = net.address(0).unwrap();
    let inner = packet(address, SERVER, 40);
    let mut forged = net.client_seals(0, &inner);
    *forged.last_mut().unwrap() ^= 1;
    for _ in 0..10_100 {
        assert_eq!(net.deliver_to_server_from(elsewhere, &forged), None);
    }
    assert_eq!(net.server.counters().drops.of(DropReason::FloatRate), 100);
    // Who is where it was is not concerned, and the limit is one of a second.
    assert!(net.client_sends(0, &inner).is_some());
    net.run(seconds(2));
    net.move_client(0, ELSEWHERE);
    assert!(net.client_sends(0, &inner).is_some());
}

#[test]
fn nobody_takes_the_address_of_another_peer() {
    let mut net = connected(&["a", "b"]);
    let taken = net.server.peers()[1].connected.remote;
    let inner = packet(net.address(0).unwrap(), SERVER, 80);
    let sealed = net.client_seals(0, &inner);
    assert_eq!(net.deliver_to_server_from(taken, &sealed), None);
    assert_ne!(remote_of_first(&net), taken);
    assert!(net.deliver_to_server(0, &sealed).is_some(), "the refusal has not used up the packet");
    let back = packet(SERVER, net.address(1).unwrap(), 80);
    assert_eq!(net.server_sends(&back), Some(back));
}

#[test]
fn a_place_that_became_free_can_be_taken() {
    let mut net = connected(&["a", "b"]);
    let old = net.server.peers()[0].connected.remote;
    net.move_client(0, ELSEWHERE);
    let inner = packet(net.address(0).unwrap(), SERVER, 80);
    assert!(net.client_sends(0, &inner).is_some());
    net.move_client(1, &old.address.to_string());
    let inner = packet(net.address(1).unwrap(), SERVER, 80);
    assert!(net.client_sends(1, &inner).is_some());
    net.run(seconds(30));
    assert_eq!(net.server.peers()[1].connected.remote, old);
    assert_eq!(net.server.counters().renewals_failed, 0);
}
