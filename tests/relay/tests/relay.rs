//! What the relay does, on this machine's loopback.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use relay::{Faults, Relay};

const ANY: &str = "127.0.0.1:0";

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind(ANY).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

/// A client, a far end, and a relay between them.
fn parts(faults: Faults) -> (UdpSocket, UdpSocket, Relay) {
    let (client, far) = (socket(), socket());
    let relay = Relay::start(None, ANY.parse().unwrap(), far.local_addr().unwrap(), 1, faults).unwrap();
    client.connect(relay.address()).unwrap();
    (client, far, relay)
}

fn receive(socket: &UdpSocket) -> (u32, SocketAddr) {
    let mut number = [0; 4];
    let (length, from) = socket.recv_from(&mut number).unwrap();
    assert_eq!(length, 4);
    (u32::from_be_bytes(number), from)
}

fn send(socket: &UdpSocket, number: u32) {
    socket.send(&number.to_be_bytes()).unwrap();
}

fn wait_until(done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn passes_both_ways_and_records() {
    let (client, far, relay) = parts(Faults::default());
    relay.record(3);
    for number in 0..100 {
        send(&client, number);
        let (there, from) = receive(&far);
        far.send_to(&(number + 1000).to_be_bytes(), from).unwrap();
        assert_eq!((there, receive(&client).0), (number, number + 1000));
        wait_until(|| relay.mappings() == [(client.local_addr().unwrap(), from)]);
    }
    wait_until(|| relay.counts().passed == 200);
    let recorded: Vec<bool> = relay.recorded().iter().map(|datagram| datagram.from_client).collect();
    assert_eq!(recorded, [true, false, true]);
    relay.set(Faults { blocked: true, ..Faults::default() });
    wait_until(|| {
        send(&client, 7);
        relay.counts().lost > 0
    });
}

#[test]
fn loses_repeats_and_reorders() {
    let delay = (Duration::ZERO, Duration::from_millis(40));
    let (client, far, relay) = parts(Faults { loss: 0.2, repeat: 0.2, delay, ..Faults::default() });
    let mut numbers = Vec::new();
    // In portions that the far end's socket has room for.
    for number in 0..2000 {
        send(&client, number);
        if number % 100 == 99 {
            let sent = u64::from(number) + 1;
            wait_until(|| relay.counts().passed + relay.counts().lost == sent + relay.counts().repeated);
            let new = (numbers.len() as u64..relay.counts().passed).map(|_| receive(&far).0);
            numbers.extend(new.collect::<Vec<u32>>());
        }
    }
    let counts = relay.counts();
    let different: BTreeSet<u32> = numbers.iter().copied().collect();
    assert!((300..500).contains(&counts.lost) && (220..420).contains(&counts.repeated), "{counts:?}");
    assert_eq!(different.len() as u64, counts.passed - counts.repeated);
    assert!(counts.overtaken > 100 && !numbers.is_sorted(), "{counts:?}");
}

#[test]
fn moves_and_forgets() {
    let (client, far, relay) = parts(Faults::default());
    send(&client, 1);
    let (_, first) = receive(&far);
    relay.move_now();
    wait_until(|| relay.counts().mappings == 2);
    send(&client, 2);
    let (_, second) = receive(&far);
    // Nobody is at the old address any more.
    far.send_to(&3u32.to_be_bytes(), first).unwrap();
    far.send_to(&4u32.to_be_bytes(), second).unwrap();
    assert_eq!(receive(&client).0, 4);

    relay.set(Faults { forgets: Some(Duration::from_millis(50)), ..Faults::default() });
    wait_until(|| relay.mappings().is_empty());
    far.send_to(&5u32.to_be_bytes(), second).unwrap();
    send(&client, 6);
    let (number, third) = receive(&far);
    far.send_to(&7u32.to_be_bytes(), third).unwrap();
    assert_eq!((number, receive(&client).0), (6, 7));
    assert_eq!(BTreeSet::from([first, second, third]).len(), 3);
}
