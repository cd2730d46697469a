//! Packets made field by field, and cut field by field: slow, and easy to see through.

use proptest::prelude::*;
use segments::VirtioHeader;

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const ECE: u8 = 0x40;
pub(crate) const CWR: u8 = 0x80;

#[derive(Clone, Debug)]
pub(crate) enum Ip {
    V4 {
        id: u16,
        df: bool,
        options: Vec<u8>,
    },
    /// With extension headers, each in 8-byte units after its first byte, the next header, is set.
    V6 {
        flow_label: u32,
        extensions: Vec<(u8, Vec<u8>)>,
    },
}

#[derive(Clone, Debug)]
pub(crate) enum Transport {
    Tcp { sequence: u32, acknowledgement: u32, flags: u8, window: u16, options: Vec<u8> },
    Udp,
}

#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) ip: Ip,
    pub(crate) tos: u8,
    pub(crate) ttl: u8,
    /// Last bytes of the addresses.
    pub(crate) hosts: (u8, u8),
    pub(crate) ports: (u16, u16),
    pub(crate) transport: Transport,
    pub(crate) payload: Vec<u8>,
}

impl Packet {
    pub(crate) fn tcp4(payload: usize) -> Self {
        Self {
            ip: Ip::V4 { id: 7, df: true, options: Vec::new() },
            tos: 0,
            ttl: 64,
            hosts: (1, 2),
            ports: (40_000, 443),
            transport: Transport::Tcp {
                sequence: 1_000,
                acknowledgement: 5_000,
                flags: ACK,
                window: 501,
                // Timestamps.
                options: vec![1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 8],
            },
            payload: (0..payload).map(|at| (at * 31 + at / 256) as u8).collect(),
        }
    }

    pub(crate) fn tcp6(payload: usize) -> Self {
        Self { ip: Ip::V6 { flow_label: 0xabcde, extensions: Vec::new() }, ..Self::tcp4(payload) }
    }

    pub(crate) fn udp4(payload: usize) -> Self {
        Self { transport: Transport::Udp, ..Self::tcp4(payload) }
    }

    pub(crate) fn udp6(payload: usize) -> Self {
        Self { transport: Transport::Udp, ..Self::tcp6(payload) }
    }

    pub(crate) fn flags(mut self, value: u8) -> Self {
        if let Transport::Tcp { flags, .. } = &mut self.transport {
            *flags = value;
        }
        self
    }

    /// The packet that follows this one in its flow, with so many bytes.
    pub(crate) fn following(&self, payload: usize) -> Self {
        let mut next = self.clone();
        if let Ip::V4 { id, .. } = &mut next.ip {
            *id = id.wrapping_add(1);
        }
        if let Transport::Tcp { sequence, .. } = &mut next.transport {
            *sequence = sequence.wrapping_add(self.payload.len() as u32);
        }
        next.payload = (0..payload).map(|at| (at * 37 + self.payload.len()) as u8).collect();
        next
    }

    fn protocol(&self) -> u8 {
        match self.transport {
            Transport::Tcp { .. } => 6,
            Transport::Udp => 17,
        }
    }

    fn checksum_offset(&self) -> usize {
        match self.transport {
            Transport::Tcp { .. } => 16,
            Transport::Udp => 6,
        }
    }

    fn addresses(&self) -> Vec<u8> {
        let (source, destination) = self.hosts;
        match self.ip {
            Ip::V4 { .. } => vec![10, 0, 0, source, 10, 0, 0, destination],
            Ip::V6 { .. } => {
                let address = |host| [&[0xfd][..], &[7; 14], &[host]].concat();
                [address(source), address(destination)].concat()
            }
        }
    }

    fn pseudo_header(&self, length: usize) -> Vec<u8> {
        [&self.addresses()[..], &[0, self.protocol()], &(length as u32).to_be_bytes()].concat()
    }

    /// The header of the transport, its checksum zero.
    fn transport_header(&self) -> Vec<u8> {
        let mut header = [self.ports.0.to_be_bytes(), self.ports.1.to_be_bytes()].concat();
        match &self.transport {
            Transport::Tcp { sequence, acknowledgement, flags, window, options } => {
                header.extend(sequence.to_be_bytes());
                header.extend(acknowledgement.to_be_bytes());
                header.extend([((20 + options.len()) / 4 * 16) as u8, *flags]);
                header.extend(window.to_be_bytes());
                header.extend([0; 4]);
                header.extend(options);
            }
            Transport::Udp => {
                header.extend((8 + self.payload.len() as u16).to_be_bytes());
                header.extend([0; 2]);
            }
        }
        header
    }

