//! The loop that drives an endpoint: the one owner of its socket, device, sessions, keys and timers.
//!
//! Each turn waits until something can be done, does a bounded amount of it, and hands out what came of it. On the way
//! of a packet there is no lock, no channel and no allocation.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use ovpn::data::{HEADROOM, TAILROOM};
use ovpn::drops::DropReason;
use ovpn::endpoint::{Counters, EndReason, Endpoint, PeerStatus, Received, TlsInput, TlsKey, TlsOutput};
use ovpn::login::{Advance, Decision, LoginRequest};
use ovpn::underlay::Underlay;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::device::Device;
use crate::report::{Command, Event, Snapshot};
use crate::scout::Way;
use crate::sockets::{Sent, Sockets};
use crate::streams::Kind;
use crate::tls::TlsFactory;

/// Packets taken from one side before the other gets its turn.
const BATCH: usize = 64;
/// Rounds of batches before the task yields.
const ROUNDS: usize = 8;
/// Larger than any datagram or packet that is accepted.
const BUFFER: usize = 2048;
/// Work that may wait for one TLS connection. A handshake never comes near.
const TLS_QUEUE: usize = 64;
/// Events that may wait for a slow reader; later ones are dropped with a warning.
const EVENT_BACKLOG: usize = 1024;
/// How long goodbyes may take.
const GOODBYE: Duration = Duration::from_millis(900);
const PUBLISH_INTERVAL: Duration = Duration::from_secs(1);

