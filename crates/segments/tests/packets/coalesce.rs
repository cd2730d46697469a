//! What is joined and what is not, rule by rule.

use segments::{Coalescer, MAX_PACKETS, Offload, Split, VirtioHeader};

use crate::device::{ALL, coalesce, coalesce_in_steps, cut, finish, finish_ipv4, sizes};
use crate::model::{ACK, CWR, ECE, FIN, Ip, PSH, Packet, SYN, Transport};

/// A train of packets of one flow.
fn train(first: &Packet, sizes: &[usize]) -> Vec<Packet> {
    let mut packets: Vec<Packet> = vec![Packet { payload: vec![0x5a; sizes[0]], ..first.clone() }];
    for &size in &sizes[1..] {
        packets.push(packets[packets.len() - 1].following(size));
    }
    packets
}

fn bytes_of(packets: &[Packet]) -> Vec<Vec<u8>> {
    packets.iter().map(Packet::bytes).collect()
}

#[test]
fn a_train_of_each_kind_is_one_frame() {
    for first in [Packet::tcp4(0), Packet::tcp6(0), Packet::udp4(0), Packet::udp6(0)] {
        let packets = bytes_of(&train(&first, &[1348; 45]));
        let frames = coalesce(ALL, &packets);
        assert_eq!(frames.len(), 1);
        assert_eq!(cut(&frames[0].0, &frames[0].1), packets);
        // What comes in from one device goes out of another as it was.
        let (header, mut frame) = frames[0].clone();
        let mut split = Split::new(header, &mut frame).unwrap();
        let mut again = Vec::new();
        while let Some(packet) = split.next_packet() {
            again.push(packet.to_vec());
        }
        assert_eq!(again, packets);
    }
}

#[test]
fn only_what_the_device_takes() {
    let (tcp, udp) = (train(&Packet::tcp4(0), &[100; 3]), train(&Packet::udp4(0), &[100; 3]));
    let packets = bytes_of(&[tcp, udp].concat());
    assert_eq!(sizes(&coalesce(Offload { tcp: true, udp: false }, &packets)), [1, 1, 1, 3]);
    assert_eq!(sizes(&coalesce(Offload { tcp: false, udp: true }, &packets)), [1, 1, 1, 3]);
    assert_eq!(sizes(&coalesce(Offload::default(), &packets)), [1; 6]);
}

#[test]
fn a_shorter_packet_ends_a_run_and_a_longer_one_begins_another() {
    for first in [Packet::tcp4(0), Packet::udp6(0)] {
        let packets = bytes_of(&train(&first, &[100, 100, 60, 100, 100, 101, 101, 1, 1]));
        let steps = coalesce_in_steps(ALL, &packets);
        assert_eq!(sizes(&steps[2]), [3], "as soon as it is complete");
        assert_eq!(sizes(&steps.concat()), [3, 2, 3, 1]);
    }
}

#[test]
fn a_push_ends_a_run_and_stays() {
    let mut packets = train(&Packet::tcp4(0), &[100; 5]);
    packets[2] = packets[2].clone().flags(PSH | ACK);
    packets[3] = packets[3].clone().flags(PSH | ACK);
    let packets = bytes_of(&packets);
    let steps = coalesce_in_steps(ALL, &packets);
    assert_eq!(sizes(&steps[2]), [3]);
    assert_eq!(steps[2][0].1[33], PSH | ACK);
    assert_eq!(cut(&steps[2][0].0, &steps[2][0].1), packets[..3]);
    assert_eq!(steps[3], [(VirtioHeader::default(), packets[3].clone())]);
}

