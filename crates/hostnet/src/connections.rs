//! TCP connections of this host to others: whether bytes move in them, and their end.
//!
//! By the kernel's `NETLINK_SOCK_DIAG` (`linux/inet_diag.h`, `linux/sock_diag.h`, `linux/tcp.h`), which `ss -tiK` uses too.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket,
    sockopt::ReceiveTimeout,
};
use nix::sys::time::TimeVal;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const INET_DIAG_INFO: u16 = 2;
const TCP: u8 = 6;
const ESTABLISHED: u32 = 1 << 1;
/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct inet_diag_msg`; after its first four bytes comes `struct inet_diag_sockid`.
const MESSAGE: usize = 72;
const ID: std::ops::Range<usize> = 4..52;
/// `tcpi_last_data_recv` and `tcpi_last_ack_recv` in `struct tcp_info`, milliseconds.
const DATA_HEARD: usize = 52;
const ACK_HEARD: usize = 56;
/// `tcpi_bytes_acked` and `tcpi_bytes_received` in `struct tcp_info`.
const ACKED: usize = 120;
const RECEIVED: usize = 128;
const ENOENT: i32 = 2;

/// One established connection that this host has to a certain address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    family: u8,
    id: [u8; 48],
    /// Bytes that the other end has acknowledged or sent so far.
    pub moved: u64,
    /// How long ago anything came from the other end's kernel, be it the answer to a keepalive.
    pub heard: Duration,
}

impl Connection {
    /// What tells it from every other, for as long as the host runs.
    #[must_use]
    pub fn id(&self) -> [u8; 48] {
        self.id
    }
}

/// The established connections to `to`.
///
/// # Errors
/// When the kernel does not tell.
pub fn established(to: SocketAddr) -> io::Result<Vec<Connection>> {
    let socket = open()?;
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 } as u8;
    // The kernel is asked for the port; of the address it would need a program.
    let mut id = [0; 48];
    id[2..4].copy_from_slice(&to.port().to_be_bytes());
    id[40..48].fill(0xff);
    request(&socket, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, family, &id)?;
    let mut found = Vec::new();
    let mut buffer = vec![0; 65536];
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = &buffer[..length];
        while let Some((kind, body, next)) = message(rest) {
            match kind {
                NLMSG_DONE => return Ok(found),
                NLMSG_ERROR => return error(body).map(|()| found),
                SOCK_DIAG_BY_FAMILY => found.extend(connection(body).filter(|connection| connection.leads(to))),
                _ => {}
            }
            rest = next;
        }
    }
}

/// Ends a connection: whoever has it open gets an error, and the other end a reset, if it can still be reached. One that has
/// ended meanwhile is fine.
///
/// # Errors
/// Without `CAP_NET_ADMIN`, or on a kernel that cannot (`CONFIG_INET_DIAG_DESTROY`).
pub fn end(connection: &Connection) -> io::Result<()> {
    let socket = open()?;
    request(&socket, SOCK_DESTROY, NLM_F_ACK, connection.family, &connection.id)?;
    let mut buffer = [0; 1024];
    let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    match message(&buffer[..length]) {
        Some((NLMSG_ERROR, body, _)) => match error(body) {
            Err(error) if error.raw_os_error() == Some(ENOENT) => Ok(()),
            answer => answer,
        },
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

impl Connection {
    fn leads(&self, to: SocketAddr) -> bool {
        let port = u16::from_be_bytes([self.id[2], self.id[3]]);
        let address = &self.id[20..36];
        port == to.port()
            && match to.ip() {
                std::net::IpAddr::V4(ip) => address[..4] == ip.octets(),
                std::net::IpAddr::V6(ip) => *address == ip.octets(),
            }
    }
}

fn open() -> io::Result<OwnedFd> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::new(5, 0))?;
    Ok(socket)
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2`.
fn request(socket: &OwnedFd, kind: u16, flags: u16, family: u8, id: &[u8; 48]) -> io::Result<()> {
    let mut request = Vec::with_capacity(HEADER + 56);
    request.extend(72_u32.to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    request.extend([0; 8]);
    request.extend([family, TCP, 1 << (INET_DIAG_INFO - 1), 0]);
    request.extend(ESTABLISHED.to_ne_bytes());
    request.extend(id);
    send(socket.as_raw_fd(), &request, MsgFlags::empty())?;
    Ok(())
}

/// The first message in `bytes`: its type, its body, and what follows.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let body = bytes.get(HEADER..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// `struct nlmsgerr`.
fn error(body: &[u8]) -> io::Result<()> {
    match body.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// `struct inet_diag_msg` and its attributes.
fn connection(body: &[u8]) -> Option<Connection> {
    let family = *body.first()?;
    let id = body.get(ID)?.try_into().ok()?;
    let mut rest = body.get(MESSAGE..)?;
    while let Some(head) = rest.first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let value = rest.get(4..length)?;
        if u16::from_ne_bytes([head[2], head[3]]) == INET_DIAG_INFO {
            let number = |at: usize| Some(u64::from_ne_bytes(*value.get(at..)?.first_chunk()?));
            let millis = |at: usize| Some(u32::from_ne_bytes(*value.get(at..)?.first_chunk()?));
            let heard = Duration::from_millis(millis(DATA_HEARD)?.min(millis(ACK_HEARD)?).into());
            return Some(Connection { family, id, moved: number(ACKED)?.wrapping_add(number(RECEIVED)?), heard });
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn what_moves_is_seen_and_only_what_is_named_ends() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(host).unwrap();
            let address = listener.local_addr().unwrap();
            let mut ours = TcpStream::connect(address).unwrap();
            let mut theirs = listener.accept().unwrap().0;
            let mut other = TcpStream::connect(address).unwrap();
            let mut other_end = listener.accept().unwrap().0;
            let before = established(address).unwrap();
            assert_eq!(before.len(), 2, "{before:?}");
            ours.write_all(&[0; 1000]).unwrap();
            theirs.read_exact(&mut [0; 1000]).unwrap();
            let after = established(address).unwrap();
            let moved: Vec<&Connection> = after
                .iter()
                .filter(|new| before.iter().any(|old| old.id() == new.id() && old.moved + 1000 == new.moved))
                .collect();
            assert_eq!(moved.len(), 1, "{before:?} {after:?}");
            // Time passes in the one in which nothing does.
            let of = |id| established(address).unwrap().into_iter().find(|connection| connection.id() == id).unwrap();
            let quiet = after.iter().find(|connection| connection.id() != moved[0].id()).unwrap().id();
            let patience = std::time::Instant::now() + Duration::from_secs(10);
            while of(quiet).heard < Duration::from_millis(300) {
                assert!(std::time::Instant::now() < patience, "{:?}", of(quiet));
                std::thread::sleep(Duration::from_millis(20));
            }
            ours.write_all(b"x").unwrap();
            theirs.read_exact(&mut [0]).unwrap();
            assert!(of(moved[0].id()).heard < of(quiet).heard);

            match end(moved[0]) {
                // Only root may.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return,
                done => done.unwrap(),
            }
            end(moved[0]).unwrap();
            let error = ours.read(&mut [0; 1]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
            assert_eq!(established(address).unwrap().len(), 1);
            other.write_all(b"x").unwrap();
            other_end.read_exact(&mut [0; 1]).unwrap();
        }
    }

    #[test]
    fn nonsense_is_nothing() {
        for length in 0..200 {
            let bytes = vec![0xff; length];
            assert!(connection(&bytes).is_none());
            assert!(message(&bytes).is_none());
        }
    }
}
