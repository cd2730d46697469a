//! Renewal of keys while data flows.

use std::time::Duration;

use ovpn::drops::DropReason;
use ovpn::endpoint::{EndReason, Endpoint, Event, Keepalive, RenewalLimits};
use ovpn::keys::KeyDerivation;
use ovpn::protection::{ClientProtection, ServerProtection};
use ovpn::wrap::{Role, WrapKeys};

use crate::network::{Fault, Network, SERVER, client_config, packet, server_config, shared_key};

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// A connected pair; the numbers are `reneg-sec` of the server and of the client.
fn connected(server_after: u64, client_after: u64) -> (Network, usize) {
    with_limits(
        RenewalLimits { after: seconds(server_after), ..RenewalLimits::default() },
        RenewalLimits { after: seconds(client_after), ..RenewalLimits::default() },
    )
}

fn with_limits(server_limits: RenewalLimits, client_limits: RenewalLimits) -> (Network, usize) {
    let (mut server, mut client) = (server_config(), client_config());
    (server.renewal, client.renewal) = (server_limits, client_limits);
    let mut net = Network::new(20, server);
    let at = net.add_client("a", client);
    net.run(seconds(2));
    assert!(net.is_connected(at));
    (net, at)
}

/// The same, and nothing but control packets goes by itself.
fn connected_without_pings(server_after: u64, client_after: u64) -> (Network, usize) {
    let (mut server, mut client) = (server_config(), client_config());
    (server.renewal.after, client.renewal.after) = (seconds(server_after), seconds(client_after));
    let silent = Keepalive { ping: Duration::ZERO, ping_restart: Duration::ZERO };
    (server.keepalive, client.keepalive) = (silent, silent);
    let mut net = Network::new(20, server);
    let at = net.add_client("a", client);
    net.run(seconds(2));
    assert!(net.is_connected(at));
    (net, at)
}

/// One packet each way gets through.
#[track_caller]
fn assert_carries(net: &mut Network, at: usize) {
    let address = net.address(at).expect("connected");
    let (there, back) = (packet(address, SERVER, 100), packet(SERVER, address, 100));
    assert_eq!(net.client_sends(at, &there).as_deref(), Some(there.as_slice()));
    assert_eq!(net.server_sends(&back).as_deref(), Some(back.as_slice()));
}

/// Lets time pass with packets both ways all along, of which none may be lost.
#[track_caller]
fn run_under_load(net: &mut Network, at: usize, time: Duration) {
    for _ in 0..time.as_millis() / 50 {
        net.run(Duration::from_millis(50));
        assert_carries(net, at);
    }
}

/// Key ids of the soft resets that were sent, without repetition.
fn soft_resets(net: &Network) -> Vec<u8> {
    let mut ids: Vec<u8> =
        net.recorded.iter().filter(|datagram| datagram[0] >> 3 == 3).map(|datagram| datagram[0] & 7).collect();
    ids.dedup();
    ids
}

fn both_completed(net: &Network, at: usize) -> (u64, u64) {
    (net.server.counters().renewals_completed, net.client_counters(at).renewals_completed)
}

#[test]
fn either_side_renews_ten_times_and_nothing_is_lost() {
    for (server, client) in [(10, 0), (0, 10), (10, 10)] {
        let (mut net, at) = connected(server, client);
        run_under_load(&mut net, at, seconds(112));
        let (ours, theirs) = both_completed(&net, at);
        assert_eq!(ours, theirs, "server {server} client {client}");
        assert!((10..=12).contains(&ours), "{ours} renewals with server {server} client {client}");
        assert_eq!(soft_resets(&net)[..10], [1, 2, 3, 4, 5, 6, 7, 1, 2, 3]);
        assert_eq!((net.server.counters().renewals_failed, net.client_counters(at).renewals_failed), (0, 0));
        assert_eq!(net.server.peers().len(), 1);
        assert_eq!(net.server.counters().handshakes_completed, 1);
    }
}

