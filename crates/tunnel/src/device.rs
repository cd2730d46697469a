//! The device that inner packets come from and go to. One seam, so that a backend with offload can stand beside the
//! plain one.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Why a device cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The kernel has no TUN, or we may not use it.
    #[error(
        "cannot open the TUN device '{name}': /dev/net/tun must exist, CAP_NET_ADMIN is needed, and no other process may have the device open"
    )]
    Open {
        /// Name of the link.
        name: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The name is empty or longer than the kernel takes.
    #[error("'{0}' cannot be the name of a link: 1 to 15 characters without '/' and white space")]
    Name(String),
    /// The file could not be made ready for asynchronous use.
    #[error("cannot watch the device for packets")]
    Watch(#[source] io::Error),
}

/// A source and sink of inner IP packets, one for each read and write. Needs a tokio runtime to be made.
pub struct Device {
    file: AsyncFd<File>,
}

impl Device {
    /// Opens the plain TUN device `name`, making it if it does not exist. The link stays, with its addresses, when the
    /// process ends. Its address, MTU and state are set by whoever starts the tunnel.
    ///
    /// # Errors
    /// When the name is impossible, the kernel has no TUN, rights are missing, or another process has the device open.
    pub fn open_persistent(name: &str) -> Result<Self, DeviceError> {
        let (file, _) = open(name)?;
        crate::sys::let_tun_persist(&file).map_err(|source| DeviceError::Open { name: name.to_owned(), source })?;
        Self::watch(file)
    }

    /// Makes the plain TUN device `name`, in which the kernel puts a free number for `%d`. The link goes, with its
    /// addresses and the routes to it, when the device is dropped or the process ends. Returns its name too.
    ///
    /// # Errors
    /// As [`Self::open_persistent`].
    pub fn open_transient(name: &str) -> Result<(Self, String), DeviceError> {
        let (file, name) = open(name)?;
        Ok((Self::watch(file)?, name))
    }

    /// A device in memory, for tests: what is sent to the other end comes out of the device, one packet a message.
    ///
    /// # Errors
    /// When the system gives no socket pair.
    pub fn pair() -> Result<(Self, UnixDatagram), DeviceError> {
        let (near, far) = UnixDatagram::pair().map_err(DeviceError::Watch)?;
        Ok((Self::watch(File::from(OwnedFd::from(near)))?, far))
    }

    fn watch(file: File) -> Result<Self, DeviceError> {
        let nonblocking = |file: &File| -> nix::Result<()> {
            let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
            fcntl(file, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map(drop)
        };
        nonblocking(&file).map_err(|errno| DeviceError::Watch(errno.into()))?;
        Ok(Self { file: crate::sys::watch(file).map_err(DeviceError::Watch)? })
    }

    /// Waits until [`Self::try_recv`] may have a packet.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.file.readable().await.map(drop)
    }

    /// Reads a packet.
    pub(crate) fn try_recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.file.try_io(Interest::READABLE, |mut file| file.read(buf))
    }

    /// Writes a packet.
    pub(crate) fn try_send(&self, packet: &[u8]) -> io::Result<()> {
        // Not by readiness: a TUN device is always writable, and what it does not take is lost either way.
        self.file.get_ref().write(packet).map(drop)
    }
}

fn open(name: &str) -> Result<(File, String), DeviceError> {
    let valid = (1..16).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
    if !valid {
        return Err(DeviceError::Name(name.to_owned()));
    }
    crate::sys::open_tun(name).map_err(|source| DeviceError::Open { name: name.to_owned(), source })
}
