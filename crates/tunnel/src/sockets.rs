//! The sockets of one end: datagrams, connections, or both.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use ovpn::batch::Batch;
use ovpn::underlay::{Transport, Underlay};
use tokio::net::{TcpStream, UdpSocket};

use crate::datagrams::{self, Datagrams};
use crate::mtu;
use crate::path::{DatagramPath, IoCount, Offload};
use crate::streams::{Queued, Streams};

/// A socket to one server.
pub(crate) enum Opened {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

/// See the module's documentation.
pub(crate) struct Sockets {
    /// A listener's, or a dialer's for IPv4.
    udp: Option<Datagrams>,
    /// A dialer's for IPv6.
    udp6: Option<Datagrams>,
    streams: Option<Streams>,
    /// There is one peer only: when it is slow, everything may wait for it. Otherwise its packets are dropped.
    single: bool,
    offload: Offload,
    /// Counts of sockets that others took the place of.
    closed: (IoCount, IoCount),
}

impl Sockets {
    /// A dialer's. `remote` is where the socket leads.
    pub(crate) fn dialing(remote: Underlay, opened: Opened, offload: Offload) -> io::Result<Self> {
        let mut sockets =
            Self { udp: None, udp6: None, streams: None, single: true, offload, closed: Default::default() };
        sockets.add(remote, opened)?;
        Ok(sockets)
    }

    /// Takes up another socket of a dialer. One for datagrams takes the place of the one for the same family.
    pub(crate) fn add(&mut self, remote: Underlay, opened: Opened) -> io::Result<()> {
        match opened {
            Opened::Udp(udp) => {
                let place = if remote.address.is_ipv6() { &mut self.udp6 } else { &mut self.udp };
                if let Some(old) = place {
                    self.closed.0.merge(old.counts().0);
                    self.closed.1.merge(old.counts().1);
                }
                *place = Some(Datagrams::new(udp, self.offload == Offload::Auto));
            }
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
    pub(crate) fn listening(udp: UdpSocket, streams: Option<Streams>, offload: Offload) -> Self {
        let udp = Some(Datagrams::new(udp, offload == Offload::Auto));
        Self { udp, udp6: None, streams, single: false, offload, closed: Default::default() }
    }

    /// The sockets for datagrams.
    pub(crate) fn udp(&mut self) -> [Option<&mut Datagrams>; 2] {
        [self.udp.as_mut(), self.udp6.as_mut()]
    }

    pub(crate) fn streams(&mut self) -> Option<&mut Streams> {
        self.streams.as_mut()
    }

    /// How datagrams are sent and received. A dialer's are those of the socket that leads to `remote`, its peer.
    pub(crate) fn paths(&self, remote: impl FnOnce() -> Option<Underlay>) -> (DatagramPath, DatagramPath) {
        let unused = (DatagramPath::Unused, DatagramPath::Unused);
        let udp = match self.single.then(remote).flatten() {
            Some(remote) if remote.transport == Transport::Tcp => return unused,
            Some(remote) if remote.address.is_ipv6() => self.udp6.as_ref(),
            Some(_) => self.udp.as_ref(),
            None => self.udp.as_ref().or(self.udp6.as_ref()),
        };
        udp.map_or(unused, Datagrams::paths)
    }

    /// Calls that sent data in datagrams, and calls that received datagrams, since [`Self`] was made.
    pub(crate) fn counts(&self) -> (IoCount, IoCount) {
        let (mut sent, mut received) = self.closed;
        for udp in [&self.udp, &self.udp6].into_iter().flatten() {
            sent.merge(udp.counts().0);
            received.merge(udp.counts().1);
        }
        (sent, received)
    }

    /// Waits until something may have come in, or a connection can be written to again.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        tokio::select! {
            Some(ready) = on(self.udp.as_ref(), Datagrams::readable) => ready,
            Some(ready) = on(self.udp6.as_ref(), Datagrams::readable) => ready,
            Some(ready) = on(self.streams.as_ref(), Streams::ready) => ready,
            else => std::future::pending().await,
        }
    }

    /// Waits until datagrams to `to` are taken. Whether a connection takes more is told by [`Self::readable`].
    pub(crate) async fn writable(&self, to: Underlay) -> io::Result<()> {
        let udp = if self.is_of_ipv6(to) { &self.udp6 } else { &self.udp };
        match (to.transport, udp) {
            (Transport::Udp, Some(udp)) => udp.writable().await,
            _ => std::future::pending().await,
        }
    }

    fn is_of_ipv6(&self, to: Underlay) -> bool {
        self.single && to.address.is_ipv6()
    }

    fn udp_to(&mut self, to: Underlay) -> Option<&mut Datagrams> {
        if self.is_of_ipv6(to) { self.udp6.as_mut() } else { self.udp.as_mut() }
    }

