//! A socket for datagrams, which takes and gives many of the same length at a time where the kernel can cut and gather
//! them (`UDP_SEGMENT` and `UDP_GRO`, udp(7)).

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};
use ovpn::batch::Group;
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::path::{DatagramPath, IoCount};

/// Most datagrams that are sent at once: `UDP_MAX_SEGMENTS` of the older kernels.
const MAX_SEGMENTS: usize = 64;
/// Most bytes that are sent at once: what a datagram over IPv4 can carry.
const MAX_BYTES: usize = 65_507;
/// Bytes of the datagrams of a TCP connection that sends as fast as it can, over IPv4 and with the usual `mssfix`: 1,492
/// with the headers. Where these are refused, little is cut.
const TYPICAL: usize = 1464;
/// Room for anything that is received at once.
pub(crate) const ROOM: usize = 65_536;
/// After how long it is tried again what the kernel refused: routes and their MTU change.
const AGAIN: Duration = Duration::from_secs(60);

/// See the module's documentation.
pub(crate) struct Datagrams {
    socket: UdpSocket,
    /// Room for what comes with a datagram.
    control: Vec<u8>,
    gathers: bool,
    /// Datagrams of this length and longer go out one by one.
    single_from: usize,
    /// Until when.
    single_until: Option<Instant>,
    sent: IoCount,
    received: IoCount,
}

/// What was received at once.
pub(crate) struct Arrived {
    pub(crate) from: SocketAddr,
    /// Bytes of all datagrams.
    pub(crate) length: usize,
    /// Bytes of each but the last, which may be shorter.
    pub(crate) segment: usize,
}

impl Datagrams {
    /// Takes up a socket. `offload` is whether the kernel may cut and gather.
    pub(crate) fn new(socket: UdpSocket, offload: bool) -> Self {
        let gathers = offload && setsockopt(&socket, sockopt::UdpGroSegment, &true).is_ok();
        let can_cut = offload && nix::sys::socket::getsockopt(&socket, sockopt::UdpGsoSegment).is_ok();
        let single_from = if can_cut { usize::MAX } else { 0 };
        Self {
            socket,
            control: nix::cmsg_space!(i32),
            gathers,
            single_from,
            single_until: None,
            sent: IoCount::default(),
            received: IoCount::default(),
        }
    }

    /// What a call that sends and one that receives carries, as things stand.
    pub(crate) fn paths(&self) -> (DatagramPath, DatagramPath) {
        let path = |many| if many { DatagramPath::Segmented } else { DatagramPath::Single };
        (path(self.single_from > TYPICAL), path(self.gathers))
    }

    /// Calls that sent data, and calls that received.
    pub(crate) fn counts(&self) -> (IoCount, IoCount) {
        (self.sent, self.received)
    }

    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    pub(crate) async fn writable(&self) -> io::Result<()> {
        self.socket.writable().await
    }

    /// Receives one or more datagrams of the same sender. `buf` should have [`ROOM`].
    pub(crate) fn try_recv(&mut self, buf: &mut [u8]) -> io::Result<Arrived> {
        let arrived = if self.gathers {
            self.try_recv_many(buf)?
        } else {
            let (length, from) = self.socket.try_recv_from(buf)?;
            Arrived { from, length, segment: length }
        };
        self.received.add(arrived.length.div_ceil(arrived.segment.max(1)).max(1) as u64);
        Ok(arrived)
    }

    fn try_recv_many(&mut self, buf: &mut [u8]) -> io::Result<Arrived> {
        let Self { socket, control, .. } = self;
        socket.try_io(Interest::READABLE, || {
            let mut parts = [IoSliceMut::new(buf)];
            let fd = socket.as_raw_fd();
            let message = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(control), MsgFlags::empty())?;
            let from = message.address.as_ref().and_then(address).ok_or(io::ErrorKind::InvalidData)?;
            let length = message.bytes;
            let segment = message.cmsgs()?.find_map(|message| match message {
                ControlMessageOwned::UdpGroSegments(bytes) => usize::try_from(bytes).ok().filter(|&bytes| bytes > 0),
                _ => None,
            });
            Ok(Arrived { from, length, segment: segment.unwrap_or(length) })
        })
    }

    /// Most packets and bytes of a [`Group`] that [`Self::try_send`] takes.
    pub(crate) fn limits() -> (usize, usize) {
        (MAX_SEGMENTS, MAX_BYTES)
    }

    /// Sends the beginning of a group; gives how many datagrams that were.
    pub(crate) fn try_send(&mut self, group: &Group<'_>) -> io::Result<usize> {
        let tries_again = self.single_until.is_some_and(|until| until <= Instant::now());
        if group.packets > 1 && (group.segment < self.single_from || tries_again) {
            match self.try_send_many(group) {
                Err(error) if is_refusal(&error) => {
                    tracing::debug!(%error, segment = group.segment, "the kernel does not cut these datagrams; they go one by one");
                    // Without checksums by the device there is no cutting at all; else they are too long for the route,
                    // and have to be fragmented.
                    let unable = error.raw_os_error() == Some(Errno::EIO as i32);
                    self.single_from = if unable { 0 } else { group.segment.min(self.single_from) };
                    self.single_until = Some(Instant::now() + AGAIN);
                }
                Ok(()) => {
                    if tries_again {
                        (self.single_from, self.single_until) = (usize::MAX, None);
                    }
                    return Ok(self.note_sent(group.packets));
                }
                Err(error) => return Err(error),
            }
        }
        let first = group.bytes.get(..group.segment).unwrap_or(group.bytes);
        self.try_send_to(first, group.to.address).map(|()| self.note_sent(1))
    }

    fn note_sent(&mut self, packets: usize) -> usize {
        self.sent.add(packets as u64);
        packets
    }

    /// Sends one datagram.
    pub(crate) fn try_send_to(&self, datagram: &[u8], to: SocketAddr) -> io::Result<()> {
        self.socket.try_send_to(datagram, to).map(drop)
    }

    fn try_send_many(&self, group: &Group<'_>) -> io::Result<()> {
        let segment = u16::try_from(group.segment).map_err(|_| io::ErrorKind::InvalidInput)?;
        let to = SockaddrStorage::from(group.to.address);
        self.socket.try_io(Interest::WRITABLE, || {
            let parts = [IoSlice::new(group.bytes)];
            let control = [ControlMessage::UdpGsoSegments(&segment)];
            sendmsg(self.socket.as_raw_fd(), &parts, &control, MsgFlags::empty(), Some(&to))?;
            Ok(())
        })
    }
}

/// Whether the kernel will not cut datagrams of this length on their way there, though it may take them one by one.
fn is_refusal(error: &io::Error) -> bool {
    [Errno::EIO, Errno::EINVAL, Errno::EMSGSIZE].iter().any(|&errno| error.raw_os_error() == Some(errno as i32))
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().map(|&address| SocketAddrV4::from(address).into());
    v4.or_else(|| storage.as_sockaddr_in6().map(|&address| SocketAddrV6::from(address).into()))
}
