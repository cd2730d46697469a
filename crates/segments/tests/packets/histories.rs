//! Any interleaving of flows, with packets among them that are odd in one way, comes out flow by flow as it went in.

use std::collections::HashSet;

use proptest::prelude::*;
use proptest::sample::Index;
use segments::{Offload, VirtioHeader};

use crate::device::{coalesce, cut, finish, finish_ipv4};
use crate::model::{ACK, Ip, PSH, Packet, Transport, any_packet, sum};

/// How a packet is not what would follow in its flow.
#[derive(Clone, Debug)]
enum Twist {
    None,
    Tos(u8),
    Flags(u8),
    Id(u16),
    Df,
    Label(u32),
    Acknowledgement,
    Window,
    Options(usize),
    Gap(u32),
    IpOptions,
    Fragment,
    Padding,
    NoChecksum,
    /// A byte, mostly of the headers, is another, perhaps with checksums that are right again.
    Bend(Index, u8, bool),
    /// Not IP.
    Noise(Vec<u8>),
}

#[derive(Clone, Debug)]
struct Step {
    flow: usize,
    size: usize,
    twist: Twist,
    /// Whether the flow goes on like that.
    stays: bool,
}

fn any_step() -> impl Strategy<Value = Step> {
    let twist = prop_oneof![
        60 => Just(Twist::None),
        1 => any::<u8>().prop_map(Twist::Tos),
        2 => prop_oneof![Just(ACK | PSH), any::<u8>()].prop_map(Twist::Flags),
        1 => any::<u16>().prop_map(Twist::Id),
        1 => Just(Twist::Df),
        1 => (0_u32..1 << 20).prop_map(Twist::Label),
        1 => Just(Twist::Acknowledgement),
        1 => Just(Twist::Window),
        1 => (0_usize..=10).prop_map(Twist::Options),
        1 => any::<u32>().prop_map(Twist::Gap),
        1 => Just(Twist::IpOptions),
        1 => Just(Twist::Fragment),
        1 => Just(Twist::Padding),
        1 => Just(Twist::NoChecksum),
        4 => (any::<Index>(), any::<u8>(), any::<bool>()).prop_map(|(at, value, repair)| Twist::Bend(at, value, repair)),
        1 => proptest::collection::vec(any::<u8>(), 0..60).prop_map(|mut noise| {
            noise.iter_mut().take(1).for_each(|first| *first &= 0x2f);
            Twist::Noise(noise)
        }),
    ];
    let size = prop_oneof![20 => Just(100_usize), 1 => Just(1), 1 => Just(99), 1 => Just(101), 1 => Just(0), 1 => Just(20_000)];
    // Few flows are gathered far, many push each other out.
    (prop_oneof![0_usize..3, 0_usize..12], size, twist, any::<bool>()).prop_map(|(flow, size, twist, stays)| Step {
        flow,
        size,
        twist,
        stays,
    })
}

/// Twelve flows, several between the same hosts.
fn flows() -> Vec<Packet> {
    (0..12)
        .map(|flow| {
            let mut packet = [Packet::tcp4(0), Packet::tcp6(0), Packet::udp4(0), Packet::udp6(0)][flow % 4].clone();
            packet.ports.0 += (flow / 8) as u16;
            packet.hosts.0 += (flow / 4 % 2) as u8;
            if let Ip::V4 { df, .. } = &mut packet.ip {
                *df = flow < 6;
            }
            packet
        })
        .collect()
}

/// The packets as they come.
fn history(steps: &[Step]) -> Vec<Vec<u8>> {
    let mut flows = flows();
    let packet_of = |step: &Step| {
        let flow = &mut flows[step.flow];
        let straight = flow.following(step.size);
        let mut twisted = straight.clone();
        twist(&mut twisted, &step.twist);
        let bytes = twist_bytes(twisted.bytes(), &step.twist);
        *flow = if step.stays { twisted } else { straight };
        bytes
    };
    steps.iter().map(packet_of).collect()
}

fn twist(packet: &mut Packet, twist: &Twist) {
    match (twist, &mut packet.ip) {
        (Twist::Id(value), Ip::V4 { id, .. }) => *id = *value,
        (Twist::Df, Ip::V4 { df, .. }) => *df = !*df,
        (Twist::IpOptions, Ip::V4 { options, .. }) => *options = vec![1; 4],
        (Twist::Label(label), Ip::V6 { flow_label, .. }) => *flow_label = *label,
        (Twist::IpOptions, Ip::V6 { extensions, .. }) => *extensions = vec![(60, vec![0, 1, 4, 0, 0, 0, 0])],
        (Twist::Tos(tos), _) => packet.tos = *tos,
        _ => {}
    }
    let Transport::Tcp { sequence, acknowledgement, flags, window, options } = &mut packet.transport else { return };
    match twist {
        Twist::Flags(value) => *flags = *value,
        Twist::Acknowledgement => *acknowledgement = acknowledgement.wrapping_add(1),
        Twist::Window => *window = window.wrapping_add(1),
        Twist::Options(words) => *options = vec![1; words * 4],
        Twist::Gap(gap) => *sequence = sequence.wrapping_add(*gap),
        _ => {}
    }
}

