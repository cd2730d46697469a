//! The UDP socket.

use std::io;
use std::net::SocketAddr;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use crate::sys::{Fragments, set_fragments};

/// Room for bursts, bytes. A full buffer is a lost packet.
const BUFFER: usize = 4 * 1024 * 1024;

/// Binds a socket with large buffers whose datagrams may be fragmented. Needs a tokio runtime.
pub(crate) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    // Beyond the system's limit only with CAP_NET_ADMIN; less room is not an error.
    if setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).is_err() {
        let _ = socket.set_recv_buffer_size(BUFFER);
    }
    if setsockopt(&socket, sockopt::SndBufForce, &BUFFER).is_err() {
        let _ = socket.set_send_buffer_size(BUFFER);
    }
    if address.is_ipv6() {
        // The unspecified address serves both families, whatever the system's default is.
        socket.set_only_v6(false)?;
    }
    set_fragments(&socket, false, Fragments::Allowed)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}