#[test]
fn both_begin_at_the_same_time() {
    let (mut net, at) = connected(0, 0);
    // Used up by their packets, both on the same one.
    let limits = RenewalLimits { after: Duration::ZERO, packets: Some(20), ..RenewalLimits::default() };
    let (mut net2, at2) = with_limits(limits, limits);
    for _ in 0..10 {
        assert_carries(&mut net, at);
        assert_carries(&mut net2, at2);
    }
    net.run(seconds(3));
    net2.run(seconds(3));
    assert_eq!(both_completed(&net, at), (0, 0));
    assert_eq!(both_completed(&net2, at2), (1, 1));
    let resets = net2.recorded.iter().filter(|datagram| datagram[0] >> 3 == 3).count();
    assert_eq!(resets, 2, "each side's is the answer to the other's");
    assert_carries(&mut net2, at2);
}

/// A stock server seals with the new key as soon as its answer is acknowledged.
#[test]
fn a_client_acknowledges_the_answer_when_it_has_the_key() {
    for (server, client) in [(10, 0), (0, 10)] {
        let (mut net, at) = connected(server, client);
        net.client_tls_takes = Duration::from_millis(200);
        net.run_until(seconds(20), |net| net.server.counters().renewals_completed == 1);
        assert_eq!(both_completed(&net, at), (1, 1));
    }
}

#[test]
fn keys_of_the_prf_are_renewed_too() {
    let (mut server, mut client) = (server_config(), client_config());
    client.key_derivation = KeyDerivation::Prf;
    server.renewal.after = seconds(10);
    let mut net = Network::new(21, server);
    let at = net.add_client("a", client);
    net.run(seconds(2));
    run_under_load(&mut net, at, seconds(35));
    assert_eq!(both_completed(&net, at), (3, 3));
    assert_eq!(net.server.peers()[0].connected.key_derivation, KeyDerivation::Prf);
}

#[test]
fn renews_through_a_network_that_loses_and_reorders() {
    let (mut net, at) = connected(30, 30);
    net.fault = Fault { loss: 0.2, repeat: 0.2, delay: Duration::from_millis(100), ..Fault::default() };
    run_under_load(&mut net, at, seconds(600));
    net.fault = Fault::default();
    run_under_load(&mut net, at, seconds(20));
    let (ours, theirs) = both_completed(&net, at);
    assert_eq!(ours, theirs);
    assert!(ours >= 12, "only {ours} renewals");
    assert_eq!(net.server.counters().handshakes_completed, 1);
}

#[test]
fn a_renewal_that_fails_keeps_the_old_key_and_is_tried_again() {
    for (server, client) in [(100, 0), (0, 100)] {
        let (mut net, at) = connected(server, client);
        net.fault.no_renewal = true;
        run_under_load(&mut net, at, seconds(170));
        let failed = net.server.counters().renewals_failed + net.client_counters(at).renewals_failed;
        assert_eq!((failed, both_completed(&net, at)), (1, (0, 0)));
        let told = |event: &Event| matches!(event, Event::RenewalFailed { reason: EndReason::HandshakeTimeout, .. });
        assert!(net.events[at].iter().chain(&net.server_events).any(told));
        net.fault.no_renewal = false;
        run_under_load(&mut net, at, seconds(20));
        assert_eq!(both_completed(&net, at), (1, 1));
    }
}

#[test]
fn the_old_key_dies_when_its_time_is_over() {
    let limits = RenewalLimits { after: seconds(60), overlap: seconds(40), ..RenewalLimits::default() };
    let (mut net, at) = with_limits(RenewalLimits { after: Duration::ZERO, ..limits }, limits);
    let address = net.address(at).unwrap();
    let old: Vec<Vec<u8>> = (0..2).map(|_| net.client_seals(at, &packet(address, SERVER, 60))).collect();
    let old_back = net.server_seals(&packet(SERVER, address, 60));
    run_under_load(&mut net, at, seconds(70));
    assert_eq!(both_completed(&net, at), (1, 1));
    assert!(net.deliver_to_server(at, &old[0]).is_some(), "late, but the key is still good");
    assert!(net.deliver_to_server(at, &old[0]).is_none(), "a key's replay window lives as long as the key");
    run_under_load(&mut net, at, seconds(35));
    assert!(net.deliver_to_server(at, &old[1]).is_none());
    assert!(net.deliver_to_client(at, &old_back).is_none());
    assert_eq!(net.server.counters().drops.of(DropReason::UnknownKey), 1);
}

