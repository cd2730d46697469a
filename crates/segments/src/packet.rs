//! Where the parts of an IP packet are.

use crate::checksum::Sum;

/// Least bytes of a header of IPv4, and those of one without options.
pub(crate) const IPV4: usize = 20;
/// Bytes of a header of IPv6.
pub(crate) const IPV6: usize = 40;
const TCP: usize = 20;
const UDP: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V4,
    V6,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// Where the checksum is in the header of the transport.
    pub(crate) fn checksum_offset(self) -> usize {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
        }
    }
}

/// A whole packet of TCP or UDP: its lengths agree with each other and with the bytes that there are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) version: Version,
    pub(crate) protocol: Protocol,
    /// Where the header of the transport begins: after options of IPv4, or after extension headers of IPv6.
    pub(crate) transport: usize,
    /// Where the payload begins.
    pub(crate) payload: usize,
}

/// Why a packet has no [`Layout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    NotIp,
    /// Lengths do not agree.
    Length,
    Fragment,
    /// Headers of IPv6 behind which TCP or UDP can't be found.
    Extension,
    /// Neither TCP nor UDP: its number.
    Protocol(u8),
}

impl Layout {
    pub(crate) fn read(packet: &[u8]) -> Result<Self, Unfit> {
        let (version, transport, protocol) = match packet.first().map(|first| first >> 4) {
            Some(4) => read_ipv4(packet).map(|(transport, protocol)| (Version::V4, transport, protocol))?,
            Some(6) => read_ipv6(packet).map(|(transport, protocol)| (Version::V6, transport, protocol))?,
            _ => return Err(Unfit::NotIp),
        };
        let body = packet.get(transport..).ok_or(Unfit::Length)?;
        let (protocol, header) = match protocol {
            6 => {
                let header = body.first_chunk::<TCP>().ok_or(Unfit::Length)?;
                (Protocol::Tcp, usize::from(header[12] >> 4) * 4)
            }
            17 => {
                let header = body.first_chunk::<UDP>().ok_or(Unfit::Length)?;
                if usize::from(u16::from_be_bytes([header[4], header[5]])) != body.len() {
                    return Err(Unfit::Length);
                }
                (Protocol::Udp, UDP)
            }
            other => return Err(Unfit::Protocol(other)),
        };
        if (protocol == Protocol::Tcp && header < TCP) || header > body.len() {
            return Err(Unfit::Length);
        }
        Ok(Self { version, protocol, transport, payload: transport + header })
    }

    /// Without options of IPv4 and extension headers of IPv6.
    pub(crate) fn is_plain(&self) -> bool {
        self.transport
            == match self.version {
                Version::V4 => IPV4,
                Version::V6 => IPV6,
            }
    }

    /// The pseudo-header but its length (RFC 9293, 3.1; RFC 768; RFC 8200, 8.1), of a plain packet with this layout:
    /// options and extension headers can say that the destination is another one.
    pub(crate) fn pseudo_sum(&self, packet: &[u8]) -> Sum {
        let addresses = match self.version {
            Version::V4 => packet.get(12..IPV4),
            Version::V6 => packet.get(8..IPV6),
        };
        Sum::of(addresses.unwrap_or_default()).word(self.protocol.number().into())
    }
}

/// Where the header ends, and the protocol that follows.
fn read_ipv4(packet: &[u8]) -> Result<(usize, u8), Unfit> {
    let header = packet.first_chunk::<IPV4>().ok_or(Unfit::Length)?;
    let length = usize::from(header[0] & 15) * 4;
    if length < IPV4 || usize::from(u16::from_be_bytes([header[2], header[3]])) != packet.len() {
        return Err(Unfit::Length);
    }
    // All but DF: more fragments, an offset, and the bit that must be zero.
    if u16::from_be_bytes([header[6], header[7]]) & 0xbfff != 0 {
        return Err(Unfit::Fragment);
    }
    Ok((length, header[9]))
}

/// Where the headers of IPv6 end, and the protocol that follows.
fn read_ipv6(packet: &[u8]) -> Result<(usize, u8), Unfit> {
    let header = packet.first_chunk::<IPV6>().ok_or(Unfit::Length)?;
    if usize::from(u16::from_be_bytes([header[4], header[5]])) + IPV6 != packet.len() {
        return Err(Unfit::Length);
    }
    let (mut at, mut next) = (IPV6, header[6]);
    loop {
        match next {
            // Hop-by-hop options, routing, destination options (RFC 8200, 4).
            0 | 43 | 60 => {
                let extension = packet.get(at..).and_then(|rest| rest.first_chunk::<8>()).ok_or(Unfit::Length)?;
                next = extension[0];
                at += (usize::from(extension[1]) + 1) * 8;
            }
            44 => return Err(Unfit::Fragment),
            // ESP, authentication, mobility, HIP, shim6.
            50 | 51 | 135 | 139 | 140 => return Err(Unfit::Extension),
            protocol => return Ok((at, protocol)),
        }
    }
}

