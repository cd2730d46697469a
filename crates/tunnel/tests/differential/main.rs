//! The same packets through tunnels whose devices and sockets carry one packet a call, and through those that carry
//! many, must come out alike: flow by flow the same bytes in the same order, and none lost. Needs no rights.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

use tunnel::{Cipher, Offload, Transport};

use crate::ends::{Ends, Setting};
use crate::traffic::{LISTENER, Traffic};

#[expect(dead_code, reason = "shared with the tests of segments, which use more of it")]
#[path = "../../../segments/tests/packets/device.rs"]
mod device;
mod ends;
#[expect(dead_code, reason = "as above")]
#[path = "../../../segments/tests/packets/model.rs"]
mod model;
mod traffic;

/// Every combination of devices at the listener and at both of its dialers.
async fn alike(transport: Transport, cipher: Cipher, sockets: Offload, seed: u64) {
    for (listener, dialers) in [(false, false), (true, true), (true, false), (false, true)] {
        let mut ends = Ends::connect(Setting { transport, cipher, sockets, listener, dialers }).await;
        let mut ways: Vec<Traffic> = [(2, LISTENER), (3, LISTENER), (LISTENER, 2), (LISTENER, 3)]
            .into_iter()
            .map(|(from, to)| Traffic::new(seed, from, to))
            .collect();
        for _ in 0..STEPS {
            for way in &mut ways {
                ends.carry(way.step());
            }
        }
        ends.finish().await;
    }
}

/// Frames each way.
const STEPS: usize = 120;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_udp() {
    for (seed, cipher) in Cipher::ALL.iter().enumerate() {
        alike(Transport::Udp, *cipher, Offload::Auto, seed as u64).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_udp_with_cbc() {
    alike(Transport::Udp, Cipher::Aes256Cbc, Offload::Auto, 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_udp_datagram_by_datagram() {
    alike(Transport::Udp, Cipher::Aes256Gcm, Offload::Off, 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tcp() {
    for (seed, cipher) in Cipher::ALL.iter().chain([&Cipher::Aes128Cbc]).enumerate() {
        alike(Transport::Tcp, *cipher, Offload::Auto, 30 + seed as u64).await;
    }
}
