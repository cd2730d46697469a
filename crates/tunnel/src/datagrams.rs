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
use crate::sys::{Fragments, set_fragments};

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
/// As long as a tunnel runs.
const NEVER: Duration = Duration::from_secs(1 << 32);
/// Refusals that are remembered: of as many peers with small routes. One that is forgotten costs a call.
const REFUSALS: usize = 16;

/// See the module's documentation.
pub(crate) struct Datagrams {
    socket: UdpSocket,
    /// Room for what comes with a datagram.
    control: Vec<u8>,
    gathers: bool,
    /// What the kernel does not cut.
    refusals: Vec<Refusal>,
    /// Where datagrams went that are too long for the route, since that was last asked.
    too_long: Option<SocketAddr>,
    sent: IoCount,
    received: IoCount,
}

/// Datagrams that the kernel did not cut, so that they go out one by one.
struct Refusal {
    /// Where they went. `None` where nothing can be cut.
    to: Option<SocketAddr>,
    /// From which length on.
    segment: usize,
    /// When it is tried again: routes and their MTU change.
    again: Instant,
}

impl Refusal {
    fn is_of(&self, group: &Group<'_>) -> bool {
        self.to.is_none_or(|to| to == group.to.address) && group.segment >= self.segment
    }
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
        let mut refusals = Vec::with_capacity(REFUSALS);
        if !can_cut {
            refusals.push(Refusal { to: None, segment: 0, again: Instant::now() + NEVER });
        }
        Self {
            socket,
            control: nix::cmsg_space!(i32),
            gathers,
            refusals,
            too_long: None,
            sent: IoCount::default(),
            received: IoCount::default(),
        }
    }

    /// What a call that sends and one that receives carries, as things stand.
    pub(crate) fn paths(&self) -> (DatagramPath, DatagramPath) {
        let path = |many| if many { DatagramPath::Segmented } else { DatagramPath::Single };
        (path(self.refusals.iter().all(|refusal| refusal.segment > TYPICAL)), path(self.gathers))
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

    /// Receives one or more datagrams of the same sender, also such that came since there were none. `buf` should have
    /// [`ROOM`].
    pub(crate) fn try_recv(&mut self, buf: &mut [u8]) -> io::Result<Arrived> {
        let Self { socket, control, received, .. } = self;
        let mut receive = || {
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
        };
        let mut asked = false;
        let known = socket.try_io(Interest::READABLE, || {
            asked = true;
            receive()
        });
        let arrived = if asked { known } else { receive() }?;
        received.add(arrived.length.div_ceil(arrived.segment.max(1)).max(1) as u64);
        Ok(arrived)
    }

    /// Most packets and bytes of a [`Group`] that [`Self::try_send`] takes.
    pub(crate) fn limits() -> (usize, usize) {
        (MAX_SEGMENTS, MAX_BYTES)
    }

    /// Sends the beginning of a group; gives how many datagrams that were.
    ///
    /// # Errors
    /// With the number of datagrams that were tried.
    pub(crate) fn try_send(&mut self, group: &Group<'_>) -> Result<usize, (io::Error, usize)> {
        let now = Instant::now();
        let refused = self.refusals.iter().any(|refusal| refusal.is_of(group) && refusal.again > now);
        if group.packets > 1 && !refused {
            match self.try_send_many(group) {
                Ok(()) => {
                    self.refusals.retain(|refusal| !refusal.is_of(group));
                    return Ok(self.note_sent(group.packets));
                }
                Err(error) if is_refusal(&error) => self.note_refusal(&error, group, now + AGAIN),
                Err(error) => return Err((error, group.packets)),
            }
        }
        let first = group.bytes.get(..group.segment).unwrap_or(group.bytes);
        let sent = self.try_send_to(first, group.to.address);
        sent.map(|()| self.note_sent(1)).map_err(|error| (error, 1))
    }

    fn note_refusal(&mut self, error: &io::Error, group: &Group<'_>, again: Instant) {
        tracing::debug!(%error, to = %group.to, segment = group.segment, "the kernel does not cut these datagrams; they go one by one");
        self.refusals.retain(|refusal| !refusal.is_of(group));
        if self.refusals.len() == REFUSALS {
            self.refusals.remove(0);
        }
        // Without checksums by the device there is no cutting at all; else they are too long for the route, and have to be
        // fragmented.
        let unable = error.raw_os_error() == Some(Errno::EIO as i32);
        let to = (!unable).then_some(group.to.address);
        self.refusals.push(Refusal { to, segment: if unable { 0 } else { group.segment }, again });
        self.too_long = to.or(self.too_long);
    }

    fn note_sent(&mut self, packets: usize) -> usize {
        self.sent.add(packets as u64);
        packets
    }

    /// Sends one datagram.
    pub(crate) fn try_send_to(&self, datagram: &[u8], to: SocketAddr) -> io::Result<()> {
        self.socket.try_send_to(datagram, to).map(drop)
    }

    /// Sends one datagram in one piece, whatever is known of the path.
    ///
    /// # Errors
    /// Also when our own link takes no such long one ([`is_too_long`]).
    pub(crate) fn try_send_whole(&self, datagram: &[u8], to: SocketAddr) -> io::Result<()> {
        // What is mapped into IPv6 goes out as IPv4.
        let ipv6 = to.ip().to_canonical().is_ipv6();
        set_fragments(&self.socket, ipv6, Fragments::Forbidden)?;
        let sent = self.try_send_to(datagram, to);
        set_fragments(&self.socket, ipv6, Fragments::Allowed)?;
        sent
    }

    /// Where datagrams went since the last call that turned out to be too long for the route.
    pub(crate) fn take_too_long(&mut self) -> Option<SocketAddr> {
        self.too_long.take()
    }

    /// Forgets what was too long for the route: the lengths of datagrams are others from now on.
    pub(crate) fn forget_refusals(&mut self) {
        self.refusals.retain(|refusal| refusal.to.is_none());
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

/// Whether our own link refuses a datagram because of its length.
pub(crate) fn is_too_long(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::EMSGSIZE as i32)
}

/// Whether the kernel will not cut datagrams of this length on their way there, though it may take them one by one.
fn is_refusal(error: &io::Error) -> bool {
    [Errno::EIO, Errno::EINVAL, Errno::EMSGSIZE].iter().any(|&errno| error.raw_os_error() == Some(errno as i32))
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().map(|&address| SocketAddrV4::from(address).into());
    v4.or_else(|| storage.as_sockaddr_in6().map(|&address| SocketAddrV6::from(address).into()))
}
