//! The simulated network.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ovpn::batch::{Batch, Single};
use ovpn::client::{Client, ClientConfig};
use ovpn::data::{Cipher, DataSettings};
use ovpn::endpoint::{
    Counters, DEFAULT_MAX_PACKET_SIZE, EndReason, Endpoint, Event, Identity, Keepalive, Received, RenewalLimits,
    SessionKey, TlsInput, TlsKey, TlsOutput, TlsSession,
};
use ovpn::keys::{KeyBlock, KeyDerivation};
use ovpn::login::{Admission, Login};
use ovpn::protection::{ClientProtection, ServerProtection, SharedKey};
use ovpn::push::{Ipv4Prefix, PullRules, PushSet};
use ovpn::server::{BetweenPeers, Server, ServerConfig, StaticPeer};
use ovpn::static_key::StaticKey;
use ovpn::underlay::{Transport, Underlay};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// The server's address inside of the tunnel.
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 1);

pub(crate) fn client_config() -> ClientConfig {
    ClientConfig {
        protection: ClientProtection::Shared(shared_key()),
        ciphers: Cipher::ALL.to_vec(),
        tun_mtu: 1500,
        max_mtu: 1600,
        path_mtu: false,
        key_derivation: KeyDerivation::Ekm,
        keepalive: Keepalive { ping: Duration::ZERO, ping_restart: Duration::from_secs(120) },
        first_answer: Duration::from_secs(10),
        renewal: no_renewal(),
        dynamic_tls_crypt: true,
        epochs: true,
        peer_ids: true,
        control_exit: true,
        login: Login::default(),
        data: DataSettings::default(),
        max_packet_size: DEFAULT_MAX_PACKET_SIZE,
        pull: PullRules::default(),
    }
}

pub(crate) fn server_config() -> ServerConfig {
    ServerConfig {
        protection: ServerProtection::Shared(shared_key()),
        ciphers: Cipher::ALL.to_vec(),
        key_derivation: KeyDerivation::Ekm,
        tun_mtu: 1420,
        path_mtu: false,
        keepalive: Keepalive { ping: Duration::from_secs(5), ping_restart: Duration::from_secs(20) },
        renewal: no_renewal(),
        dynamic_tls_crypt: true,
        epochs: true,
        peer_ids: true,
        data: DataSettings::default(),
        max_packet_size: DEFAULT_MAX_PACKET_SIZE,
        network: Some(Ipv4Prefix { address: SERVER, prefix_len: 24 }),
        network_ipv6: None,
        peers: Vec::new(),
        pool: Some(Ipv4Addr::new(10, 8, 0, 10)..=Ipv4Addr::new(10, 8, 0, 200)),
        pool_ipv6: None,
        push: PushSet::default(),
        between_peers: BetweenPeers::Drop,
        max_peers: 16,
        max_handshakes: 64,
        admission: Admission::default(),
        control_exit: true,
    }
}

/// tls-crypt.
pub(crate) fn shared_key() -> SharedKey {
    SharedKey::TlsCrypt(StaticKey::from_bytes(std::array::from_fn(|at| at as u8)))
}

/// Limits that nobody reaches.
fn no_renewal() -> RenewalLimits {
    RenewalLimits { after: Duration::ZERO, ..RenewalLimits::default() }
}

pub(crate) fn listed(name: &str, address: &str) -> StaticPeer {
    StaticPeer { name: name.to_owned(), address: Some(address.parse().unwrap()), ..StaticPeer::default() }
}

pub(crate) fn identity(name: &str) -> Identity {
    Identity { common_name: name.to_owned(), san_uris: vec![format!("urn:test:{name}")] }
}

/// An IPv4 packet of `size` bytes.
pub(crate) fn packet(source: Ipv4Addr, destination: Ipv4Addr, size: u16) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..size).map(|at| at as u8).collect();
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&size.to_be_bytes());
    packet[12..16].copy_from_slice(&source.octets());
    packet[16..20].copy_from_slice(&destination.octets());
    packet
}

/// What the network does to datagrams.
#[derive(Clone, Copy, Default)]
pub(crate) struct Fault {
    pub(crate) loss: f64,
    pub(crate) repeat: f64,
    pub(crate) delay: Duration,
    /// Loses every control packet with a key id other than 0.
    pub(crate) no_renewal: bool,
}

