//! Peers that connect once more before their session is over, to go on another way.

use std::time::Duration;

use ovpn::endpoint::{EndReason, Endpoint, Event};

use crate::network::{Network, SERVER, client_config, packet, server_config};
use crate::seconds;

/// Packets pass through one session until they pass through the other, in either direction; what was sent over the old
/// one in time is still taken.
#[test]
fn a_newer_session_takes_over_without_a_gap() {
    for (seed, over_tcp) in [(50, false), (51, true)] {
        let mut net = Network::new(seed, server_config());
        net.add_client("b", client_config());
        let old = net.add_client("a", client_config());
        net.run(seconds(2));
        let address = net.address(old).unwrap();
        let (there, back) = (packet(address, SERVER, 100), packet(SERVER, address, 100));
        let new =
            if over_tcp { net.add_client_over_tcp("a", client_config()) } else { net.add_client("a", client_config()) };
        let mut steps = 0;
        while net.server.counters().handshakes_completed < 3 {
            assert_eq!(net.client_sends(old, &there).as_ref(), Some(&there));
            assert_eq!(net.server_sends(&back).as_ref(), Some(&back), "step {steps}");
            net.run(Duration::from_millis(1));
            steps += 1;
            assert!(steps < 5000);
        }
        assert!(steps > 10);
        // The client does not have its keys yet: the old one still carries.
        assert!(!net.is_connected(new));
        assert_eq!(net.client_sends(old, &there).as_ref(), Some(&there));
        assert_eq!(net.server_sends(&back).as_ref(), Some(&back));
        net.run_until(seconds(1), |net| net.is_connected(new));
        // The new one carries, and has the same address; peers are told of it before the end of the old one.
        assert_eq!(net.address(new), Some(address));
        assert_eq!(net.client_sends(new, &there).as_ref(), Some(&there));
        let sealed = net.server_seals(&back);
        assert_eq!(net.deliver_to_client(new, &sealed).as_ref(), Some(&back));
        assert_eq!(net.server_sends(&back).as_ref(), Some(&back));
        assert_eq!(net.server.peers().len(), 2);
        assert_eq!(net.client_sends(new, &there).as_ref(), Some(&there));
        assert_eq!(net.client_sends(old, &there).as_ref(), Some(&there));
        net.run(seconds(1));
        assert_eq!(net.client_sends(old, &there), None);
        let news: Vec<_> = net.server_events.iter().rev().take(2).collect();
        assert!(
            matches!(news[..], [Event::Disconnected { reason: EndReason::Replaced, .. }, Event::Connected(_)]),
            "{news:?}"
        );
        assert_eq!(net.server.peers().len(), 2);
        assert_eq!(net.server_sends(&back).as_ref(), Some(&back));
    }
}

/// One that never comes to be costs nothing; one that takes the last place takes that of the old.
#[test]
fn the_old_session_stays_until_the_newer_one_is_connected() {
    let mut config = server_config();
    config.max_peers = 1;
    let mut net = Network::new(52, config);
    let old = net.add_client("a", client_config());
    net.run(seconds(2));
    let address = net.address(old).unwrap();
    let back = packet(SERVER, address, 100);
    net.add_client("bad", client_config());
    net.add_client("mute", client_config());
    net.run(seconds(70));
    assert_eq!(net.server_sends(&back).as_ref(), Some(&back));
    let new = net.add_client("a", client_config());
    net.run(seconds(2));
    assert_eq!(net.address(new), Some(address));
    assert_eq!(net.server_sends(&back).as_ref(), Some(&back));
    assert_eq!(net.server.peers().len(), 1);
}
