//! Packets in a stream: each after its length in two bytes, the highest first. The bytes of a packet arrive cut
//! anywhere, and a wrong length cannot be recovered from.

use std::io::{self, Read, Write};
use std::ops::Range;

use ovpn::data::OVERHEAD;

use crate::config::MAX_MTU;

/// Longest packet that is taken from a stream, bytes: any data packet.
pub(crate) const LONGEST: usize = MAX_MTU as usize + OVERHEAD;
/// Longest packet that a stream begins with, bytes. A TLS connection begins with 22 and 3, which would be the length 5635:
/// the first two bytes of a connection tell whether it is a tunnel's, so that the port can be shared.
const LONGEST_FIRST: usize = 2048;
/// Bytes before each packet.
const PREFIX: usize = 2;
/// Read at a time. More than one packet of any length, so that there is always room when none is complete.
const ROOM: usize = 64 * 1024;

/// A length of zero, or above [`LONGEST`], or [`LONGEST_FIRST`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadLength(pub(crate) u16);

/// What was read at once, of one stream after the other.
pub(crate) struct Room {
    buf: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Room {
    pub(crate) fn new() -> Self {
        Self { buf: vec![0; ROOM].into(), start: 0, end: 0 }
    }

    /// What was read last, and is still there.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        &mut self.buf
    }

    /// What of it was not taken apart.
    pub(crate) fn waiting(&self) -> &[u8] {
        self.buf.get(self.start..self.end).unwrap_or_default()
    }
}

/// Takes a stream apart. It keeps the beginning of one packet at most, whatever the peer sends.
pub(crate) struct Inbound {
    rest: Vec<u8>,
    longest: usize,
}

impl Inbound {
    pub(crate) fn new() -> Self {
        Self { rest: Vec::new(), longest: LONGEST_FIRST }
    }

    /// Whether a connection that begins with these two bytes speaks TLS: a record of a handshake (22), of version 3.x
    /// (RFC 8446, 5.1). As a packet's length they would be 5632 and more, which none has that a stream begins with.
    pub(crate) fn begins_tls(&self, bad: BadLength) -> bool {
        self.longest == LONGEST_FIRST && bad.0 >> 8 == 22 && bad.0 & 0xff == 3
    }

    /// Reads once from `stream`. To be called when [`Self::next`] has nothing more; zero is the end of the stream.
    pub(crate) fn fill(&mut self, stream: &mut impl Read, room: &mut Room) -> io::Result<usize> {
        let (rest, free) = room.buf.split_at_mut(self.rest.len());
        rest.copy_from_slice(&self.rest);
        let length = stream.read(free)?;
        (room.start, room.end) = (0, rest.len() + length);
        Ok(length)
    }

    /// Where the next complete packet stands in the room, until the next [`Self::fill`].
    pub(crate) fn next(&mut self, room: &mut Room) -> Result<Option<Range<usize>>, BadLength> {
        let waiting = room.buf.get(room.start..room.end).unwrap_or_default();
        let packet = self.length_of_first(waiting)?.map(|length| room.start + PREFIX..room.start + PREFIX + length);
        match &packet {
            Some(range) => (room.start, self.longest) = (range.end, LONGEST),
            None => {
                self.rest.clear();
                self.rest.extend_from_slice(waiting);
            }
        }
        Ok(packet)
    }

    /// The length of the packet that is first among bytes, if it is complete.
    fn length_of_first(&self, bytes: &[u8]) -> Result<Option<usize>, BadLength> {
        let Some((prefix, rest)) = bytes.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let prefix = u16::from_be_bytes(*prefix);
        let length = usize::from(prefix);
        if length == 0 || length > self.longest {
            return Err(BadLength(prefix));
        }
        Ok((length <= rest.len()).then_some(length))
    }
}

/// What waits to be written to a stream. Never more than the limit that comes with each packet.
#[derive(Default)]
pub(crate) struct Outbound {
    buf: Vec<u8>,
    start: usize,
}