/// Whether a packet that starts with this byte is none of the data channel.
pub(crate) fn is_control(first: u8) -> bool {
    !matches!(first >> 3, 6 | 9)
}

/// Stands for TLS: flights of realistic size, then records. Whoever is called "bad" is refused, "mute" never
/// finishes, and who has no name shows no certificate.
struct Pipe {
    name: String,
    is_client: bool,
    input: Vec<u8>,
    /// What both ends export; the client's choice.
    secret: u8,
}

impl Pipe {
    fn record(kind: u8, payload: &[u8]) -> TlsOutput {
        let mut record = vec![kind];
        record.extend_from_slice(&(payload.len() as u16).to_be_bytes());
        record.extend_from_slice(payload);
        TlsOutput::Ciphertext(record)
    }

    fn established(&self, peer: &str) -> TlsOutput {
        let exporter = KeyBlock::from_exporter(std::array::from_fn(|at| (at * 7) as u8 ^ self.secret));
        let session = TlsSession {
            exporter,
            dynamic_tls_crypt: StaticKey::from_bytes([self.secret; 256]),
            identity: if peer.is_empty() { Identity::default() } else { identity(peer) },
            version: "pipe".to_owned(),
        };
        TlsOutput::Established(Box::new(session))
    }

    fn handle(&mut self, input: TlsInput) -> Vec<TlsOutput> {
        match input {
            TlsInput::Start if self.is_client => vec![Self::record(b'h', &[self.secret; 500])],
            TlsInput::Start | TlsInput::Close => Vec::new(),
            TlsInput::Message(message) => vec![Self::record(b'm', &message)],
            TlsInput::Ciphertext(bytes) => {
                self.input.extend_from_slice(&bytes);
                let mut output = Vec::new();
                while let Some(header) = self.input.first_chunk::<3>() {
                    let (kind, length) = (header[0], usize::from(u16::from_be_bytes([header[1], header[2]])));
                    if self.input.len() < 3 + length {
                        break;
                    }
                    let payload = self.input[3..3 + length].to_vec();
                    self.input.drain(..3 + length);
                    output.extend(self.handle_record(kind, payload));
                }
                output
            }
        }
    }

    fn handle_record(&mut self, kind: u8, payload: Vec<u8>) -> Vec<TlsOutput> {
        match kind {
            b'h' => {
                self.secret = payload[0];
                vec![Self::record(b'f', &[0; 5000])]
            }
            b'f' if self.name == "mute" => Vec::new(),
            b'f' => {
                let mut finished = vec![0; 1500];
                finished.extend_from_slice(self.name.as_bytes());
                vec![Self::record(b'c', &finished), self.established("server")]
            }
            b'c' => match std::str::from_utf8(&payload[1500..]).unwrap() {
                "bad" => vec![Self::record(b'a', &[]), TlsOutput::Failed("refused".to_owned())],
                name => vec![self.established(name)],
            },
            b'a' => vec![TlsOutput::Failed("refused".to_owned())],
            // What noise makes of a record is an error.
            b'm' => vec![TlsOutput::Message(payload)],
            _ => vec![TlsOutput::Failed("noise".to_owned())],
        }
    }
}

/// Hands work to a pipe, which is there from its start to its end.
fn pass(
    pipes: &mut HashMap<TlsKey, Pipe>,
    key: TlsKey,
    name: &str,
    is_client: bool,
    input: TlsInput,
) -> Vec<TlsOutput> {
    match input {
        TlsInput::Start => {
            let secret = key.generation as u8 + 1;
            assert!(pipes.insert(key, Pipe { name: name.to_owned(), is_client, input: Vec::new(), secret }).is_none());
        }
        TlsInput::Close => assert!(pipes.remove(&key).is_some() || key.generation > 0, "{key:?} was never started"),
        TlsInput::Ciphertext(_) | TlsInput::Message(_) => {}
    }
    pipes.get_mut(&key).map(|pipe| pipe.handle(input)).unwrap_or_default()
}

/// Puts other messages in the place of one that goes into TLS.
pub(crate) type Edit = Box<dyn FnMut(Vec<u8>) -> Vec<Vec<u8>>>;

