//! The sockets of one end: datagrams, connections, or both.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use ovpn::underlay::{Transport, Underlay};
use tokio::net::{TcpStream, UdpSocket};

use crate::streams::{Kind, Queued, Streams};

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It is on its way.
    Yes,
    /// Nothing can be sent for now; [`Sockets::writable`] or [`Sockets::readable`] tells when to try again.
    Later,
    /// It is lost.
    No,
}

/// A socket to one server.
pub(crate) enum Opened {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

/// See the module's documentation.
pub(crate) struct Sockets {
    /// A listener's, or a dialer's for IPv4.
    udp: Option<UdpSocket>,
    /// A dialer's for IPv6.
    udp6: Option<UdpSocket>,
    streams: Option<Streams>,
    /// There is one peer only: when it is slow, everything may wait for it. Otherwise its packets are dropped.
    single: bool,
}

impl Sockets {
    /// A dialer's. `remote` is where the socket leads.
    pub(crate) fn dialing(remote: Underlay, opened: Opened) -> io::Result<Self> {
        let mut sockets = Self { udp: None, udp6: None, streams: None, single: true };
        sockets.add(remote, opened)?;
        Ok(sockets)
    }

    /// Takes up another socket of a dialer. One for datagrams takes the place of the one for the same family.
    pub(crate) fn add(&mut self, remote: Underlay, opened: Opened) -> io::Result<()> {
        match opened {
            Opened::Udp(udp) if remote.address.is_ipv6() => self.udp6 = Some(udp),
            Opened::Udp(udp) => self.udp = Some(udp),
            Opened::Tcp(stream) => match &mut self.streams {
                Some(streams) => streams.add(stream.into_std()?, remote.address)?,
                None => self.streams = Some(Streams::connected(stream.into_std()?)?),
            },
        }
        Ok(())
    }

    /// Closes what leads to `remote` only, without reporting it.
    pub(crate) fn forget(&mut self, remote: Underlay) {
        if let (Transport::Tcp, Some(streams)) = (remote.transport, &mut self.streams) {
            streams.forget(remote.address);
        }
    }

    /// A listener's.
    pub(crate) fn listening(udp: UdpSocket, streams: Option<Streams>) -> Self {
        Self { udp: Some(udp), udp6: None, streams, single: false }
    }

    /// The sockets for datagrams.
    pub(crate) fn udp(&self) -> [Option<&UdpSocket>; 2] {
        [self.udp.as_ref(), self.udp6.as_ref()]
    }

    pub(crate) fn streams(&mut self) -> Option<&mut Streams> {
        self.streams.as_mut()
    }

    /// Waits until something may have come in, or a connection can be written to again.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        tokio::select! {
            Some(ready) = on(self.udp.as_ref(), UdpSocket::readable) => ready,
            Some(ready) = on(self.udp6.as_ref(), UdpSocket::readable) => ready,
            Some(ready) = on(self.streams.as_ref(), Streams::ready) => ready,
            else => std::future::pending().await,
        }
    }

    /// Waits until datagrams to `to` are taken. Whether a connection takes more is told by [`Self::readable`].
    pub(crate) async fn writable(&self, to: Underlay) -> io::Result<()> {
        match (to.transport, self.udp_to(to)) {
            (Transport::Udp, Some(udp)) => udp.writable().await,
            _ => std::future::pending().await,
        }
    }

    fn udp_to(&self, to: Underlay) -> Option<&UdpSocket> {
        if self.single && to.address.is_ipv6() { self.udp6.as_ref() } else { self.udp.as_ref() }
    }

    /// Sends a packet; over a connection it goes out with [`Self::flush`].
    pub(crate) fn send(&mut self, packet: &[u8], to: Underlay, kind: Kind) -> Sent {
        match to.transport {
            Transport::Udp => match self.udp_to(to).map(|udp| udp.try_send_to(packet, to.address)) {
                Some(Ok(_)) => Sent::Yes,
                Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => Sent::Later,
                Some(Err(_)) | None => Sent::No,
            },
            Transport::Tcp => match self.streams.as_mut().map(|streams| streams.send(to.address, packet, kind)) {
                Some(Queued::Yes) => Sent::Yes,
                Some(Queued::Full) if self.single => Sent::Later,
                Some(Queued::Full | Queued::Gone) | None => Sent::No,
            },
        }
    }

    /// Writes to connections what was queued for them.
    pub(crate) fn flush(&mut self) {
        if let Some(streams) = &mut self.streams {
            streams.flush();
        }
    }

    /// Closes connections that are of no use any more.
    pub(crate) fn sweep(&mut self, now: Instant, is_needed: impl Fn(Underlay) -> bool) -> io::Result<()> {
        match &mut self.streams {
            Some(streams) => streams.sweep(now, |peer: SocketAddr| is_needed(Underlay::tcp(peer))),
            None => Ok(()),
        }
    }

    /// The next connection that ended.
    pub(crate) fn poll_closed(&mut self) -> Option<Underlay> {
        self.streams.as_mut()?.poll_closed().map(Underlay::tcp)
    }
}

/// What `wait` gives for `what`, or nothing if there is none.
async fn on<'a, T, F: Future>(what: Option<&'a T>, wait: impl FnOnce(&'a T) -> F) -> Option<F::Output> {
    Some(wait(what?).await)
}
