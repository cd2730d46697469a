//! The loop that drives an endpoint: the one owner of its socket, device, sessions, keys and timers.
//!
//! It runs on a thread of its own. Each turn waits until something can be done, does a bounded amount of it, and hands out
//! what came of it. On the way of a packet there is no lock, no channel and no allocation, and system calls move many
//! packets at a time: what the device gives as one frame is cut and sealed into a [`Batch`], which goes out in as few
//! pieces as can be; what comes in is opened where it lies, and packets of the same flow go to the device as one frame.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use ovpn::batch::{Batch, Packets};
use ovpn::data::OVERHEAD;
use ovpn::drops::DropReason;
use ovpn::endpoint::{Counters, EndReason, Endpoint, PeerStatus, Received, TlsInput, TlsKey, TlsOutput};
use ovpn::login::{Advance, Decision, LoginRequest};
use ovpn::underlay::Underlay;
use segments::{Coalescer, MAX_FRAME, Split};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::datagrams::{self, Datagrams};
use crate::device::{FRAME, Watched};
use crate::path::{DataPath, IoCounters, Offload};
use crate::report::{Command, Event, Snapshot};
use crate::scout::Way;
use crate::sockets::{Sent, Sockets};
use crate::streams::Intake;
use crate::tls::TlsFactory;