fn edited(edit: &mut Option<Edit>, input: TlsInput) -> Vec<TlsInput> {
    match (input, edit) {
        (TlsInput::Message(message), Some(edit)) => edit(message).into_iter().map(TlsInput::Message).collect(),
        (input, _) => vec![input],
    }
}

struct Host {
    client: Client,
    name: String,
    pipes: HashMap<TlsKey, Pipe>,
    address: Underlay,
    /// Where the client thinks that the server is.
    server: Underlay,
    /// What TLS is busy with, and until when.
    busy: VecDeque<(Instant, TlsKey, TlsInput)>,
}

/// One server, clients, and what is on its way between them.
pub(crate) struct Network {
    now: Instant,
    rng: StdRng,
    pub(crate) fault: Fault,
    /// Longest IP packets, bytes, that the hosts' links take and that get through, of those that must not be fragmented.
    pub(crate) mtu: (usize, usize),
    pub(crate) server: Server,
    server_address: Underlay,
    server_pipes: HashMap<TlsKey, Pipe>,
    clients: Vec<Option<Host>>,
    pub(crate) events: Vec<Vec<Event>>,
    pub(crate) server_events: Vec<Event>,
    /// By time of arrival: destination, source, datagram.
    on_the_way: BTreeMap<(Instant, u64), (Underlay, Underlay, Vec<u8>)>,
    /// What the server has sealed of packets from one client for another.
    forwarded: Vec<(Underlay, Vec<u8>)>,
    sent: u64,
    /// Every datagram that was sent.
    pub(crate) recorded: Vec<Vec<u8>>,
    /// Between the server and its TLS.
    pub(crate) edit_server: Option<Edit>,
    /// Between all clients and their TLS.
    pub(crate) edit_client: Option<Edit>,
    /// How long the clients' TLS takes for each thing.
    pub(crate) client_tls_takes: Duration,
    /// What the server said inside of TLS to each of its sessions, but for key exchanges.
    said: HashMap<SessionKey, Vec<String>>,
}

impl Network {
    pub(crate) fn new(seed: u64, config: ServerConfig) -> Self {
        let now = Instant::now();
        let mut rng = StdRng::seed_from_u64(seed);
        let server_rng = Box::new(StdRng::seed_from_u64(rng.random()));
        Self {
            now,
            server: Server::new(config, now, 1_700_000_000, server_rng),
            rng,
            fault: Fault::default(),
            mtu: (1500, 1500),
            server_address: Underlay::udp("192.0.2.1:1194".parse().unwrap()),
            server_pipes: HashMap::new(),
            clients: Vec::new(),
            events: Vec::new(),
            server_events: Vec::new(),
            on_the_way: BTreeMap::new(),
            forwarded: Vec::new(),
            sent: 0,
            recorded: Vec::new(),
            edit_server: None,
            edit_client: None,
            client_tls_takes: Duration::ZERO,
            said: HashMap::new(),
        }
    }

    pub(crate) fn add_client(&mut self, name: &str, config: ClientConfig) -> usize {
        let at = self.clients.len();
        let rng = Box::new(StdRng::seed_from_u64(self.rng.random()));
        let client = Client::new(config, self.server_address, self.now, 1_700_000_000, rng);
        let address = Underlay::udp(([198, 51, 100, 1], 40_000 + at as u16).into());
        let server = self.server_address;
        let (name, pipes, busy) = (name.to_owned(), HashMap::new(), VecDeque::new());
        self.clients.push(Some(Host { client, name, pipes, address, server, busy }));
        self.events.push(Vec::new());
        at
    }

    /// Puts one client behind the address of another. What the server sends there reaches both.
    pub(crate) fn share_address(&mut self, at: usize, other: usize) {
        let address = self.clients[other].as_ref().unwrap().address;
        self.clients[at].as_mut().unwrap().address = address;
    }

    /// Puts a client and the server at the two ends of a connection.
    pub(crate) fn add_client_over_tcp(&mut self, name: &str, config: ClientConfig) -> usize {
        let tcp = Underlay::tcp(self.server_address.address);
        let udp = std::mem::replace(&mut self.server_address, tcp);
        let at = self.add_client(name, config);
        let server = std::mem::replace(&mut self.server_address, udp);
        let host = self.clients[at].as_mut().unwrap();
        host.address = Underlay::tcp(host.address.address);
        host.server = server;
        at
    }