#[test]
fn a_session_ends_when_its_only_key_dies() {
    let limits = RenewalLimits { after: seconds(30), overlap: seconds(100), ..RenewalLimits::default() };
    let (mut net, at) = with_limits(limits, RenewalLimits { after: Duration::ZERO, ..RenewalLimits::default() });
    net.fault.no_renewal = true;
    net.run(seconds(100));
    assert_eq!(net.server.peers().len(), 1);
    net.run(seconds(35));
    assert!(net.server.peers().is_empty());
    let ended = |event: &Event| matches!(event, Event::Disconnected { reason: EndReason::KeyExhausted, .. });
    assert!(net.server_events.iter().any(ended));
    assert_eq!(net.last_reason(at), Some(EndReason::PeerExit));
}

#[test]
fn use_renews_a_key() {
    // The old key seals for ten seconds more.
    let idle = RenewalLimits { after: Duration::ZERO, hand_window: seconds(10), ..RenewalLimits::default() };
    for limits in [RenewalLimits { packets: Some(1000), ..idle }, RenewalLimits { bytes: Some(100_000), ..idle }] {
        for (server, client) in [(limits, idle), (idle, limits)] {
            let (mut net, at) = with_limits(server, client);
            run_under_load(&mut net, at, seconds(24));
            assert_eq!(both_completed(&net, at), (0, 0));
            run_under_load(&mut net, at, seconds(3));
            assert_eq!(both_completed(&net, at), (1, 1));
            run_under_load(&mut net, at, seconds(37));
            assert_eq!(both_completed(&net, at), (2, 2));
        }
    }
}

#[test]
fn nobody_becomes_somebody_else_by_a_renewal() {
    let (mut net, at) = connected(10, 0);
    net.rename(at, "b");
    net.run(seconds(12));
    let ended = |event: &Event| matches!(event, Event::Disconnected { reason: EndReason::IdentityChanged, .. });
    assert!(net.server_events.iter().any(ended));
    assert!(net.server.peers().is_empty());
}

#[test]
fn a_refused_certificate_fails_the_renewal_only() {
    let (mut net, at) = connected(10, 0);
    net.rename(at, "bad");
    net.run(seconds(12));
    assert_eq!(net.server.counters().renewals_failed, 1);
    assert_carries(&mut net, at);
    net.rename(at, "a");
    run_under_load(&mut net, at, seconds(90));
    assert!(both_completed(&net, at).0 >= 1);
}

#[test]
fn goodbyes_take_effect_in_the_middle_of_a_renewal() {
    for client_leaves in [true, false] {
        let (mut net, at) = connected(10, 10);
        net.fault.delay = Duration::from_millis(200);
        net.run_until(seconds(12), |net| {
            net.recorded.iter().any(|datagram| datagram[0] >> 3 == 4 && datagram[0] & 7 == 1)
        });
        if client_leaves {
            net.client_shuts_down(at);
            net.run(seconds(2));
            assert!(net.server.peers().is_empty());
        } else {
            net.server_shuts_down();
            net.run(seconds(2));
            assert_eq!(net.last_reason(at), Some(EndReason::PeerExit));
        }
    }
}

/// With dynamic tls-crypt a renewal's packets do not open under the static key, and without it they do.
#[test]
fn renewals_are_wrapped_under_keys_of_the_session_where_both_can() {
    for (ours, theirs, base) in
        [(true, true, true), (true, true, false), (true, false, true), (false, true, true), (false, false, false)]
    {
        let (mut server, mut client) = (server_config(), client_config());
        (server.dynamic_tls_crypt, client.dynamic_tls_crypt) = (ours, theirs);
        server.renewal.after = seconds(10);
        if !base {
            (server.protection, client.protection) = (ServerProtection::None, ClientProtection::None);
        }
        let keys = WrapKeys::shared(Role::Server, &shared_key());
        let mut net = Network::new(22, server);
        let at = net.add_client("a", client);
        net.run(seconds(2));
        run_under_load(&mut net, at, seconds(35));
        assert_eq!(both_completed(&net, at), (3, 3));
        let shortest = net.recorded.iter().filter(|datagram| datagram[0] >> 3 == 3).map(Vec::len).min().unwrap();
        // An empty soft reset: prefix 9, wrapping 40, no acks 1, message id 4.
        let is_wrapped = base || (ours && theirs);
        assert_eq!(shortest, if is_wrapped { 54 } else { 14 });
        let client_resets = net.recorded.iter().filter(|datagram| datagram[0] >> 3 == 3);
        let opened = client_resets.filter(|datagram| keys.open(&mut (*datagram).clone()).is_ok()).count();
        if base {
            assert_eq!(opened > 0, !(ours && theirs));
        }
    }
}

