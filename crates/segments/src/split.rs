//! One frame of the device as packets that can be sent.

use crate::MAX_FRAME;
use crate::checksum::Sum;
use crate::packet::{Layout, Protocol, Unfit, Version};
use crate::virtio::VirtioHeader;

/// Most bytes of headers: of IPv4 with all options 60, of TCP 60; extension headers of IPv6 are rarely longer than 32.
pub const MAX_HEADER: usize = 160;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// Cuts a frame of the device into packets, in place: each is contiguous in the frame and has right checksums. The
/// header of a packet is written directly before its payload, over bytes that were given out before.
///
/// Packets are what Linux makes of the same frame: the identification of IPv4 counts up, FIN and PSH are on the last
/// packet only, CWR is on the first only, options of IPv4 and of TCP are on each.
#[derive(Debug)]
pub struct Split<'a> {
    frame: &'a mut [u8],
    /// Absent for a frame that is one packet as it is.
    cut: Option<Cut>,
    next: usize,
    count: usize,
}

/// Why a frame is not cut. None of it is to be expected of a kernel; the frame is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// The type of segmentation is none that was asked for.
    #[error("segmentation type {0} is not known")]
    Type(u8),
    /// The frame is to be cut into nothing.
    #[error("segments have no size")]
    SegmentSize,
    /// The frame is no whole packet of IP with TCP or UDP, or longer than one can be.
    #[error("lengths of the frame and of its headers disagree")]
    Length,
    /// The frame holds another protocol than its header says, or a fragment.
    #[error("the frame is no packet of the protocol that its segmentation type says")]
    Protocol,
    /// Headers of IPv6 stand between that are not known, or too long.
    #[error("extension headers that are not known or too long")]
    Extension,
    /// The checksum to be completed is not inside of the frame, or not the one of the transport.
    #[error("the checksum is not where it should be")]
    Checksum,
}

impl<'a> Split<'a> {
    /// Checks all that the packets depend on. The frame is the IP packet without the header of the device.
    ///
    /// A frame that needs no cutting is one packet, whatever it holds; its checksum is complete after this.
    ///
    /// # Errors
    /// What [`SplitError`] lists.
    pub fn new(header: VirtioHeader, frame: &'a mut [u8]) -> Result<Self, SplitError> {
        if header.gso_type == VirtioHeader::GSO_NONE {
            if header.flags & VirtioHeader::NEEDS_CSUM != 0 {
                complete(frame, header.csum_start.into(), header.csum_offset.into())?;
            }
            return Ok(Self { frame, cut: None, next: 0, count: 1 });
        }
        let cut = Cut::new(header, frame)?;
        let count = (frame.len() - cut.layout.payload).div_ceil(cut.size).max(1);
        Ok(Self { frame, cut: Some(cut), next: 0, count })
    }

    /// The frame from its beginning, with the addresses that all packets have. To be asked before the first is taken.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        self.frame
    }

    /// The next packet. It may be changed: nothing of it is needed for the following ones.
    pub fn next_packet(&mut self) -> Option<&mut [u8]> {
        if self.next == self.count {
            return None;
        }
        let index = self.next;
        self.next += 1;
        let Some(cut) = &self.cut else { return Some(self.frame) };
        let start = index * cut.size;
        let end = self.frame.len().min(start + cut.largest());
        let packet = self.frame.get_mut(start..end)?;
        cut.write_headers(packet, index, self.next == self.count)?;
        Some(packet)
    }

    /// Packets that were not taken yet.
    #[must_use]
    pub fn left(&self) -> usize {
        self.count - self.next
    }

    /// Packets of the whole frame, at least one.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes of the longest packet; all but the last are that long.
    #[must_use]
    pub fn largest(&self) -> usize {
        self.cut.as_ref().map_or(self.frame.len(), |cut| self.frame.len().min(cut.largest()))
    }
}

/// Completes a checksum that the field holds the sum of the pseudo-header for, of any protocol, as
/// `skb_checksum_help` does.
fn complete(frame: &mut [u8], start: usize, offset: usize) -> Result<(), SplitError> {
    let covered = frame.get_mut(start..).ok_or(SplitError::Checksum)?;
    let checksum = Sum::of(covered).udp_checksum();
    let field = covered.get_mut(offset..).and_then(<[u8]>::first_chunk_mut).ok_or(SplitError::Checksum)?;
    *field = checksum;
    Ok(())
}

/// The pseudo-header but its length: what the checksum field holds, since that is right also for packets that are routed
/// by their source.
fn pseudo_sum(header: VirtioHeader, layout: &Layout, frame: &[u8]) -> Result<Sum, SplitError> {
    let is_partial = header.flags & VirtioHeader::NEEDS_CSUM != 0;
    if !is_partial && layout.is_plain() {
        return Ok(layout.pseudo_sum(frame));
    }
    let offset = layout.protocol.checksum_offset();
    let is_there = usize::from(header.csum_start) == layout.transport && usize::from(header.csum_offset) == offset;
    let transport = frame.get(layout.transport..).filter(|_| is_partial && is_there).ok_or(SplitError::Checksum)?;
    let field = transport.get(offset..).and_then(<[u8]>::first_chunk::<2>).ok_or(SplitError::Checksum)?;
    // Adding the complement takes the length out (RFC 1624). It is within 16 bits, as the frame's is.
    Ok(Sum::of(field).word(!(transport.len() as u16)))
}