/// Packets taken from one side before the other gets its turn.
const BATCH: usize = 64;
/// Rounds of batches before the task yields.
const ROUNDS: usize = 8;
/// Longest datagram that is accepted, and room for a control packet, bytes.
const DATAGRAM: usize = 2048;
/// Most packets that a frame of the device is cut into: payload of TCP is cut in 48 bytes at least, as the kernel has it
/// (`TCP_MIN_SND_MSS`), and that of UDP into at most 64 datagrams.
const CUTS: usize = MAX_FRAME / 48;
/// Bytes of them, with headers of IP and TCP of 100 bytes at most on all.
const CUT_BYTES: usize = MAX_FRAME + CUTS * 100;
/// Room for all packets of a frame and, before them, a few frames that are smaller.
const BATCH_BYTES: usize = CUT_BYTES + CUTS * (OVERHEAD + 2) + MAX_FRAME;
const BATCH_PACKETS: usize = CUTS + BATCH;
/// Room for what is received before the device gets it.
const ARENA: usize = 4 * datagrams::ROOM;
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
    /// The tunnel's thread could not be started, or has ended without a word.
    #[error("the tunnel's thread cannot run")]
    Thread(#[source] io::Error),
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
    pub(crate) device: Watched,
    pub(crate) offload: Offload,
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
    /// How packets pass, once there were sockets.
    path: Option<DataPath>,
    io: IoCounters,
    /// What earlier sockets counted.
    io_base: IoCounters,
    /// A frame of the device.
    frame: Box<[u8]>,
    /// What the sockets have not taken yet.
    batch: Batch,
    /// Datagrams as they came in.
    arena: Box<[u8]>,
    coalescer: Coalescer,
    control: Vec<u8>,
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
        device: Watched,
        offload: Offload,
        tls: TlsFactory,
        stop: CancellationToken,
        commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<Event>,
        logins: mpsc::Sender<LoginRequest>,
        snapshot: watch::Sender<Snapshot>,
    ) -> Self {
        Self {
            coalescer: Coalescer::new(device.gathers()),
            device,
            offload,
            tls,
            stop,
            commands,
            ways: None,
            events,
            backlog: VecDeque::new(),
            logins,
            snapshot,
            base: Counters::default(),
            path: None,
            io: IoCounters::default(),
            io_base: IoCounters::default(),
            frame: vec![0; FRAME].into(),
            batch: Batch::new(BATCH_BYTES, BATCH_PACKETS),
            arena: vec![0; ARENA].into(),
            control: Vec::with_capacity(DATAGRAM),
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
        Snapshot {
            crl_next_update: self.tls.crl_next_update(),
            data_path: self.path.unwrap_or_else(|| DataPath { device: self.device.path(), ..DataPath::default() }),
            io: self.io,
            ..Snapshot::new(&self.base, counters, peers)
        }
    }

    /// Drives `endpoint` over `socket` until it ends or the tunnel is told to stop.
    pub(crate) async fn run<E: Role>(&mut self, endpoint: &mut E, socket: &mut Sockets) -> Result<Outcome, Error> {
        let (tls_output, mut tls_results) = mpsc::channel(256);
        let mut tls = TlsTasks { inputs: HashMap::new(), output: tls_output };
        self.look_at_path(socket);
        let result = self.run_until_end(endpoint, socket, &mut tls, &mut tls_results).await;
        if !matches!(result, Err(Error::Receive(_))) {
            endpoint.shut_down(Instant::now());
            let goodbye = self.say_goodbye(endpoint, socket, &mut tls, &mut tls_results);
            // Past the deadline the peers find out by themselves.
            let _ = tokio::time::timeout(GOODBYE, goodbye).await;
        }
        self.settle(endpoint, socket, &mut tls);
        self.look_at_path(socket);
        self.io_base = self.io;
        crate::report::add(&mut self.base, &endpoint.counters());
        self.snapshot.send_replace(self.picture(&Counters::default(), Vec::new()));
        self.batch.clear();
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
            let blocked = self.blocked();
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
                    self.send_batch(endpoint, socket);
                }
                permit = events.reserve(), if !self.backlog.is_empty() => {
                    match (permit, self.backlog.pop_front()) {
                        (Ok(permit), Some(event)) => permit.send(event),
                        (_, _) => self.backlog.clear(),
                    }
                }
                _ = publish.tick() => {
                    socket.sweep(Instant::now(), |at| endpoint.needs(at)).map_err(Error::Receive)?;
                    self.look_at_path(socket);
                    self.publish(endpoint);
                }
            }
        }
    }

    /// Notes how packets pass now, and says so when it is news.
    fn look_at_path(&mut self, socket: &Sockets) {
        let (udp_send, udp_receive) = socket.paths();
        let path = DataPath { device: self.device.path(), udp_send, udp_receive };
        path.log(self.path.replace(path));
        (self.io.device_read, self.io.device_write) = self.device.counts();
        let (sent, received) = socket.counts();
        (self.io.udp_send, self.io.udp_receive) = (self.io_base.udp_send, self.io_base.udp_receive);
        self.io.udp_send.merge(sent);
        self.io.udp_receive.merge(received);
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
        if self.blocked().is_some_and(|to| !endpoint.carries(to)) {
            count_drops(endpoint, self.batch.clear());
        }
        while let Some((key, input)) = endpoint.poll_tls() {
            if let Err(why) = tls.pass(&self.tls, key, input) {
                endpoint.handle_tls(now, key, TlsOutput::Failed(why));
            }
        }
        while let Some(to) = endpoint.poll_transmit(now, &mut self.control) {
            if socket.send(&self.control, to) != Sent::Yes {
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
            self.send_batch(endpoint, socket);
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
        let mut inlet = Inlet { device: &mut self.device, coalescer: &mut self.coalescer, endpoint, now };
        let mut most = 0;
        for udp in socket.udp().into_iter().flatten() {
            let count = receive_datagrams(udp, &mut self.arena, &mut inlet).map_err(Error::Receive)?;
            most = most.max(count);
        }
        let Some(streams) = socket.streams() else { return Ok(most) };
        let packets = streams.turn(&mut inlet).map_err(Error::Receive)?;
        while let Some(at) = socket.poll_closed() {
            endpoint.handle_closed(now, at);
        }
        Ok(most + packets)
    }

    /// Device to socket, one batch. Returns how many frames were there.
    fn send<E: Endpoint>(&mut self, endpoint: &mut E, socket: &mut Sockets, now: Instant) -> Result<usize, Error> {
        let mut frames = 0;
        while frames < BATCH {
            if !self.batch.has_room(CUTS, CUT_BYTES) {
                self.send_batch(endpoint, socket);
                if !self.batch.is_empty() {
                    return Ok(frames);
                }
            }
            let (header, packet) = match self.device.try_recv(&mut self.frame) {
                Ok(frame) => frame,
                Err(error) if is_transient(&error) => break,
                Err(error) => return Err(Error::Device(error)),
            };
            frames += 1;
            match Split::new(header, packet) {
                Ok(split) if split.count() <= CUTS => {
                    self.device.note_read(split.count());
                    if let Err(reason) = endpoint.seal(now, &mut Cuts(split), &mut self.batch) {
                        tracing::trace!(%reason, "dropped a frame of the device");
                    }
                }
                Ok(_) => endpoint.count_drop(DropReason::TooLarge),
                Err(error) => {
                    tracing::trace!(%error, "dropped a frame of the device");
                    endpoint.count_drop(DropReason::NotIp);
                }
            }
        }
        self.send_batch(endpoint, socket);
        Ok(frames)
    }

    /// Sends what was sealed, as far as the sockets take it.
    fn send_batch<E: Endpoint>(&mut self, endpoint: &mut E, socket: &mut Sockets) {
        count_drops(endpoint, socket.send_batch(&mut self.batch));
    }

    /// Where that is to go which the sockets do not take.
    fn blocked(&self) -> Option<Underlay> {
        self.batch.group(1, usize::MAX).map(|group| group.to)
    }
}

/// Takes datagrams from a socket, one batch. Returns how many there were.
fn receive_datagrams<E: Endpoint>(
    udp: &mut Datagrams,
    arena: &mut [u8],
    inlet: &mut Inlet<'_, E>,
) -> io::Result<usize> {
    let (mut used, mut count) = (0, 0);
    while count < BATCH {
        let Some(room) = arena.get_mut(used..).filter(|room| room.len() >= datagrams::ROOM) else { break };
        let arrived = match udp.try_recv(room) {
            Ok(arrived) => arrived,
            Err(error) if is_transient(&error) => break,
            Err(error) => {
                inlet.finish(arena);
                return Err(error);
            }
        };
        let from = Underlay::udp(arrived.from);
        let end = used + arrived.length;
        loop {
            let next = end.min(used + arrived.segment);
            // A lost datagram is not news to the peer.
            let _ = inlet.deliver(from, arena, used..next);
            (used, count) = (next, count + 1);
            if used == end {
                break;
            }
        }
    }
    inlet.finish(arena);
    Ok(count)
}

/// Where what comes in goes on.
struct Inlet<'a, E> {
    device: &'a mut Watched,
    coalescer: &'a mut Coalescer,
    endpoint: &'a mut E,
    now: Instant,
}

