//! tls-crypt: AES-256 in counter mode under an IV that is the packet's own HMAC.

use aws_lc_rs::cipher::{
    AES_256, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext, UnboundCipherKey,
};
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;

use super::{PREFIX, Role, Unwrapped, session_id};
use crate::drops::DropReason;
use crate::static_key::StaticKey;

/// The prefix with replay id and time: what is authenticated but not encrypted.
const AD: usize = PREFIX + 8;
pub(crate) const TAG: usize = 32;

pub(super) struct Keys {
    send: Direction,
    receive: Direction,
}

/// A cipher key and an HMAC key, 32 bytes each.
pub(crate) struct Direction {
    cipher: [u8; 32],
    hmac: hmac::Key,
}

impl Keys {
    pub(super) fn new(role: Role, key: &StaticKey) -> Self {
        let direction = |index| Direction::new(key.cipher(index), key.hmac(index));
        // The server sends with key 0, the client with key 1: the opposite order of the data channel's.
        let (send, receive) = match role {
            Role::Server => (0, 1),
            Role::Client => (1, 0),
        };
        Self { send: direction(send), receive: direction(receive) }
    }

    pub(super) fn open<'a>(&self, datagram: &'a mut [u8]) -> Result<Unwrapped<'a>, DropReason> {
        let (head, body) = datagram.split_at_mut_checked(AD + TAG).ok_or(DropReason::Malformed)?;
        let (ad, tag) = head.split_at(AD);
        self.receive.open(ad, tag, body)?;
        let word = |at: usize| u32::from_be_bytes([ad[at], ad[at + 1], ad[at + 2], ad[at + 3]]);
        Ok(Unwrapped { sender: session_id(ad)?, replay: Some((word(PREFIX + 4), word(PREFIX))), body })
    }

    pub(super) fn seal(&self, replay: (u32, u32), body: &[u8], out: &mut Vec<u8>) -> Result<(), DropReason> {
        out.extend_from_slice(&replay.1.to_be_bytes());
        out.extend_from_slice(&replay.0.to_be_bytes());
        let tag = self.send.tag(out, body);
        out.extend_from_slice(&tag);
        let clear = out.len();
        out.extend_from_slice(body);
        self.send.encrypt(&tag, &mut out[clear..])
    }
}

impl Direction {
    /// Takes the first 32 bytes of each; missing ones are zero.
    pub(crate) fn new(cipher: &[u8], hmac: &[u8]) -> Self {
        let mut key = [0; 32];
        for (to, from) in key.iter_mut().zip(cipher) {
            *to = *from;
        }
        let hmac = hmac.get(..32).unwrap_or(hmac);
        Self { cipher: key, hmac: hmac::Key::new(hmac::HMAC_SHA256, hmac) }
    }

    /// The tag over `ad` and `body`, whose beginning is the IV.
    pub(crate) fn tag(&self, ad: &[u8], body: &[u8]) -> [u8; TAG] {
        let mut context = hmac::Context::with_key(&self.hmac);
        context.update(ad);
        context.update(body);
        let mut tag = [0; TAG];
        tag.copy_from_slice(context.sign().as_ref());
        tag
    }

    /// Decrypts `body` in place and checks it.
    pub(crate) fn open(&self, ad: &[u8], tag: &[u8], body: &mut [u8]) -> Result<(), DropReason> {
        let iv = tag.first_chunk::<16>().ok_or(DropReason::Malformed)?;
        let key = UnboundCipherKey::new(&AES_256, &self.cipher).and_then(DecryptingKey::ctr);
        key.and_then(|key| key.decrypt(body, DecryptionContext::Iv128(FixedLength::from(*iv))).map(drop))
            .map_err(|_| DropReason::Wrap)?;
        aws_lc_rs::constant_time::verify_slices_are_equal(&self.tag(ad, body), tag).map_err(|_| DropReason::Wrap)
    }

    pub(crate) fn encrypt(&self, tag: &[u8; TAG], data: &mut [u8]) -> Result<(), DropReason> {
        let mut iv = [0; 16];
        iv.copy_from_slice(&tag[..16]);
        let key = UnboundCipherKey::new(&AES_256, &self.cipher).and_then(EncryptingKey::ctr);
        key.and_then(|key| key.less_safe_encrypt(data, EncryptionContext::Iv128(FixedLength::from(iv))))
            .map(drop)
            .map_err(|_| DropReason::Wrap)
    }
}
