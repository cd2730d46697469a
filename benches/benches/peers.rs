//! What a packet of one peer costs a server that has others: finding the peer by the number of a data packet, or by the
//! address of an inner one, with all that belongs to a packet.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on fails")]

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ovpn::batch::{Batch, Single};
use ovpn::client::{Client, ClientConfig};
use ovpn::data::{Cipher, DataSettings, OVERHEAD};
use ovpn::endpoint::{
    DEFAULT_MAX_PACKET_SIZE, Endpoint, Identity, Keepalive, Received, RenewalLimits, TlsInput, TlsKey, TlsOutput,
    TlsSession,
};
use ovpn::keys::{KeyBlock, KeyDerivation};
use ovpn::login::{Admission, Login};
use ovpn::protection::{ClientProtection, ServerProtection};
use ovpn::push::{Ipv4Prefix, PullRules, PushSet};
use ovpn::server::{BetweenPeers, Server, ServerConfig};
use ovpn::static_key::StaticKey;
use ovpn::underlay::Underlay;
use rand::SeedableRng;
use rand::rngs::StdRng;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 1);
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 8, 1, 0);
/// Packets of a turn.
const BATCH: usize = 1_000;
/// Bytes of an inner packet: little, so that the cipher does not hide the rest.
const PACKET: usize = 64;

/// A server, and its clients with the addresses that they have outside and inside.
struct Network {
    now: Instant,
    server: Server,
    clients: Vec<(Client, Underlay, Ipv4Addr)>,
}

impl Network {
    fn new(clients: u16) -> Self {
        let now = Instant::now();
        let config = ServerConfig {
            protection: ServerProtection::None,
            ciphers: Cipher::ALL.to_vec(),
            key_derivation: KeyDerivation::Ekm,
            tun_mtu: 1420,
            path_mtu: false,
            keepalive: keepalive(),
            renewal: renewal(),
            dynamic_tls_crypt: false,
            epochs: false,
            peer_ids: true,
            control_exit: true,
            data: DataSettings::default(),
            max_packet_size: DEFAULT_MAX_PACKET_SIZE,
            network: Some(Ipv4Prefix { address: SERVER, prefix_len: 16 }),
            network_ipv6: None,
            peers: Vec::new(),
            pool: Some(FIRST..=Ipv4Addr::new(10, 8, 9, 0)),
            pool_ipv6: None,
            push: PushSet::default(),
            between_peers: BetweenPeers::Drop,
            max_peers: clients.into(),
            max_handshakes: 8,
            admission: Admission { duplicate_names: true, ..Admission::default() },
        };
        let server = Server::new(config, now, 1_700_000_000, Box::new(StdRng::seed_from_u64(0)));
        let mut network = Self { now, server, clients: Vec::new() };
        for index in 0..clients {
            network.connect(index);
        }
        assert_eq!(network.server.peers().len(), usize::from(clients));
        network
    }

    fn connect(&mut self, index: u16) {
        let config = ClientConfig {
            protection: ClientProtection::None,
            ciphers: Cipher::ALL.to_vec(),
            tun_mtu: 1420,
            max_mtu: 1600,
            path_mtu: false,
            key_derivation: KeyDerivation::Ekm,
            keepalive: keepalive(),
            first_answer: Duration::from_secs(10),
            renewal: renewal(),
            dynamic_tls_crypt: false,
            epochs: false,
            peer_ids: true,
            control_exit: true,
            data: DataSettings::default(),
            max_packet_size: DEFAULT_MAX_PACKET_SIZE,
            login: Login::default(),
            pull: PullRules::default(),
        };
        let there = Underlay::udp(([192, 0, 2, 1], 1194).into());
        let here = Underlay::udp(([198, 51, 100, 1], 10_000 + index).into());
        let rng = Box::new(StdRng::seed_from_u64(1 + u64::from(index)));
        let mut client = Client::new(config, there, self.now, 1_700_000_000, rng);
        let mut pipes = (Pipe { is_client: true, input: Vec::new() }, Pipe { is_client: false, input: Vec::new() });
        // What waits for a time, such as a request for the push, gets it.
        for _ in 0..100 {
            while pipes.0.pump(&mut client, self.now) | pipes.1.pump(&mut self.server, self.now)
                || pass(&mut client, &mut self.server, self.now, here)
                || pass(&mut self.server, &mut client, self.now, there)
            {}
            if client.is_connected() {
                break;
            }
            self.now += Duration::from_millis(100);
            client.handle_timeout(self.now);
        }
        let peers = self.server.peers();
        let peer = peers.iter().find(|peer| peer.connected.remote == here).unwrap();
        self.clients.push((client, here, peer.connected.address.unwrap()));
    }