#[test]
fn a_run_has_its_limits() {
    let small = bytes_of(&train(&Packet::tcp4(0), &[1; 200]));
    assert_eq!(sizes(&coalesce(ALL, &small)), [MAX_PACKETS, MAX_PACKETS, MAX_PACKETS, 8]);
    for first in [Packet::tcp4(0), Packet::tcp6(0), Packet::udp4(0), Packet::udp6(0)] {
        let large = bytes_of(&train(&first, &[8_948; 10]));
        assert_eq!(sizes(&coalesce(ALL, &large)), [7, 3]);
        let all = segments::MAX_FRAME - first.bytes().len();
        assert_eq!(sizes(&coalesce(ALL, &bytes_of(&train(&first, &[all; 2])))), [1, 1]);
    }
    // As long as can be, to the byte.
    for (first, count) in [(Packet::udp4(0), 13), (Packet::tcp6(0), 3), (Packet::udp6(0), 3)] {
        let all = segments::MAX_FRAME - first.bytes().len();
        assert_eq!(all % count, 0);
        assert_eq!(sizes(&coalesce(ALL, &bytes_of(&train(&first, &vec![all / count; count + 1])))), [count, 1]);
    }
    // One byte longer than can be.
    let all = segments::MAX_FRAME + 1 - Packet::tcp6(0).bytes().len();
    assert_eq!(all % 8, 0);
    assert_eq!(sizes(&coalesce(ALL, &bytes_of(&train(&Packet::tcp6(0), &[all / 8; 9])))), [7, 2]);
}

/// Two packets that would be one frame, but for one difference.
fn apart(first: &Packet, change: impl Fn(&mut Packet)) -> bool {
    let mut packets = train(first, &[100; 2]);
    change(&mut packets[1]);
    let packets = bytes_of(&packets);
    let frames = coalesce(ALL, &packets);
    let is_apart = frames.len() == 2;
    assert!(!is_apart || frames.iter().map(|(_, frame)| frame).eq(&packets), "changed, or out of order");
    is_apart
}

#[test]
fn what_differs_is_not_joined() {
    for first in [Packet::tcp4(0), Packet::tcp6(0), Packet::udp4(0), Packet::udp6(0)] {
        assert!(!apart(&first, |_| ()));
        for mark in [1, 2, 3, 4, 0xb8] {
            assert!(apart(&first, |packet| packet.tos = mark), "ECN and DSCP");
        }
        assert!(apart(&first, |packet| packet.ttl = 63));
        assert!(apart(&first, |packet| packet.hosts.0 = 9));
        assert!(apart(&first, |packet| packet.hosts.1 = 9));
        assert!(apart(&first, |packet| packet.ports.0 = 9));
        assert!(apart(&first, |packet| packet.ports.1 = 9));
        assert!(apart(&first, |packet| packet.payload.clear()));
    }
    for first in [Packet::tcp6(0), Packet::udp6(0)] {
        assert!(apart(&first, |packet| packet.ip = Ip::V6 { flow_label: 1, extensions: Vec::new() }));
        let extensions = vec![(60, vec![0, 1, 4, 0, 0, 0, 0])];
        assert!(apart(&first, |packet| packet.ip = Ip::V6 { flow_label: 0xabcde, extensions: extensions.clone() }));
    }
    for flags in [0, SYN | ACK, FIN | ACK, CWR | ACK, ECE | ACK, 0x20 | ACK, 0x04 | ACK] {
        assert!(apart(&Packet::tcp4(0), |packet| *packet = packet.clone().flags(flags)), "{flags}");
        assert!(apart(&Packet::tcp4(0).flags(flags), |_| ()), "{flags}");
    }
    type Change = fn((&mut u32, &mut u32, &mut u16, &mut Vec<u8>));
    let changes: [Change; 7] = [
        |(sequence, ..)| *sequence += 1,
        |(sequence, ..)| *sequence -= 1,
        |(_, acknowledgement, ..)| *acknowledgement += 1,
        |(_, _, window, _)| *window += 1,
        |(.., options)| options[11] += 1,
        |(.., options)| options.clear(),
        |(.., options)| options.extend([1; 4]),
    ];
    for change in changes {
        for first in [Packet::tcp4(0), Packet::tcp6(0)] {
            let changed = |packet: &mut Packet| {
                let Transport::Tcp { sequence, acknowledgement, window, options, .. } = &mut packet.transport else {
                    panic!()
                };
                change((sequence, acknowledgement, window, options));
            };
            assert!(apart(&first, changed));
        }
    }
}

