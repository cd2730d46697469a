//! What strangers send to a real process: it costs neither memory nor a line of its log. And a server that never answers.

use std::collections::BTreeMap;
use std::fs;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use ovpn::packet::{ControlBody, Header, Opcode, SessionId};
use ovpn::tls_crypt_v2::{ClientKey, Metadata, ServerKey};
use ovpn::wrap::{Role, WrapKeys};
use tunnel::StaticKey;

use crate::support::{Lab, SERVER, Side, cannot_run, make_v2_server_key};

/// Growth of memory that is none: the allocator's own.
const FLAT: u64 = 1024 * 1024;

/// The reset of a client that calls itself `number`.
fn reset(keys: &WrapKeys, opcode: Opcode, number: u32, behind: &[u8]) -> Vec<u8> {
    let mut id = [7; 8];
    id[..4].copy_from_slice(&number.to_be_bytes());
    let (mut clear, mut out) = (Vec::new(), Vec::new());
    ControlBody { acks: Default::default(), ack_session: None, message_id: Some(0), payload: &[] }.encode(&mut clear);
    let replay = if opcode == Opcode::HardResetClientV3 { 0x0f00_0001 } else { 1 };
    keys.seal(Header { opcode, key_id: 0 }, SessionId(id), (1_700_000_000, replay), &clear, &mut out).unwrap();
    out.extend_from_slice(behind);
    out
}

fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// A socket on `side` whose reads end after a second.
fn socket(lab: &Lab, side: Side, address: &str) -> UdpSocket {
    let socket = ::relay::in_namespace(lab.namespace(side), || UdpSocket::bind(address)).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    socket
}

/// Sends `packet` until it is answered, which shows that everything that was sent before was looked at.
fn answered(socket: &UdpSocket, packet: &[u8]) -> Vec<u8> {
    let mut answer = [0; 2048];
    for _ in 0..30 {
        socket.send(packet).unwrap();
        if let Ok(length) = socket.recv(&mut answer) {
            return answer[..length].to_vec();
        }
    }
    panic!("no answer");
}

