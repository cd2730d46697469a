//! The format of all peers: the tag stands before the ciphertext, and packet ids have 32 bits.

use std::ops::Range;

use super::aead_key::{AeadKey, NONCE};
use super::{AES_GCM_LIMIT, Cipher, KeyExhausted, SendHeader, TAG, WORN_PACKET_ID};
use crate::drops::DropReason;
use crate::keys::KeyBlock;
use crate::packet::{Header, Opcode};
use crate::replay::ReplayWindow;
use crate::wrap::Role;

/// Bytes of a packet id.
const ID: usize = 4;
/// How many of [`AES_GCM_LIMIT`] should be left when a key is renewed.
const AES_GCM_RESERVE: u64 = 1 << 33;

pub(super) struct Classic {
    seal: Direction,
    open: Direction,
    header: SendHeader,
    cipher: Cipher,
    /// `None` when the last one is used.
    next_id: Option<u32>,
    seal_budget: u64,
    open_budget: u64,
    window: ReplayWindow,
}

struct Direction {
    key: AeadKey,
    implicit_iv: [u8; 8],
}

impl Classic {
    pub(super) fn new(role: Role, header: SendHeader, cipher: Cipher, block: &KeyBlock) -> Result<Self, KeyExhausted> {
        let direction = |client_to_server| {
            let key = cipher.key(block.cipher(client_to_server))?;
            Ok(Direction { key, implicit_iv: block.implicit_iv(client_to_server) })
        };
        Ok(Self {
            seal: direction(role == Role::Client)?,
            open: direction(role == Role::Server)?,
            header,
            cipher,
            next_id: Some(1),
            seal_budget: AES_GCM_LIMIT,
            open_budget: AES_GCM_LIMIT,
            window: ReplayWindow::default(),
        })
    }

    pub(super) fn seal(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, KeyExhausted> {
        let header = self.header.as_bytes();
        let (id_at, tag_at) = (header.len(), header.len() + ID);
        let body_at = tag_at + TAG;
        let end = body_at + plain.len();
        let out = out.get_mut(..end).ok_or(KeyExhausted)?;
        let number = self.next_id.ok_or(KeyExhausted)?;
        self.seal_budget = self.seal_budget.checked_sub(self.cipher.cost(plain.len())).ok_or(KeyExhausted)?;
        self.next_id = number.checked_add(1);
        let id = number.to_be_bytes();
        let (front, sealed) = out.split_at_mut(tag_at);
        let (tag, body) = sealed.split_at_mut(TAG);
        front[..id_at].copy_from_slice(header);
        front[id_at..].copy_from_slice(&id);
        // The first format's header is not authenticated.
        let aad = match self.header {
            SendHeader::V1(_) => &front[id_at..],
            SendHeader::V2(_) => &*front,
        };
        self.seal.key.seal(self.seal.nonce(id), aad, plain, body, tag)?;
        Ok(end)
    }

    pub(super) fn open(&mut self, packet: &mut [u8]) -> Result<Range<usize>, DropReason> {
        let end = packet.len();
        let opcode = packet.first().and_then(|&byte| Header::decode(byte)).map(|header| header.opcode);
        // Where the packet id stands, and from where on the header is authenticated.
        let (id_at, aad_at) = match opcode {
            Some(Opcode::DataV1) => (1, 1),
            Some(Opcode::DataV2) => (4, 0),
            _ => return Err(DropReason::Malformed),
        };
        let start = id_at + 4 + TAG;
        if end <= start {
            return Err(DropReason::Malformed);
        }
        let (head, body) = packet.split_at_mut(start);
        let (front, tag) = head.split_at(id_at + 4);
        let mut id = [0; 4];
        id.copy_from_slice(&front[id_at..]);
        let number = u64::from(u32::from_be_bytes(id));
        if !self.window.is_fresh(number) {
            return Err(DropReason::Replay);
        }
        self.open.key.open(self.open.nonce(id), &front[aad_at..], tag, body)?;
        if !self.window.accept(number) {
            return Err(DropReason::Replay);
        }
        self.open_budget = self.open_budget.saturating_sub(self.cipher.cost(end - start));
        Ok(start..end)
    }

    #[cfg(test)]
    pub(super) fn preset(&mut self, next_id: u32) {
        self.next_id = Some(next_id);
    }

    pub(super) fn is_worn(&self) -> bool {
        self.next_id.is_none_or(|id| id >= WORN_PACKET_ID)
            || self.seal_budget < AES_GCM_RESERVE
            || self.open_budget < AES_GCM_RESERVE
    }
}

impl Direction {
    fn nonce(&self, packet_id: [u8; 4]) -> [u8; NONCE] {
        let mut nonce = [0; NONCE];
        nonce[..4].copy_from_slice(&packet_id);
        nonce[4..].copy_from_slice(&self.implicit_iv);
        nonce
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{OVERHEAD, send_header};

    fn channel(cipher: Cipher) -> Classic {
        Classic::new(Role::Client, send_header(0, Some(0)), cipher, &KeyBlock::from_exporter([7; 256])).unwrap()
    }

    fn seal(channel: &mut Classic) -> Result<usize, KeyExhausted> {
        channel.seal(&[0; 16], &mut [0; 16 + OVERHEAD])
    }

    #[test]
    fn packet_ids_never_wrap() {
        let mut channel = channel(Cipher::ChaCha20Poly1305);
        channel.next_id = Some(WORN_PACKET_ID - 1);
        assert!(!channel.is_worn());
        seal(&mut channel).unwrap();
        assert!(channel.is_worn());
        channel.next_id = Some(u32::MAX - 1);
        seal(&mut channel).unwrap();
        seal(&mut channel).unwrap();
        assert_eq!(seal(&mut channel), Err(KeyExhausted));
        assert!(channel.is_worn());
    }

    #[test]
    fn aes_gcm_keys_wear_out_by_their_blocks() {
        let mut channel = channel(Cipher::Aes128Gcm);
        channel.seal_budget = AES_GCM_RESERVE + 1;
        assert!(!channel.is_worn());
        seal(&mut channel).unwrap();
        assert!(channel.is_worn());
        channel.seal_budget = 1;
        assert_eq!(seal(&mut channel), Err(KeyExhausted));
    }
}
