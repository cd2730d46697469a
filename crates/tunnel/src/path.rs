//! Which of the kernel's offloads packets go by, and what that asks of the link.

use std::fmt;

/// How packets pass between the device and the sockets. Less than the kernel could do is slower, never wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DataPath {
    /// Between the kernel and the TUN device.
    pub device: DevicePath,
    /// Datagrams that are sent.
    pub udp_send: DatagramPath,
    /// Datagrams that are received.
    pub udp_receive: DatagramPath,
}

/// What a read or write of the TUN device carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DevicePath {
    /// Up to 64 KiB of one TCP or UDP flow, behind a virtio-net header. Linux 6.2 and later.
    VirtioUso,
    /// Up to 64 KiB of one TCP flow, behind a virtio-net header; a packet of anything else.
    VirtioTso,
    /// One packet.
    #[default]
    Plain,
}

/// What a system call on the UDP socket carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DatagramPath {
    /// A run of datagrams of one size, which the kernel cuts (`UDP_SEGMENT`) or joins (`UDP_GRO`).
    Segmented,
    /// One datagram.
    #[default]
    Single,
    /// Nothing: the tunnel goes over TCP.
    Unused,
}

impl DataPath {
    /// Says in the log which path is in use, and which one was `before`, if there was one.
    pub fn log(self, before: Option<Self>) {
        match before {
            None => tracing::info!("packets go by {self}"),
            Some(before) if self.is_less_than(before) => {
                tracing::warn!("packets go by {self} from now on, no longer by {before}");
            }
            Some(before) if before != self => tracing::info!("packets go by {self} from now on"),
            Some(_) => {}
        }
    }

    /// Whether something is lost that was there before.
    fn is_less_than(self, before: Self) -> bool {
        let less = |now, then| now == DatagramPath::Single && then == DatagramPath::Segmented;
        let device = self.device == DevicePath::Plain && before.device != DevicePath::Plain;
        device || less(self.udp_send, before.udp_send) || less(self.udp_receive, before.udp_receive)
    }
}

impl DevicePath {
    /// Frames that the link should queue for us, its `txqueuelen`. What does not fit is lost, and senders slow down.
    ///
    /// Super-packets are few and large, and their senders keep to about two a flow: 64 suffice. Single packets come in
    /// bursts of 45, as forwarded super-packets that were cut. Measured with them at 0.9 Gbit/s: 64 cost 30 % of the
    /// throughput, 128 10 %, 200 5 %, and the kernel's 500 nothing but twice the round trip under load of 200.
    ///
    /// The link's `gso_max_size` stays as it is, although a smaller one would make local super-packets fit into one send:
    /// the kernel cuts every forwarded super-packet that is not smaller into single packets, and those of containers
    /// and GRO are of 64 KiB. They came a tenth as fast.
    #[must_use]
    pub fn tx_queue_len(self) -> u32 {
        match self {
            Self::VirtioUso | Self::VirtioTso => 64,
            Self::Plain => 200,
        }
    }

    /// A stable name, fit for a metric's label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::VirtioUso => "virtio-uso",
            Self::VirtioTso => "virtio-tso",
            Self::Plain => "plain",
        }
    }
}

impl DatagramPath {
    /// A stable name, fit for a metric's label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Segmented => "segmented",
            Self::Single => "single",
            Self::Unused => "unused",
        }
    }
}

impl fmt::Display for DataPath {
    /// For people, as in `virtio-uso, UDP segmented out and single in`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, udp_send, udp_receive } = self;
        if udp_send == udp_receive {
            write!(f, "{device}, UDP {udp_send}")
        } else {
            write!(f, "{device}, UDP {udp_send} out and {udp_receive} in")
        }
    }
}

impl fmt::Display for DevicePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for DatagramPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How well calls and packets were batched since the start. Where `packets` is not much more than `calls`, offloads do
/// not help, whatever the reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoCounters {
    /// Reads of the device that gave something.
    pub device_read: IoCount,
    /// Writes to the device.
    pub device_write: IoCount,
    /// System calls that sent datagrams with packets in them; those of the control channel do not count here.
    pub udp_send: IoCount,
    /// System calls that received datagrams.
    pub udp_receive: IoCount,
}

/// Calls of one kind, and what they carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoCount {
    /// System calls.
    pub calls: u64,
    /// Packets as they are on the way: those that a super-packet stands for, or datagrams.
    pub packets: u64,
}

impl IoCount {
    /// Adds another count.
    pub fn merge(&mut self, other: Self) {
        self.calls += other.calls;
        self.packets += other.packets;
    }

    /// Counts one call that carried `packets`.
    pub fn add(&mut self, packets: u64) {
        self.calls += 1;
        self.packets += packets;
    }
}

/// Which offloads are tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offload {
    /// All that the kernel has; one that it refuses in use is left.
    #[default]
    Auto,
    /// None: one packet a call. For kernels and devices whose offloads are broken without an error.
    Off,
}

/// A text is no [`Offload`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither \"auto\" nor \"off\"")]
pub struct UnknownOffload(String);

impl std::str::FromStr for Offload {
    type Err = UnknownOffload;

    fn from_str(text: &str) -> Result<Self, UnknownOffload> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            other => Err(UnknownOffload(other.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_told_in_few_words() {
        let mut path = DataPath { device: DevicePath::VirtioTso, ..DataPath::default() };
        assert_eq!(path.to_string(), "virtio-tso, UDP single");
        path.udp_send = DatagramPath::Segmented;
        assert_eq!(path.to_string(), "virtio-tso, UDP segmented out and single in");
    }

    #[test]
    fn offload_is_one_of_two_words() {
        assert_eq!("auto".parse(), Ok(Offload::Auto));
        assert_eq!("off".parse(), Ok(Offload::Off));
        assert!("on".parse::<Offload>().is_err());
    }
}