/// A number that packets of a flow share: of addresses, protocol and, for TCP and UDP, ports. Others may have the same by
/// chance. `None` where the flow is not told, as by fragments, and for what is no whole packet.
#[must_use]
pub fn flow(packet: &[u8]) -> Option<u64> {
    let (protocol, ports) = match Layout::read(packet) {
        Ok(layout) => (layout.protocol.number(), Flow::read(packet, &layout)?.ports),
        Err(Unfit::Protocol(protocol)) => (protocol, 0),
        Err(_) => return None,
    };
    let Addresses { version: _, source, destination } = Addresses::read(packet)?;
    let words = [source as u64, (source >> 64) as u64, destination as u64, (destination >> 64) as u64];
    let last = u64::from(ports) << 8 | u64::from(protocol);
    // FNV-1a, by words.
    let mix = |sum: u64, word: u64| (sum ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(29);
    Some(words.into_iter().chain([last]).fold(0xcbf2_9ce4_8422_2325, mix))
}

/// Between which hosts a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    version: Version,
    source: u128,
    destination: u128,
}

impl Addresses {
    /// Of anything that is long enough to have them.
    pub(crate) fn read(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => {
                let [.., a0, a1, a2, a3, b0, b1, b2, b3] = *packet.first_chunk::<IPV4>()?;
                let source = u32::from_ne_bytes([a0, a1, a2, a3]).into();
                let destination = u32::from_ne_bytes([b0, b1, b2, b3]).into();
                Some(Self { version: Version::V4, source, destination })
            }
            6 => {
                let addresses = packet.first_chunk::<IPV6>()?[8..].first_chunk::<32>()?;
                let [source, destination] = *addresses.as_chunks().0.first_chunk()?;
                let (source, destination) = (u128::from_ne_bytes(source), u128::from_ne_bytes(destination));
                Some(Self { version: Version::V6, source, destination })
            }
            _ => None,
        }
    }
}

/// What packets of one connection have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) addresses: Addresses,
    protocol: Protocol,
    /// Of the source, and of the destination.
    ports: u32,
}

impl Flow {
    /// Of a packet with this layout.
    pub(crate) fn read(packet: &[u8], layout: &Layout) -> Option<Self> {
        let ports = packet.get(layout.transport..)?.first_chunk()?;
        Some(Self { addresses: Addresses::read(packet)?, protocol: layout.protocol, ports: u32::from_ne_bytes(*ports) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn udp(source: u8, port: u8) -> [u8; 28] {
        let mut packet = [0; 28];
        packet[..10].copy_from_slice(&[0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17]);
        packet[12..20].copy_from_slice(&[10, 8, 0, source, 10, 8, 0, 1]);
        packet[20..26].copy_from_slice(&[0, port, 0, 53, 0, 8]);
        packet
    }

    #[test]
    fn flows_are_told_apart_by_addresses_protocol_and_ports() {
        let mut other_checksum = udp(2, 7);
        other_checksum[10] = 1;
        assert_eq!(flow(&udp(2, 7)), flow(&other_checksum));
        let mut icmp = udp(2, 7);
        icmp[9] = 1;
        let mut other_icmp = icmp;
        other_icmp[20] = 9;
        assert_eq!(flow(&icmp), flow(&other_icmp));
        let mut reversed = udp(2, 7);
        reversed[12..20].rotate_left(4);
        let mut flows = [udp(2, 7), udp(2, 8), udp(3, 7), icmp, reversed].map(|packet| flow(&packet).unwrap());
        flows.sort_unstable();
        assert!(flows.windows(2).all(|pair| pair[0] != pair[1]));
        let mut fragment = udp(2, 7);
        fragment[6] = 0x20;
        assert_eq!([flow(&fragment), flow(&udp(2, 7)[..27]), flow(&[])], [None; 3]);
    }

    proptest! {
        #[test]
        fn noise_does_not_panic(noise: Vec<u8>) {
            let _ = flow(&noise);
        }
    }
}