#[test]
fn strangers_cost_no_memory_and_no_line() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    let (key, v2) = (lab.path("ta.key"), lab.path("v2.key"));
    make_v2_server_key(&v2);
    let words = [&format!("tls_crypt={key}"), &format!("tls_crypt_v2_server={v2}")];
    lab.spawn_ours(Side::Server, "ours", "server", &words.map(String::as_str));
    lab.wait_for("ours", "Listening");
    let log = lab.log("ours");
    let shared = StaticKey::parse(&fs::read_to_string(&key).unwrap()).unwrap();
    let keys = WrapKeys::new(Role::Client, Some(&shared));
    let address = format!("{SERVER}:1194");
    let asking = socket(&lab, Side::Client, "0.0.0.0:0");
    asking.connect(&address).unwrap();
    let good = reset(&keys, Opcode::HardResetClient, 0, &[]);
    // The same reset, the same session id.
    assert_eq!(answered(&asking, &good)[1..9], answered(&asking, &good)[1..9]);

    // Ten thousand different ones, of which as many are answered as are answered in a period.
    let sender = socket(&lab, Side::Client, "0.0.0.0:0");
    sender.connect(&address).unwrap();
    let send = |packet: &[u8]| drop(sender.send(packet));
    let storm = |from: u32| {
        for number in from..from + 10_000 {
            send(&reset(&keys, Opcode::HardResetClient, number, &[]));
            if number % 100 == 0 {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    };
    storm(1);
    let before = resident(lab.pid("ours"));
    storm(20_000);
    let after = resident(lab.pid("ours"));
    assert!(after <= before + FLAT, "{before} bytes before, {after} after");
    let mut replies = 0;
    sender.set_nonblocking(true).unwrap();
    while sender.recv(&mut [0; 2048]).is_ok() {
        replies += 1;
    }
    assert!((1..=300).contains(&replies), "{replies}");

    // What cannot be read is not answered in a new period either.
    let wrong = WrapKeys::new(Role::Client, Some(&StaticKey::from_bytes([9; 256])));
    let mut unreadable = vec![reset(&wrong, Opcode::HardResetClient, 1, &[])];
    unreadable.extend((0..good.len()).map(|length| good[..length].to_vec()));
    let issue =
        |server: &ServerKey| -> ClientKey { server.issue(StaticKey::from_bytes([5; 256]), &Metadata::Other).unwrap() };
    let server = ServerKey::parse(&fs::read_to_string(&v2).unwrap()).unwrap();
    for client in [issue(&server), issue(&ServerKey::from_bytes([1; 128]))] {
        let own = WrapKeys::new(Role::Client, Some(client.key()));
        for length in [0u16, 1, 2, 289, 291, 1024, 1025, 0xffff] {
            let mut wrapped = client.wrapped().to_vec();
            let at = wrapped.len() - 2;
            wrapped[at..].copy_from_slice(&length.to_be_bytes());
            unreadable.push(reset(&own, Opcode::HardResetClientV3, 1, &wrapped));
            unreadable.push([&[0x50; 30][..], &length.to_be_bytes()].concat());
            unreadable.push([&[0x58; 60][..], &length.to_be_bytes()].concat());
        }
    }
    let foreign = issue(&ServerKey::from_bytes([1; 128]));
    let own = WrapKeys::new(Role::Client, Some(foreign.key()));
    unreadable.push(reset(&own, Opcode::HardResetClientV3, 1, foreign.wrapped()));
    let silent = socket(&lab, Side::Client, "0.0.0.0:0");
    silent.connect(&address).unwrap();
    answered(&asking, &good);
    for packet in &unreadable {
        silent.send(packet).unwrap();
    }
    answered(&asking, &good);
    silent.set_nonblocking(true).unwrap();
    assert!(silent.recv(&mut [0; 2048]).is_err(), "something was answered");
    assert_eq!(lab.log("ours"), log);
    let end = lab.finish("ours");
    assert!(end.contains("handshakes_completed=0 handshakes_failed=0"), "{end}");
    assert!(end.contains("dropped wrap=") && end.contains("dropped initial_rate="), "{end}");
}

#[test]
fn our_dialer_repeats_itself_to_a_silent_server() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    let key = lab.path("ta.key");
    let silent = socket(&lab, Side::Server, &format!("{SERVER}:1194"));
    // The first packet must not wait until the hosts have found each other.
    lab.ping(Side::Client, SERVER, 56);
    lab.spawn_ours(Side::Client, "ours", "client", &[&format!("tls_crypt={key}")]);
    /// When a reset came, and its replay id.
    type Reset = (Duration, u32);
    // By session id, in the order of their times.
    let mut sessions: BTreeMap<(Duration, [u8; 8]), Vec<Reset>> = BTreeMap::new();
    let (start, mut buf) = (Instant::now(), [0; 2048]);
    while start.elapsed() < Duration::from_secs(70) {
        let Ok(length) = silent.recv(&mut buf) else { continue };
        let now = start.elapsed();
        assert_eq!((length, buf[0]), (54, 0x38));
        let id: [u8; 8] = buf[1..9].try_into().unwrap();
        let replay = u32::from_be_bytes(buf[9..13].try_into().unwrap());
        match sessions.iter_mut().find(|((_, known), _)| *known == id) {
            Some((_, resets)) => resets.push((now, replay)),
            None => drop(sessions.insert((now, id), vec![(now, replay)])),
        }
    }
    println!("{sessions:?}");
    assert!(sessions.len() >= 3, "{sessions:?}");
    // The last one may not be complete.
    for resets in sessions.values().take(sessions.len() - 1) {
        let replays: Vec<u32> = resets.iter().map(|&(_, replay)| replay).collect();
        assert_eq!(replays, [1, 2, 3, 4], "{sessions:?}");
        let waits: Vec<f64> = resets.windows(2).map(|pair| (pair[1].0 - pair[0].0).as_secs_f64()).collect();
        for (wait, least) in waits.iter().zip([1.0, 2.0, 4.0]) {
            assert!((least - 0.2..least + 0.8).contains(wait), "{waits:?}");
        }
    }
    assert!(lab.log("ours").contains("NoAnswer"));
}