    /// A turn of datagrams to the server, of so many clients one after the other.
    fn sealed(&mut self, active: usize) -> Vec<(Underlay, Vec<u8>)> {
        let seal = |at: usize| {
            let (client, here, address) = &mut self.clients[at % active];
            let mut out = Batch::new(PACKET + OVERHEAD, 1);
            client.seal(self.now, &mut Single::new(&mut packet(*address, SERVER)), &mut out).unwrap();
            (*here, out.group(1, PACKET + OVERHEAD).unwrap().bytes.to_vec())
        };
        (0..BATCH).map(seal).collect()
    }
}

/// Stands for TLS: a byte for the kind of a record, two for its length.
struct Pipe {
    is_client: bool,
    input: Vec<u8>,
}

impl Pipe {
    /// Does what the end wants of TLS; whether there was anything.
    fn pump(&mut self, end: &mut impl Endpoint, now: Instant) -> bool {
        let Some((key, input)) = end.poll_tls() else { return false };
        match input {
            TlsInput::Start if self.is_client => say(end, now, key, b'h', &[]),
            TlsInput::Start | TlsInput::Close => {}
            TlsInput::Message(message) => say(end, now, key, b'm', &message),
            TlsInput::Ciphertext(bytes) => self.input.extend(bytes),
        }
        while let Some(&[kind, high, low]) = self.input.first_chunk() {
            let end_of_record = 3 + usize::from(u16::from_be_bytes([high, low]));
            if self.input.len() < end_of_record {
                break;
            }
            let payload: Vec<u8> = self.input.drain(..end_of_record).skip(3).collect();
            if kind == b'm' {
                end.handle_tls(now, key, TlsOutput::Message(payload));
                continue;
            }
            if !self.is_client {
                say(end, now, key, b'h', &[]);
            }
            let session = TlsSession {
                exporter: KeyBlock::from_exporter([7; 256]),
                dynamic_tls_crypt: StaticKey::from_bytes([8; 256]),
                identity: Identity { common_name: "peer".to_owned(), san_uris: Vec::new() },
                version: "pipe".to_owned(),
            };
            end.handle_tls(now, key, TlsOutput::Established(Box::new(session)));
        }
        true
    }
}

fn say(end: &mut impl Endpoint, now: Instant, key: TlsKey, kind: u8, payload: &[u8]) {
    let length = (payload.len() as u16).to_be_bytes();
    end.handle_tls(now, key, TlsOutput::Ciphertext([&[kind][..], &length, payload].concat()));
}

/// Brings a datagram to the other end; whether there was one.
fn pass(from: &mut impl Endpoint, to: &mut impl Endpoint, now: Instant, source: Underlay) -> bool {
    let mut datagram = Vec::new();
    let is_sent = from.poll_transmit(now, &mut datagram).is_some();
    if is_sent {
        to.handle_datagram(now, source, &mut datagram).unwrap();
    }
    while from.poll_event().is_some() || to.poll_event().is_some() {}
    is_sent
}

fn keepalive() -> Keepalive {
    Keepalive { ping: Duration::ZERO, ping_restart: Duration::ZERO }
}

fn renewal() -> RenewalLimits {
    RenewalLimits { after: Duration::ZERO, ..RenewalLimits::default() }
}

/// An IPv4 packet.
fn packet(source: Ipv4Addr, destination: Ipv4Addr) -> [u8; PACKET] {
    let mut packet = [0x5a; PACKET];
    packet[..4].copy_from_slice(&[0x45, 0, 0, PACKET as u8]);
    packet[12..16].copy_from_slice(&source.octets());
    packet[16..20].copy_from_slice(&destination.octets());
    packet
}

fn peers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("server");
    group.throughput(Throughput::Elements(BATCH as u64));
    // Alone, beside others that are idle, and in turn with them: then nothing of a peer is in the processor's caches.
    for (count, active) in [(1, 1), (1_000, 1), (1_000, 1_000)] {
        let mut network = Network::new(count);
        let of = format!("{active} of {count} peers");
        let now = network.now;
        let packets: Vec<_> = network.clients.iter().map(|(_, _, address)| packet(SERVER, *address)).collect();
        group.bench_function(BenchmarkId::new("seal", &of), |bencher| {
            let server = &mut network.server;
            let mut out = Batch::new(BATCH * (PACKET + 2 * OVERHEAD), BATCH);
            bencher.iter_batched_ref(
                || packets[..active].iter().cycle().take(BATCH).copied().collect::<Vec<_>>(),
                |packets| {
                    for packet in packets {
                        server.seal(now, &mut Single::new(packet), &mut out).unwrap();
                    }
                    black_box(out.clear())
                },
                BatchSize::LargeInput,
            );
        });
        group.bench_function(BenchmarkId::new("open", &of), |bencher| {
            let network = std::cell::RefCell::new(&mut network);
            bencher.iter_batched_ref(
                || network.borrow_mut().sealed(active),
                |datagrams| {
                    let server = &mut network.borrow_mut().server;
                    for (from, datagram) in datagrams {
                        let received = server.handle_datagram(now, *from, datagram).unwrap();
                        assert!(matches!(black_box(received), Received::Packet(_)));
                    }
                },
                // Packets are opened in the order in which they were sealed.
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, peers);
criterion_main!(benches);
