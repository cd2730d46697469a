//! The largest segments of TCP connections through the tunnel: lowered as they are opened, so that what carries their
//! packets outside needs no fragments.

use crate::data::{Cipher, Framing};
use crate::protection::AuthDigest;
use crate::underlay::{Transport, Underlay};

/// What the segments of TCP connections through the tunnel must fit into (`mssfix`). Only what a connection offers is
/// lowered, never raised; other traffic is not concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MssFix {
    /// Anything: connections are left as they are.
    Off,
    /// Whole IP packets outside of the tunnel of at most so many bytes (`mssfix N mtu`).
    Datagram(u16),
    /// The same without the headers of IP and of the transport (`mssfix N`).
    Payload(u16),
    /// IP packets inside of the tunnel of at most so many bytes (`mssfix N fixed`).
    Inner(u16),
}

impl Default for MssFix {
    /// What stock peers have with their usual MTU: 1492 bytes outside, which PPPoE carries.
    fn default() -> Self {
        Self::Datagram(1492)
    }
}

/// How packets go out, as far as their size depends on it.
#[derive(Clone, Copy)]
pub(crate) struct Carrier {
    pub(crate) remote: Underlay,
    pub(crate) has_peer_id: bool,
    pub(crate) epochs: bool,
    pub(crate) cipher: Cipher,
    pub(crate) digest: AuthDigest,
    pub(crate) framing: Framing,
}

/// Headers of IPv4 and of TCP without options.
const HEADERS: usize = 20 + 20;
/// How much longer the header of IPv6 is.
const MORE_OF_IPV6: u16 = 20;

impl MssFix {
    /// Least bytes that may be set: whatever stands around the data of a segment, some are left for it.
    pub const LEAST: u16 = 256;

    /// Reads the words of the option: `[BYTES [mtu|fixed]]`. `None` when they are none, or too little.
    #[must_use]
    pub fn parse(words: &[&str]) -> Option<Self> {
        let bytes = |text: &str| text.parse().ok().filter(|&bytes| bytes >= Self::LEAST);
        match words {
            [] => Some(Self::default()),
            ["0", ..] => Some(Self::Off),
            [text] => bytes(text).map(Self::Payload),
            [text, "mtu"] => bytes(text).map(Self::Datagram),
            [text, "fixed"] => bytes(text).map(Self::Inner),
            _ => None,
        }
    }

    /// The largest segment inside of IPv4, bytes. `None` when nothing is to be lowered.
    pub(crate) fn limit(self, carrier: &Carrier) -> Option<u16> {
        let ip = if carrier.remote.canonical_address().is_ipv4() { 20 } else { 40 };
        let (transport, length) = match carrier.remote.transport {
            Transport::Udp => (8, 0),
            Transport::Tcp => (20, 2),
        };
        let payload = match self {
            Self::Off => return None,
            Self::Inner(bytes) => {
                return Some(to_limit(usize::from(bytes).saturating_sub(HEADERS)));
            }
            Self::Datagram(bytes) => usize::from(bytes).saturating_sub(ip + transport),
            Self::Payload(bytes) => bytes.into(),
        };
        let header = if carrier.has_peer_id { 4 } else { 1 };
        let sealed = payload.saturating_sub(length + header);
        let inner = if !carrier.cipher.is_aead() {
            let blocks = sealed.saturating_sub(carrier.digest.len() + 16) / 16 * 16;
            // At least a byte of padding, and the packet id.
            blocks.saturating_sub(1 + 4)
        } else if carrier.epochs {
            sealed.saturating_sub(8 + 16)
        } else {
            sealed.saturating_sub(4 + 16)
        };
        Some(to_limit(inner.saturating_sub(carrier.framing.overhead() + HEADERS)))
    }
}

fn to_limit(bytes: usize) -> u16 {
    u16::try_from(bytes).unwrap_or(u16::MAX)
}

