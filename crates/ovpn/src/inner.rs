//! What is read of inner packets: how long they are, from where and to where. Nothing of it is trusted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;

/// The length of the IPv4 or IPv6 packet that `packet` begins with, if it is there whole.
pub(crate) fn length(packet: &[u8]) -> Option<usize> {
    let field = |at: usize| packet.get(at..at + 2).map(|field| usize::from(u16::from_be_bytes([field[0], field[1]])));
    let (header, length) = match packet.first()? >> 4 {
        4 => (IPV4_HEADER, field(2)?),
        6 => (IPV6_HEADER, IPV6_HEADER + field(4)?),
        _ => return None,
    };
    (header..=packet.len()).contains(&length).then_some(length)
}

/// Source and destination of an IPv4 or IPv6 packet.
pub(crate) fn addresses(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match packet.first()? >> 4 {
        4 => {
            let pair: [u8; 8] = packet.get(12..IPV4_HEADER)?.try_into().ok()?;
            let [a, b, c, d, e, f, g, h] = pair;
            Some((Ipv4Addr::new(a, b, c, d).into(), Ipv4Addr::new(e, f, g, h).into()))
        }
        6 => {
            let source: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
            let destination: [u8; 16] = packet.get(24..IPV6_HEADER)?.try_into().ok()?;
            Some((Ipv6Addr::from(source).into(), Ipv6Addr::from(destination).into()))
        }
        _ => None,
    }
}

/// Whether an address means something on a link only: hosts send from such ones of themselves, to find their neighbours.
pub(crate) fn is_of_the_link(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unspecified() || address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths() {
        let mut ipv4 = vec![0x45; 30];
        ipv4[2..4].copy_from_slice(&[0, 30]);
        assert_eq!((length(&ipv4), length(&ipv4[..29])), (Some(30), None));
        ipv4[2..4].copy_from_slice(&[0, 19]);
        assert_eq!(length(&ipv4), None);
        let mut ipv6 = vec![0x60; 50];
        ipv6[4..6].copy_from_slice(&[0, 8]);
        assert_eq!((length(&ipv6), length(&ipv6[..47])), (Some(48), None));
        ipv6[4..6].copy_from_slice(&[0, 0]);
        assert_eq!((length(&ipv6), length(&ipv6[..39])), (Some(40), None));
        assert_eq!((length(&[]), length(&[0x50; 60])), (None, None));
    }

    proptest! {
        #[test]
        fn noise_does_not_panic(noise: Vec<u8>) {
            let _ = addresses(&noise);
            if let Some(length) = length(&noise) {
                prop_assert!(length <= noise.len() && addresses(&noise).is_some());
            }
        }
    }
}
