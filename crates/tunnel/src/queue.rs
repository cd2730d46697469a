//! Frames of the device that wait for their turn.
//!
//! The device is emptied first, then its frames are sent: a packet of a flow that has none waiting goes before the large
//! frames of others. What a download has in the queue costs a call or a keystroke no time then, and where that is full it
//! is the frames of those who filled it that are lost: they take it as the sign to slow down.

use std::collections::VecDeque;
use std::ops::Range;

use segments::VirtioHeader;

use crate::device::FRAME;

/// Bytes behind which no large frame waits but the first of its flow: a millisecond or two at 5 Gbit/s, and enough for full speed.
const BYTES: usize = 1 << 20;
/// Frames that may wait. The trains of single packets of a flow are not cut short by its own large frames.
const FRAMES: usize = 256;
/// Of them, large ones: those that [`BYTES`] let wait, and a few that are the first of their flows. The device keeps what is
/// beyond them.
const LARGE: usize = 24;
/// Bytes of a packet that waits in room of its size: one of the usual MTU.
const SMALL: usize = 1536;

/// A frame, and which flow it is of.
pub(crate) struct Frame {
    pub(crate) buf: Box<[u8]>,
    pub(crate) header: VirtioHeader,
    /// Where in `buf` the packet stands.
    pub(crate) packet: Range<usize>,
    /// [`segments::flow`]. One without passes no other frame, and is not passed.
    flow: Option<u64>,
}

impl Frame {
    /// Packets that it stands for, as its header says.
    pub(crate) fn packets(&self) -> usize {
        match usize::from(self.header.gso_size) {
            size if self.header.gso_type != VirtioHeader::GSO_NONE && size > 0 => {
                self.packet.len().saturating_sub(self.header.hdr_len.into()).div_ceil(size).max(1)
            }
            _ => 1,
        }
    }
}

/// See the module's documentation.
pub(crate) struct Queue {
    waiting: VecDeque<Frame>,
    /// Bytes of their packets.
    bytes: usize,
    /// Room for frames of any size.
    large: Pool,
    /// Room for small packets, so that a pile of them does not take sixteen times the memory.
    small: Pool,
}

/// Room that is used again, and made only when there was never so much in use.
struct Pool {
    free: Vec<Frame>,
    /// Bytes of each.
    size: usize,
    /// How many more may be made.
    left: usize,
}

impl Pool {
    fn new(count: usize, size: usize) -> Self {
        Self { free: Vec::with_capacity(count), size, left: count }
    }

    fn take(&mut self) -> Option<Frame> {
        if self.free.is_empty() && self.left > 0 {
            self.left -= 1;
            let buf = vec![0; self.size].into();
            return Some(Frame { buf, header: VirtioHeader::default(), packet: 0..0, flow: None });
        }
        self.free.pop()
    }
}

/// What becomes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It goes now.
    Now,
    /// It waits behind others.
    Later,
    /// There is no room.
    Never,
}

impl Queue {
    pub(crate) fn new() -> Self {
        let (large, small) = (Pool::new(LARGE, FRAME), Pool::new(FRAMES, SMALL));
        Self { waiting: VecDeque::with_capacity(FRAMES), bytes: 0, large, small }
    }

    /// Room for a frame of any size. There is none while too many large ones wait.
    pub(crate) fn room(&mut self) -> Option<Frame> {
        self.large.take()
    }

    /// Gives room back.
    pub(crate) fn give_back(&mut self, frame: Frame) {
        let pool = if frame.buf.len() == SMALL { &mut self.small } else { &mut self.large };
        pool.free.push(frame);
    }

