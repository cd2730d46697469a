//! A device that takes frames, and cuts them byte by byte.

use std::ops::Range;

use segments::{Coalescer, Offload, Run, VirtioHeader};

use crate::model::{PSH, sum};

pub(crate) const ALL: Offload = Offload { tcp: true, udp: true };

/// What the device is given: the header, and the frame.
pub(crate) type Frame = (VirtioHeader, Vec<u8>);

/// Packets in an arena, with room between them as a datagram's header and tag have.
fn arena_of(packets: &[Vec<u8>]) -> (Vec<u8>, Vec<Range<usize>>) {
    let mut arena = Vec::new();
    let place = |packet: &Vec<u8>| {
        arena.extend([0xdd; 24]);
        arena.extend(packet);
        arena.len() - packet.len()..arena.len()
    };
    let ranges = packets.iter().map(place).collect();
    (arena, ranges)
}

/// What comes of each packet, and of the flush.
pub(crate) fn coalesce_in_steps(offload: Offload, packets: &[Vec<u8>]) -> Vec<Vec<Frame>> {
    let (mut arena, ranges) = arena_of(packets);
    let mut coalescer = Coalescer::new(offload);
    let mut steps = Vec::new();
    for range in ranges.into_iter().map(Some).chain([None]) {
        let mut frames = Vec::new();
        let mut sink = |run: Run<'_>| {
            assert_eq!(run.parts().count(), run.packets());
            frames.push((VirtioHeader::decode(&run.header()), run.parts().collect::<Vec<_>>().concat()));
        };
        match range {
            Some(range) => coalescer.push(&mut arena, range, &mut sink),
            None => coalescer.flush(&mut arena, &mut sink),
        }
        steps.push(frames);
    }
    steps
}

pub(crate) fn coalesce(offload: Offload, packets: &[Vec<u8>]) -> Vec<Frame> {
    coalesce_in_steps(offload, packets).concat()
}

/// How many packets each frame has.
pub(crate) fn sizes(frames: &[Frame]) -> Vec<usize> {
    frames.iter().map(|(header, frame)| cut(header, frame).len()).collect()
}

/// Cuts a frame as Linux does, after checking all that Linux relies on.
pub(crate) fn cut(header: &VirtioHeader, frame: &[u8]) -> Vec<Vec<u8>> {
    if header.gso_type == VirtioHeader::GSO_NONE {
        assert_eq!(*header, VirtioHeader::default());
        return vec![frame.to_vec()];
    }
    let transport = usize::from(header.csum_start);
    let (payload, size) = (usize::from(header.hdr_len), usize::from(header.gso_size));
    let is_ipv4 = frame[0] == 0x45;
    let is_tcp = header.gso_type != VirtioHeader::GSO_UDP_L4;
    assert!(frame.len() <= segments::MAX_FRAME && frame.len() > payload + size);
    assert_eq!(header.flags, VirtioHeader::NEEDS_CSUM);
    assert_eq!(header.csum_offset, if is_tcp { 16 } else { 6 });
    assert_eq!(transport, if is_ipv4 { 20 } else { 40 });
    assert_eq!(payload - transport, if is_tcp { usize::from(frame[transport + 12] >> 4) * 4 } else { 8 });
    assert_eq!(is_tcp, if is_ipv4 { frame[9] == 6 } else { frame[6] == 6 });
    assert!(!is_tcp || is_ipv4 == (header.gso_type == VirtioHeader::GSO_TCPV4));
    let field = transport + usize::from(header.csum_offset);
    assert_eq!(frame[field..field + 2], sum(&pseudo_header(frame, frame.len() - transport)).to_be_bytes());
    assert_eq!(lengths(frame), (frame.len(), (!is_tcp).then_some(frame.len() - transport)));
    assert!(!is_ipv4 || sum(&frame[..20]) == 0xffff);

    let chunks = frame[payload..].chunks(size);
    let count = chunks.len();
    let segment = |(index, chunk): (usize, &[u8])| {
        let mut packet = [&frame[..payload], chunk].concat();
        let (total, length) = (packet.len(), packet.len() - transport);
        if is_ipv4 {
            let id = u16::from_be_bytes([frame[4], frame[5]]).wrapping_add(index as u16);
            packet[2..4].copy_from_slice(&(total as u16).to_be_bytes());
            packet[4..6].copy_from_slice(&id.to_be_bytes());
            finish_ipv4(&mut packet);
        } else {
            packet[4..6].copy_from_slice(&(length as u16).to_be_bytes());
        }
        if is_tcp {
            let sequence = u32::from_be_bytes(frame[transport + 4..transport + 8].try_into().unwrap());
            let sequence = sequence.wrapping_add((index * size) as u32);
            packet[transport + 4..transport + 8].copy_from_slice(&sequence.to_be_bytes());
            if index + 1 < count {
                packet[transport + 13] &= !PSH;
            }
        } else {
            packet[transport + 4..transport + 6].copy_from_slice(&(length as u16).to_be_bytes());
        }
        packet[field..field + 2].fill(0);
        let checksum = !sum(&[&pseudo_header(&packet, length), &packet[transport..]].concat());
        let checksum = if checksum == 0 && !is_tcp { 0xffff } else { checksum };
        packet[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
        packet
    };
    chunks.enumerate().map(segment).collect()
}

fn pseudo_header(packet: &[u8], length: usize) -> Vec<u8> {
    let (addresses, protocol) = if packet[0] >> 4 == 4 { (12..20, packet[9]) } else { (8..40, packet[6]) };
    [&packet[addresses], &[0, protocol], &(length as u32).to_be_bytes()].concat()
}

/// What IP says of the whole, and UDP of itself.
fn lengths(packet: &[u8]) -> (usize, Option<usize>) {
    let at = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
    if packet[0] >> 4 == 4 {
        (at(2), (packet[9] == 17).then(|| at(24)))
    } else {
        (at(4) + 40, (packet[6] == 17).then(|| at(44)))
    }
}

pub(crate) fn finish_ipv4(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let checksum = !sum(&packet[..20]);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// Makes the checksums of a plain packet right.
pub(crate) fn finish(packet: &mut [u8]) {
    let transport = if packet[0] >> 4 == 4 { 20 } else { 40 };
    let protocol = if transport == 20 { packet[9] } else { packet[6] };
    if transport == 20 {
        finish_ipv4(packet);
    }
    let field = transport + if protocol == 6 { 16 } else { 6 };
    packet[field..field + 2].fill(0);
    let checksum = !sum(&[&pseudo_header(packet, packet.len() - transport), &packet[transport..]].concat());
    let checksum = if checksum == 0 && protocol == 17 { 0xffff } else { checksum };
    packet[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
}