#[test]
fn the_epoch_format_is_used_where_both_can_and_renewed_like_the_other() {
    for (ours, theirs, ekm) in [(true, true, true), (true, false, true), (false, true, true), (true, true, false)] {
        let (mut server, mut client) = (server_config(), client_config());
        (server.epochs, client.epochs) = (ours, theirs);
        server.renewal.after = seconds(10);
        if !ekm {
            client.key_derivation = KeyDerivation::Prf;
        }
        let mut net = Network::new(23, server);
        let at = net.add_client("a", client);
        net.run(seconds(2));
        let address = net.address(at).unwrap();
        let sealed = net.client_seals(at, &packet(address, SERVER, 100));
        assert_eq!(sealed.len(), if ours && theirs && ekm { 100 + 28 } else { 100 + 24 });
        run_under_load(&mut net, at, seconds(35));
        assert_eq!(both_completed(&net, at), (3, 3));
    }
}

/// Stock peers take a new key into use only when it is settled on their side, and so the old one seals on for a while
/// where nothing comes under the new one.
#[test]
fn the_old_key_seals_until_half_of_the_time_has_passed() {
    let (mut net, at) = connected_without_pings(0, 100);
    let address = net.address(at).unwrap();
    let (there, back) = (packet(address, SERVER, 60), packet(SERVER, address, 60));
    let key_ids = |net: &mut Network| (net.client_seals(at, &there)[0] & 7, net.server_seals(&back)[0] & 7);
    net.run(seconds(105));
    assert_eq!(both_completed(&net, at), (1, 1));
    assert_eq!(key_ids(&mut net), (0, 0));
    net.run(seconds(48));
    // Half of the client's hundred seconds; the server's window is that of the handshake, a minute.
    assert_eq!(key_ids(&mut net), (1, 0));
    net.run(seconds(10));
    assert_eq!(key_ids(&mut net), (1, 1));
}

/// Where nothing was sent that would have shown it earlier, the beginning shows that the peer has the key before.
#[test]
fn a_key_that_seals_on_gives_way_when_the_next_renewal_begins() {
    for (server, client) in [(27, 9), (9, 27)] {
        let (mut net, at) = connected_without_pings(server, client);
        let address = net.address(at).unwrap();
        let (there, back) = (packet(address, SERVER, 60), packet(SERVER, address, 60));
        // One side completes a renewal long before the other.
        net.fault.delay = Duration::from_millis(300);
        for next in 1..=5 {
            net.run_until(seconds(12), |net| soft_resets(net).last() == Some(&next));
            net.run(Duration::from_millis(400));
            let key_ids = (net.client_seals(at, &there)[0] & 7, net.server_seals(&back)[0] & 7);
            assert_eq!(key_ids, (next - 1, next - 1), "server {server} client {client}");
            run_under_load(&mut net, at, seconds(3));
            assert_eq!(both_completed(&net, at), (next.into(), next.into()), "server {server} client {client}");
        }
    }
}

#[test]
fn a_key_gives_way_at_once_when_the_peer_uses_the_new_one() {
    let limits = RenewalLimits { after: seconds(100), packets: Some(4), ..RenewalLimits::default() };
    let (mut net, at) = with_limits(limits, RenewalLimits { after: seconds(4), ..limits });
    let address = net.address(at).unwrap();
    let (there, back) = (packet(address, SERVER, 60), packet(SERVER, address, 60));
    assert_carries(&mut net, at);
    assert_carries(&mut net, at);
    net.run(Duration::from_millis(1500));
    assert_eq!(both_completed(&net, at), (1, 1));
    assert_eq!(net.server_seals(&back)[0] & 7, 0, "nothing has come under the new key");
    net.run(Duration::from_millis(1000));
    let sealed = net.client_seals(at, &there);
    assert_eq!(sealed[0] & 7, 1, "half of its four seconds have passed");
    assert!(net.deliver_to_server(at, &sealed).is_some());
    assert_eq!(net.server_seals(&back)[0] & 7, 1);
}