    /// Ends the connection of a client, as both ends notice.
    pub(crate) fn close(&mut self, at: usize) {
        let host = self.clients[at].as_mut().unwrap();
        host.client.handle_closed(self.now, host.server);
        self.server.handle_closed(self.now, host.address);
    }

    pub(crate) fn client_place(&self, at: usize) -> Underlay {
        self.clients[at].as_ref().unwrap().address
    }

    pub(crate) fn forget_clients(&mut self) {
        self.clients.iter_mut().for_each(|client| *client = None);
    }

    /// A client dies without a word.
    pub(crate) fn forget_client(&mut self, at: usize) {
        self.clients[at] = None;
    }

    /// The inner packets that a client gets from what the server sends now.
    pub(crate) fn received_by(&mut self, at: usize) -> Vec<Vec<u8>> {
        let place = self.client_place(at);
        let mut out = Vec::new();
        let mut received = Vec::new();
        for (to, datagram) in std::mem::take(&mut self.forwarded) {
            if to == place {
                received.extend(self.deliver_to_client(at, &datagram));
            }
        }
        while let Some(to) = self.server.poll_transmit(self.now, &mut out) {
            if to == place {
                received.extend(self.deliver_to_client(at, &out));
            }
        }
        received
    }

    fn client(&self, at: usize) -> &Client {
        &self.clients[at].as_ref().unwrap().client
    }

    pub(crate) fn has_ended(&self, at: usize) -> bool {
        self.client(at).has_ended()
    }

    pub(crate) fn is_connected(&self, at: usize) -> bool {
        self.client(at).is_connected()
    }

    pub(crate) fn client_is_flushed(&self, at: usize) -> bool {
        self.client(at).is_flushed()
    }

    /// The inner address that the client was told.
    pub(crate) fn address(&self, at: usize) -> Option<Ipv4Addr> {
        self.events[at].iter().rev().find_map(|event| match event {
            Event::Configured(configured) => configured.address(),
            _ => None,
        })
    }

    /// Why the client's session ended.
    pub(crate) fn last_reason(&self, at: usize) -> Option<EndReason> {
        self.events[at].iter().rev().find_map(|event| match event {
            Event::Disconnected { reason, .. } | Event::HandshakeFailed { reason, .. } => Some(reason.clone()),
            _ => None,
        })
    }

    /// From now on the client sends from, and is at, another address.
    pub(crate) fn move_client(&mut self, at: usize, address: &str) {
        self.clients[at].as_mut().unwrap().address = Underlay::udp(address.parse().unwrap());
    }

    /// From now on the client shows another certificate.
    pub(crate) fn rename(&mut self, at: usize, name: &str) {
        self.clients[at].as_mut().unwrap().name = name.to_owned();
    }

    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    /// What a client starts its next session with.
    pub(crate) fn login(&self, at: usize) -> Login {
        self.client(at).login().clone()
    }

    /// Has a client hear a command over its first TLS connection, whatever the server thinks of it.
    pub(crate) fn say_to_client(&mut self, at: usize, command: &str) {
        let (key, now) = (TlsKey { session: 0, generation: 0 }, self.now);
        let host = self.clients[at].as_mut().unwrap();
        host.client.handle_tls(now, key, TlsOutput::Message(command.as_bytes().to_vec()));
        self.settle();
    }

