//! What hosts behind a tunnel send: interleaved flows of TCP and UDP over IPv4 and IPv6, and among them what is odd.

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use segments::VirtioHeader;

use crate::device::finish_ipv4;
use crate::model::{ACK, CWR, ECE, FIN, Ip, PSH, Packet, SYN, Transport};

/// The host of the listener, as [`Packet::hosts`] has it.
pub(crate) const LISTENER: u8 = 1;
/// A host that is nobody's.
const NOBODY: u8 = 99;
/// What the tunnels let segments of TCP over IPv4 be at most, and over IPv6.
const MSS: [u16; 2] = [1260, 1240];
/// What the tunnels are told for that, bytes of a packet.
pub(crate) const MSS_FIX: u16 = MSS[0] + 40;
/// Bytes that a packet may have.
pub(crate) const MTU: u16 = 1500;
/// Frames of a step.
pub(crate) const FRAMES: usize = 12;
/// Most headers that a packet here has, bytes.
const HEADERS: usize = 140;

/// Something that a device hands over.
pub(crate) struct Step {
    pub(crate) from: u8,
    pub(crate) to: u8,
    /// As a device with offload does it.
    pub(crate) frames: Vec<(VirtioHeader, Vec<u8>)>,
    /// As a plain device does it.
    pub(crate) packets: Vec<Vec<u8>>,
    /// What has to come out at the other end.
    pub(crate) arrives: Vec<Vec<u8>>,
}

/// The flows from one host to another. The same for the same seed.
pub(crate) struct Traffic {
    rng: StdRng,
    flows: Vec<Packet>,
    from: u8,
    to: u8,
}

impl Traffic {
    pub(crate) fn new(seed: u64, from: u8, to: u8) -> Self {
        let mut flows = Vec::new();
        for port in 0..3 {
            for mut flow in [Packet::tcp4(0), Packet::tcp6(0), Packet::udp4(0), Packet::udp6(0)] {
                flow.hosts = (from, to);
                flow.ports.0 += port;
                flows.push(flow);
            }
        }
        let rng = StdRng::seed_from_u64(seed << 16 | u64::from(from) << 8 | u64::from(to));
        Self { rng, flows, from, to }
    }

    pub(crate) fn step(&mut self) -> Step {
        // Few flows are gathered far, many push each other out.
        let among = if self.rng.random_bool(0.7) { 4 } else { self.flows.len() };
        let index = self.rng.random_range(0..among);
        let mut flow = self.flows[index].clone();
        if self.rng.random_bool(0.2) {
            self.change(&mut flow);
        }
        let (packet, step) = match self.rng.random_range(0..100) {
            0..35 => self.many(&flow),
            35..55 => self.train(&flow),
            55..80 => self.single(&flow),
            80..84 => self.opening(&flow),
            _ => (flow.clone(), self.odd(&flow)),
        };
        self.flows[index] = packet;
        step
    }

    /// Something of a flow is different from now on.
    fn change(&mut self, flow: &mut Packet) {
        let rng = &mut self.rng;
        match rng.random_range(0..8) {
            // DSCP, ECN that can be marked, and that is.
            0 => flow.tos = [0, 0xb8, 2, 3, 0xbb][rng.random_range(0..5)],
            1 => flow.ttl = rng.random(),
            2 | 3 => match &mut flow.ip {
                Ip::V4 { id, df, .. } => (*id, *df) = (rng.random(), !*df),
                Ip::V6 { flow_label, .. } => *flow_label = rng.random_range(0..1 << 20),
            },
            _ => {
                if let Transport::Tcp { sequence, acknowledgement, window, options, .. } = &mut flow.transport {
                    match rng.random_range(0..4) {
                        // Lost before, or sent again.
                        0 => *sequence = sequence.wrapping_add(rng.random_range(0..5000)).wrapping_sub(2500),
                        1 => *acknowledgement = rng.random(),
                        2 => *window = rng.random(),
                        _ => *options = vec![1; 4 * rng.random_range(0..=10)],
                    }
                }
            }
        }
    }