/// Lowers what the packet, if it opens a TCP connection, says about segments to `limit`, less what the header of IPv6 is
/// longer. Anything else is left as it is, and so are fragments and IPv6 packets with extension headers.
pub fn clamp(packet: &mut [u8], limit: u16) {
    let Some((tcp, limit)) = find_tcp(packet, limit) else { return };
    let Some(header) = tcp.first_chunk::<20>() else { return };
    let end = usize::from(header[12] >> 4) * 4;
    let is_syn = header[13] & 2 != 0;
    if !is_syn || end > tcp.len() {
        return;
    }
    let mut at = header.len();
    while at + 1 < end {
        let (kind, length) = (tcp[at], usize::from(tcp[at + 1]));
        match kind {
            0 => return,
            1 => at += 1,
            _ if length < 2 || at + length > end => return,
            2 if length == 4 => {
                lower(tcp, at + 2, limit);
                at += length;
            }
            _ => at += length,
        }
    }
}

/// The TCP part of a packet that has it whole, and the limit for it.
fn find_tcp(packet: &mut [u8], limit: u16) -> Option<(&mut [u8], u16)> {
    match packet.first()? >> 4 {
        4 => {
            let header = packet.first_chunk::<20>()?;
            let length = usize::from(header[0] & 15) * 4;
            let is_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
            let is_tcp = length >= 20 && header[9] == 6 && !is_fragment;
            is_tcp.then(|| packet.get_mut(length..)).flatten().map(|tcp| (tcp, limit))
        }
        6 => {
            let (header, tcp) = packet.split_at_mut_checked(40)?;
            (header[6] == 6).then_some((tcp, limit.saturating_sub(MORE_OF_IPV6)))
        }
        _ => None,
    }
}