/// Ends a tunnel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Certificates or keys cannot be used.
    #[error(transparent)]
    Tls(#[from] crate::tls::TlsError),
    /// A socket could not be bound.
    #[error("cannot receive on {address}: choose another address, or stop what uses it")]
    Bind {
        /// The address as configured.
        address: Underlay,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The device is gone or broken.
    #[error("cannot read from the tunnel device")]
    Device(#[source] io::Error),
    /// The sockets are broken.
    #[error("cannot receive from the tunnel's sockets")]
    Receive(#[source] io::Error),
    /// What is to be pushed is impossible.
    #[error(transparent)]
    Push(#[from] crate::config::PushSetError),
    /// The server does not take us, and would not if we tried again.
    #[error("the tunnel ended: {0}; it is not tried again until that is put right")]
    Refused(EndReason),
    /// A setting is impossible.
    #[error("{0}")]
    Setting(&'static str),
}

/// Why [`Driver::run`] returned.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The tunnel was told to stop; goodbyes are said.
    Stopped,
    /// The endpoint has nothing more to do: a dialer's session is over.
    Ended,
    /// A dialer was told to connect anew.
    Reconnect,
}

/// What outlives single endpoints: the device, and the ways to and from whoever started the tunnel.
pub(crate) struct Driver {
    pub(crate) device: Device,
    pub(crate) tls: TlsFactory,
    pub(crate) stop: CancellationToken,
    pub(crate) commands: mpsc::Receiver<Command>,
    /// A dialer's other ways to its peer.
    pub(crate) ways: Option<mpsc::Receiver<Way>>,
    events: mpsc::Sender<Event>,
    backlog: VecDeque<Event>,
    logins: mpsc::Sender<LoginRequest>,
    snapshot: watch::Sender<Snapshot>,
    /// What earlier endpoints counted.
    base: Counters,
    outbound: Box<[u8; HEADROOM + BUFFER + TAILROOM]>,
    inbound: Box<[u8; BUFFER]>,
    control: Vec<u8>,
    /// A sealed packet in `outbound` that the socket did not take.
    blocked: Option<(Underlay, Range<usize>)>,
}

/// How a role reacts to what only concerns it.
pub(crate) trait Role: Endpoint {
    /// Obeys; true when the endpoint is to be given up for a new one.
    fn obey(&mut self, now: Instant, command: Command) -> bool;
    /// The next login that somebody must decide about.
    fn poll_login(&mut self) -> Option<LoginRequest> {
        None
    }
    /// Whether there is nothing more to do.
    fn has_ended(&self) -> bool;
    /// Whether packets go to `to`. What waits to be sent to a place where none go any more is dropped.
    fn carries(&self, to: Underlay) -> bool;
    /// Takes up another way to the peer.
    fn take(&mut self, now: Instant, way: Way, sockets: &mut Sockets);
}

impl Driver {
    pub(crate) fn new(
        device: Device,
        tls: TlsFactory,
        stop: CancellationToken,
        commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<Event>,
        logins: mpsc::Sender<LoginRequest>,
        snapshot: watch::Sender<Snapshot>,
    ) -> Self {
        Self {
            device,
            tls,
            stop,
            commands,
            ways: None,
            events,
            backlog: VecDeque::new(),
            logins,
            snapshot,
            base: Counters::default(),
            outbound: Box::new([0; HEADROOM + BUFFER + TAILROOM]),
            inbound: Box::new([0; BUFFER]),
            control: Vec::with_capacity(BUFFER),
            blocked: None,
        }
    }

    /// Reports an event, in order, without waiting for the reader.
    pub(crate) fn report(&mut self, event: Event) {
        if self.backlog.is_empty() {
            match self.events.try_send(event) {
                Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
                Err(mpsc::error::TrySendError::Full(event)) => self.backlog.push_back(event),
            }
        } else if self.backlog.len() < EVENT_BACKLOG {
            self.backlog.push_back(event);
        } else {
            tracing::warn!(?event, "nobody reads the tunnel's events; this one is lost");
        }
    }

    /// Counts and reports a dialer's attempt that did not even come to a handshake.
    pub(crate) fn fail(&mut self, remote: Underlay, why: String) {
        self.base.handshakes_failed += 1;
        self.snapshot.send_replace(self.picture(&Counters::default(), Vec::new()));
        self.report(Event::HandshakeFailed { remote, reason: EndReason::NotReached(why) });
    }

    /// The tunnel's state, of an endpoint that counted and serves these.
    fn picture(&self, counters: &Counters, peers: Vec<PeerStatus>) -> Snapshot {
        Snapshot { crl_next_update: self.tls.crl_next_update(), ..Snapshot::new(&self.base, counters, peers) }
    }

    /// Drives `endpoint` over `socket` until it ends or the tunnel is told to stop.
    pub(crate) async fn run<E: Role>(&mut self, endpoint: &mut E, socket: &mut Sockets) -> Result<Outcome, Error> {
        let (tls_output, mut tls_results) = mpsc::channel(256);
        let mut tls = TlsTasks { inputs: HashMap::new(), output: tls_output };
        let result = self.run_until_end(endpoint, socket, &mut tls, &mut tls_results).await;
        if !matches!(result, Err(Error::Receive(_))) {
            endpoint.shut_down(Instant::now());
            let goodbye = self.say_goodbye(endpoint, socket, &mut tls, &mut tls_results);
            // Past the deadline the peers find out by themselves.
            let _ = tokio::time::timeout(GOODBYE, goodbye).await;
        }
        self.settle(endpoint, socket, &mut tls);
        crate::report::add(&mut self.base, &endpoint.counters());
        self.snapshot.send_replace(self.picture(&Counters::default(), Vec::new()));
        self.blocked = None;
        result
    }

    async fn run_until_end<E: Role>(
        &mut self,
        endpoint: &mut E,
        socket: &mut Sockets,
        tls: &mut TlsTasks,
        tls_results: &mut mpsc::Receiver<(TlsKey, TlsOutput)>,
    ) -> Result<Outcome, Error> {
        let stop = self.stop.clone();
        let events = self.events.clone();
        let mut publish = tokio::time::interval(PUBLISH_INTERVAL);
        publish.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let timer = tokio::time::sleep(Duration::ZERO);
        tokio::pin!(timer);
        loop {
            self.settle(endpoint, socket, tls);
            let blocked = self.blocked.as_ref().map(|(to, _)| *to);
            if endpoint.has_ended() {
                return Ok(Outcome::Ended);
            }
            if let Some(at) = endpoint.poll_timeout()
                && timer.deadline().into_std() != at
            {
                timer.as_mut().reset(at.into());
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(Outcome::Stopped),
                Some(command) = self.commands.recv() => {
                    if endpoint.obey(Instant::now(), command) {
                        return Ok(Outcome::Reconnect);
                    }
                }
                Some(way) = next_way(&mut self.ways) => endpoint.take(Instant::now(), way, socket),
                Some((key, output)) = tls_results.recv() => {
                    endpoint.handle_tls(Instant::now(), key, output);
                }
                () = &mut timer, if endpoint.poll_timeout().is_some() => {
                    endpoint.handle_timeout(Instant::now());
                    // A timeout that is still in the past comes again at once; one that is gone must not.
                    timer.as_mut().reset(tokio::time::Instant::now() + Duration::from_millis(1));
                }
                ready = socket.readable() => {
                    ready.map_err(Error::Receive)?;
                    self.pump(endpoint, socket)?;
                }
                ready = self.device.readable(), if blocked.is_none() => {
                    ready.map_err(Error::Device)?;
                    self.pump(endpoint, socket)?;
                }
                Some(ready) = when_writable(socket, blocked) => {
                    ready.map_err(Error::Receive)?;
                    self.retry_blocked(endpoint, socket);
                }
                permit = events.reserve(), if !self.backlog.is_empty() => {
                    match (permit, self.backlog.pop_front()) {
                        (Ok(permit), Some(event)) => permit.send(event),
                        (_, _) => self.backlog.clear(),
                    }
                }
                _ = publish.tick() => {
                    socket.sweep(Instant::now(), |at| endpoint.needs(at)).map_err(Error::Receive)?;
                    self.publish(endpoint);
                }
            }
        }
    }

    /// Polls on after [`Endpoint::shut_down`] until every peer has the goodbye.
    async fn say_goodbye<E: Role>(
        &mut self,
        endpoint: &mut E,
        socket: &mut Sockets,
        tls: &mut TlsTasks,
        tls_results: &mut mpsc::Receiver<(TlsKey, TlsOutput)>,
    ) {
        loop {
            self.settle(endpoint, socket, tls);
            if endpoint.is_flushed() {
                return;
            }
            let wait = endpoint.poll_timeout().unwrap_or_else(|| Instant::now() + GOODBYE);
            tokio::select! {
                Some((key, output)) = tls_results.recv() => {
                    endpoint.handle_tls(Instant::now(), key, output);
                }
                ready = socket.readable() => {
                    if ready.is_err() || self.receive(endpoint, socket, Instant::now()).is_err() {
                        return;
                    }
                }
                () = tokio::time::sleep_until(wait.into()) => {
                    // Nothing is to be read from a timeout that does not move.
                    endpoint.handle_timeout(Instant::now());
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    /// Hands out everything that the endpoint has for TLS, the socket and the reader of events.
    fn settle<E: Role>(&mut self, endpoint: &mut E, socket: &mut Sockets, tls: &mut TlsTasks) {
        let now = Instant::now();
        while let Some(at) = socket.poll_closed() {
            endpoint.handle_closed(now, at);
        }
        while let Some(login) = endpoint.poll_login() {
            let id = login.id;
            if self.logins.try_send(login).is_err() {
                let reason = "too many logins at a time".to_owned();
                let decision = Decision::Later { reason, backoff: None, advance: Advance::No };
                endpoint.obey(now, Command::Decide { login: id, decision });
            }
        }
        if self.blocked.as_ref().is_some_and(|(to, _)| !endpoint.carries(*to)) {
            self.blocked = None;
            endpoint.count_drop(DropReason::Blocked);
        }
        while let Some((key, input)) = endpoint.poll_tls() {
            if let Err(why) = tls.pass(&self.tls, key, input) {
                endpoint.handle_tls(now, key, TlsOutput::Failed(why));
            }
        }
        while let Some(to) = endpoint.poll_transmit(now, &mut self.control) {
            if socket.send(&self.control, to, Kind::Control) != Sent::Yes {
                // The reliability layer sends it again.
                endpoint.count_drop(DropReason::Blocked);
            }
        }
        socket.flush();
        // Whoever reads an event finds its effect in the snapshot.
        let mut news = endpoint.poll_event();
        if news.is_some() {
            self.publish(endpoint);
        }
        while let Some(event) = news {
            if let Some(event) = Event::from_endpoint(event) {
                self.report(event);
            }
            news = endpoint.poll_event();
        }
    }

    fn publish<E: Endpoint>(&mut self, endpoint: &E) {
        let snapshot = self.picture(&endpoint.counters(), endpoint.peers());
        self.snapshot.send_if_modified(|old| {
            let differs = *old != snapshot;
            *old = snapshot;
            differs
        });
    }

    /// Moves packets both ways in turns, within the budget.
    fn pump<E: Endpoint>(&mut self, endpoint: &mut E, socket: &mut Sockets) -> Result<(), Error> {
        for _ in 0..ROUNDS {
            let now = Instant::now();
            let received = self.receive(endpoint, socket, now)?;
            self.retry_blocked(endpoint, socket);
            let sent = self.send(endpoint, socket, now)?;
            socket.flush();
            if received < BATCH && sent < BATCH {
                break;
            }
        }
        Ok(())
    }

    /// Sockets to device, one batch of each kind. Returns how many packets were there.
    fn receive<E: Endpoint>(&mut self, endpoint: &mut E, socket: &mut Sockets, now: Instant) -> Result<usize, Error> {
        let datagrams = self.receive_datagrams(endpoint, socket, now)?;
        let Some(streams) = socket.streams() else { return Ok(datagrams) };
        let packets = streams.turn(|from, packet| {
            let taken = deliver(&self.device, endpoint, now, Underlay::tcp(from), packet);
            !taken.is_err_and(ends_connection)
        });
        while let Some(at) = socket.poll_closed() {
            endpoint.handle_closed(now, at);
        }
        Ok(datagrams + packets.map_err(Error::Receive)?)
    }

    fn receive_datagrams<E: Endpoint>(
        &mut self,
        endpoint: &mut E,
        socket: &mut Sockets,
        now: Instant,
    ) -> Result<usize, Error> {
        let mut most = 0;
        for udp in socket.udp().into_iter().flatten() {
            for count in 1..=BATCH {
                let (length, from) = match udp.try_recv_from(&mut self.inbound[..]) {
                    Ok(received) => received,
                    Err(error) if is_transient(&error) => break,
                    Err(error) => return Err(Error::Receive(error)),
                };
                most = most.max(count);
                if length == BUFFER {
                    endpoint.count_drop(DropReason::TooLarge);
                    continue;
                }
                let Some(datagram) = self.inbound.get_mut(..length) else { continue };
                // A lost datagram is not news to the peer.
                let _ = deliver(&self.device, endpoint, now, Underlay::udp(from), datagram);
            }
        }
        Ok(most)
    }

    /// Device to socket, one batch. Returns how many packets were there.
    fn send<E: Endpoint>(&mut self, endpoint: &mut E, socket: &mut Sockets, now: Instant) -> Result<usize, Error> {
        for count in 0..BATCH {
            if self.blocked.is_some() {
                return Ok(count);
            }
            let length = match self.device.try_recv(&mut self.outbound[HEADROOM..HEADROOM + BUFFER]) {
                Ok(length) => length,
                Err(error) if is_transient(&error) => return Ok(count),
                Err(error) => return Err(Error::Device(error)),
            };
            let Some(buf) = self.outbound.get_mut(..HEADROOM + length + TAILROOM) else { continue };
            match endpoint.seal_packet(now, buf) {
                Ok((to, range)) => {
                    let datagram = self.outbound.get(range.clone()).unwrap_or_default();
                    match socket.send(datagram, to, Kind::Data) {
                        Sent::Yes => {}
                        Sent::Later => self.blocked = Some((to, range)),
                        Sent::No => endpoint.count_drop(DropReason::Blocked),
                    }
                }
                Err(reason) => tracing::trace!(%reason, "dropped a packet from the device"),
            }
        }
        Ok(BATCH)
    }

    fn retry_blocked<E: Endpoint>(&mut self, endpoint: &mut E, socket: &mut Sockets) {
        let Some((to, range)) = self.blocked.take() else { return };
        match socket.send(self.outbound.get(range.clone()).unwrap_or_default(), to, Kind::Data) {
            Sent::Yes => {}
            Sent::Later => self.blocked = Some((to, range)),
            Sent::No => endpoint.count_drop(DropReason::Blocked),
        }
    }
}

/// Waits until a blocked datagram can be sent; gives nothing if there is none.
async fn when_writable(socket: &Sockets, blocked: Option<Underlay>) -> Option<io::Result<()>> {
    Some(socket.writable(blocked?).await)
}

async fn next_way(ways: &mut Option<mpsc::Receiver<Way>>) -> Option<Way> {
    ways.as_mut()?.recv().await
}

/// Gives a packet from outside to the endpoint, and what is in it to the device.
fn deliver<E: Endpoint>(
    device: &Device,
    endpoint: &mut E,
    now: Instant,
    from: Underlay,
    packet: &mut [u8],
) -> Result<(), DropReason> {
    match endpoint.handle_datagram(now, from, packet) {
        Ok(Received::Packet(range)) => {
            if device.try_send(packet.get(range).unwrap_or_default()).is_err() {
                endpoint.count_drop(DropReason::Blocked);
            }
            Ok(())
        }
        Ok(Received::Consumed) => Ok(()),
        Err(reason) => {
            tracing::trace!(%from, %reason, "dropped a packet");
            Err(reason)
        }
    }
}

/// Whether a packet that was dropped for `reason` shows that its stream is out of step, or not a peer's at all. Nothing
/// is lost or forged inside of a connection, so there is no going on from there.
fn ends_connection(reason: DropReason) -> bool {
    matches!(
        reason,
        DropReason::Malformed
            | DropReason::Wrap
            | DropReason::Replay
            | DropReason::Cookie
            | DropReason::Authentication
            | DropReason::TooLarge
    )
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionRefused)
}

/// The TLS connections of an endpoint's sessions, a task each. Dropping a sender ends its task.
struct TlsTasks {
    inputs: HashMap<TlsKey, mpsc::Sender<TlsInput>>,
    output: mpsc::Sender<(TlsKey, TlsOutput)>,
}

impl TlsTasks {
    fn pass(&mut self, factory: &TlsFactory, key: TlsKey, input: TlsInput) -> Result<(), String> {
        match input {
            TlsInput::Start => {
                let (sender, receiver) = mpsc::channel(TLS_QUEUE);
                self.inputs.insert(key, sender);
                factory.spawn(key, receiver, self.output.clone());
                Ok(())
            }
            TlsInput::Close => {
                self.inputs.remove(&key);
                Ok(())
            }
            TlsInput::Ciphertext(_) | TlsInput::Message(_) => match self.inputs.get(&key) {
                Some(sender) => match sender.try_send(input) {
                    // A task that ended has said why.
                    Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
                    Err(mpsc::error::TrySendError::Full(_)) => Err("the peer sends more than TLS can take".to_owned()),
                },
                None => Ok(()),
            },
        }
    }
}