/// How a frame is cut: what its headers say, and the sums over what is the same in all packets.
#[derive(Debug)]
struct Cut {
    layout: Layout,
    /// Bytes of payload in each packet but the last.
    size: usize,
    /// The headers, with zeros where packets differ.
    header: [u8; MAX_HEADER],
    ip_sum: Sum,
    transport_sum: Sum,
    id: u16,
    sequence: u32,
    flags: u8,
}

impl Cut {
    fn new(header: VirtioHeader, frame: &[u8]) -> Result<Self, SplitError> {
        let kind = header.gso_type & !VirtioHeader::GSO_ECN;
        let expected = match kind {
            VirtioHeader::GSO_TCPV4 => (Some(Version::V4), Protocol::Tcp),
            VirtioHeader::GSO_TCPV6 => (Some(Version::V6), Protocol::Tcp),
            VirtioHeader::GSO_UDP_L4 => (None, Protocol::Udp),
            _ => return Err(SplitError::Type(header.gso_type)),
        };
        if header.gso_size == 0 {
            return Err(SplitError::SegmentSize);
        }
        if frame.len() > MAX_FRAME {
            return Err(SplitError::Length);
        }
        let layout = Layout::read(frame).map_err(|unfit| match unfit {
            Unfit::NotIp | Unfit::Length => SplitError::Length,
            Unfit::Fragment | Unfit::Protocol(_) => SplitError::Protocol,
            Unfit::Extension => SplitError::Extension,
        })?;
        if expected.1 != layout.protocol || expected.0.is_some_and(|version| version != layout.version) {
            return Err(SplitError::Protocol);
        }
        let original = frame.get(..layout.payload).ok_or(SplitError::Length)?;
        let mut cut = Self {
            layout,
            size: header.gso_size.into(),
            header: [0; MAX_HEADER],
            ip_sum: Sum::default(),
            transport_sum: pseudo_sum(header, &layout, frame)?,
            id: 0,
            sequence: 0,
            flags: 0,
        };
        cut.header.get_mut(..layout.payload).ok_or(SplitError::Extension)?.copy_from_slice(original);
        cut.take_what_differs().ok_or(SplitError::Length)?;
        Ok(cut)
    }

    /// Takes out of the headers what is not the same in all packets, and sums up the rest. `None` never comes of headers
    /// with this layout.
    fn take_what_differs(&mut self) -> Option<()> {
        let (ip, transport) =
            self.header.get_mut(..self.layout.payload)?.split_at_mut_checked(self.layout.transport)?;
        match self.layout.version {
            Version::V4 => {
                let fixed = ip.first_chunk_mut::<20>()?;
                self.id = u16::from_be_bytes([fixed[4], fixed[5]]);
                fixed[2..6].fill(0);
                fixed[10..12].fill(0);
                self.ip_sum = Sum::of(ip);
            }
            Version::V6 => ip.get_mut(4..6)?.fill(0),
        }
        match self.layout.protocol {
            Protocol::Tcp => {
                let fixed = transport.first_chunk_mut::<20>()?;
                self.sequence = u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]);
                self.flags = fixed[13];
                fixed[4..8].fill(0);
                fixed[13] = 0;
                fixed[16..18].fill(0);
            }
            Protocol::Udp => transport.first_chunk_mut::<8>()?[4..].fill(0),
        }
        self.transport_sum = self.transport_sum.plus(Sum::of(transport));
        Some(())
    }

    /// Bytes of a packet with a full payload.
    fn largest(&self) -> usize {
        self.layout.payload + self.size
    }

    /// Writes the headers of the packet with this index; its payload is in place. `None` for a packet that is shorter
    /// than they are, which none is.
    fn write_headers(&self, packet: &mut [u8], index: usize, is_last: bool) -> Option<()> {
        // Within 16 bits: no frame is longer.
        let total = packet.len() as u16;
        let length = (packet.len() - self.layout.transport) as u16;
        let (header, payload) = packet.split_at_mut_checked(self.layout.payload)?;
        header.copy_from_slice(self.header.get(..self.layout.payload)?);
        let (ip, transport) = header.split_at_mut_checked(self.layout.transport)?;
        match self.layout.version {
            Version::V4 => {
                let ip = ip.first_chunk_mut::<20>()?;
                let id = self.id.wrapping_add(index as u16);
                ip[2..4].copy_from_slice(&total.to_be_bytes());
                ip[4..6].copy_from_slice(&id.to_be_bytes());
                ip[10..12].copy_from_slice(&self.ip_sum.word(total).word(id).checksum());
            }
            Version::V6 => {
                let ip = ip.first_chunk_mut::<40>()?;
                ip[4..6].copy_from_slice(&(total - 40).to_be_bytes());
            }
        }
        let sum = self.transport_sum.word(length).plus(Sum::of(payload));
        match self.layout.protocol {
            Protocol::Tcp => {
                let tcp = transport.first_chunk_mut::<20>()?;
                // Wraps as sequence numbers do.
                let sequence = self.sequence.wrapping_add((index * self.size) as u32);
                let mut flags = self.flags;
                if !is_last {
                    flags &= !(FIN | PSH);
                }
                if index > 0 {
                    flags &= !CWR;
                }
                tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
                tcp[13] = flags;
                tcp[16..18].copy_from_slice(&sum.double(sequence).word(flags.into()).checksum());
            }
            Protocol::Udp => {
                let udp = transport.first_chunk_mut::<8>()?;
                udp[4..6].copy_from_slice(&length.to_be_bytes());
                udp[6..8].copy_from_slice(&sum.word(length).udp_checksum());
            }
        }
        Some(())
    }
}
