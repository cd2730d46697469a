//! The device that inner packets come from and go to, one by one or, where the kernel can, many of a flow as one frame.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use segments::Offload as Joins;
use segments::{MAX_FRAME, MAX_PACKETS, Run, Split, VirtioHeader};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::path::{DevicePath, IoCount, Offload};
use crate::queue::Frame;

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

/// A source and sink of inner IP packets.
pub struct Device {
    file: File,
    /// What it gives and takes as one frame. `None` for a plain device, whose frames have no header.
    frames: Option<Joins>,
}

impl Device {
    /// Opens the TUN device `name`, making it if it does not exist. The link stays, with its addresses, when the
    /// process ends. Its address, MTU and state are set by whoever starts the tunnel.
    ///
    /// # Errors
    /// When the name is impossible, the kernel has no TUN, rights are missing, or another process has the device open.
    pub fn open_persistent(name: &str, offload: Offload) -> Result<Self, DeviceError> {
        let (device, _) = Self::open(name, offload)?;
        let refused = |source| DeviceError::Open { name: name.to_owned(), source };
        crate::sys::let_tun_persist(&device.file).map_err(refused)?;
        Ok(device)
    }

    /// Makes the TUN device `name`, in which the kernel puts a free number for `%d`. The link goes, with its
    /// addresses and the routes to it, when the device is dropped or the process ends. Returns its name too.
    ///
    /// # Errors
    /// As [`Self::open_persistent`].
    pub fn open_transient(name: &str, offload: Offload) -> Result<(Self, String), DeviceError> {
        Self::open(name, offload)
    }

    /// A device in memory, for tests: what is sent to the other end comes out of the device, one packet a message.
    ///
    /// # Errors
    /// When the system gives no socket pair.
    pub fn pair() -> Result<(Self, UnixDatagram), DeviceError> {
        let (near, far) = UnixDatagram::pair().map_err(DeviceError::Watch)?;
        Ok((Self::new(File::from(OwnedFd::from(near)), None)?, far))
    }

    /// The same with frames as a TUN device with offload has them: one a message, after the header of virtio-net.
    ///
    /// # Errors
    /// When the system gives no socket pair.
    pub fn pair_with_offload() -> Result<(Self, UnixDatagram), DeviceError> {
        let (near, far) = UnixDatagram::pair().map_err(DeviceError::Watch)?;
        let frames = Some(Joins { tcp: true, udp: true });
        Ok((Self::new(File::from(OwnedFd::from(near)), frames)?, far))
    }

    fn open(name: &str, offload: Offload) -> Result<(Self, String), DeviceError> {
        let valid = (1..16).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
        if !valid {
            return Err(DeviceError::Name(name.to_owned()));
        }
        if offload == Offload::Auto {
            match crate::sys::open_offloading_tun(name) {
                Ok((file, name, frames)) => return Ok((Self::new(file, Some(frames))?, name)),
                Err(error) => tracing::debug!(%error, "no TUN device with offload; a plain one is tried"),
            }
        }
        let opened = crate::sys::open_tun(name);
        let (file, name) = opened.map_err(|source| DeviceError::Open { name: name.to_owned(), source })?;
        Ok((Self::new(file, None)?, name))
    }

    fn new(file: File, frames: Option<Joins>) -> Result<Self, DeviceError> {
        let nonblocking = |file: &File| -> nix::Result<()> {
            let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
            fcntl(file, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map(drop)
        };
        nonblocking(&file).map_err(|errno| DeviceError::Watch(errno.into()))?;
        Ok(Self { file, frames })
    }

    /// What a read or write of it carries.
    #[must_use]
    pub fn path(&self) -> DevicePath {
        path(self.frames)
    }

    /// Makes it ready for asynchronous use. Needs a tokio runtime.
    pub(crate) fn watch(self) -> io::Result<Watched> {
        Ok(Watched {
            file: crate::sys::watch(self.file)?,
            frames: self.frames,
            gathers: self.frames.unwrap_or_default(),
            scratch: Vec::new(),
            read: IoCount::default(),
            written: IoCount::default(),
        })
    }
}

fn path(frames: Option<Joins>) -> DevicePath {
    match frames {
        Some(Joins { udp: true, .. }) => DevicePath::VirtioUso,
        Some(_) => DevicePath::VirtioTso,
        None => DevicePath::Plain,
    }
}

/// A device in use.
pub(crate) struct Watched {
    file: AsyncFd<File>,
    frames: Option<Joins>,
    /// What it takes as one frame.
    gathers: Joins,
    /// A frame that the device did not take.
    scratch: Vec<u8>,
    read: IoCount,
    written: IoCount,
}

/// Bytes of the largest frame with its header.
pub(crate) const FRAME: usize = VirtioHeader::LEN + MAX_FRAME;

impl Watched {
    /// What it takes as one frame.
    pub(crate) fn gathers(&self) -> Joins {
        self.gathers
    }

