//! Packets on their way out, many at a time: what the device gave, and what was sealed of it.

use crate::data::OVERHEAD;
use crate::underlay::{Transport, Underlay};

/// Length of a packet before it in a stream, bytes.
const PREFIX: usize = 2;

/// Inner packets with the same source and destination, one after the other: the parts of one that was too large to be
/// sent, or a single one.
pub trait Packets {
    /// The first bytes of the packet that comes first: its IP header at least, if it has one.
    fn head(&self) -> &[u8];

    /// The next packet, whole. Its bytes may be changed.
    fn next(&mut self) -> Option<&mut [u8]>;

    /// How many were not taken yet.
    fn left(&self) -> usize;
}

/// One packet.
pub struct Single<'a> {
    packet: &'a mut [u8],
    given: bool,
}

impl<'a> Single<'a> {
    /// Of this packet alone.
    pub fn new(packet: &'a mut [u8]) -> Self {
        Self { packet, given: false }
    }
}

impl Packets for Single<'_> {
    fn head(&self) -> &[u8] {
        self.packet
    }

    fn next(&mut self) -> Option<&mut [u8]> {
        (!std::mem::replace(&mut self.given, true)).then_some(&mut *self.packet)
    }

    fn left(&self) -> usize {
        usize::from(!self.given)
    }
}

/// Sealed packets, one right behind the other, in memory that is there once and for all. Those over a stream stand after
/// their lengths (two bytes, the highest first), as the stream has them.
pub struct Batch {
    buf: Box<[u8]>,
    end: usize,
    packets: Vec<Sealed>,
    /// How many of them are gone already.
    gone: usize,
}

#[derive(Clone, Copy)]
struct Sealed {
    to: Underlay,
    start: usize,
    end: usize,
}

/// Packets of a [`Batch`] that can go out at once.
#[derive(Debug, PartialEq, Eq)]
pub struct Group<'a> {
    /// Where to.
    pub to: Underlay,
    /// Their bytes.
    pub bytes: &'a [u8],
    /// How many they are.
    pub packets: usize,
    /// Length of each of them but the last, which may be shorter; bytes. Without a meaning for a stream.
    pub segment: usize,
    /// Whether a packet of that length could still go with them. Never over a stream.
    pub is_open: bool,
}

impl Batch {
    /// Room for so many bytes and packets.
    #[must_use]
    pub fn new(bytes: usize, packets: usize) -> Self {
        Self { buf: vec![0; bytes].into(), end: 0, packets: Vec::with_capacity(packets), gone: 0 }
    }

    /// Whether so many packets, together of so many bytes before they are sealed, find room.
    #[must_use]
    pub fn has_room(&self, packets: usize, bytes: usize) -> bool {
        self.packets.len() + packets <= self.packets.capacity()
            && self.end + bytes + packets * (PREFIX + OVERHEAD) <= self.buf.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.gone == self.packets.len()
    }

    /// Where the first packet that waits goes.
    #[must_use]
    pub fn next_to(&self) -> Option<Underlay> {
        self.packets.get(self.gone).map(|packet| packet.to)
    }

    /// Adds what `seal` writes to the room that it is given, and whose length it returns.
    pub(crate) fn push<E>(&mut self, to: Underlay, seal: impl FnOnce(&mut [u8]) -> Result<usize, E>) -> Result<(), E> {
        let prefix = if to.transport == Transport::Tcp { PREFIX } else { 0 };
        let start = self.end;
        let room = self.buf.get_mut(start + prefix..).unwrap_or_default();
        // What a length in a stream can say, and more than any datagram can have.
        let most = room.len().min(u16::MAX.into());
        let room = &mut room[..most];
        let length = seal(room)?;
        let end = start + prefix + length;
        if let (Transport::Tcp, Ok(length)) = (to.transport, u16::try_from(length)) {
            self.buf[start..start + PREFIX].copy_from_slice(&length.to_be_bytes());
        }
        self.end = end;
        self.packets.push(Sealed { to, start, end });
        Ok(())
    }

