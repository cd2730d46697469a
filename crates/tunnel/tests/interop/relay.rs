//! Peers over a bad network: a relay stands on the client's side of the wire.

use std::time::{Duration, Instant};

use ::relay::{Faults, Relay};

use crate::support::{Lab, SERVER, Side, cannot_run};

/// Where the relay of [`start`] takes what clients send.
pub(crate) const RELAY: &str = "127.0.0.1:1195";
const POOL: &str = "pool=10.8.0.10-10.8.0.60";
/// How many connect, side by side.
const COUNT: usize = 20;
const LIMIT: Duration = Duration::from_secs(60);
const MEDIAN: Duration = Duration::from_secs(10);

/// Datagrams come twice and in another order.
const REPEATED_AND_REORDERED: Faults =
    Faults { repeat: 0.2, delay: (Duration::ZERO, Duration::from_millis(40)), loss: 0.0, ..Faults::LOSS };

/// A relay in the client's namespace, from [`RELAY`] to the server.
pub(crate) fn start(lab: &Lab, seed: u64, faults: Faults) -> Relay {
    let to = format!("{SERVER}:1194").parse().unwrap();
    Relay::start(Some(lab.namespace(Side::Client)), RELAY.parse().unwrap(), to, seed, faults).unwrap()
}

/// Waits until `text` stands in all logs, and checks when it came there.
#[track_caller]
fn all_connect_in_time(lab: &Lab, logs: &[String], text: &str, since: Instant) {
    let mut times: Vec<Option<Duration>> = vec![None; logs.len()];
    while times.contains(&None) {
        let time = since.elapsed();
        for (log, place) in logs.iter().zip(&mut times).filter(|(_, place)| place.is_none()) {
            *place = lab.log(log).contains(text).then_some(time);
        }
        if time > LIMIT {
            let late = logs.iter().zip(&times).find(|(_, time)| time.is_none()).map(|(log, _)| lab.log(log));
            panic!("after {LIMIT:?}: {times:?}\n{}", late.unwrap_or_default());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    times.sort();
    println!("connected after {times:?}");
    assert!(times[times.len() / 2] < Some(MEDIAN), "{times:?}");
}

/// Twenty of our dialers and a stock server.
fn ours_connect(seed: u64, faults: Faults) {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    let key = lab.path("ta.key");
    lab.spawn_stock(Side::Server, "stock", "server", &["--tls-crypt", &key, "--duplicate-cn"]);
    lab.wait_for("stock", "Initialization Sequence Completed");
    let relay = start(&lab, seed, faults);
    let logs: Vec<String> = (0..COUNT).map(|at| format!("ours{at}")).collect();
    let since = Instant::now();
    for (at, log) in logs.iter().enumerate() {
        let words = [&format!("remote={RELAY}"), &format!("tun=tun{at}"), &format!("tls_crypt={key}")];
        lab.spawn_ours(Side::Client, log, "client", &words.map(String::as_str));
    }
    all_connect_in_time(&lab, &logs, "PeerConnected(", since);
    println!("{:?}", relay.counts());
    relay.set(Faults::default());
    lab.wait_for_count("stock", "PUSH_REPLY", COUNT);
    check(&relay, faults);
}

/// Twenty stock clients and our listener.
fn stock_connect(seed: u64, faults: Faults) {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    let key = lab.path("ta.key");
    let names: Vec<String> = (0..COUNT).map(|at| format!("client{at}")).collect();
    lab.issue_clients(&names);
    let words = [POOL, "peers=32", &format!("tls_crypt={key}")];
    lab.spawn_ours(Side::Server, "ours", "server", &words);
    lab.wait_for("ours", "Listening");
    let relay = start(&lab, seed, faults);
    let since = Instant::now();
    // A stock client repeats its reset after 2, 4, 8 and 16 s: of twenty, one in ten times one loses all five of them in
    // its 60 s and begins anew only then. With less time for a handshake it begins anew earlier.
    let words = ["--remote", "127.0.0.1", "1195", "--tls-crypt", &key, "--hand-window", "20"];
    for name in &names {
        lab.spawn_stock(Side::Client, name, name, &words);
    }
    all_connect_in_time(&lab, &names, "Initialization Sequence Completed", since);
    relay.set(Faults::default());
    lab.wait_for_count("ours", "PeerConnected(", COUNT);
    check(&relay, faults);
}

/// That the network was as bad as it was to be.
fn check(relay: &Relay, faults: Faults) {
    let counts = relay.counts();
    println!("{counts:?}");
    assert_eq!(counts.lost > 0, faults.loss > 0.0);
    assert_eq!(counts.repeated > 0, faults.repeat > 0.0);
    assert_eq!(counts.overtaken > 0, faults.delay.0 != faults.delay.1);
}

#[test]
fn our_dialers_connect_through_loss() {
    ours_connect(12, Faults::LOSS);
}

#[test]
fn our_dialers_connect_through_repetition_and_reordering() {
    ours_connect(13, REPEATED_AND_REORDERED);
}

#[test]
fn stock_clients_connect_through_loss() {
    stock_connect(31, Faults::LOSS);
}

#[test]
fn stock_clients_connect_through_loss_repetition_and_reordering() {
    stock_connect(32, Faults { loss: 0.2, ..REPEATED_AND_REORDERED });
}
