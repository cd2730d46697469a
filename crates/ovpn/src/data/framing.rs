//! What compression puts around every payload, also where nothing is compressed.

use std::ops::Range;

use crate::drops::DropReason;

/// `compress stub-v2` marks what follows; 0 says that it is not compressed.
const V2_MARK: u8 = 0x50;
/// Not compressed; the first byte stands at the end.
const SWAPPED: u8 = 0xfb;
/// Not compressed.
const PLAIN: u8 = 0xfa;

/// A framing that a server may push. Under all of them payloads are sent as they are, and compressed ones are dropped:
/// the length of a compressed packet tells about its contents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// None: payloads stand alone.
    #[default]
    None,
    /// `compress stub-v2`: two bytes before a payload that could be taken for a framed one; IP packets never are.
    StubV2,
    /// `compress stub` and `compress`: a mark in the place of the first byte, which stands at the end.
    Stub,
    /// `comp-lzo no`: a mark before the payload.
    LzoStub,
}

impl Framing {
    /// Most that it adds to a payload, bytes.
    pub(crate) const MOST: usize = 2;

    /// What it adds to an IP packet, bytes.
    pub(crate) fn overhead(self) -> usize {
        match self {
            Self::None | Self::StubV2 => 0,
            Self::Stub | Self::LzoStub => 1,
        }
    }

    /// Writes the framed payload to `out`. False when the payload stands as it is.
    pub(crate) fn wrap(self, payload: &[u8], out: &mut Vec<u8>) -> bool {
        let Some((&first, rest)) = payload.split_first() else { return false };
        out.clear();
        match self {
            Self::StubV2 if first == V2_MARK => out.extend([V2_MARK, 0, first]),
            Self::None | Self::StubV2 => return false,
            Self::Stub => out.push(SWAPPED),
            Self::LzoStub => out.extend([PLAIN, first]),
        }
        out.extend_from_slice(rest);
        if self == Self::Stub {
            out.push(first);
        }
        true
    }

    /// Where the payload of what was decrypted at `body` of `buf` stands.
    pub(crate) fn unwrap(self, buf: &mut [u8], body: Range<usize>) -> Result<Range<usize>, DropReason> {
        let Range { start, end } = body;
        match (self, &buf[start..end]) {
            (Self::None, _) => Ok(start..end),
            (Self::StubV2, [V2_MARK, 0, ..]) => Ok(start + 2..end),
            (Self::StubV2, [V2_MARK, ..]) => Err(DropReason::Compressed),
            (Self::StubV2, _) => Ok(start..end),
            (Self::Stub, [SWAPPED, .., last]) => {
                buf[start] = *last;
                Ok(start..end - 1)
            }
            (Self::LzoStub, [PLAIN, ..]) => Ok(start + 1..end),
            (Self::Stub | Self::LzoStub, _) => Err(DropReason::Compressed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrapped(framing: Framing, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![9; 3];
        if framing.wrap(payload, &mut out) { out } else { payload.to_vec() }
    }

    fn unwrapped(framing: Framing, wire: &[u8]) -> Result<Vec<u8>, DropReason> {
        let mut buf = wire.to_vec();
        framing.unwrap(&mut buf, 0..wire.len()).map(|range| buf[range].to_vec())
    }

    #[test]
    fn as_on_the_wire() {
        for (framing, payload, wire) in [
            (Framing::None, &[0x45, 1, 2][..], &[0x45, 1, 2][..]),
            (Framing::StubV2, &[0x45, 1, 2], &[0x45, 1, 2]),
            (Framing::StubV2, &[0x50, 1, 2], &[0x50, 0, 0x50, 1, 2]),
            (Framing::Stub, &[0x45, 1, 2], &[0xfb, 1, 2, 0x45]),
            (Framing::Stub, &[0x45], &[0xfb, 0x45]),
            (Framing::LzoStub, &[0x45, 1, 2], &[0xfa, 0x45, 1, 2]),
        ] {
            assert_eq!(wrapped(framing, payload), wire, "{framing:?}");
            assert_eq!(unwrapped(framing, wire).as_deref(), Ok(payload), "{framing:?}");
        }
    }

    #[test]
    fn nothing_compressed_or_unframed_is_taken() {
        for (framing, wire) in [
            (Framing::StubV2, &[0x50, 1, 2][..]),
            (Framing::StubV2, &[0x50]),
            (Framing::Stub, &[0xfb]),
            (Framing::Stub, &[0x45, 1, 2]),
            (Framing::Stub, &[0x66, 1, 2]),
            (Framing::Stub, &[]),
            (Framing::LzoStub, &[0x66, 1, 2]),
            (Framing::LzoStub, &[0x69, 1, 2]),
            (Framing::LzoStub, &[]),
        ] {
            assert_eq!(unwrapped(framing, wire), Err(DropReason::Compressed), "{framing:?} {wire:?}");
        }
    }
}
