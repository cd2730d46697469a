//! The checksum of IP, TCP and UDP (RFC 1071).

/// A sum of 16-bit words in one's complement, not folded yet. Words are added as they stand in memory, so a sum belongs
/// to bytes of the network on any machine (RFC 1071, 2.B), and adds up over parts of an even length.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Of bytes; an odd one at the end counts as if a zero followed.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        // Words of 32 bits, as four sums of 64: compilers make vector code of it for any processor, and nothing carries
        // before 2^36 bytes.
        let (blocks, rest) = bytes.as_chunks::<16>();
        let mut lanes = [0_u64; 4];
        for block in blocks {
            for (lane, word) in lanes.iter_mut().zip(block.as_chunks().0) {
                *lane += u64::from(u32::from_ne_bytes(*word));
            }
        }
        let (words, rest) = rest.as_chunks();
        let mut sum = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
        let mut last = [0; 4];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        sum += u64::from(u32::from_ne_bytes(last));
        for lane in lanes {
            sum += halves(lane);
        }
        Self(sum)
    }

    /// With another sum; what it was made of follows bytes of an even length.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self(halves(self.0) + halves(other.0))
    }

    /// With a number, as two bytes of the network.
    #[must_use]
    pub fn word(self, value: u16) -> Self {
        Self(halves(self.0) + u64::from(value.to_be()))
    }

    /// With a number, as four bytes of the network.
    #[must_use]
    pub fn double(self, value: u32) -> Self {
        Self(halves(self.0) + u64::from(value.to_be()))
    }

    /// The sum itself, as it stands in a packet. The part of a checksum that a device is to complete is this.
    #[must_use]
    pub fn folded(self) -> [u8; 2] {
        self.fold().to_ne_bytes()
    }

    /// Its complement, as it stands in a packet.
    #[must_use]
    pub fn checksum(self) -> [u8; 2] {
        (!self.fold()).to_ne_bytes()
    }

    /// The complement as UDP has it, where zero says that there is none (RFC 768).
    #[must_use]
    pub fn udp_checksum(self) -> [u8; 2] {
        match self.checksum() {
            [0, 0] => [0xff, 0xff],
            checksum => checksum,
        }
    }

    /// Whether the bytes, with their checksum among them, are as they were sent.
    #[must_use]
    pub fn is_right(self) -> bool {
        self.fold() == u16::MAX
    }

    fn fold(self) -> u16 {
        // 33 bits, 18 bits, 17 bits, 16 bits.
        let sum = halves(self.0);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        ((sum & 0xffff) + (sum >> 16)) as u16
    }
}

/// The same sum in at most 33 bits.
fn halves(sum: u64) -> u64 {
    (sum & 0xffff_ffff) + (sum >> 32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As RFC 1071 defines it, word by word.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0_u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn the_example_of_the_rfc() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::of(&bytes).folded(), [0xdd, 0xf2]);
        assert_eq!(Sum::of(&bytes).checksum(), [0x22, 0x0d]);
    }

    #[test]
    fn the_largest_bytes_do_not_overflow() {
        for length in [0, 1, 2, 3, 15, 16, 17, 65_535, 65_536, 1 << 20] {
            let bytes = vec![0xff; length];
            assert_eq!(Sum::of(&bytes).folded(), naive(&bytes).to_be_bytes(), "{length}");
            assert!(length % 2 != 0 || length == 0 || Sum::of(&bytes).is_right(), "{length}");
        }
    }

    #[test]
    fn no_checksum_of_udp_is_zero() {
        assert_eq!(Sum::of(&[0xff, 0xff]).checksum(), [0, 0]);
        assert_eq!(Sum::of(&[0xff, 0xff]).udp_checksum(), [0xff, 0xff]);
        assert_eq!(Sum::of(&[0xff, 0xfe]).udp_checksum(), [0, 1]);
    }

    proptest! {
        #[test]
        fn as_the_naive_one(bytes: Vec<u8>, skip in 0_usize..16) {
            // Any alignment.
            let bytes = bytes.get(skip..).unwrap_or_default();
            prop_assert_eq!(Sum::of(bytes).folded(), naive(bytes).to_be_bytes());
        }

        #[test]
        fn adds_up(parts: [u32; 5], bytes: Vec<u8>, value: u16, double: u32) {
            let front: Vec<u8> = parts.iter().flat_map(|part| part.to_be_bytes()).collect();
            let whole = [&front[..], &value.to_be_bytes(), &double.to_be_bytes(), &bytes].concat();
            let sum = Sum::of(&front).word(value).double(double).plus(Sum::of(&bytes));
            prop_assert_eq!(sum.folded(), naive(&whole).to_be_bytes());
        }
    }
}
