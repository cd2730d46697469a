//! TCP connections that carry the tunnel: at a listener those that came in, at a dialer the one that went out.
//!
//! All of them are watched by one epoll instance, so that a turn costs what is ready and not what is open. Nothing here
//! waits: a peer that does not read fills its own bounded queue, and one that sends nonsense is closed.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::config::Stranger;
use crate::framing::{Inbound, Outbound, Room};
use crate::sys::WatchedEpoll;

/// Data that may wait for one connection, bytes: at least what is sent at once.
const QUEUE: usize = 64 * 1024;
/// What control packets may take beyond it: a full queue of data does not shut them out.
const RESERVE: usize = 8 * 1024;
/// What the kernel may hold unsent for one connection, bytes: more only makes the tunnel slow to react.
const UNSENT: u32 = 64 * 1024;
/// How long a connection may be open without a session.
const UNDECIDED: Duration = Duration::from_secs(5);
/// Connections that may wait for us to accept them, at a time.
const BACKLOG: i32 = 128;
/// Connections accepted, and connections served, in one turn.
const BATCH: usize = 32;
const LISTENER: u64 = 0;

/// What became of a packet that was to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Queued {
    Yes,
    /// The peer reads more slowly than we send.
    Full,
    /// There is no such connection.
    Gone,
}

/// Takes packets as they come in.
pub(crate) trait Intake {
    /// A packet of `from` stands at `range` of `buf`. False when its connection is to be closed.
    fn take(&mut self, from: SocketAddr, buf: &mut [u8], range: Range<usize>) -> bool;

    /// What came from `buf` so far must be done with: it will have other contents.
    fn finish(&mut self, buf: &mut [u8]);
}

struct Stream {
    socket: TcpStream,
    peer: SocketAddr,
    inbound: Inbound,
    outbound: Outbound,
    since: Instant,
    /// Epoll tells us when it can be written to.
    stuck: bool,
}

/// See the module's documentation.
pub(crate) struct Streams {
    epoll: AsyncFd<WatchedEpoll>,
    listener: Option<TcpListener>,
    /// The listener is watched: it is not while we can take nobody more.
    accepting: bool,
    limit: usize,
    /// Takes connections that speak TLS.
    strangers: Option<mpsc::Sender<Stranger>>,
    streams: HashMap<u64, Stream>,
    /// What the last connection that was read gave.
    room: Room,
    by_peer: HashMap<SocketAddr, u64>,
    next: u64,
    /// Connections with something in their queue that was not tried yet.
    unflushed: Vec<u64>,
    /// Connections that ended and were not reported yet.
    closed: Vec<SocketAddr>,
}

impl Streams {
    /// Listens at `address` for up to `limit` connections at a time; those that speak TLS go to `strangers`. Needs a tokio
    /// runtime.
    pub(crate) fn listen(
        address: SocketAddr,
        limit: usize,
        strangers: Option<mpsc::Sender<Stranger>>,
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        // A listener that restarts finds its old connections lingering in the kernel.
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let mut streams = Self::new(limit)?;
        streams.listener = Some(socket.into());
        streams.strangers = strangers;
        streams.accept_again()?;
        Ok(streams)
    }

    /// Takes over an outgoing connection. Needs a tokio runtime.
    pub(crate) fn connected(socket: TcpStream) -> io::Result<Self> {
        let mut streams = Self::new(1)?;
        let peer = socket.peer_addr()?;
        streams.add(socket, peer)?;
        Ok(streams)
    }

