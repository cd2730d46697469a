//! Frames of the device against the packets that the model makes of them.

use proptest::prelude::*;
use segments::{Split, SplitError, VirtioHeader};

use crate::model::{ACK, CWR, ECE, FIN, Ip, PSH, Packet, Transport, any_packet, sum};

/// The packets, each spoilt after it was seen: nothing of it may be needed later.
fn split(header: VirtioHeader, frame: &mut [u8]) -> Result<Vec<Vec<u8>>, SplitError> {
    let mut split = Split::new(header, frame)?;
    let (count, largest) = (split.count(), split.largest());
    let mut packets = Vec::new();
    while let Some(packet) = split.next_packet() {
        packets.push(packet.to_vec());
        packet.fill(0xee);
    }
    assert_eq!(packets.len(), count);
    let (last, others) = packets.split_last().unwrap();
    assert!(others.iter().all(|packet| packet.len() == largest) && last.len() <= largest);
    Ok(packets)
}

fn bytes_of(packets: &[Packet]) -> Vec<Vec<u8>> {
    packets.iter().map(Packet::bytes).collect()
}

#[test]
fn a_super_packet_of_each_kind() {
    for packet in [Packet::tcp4(62_000), Packet::tcp6(62_000), Packet::udp4(62_000), Packet::udp6(62_000)] {
        let (header, mut frame) = packet.frame(1348);
        let packets = split(header, &mut frame).unwrap();
        assert_eq!(packets.len(), 46);
        assert_eq!(packets, bytes_of(&packet.segments(1348)), "{header:?}");
    }
}

#[test]
fn flags_are_where_they_belong() {
    let packet = Packet::tcp4(3_000).flags(FIN | PSH | ACK | ECE | CWR);
    let (mut header, mut frame) = packet.frame(1_000);
    header.gso_type |= VirtioHeader::GSO_ECN;
    let flags: Vec<u8> = split(header, &mut frame).unwrap().iter().map(|packet| packet[33]).collect();
    assert_eq!(flags, [ACK | ECE | CWR, ACK | ECE, ACK | ECE | PSH | FIN]);
}

#[test]
fn numbers_wrap() {
    let mut packet = Packet::tcp4(3_000);
    packet.ip = Ip::V4 { id: 0xffff, df: false, options: Vec::new() };
    if let Transport::Tcp { sequence, .. } = &mut packet.transport {
        *sequence = u32::MAX - 999;
    }
    let (header, mut frame) = packet.frame(1_000);
    let packets = split(header, &mut frame).unwrap();
    let numbers: Vec<_> = packets.iter().map(|packet| (&packet[4..6], &packet[24..28])).collect();
    assert_eq!(
        numbers,
        [(&[0xff, 0xff][..], &[0xff, 0xff, 0xfc, 0x18][..]), (&[0, 0], &[0, 0, 0, 0]), (&[0, 1], &[0, 0, 3, 0xe8]),]
    );
}

#[test]
fn a_header_longer_than_a_segment_survives() {
    let packet = Packet::tcp4(50);
    let (header, mut frame) = packet.frame(1);
    assert_eq!(split(header, &mut frame).unwrap(), bytes_of(&packet.segments(1)));
}

/// What the field holds is right also where a header names another destination than the one that the packet is at.
#[test]
fn a_packet_routed_by_its_source_keeps_its_pseudo_header() {
    let mut packet = Packet::tcp6(3_000);
    let mut route = vec![2, 0, 1, 0, 0, 0, 0];
    route.extend([9; 16]);
    packet.ip = Ip::V6 { flow_label: 0, extensions: vec![(43, route)] };
    // On its way to the first hop; the checksum is for the destination.
    let on_its_way = |mut bytes: Vec<u8>| {
        bytes[24..40].fill(8);
        bytes
    };
    let (header, frame) = packet.frame(1_000);
    let mut frame = on_its_way(frame);
    let expected: Vec<_> = bytes_of(&packet.segments(1_000)).into_iter().map(on_its_way).collect();
    assert_eq!(split(header, &mut frame.clone()).unwrap(), expected);
    let finished = VirtioHeader { flags: 0, ..header };
    assert_eq!(split(finished, &mut frame), Err(SplitError::Checksum));
}

#[test]
fn a_checksum_is_recomputed_when_none_is_half_done() {
    for packet in [Packet::tcp4(3_000), Packet::udp6(3_000)] {
        let (header, _) = packet.frame(1_000);
        let finished = VirtioHeader { flags: 0, csum_start: 0, csum_offset: 0, hdr_len: 9_999, ..header };
        assert_eq!(split(finished, &mut packet.bytes()).unwrap(), bytes_of(&packet.segments(1_000)));
    }
}

#[test]
fn a_single_packet_gets_its_checksum() {
    for packet in [Packet::tcp4(100), Packet::tcp6(0), Packet::udp4(101), Packet::udp6(1)] {
        let (header, mut frame) = packet.frame(0);
        assert_eq!(split(header, &mut frame).unwrap(), [packet.bytes()]);
    }
}

#[test]
fn any_protocol_gets_its_checksum() {
    // ICMPv6 in IPv6, with its checksum at 2 of its header.
    let mut frame = Packet::udp6(64).bytes();
    frame[6] = 58;
    frame[42..44].copy_from_slice(&[0x12, 0x34]);
    let header = VirtioHeader { flags: VirtioHeader::NEEDS_CSUM, csum_start: 40, csum_offset: 2, ..Default::default() };
    let whole = frame.clone();
    let packets = split(header, &mut frame).unwrap();
    assert_eq!(packets[0][42..44], (!sum(&whole[40..])).to_be_bytes());
    // The sum of all with what the field held is right.
    assert_eq!(sum(&[&packets[0][40..], &[0x12, 0x34]].concat()), 0xffff);
}

