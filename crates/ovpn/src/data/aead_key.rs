//! The cipher under both formats of data packets.

use aws_lc_rs::aead::{Aad, Algorithm, LessSafeKey, Nonce, UnboundKey};

use super::KeyExhausted;
use crate::drops::DropReason;

/// Bytes of a nonce.
pub(super) const NONCE: usize = 12;

/// A key for one direction.
pub(super) struct AeadKey(LessSafeKey);

impl AeadKey {
    pub(super) fn new(algorithm: &'static Algorithm, bytes: &[u8]) -> Result<Self, KeyExhausted> {
        let bytes = bytes.get(..algorithm.key_len()).ok_or(KeyExhausted)?;
        UnboundKey::new(algorithm, bytes).map(|key| Self(LessSafeKey::new(key))).map_err(|_| KeyExhausted)
    }

    /// Encrypts `plain` to `body`, which is as long. No nonce may come twice under a key.
    pub(super) fn seal(
        &self,
        nonce: [u8; NONCE],
        ad: &[u8],
        plain: &[u8],
        body: &mut [u8],
        tag: &mut [u8],
    ) -> Result<(), KeyExhausted> {
        if cfg!(null_cipher) {
            body.copy_from_slice(plain);
            return Ok(());
        }
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.0.seal_out_of_place_scatter(nonce, Aad::from(ad), plain, body, &[], tag).map_err(|_| KeyExhausted)
    }

    /// Checks the tag and decrypts in place.
    pub(super) fn open(&self, nonce: [u8; NONCE], ad: &[u8], tag: &[u8], body: &mut [u8]) -> Result<(), DropReason> {
        if cfg!(null_cipher) {
            return Ok(());
        }
        let nonce = Nonce::assume_unique_for_key(nonce);
        let opened = self.0.open_in_place_separate_tag(nonce, Aad::from(ad), tag, body);
        opened.map(drop).map_err(|_| DropReason::Authentication)
    }
}