    /// The header of IP with all that stands before the transport.
    fn ip_header(&self, length: usize) -> Vec<u8> {
        match &self.ip {
            Ip::V4 { id, df, options } => {
                let mut header = vec![0x40 | ((20 + options.len()) / 4) as u8, self.tos];
                header.extend(((20 + options.len() + length) as u16).to_be_bytes());
                header.extend(id.to_be_bytes());
                header.extend([u8::from(*df) << 6, 0, self.ttl, self.protocol(), 0, 0]);
                header.extend(self.addresses());
                header.extend(options);
                let checksum = !sum(&header);
                header[10..12].copy_from_slice(&checksum.to_be_bytes());
                header
            }
            Ip::V6 { flow_label, extensions } => {
                let before: usize = extensions.iter().map(|(_, body)| 1 + body.len()).sum();
                let first = 6 << 28 | u32::from(self.tos) << 20 | flow_label;
                let mut header = first.to_be_bytes().to_vec();
                header.extend(((before + length) as u16).to_be_bytes());
                let mut kinds = extensions.iter().map(|(kind, _)| *kind).chain([self.protocol()]);
                header.push(kinds.next().unwrap());
                header.push(self.ttl);
                header.extend(self.addresses());
                for (kind, (_, body)) in kinds.zip(extensions) {
                    header.push(kind);
                    header.extend(body);
                }
                header
            }
        }
    }

    fn with_checksum(&self, checksum: impl Fn(&[u8], &[u8]) -> u16) -> Vec<u8> {
        let mut transport = [self.transport_header(), self.payload.clone()].concat();
        let value = checksum(&self.pseudo_header(transport.len()), &transport).to_be_bytes();
        transport[self.checksum_offset()..][..2].copy_from_slice(&value);
        [self.ip_header(transport.len()), transport].concat()
    }

    /// As it is on a wire.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.with_checksum(|pseudo, transport| match !sum(&[pseudo, transport].concat()) {
            0 if self.protocol() == 17 => 0xffff,
            checksum => checksum,
        })
    }

    /// As the kernel hands it over to be cut into packets with so much payload, its checksum half done. With 0, as one
    /// packet.
    pub(crate) fn frame(&self, size: u16) -> (VirtioHeader, Vec<u8>) {
        let bytes = self.with_checksum(|pseudo, _| sum(pseudo));
        let payload = bytes.len() - self.payload.len();
        let start = payload - self.transport_header().len();
        let gso_type = match (size, &self.transport, &self.ip) {
            (0, ..) => VirtioHeader::GSO_NONE,
            (_, Transport::Udp, _) => VirtioHeader::GSO_UDP_L4,
            (_, _, Ip::V4 { .. }) => VirtioHeader::GSO_TCPV4,
            (_, _, Ip::V6 { .. }) => VirtioHeader::GSO_TCPV6,
        };
        let header = VirtioHeader {
            flags: VirtioHeader::NEEDS_CSUM,
            gso_type,
            hdr_len: payload as u16,
            gso_size: size,
            csum_start: start as u16,
            csum_offset: self.checksum_offset() as u16,
        };
        (header, bytes)
    }

    /// The packets that it is cut into.
    pub(crate) fn segments(&self, size: usize) -> Vec<Self> {
        let chunks: Vec<&[u8]> = if self.payload.is_empty() { vec![&[]] } else { self.payload.chunks(size).collect() };
        let cut = |(index, chunk): (usize, &&[u8])| {
            let mut segment = Self { payload: chunk.to_vec(), ..self.clone() };
            if let Ip::V4 { id, .. } = &mut segment.ip {
                *id = id.wrapping_add(index as u16);
            }
            if let Transport::Tcp { sequence, flags, .. } = &mut segment.transport {
                *sequence = sequence.wrapping_add((index * size) as u32);
                if index > 0 {
                    *flags &= !CWR;
                }
                if index + 1 < chunks.len() {
                    *flags &= !(FIN | PSH);
                }
            }
            segment
        };
        chunks.iter().enumerate().map(cut).collect()
    }
}

/// The sum of 16-bit words in one's complement (RFC 1071).
pub(crate) fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Any packet of TCP or UDP with headers as they occur, and so much payload at most.
pub(crate) fn any_packet(most: usize) -> impl Strategy<Value = Packet> {
    let extension = prop_oneof![
        Just((0_u8, vec![0, 5, 2, 0, 0, 1, 0])),
        Just((60, vec![1, 1, 12, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9])),
    ];
    let ip = prop_oneof![
        (any::<u16>(), any::<bool>(), 0_usize..=10).prop_map(|(id, df, words)| Ip::V4 {
            id,
            df,
            options: vec![1; words * 4]
        }),
        (0_u32..1 << 20, proptest::collection::vec(extension, 0..3))
            .prop_map(|(flow_label, extensions)| Ip::V6 { flow_label, extensions }),
    ];
    let tcp = (any::<u32>(), any::<u32>(), any::<u8>(), any::<u16>(), 0_usize..=10).prop_map(
        |(sequence, acknowledgement, flags, window, words)| Transport::Tcp {
            sequence,
            acknowledgement,
            flags,
            window,
            options: vec![1; words * 4],
        },
    );
    let transport = prop_oneof![tcp, Just(Transport::Udp)];
    let names = (any::<(u8, u8)>(), any::<(u16, u16)>(), any::<(u8, u8)>());
    let payload = (0..=most, any::<u8>());
    (ip, transport, names, payload).prop_map(|(ip, transport, ((tos, ttl), ports, hosts), (length, seed))| Packet {
        ip,
        tos,
        ttl,
        hosts,
        ports,
        transport,
        payload: (0..length).map(|at| (at * 13 + at / 251) as u8 ^ seed).collect(),
    })
}
