//! The header before each frame of a TUN device with `IFF_VNET_HDR`.

/// `struct virtio_net_hdr` of `linux/virtio_net.h`, 10 bytes. Its numbers are in the byte order of the machine: a TUN
/// device is a "legacy" one unless `TUNSETVNETLE` or `TUNSETVNETBE` was called (`tun_vnet_is_little_endian` in
/// `drivers/net/tun_vnet.h`, `virtio_legacy_is_little_endian` in `linux/virtio_byteorder.h`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VirtioHeader {
    /// [`NEEDS_CSUM`](Self::NEEDS_CSUM), or others that say nothing to us.
    pub flags: u8,
    /// One of the `GSO_` constants, perhaps with [`GSO_ECN`](Self::GSO_ECN).
    pub gso_type: u8,
    /// Bytes of the headers of IP and of the transport. A hint: from the kernel it may be more.
    pub hdr_len: u16,
    /// Bytes of payload in each packet but the last.
    pub gso_size: u16,
    /// Where in the frame the bytes begin that the checksum is over.
    pub csum_start: u16,
    /// Where the checksum is, from there.
    pub csum_offset: u16,
}

impl VirtioHeader {
    /// Bytes of it.
    pub const LEN: usize = 10;

    /// In `flags`: the checksum field holds the sum of the pseudo-header only, and is to be completed.
    pub const NEEDS_CSUM: u8 = 1;

    /// The frame is one packet.
    pub const GSO_NONE: u8 = 0;
    /// Of TCP over IPv4.
    pub const GSO_TCPV4: u8 = 1;
    /// Of TCP over IPv6.
    pub const GSO_TCPV6: u8 = 4;
    /// Datagrams of UDP, over either (Linux 6.2 and later).
    pub const GSO_UDP_L4: u8 = 5;
    /// In addition to a type of TCP: CWR is set. It is to be on the first packet only, as it always is.
    pub const GSO_ECN: u8 = 0x80;

    /// Reads it.
    #[must_use]
    pub fn decode(bytes: &[u8; Self::LEN]) -> Self {
        let [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1] = *bytes;
        Self {
            flags,
            gso_type,
            hdr_len: u16::from_ne_bytes([h0, h1]),
            gso_size: u16::from_ne_bytes([g0, g1]),
            csum_start: u16::from_ne_bytes([s0, s1]),
            csum_offset: u16::from_ne_bytes([o0, o1]),
        }
    }

    /// Writes it.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LEN] {
        let [h0, h1] = self.hdr_len.to_ne_bytes();
        let [g0, g1] = self.gso_size.to_ne_bytes();
        let [s0, s1] = self.csum_start.to_ne_bytes();
        let [o0, o1] = self.csum_offset.to_ne_bytes();
        [self.flags, self.gso_type, h0, h1, g0, g1, s0, s1, o0, o1]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_are_where_the_kernel_has_them() {
        let header = VirtioHeader {
            flags: VirtioHeader::NEEDS_CSUM,
            gso_type: VirtioHeader::GSO_TCPV4,
            hdr_len: 52,
            gso_size: 1348,
            csum_start: 20,
            csum_offset: 16,
        };
        let words = [52_u16, 1348, 20, 16].map(u16::to_ne_bytes);
        assert_eq!(header.encode()[..2], [1, 1]);
        assert_eq!(header.encode()[2..], *words.as_flattened());
    }

    proptest! {
        #[test]
        fn reads_what_it_writes(bytes: [u8; VirtioHeader::LEN]) {
            prop_assert_eq!(VirtioHeader::decode(&bytes).encode(), bytes);
        }
    }
}
