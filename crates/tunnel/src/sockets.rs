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

/// See the module's documentation.
pub(crate) struct Sockets {
    udp: Option<UdpSocket>,
    streams: Option<Streams>,
    /// There is one peer only: when it is slow, everything may wait for it. Otherwise its packets are dropped.
    single: bool,
}

impl Sockets {
    /// A dialer's, over UDP.
    pub(crate) fn dialing(udp: UdpSocket) -> Self {
        Self { udp: Some(udp), streams: None, single: true }
    }

    /// A dialer's, over TCP.
    pub(crate) fn connected(stream: TcpStream) -> io::Result<Self> {
        let streams = Streams::connected(stream.into_std()?)?;
        Ok(Self { udp: None, streams: Some(streams), single: true })
    }

    /// A listener's.
    pub(crate) fn listening(udp: UdpSocket, streams: Option<Streams>) -> Self {
        Self { udp: Some(udp), streams, single: false }
    }

    pub(crate) fn udp(&self) -> Option<&UdpSocket> {
        self.udp.as_ref()
    }

    pub(crate) fn streams(&mut self) -> Option<&mut Streams> {
        self.streams.as_mut()
    }

    /// Waits until something may have come in, or a connection can be written to again.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        match (&self.udp, &self.streams) {
            (Some(udp), None) => udp.readable().await,
            (None, Some(streams)) => streams.ready().await,
            (Some(udp), Some(streams)) => tokio::select! {
                ready = udp.readable() => ready,
                ready = streams.ready() => ready,
            },
            (None, None) => std::future::pending().await,
        }
    }

    /// Waits until the socket for datagrams takes some.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        match &self.udp {
            Some(udp) => udp.writable().await,
            None => std::future::pending().await,
        }
    }

    /// Sends a packet; over a connection it goes out with [`Self::flush`].
    pub(crate) fn send(&mut self, packet: &[u8], to: Underlay, kind: Kind) -> Sent {
        match (to.transport, &self.udp, &mut self.streams) {
            (Transport::Udp, Some(udp), _) => match udp.try_send_to(packet, to.address) {
                Ok(_) => Sent::Yes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Sent::Later,
                Err(_) => Sent::No,
            },
            (Transport::Tcp, _, Some(streams)) => match streams.send(to.address, packet, kind) {
                Queued::Yes => Sent::Yes,
                Queued::Full if self.single => Sent::Later,
                Queued::Full | Queued::Gone => Sent::No,
            },
            (Transport::Udp, None, _) | (Transport::Tcp, _, None) => Sent::No,
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