    /// A frame that stands for several packets.
    fn many(&mut self, flow: &Packet) -> (Packet, Step) {
        let rng = &mut self.rng;
        let size = [1, 100, 536, 1208, 1348, usize::from(MTU) - HEADERS][rng.random_range(0..6)];
        let most = (segments::MAX_FRAME - HEADERS) / size;
        let count = rng.random_range(2..=most.min(45));
        let payload = size * (count - 1) + rng.random_range(1..=size);
        let flags = ACK | flag(rng, 0.3, PSH) | flag(rng, 0.05, FIN) | flag(rng, 0.1, CWR) | flag(rng, 0.1, ECE);
        let mut packet = flow.following(payload).flags(flags);
        if rng.random_bool(0.05) {
            add_headers(&mut packet);
        }
        let mut frame = packet.frame(size as u16);
        if flags & CWR != 0 && matches!(packet.transport, Transport::Tcp { .. }) {
            frame.0.gso_type |= VirtioHeader::GSO_ECN;
        }
        let packets: Vec<_> = packet.segments(size).iter().map(Packet::bytes).collect();
        let arrives = packets.clone();
        (plain(packet), self.made(frame, packets, arrives))
    }

    /// Packets that could be joined at the other end, but for what changes between them.
    fn train(&mut self, flow: &Packet) -> (Packet, Step) {
        let mut packet = flow.clone();
        let (mut frames, mut packets) = (Vec::new(), Vec::new());
        for _ in 0..self.rng.random_range(4..=FRAMES) {
            packet = packet.following(600);
            if self.rng.random_bool(0.15) {
                self.change(&mut packet);
            }
            let mut bytes = packet.bytes();
            if self.rng.random_bool(0.05) {
                *bytes.last_mut().unwrap() ^= 1;
            }
            frames.push((VirtioHeader::default(), bytes.clone()));
            packets.push(bytes);
        }
        let arrives = packets.clone();
        (packet, Step { from: self.from, to: self.to, frames, packets, arrives })
    }

    /// One packet of any size, its checksum half done or done.
    fn single(&mut self, flow: &Packet) -> (Packet, Step) {
        let rng = &mut self.rng;
        let payload = match rng.random_range(0..4) {
            0 => 0,
            1 => rng.random_range(1..=usize::from(MTU) - HEADERS),
            _ => 1348,
        };
        let any = if rng.random_bool(0.05) { rng.random::<u8>() & !SYN } else { ACK };
        let packet = flow.following(payload).flags(any | flag(rng, 0.1, PSH));
        let bytes = packet.bytes();
        let frame = if rng.random_bool(0.5) { packet.frame(0) } else { (VirtioHeader::default(), bytes.clone()) };
        (packet, self.made(frame, vec![bytes.clone()], vec![bytes]))
    }

    /// The beginning of a connection, which the tunnel makes fit. Of UDP a datagram.
    fn opening(&mut self, flow: &Packet) -> (Packet, Step) {
        let rng = &mut self.rng;
        let (mss, shift) = (rng.random_range(200..=1460_u16), rng.random_range(0..4));
        let flags = SYN | flag(rng, 0.5, ACK) | flag(rng, 0.3, ECE | CWR);
        let with = |mss: u16| {
            let mut packet = flow.following(0).flags(flags);
            if let Transport::Tcp { options, .. } = &mut packet.transport {
                let [high, low] = mss.to_be_bytes();
                *options = [&[1; 4][shift..], &[2, 4, high, low], &[4, 2, 1, 1], &[1; 4][..shift]].concat();
            }
            packet
        };
        let limit = MSS[usize::from(matches!(flow.ip, Ip::V6 { .. }))];
        let (packet, arrives) = (with(mss), with(mss.min(limit)));
        let step = self.made(packet.frame(0), vec![packet.bytes()], vec![arrives.bytes()]);
        (flow.following(0), step)
    }

