//! The relay's thread.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::{Counts, Faults, Recorded, Shared};

/// Datagrams that may be on the way at a time; more are lost.
const MOST_ON_THE_WAY: usize = 50_000;
/// Clients at a time.
const MOST_MAPPINGS: usize = 4096;
/// Sockets of mappings that are gone. They stay open, unread, so that no ICMP error tells the far end.
const MOST_RETIRED: usize = 256;
/// Datagrams taken from one socket before the others get their turn.
const BATCH: usize = 64;
/// How soon a setting takes effect where nothing else happens.
const TICK: Duration = Duration::from_millis(20);
/// Room for bursts, bytes.
const BUFFER: usize = 4 * 1024 * 1024;

pub(crate) struct Worker {
    listener: UdpSocket,
    to: SocketAddr,
    rng: StdRng,
    /// In the order of the clients' first datagrams.
    mappings: Vec<Mapping>,
    by_client: HashMap<SocketAddr, usize>,
    retired: VecDeque<UdpSocket>,
    /// By time of arrival, then in the order of sending.
    on_the_way: BTreeMap<(Instant, u64), Parcel>,
    sent: u64,
    /// The latest that arrived, counted as sent.
    arrived: u64,
    counts: Counts,
    /// Whether the mappings are other ones than were published.
    changed: bool,
}

struct Mapping {
    client: SocketAddr,
    /// `None` when it was forgotten.
    socket: Option<UdpSocket>,
    made: Instant,
    used: Instant,
}

struct Parcel {
    client: SocketAddr,
    from_client: bool,
    bytes: Vec<u8>,
}

impl Worker {
    /// Gives also the address that was bound.
    pub(crate) fn open(listen: SocketAddr, to: SocketAddr, seed: u64) -> io::Result<(Self, SocketAddr)> {
        let listener = bind(listen)?;
        let address = listener.local_addr()?;
        let worker = Self {
            listener,
            to,
            rng: StdRng::seed_from_u64(seed),
            mappings: Vec::new(),
            by_client: HashMap::new(),
            retired: VecDeque::new(),
            on_the_way: BTreeMap::new(),
            sent: 0,
            arrived: 0,
            counts: Counts::default(),
            changed: false,
        };
        Ok((worker, address))
    }