#[test]
fn a_tcp_header_that_is_odd_is_not_joined() {
    let good = bytes_of(&train(&Packet::tcp4(0), &[10; 2]));
    // Reserved bits and accurate ECN; a header that ends within itself, or behind the packet.
    for data_offset in [0x81, 0x88, 0x40, 0x00, 0xf0] {
        for odd in [&[0][..], &[1], &[0, 1]] {
            let mut packets = good.clone();
            for &odd in odd {
                packets[odd][32] = data_offset;
                // What follows the first, were it so.
                let size = (good[odd].len() - 20).saturating_sub(usize::from(data_offset >> 4) * 4);
                packets[odd][24..28].copy_from_slice(&(1_000 + (size * odd) as u32).to_be_bytes());
                finish(&mut packets[odd]);
            }
            let frames = coalesce(ALL, &packets);
            assert!(frames.iter().map(|(_, frame)| frame).eq(&packets), "{data_offset:x}");
        }
    }
}

#[test]
fn identification_counts_unless_the_packet_is_atomic() {
    let with = |id, df| move |packet: &mut Packet| packet.ip = Ip::V4 { id, df, options: Vec::new() };
    for first in [Packet::tcp4(0), Packet::udp4(0)] {
        let mut fragile = first.clone();
        fragile.ip = Ip::V4 { id: 0xffff, df: false, options: Vec::new() };
        assert!(!apart(&fragile, |_| ()), "it wraps");
        assert!(apart(&fragile, with(0xffff, false)));
        assert!(apart(&fragile, with(1, false)));
        assert!(apart(&fragile, with(0, true)));
        assert!(!apart(&first, with(7, true)));
        assert!(!apart(&first, with(9_999, true)));
        assert!(apart(&first, with(8, false)));
    }
    let packets = bytes_of(&[Packet::udp4(10), {
        let mut other = Packet::udp4(10);
        with(99, true)(&mut other);
        other
    }]);
    let frames = coalesce(ALL, &packets);
    assert_eq!(cut(&frames[0].0, &frames[0].1)[1][4..6], [0, 8], "from the first's, and the rest is as it was");
}

#[test]
fn a_wrong_checksum_is_not_made_right() {
    for first in [Packet::tcp4(0), Packet::tcp6(0), Packet::udp4(0), Packet::udp6(0)] {
        let good = bytes_of(&train(&first, &[100; 3]));
        let length = good[0].len();
        for broken in 0..3 {
            let spots = [length - 1, length - 60];
            for at in spots.into_iter().chain((good[0][0] == 0x45).then_some(10)) {
                let mut packets = good.clone();
                packets[broken][at] ^= 1;
                let frames = coalesce(ALL, &packets);
                let expected: &[usize] = [&[1, 2][..], &[1, 1, 1], &[2, 1]][broken];
                assert_eq!(sizes(&frames), expected, "byte {at} of packet {broken}");
                let again: Vec<_> = frames.iter().flat_map(|(header, frame)| cut(header, frame)).collect();
                assert_eq!(again, packets);
            }
        }
    }
}

#[test]
fn a_udp_datagram_without_checksum_stays_without() {
    let mut packets = bytes_of(&train(&Packet::udp4(0), &[100; 2]));
    for packet in &mut packets {
        packet[26..28].fill(0);
    }
    let frames = coalesce(ALL, &packets);
    assert!(frames.iter().map(|(_, frame)| frame).eq(&packets));
    // Nor where zero would be right: the payload makes the sum all ones.
    for packet in &mut packets {
        packet[28..30].fill(0);
        finish(packet);
        let rest = [packet[26], packet[27]];
        packet[28..30].copy_from_slice(&rest);
        packet[26..28].fill(0);
    }
    let frames = coalesce(ALL, &packets);
    assert!(frames.iter().map(|(_, frame)| frame).eq(&packets));
}

