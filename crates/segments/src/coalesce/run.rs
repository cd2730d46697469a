//! A frame for the device.

use std::iter;
use std::ops::Range;

use crate::virtio::VirtioHeader;

/// One frame for the device: a packet as it came, or several of a flow as one. Its bytes are in the arena, in parts.
#[derive(Debug)]
pub struct Run<'a> {
    pub(crate) header: VirtioHeader,
    pub(crate) arena: &'a [u8],
    /// Headers and payload of the first packet.
    pub(crate) first: Range<usize>,
    /// Where the other payloads begin.
    pub(crate) rest: &'a [usize],
    /// Bytes of each of them but the last.
    pub(crate) size: usize,
    /// Bytes of the last of them.
    pub(crate) last: usize,
}

impl<'a> Run<'a> {
    /// A packet as it is.
    pub(crate) fn single(arena: &'a [u8], packet: Range<usize>) -> Self {
        Self { header: VirtioHeader::default(), arena, first: packet, rest: &[], size: 0, last: 0 }
    }

    /// What goes before the parts on a device with that header. All zeros for a single packet.
    #[must_use]
    pub fn header(&self) -> [u8; VirtioHeader::LEN] {
        self.header.encode()
    }

    /// Packets in it, 1 to [`MAX_PACKETS`](crate::MAX_PACKETS); as many parts has it.
    #[must_use]
    pub fn packets(&self) -> usize {
        1 + self.rest.len()
    }

    /// The bytes, to be written one after the other: the first packet, and the payloads of the others.
    pub fn parts(&self) -> impl Iterator<Item = &'a [u8]> {
        let (arena, size, last) = (self.arena, self.size, self.last);
        let others = self.rest.iter().rev().skip(1).rev().map(move |&start| &arena[start..start + size]);
        let end = self.rest.last().map(move |&start| &arena[start..start + last]);
        iter::once(&arena[self.first.clone()]).chain(others).chain(end)
    }
}