    /// The longest beginning of what waits that goes to one place in packets of the same length, the last of which may be
    /// shorter: at most `packets`, and `bytes` in all, but always one. Over a stream the lengths are of no account.
    #[must_use]
    pub fn group(&self, packets: usize, bytes: usize) -> Option<Group<'_>> {
        let waiting = self.packets.get(self.gone..)?;
        let first = waiting.first()?;
        let (to, segment) = (first.to, first.end - first.start);
        let is_stream = to.transport == Transport::Tcp;
        let (mut count, mut end, mut is_open) = (1, first.end, !is_stream);
        for next in waiting.iter().take(packets).skip(1) {
            let length = next.end - next.start;
            let fits = next.to == to && (is_stream || length <= segment) && next.end - first.start <= bytes;
            if !fits {
                is_open = false;
                break;
            }
            (count, end) = (count + 1, next.end);
            if !is_stream && length < segment {
                is_open = false;
                break;
            }
        }
        is_open &= count < packets && end - first.start + segment <= bytes;
        Some(Group { to, bytes: self.buf.get(first.start..end)?, packets: count, segment, is_open })
    }

    /// The next so many packets are gone.
    pub fn advance(&mut self, packets: usize) {
        self.gone += packets;
        if self.gone >= self.packets.len() {
            self.clear();
        }
    }

    /// Moves what waits to the front, so that the rest of the room is free again.
    pub fn compact(&mut self) {
        let Some(start) = self.packets.get(self.gone).map(|packet| packet.start) else { return };
        self.buf.copy_within(start..self.end, 0);
        self.packets.drain(..self.gone);
        for packet in &mut self.packets {
            packet.start -= start;
            packet.end -= start;
        }
        (self.end, self.gone) = (self.end - start, 0);
    }

    /// Forgets everything that waits; how many packets that were.
    pub fn clear(&mut self) -> usize {
        let waiting = self.packets.len().saturating_sub(self.gone);
        self.packets.clear();
        (self.end, self.gone) = (0, 0);
        waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn batch(packets: &[(Underlay, usize)]) -> Batch {
        let mut batch = Batch::new(1 << 16, 64);
        for &(to, length) in packets {
            assert!(batch.has_room(1, length));
            let sealed: Result<(), Infallible> = batch.push(to, |out| {
                out[..length].fill(length as u8);
                Ok(length)
            });
            sealed.unwrap();
        }
        batch
    }

    fn groups(mut batch: Batch, packets: usize, bytes: usize) -> Vec<(usize, usize, usize)> {
        let mut groups = Vec::new();
        while let Some(group) = batch.group(packets, bytes) {
            groups.push((group.packets, group.bytes.len(), group.segment));
            let packets = group.packets;
            batch.advance(packets);
        }
        assert!(batch.is_empty());
        groups
    }

    #[test]
    fn groups_are_of_one_place_and_one_length() {
        let [one, other] = ["192.0.2.1:1", "192.0.2.2:1"].map(|address| Underlay::udp(address.parse().unwrap()));
        let packets = [(one, 9), (one, 9), (one, 7), (one, 7), (one, 8), (other, 8), (other, 8)];
        assert_eq!(groups(batch(&packets), 64, 1 << 16), [(3, 25, 9), (1, 7, 7), (1, 8, 8), (2, 16, 8)]);
        assert_eq!(groups(batch(&packets), 2, 1 << 16), [(2, 18, 9), (2, 14, 7), (1, 8, 8), (2, 16, 8)]);
        assert_eq!(groups(batch(&packets), 64, 20).first(), Some(&(2, 18, 9)));
        assert_eq!(groups(batch(&packets), 1, 1), packets.map(|(_, length)| (1, length, length)));
        assert_eq!(batch(&packets).clear(), 7);
    }

    #[test]
    fn a_group_is_open_while_more_of_the_same_could_join_it() {
        let here = Underlay::udp("192.0.2.1:1".parse().unwrap());
        let is_open = |lengths: &[usize], packets, bytes| {
            let packets_there: Vec<_> = lengths.iter().map(|&length| (here, length)).collect();
            batch(&packets_there).group(packets, bytes).unwrap().is_open
        };
        assert!(is_open(&[9, 9], 3, 27) && is_open(&[9], 2, 18));
        assert!(!is_open(&[9, 9], 2, 27) && !is_open(&[9, 9], 3, 26));
        assert!(!is_open(&[9, 8], 64, 100) && !is_open(&[8, 9], 64, 100));
        let there = Underlay::tcp("192.0.2.1:1".parse().unwrap());
        assert!(!batch(&[(there, 9)]).group(64, 100).unwrap().is_open);
    }

    #[test]
    fn what_waits_can_be_moved_to_the_front() {
        let here = Underlay::udp("192.0.2.1:1".parse().unwrap());
        let mut batch = batch(&[(here, 1000), (here, 9), (here, 8)]);
        batch.compact();
        batch.advance(1);
        assert!(!batch.has_room(62, 64_000));
        batch.compact();
        assert!(batch.has_room(62, 1 << 15));
        let group = batch.group(64, 100).unwrap();
        assert_eq!((group.bytes, group.packets), ([&[9; 9][..], &[8; 8]].concat().as_slice(), 2));
        batch.advance(2);
        batch.compact();
        assert!(batch.is_empty() && batch.has_room(64, 1 << 15));
    }

    #[test]
    fn a_stream_has_lengths_before_its_packets() {
        let to = Underlay::tcp("192.0.2.1:1".parse().unwrap());
        let batch = batch(&[(to, 1), (to, 3), (to, 2)]);
        let group = batch.group(64, 1 << 16).unwrap();
        assert_eq!((group.packets, group.bytes), (3, &[0, 1, 1, 0, 3, 3, 3, 3, 0, 2, 2, 2][..]));
    }

    #[test]
    fn room_counts_packets_and_what_sealing_adds() {
        let batch = Batch::new(1000 + OVERHEAD + PREFIX, 1);
        assert!(batch.has_room(1, 1000) && !batch.has_room(1, 1001) && !batch.has_room(2, 0));
    }
}
