//! The loop that drives an endpoint: the one owner of its socket, device, sessions, keys and timers.
//!
//! It runs on a thread of its own. Each turn waits until something can be done, does a bounded amount of it, and hands out
//! what came of it.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::time::{Duration, Instant};

use ovpn::drops::DropReason;
use ovpn::endpoint::{Counters, EndReason, Endpoint, PeerStatus, TlsInput, TlsKey, TlsOutput};
use ovpn::login::{Advance, Decision, LoginRequest};
use ovpn::underlay::{Transport, Underlay};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::config::ControlProtection;
use crate::device::Watched;
use crate::path::{DataPath, IoCounters, Offload};
use crate::pump::Pump;
use crate::report::{Command, Event, Outlets, Snapshot, TunnelIdentity};
use crate::scout::Way;
use crate::sockets::Sockets;
use crate::tls::TlsFactory;

/// Work that may wait for one TLS connection. A handshake never comes near.
const TLS_QUEUE: usize = 64;
/// Events that may wait for a slow reader; later ones are dropped with a warning.
const EVENT_BACKLOG: usize = 1024;
/// How long goodbyes may take.
const GOODBYE: Duration = Duration::from_millis(900);
/// How much of that may pass until a socket that is full has room for them.
const ROOM: Duration = Duration::from_millis(600);
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
    pump: Pump,
    pub(crate) offload: Offload,
    pub(crate) tls: TlsFactory,
    pub(crate) stop: CancellationToken,
    pub(crate) commands: mpsc::Receiver<Command>,
    /// How the control channel of sessions that begin now is protected.
    pub(crate) protection: ControlProtection,
    /// A dialer's other ways to its peer.
    pub(crate) ways: Option<mpsc::Receiver<Way>>,
    events: mpsc::Sender<Event>,
    backlog: VecDeque<Event>,
    logins: mpsc::Sender<LoginRequest>,
    snapshot: watch::Sender<Snapshot>,
    pub(crate) pulse: watch::Sender<u64>,
    /// What earlier endpoints counted.
    base: Counters,
    /// How packets pass, once there were sockets.
    path: Option<DataPath>,
    io: IoCounters,
    /// What earlier sockets counted.
    io_base: IoCounters,
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
        protection: ControlProtection,
        stop: CancellationToken,
        outlets: Outlets,
    ) -> Self {
        let Outlets { commands, events, logins, snapshot, pulse } = outlets;
        Self {
            pump: Pump::new(device),
            offload,
            tls,
            stop,
            commands,
            protection,
            ways: None,
            events,
            backlog: VecDeque::new(),
            logins,
            snapshot,
            pulse,
            base: Counters::default(),
            path: None,
            io: IoCounters::default(),
            io_base: IoCounters::default(),
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

    /// Obeys as far as it concerns all endpoints; false when an endpoint is not to hear of it.
    pub(crate) fn obey(&mut self, command: &Command) -> bool {
        let Command::Identify(identity) = command else { return true };
        let taken = self.identify(identity);
        self.report(Event::Identified(taken.clone()));
        taken.is_ok()
    }

    fn identify(&mut self, identity: &TunnelIdentity) -> Result<(), String> {
        let fits = match self.tls.role() {
            ovpn::wrap::Role::Server => identity.protection.for_server().is_some(),
            ovpn::wrap::Role::Client => identity.protection.for_client().is_some(),
        };
        if !fits {
            return Err("its tls-crypt-v2 key is of the other end".to_owned());
        }
        self.tls.replace(identity).map_err(|error| error.to_string())?;
        self.protection.clone_from(&identity.protection);
        Ok(())
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
            data_path: self.path.unwrap_or_else(|| DataPath { device: self.pump.device_path(), ..DataPath::default() }),
            io: self.io,
            ..Snapshot::new(&self.base, counters, peers)
        }
    }

    /// Drives `endpoint` over `socket` until it ends or the tunnel is told to stop.
    pub(crate) async fn run<E: Role>(&mut self, endpoint: &mut E, socket: &mut Sockets) -> Result<Outcome, Error> {
        let (tls_output, mut tls_results) = mpsc::channel(256);
        let mut tls = TlsTasks { inputs: HashMap::new(), output: tls_output };
        self.look_at_path(endpoint, socket);
        let result = self.run_until_end(endpoint, socket, &mut tls, &mut tls_results).await;
        // What the sockets do not take would stand before the goodbye.
        let full = self.pump.blocked().filter(|to| to.transport == Transport::Udp);
        endpoint.count_drops(DropReason::Blocked, self.pump.drop_sealed());
        if !matches!(result, Err(Error::Receive(_))) {
            let deadline = tokio::time::Instant::now() + GOODBYE;
            // Past either deadline the peers find out by themselves.
            let _ = tokio::time::timeout(ROOM, when_writable(socket, full)).await;
            endpoint.shut_down(Instant::now());
            let goodbye = self.say_goodbye(endpoint, socket, &mut tls, &mut tls_results);
            let _ = tokio::time::timeout_at(deadline, goodbye).await;
        }
        self.settle(endpoint, socket, &mut tls);
        self.look_at_path(endpoint, socket);
        self.io_base = self.io;
        crate::report::add(&mut self.base, &endpoint.counters());
        self.snapshot.send_replace(self.picture(&Counters::default(), Vec::new()));
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
            let blocked = self.pump.blocked();
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
                    if self.obey(&command) && endpoint.obey(Instant::now(), command) {
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
                    self.pump.turn(endpoint, socket).await?;
                }
                ready = self.pump.readable(), if blocked.is_none() => {
                    ready.map_err(Error::Device)?;
                    self.pump.turn(endpoint, socket).await?;
                }
                // The device and the sockets have said all, but a turn was over before it was all done.
                () = std::future::ready(()), if blocked.is_none() && self.pump.is_waiting() => {
                    self.pump.turn(endpoint, socket).await?;
                }
                Some(ready) = when_writable(socket, blocked) => {
                    ready.map_err(Error::Receive)?;
                    self.pump.turn(endpoint, socket).await?;
                }
                permit = events.reserve(), if !self.backlog.is_empty() => {
                    match (permit, self.backlog.pop_front()) {
                        (Ok(permit), Some(event)) => permit.send(event),
                        (_, _) => self.backlog.clear(),
                    }
                }
                _ = publish.tick() => {
                    beat(&self.pulse);
                    socket.sweep(Instant::now(), |at| endpoint.needs(at)).map_err(Error::Receive)?;
                    self.look_at_path(endpoint, socket);
                    self.publish(endpoint, socket);
                }
            }
        }
    }

    /// Notes how packets pass now, and says so when it is news.
    fn look_at_path<E: Endpoint>(&mut self, endpoint: &mut E, socket: &mut Sockets) {
        if let Some(to) = socket.take_too_long() {
            endpoint.doubt_path(Instant::now(), to);
        }
        let remote = || endpoint.peers().first().map(|peer| peer.connected.remote);
        let (udp_send, udp_receive) = socket.paths(remote);
        let path = DataPath { device: self.pump.device_path(), udp_send, udp_receive };
        path.log(self.path.replace(path));
        (self.io.device_read, self.io.device_write) = self.pump.device_counts();
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
                    if ready.is_err() || self.pump.receive(endpoint, socket, Instant::now()).is_err() {
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
        if self.pump.blocked().is_some_and(|to| !endpoint.carries(to)) {
            endpoint.count_drops(DropReason::Blocked, self.pump.drop_sealed());
        }
        while let Some((key, input)) = endpoint.poll_tls() {
            if let Err(why) = tls.pass(&self.tls, key, input) {
                endpoint.handle_tls(now, key, TlsOutput::Failed(why));
            }
        }
        self.pump.transmit(endpoint, socket, now);
        socket.flush();
        // Whoever reads an event finds its effect in the snapshot.
        let mut news = endpoint.poll_event();
        if news.is_some() {
            self.publish(endpoint, socket);
        }
        while let Some(event) = news {
            if let Some(event) = Event::from_endpoint(event) {
                self.report(event);
            }
            news = endpoint.poll_event();
        }
    }

    fn publish<E: Endpoint>(&mut self, endpoint: &E, socket: &mut Sockets) {
        let snapshot = self.picture(&endpoint.counters(), endpoint.peers());
        if snapshot.mtu != self.snapshot.borrow().mtu {
            socket.forget_refusals();
        }
        self.snapshot.send_if_modified(|old| {
            let differs = *old != snapshot;
            *old = snapshot;
            differs
        });
    }
}

/// Shows that the thread goes on.
fn beat(pulse: &watch::Sender<u64>) {
    pulse.send_modify(|count| *count += 1);
}

/// Shows it until `waiting` is over, which must have a deadline.
pub(crate) async fn beating<T>(pulse: &watch::Sender<u64>, waiting: impl Future<Output = T>) -> T {
    let mut interval = tokio::time::interval(PUBLISH_INTERVAL);
    let beats = async {
        loop {
            interval.tick().await;
            beat(pulse);
        }
    };
    tokio::select! {
        over = waiting => over,
        () = beats => std::future::pending().await,
    }
}

/// Waits until a blocked datagram can be sent; gives nothing if there is none.
async fn when_writable(socket: &Sockets, blocked: Option<Underlay>) -> Option<io::Result<()>> {
    Some(socket.writable(blocked?).await)
}

async fn next_way(ways: &mut Option<mpsc::Receiver<Way>>) -> Option<Way> {
    ways.as_mut()?.recv().await
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