/// Lowers the value at `at`, and corrects the checksum by the difference (RFC 1624).
fn lower(tcp: &mut [u8], at: usize, limit: u16) {
    let old = u16::from_be_bytes([tcp[at], tcp[at + 1]]);
    if old <= limit {
        return;
    }
    tcp[at..at + 2].copy_from_slice(&limit.to_be_bytes());
    // At an odd place the bytes belong to two words, each to its other half.
    let (old, new) = if at.is_multiple_of(2) { (old, limit) } else { (old.swap_bytes(), limit.swap_bytes()) };
    let checksum = u16::from_be_bytes([tcp[16], tcp[17]]);
    let mut sum = u32::from(!checksum) + u32::from(!old) + u32::from(new);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    tcp[16..18].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn udp4() -> Carrier {
        Carrier {
            remote: Underlay::udp("192.0.2.1:1".parse().unwrap()),
            has_peer_id: true,
            epochs: false,
            cipher: Cipher::Aes256Gcm,
            digest: AuthDigest::Sha1,
            framing: Framing::None,
        }
    }

    #[test]
    fn limits_are_those_of_stock() {
        let default = MssFix::default();
        let v6 = "[2001:db8::1]:1".parse().unwrap();
        let tcp = Underlay::tcp("192.0.2.1:1".parse().unwrap());
        let cbc = |cipher, digest| Carrier { cipher, digest, ..udp4() };
        for (carrier, limit) in [
            (udp4(), 1400),
            (Carrier { has_peer_id: false, ..udp4() }, 1403),
            (Carrier { remote: tcp, ..udp4() }, 1386),
            (Carrier { remote: Underlay::udp(v6), ..udp4() }, 1380),
            (Carrier { remote: Underlay::udp("[::ffff:192.0.2.1]:1".parse().unwrap()), ..udp4() }, 1400),
            (Carrier { epochs: true, ..udp4() }, 1396),
            (Carrier { framing: Framing::LzoStub, ..udp4() }, 1399),
            (Carrier { framing: Framing::StubV2, ..udp4() }, 1400),
            (cbc(Cipher::Aes256Cbc, AuthDigest::Sha256), 1363),
            (Carrier { has_peer_id: false, ..cbc(Cipher::Aes128Cbc, AuthDigest::Sha1) }, 1379),
        ] {
            assert_eq!(default.limit(&carrier), Some(limit));
        }
        assert_eq!(MssFix::Inner(1300).limit(&udp4()), Some(1260));
        assert_eq!(MssFix::Payload(1300).limit(&udp4()), Some(1236));
        assert_eq!(MssFix::Off.limit(&udp4()), None);
        assert_eq!(MssFix::Datagram(10).limit(&udp4()), Some(0));
    }

    /// The one's complement sum of the TCP part and its pseudo header: 0xffff where the checksum is right.
    fn sum(packet: &[u8]) -> u16 {
        let (addresses, tcp) =
            if packet[0] >> 4 == 4 { (&packet[12..20], &packet[20..]) } else { (&packet[8..40], &packet[40..]) };
        let pseudo = [addresses, &[0, 6], &(tcp.len() as u16).to_be_bytes()].concat();
        let words = pseudo.chunks(2).chain(tcp.chunks(2));
        let mut sum: u32 = words.map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0))).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    /// A packet that opens a connection, with options that fill whole words, and data behind.
    fn syn(v6: bool, options: &[u8], data: &[u8]) -> Vec<u8> {
        let mut tcp = vec![7; 20];
        tcp[12] = (((20 + options.len()) / 4) << 4) as u8;
        tcp[13] = 2;
        tcp[16..18].fill(0);
        tcp.extend_from_slice(options);
        tcp.extend_from_slice(data);
        let mut packet = vec![9; if v6 { 40 } else { 20 }];
        if v6 {
            (packet[0], packet[6]) = (0x60, 6);
        } else {
            (packet[0], packet[6], packet[7], packet[9]) = (0x45, 0x40, 0, 6);
        }
        let at = packet.len() + 16;
        packet.extend_from_slice(&tcp);
        let checksum = !sum(&packet);
        packet[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        packet
    }

    #[test]
    fn only_whole_packets_that_open_a_connection_are_changed() {
        let original = syn(false, &[2, 4, 0x05, 0xb4], &[]);
        let changed = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut packet = original.clone();
            change(&mut packet);
            let before = packet.clone();
            clamp(&mut packet, 1000);
            packet != before
        };
        assert!(changed(&|_| ()));
        assert!(changed(&|packet| packet[33] = 0x12), "the answer to it");
        assert!(!changed(&|packet| packet[33] = 0x10), "not when it is open");
        assert!(!changed(&|packet| packet[9] = 17));
        assert!(!changed(&|packet| packet[6] = 0x20), "more fragments");
        assert!(!changed(&|packet| packet[7] = 1), "a later fragment");
        assert!(!changed(&|packet| packet.truncate(43)));
        assert!(!changed(&|packet| packet[41] = 5), "an option that ends outside");
        assert!(!changed(&|packet| packet[40] = 0));
        let mut six = syn(true, &[2, 4, 0x05, 0xb4], &[]);
        six[6] = 0;
        let before = six.clone();
        clamp(&mut six, 1000);
        assert_eq!(six, before, "extension headers");
    }

    proptest! {
        #[test]
        fn checksums_stay_right(
            v6: bool, mss: u16, limit in 20u16.., before in 0usize..8, after in 0usize..8, data: Vec<u8>
        ) {
            let mut options = vec![1; before];
            options.extend([2, 4]);
            options.extend(mss.to_be_bytes());
            options.extend(vec![1; after]);
            options.resize(options.len().next_multiple_of(4), 0);
            let mut packet = syn(v6, &options, &data);
            prop_assert_eq!(sum(&packet), 0xffff);
            clamp(&mut packet, limit);
            prop_assert_eq!(sum(&packet), 0xffff);
            let at = if v6 { 60 } else { 40 } + before + 2;
            let written = u16::from_be_bytes([packet[at], packet[at + 1]]);
            prop_assert_eq!(written, mss.min(if v6 { limit - 20 } else { limit }));
        }

        #[test]
        fn anything_is_survived(mut packet: Vec<u8>, first in 0x40u8..0x70, limit: u16) {
            if let Some(byte) = packet.first_mut() {
                *byte = first;
            }
            let length = packet.len();
            clamp(&mut packet, limit);
            prop_assert_eq!(packet.len(), length);
        }
    }
}