#[test]
fn flows_are_gathered_side_by_side() {
    let flow = |port: u16| {
        let mut packet = Packet::tcp4(0);
        packet.ports.0 = port;
        bytes_of(&train(&packet, &[500; 5]))
    };
    let interleaved = |flows: u16| {
        let flows: Vec<_> = (0..flows).map(flow).collect();
        (0..5).flat_map(|at| flows.iter().map(move |flow| flow[at].clone())).collect::<Vec<_>>()
    };
    assert_eq!(sizes(&coalesce(ALL, &interleaved(8))), [5; 8]);
    // With one more the oldest goes each time, which is always the next to come.
    assert_eq!(sizes(&coalesce(ALL, &interleaved(9))), [1; 45]);
    let steps = coalesce_in_steps(ALL, &interleaved(9)[..9]);
    assert_eq!(steps[8], [(VirtioHeader::default(), flow(0)[0].clone())], "the oldest");
}

#[test]
fn what_cannot_join_waits_for_its_flow_only() {
    let (data, mut other) = (train(&Packet::tcp4(0), &[100; 3]), train(&Packet::tcp4(0), &[100; 2]));
    for packet in &mut other {
        packet.ports.0 = 1;
    }
    let mut acknowledgement = data[1].following(0);
    acknowledgement.ports.1 = 80;
    let own = data[1].following(0);
    let packets = [&data[..2], &other, &[acknowledgement, own], &data[2..]].concat();
    let steps: Vec<_> = coalesce_in_steps(ALL, &bytes_of(&packets)).iter().map(|frames| sizes(frames)).collect();
    assert_eq!(steps, [vec![], vec![], vec![], vec![], vec![1], vec![2, 1], vec![], vec![2, 1]]);
}

#[test]
fn what_may_be_of_any_flow_waits_for_all_between_its_hosts() {
    let flow = |port, host| {
        let mut packet = Packet::udp4(0);
        (packet.ports.0, packet.hosts.0) = (port, host);
        bytes_of(&train(&packet, &[100; 2]))
    };
    let mut fragment = flow(1, 1)[0].clone();
    fragment[6] = 0x20;
    finish_ipv4(&mut fragment);
    let mut padded = flow(1, 1)[0].clone();
    padded.push(0);
    let mut optional = Packet::udp4(4);
    optional.ip = Ip::V4 { id: 0, df: true, options: vec![1; 4] };
    for strange in [fragment, padded, optional.bytes()] {
        let packets = [flow(1, 1), flow(2, 1), flow(1, 9), vec![strange.clone()]].concat();
        let steps = coalesce_in_steps(ALL, &packets);
        assert_eq!(sizes(&steps[6]), [2, 2, 1]);
        assert_eq!(steps[6][2].1, strange);
        assert_eq!(sizes(&steps[7]), [2]);
    }
    // Another protocol, and no protocol at all, wait for none.
    let mut ping = flow(1, 1)[0].clone();
    ping[9] = 1;
    finish_ipv4(&mut ping);
    for other in [ping, vec![], vec![0x12; 60], vec![0x45; 10]] {
        let steps = coalesce_in_steps(ALL, &[flow(1, 1), vec![other.clone()]].concat());
        assert_eq!(steps[2], [(VirtioHeader::default(), other)]);
    }
}

#[test]
fn a_range_outside_is_no_packet() {
    let mut coalescer = Coalescer::new(ALL);
    coalescer.push(&mut [0; 10], 5..11, &mut |run| panic!("{run:?}"));
    coalescer.flush(&mut [0; 10], &mut |run| panic!("{run:?}"));
}