    /// When a frame that was read has its turn.
    pub(crate) fn turn(&self, frame: &mut Frame) -> Turn {
        let packet = frame.buf.get(frame.packet.clone()).unwrap_or_default();
        frame.flow = segments::flow(packet);
        let is_large = frame.header.gso_type != VirtioHeader::GSO_NONE;
        let may_pass = |other: &Frame| other.flow.is_some() && other.flow != frame.flow;
        let may_pass_all = || frame.flow.is_some() && self.waiting.iter().all(may_pass);
        let has_others = || self.waiting.iter().any(|other| other.flow == frame.flow);
        if !is_large && (self.waiting.is_empty() || may_pass_all()) {
            Turn::Now
        } else if self.waiting.len() >= FRAMES || (is_large && self.bytes >= BYTES && has_others()) {
            Turn::Never
        } else {
            Turn::Later
        }
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Lets a frame wait.
    pub(crate) fn push(&mut self, frame: Frame) {
        self.bytes += frame.packet.len();
        let frame = self.shrink(frame);
        self.waiting.push_back(frame);
    }

    /// The same frame in as little room as there is for it.
    fn shrink(&mut self, frame: Frame) -> Frame {
        let length = frame.packet.len();
        let Some(packet) = frame.buf.get(frame.packet.clone()).filter(|_| length <= SMALL) else { return frame };
        let Some(mut small) = self.small.take() else { return frame };
        small.buf[..length].copy_from_slice(packet);
        (small.header, small.packet, small.flow) = (frame.header, 0..length, frame.flow);
        self.give_back(frame);
        small
    }

    /// The frame whose turn it is.
    pub(crate) fn pop(&mut self) -> Option<Frame> {
        let frame = self.waiting.pop_front()?;
        self.bytes -= frame.packet.len();
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet of UDP over IPv4 of so many bytes.
    fn packet(port: u8, length: usize) -> Vec<u8> {
        let mut packet = vec![0; length];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&(length as u16).to_be_bytes());
        packet[9] = 17;
        packet[12..20].copy_from_slice(&[10, 8, 0, 1, 10, 8, 0, 2]);
        packet[21] = port;
        packet[24..26].copy_from_slice(&(length as u16 - 20).to_be_bytes());
        packet
    }

    fn put(queue: &mut Queue, packet: &[u8]) -> Turn {
        let mut frame = queue.room().unwrap();
        let gso_type = if packet.len() > 9000 { VirtioHeader::GSO_UDP_L4 } else { VirtioHeader::GSO_NONE };
        frame.header = VirtioHeader { gso_type, ..VirtioHeader::default() };
        frame.buf[..packet.len()].copy_from_slice(packet);
        frame.packet = 0..packet.len();
        let turn = queue.turn(&mut frame);
        match turn {
            Turn::Later => queue.push(frame),
            Turn::Now | Turn::Never => queue.give_back(frame),
        }
        turn
    }

    #[test]
    fn small_packets_pass_the_large_frames_of_others_only() {
        let mut queue = Queue::new();
        assert_eq!(put(&mut queue, &packet(1, 60)), Turn::Now);
        assert_eq!(put(&mut queue, &packet(1, 60_000)), Turn::Later);
        assert_eq!(put(&mut queue, &packet(2, 60)), Turn::Now);
        assert_eq!(put(&mut queue, &packet(1, 60)), Turn::Later);
        assert_eq!(queue.pop().map(|frame| frame.packet), Some(0..60_000));
        assert_eq!(put(&mut queue, &packet(1, 60)), Turn::Later);
        assert_eq!(put(&mut queue, &packet(3, 1400)), Turn::Now);
    }

    #[test]
    fn fragments_keep_their_place() {
        let mut queue = Queue::new();
        let mut fragment = packet(9, 600);
        fragment[6] = 0x20;
        assert_eq!(put(&mut queue, &fragment), Turn::Now);
        assert_eq!(put(&mut queue, &packet(1, 60_000)), Turn::Later);
        assert_eq!(put(&mut queue, &fragment), Turn::Later);
        assert_eq!(put(&mut queue, &packet(2, 60)), Turn::Later);
        let mut ipv6 = vec![0; 80];
        ipv6[0] = 0x60;
        assert_eq!(put(&mut queue, &ipv6), Turn::Later);
        assert_eq!(put(&mut queue, &[0x45]), Turn::Later);
        assert_eq!(put(&mut queue, &[]), Turn::Later);
    }

    #[test]
    fn only_large_frames_are_lost_where_there_are_too_many() {
        let mut queue = Queue::new();
        let large = BYTES.div_ceil(60_000);
        for _ in 0..large {
            assert_eq!(put(&mut queue, &packet(1, 60_000)), Turn::Later);
        }
        assert_eq!(put(&mut queue, &packet(1, 60_000)), Turn::Never);
        assert_eq!(put(&mut queue, &packet(4, 60_000)), Turn::Later);
        assert_eq!(put(&mut queue, &packet(4, 60_000)), Turn::Never);
        for _ in large + 1..FRAMES {
            assert_eq!(put(&mut queue, &packet(1, 60)), Turn::Later);
        }
        assert_eq!(put(&mut queue, &packet(1, 60)), Turn::Never);
        assert_eq!(put(&mut queue, &packet(2, 60)), Turn::Now);
        for _ in 0..FRAMES {
            let frame = queue.pop().unwrap();
            queue.give_back(frame);
        }
        assert!(queue.pop().is_none() && queue.is_empty());
        assert_eq!(put(&mut queue, &packet(1, 60_000)), Turn::Later);
    }

    #[test]
    fn what_waits_takes_little_memory_and_keeps_its_bytes() {
        let mut queue = Queue::new();
        assert_eq!(put(&mut queue, &packet(1, 60_000)), Turn::Later);
        for at in 0..FRAMES - 1 {
            let mut small = packet(1, 60 + at);
            small[59] = at as u8;
            assert_eq!(put(&mut queue, &small), Turn::Later);
        }
        assert_eq!((LARGE - queue.large.left, FRAMES - queue.small.left), (2, FRAMES - 1));
        assert_eq!(queue.pop().map(|frame| frame.packet.len()), Some(60_000));
        for at in 0..FRAMES - 1 {
            let frame = queue.pop().unwrap();
            let packet = &frame.buf[frame.packet.clone()];
            assert_eq!((packet.len(), packet[59]), (60 + at, at as u8));
            queue.give_back(frame);
        }
    }

    #[test]
    fn large_frames_of_many_flows_stay_in_the_device() {
        let mut queue = Queue::new();
        for port in 0..LARGE as u8 {
            assert_eq!(put(&mut queue, &packet(port, 60_000)), Turn::Later);
        }
        assert!(queue.room().is_none());
        let frame = queue.pop().unwrap();
        queue.give_back(frame);
        assert_eq!(put(&mut queue, &packet(99, 60)), Turn::Now);
    }
}
