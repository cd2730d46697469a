//! System calls that no safe wrapper covers. The only unsafe code of the workspace.
#![expect(unsafe_code, reason = "ioctl and setsockopt numbers of Linux that nix does not wrap")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use nix::libc;
use nix::sys::epoll::Epoll;
use segments::{Offload, VirtioHeader};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Datagrams of UDP over IPv4, and over IPv6, as one large packet (`linux/if_tun.h`).
const TUN_F_USO4: libc::c_uint = 0x20;
const TUN_F_USO6: libc::c_uint = 0x40;

nix::ioctl_write_ptr! {
    /// Makes an open `/dev/net/tun` a link. The kernel names it by the size of an int but takes an `ifreq`.
    tunsetiff, b'T', 202, libc::c_int
}
nix::ioctl_write_ptr! {
    /// Bytes of the header before each frame.
    tunsetvnethdrsz, b'T', 216, libc::c_int
}
nix::ioctl_write_ptr! {
    /// Whether its numbers are in the order of bytes of little-endian machines (1), or of this one (0).
    tunsetvnetle, b'T', 220, libc::c_int
}
nix::ioctl_write_int! {
    /// What of the work on large packets the program does (`TUN_F_` constants).
    tunsetoffload, b'T', 208
}
nix::ioctl_write_int! {
    /// Keeps a TUN device after its last file is closed (argument 1), or not (0).
    tunsetpersist, b'T', 203
}

/// Opens, or makes, a plain TUN device without packet information. One that this call makes goes when the file is closed.
/// Returns its name too, in which the kernel puts a number for `%d`.
pub(crate) fn open_tun(name: &str) -> io::Result<(File, String)> {
    let iface = tun_tap::Iface::without_packet_info(name, tun_tap::Mode::Tun)?;
    let name = iface.name().to_owned();
    // One that stayed from before may still have large packets switched on.
    // SAFETY: the request takes an integer by value and the descriptor is an open TUN device.
    unsafe { tunsetoffload(iface.as_raw_fd(), 0) }?;
    // SAFETY: into_raw_fd gives up the only owner of a valid file descriptor, which is owned here from now on.
    let fd = unsafe { OwnedFd::from_raw_fd(iface.into_raw_fd()) };
    Ok((File::from(fd), name))
}

/// Opens, or makes, a TUN device whose packets come after a header that describes large ones ([`VirtioHeader`]), and lets
/// the kernel hand over and take large packets of TCP and, where it can (Linux 6.2), of UDP. As [`open_tun`] else.
pub(crate) fn open_offloading_tun(name: &str) -> io::Result<(File, String, Offload)> {
    let file = File::options().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: an ifreq is plain data, for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // A name that is too long is cut; the caller has checked it, and the last byte stays zero.
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name.iter_mut().take(room).zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: the request reads and writes an ifreq, to which the pointer is; it is live and writable.
    unsafe { tunsetiff(file.as_raw_fd(), std::ptr::from_mut(&mut request).cast()) }?;
    let name = request.ifr_name.iter().take_while(|&&byte| byte != 0).map(|&byte| char::from(byte as u8)).collect();
    // A device that stayed from before may have another.
    let (size, little_endian) = (VirtioHeader::LEN as libc::c_int, 0);
    // SAFETY: both requests read an int, which the pointers are to, and the descriptor is an open TUN device.
    unsafe { tunsetvnethdrsz(file.as_raw_fd(), &size).and_then(|_| tunsetvnetle(file.as_raw_fd(), &little_endian)) }?;
    let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    let udp = TUN_F_USO4 | TUN_F_USO6;
    let set = |flags: libc::c_uint| {
        // SAFETY: the request takes an integer by value and the descriptor is an open TUN device.
        unsafe { tunsetoffload(file.as_raw_fd(), flags.into()) }
    };
    let udp = set(tcp | udp).is_ok();
    if !udp {
        set(tcp)?;
    }
    Ok((file, name, Offload { tcp: true, udp }))
}

/// Lets an open TUN device outlive this process.
pub(crate) fn let_tun_persist(tun: &File) -> io::Result<()> {
    // SAFETY: the request takes an integer by value and the descriptor is an open TUN device.
    unsafe { tunsetpersist(tun.as_raw_fd(), 1) }?;
    Ok(())
}

/// Watches a non-blocking file for readiness.
pub(crate) fn watch(file: File) -> io::Result<AsyncFd<File>> {
    // SAFETY: a File owns a valid descriptor, and nothing closes or replaces it while the AsyncFd owns the File.
    Ok(unsafe { AsyncFd::register(file) }?)
}

/// An epoll instance that can itself be watched.
pub(crate) struct WatchedEpoll(Epoll);

impl std::ops::Deref for WatchedEpoll {
    type Target = Epoll;

    fn deref(&self) -> &Epoll {
        &self.0
    }
}

impl AsRawFd for WatchedEpoll {
    fn as_raw_fd(&self) -> RawFd {
        self.0.0.as_raw_fd()
    }
}

/// Watches an epoll instance for events.
pub(crate) fn watch_epoll(epoll: Epoll) -> io::Result<AsyncFd<WatchedEpoll>> {
    let epoll = WatchedEpoll(epoll);
    // SAFETY: an Epoll owns a valid descriptor, and nothing closes or replaces it while the AsyncFd owns the Epoll.
    Ok(unsafe { AsyncFd::register_with_interest(epoll, Interest::READABLE) }?)
}

/// The MTU of the route that a connected IPv6 socket has.
pub(crate) fn ipv6_mtu(socket: &impl AsRawFd) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the pointers describe a live c_int, which is what this option gives, and its length.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU,
            std::ptr::from_mut(&mut value).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

/// Whether datagrams may be cut on their way.
#[derive(Clone, Copy)]
pub(crate) enum Fragments {
    /// As stock peers do: a path with a smaller MTU then costs fragments, not silence. Those of IPv6 are cut by us only.
    Allowed,
    /// What is longer than our own link takes is refused with `EMSGSIZE`, whatever the kernel knows of the path.
    Forbidden,
}

/// Sets that for the datagrams of a socket of either family that go out over IPv6 (`ipv6`), or over IPv4.
pub(crate) fn set_fragments(socket: &impl AsRawFd, ipv6: bool, fragments: Fragments) -> io::Result<()> {
    let (level, option, value) = match (ipv6, fragments) {
        (false, Fragments::Allowed) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT),
        (false, Fragments::Forbidden) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE),
        (true, Fragments::Allowed) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_WANT),
        (true, Fragments::Forbidden) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE),
    };
    // SAFETY: the pointer and length describe a live c_int, which is what this option takes.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(&value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
