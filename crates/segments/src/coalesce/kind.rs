//! What a packet is to those that are gathered.

use crate::checksum::Sum;
use crate::coalesce::Offload;
use crate::packet::{Addresses, Flow, IPV4, Layout, Protocol, Unfit, Version};

pub(crate) const ACK: u8 = 0x10;
pub(crate) const PSH: u8 = 0x08;

/// A packet that others may be joined with.
pub(crate) struct Joinable {
    pub(crate) flow: Flow,
    pub(crate) layout: Layout,
    /// Where in the arena it begins.
    pub(crate) start: usize,
    /// Bytes of payload, at least one.
    pub(crate) size: usize,
    /// Of TCP: the number of its first byte. 0 for UDP.
    pub(crate) sequence: u32,
    pub(crate) is_pushed: bool,
}

/// What must come out before it, and whether it may be joined.
pub(crate) enum Kind {
    Joins(Joinable),
    /// It goes as it is, after what came before it in this flow.
    OfFlow(Flow),
    /// It goes as it is, and may belong to any flow between these.
    Between(Addresses),
    /// It goes as it is, and belongs to none that is gathered.
    Other,
}

impl Kind {
    /// Of a packet that begins at `start` of the arena.
    pub(crate) fn of(packet: &[u8], start: usize, offload: Offload) -> Self {
        if offload == Offload::default() {
            return Self::Other;
        }
        let between = || Addresses::read(packet).map_or(Self::Other, Self::Between);
        let layout = match Layout::read(packet) {
            Ok(layout) if layout.is_plain() => layout,
            Ok(_) | Err(Unfit::Length | Unfit::Fragment | Unfit::Extension) => return between(),
            Err(Unfit::NotIp | Unfit::Protocol(_)) => return Self::Other,
        };
        let Some(flow) = Flow::read(packet, &layout) else { return between() };
        match Joinable::read(packet, layout, flow, start, offload) {
            Some(joinable) => Self::Joins(joinable),
            None => Self::OfFlow(flow),
        }
    }
}

impl Joinable {
    fn read(packet: &[u8], layout: Layout, flow: Flow, start: usize, offload: Offload) -> Option<Self> {
        let transport = packet.get(layout.transport..)?;
        let (sequence, is_pushed) = match layout.protocol {
            Protocol::Tcp if offload.tcp => {
                let tcp = transport.first_chunk::<20>()?;
                // The lower half of byte 12 is reserved, and accurate ECN.
                if tcp[12] & 15 != 0 || tcp[13] & !PSH != ACK {
                    return None;
                }
                (u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]), tcp[13] & PSH != 0)
            }
            Protocol::Udp if offload.udp => {
                // Without a checksum it would get one.
                if transport.first_chunk::<8>()?[6..] == [0, 0] {
                    return None;
                }
                (0, false)
            }
            Protocol::Tcp | Protocol::Udp => return None,
        };
        let size = packet.len() - layout.payload;
        // As a frame it counts as right, whatever its checksums say: so they are looked at here.
        let is_joinable = size > 0 && is_right(packet, transport, &layout);
        is_joinable.then_some(Self { flow, layout, start, size, sequence, is_pushed })
    }
}

/// Whether the checksums of IPv4 and of the transport are right.
fn is_right(packet: &[u8], transport: &[u8], layout: &Layout) -> bool {
    let ip = layout.version == Version::V6 || packet.get(..IPV4).is_some_and(|header| Sum::of(header).is_right());
    // Within 16 bits, as the length of the packet is that IPv4 or IPv6 says.
    ip && layout.pseudo_sum(packet).word(transport.len() as u16).plus(Sum::of(transport)).is_right()
}