    /// Relays until it is told to stop.
    pub(crate) fn run(mut self, shared: &Shared) {
        let mut buf = vec![0; 65_536];
        let (mut ready, mut faults) = (Vec::new(), Faults::default());
        while !shared.stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            self.publish(shared, &mut faults);
            self.age(now, &faults, shared.move_now.swap(false, Ordering::Relaxed));
            self.deliver(now);
            self.wait(&mut ready);
            let now = Instant::now();
            for &at in &ready {
                for _ in 0..BATCH {
                    // A socket of the client's at `at`, or the one that all clients send to.
                    let received = match at.checked_sub(1) {
                        None => self.listener.recv_from(&mut buf).map(|(length, client)| (length, client, true)),
                        Some(at) => match self.mappings.get(at) {
                            Some(Mapping { client, socket: Some(socket), .. }) => {
                                socket.recv(&mut buf).map(|length| (length, *client, false))
                            }
                            _ => break,
                        },
                    };
                    let (length, client, from_client) = match received {
                        Ok(received) => received,
                        // An ICMP error of an earlier datagram stands before what is to be read.
                        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                        Err(_) => break,
                    };
                    let bytes = buf.get(..length).unwrap_or_default();
                    self.take(now, shared, &faults, client, from_client, bytes);
                }
            }
        }
    }

    fn publish(&mut self, shared: &Shared, faults: &mut Faults) {
        let mut state = shared.state();
        *faults = state.faults;
        state.counts = self.counts;
        if std::mem::take(&mut self.changed) {
            let mappings = self.mappings.iter().filter_map(|mapping| {
                let source = mapping.socket.as_ref()?.local_addr().ok()?;
                Some((mapping.client, source))
            });
            state.mappings = mappings.collect();
        }
    }

    /// Forgets mappings that were idle, and moves those that are due.
    fn age(&mut self, now: Instant, faults: &Faults, move_all: bool) {
        for mapping in &mut self.mappings {
            let Some(socket) = mapping.socket.take() else { continue };
            let is_over = |limit: Option<Duration>, since: Instant| limit.is_some_and(|limit| now - since >= limit);
            let moves = move_all || is_over(faults.moves, mapping.made);
            if !moves && !is_over(faults.forgets, mapping.used) {
                mapping.socket = Some(socket);
                continue;
            }
            self.changed = true;
            self.retired.push_back(socket);
            if self.retired.len() > MOST_RETIRED {
                self.retired.pop_front();
            }
            if moves && let Ok(socket) = connect(self.to) {
                (mapping.socket, mapping.made) = (Some(socket), now);
                self.counts.mappings += 1;
            }
        }
    }

    /// Decides what becomes of a datagram.
    fn take(
        &mut self,
        now: Instant,
        shared: &Shared,
        faults: &Faults,
        client: SocketAddr,
        from_client: bool,
        bytes: &[u8],
    ) {
        let mut state = shared.state();
        if state.record > 0 {
            state.record -= 1;
            state.recorded.push(Recorded { from_client, bytes: bytes.to_vec() });
        }
        drop(state);
        let is_lost = faults.blocked || self.rng.random_bool(faults.loss);
        if is_lost || self.on_the_way.len() >= MOST_ON_THE_WAY {
            self.counts.lost += 1;
            return;
        }
        let repeats = self.rng.random_bool(faults.repeat);
        self.counts.repeated += u64::from(repeats);
        for _ in 0..=u8::from(repeats) {
            self.sent += 1;
            let (least, most) = faults.delay;
            if most.is_zero() && self.on_the_way.is_empty() {
                self.pass(now, client, from_client, bytes);
                self.arrived = self.sent;
                continue;
            }
            let delay = least + most.saturating_sub(least).mul_f64(self.rng.random());
            let parcel = Parcel { client, from_client, bytes: bytes.to_vec() };
            self.on_the_way.insert((now + delay, self.sent), parcel);
        }
    }

    fn deliver(&mut self, now: Instant) {
        while let Some(entry) = self.on_the_way.first_entry().filter(|entry| entry.key().0 <= now) {
            let sent = entry.key().1;
            let Parcel { client, from_client, bytes } = entry.remove();
            self.counts.overtaken += u64::from(sent < self.arrived);
            self.arrived = self.arrived.max(sent);
            self.pass(now, client, from_client, &bytes);
        }
    }

    fn pass(&mut self, now: Instant, client: SocketAddr, from_client: bool, bytes: &[u8]) {
        let passed = match from_client {
            true => self.mapping(now, client).and_then(|socket| again(|| socket.send(bytes))),
            false => {
                if let Some(mapping) = self.by_client.get(&client).and_then(|&at| self.mappings.get_mut(at)) {
                    mapping.used = now;
                }
                again(|| self.listener.send_to(bytes, client))
            }
        };
        match passed {
            Ok(_) => self.counts.passed += 1,
            Err(_) => self.counts.lost += 1,
        }
    }

    /// The socket that stands for a client; a new one when it has none.
    fn mapping(&mut self, now: Instant, client: SocketAddr) -> io::Result<&UdpSocket> {
        let at = match self.by_client.get(&client) {
            Some(&at) => at,
            None if self.mappings.len() >= MOST_MAPPINGS => return Err(io::Error::other("too many clients")),
            None => {
                self.mappings.push(Mapping { client, socket: None, made: now, used: now });
                self.by_client.insert(client, self.mappings.len() - 1);
                self.mappings.len() - 1
            }
        };
        let mapping = self.mappings.get_mut(at).ok_or(io::ErrorKind::NotFound)?;
        mapping.used = now;
        if mapping.socket.is_none() {
            mapping.made = now;
            self.counts.mappings += 1;
            self.changed = true;
        }
        match &mut mapping.socket {
            Some(socket) => Ok(socket),
            empty => Ok(empty.insert(connect(self.to)?)),
        }
    }

    /// Waits until something can be read, or is due. Gives 0 for what all clients send to, else one more than the index
    /// of the mapping.
    fn wait(&self, ready: &mut Vec<usize>) {
        let mut at = vec![0];
        let mut watched = vec![PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        for (index, mapping) in self.mappings.iter().enumerate() {
            if let Some(socket) = &mapping.socket {
                at.push(index + 1);
                watched.push(PollFd::new(socket.as_fd(), PollFlags::POLLIN));
            }
        }
        let due = self.on_the_way.first_key_value().map(|((due, _), _)| due.saturating_duration_since(Instant::now()));
        // Rounded up: what is due in half a millisecond is waited for, not polled for.
        let time = due.map_or(TICK, |due| due.min(TICK)) + Duration::from_micros(999);
        let _ = poll(&mut watched, PollTimeout::from(time.as_millis() as u8));
        ready.clear();
        let readable = watched.iter().zip(at).filter(|(fd, _)| fd.any().unwrap_or(false));
        ready.extend(readable.map(|(_, at)| at));
    }
}

/// Sends once more when the first time only told of an ICMP error of an earlier datagram.
fn again<T>(send: impl Fn() -> io::Result<T>) -> io::Result<T> {
    match send() {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => send(),
        result => result,
    }
}

/// A socket of which the far end sees one address.
fn connect(to: SocketAddr) -> io::Result<UdpSocket> {
    let any = match to {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = bind(any)?;
    socket.connect(to)?;
    Ok(socket)
}

fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    // Without CAP_NET_ADMIN bursts have less room.
    let _ = setsockopt(&socket, sockopt::RcvBufForce, &BUFFER);
    let _ = setsockopt(&socket, sockopt::SndBufForce, &BUFFER);
    Ok(socket)
}