impl Outbound {
    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.buf.len()
    }

    /// Queues a packet unless more than `limit` bytes would wait. False when it was not taken.
    pub(crate) fn push(&mut self, packet: &[u8], limit: usize) -> bool {
        let Ok(length) = u16::try_from(packet.len()) else { return false };
        let has_room = self.make_room(PREFIX + packet.len(), limit);
        if has_room {
            self.buf.extend_from_slice(&length.to_be_bytes());
            self.buf.extend_from_slice(packet);
        }
        has_room
    }

    /// The same for packets that stand after their lengths already.
    pub(crate) fn push_framed(&mut self, packets: &[u8], limit: usize) -> bool {
        let has_room = self.make_room(packets.len(), limit);
        if has_room {
            self.buf.extend_from_slice(packets);
        }
        has_room
    }

    fn make_room(&mut self, added: usize, limit: usize) -> bool {
        if self.buf.len() - self.start + added > limit {
            return false;
        }
        if self.buf.len() + added > limit {
            self.buf.drain(..self.start);
            self.start = 0;
        }
        true
    }

    /// Writes what the stream takes; true when nothing is left.
    pub(crate) fn flush(&mut self, stream: &mut impl Write) -> io::Result<bool> {
        while !self.is_empty() {
            match stream.write(self.buf.get(self.start..).unwrap_or_default()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => self.start += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        // A connection is slow now and then, and open for long.
        self.buf = Vec::new();
        self.start = 0;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives the bytes in pieces, then blocks.
    struct Pieces<'a>(Vec<&'a [u8]>);

    impl Read for Pieces<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            assert!(buf.len() > LONGEST, "no room for the rest of a packet");
            let Some(piece) = self.0.first_mut() else { return Err(io::ErrorKind::WouldBlock.into()) };
            let length = piece.len().min(buf.len());
            buf[..length].copy_from_slice(&piece[..length]);
            *piece = &piece[length..];
            if piece.is_empty() {
                self.0.remove(0);
            }
            Ok(length)
        }
    }

    fn frame(packets: &[Vec<u8>]) -> Vec<u8> {
        let mut outbound = Outbound::default();
        let mut bytes = Vec::new();
        for packet in packets {
            assert!(outbound.push(packet, usize::MAX));
        }
        assert!(outbound.flush(&mut bytes).unwrap());
        bytes
    }

    fn unframe(pieces: Vec<&[u8]>) -> Result<Vec<Vec<u8>>, BadLength> {
        let (mut inbound, mut room) = (Inbound::new(), Room::new());
        let mut stream = Pieces(pieces);
        let mut packets = Vec::new();
        while inbound.fill(&mut stream, &mut room).is_ok() {
            while let Some(range) = inbound.next(&mut room)? {
                packets.push(room.bytes()[range].to_vec());
            }
            // Other streams are read between.
            room.bytes().fill(0xee);
        }
        Ok(packets)
    }

    #[test]
    fn packets_survive_a_cut_at_any_byte() {
        let packets: Vec<Vec<u8>> = [1, 2, 14, 300, 1, LONGEST, 7].iter().map(|&size| vec![size as u8; size]).collect();
        let bytes = frame(&packets);
        for cut in 1..bytes.len() {
            let (head, tail) = bytes.split_at(cut);
            assert_eq!(unframe(vec![head, tail]).unwrap(), packets, "cut at {cut}");
        }
        assert_eq!(unframe(bytes.chunks(1).collect()).unwrap(), packets);
        assert_eq!(unframe(bytes.chunks(3).collect()).unwrap(), packets);
        // Whatever is cut off at the end is no packet.
        for length in 0..bytes.len() {
            let complete = unframe(vec![&bytes[..length]]).unwrap();
            assert!(complete.len() < packets.len() && packets.starts_with(&complete));
        }
    }

    #[test]
    fn many_packets_at_once() {
        let packets: Vec<Vec<u8>> = (0..200).map(|at| vec![at as u8; 1400]).collect();
        let bytes = frame(&packets);
        assert_eq!(unframe(vec![&bytes]).unwrap(), packets);
    }

    #[test]
    fn bad_lengths_are_told_from_two_bytes() {
        for bad in [0, LONGEST as u16 + 1, u16::MAX] {
            let bytes = [&frame(&[vec![1, 2, 3]])[..], &bad.to_be_bytes()].concat();
            assert_eq!(unframe(vec![&bytes]), Err(BadLength(bad)));
        }
        // A connection cannot begin with as much as later.
        for bad in [LONGEST_FIRST as u16 + 1, 0x1603] {
            assert_eq!(unframe(vec![&bad.to_be_bytes()]), Err(BadLength(bad)));
        }
        assert_eq!(unframe(vec![&[0]]), Ok(vec![]));
    }

    /// Takes a number of bytes, then blocks.
    struct Narrow(usize, Vec<u8>);

    impl Write for Narrow {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            let length = buf.len().min(self.0);
            self.0 -= length;
            self.1.extend_from_slice(&buf[..length]);
            if length == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(length) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_slow_stream_keeps_a_bounded_queue_and_loses_no_accepted_byte() {
        let mut outbound = Outbound::default();
        let mut stream = Narrow(0, Vec::new());
        let mut accepted = Vec::new();
        for at in 0..2000_usize {
            let packet = vec![at as u8; at % 97 + 1];
            if outbound.push(&packet, 1000) {
                accepted.push(packet);
            }
            assert!(outbound.buf.len() <= 1000);
            stream.0 += 31;
            let done = outbound.flush(&mut stream).unwrap();
            assert_eq!(done, outbound.is_empty());
        }
        stream.0 = usize::MAX;
        assert!(outbound.flush(&mut stream).unwrap());
        assert!((500..2000).contains(&accepted.len()), "{}", accepted.len());
        assert_eq!(unframe(vec![&stream.1]).unwrap(), accepted);
        assert!(!outbound.push(&vec![0; 70_000], usize::MAX));
    }
}