fn twist_bytes(mut bytes: Vec<u8>, twist: &Twist) -> Vec<u8> {
    let is_ipv4 = bytes[0] >> 4 == 4;
    match twist {
        Twist::Fragment if bytes[0] == 0x45 => {
            bytes[6] |= 0x20;
            finish_ipv4(&mut bytes);
        }
        Twist::Padding => bytes.push(0),
        Twist::NoChecksum if is_ipv4 && bytes[9] == 17 => bytes[26..28].fill(0),
        Twist::NoChecksum if bytes[6] == 17 => bytes[46..48].fill(0),
        Twist::Bend(at, value, repair) => {
            let at = at.index(bytes.len().min(90));
            bytes[at] ^= value;
            if *repair && kind(&bytes).is_some_and(|kind| kind.ports.is_some()) {
                finish(&mut bytes);
            }
        }
        Twist::Noise(noise) => return noise.clone(),
        _ => {}
    }
    bytes
}

/// What a packet of TCP or UDP belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kind {
    addresses: Vec<u8>,
    /// With the protocol before them. Absent where they can't be seen easily.
    ports: Option<Vec<u8>>,
}

fn kind(packet: &[u8]) -> Option<Kind> {
    let (addresses, protocol, transport, is_plain) = match packet.first()? >> 4 {
        4 if packet.len() >= 20 => {
            let is_whole = usize::from(packet[2]) * 256 + usize::from(packet[3]) == packet.len();
            let is_plain = packet[0] == 0x45 && packet[6] & 0xbf == 0 && packet[7] == 0;
            (&packet[12..20], packet[9], 20, is_whole && is_plain)
        }
        6 if packet.len() >= 40 => {
            let is_whole = usize::from(packet[4]) * 256 + usize::from(packet[5]) + 40 == packet.len();
            match packet[6] {
                // Destination options, before one of the two.
                60 if is_whole && packet.len() > 70 && packet[41] == 0 => (&packet[8..40], packet[40], 48, false),
                protocol => (&packet[8..40], protocol, 40, is_whole),
            }
        }
        _ => return None,
    };
    let ports = packet.get(transport..transport + if protocol == 6 { 20 } else { 8 }).filter(|_| is_plain);
    let ports = ports.map(|header| [&[protocol], &header[..4]].concat());
    matches!(protocol, 6 | 17).then(|| Kind { addresses: addresses.to_vec(), ports })
}

/// The packet without the one thing that may differ: the identification where it means nothing. Whether the checksum of
/// the header was right is kept.
fn normalised(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet.len() >= 20 && packet[0] == 0x45 && packet[6] == 0x40 {
        let residue = sum(&packet[..20]);
        packet[4..6].fill(0);
        packet[10..12].copy_from_slice(&residue.to_be_bytes());
    }
    packet
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn each_flow_comes_out_as_it_went_in(
        steps in proptest::collection::vec(any_step(), 1..120),
        offload in (any::<bool>(), prop::bool::weighted(0.8)).prop_map(|(udp, tcp)| Offload { tcp, udp }),
    ) {
        let packets = history(&steps);
        let frames = coalesce(offload, &packets);
        let came: Vec<Vec<u8>> = frames.iter().flat_map(|(header, frame)| cut(header, frame)).collect();
        let (went, came) = (packets.iter().map(|packet| normalised(packet)), came.iter().map(|packet| normalised(packet)));
        let (went, came): (Vec<_>, Vec<_>) = (went.collect(), came.collect());

        let mut all = (went.clone(), came.clone());
        all.0.sort();
        all.1.sort();
        prop_assert_eq!(all.0, all.1, "packets are lost, changed or made");

        // Whatever may be of the flow is in its order.
        let flows: HashSet<Kind> = went.iter().filter_map(|packet| kind(packet)).filter(|kind| kind.ports.is_some()).collect();
        for flow in flows {
            let is_of_flow = |packet: &&Vec<u8>| {
                kind(packet).is_some_and(|kind| kind == flow || (kind.ports.is_none() && kind.addresses == flow.addresses))
            };
            prop_assert!(went.iter().filter(is_of_flow).eq(came.iter().filter(is_of_flow)), "{:?} out of order", flow);
        }
    }

    #[test]
    fn unrelated_packets_are_left_alone(packets in proptest::collection::vec(any_packet(300), 1..40)) {
        let packets: Vec<_> = packets.iter().map(Packet::bytes).collect();
        let frames = coalesce(Offload { tcp: true, udp: true }, &packets);
        let mut came: Vec<_> = frames.iter().flat_map(|(header, frame)| cut(header, frame)).collect();
        let mut went = packets;
        went.sort();
        came.sort();
        prop_assert_eq!(went, came);
    }

    #[test]
    fn noise_comes_out_as_it_went_in(packets: Vec<Vec<u8>>) {
        let frames = coalesce(Offload { tcp: true, udp: true }, &packets);
        let expected: Vec<_> = packets.into_iter().map(|packet| (VirtioHeader::default(), packet)).collect();
        prop_assert_eq!(frames, expected);
    }
}

/// The histories above are worth something only if much is joined in them.
#[test]
fn histories_join_much() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let (mut packets, mut frames) = (0, 0);
    for _ in 0..100 {
        let steps = proptest::collection::vec(any_step(), 120).new_tree(&mut runner).unwrap().current();
        let history = history(&steps);
        packets += history.len();
        frames += coalesce(Offload { tcp: true, udp: true }, &history).len();
    }
    assert!(frames * 3 < packets * 2, "{packets} packets in {frames} frames");
}