#[test]
fn what_needs_nothing_is_as_it_was() {
    for bytes in [vec![], vec![0x45], vec![0xff; 100], Packet::tcp4(10).bytes()] {
        assert_eq!(split(VirtioHeader::default(), &mut bytes.clone()).unwrap(), [bytes]);
    }
}

#[test]
fn a_udp_checksum_of_zero_is_written_as_ones() {
    // The payload is chosen so that the sum is all ones.
    let mut packet = Packet::udp4(2);
    packet.payload = vec![0, 0];
    let without = packet.bytes();
    packet.payload = without[26..28].to_vec();
    let (header, mut frame) = packet.frame(0);
    assert_eq!(split(header, &mut frame).unwrap()[0][26..28], [0xff, 0xff]);
    let (header, mut frame) = packet.frame(2);
    assert_eq!(split(header, &mut frame).unwrap()[0][26..28], [0xff, 0xff]);
}

#[test]
fn what_contradicts_itself_is_refused() {
    let tcp = Packet::tcp4(3_000);
    let refused = |change: fn(&mut VirtioHeader, &mut Vec<u8>)| {
        let (mut header, mut frame) = tcp.frame(1_000);
        change(&mut header, &mut frame);
        split(header, &mut frame).unwrap_err()
    };
    assert_eq!(refused(|header, _| header.gso_type = 3), SplitError::Type(3));
    assert_eq!(refused(|header, _| header.gso_size = 0), SplitError::SegmentSize);
    assert_eq!(refused(|header, _| header.gso_type = VirtioHeader::GSO_UDP_L4), SplitError::Protocol);
    assert_eq!(refused(|header, _| header.gso_type = VirtioHeader::GSO_TCPV6), SplitError::Protocol);
    assert_eq!(refused(|header, _| header.csum_start = 24), SplitError::Checksum);
    assert_eq!(refused(|header, _| header.csum_offset = 6), SplitError::Checksum);
    assert_eq!(refused(|_, frame| frame.truncate(2_000)), SplitError::Length);
    assert_eq!(refused(|_, frame| frame.truncate(30)), SplitError::Length);
    assert_eq!(refused(|_, frame| frame.clear()), SplitError::Length);
    assert_eq!(refused(|_, frame| frame.push(0)), SplitError::Length);
    assert_eq!(refused(|_, frame| frame[0] = 0x44), SplitError::Length);
    assert_eq!(refused(|_, frame| frame[32] = 0x40), SplitError::Length);
    assert_eq!(refused(|_, frame| frame[6] |= 0x20), SplitError::Protocol);
    assert_eq!(refused(|_, frame| frame[9] = 1), SplitError::Protocol);
    let single =
        VirtioHeader { flags: VirtioHeader::NEEDS_CSUM, csum_start: 20, csum_offset: 79, ..Default::default() };
    assert_eq!(split(single, &mut [0; 100]), Err(SplitError::Checksum));
    assert_eq!(split(VirtioHeader { csum_start: 101, ..single }, &mut [0; 100]), Err(SplitError::Checksum));
    assert!(split(VirtioHeader { csum_offset: 78, ..single }, &mut [0; 100]).is_ok());
}

#[test]
fn a_frame_longer_than_any_packet_is_refused() {
    for (over, expected) in [(0, Ok(66)), (1, Err(SplitError::Length))] {
        let packet = Packet::tcp6(segments::MAX_FRAME - 72 + over);
        let (header, mut frame) = packet.frame(1_000);
        assert_eq!(split(header, &mut frame).map(|packets| packets.len()), expected);
    }
}

#[test]
fn extension_headers_without_end_are_refused() {
    let mut packet = Packet::tcp6(1_000);
    packet.ip = Ip::V6 { flow_label: 0, extensions: vec![(60, vec![0; 7]); 20] };
    let (header, mut frame) = packet.frame(100);
    assert_eq!(split(header, &mut frame), Err(SplitError::Extension));
}

proptest! {
    #[test]
    fn packets_are_those_of_the_model(packet in any_packet(65_000), size in prop_oneof![1_u16..40, 500_u16..9_000]) {
        // Not many thousands of packets.
        let mut packet = packet;
        packet.payload.truncate(usize::from(size) * 200);
        let (header, mut frame) = packet.frame(size);
        prop_assume!(frame.len() <= segments::MAX_FRAME);
        let packets = split(header, &mut frame).unwrap();
        prop_assert_eq!(packets, bytes_of(&packet.segments(size.into())));
    }

    #[test]
    fn noise_is_cut_or_refused(bytes: [u8; VirtioHeader::LEN], mut frame: Vec<u8>) {
        let _ = split(VirtioHeader::decode(&bytes), &mut frame);
    }

    #[test]
    fn bent_frames_are_cut_or_refused(
        packet in any_packet(3_000),
        size in 1_u16..2_000,
        bends in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in 0_usize..20,
    ) {
        let (header, frame) = packet.frame(size);
        let mut bytes = [&header.encode()[..], &frame].concat();
        bytes.truncate((bytes.len() - cut).max(VirtioHeader::LEN));
        for (at, value) in bends {
            // Headers, mostly.
            let at = at.index(bytes.len().min(120));
            bytes[at] = value;
        }
        let (header, frame) = bytes.split_first_chunk_mut().unwrap();
        let _ = split(VirtioHeader::decode(header), frame);
    }
}