    fn new(limit: usize) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Self {
            epoll: crate::sys::watch_epoll(epoll)?,
            listener: None,
            accepting: false,
            limit,
            strangers: None,
            streams: HashMap::new(),
            room: Room::new(),
            by_peer: HashMap::new(),
            next: LISTENER + 1,
            unflushed: Vec::new(),
            closed: Vec::new(),
        })
    }

    /// Whether there is nothing left to watch, and nothing to report.
    pub(crate) fn is_over(&self) -> bool {
        self.listener.is_none() && self.streams.is_empty() && self.closed.is_empty()
    }

    /// Where it listens.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.as_ref().ok_or(io::ErrorKind::NotConnected)?.local_addr()
    }

    /// Waits until [`Self::turn`] may have something to do.
    pub(crate) async fn ready(&self) -> io::Result<()> {
        self.epoll.readable().await.map(|mut guard| guard.retain_ready())
    }

    /// Accepts, reads and writes what is ready, within a bound. Returns how many packets there were.
    pub(crate) fn turn(&mut self, intake: &mut impl Intake) -> io::Result<usize> {
        let mut events = [EpollEvent::empty(); BATCH];
        let waited =
            self.epoll.try_io(Interest::READABLE, |epoll| match epoll.wait(&mut events, EpollTimeout::ZERO)? {
                0 => Err(io::ErrorKind::WouldBlock.into()),
                ready => Ok(ready),
            });
        let ready = match waited {
            Ok(ready) => ready,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
            Err(error) => return Err(error),
        };
        let mut packets = 0;
        for event in events.iter().take(ready) {
            let (token, flags) = (event.data(), event.events());
            if token == LISTENER {
                self.accept()?;
                continue;
            }
            if flags.intersects(EpollFlags::EPOLLOUT) {
                self.flush_one(token);
            }
            if flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
                packets += self.read(token, intake);
            }
        }
        Ok(packets)
    }

    fn read(&mut self, token: u64, intake: &mut impl Intake) -> usize {
        // It may have been closed since epoll told of it.
        let Self { streams, room, strangers, .. } = self;
        let Some(Stream { socket, peer, inbound, .. }) = streams.get_mut(&token) else { return 0 };
        let mut packets = 0;
        let why = match inbound.fill(socket, room) {
            Ok(0) => Some("the peer closed it".to_owned()),
            Ok(_) => loop {
                match inbound.next(room) {
                    Ok(Some(range)) => {
                        packets += 1;
                        if !intake.take(*peer, room.bytes(), range) {
                            break Some("it carries what is no packet of ours".to_owned());
                        }
                    }
                    Ok(None) => break None,
                    Err(bad) if inbound.begins_tls(bad) && strangers.is_some() => {
                        let read = room.waiting().to_vec();
                        self.hand_over(token, read);
                        return packets;
                    }
                    Err(bad) => break Some(format!("{} cannot be a packet's length", bad.0)),
                }
            },
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => None,
            Err(error) => Some(error.to_string()),
        };
        intake.finish(room.bytes());
        if let Some(why) = why {
            self.close(token, &why);
        }
        packets
    }

    /// Gives a connection that speaks TLS to whoever takes such; it is closed when they are behind.
    fn hand_over(&mut self, token: u64, read: Vec<u8>) {
        let Some(Stream { socket, peer, .. }) = self.streams.remove(&token) else { return };
        self.by_peer.remove(&peer);
        let left = self.epoll.get_ref().delete(&socket);
        let Some(strangers) = &self.strangers else { return };
        let given = left.is_ok() && strangers.try_send(Stranger { socket, peer, read }).is_ok();
        tracing::debug!(%peer, given, "a connection speaks TLS and is no tunnel's");
    }

    fn accept(&mut self) -> io::Result<()> {
        for _ in 0..BATCH {
            let Some(listener) = &self.listener else { return Ok(()) };
            if self.streams.len() >= self.limit {
                return self.stop_accepting();
            }
            match listener.accept() {
                Ok((socket, peer)) => {
                    if let Err(error) = self.add(socket, peer) {
                        tracing::debug!(%peer, %error, "a connection could not be set up");
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {
                }
                Err(error) => {
                    // Out of descriptors or memory, most likely: those who wait are served when there are some again.
                    tracing::debug!(%error, "connections cannot be accepted for now");
                    return self.stop_accepting();
                }
            }
        }
        Ok(())
    }

    fn stop_accepting(&mut self) -> io::Result<()> {
        if let Some(listener) = self.listener.as_ref().filter(|_| self.accepting) {
            self.epoll.get_ref().delete(listener)?;
            self.accepting = false;
        }
        Ok(())
    }

    fn accept_again(&mut self) -> io::Result<()> {
        if let Some(listener) = self.listener.as_ref().filter(|_| !self.accepting) {
            self.epoll.get_ref().add(listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
            self.accepting = true;
        }
        Ok(())
    }

    /// Takes over a connection.
    pub(crate) fn add(&mut self, socket: TcpStream, peer: SocketAddr) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        SockRef::from(&socket).set_tcp_notsent_lowat(UNSENT)?;
        let token = self.next;
        self.epoll.get_ref().add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
        self.next += 1;
        // The kernel has given up the old one already, or it goes to another address of ours.
        if let Some(&old) = self.by_peer.get(&peer) {
            self.close(old, "another connection from the same address and port");
        }
        self.by_peer.insert(peer, token);
        let (inbound, outbound) = (Inbound::new(), Outbound::default());
        let stream = Stream { socket, peer, inbound, outbound, since: Instant::now(), stuck: false };
        self.streams.insert(token, stream);
        Ok(())
    }

    /// Queues a control packet for `peer`; it goes out with [`Self::flush`].
    pub(crate) fn send(&mut self, peer: SocketAddr, packet: &[u8]) -> Queued {
        self.queue(peer, |outbound| outbound.push(packet, QUEUE + RESERVE))
    }

    /// Sends data packets to `peer`, which stand after their lengths: all of them or none.
    pub(crate) fn send_data(&mut self, peer: SocketAddr, packets: &[u8]) -> Queued {
        let Some(&token) = self.by_peer.get(&peer) else { return Queued::Gone };
        let Some(stream) = self.streams.get_mut(&token) else { return Queued::Gone };
        // Without a copy where the kernel takes them at once.
        let written = if stream.outbound.is_empty() { stream.socket.write(packets).unwrap_or_default() } else { 0 };
        match packets.get(written..) {
            None | Some([]) => Queued::Yes,
            Some(rest) => self.queue(peer, |outbound| outbound.push_framed(rest, QUEUE)),
        }
    }

    fn queue(&mut self, peer: SocketAddr, mut push: impl FnMut(&mut Outbound) -> bool) -> Queued {
        let Some(&token) = self.by_peer.get(&peer) else { return Queued::Gone };
        let mut tried = false;
        loop {
            let Some(stream) = self.streams.get_mut(&token) else { return Queued::Gone };
            let was_empty = stream.outbound.is_empty();
            if push(&mut stream.outbound) {
                if was_empty {
                    self.unflushed.push(token);
                }
                return Queued::Yes;
            }
            if tried || stream.stuck {
                return Queued::Full;
            }
            tried = true;
            self.flush_one(token);
        }
    }

    /// Writes what connections take of their queues.
    pub(crate) fn flush(&mut self) {
        while let Some(token) = self.unflushed.pop() {
            self.flush_one(token);
        }
    }

    fn flush_one(&mut self, token: u64) {
        let Some(stream) = self.streams.get_mut(&token) else { return };
        let result = stream.outbound.flush(&mut stream.socket).and_then(|done| {
            if stream.stuck == done {
                let writable = if done { EpollFlags::empty() } else { EpollFlags::EPOLLOUT };
                let mut event = EpollEvent::new(EpollFlags::EPOLLIN | writable, token);
                self.epoll.get_ref().modify(&stream.socket, &mut event)?;
                stream.stuck = !done;
            }
            Ok(())
        });
        if let Err(error) = result {
            self.close(token, &error.to_string());
        }
    }

    /// Closes connections that are of no use: ended, or open for a while without a session. To be called every second
    /// or so.
    pub(crate) fn sweep(&mut self, now: Instant, is_needed: impl Fn(SocketAddr) -> bool) -> io::Result<()> {
        let young = |stream: &Stream| now.saturating_duration_since(stream.since) < UNDECIDED;
        let useless = self.streams.iter().filter(|(_, stream)| !young(stream) && !is_needed(stream.peer));
        for token in useless.map(|(&token, _)| token).collect::<Vec<_>>() {
            self.close(token, "it carries no session");
        }
        self.accept_again()
    }

    fn close(&mut self, token: u64, why: &str) {
        let Some(stream) = self.streams.remove(&token) else { return };
        tracing::debug!(peer = %stream.peer, why, "closed a connection");
        // Dropping it takes it from epoll, too.
        self.by_peer.remove(&stream.peer);
        self.closed.push(stream.peer);
    }

    /// Closes the connection with `peer` without reporting it.
    pub(crate) fn forget(&mut self, peer: SocketAddr) {
        if let Some(&token) = self.by_peer.get(&peer) {
            self.close(token, "its session is over");
        }
        self.closed.retain(|closed| *closed != peer);
    }

    /// The next connection that ended.
    pub(crate) fn poll_closed(&mut self) -> Option<SocketAddr> {
        self.closed.pop()
    }
}