    /// One that the flow does not depend on.
    fn odd(&mut self, flow: &Packet) -> Step {
        let rng = &mut self.rng;
        let mut packet = flow.following(rng.random_range(0..600));
        let kind = rng.random_range(0..11);
        match kind {
            0 => add_headers(&mut packet),
            1 if self.from == LISTENER => packet.hosts.1 = NOBODY,
            1 => packet.hosts.0 = NOBODY,
            _ => {}
        }
        let mut bytes = packet.bytes();
        let is_ipv4 = bytes[0] >> 4 == 4;
        let transport = if is_ipv4 { 20 } else { 40 };
        match kind {
            // What no kernel hands over.
            2 => {
                let header = VirtioHeader { gso_type: 3, gso_size: 100, ..VirtioHeader::default() };
                return self.made((header, bytes), vec![], vec![]);
            }
            // Not IP, whatever else it is.
            3 => {
                bytes = (0..rng.random_range(0..60)).map(|_| rng.random()).collect();
                bytes.iter_mut().take(1).for_each(|first| *first &= 0x2f);
            }
            // A fragment: the first, or a later one.
            4 if is_ipv4 => {
                let field = if rng.random_bool(0.5) { 0x2000_u16 } else { rng.random_range(1..0x1000) };
                bytes[6..8].copy_from_slice(&field.to_be_bytes());
                finish_ipv4(&mut bytes);
            }
            4 => {
                bytes.splice(transport..transport, [bytes[6], 0, rng.random(), 1, 0, 0, 0, 7]);
                bytes[6] = 44;
                let length = (bytes.len() - 40) as u16;
                bytes[4..6].copy_from_slice(&length.to_be_bytes());
            }
            // Another protocol: ICMP, GRE.
            5 => {
                bytes[if is_ipv4 { 9 } else { 6 }] =
                    if rng.random_bool(0.5) { 47 } else { 1 + 57 * u8::from(!is_ipv4) };
                if is_ipv4 {
                    finish_ipv4(&mut bytes);
                }
            }
            // No checksum of UDP.
            6 if matches!(packet.transport, Transport::Udp) => bytes[transport + 6..transport + 8].fill(0),
            7 => bytes.extend([0; 3]),
            8 => bytes.truncate(bytes.len() - 1),
            // Nothing but the header of IP.
            9 => {
                bytes.truncate(transport);
                let length = if is_ipv4 { [0, 20] } else { [0, 0] };
                let at = if is_ipv4 { 2 } else { 4 };
                bytes[at..at + 2].copy_from_slice(&length);
                if is_ipv4 {
                    finish_ipv4(&mut bytes);
                }
            }
            // A checksum that is wrong, or something that it was over. Nothing that says what to do with the rest.
            _ if packet.payload.is_empty() => bytes[transport + 4] ^= 1,
            _ => {
                let last = bytes.len() - 1;
                bytes[last] ^= rng.random_range(1..=u8::MAX);
            }
        }
        let arrives = match kind {
            1 | 3 | 8 => vec![],
            7 => vec![bytes[..bytes.len() - 3].to_vec()],
            _ => vec![bytes.clone()],
        };
        self.made((VirtioHeader::default(), bytes.clone()), vec![bytes], arrives)
    }

    fn made(&self, frame: (VirtioHeader, Vec<u8>), packets: Vec<Vec<u8>>, arrives: Vec<Vec<u8>>) -> Step {
        Step { from: self.from, to: self.to, frames: vec![frame], packets, arrives }
    }
}

fn flag(rng: &mut impl Rng, chance: f64, flag: u8) -> u8 {
    if rng.random_bool(chance) { flag } else { 0 }
}

/// Options of IPv4, an extension header of IPv6.
fn add_headers(packet: &mut Packet) {
    match &mut packet.ip {
        Ip::V4 { options, .. } => *options = vec![1; 8],
        Ip::V6 { extensions, .. } => *extensions = vec![(60, vec![0, 1, 4, 0, 0, 0, 0])],
    }
}

/// The same without them.
fn plain(mut packet: Packet) -> Packet {
    match &mut packet.ip {
        Ip::V4 { options, .. } => options.clear(),
        Ip::V6 { extensions, .. } => extensions.clear(),
    }
    packet
}