    /// What a read or write of it carries.
    pub(crate) fn path(&self) -> DevicePath {
        path(self.frames.filter(|frames| self.gathers == *frames))
    }

    /// Reads that gave a frame, and writes. What a frame that was read stands for is told by [`Self::note_read`].
    pub(crate) fn counts(&self) -> (IoCount, IoCount) {
        (self.read, self.written)
    }

    /// Counts a frame that was read.
    pub(crate) fn note_read(&mut self, packets: usize) {
        self.read.add(packets as u64);
    }

    /// Waits until [`Self::try_recv`] may have a frame.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.file.readable().await.map(drop)
    }

    /// Reads a frame, also one that came since the device was last said to be empty.
    pub(crate) fn try_recv(&self, frame: &mut Frame) -> io::Result<()> {
        let mut asked = false;
        let known = self.file.try_io(Interest::READABLE, |mut file| {
            asked = true;
            file.read(&mut frame.buf)
        });
        let length = if asked { known } else { self.file.get_ref().read(&mut frame.buf) }?;
        (frame.header, frame.packet) = (VirtioHeader::default(), 0..length);
        if self.frames.is_some() {
            let header = frame.buf.get(..length).and_then(<[u8]>::first_chunk).ok_or(io::ErrorKind::UnexpectedEof)?;
            (frame.header, frame.packet) = (VirtioHeader::decode(header), VirtioHeader::LEN..length);
        }
        Ok(())
    }

    /// Writes a frame; gives how many of its packets the device did not take.
    pub(crate) fn try_send(&mut self, run: &Run<'_>) -> usize {
        self.written.add(run.packets() as u64);
        if run.packets() > 1 && self.gathers == Joins::default() {
            // Gathered before the device refused the first of them.
            return self.send_apart(run);
        }
        match self.write(&run.header(), run.parts()) {
            Ok(()) => 0,
            Err(error) if run.packets() > 1 && error.raw_os_error() == Some(Errno::EINVAL as i32) => {
                tracing::warn!("the TUN device does not take frames of many packets; they go one by one from now on");
                self.gathers = Joins::default();
                self.send_apart(run)
            }
            Err(_) => run.packets(),
        }
    }

    fn write<'a>(&self, header: &'a [u8; VirtioHeader::LEN], parts: impl Iterator<Item = &'a [u8]>) -> io::Result<()> {
        let mut slices = [IoSlice::new(&[]); 1 + MAX_PACKETS];
        let parts = self.frames.is_some().then_some(&header[..]).into_iter().chain(parts);
        let mut count = 0;
        for (slice, part) in slices.iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
            count += 1;
        }
        // Not by readiness: a TUN device is always writable, and what it does not take is lost either way.
        self.file.get_ref().write_vectored(slices.get(..count).unwrap_or_default()).map(drop)
    }

    /// Writes the packets of a frame one by one; gives how many of them the device did not take.
    fn send_apart(&mut self, run: &Run<'_>) -> usize {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        for part in run.parts() {
            scratch.extend_from_slice(part);
        }
        let mut lost = 0;
        match Split::new(VirtioHeader::decode(&run.header()), &mut scratch) {
            Ok(mut split) => {
                while let Some(packet) = split.next_packet() {
                    lost += usize::from(self.write(&[0; VirtioHeader::LEN], [&*packet].into_iter()).is_err());
                }
            }
            Err(_) => lost = run.packets(),
        }
        self.scratch = scratch;
        lost
    }
}
