//! Packets of one flow, as long as more may come.

use crate::MAX_FRAME;
use crate::checksum::Sum;
use crate::coalesce::MAX_PACKETS;
use crate::coalesce::kind::{Joinable, PSH};
use crate::coalesce::run::Run;
use crate::packet::{Flow, IPV6, Layout, Protocol, Version};
use crate::virtio::VirtioHeader;

/// In byte 6 of the header of IPv4.
const DF: u8 = 0x40;

/// At least one packet. All have the same headers, but for what differs from one segment to the next.
#[derive(Debug)]
pub(crate) struct Gathering {
    pub(crate) flow: Flow,
    layout: Layout,
    /// Where the payload of each begins in the arena; its headers are before it.
    payloads: [usize; MAX_PACKETS],
    packets: usize,
    /// Bytes of payload in each packet but the last.
    size: usize,
    /// Bytes of payload in the last.
    last: usize,
    /// Of TCP: the number of the byte that follows.
    sequence: u32,
    is_pushed: bool,
}

impl Gathering {
    pub(crate) fn new(packet: &Joinable) -> Self {
        let mut payloads = [0; MAX_PACKETS];
        payloads[0] = packet.start + packet.layout.payload;
        Self {
            flow: packet.flow,
            layout: packet.layout,
            payloads,
            packets: 1,
            size: packet.size,
            last: packet.size,
            sequence: after(packet),
            is_pushed: packet.is_pushed,
        }
    }

    /// Whether the packet, of the same flow, is now the last of the run, which is not complete.
    pub(crate) fn try_join(&mut self, arena: &[u8], packet: &Joinable) -> bool {
        let joins =
            packet.size <= self.size && packet.layout.payload == self.layout.payload && self.continues(arena, packet);
        if joins {
            self.payloads[self.packets] = packet.start + packet.layout.payload;
            self.packets += 1;
            self.last = packet.size;
            self.sequence = after(packet);
            self.is_pushed = packet.is_pushed;
        }
        joins
    }

    /// Whether no packet can join any more.
    pub(crate) fn is_complete(&self) -> bool {
        self.is_pushed
            || self.last < self.size
            || self.packets == MAX_PACKETS
            || self.layout.payload + (self.packets + 1) * self.size > MAX_FRAME
    }

    /// Whether the headers are those that segmentation makes of the first packet's.
    fn continues(&self, arena: &[u8], packet: &Joinable) -> bool {
        let (ip, transport) = arena[self.headers(0)].split_at(self.layout.transport);
        let (next_ip, next_transport) =
            arena[packet.start..packet.start + self.layout.payload].split_at(self.layout.transport);
        let same_ip = match self.layout.version {
            Version::V4 => {
                let is_atomic = ip[6] & DF != 0;
                let id = u16::from_be_bytes([ip[4], ip[5]]).wrapping_add(self.packets as u16);
                // TOS; flags, offset, TTL.
                ip[1] == next_ip[1] && ip[6..9] == next_ip[6..9] && (is_atomic || next_ip[4..6] == id.to_be_bytes())
            }
            // Traffic class and flow label; hop limit.
            Version::V6 => ip[..4] == next_ip[..4] && ip[7] == next_ip[7],
        };
        let same_transport = match self.layout.protocol {
            // Acknowledgement; window; urgent pointer and options.
            Protocol::Tcp => {
                packet.sequence == self.sequence
                    && transport[8..12] == next_transport[8..12]
                    && transport[14..16] == next_transport[14..16]
                    && transport[18..] == next_transport[18..]
            }
            Protocol::Udp => true,
        };
        same_ip && same_transport
    }

    /// What the device is given. Several packets get the headers of the whole in place of the first's.
    pub(crate) fn finish<'a>(&'a self, arena: &'a mut [u8]) -> Run<'a> {
        let header = if self.packets > 1 { self.write_headers(arena) } else { VirtioHeader::default() };
        let start = self.headers(0).start;
        Run {
            header,
            arena,
            first: start..self.payloads[0] + self.size,
            rest: &self.payloads[1..self.packets],
            size: self.size,
            last: self.last,
        }
    }

    /// Writes the headers of a packet with the payload of all, whose checksum the device completes.
    fn write_headers(&self, arena: &mut [u8]) -> VirtioHeader {
        // Within 16 bits, see `is_complete`.
        let total = (self.layout.payload + (self.packets - 1) * self.size + self.last) as u16;
        let length = total - self.layout.transport as u16;
        let headers = &mut arena[self.headers(0)];
        let pseudo = self.layout.pseudo_sum(headers).word(length).folded();
        let (ip, transport) = headers.split_at_mut(self.layout.transport);
        match self.layout.version {
            Version::V4 => {
                ip[2..4].copy_from_slice(&total.to_be_bytes());
                ip[10..12].fill(0);
                let checksum = Sum::of(ip).checksum();
                ip[10..12].copy_from_slice(&checksum);
            }
            Version::V6 => ip[4..6].copy_from_slice(&(total - IPV6 as u16).to_be_bytes()),
        }
        let gso_type = match (self.layout.protocol, self.layout.version) {
            (Protocol::Tcp, version) => {
                if self.is_pushed {
                    transport[13] |= PSH;
                }
                match version {
                    Version::V4 => VirtioHeader::GSO_TCPV4,
                    Version::V6 => VirtioHeader::GSO_TCPV6,
                }
            }
            (Protocol::Udp, _) => {
                transport[4..6].copy_from_slice(&length.to_be_bytes());
                VirtioHeader::GSO_UDP_L4
            }
        };
        let checksum = self.layout.protocol.checksum_offset();
        transport[checksum..checksum + 2].copy_from_slice(&pseudo);
        VirtioHeader {
            flags: VirtioHeader::NEEDS_CSUM,
            gso_type,
            hdr_len: self.layout.payload as u16,
            gso_size: self.size as u16,
            csum_start: self.layout.transport as u16,
            csum_offset: checksum as u16,
        }
    }

    /// Where in the arena the headers of a packet are.
    fn headers(&self, index: usize) -> std::ops::Range<usize> {
        let payload = self.payloads[index];
        payload - self.layout.payload..payload
    }
}

/// Of TCP: the number of the byte that follows the packet.
fn after(packet: &Joinable) -> u32 {
    // A payload is shorter than 2^16 bytes.
    packet.sequence.wrapping_add(packet.size as u32)
}
