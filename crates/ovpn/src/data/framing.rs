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
    /// Most that it puts before a payload, bytes.
    pub(crate) const BEFORE: usize = 2;
    /// Most that it puts behind a payload, bytes.
    pub(crate) const BEHIND: usize = 1;

    /// What it adds to an IP packet, bytes.
    pub(crate) fn overhead(self) -> usize {
        match self {
            Self::None | Self::StubV2 => 0,
            Self::Stub | Self::LzoStub => 1,
        }
    }

    /// Frames the payload at `body` of `buf`, which has [`Self::BEFORE`] and [`Self::BEHIND`] free around it.
    pub(crate) fn wrap(self, buf: &mut [u8], body: Range<usize>) -> Range<usize> {
        let Range { start, end } = body;
        match self {
            Self::StubV2 if buf[start] == V2_MARK => {
                buf[start - 2..start].copy_from_slice(&[V2_MARK, 0]);
                start - 2..end
            }
            Self::None | Self::StubV2 => start..end,
            Self::Stub => {
                buf[end] = std::mem::replace(&mut buf[start], SWAPPED);
                start..end + 1
            }
            Self::LzoStub => {
                buf[start - 1] = PLAIN;
                start - 1..end
            }
        }
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
        let mut buf = [&[0; Framing::BEFORE], payload, &[0; Framing::BEHIND]].concat();
        let range = framing.wrap(&mut buf, Framing::BEFORE..Framing::BEFORE + payload.len());
        buf[range].to_vec()
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
