//! The 256-byte static key file of tls-crypt (and tls-auth).

use std::fmt;

const BEGIN: &str = "-----BEGIN OpenVPN Static key V1-----";
const END: &str = "-----END OpenVPN Static key V1-----";

/// Why a text is not a static key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StaticKeyError {
    /// The begin or end line is missing.
    #[error("there is no '{BEGIN}' ... '{END}' block")]
    Markers,
    /// Something between the markers is neither white space nor a hexadecimal digit.
    #[error("the block holds a character that is not a hexadecimal digit")]
    Digit,
    /// The block does not decode to 256 bytes.
    #[error("the block must hold 256 bytes, not {0}")]
    Length(usize),
}

/// A static key: two keys of 128 bytes, each 64 for a cipher and 64 for an HMAC.
#[derive(Clone, PartialEq, Eq)]
pub struct StaticKey([u8; 256]);

impl StaticKey {
    /// Takes raw bytes, for instance fresh random ones.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 256]) -> Self {
        Self(bytes)
    }

    /// Reads the text form; whatever stands outside of the markers is ignored.
    ///
    /// # Errors
    /// Says what is wrong with the text, without repeating any of it.
    pub fn parse(text: &str) -> Result<Self, StaticKeyError> {
        let (_, rest) = text.split_once(BEGIN).ok_or(StaticKeyError::Markers)?;
        let (block, _) = rest.split_once(END).ok_or(StaticKeyError::Markers)?;
        let digits = block
            .chars()
            .filter(|c| !c.is_whitespace())
            .map(|c| c.to_digit(16).ok_or(StaticKeyError::Digit))
            .collect::<Result<Vec<u32>, _>>()?;
        if digits.len() != 512 {
            return Err(StaticKeyError::Length(digits.len() / 2));
        }
        let mut bytes = [0; 256];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = (pair[0] << 4 | pair[1]) as u8;
        }
        Ok(Self(bytes))
    }

    /// The text form, as stock tools read it.
    #[must_use]
    pub fn to_text(&self) -> String {
        use fmt::Write;
        let mut text = format!("#\n# 2048 bit OpenVPN static key\n#\n{BEGIN}\n");
        for line in self.0.chunks(16) {
            // Writing to a String does not fail.
            let _ = line.iter().try_for_each(|byte| write!(text, "{byte:02x}"));
            text.push('\n');
        }
        text.push_str(END);
        text.push('\n');
        text
    }

    /// Cipher key (first 32 of its 64 bytes) of key 0 or 1.
    pub(crate) fn cipher(&self, key: usize) -> &[u8] {
        &self.0[key * 128..key * 128 + 32]
    }

    /// HMAC key (first 32 of its 64 bytes) of key 0 or 1.
    pub(crate) fn hmac(&self, key: usize) -> &[u8] {
        &self.hmac_field(key)[..32]
    }

    /// All 64 bytes for an HMAC of key 0 or 1.
    pub(crate) fn hmac_field(&self, key: usize) -> &[u8] {
        &self.0[key * 128 + 64..key * 128 + 128]
    }

    /// This key mixed with another, bit by bit.
    pub(crate) fn xor(&self, other: &Self) -> Self {
        let mut bytes = self.0;
        for (mine, theirs) in bytes.iter_mut().zip(other.0) {
            *mine ^= theirs;
        }
        Self(bytes)
    }

    /// All bytes, for writing the key elsewhere. A secret.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 256] {
        &self.0
    }
}

impl fmt::Debug for StaticKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StaticKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn arbitrary_text_does_not_panic(inside in "[0-9a-fA-F\\sz-]{0,600}", around: String) {
            let _ = StaticKey::parse(&around);
            let _ = StaticKey::parse(&format!("{around}{BEGIN}{inside}{END}{around}"));
        }
    }
}
