//! Frames of a TUN device to be cut, and packets of peers to be gathered to such frames.

use segments::checksum::Sum;
use segments::{Coalescer, Offload, Run, Split, VirtioHeader};

/// A frame with its header. What it is cut into has its payload, and checksums that are right.
pub(crate) fn split(bytes: &[u8]) {
    let Some((header, frame)) = bytes.split_first_chunk() else { return };
    let header = VirtioHeader::decode(header);
    let Some(packets) = cut(header, frame) else { return };
    // What stands in the field of a partial checksum may be any sum.
    let is_whole = header.gso_type != VirtioHeader::GSO_NONE && header.flags & VirtioHeader::NEEDS_CSUM == 0;
    if let (true, Some(transport)) = (is_whole, transport(&packets[0])) {
        assert!(packets.iter().all(|packet| is_right(packet, transport)), "a checksum that is wrong");
    }
    if packets.len() == 1 {
        assert_eq!(packets[0].len(), frame.len());
        return;
    }
    let headers = packets[0].len() - usize::from(header.gso_size);
    let payload: Vec<u8> = packets.iter().flat_map(|packet| &packet[headers..]).copied().collect();
    assert_eq!(payload, frame[headers..], "a payload that changes");
}

/// Packets, each after a byte that says whether its lengths and checksums are to be made right, and a length of two
/// bytes. They come out as they went in, but for their order.
pub(crate) fn coalesce(mut bytes: &[u8]) {
    let (mut arena, mut ranges, mut went) = (Vec::new(), Vec::new(), Vec::new());
    while let Some((&[kind, high, low], rest)) = bytes.split_first_chunk::<3>() {
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (packet, rest) = rest.split_at(length.min(rest.len()));
        bytes = rest;
        let mut packet = packet.to_vec();
        if kind & 1 != 0 {
            make_right(&mut packet);
        }
        ranges.push(arena.len()..arena.len() + packet.len());
        arena.extend_from_slice(&packet);
        went.push(normalised(packet));
    }
    let mut came = Vec::new();
    let mut sink = |run: Run<'_>| {
        let packets = cut(VirtioHeader::decode(&run.header()), &run.parts().collect::<Vec<_>>().concat());
        let packets = packets.unwrap_or_default();
        assert_eq!(packets.len(), run.packets(), "packets that come or go");
        came.extend(packets.into_iter().map(normalised));
    };
    let mut coalescer = Coalescer::new(Offload { tcp: true, udp: true });
    for range in ranges {
        coalescer.push(&mut arena, range, &mut sink);
    }
    coalescer.flush(&mut arena, &mut sink);
    went.sort();
    came.sort();
    assert_eq!(went, came, "a packet that changes");
}

fn cut(header: VirtioHeader, frame: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut frame = frame.to_vec();
    let mut split = Split::new(header, &mut frame).ok()?;
    let (count, largest) = (split.count(), split.largest());
    let mut packets = Vec::new();
    while let Some(packet) = split.next_packet() {
        packets.push(packet.to_vec());
        packet.fill(0xee);
    }
    assert_eq!(packets.len(), count, "packets that were not announced");
    assert!(packets.iter().rev().skip(1).all(|packet| packet.len() == largest), "packets that are not equally long");
    Some(packets)
}

/// Where the header of TCP or UDP is, in packets that have no headers between.
fn transport(packet: &[u8]) -> Option<usize> {
    match (packet.first()?, packet.len()) {
        (0x45, 28..) if [6, 17].contains(&packet[9]) && packet[6] & 0xbf == 0 && packet[7] == 0 => Some(20),
        (0x60..=0x6f, 48..) if [6, 17].contains(&packet[6]) => Some(40),
        _ => None,
    }
}

/// Protocol, addresses and length.
fn pseudo_sum(packet: &[u8], transport: usize) -> Sum {
    let (addresses, protocol) =
        if transport == 20 { (&packet[12..20], packet[9]) } else { (&packet[8..40], packet[6]) };
    Sum::of(addresses).word(protocol.into()).double((packet.len() - transport) as u32)
}

fn is_right(packet: &[u8], transport: usize) -> bool {
    pseudo_sum(packet, transport).plus(Sum::of(&packet[transport..])).is_right()
        && (transport == 40 || Sum::of(&packet[..20]).is_right())
}

/// Makes lengths and checksums right, where a packet has them.
fn make_right(packet: &mut [u8]) {
    let Some(transport) = transport(packet) else { return };
    let (total, length) = (packet.len() as u16, (packet.len() - transport) as u16);
    if transport == 20 {
        packet[2..4].copy_from_slice(&total.to_be_bytes());
        packet[10..12].fill(0);
        let checksum = Sum::of(&packet[..20]).checksum();
        packet[10..12].copy_from_slice(&checksum);
    } else {
        packet[4..6].copy_from_slice(&length.to_be_bytes());
    }
    let is_udp = packet[if transport == 20 { 9 } else { 6 }] == 17;
    if is_udp {
        packet[transport + 4..transport + 6].copy_from_slice(&length.to_be_bytes());
    }
    let field = transport + if is_udp { 6 } else { 16 };
    if packet.len() < field + 2 {
        return;
    }
    packet[field..field + 2].fill(0);
    let sum = pseudo_sum(packet, transport).plus(Sum::of(&packet[transport..]));
    let checksum = if is_udp { sum.udp_checksum() } else { sum.checksum() };
    packet[field..field + 2].copy_from_slice(&checksum);
}

/// Without what may differ: the identification of atomic packets, and which of the two zeros a checksum is.
fn normalised(mut packet: Vec<u8>) -> Vec<u8> {
    let Some(transport) = transport(&packet) else { return packet };
    if transport == 20 {
        let residue = Sum::of(&packet[..20]).folded();
        packet[10..12].copy_from_slice(&residue);
        if packet[6] == 0x40 {
            packet[4..6].fill(0);
        }
    }
    let is_tcp = packet[if transport == 20 { 9 } else { 6 }] == 6;
    if let Some(field) = packet.get_mut(transport + 16..transport + 18).filter(|field| is_tcp && **field == [0xff; 2]) {
        field.fill(0);
    }
    packet
}
