//! Segmentation and coalescing of IP packets, as the virtio-net header of a TUN device describes them. Memory in, memory
//! out: no I/O, no allocation, no copy of a payload.
//!
//! A device with that header hands over TCP segments of up to 64 KiB, and UDP datagrams as one of them, to be cut into
//! packets: [`Split`]. It takes the same again: [`Coalescer`]. What both do with a header is what Linux does in
//! `net/ipv4/tcp_offload.c`, `net/ipv4/udp_offload.c` and `net/ipv6/ip6_offload.c`.
#![forbid(unsafe_code)]

pub mod checksum;
mod coalesce;
mod packet;
mod split;
mod virtio;

pub use coalesce::{Coalescer, MAX_PACKETS, Offload, Run};
pub use packet::flow;
pub use split::{MAX_HEADER, Split, SplitError};
pub use virtio::VirtioHeader;

/// Bytes of the longest IP packet: what the total length of IPv4 can say. It holds for IPv6 here, too.
pub const MAX_FRAME: usize = 65_535;