    /// Sends a control packet; over a connection it goes out with [`Self::flush`]. False when it is lost.
    pub(crate) fn send(&mut self, packet: &[u8], to: Underlay) -> bool {
        match to.transport {
            Transport::Udp => self.udp_to(to).is_some_and(|udp| udp.try_send_to(packet, to.address).is_ok()),
            Transport::Tcp => {
                let queued = self.streams.as_mut().map(|streams| streams.send(to.address, packet));
                queued == Some(Queued::Yes)
            }
        }
    }

    /// Sends a datagram in one piece. False when it is too long for our own link or the route; it may be lost else.
    pub(crate) fn send_whole(&mut self, packet: &[u8], to: Underlay) -> bool {
        // Where fragments are forbidden the kernel looks at the link only, and would cut every data packet that is sent later.
        if !mtu::route_carries(to.address.ip(), packet.len()) {
            return false;
        }
        let sent = match to.transport {
            Transport::Udp => self.udp_to(to).map(|udp| udp.try_send_whole(packet, to.address)),
            Transport::Tcp => None,
        };
        !matches!(sent, Some(Err(error)) if datagrams::is_too_long(&error))
    }

    /// Where datagrams went since the last call that turned out to be too long for the route.
    pub(crate) fn take_too_long(&mut self) -> Option<Underlay> {
        self.udp().into_iter().flatten().find_map(Datagrams::take_too_long).map(Underlay::udp)
    }

    /// Lets the kernel cut again what it refused because of its length.
    pub(crate) fn forget_refusals(&mut self) {
        for udp in self.udp().into_iter().flatten() {
            udp.forget_refusals();
        }
    }

    /// Sends what waits in `batch`, but for datagrams at its end that would go with those of the next frame when there is one
    /// (`more`). What else stays in it can be sent when [`Self::writable`] or [`Self::readable`] says so. Gives how many
    /// packets are lost.
    pub(crate) fn send_batch(&mut self, batch: &mut Batch, more: bool) -> usize {
        let (packets, bytes) = Datagrams::limits();
        let mut lost = 0;
        // A connection that has no room for many.
        let mut slow = None;
        while let Some(to) = batch.next_to() {
            let packets = if slow == Some(to) { 1 } else { packets };
            let Some(group) = batch.group(packets, bytes).filter(|group| !(more && group.is_open)) else { break };
            let sent = match to.transport {
                Transport::Udp => match self.udp_to(to).map(|udp| udp.try_send(&group)) {
                    Some(Ok(sent)) => Ok(sent),
                    Some(Err((error, _))) if error.kind() == io::ErrorKind::WouldBlock => return lost,
                    Some(Err((_, tried))) => Err(tried),
                    None => Err(group.packets),
                },
                Transport::Tcp => match self.streams.as_mut().map(|streams| streams.send_data(to.address, group.bytes))
                {
                    Some(Queued::Yes) => Ok(group.packets),
                    // As many as there is room for.
                    Some(Queued::Full) if group.packets > 1 => {
                        slow = Some(to);
                        continue;
                    }
                    Some(Queued::Full) if self.single => return lost,
                    Some(Queued::Full | Queued::Gone) | None => Err(group.packets),
                },
            };
            lost += sent.err().unwrap_or_default();
            batch.advance(sent.unwrap_or_else(|lost| lost));
        }
        lost
    }

    /// Writes to connections what was queued for them.
    pub(crate) fn flush(&mut self) {
        if let Some(streams) = &mut self.streams {
            streams.flush();
        }
    }

    /// Closes connections that are of no use any more.
    pub(crate) fn sweep(&mut self, now: Instant, is_needed: impl Fn(Underlay) -> bool) -> io::Result<()> {
        if self.streams.as_ref().is_some_and(Streams::is_over) {
            // What watches connections is a descriptor, too.
            self.streams = None;
        }
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::*;

    /// A dialer that went from TCP to UDP keeps nothing of TCP, not even what watched its connections.
    #[tokio::test]
    async fn nothing_is_left_of_connections_that_ended() {
        let here = (Ipv4Addr::LOCALHOST, 0);
        let listener = TcpListener::bind(here).await.unwrap();
        let tcp = Underlay::tcp(listener.local_addr().unwrap());
        let connect = async || Opened::Tcp(TcpStream::connect(tcp.address).await.unwrap());
        let mut sockets = Sockets::dialing(tcp, connect().await, Offload::Auto).unwrap();
        let udp = UdpSocket::bind(here).await.unwrap();
        sockets.add(Underlay::udp(udp.local_addr().unwrap()), Opened::Udp(udp)).unwrap();

        let later = Instant::now() + Duration::from_secs(3600);
        sockets.sweep(later, |_| true).unwrap();
        sockets.sweep(later, |at| at != tcp).unwrap();
        // The end is reported before all is gone.
        sockets.sweep(later, |_| false).unwrap();
        assert_eq!(sockets.poll_closed(), Some(tcp));
        sockets.sweep(later, |_| false).unwrap();
        assert!(sockets.streams().is_none());

        sockets.add(tcp, connect().await).unwrap();
        assert!(sockets.send(b"again", tcp));
    }
}