    /// What the server said to the session with this number, the first being 0, but for key exchanges.
    pub(crate) fn server_said(&self, session: usize) -> &[String] {
        self.said.get(&(session as u64)).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn client_counters(&self, at: usize) -> Counters {
        self.client(at).counters()
    }

    pub(crate) fn client_shuts_down(&mut self, at: usize) {
        let now = self.now;
        self.clients[at].as_mut().unwrap().client.shut_down(now);
    }

    pub(crate) fn server_shuts_down(&mut self) {
        self.server.shut_down(self.now);
    }

    /// Lets `time` pass.
    pub(crate) fn run(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// Lets time pass until `done`, at most `time`.
    pub(crate) fn run_until(&mut self, time: Duration, done: impl Fn(&Self) -> bool) {
        let end = self.now + time;
        loop {
            self.settle();
            if done(self) {
                return;
            }
            let timeouts = self.clients.iter().flatten().map(|host| &host.client as &dyn Endpoint);
            let timeouts = timeouts.chain([&self.server as &dyn Endpoint]);
            let busy = self.clients.iter().flatten().filter_map(|host| host.busy.front()).map(|(until, ..)| *until);
            let next = timeouts.filter_map(Endpoint::poll_timeout).chain(busy).min();
            let arrival = self.on_the_way.first_key_value().map(|((at, _), _)| *at);
            // Real drivers are late by a little as well; it also keeps a timeout in the past from stopping the clock.
            let next = [next, arrival].into_iter().flatten().min().unwrap_or(end);
            self.now = next.max(self.now + Duration::from_micros(10));
            if self.now >= end {
                self.now = end;
                return;
            }
            while let Some(entry) = self.on_the_way.first_entry().filter(|entry| entry.key().0 <= self.now) {
                let (to, from, datagram) = entry.remove();
                self.arrive(to, from, datagram);
            }
            self.server.handle_timeout(self.now);
            for host in self.clients.iter_mut().flatten() {
                host.client.handle_timeout(self.now);
            }
        }
    }

    fn arrive(&mut self, to: Underlay, from: Underlay, datagram: Vec<u8>) {
        if to.address == self.server_address.address {
            let _ = self.server.handle_datagram(self.now, from, &mut datagram.clone());
            return;
        }
        for host in self.clients.iter_mut().flatten().filter(|host| host.address == to) {
            let _ = host.client.handle_datagram(self.now, from, &mut datagram.clone());
        }
    }

    /// Drains the polls of all endpoints.
    fn settle(&mut self) {
        let now = self.now;
        let mut out = Vec::new();
        let mut sent = Vec::new();
        while let Some((key, input)) = self.server.poll_tls() {
            if let TlsInput::Message(message) = &input
                && !message.starts_with(&[0, 0, 0, 0, 2])
            {
                self.said.entry(key.session).or_default().push(String::from_utf8_lossy(message).into_owned());
            }
            for input in edited(&mut self.edit_server, input) {
                for output in pass(&mut self.server_pipes, key, "server", false, input) {
                    self.server.handle_tls(now, key, output);
                }
            }
        }
        while let Some(to) = self.server.poll_transmit(now, &mut out) {
            let from = Underlay { transport: to.transport, ..self.server_address };
            sent.push((to, from, out.clone()));
        }
        let mut whole = Vec::new();
        while let Some(to) = self.server.poll_probe(now, &mut out) {
            if out.len() + 28 <= self.mtu.0 {
                whole.push((to, self.server_address, out.clone()));
            } else {
                self.server.handle_too_long(now, to);
            }
        }
        self.server_events.extend(std::iter::from_fn(|| self.server.poll_event()));
        for (at, host) in self.clients.iter_mut().enumerate() {
            let Some(host) = host else { continue };
            loop {
                let asked = std::iter::from_fn(|| host.client.poll_tls());
                host.busy.extend(asked.map(|(key, input)| (now + self.client_tls_takes, key, input)));
                if host.busy.front().is_none_or(|(until, ..)| *until > now) {
                    break;
                }
                let Some((_, key, input)) = host.busy.pop_front() else { break };
                for input in edited(&mut self.edit_client, input) {
                    for output in pass(&mut host.pipes, key, &host.name, true, input) {
                        host.client.handle_tls(now, key, output);
                    }
                }
            }
            while let Some(to) = host.client.poll_transmit(now, &mut out) {
                sent.push((to, host.address, out.clone()));
            }
            while let Some(to) = host.client.poll_probe(now, &mut out) {
                if out.len() + 28 <= self.mtu.0 {
                    whole.push((to, host.address, out.clone()));
                } else {
                    host.client.handle_too_long(now, to);
                }
            }
            self.events[at].extend(std::iter::from_fn(|| host.client.poll_event()));
        }
        for (to, from, datagram) in whole {
            if datagram.len() + 28 <= self.mtu.1 {
                self.send(to, from, datagram);
            }
        }
        for (to, from, datagram) in sent {
            let limit = 1250 - 48;
            assert!(datagram.len() <= limit, "a control packet of {} bytes", datagram.len());
            self.send(to, from, datagram);
        }
    }

    fn send(&mut self, to: Underlay, from: Underlay, datagram: Vec<u8>) {
        self.recorded.push(datagram.clone());
        let copies = if self.rng.random_bool(self.fault.repeat) { 2 } else { 1 };
        for _ in 0..copies {
            let is_lost = self.fault.no_renewal && is_control(datagram[0]) && datagram[0] & 7 != 0;
            if !is_lost && !self.rng.random_bool(self.fault.loss) {
                let delay = Duration::from_millis(5) + self.fault.delay.mul_f64(self.rng.random());
                self.sent += 1;
                self.on_the_way.insert((self.now + delay, self.sent), (to, from, datagram.clone()));
            }
        }
    }

    /// What comes out at the server when the client sends `inner`.
    pub(crate) fn client_sends(&mut self, at: usize, inner: &[u8]) -> Option<Vec<u8>> {
        let sealed = self.client_seals(at, inner);
        self.deliver_to_server(at, &sealed)
    }

    pub(crate) fn client_seals(&mut self, at: usize, inner: &[u8]) -> Vec<u8> {
        let host = self.clients[at].as_mut().unwrap();
        let (to, datagram) = seal(&mut host.client, self.now, inner).unwrap();
        assert_eq!(to, host.server);
        datagram
    }

    /// Seals what the server sends; gives the datagram.
    pub(crate) fn server_seals(&mut self, inner: &[u8]) -> Vec<u8> {
        seal(&mut self.server, self.now, inner).unwrap().1
    }

    /// What comes out at the server for a datagram from the client's address.
    pub(crate) fn deliver_to_server(&mut self, at: usize, datagram: &[u8]) -> Option<Vec<u8>> {
        let from = self.clients[at].as_ref().unwrap().address;
        self.deliver_to_server_from(from, datagram)
    }

    /// What comes out at the server for a datagram from some address.
    pub(crate) fn deliver_to_server_from(&mut self, from: Underlay, datagram: &[u8]) -> Option<Vec<u8>> {
        let mut buf = datagram.to_vec();
        match self.server.handle_datagram(self.now, from, &mut buf) {
            Ok(Received::Packet(range)) => Some(buf[range].to_vec()),
            Ok(Received::Forward(range)) => {
                self.forwarded.extend(seal(&mut self.server, self.now, &buf[range]));
                None
            }
            Ok(Received::Consumed) | Err(_) => None,
        }
    }

    /// What comes out at the client for a datagram from the server's address.
    pub(crate) fn deliver_to_client(&mut self, at: usize, datagram: &[u8]) -> Option<Vec<u8>> {
        let mut buf = datagram.to_vec();
        let now = self.now;
        let host = self.clients[at].as_mut().unwrap();
        let from = host.server;
        match host.client.handle_datagram(now, from, &mut buf) {
            Ok(Received::Packet(range)) => Some(buf[range].to_vec()),
            Ok(Received::Forward(_) | Received::Consumed) | Err(_) => None,
        }
    }

    /// What comes out at a client when the server sends `inner`.
    pub(crate) fn server_sends(&mut self, inner: &[u8]) -> Option<Vec<u8>> {
        let (to, datagram) = seal(&mut self.server, self.now, inner)?;
        let reached: BTreeSet<usize> = (0..self.clients.len())
            .filter(|&at| self.clients[at].as_ref().is_some_and(|host| host.address == to))
            .collect();
        reached.into_iter().find_map(|at| self.deliver_to_client(at, &datagram))
    }
}

/// What an endpoint makes of a packet from its device, and where that goes; `None` if it drops it.
pub(crate) fn seal(endpoint: &mut impl Endpoint, now: Instant, inner: &[u8]) -> Option<(Underlay, Vec<u8>)> {
    let mut batch = Batch::new(4096, 1);
    endpoint.seal(now, &mut Single::new(&mut inner.to_vec()), &mut batch).ok()?;
    let group = batch.group(1, usize::MAX)?;
    // Over a stream its length comes first.
    let prefix = if group.to.transport == Transport::Tcp { 2 } else { 0 };
    Some((group.to, group.bytes[prefix..].to_vec()))
}