impl<E: Endpoint> Inlet<'_, E> {
    /// Gives a packet from outside to the endpoint, and what is in it to the device, at last with [`Intake::finish`].
    fn deliver(&mut self, from: Underlay, buf: &mut [u8], range: Range<usize>) -> Result<(), DropReason> {
        let Some(packet) = buf.get_mut(range.clone()) else { return Ok(()) };
        if packet.len() > DATAGRAM {
            self.endpoint.count_drop(DropReason::TooLarge);
            return Err(DropReason::TooLarge);
        }
        match self.endpoint.handle_datagram(self.now, from, packet) {
            Ok(Received::Packet(inner)) => {
                let Self { device, coalescer, .. } = self;
                let inner = range.start + inner.start..range.start + inner.end;
                let mut lost = 0;
                coalescer.push(buf, inner, &mut |run| lost += device.try_send(&run));
                count_drops(self.endpoint, lost);
                Ok(())
            }
            Ok(Received::Consumed) => Ok(()),
            Err(reason) => {
                tracing::trace!(%from, %reason, "dropped a packet");
                Err(reason)
            }
        }
    }
}

impl<E: Endpoint> Intake for Inlet<'_, E> {
    fn take(&mut self, from: SocketAddr, buf: &mut [u8], range: Range<usize>) -> bool {
        !self.deliver(Underlay::tcp(from), buf, range).is_err_and(ends_connection)
    }

    fn finish(&mut self, buf: &mut [u8]) {
        let Self { device, coalescer, .. } = self;
        let mut lost = 0;
        coalescer.flush(buf, &mut |run| lost += device.try_send(&run));
        if coalescer.offload() != device.gathers() {
            **coalescer = Coalescer::new(device.gathers());
        }
        count_drops(self.endpoint, lost);
    }
}

/// A frame of the device, in packets.
struct Cuts<'a>(Split<'a>);

impl Packets for Cuts<'_> {
    fn head(&self) -> &[u8] {
        self.0.head()
    }

    fn next(&mut self) -> Option<&mut [u8]> {
        self.0.next_packet()
    }
}

/// Counts packets that found no way on.
fn count_drops(endpoint: &mut impl Endpoint, packets: usize) {
    for _ in 0..packets {
        endpoint.count_drop(DropReason::Blocked);
    }
}

/// Waits until a blocked datagram can be sent; gives nothing if there is none.
async fn when_writable(socket: &Sockets, blocked: Option<Underlay>) -> Option<io::Result<()>> {
    Some(socket.writable(blocked?).await)
}

async fn next_way(ways: &mut Option<mpsc::Receiver<Way>>) -> Option<Way> {
    ways.as_mut()?.recv().await
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
