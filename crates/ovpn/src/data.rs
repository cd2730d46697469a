//! The data channel: sealing and opening packets in buffers that the caller lends.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::drops::DropReason;
use crate::keys::KeyBlock;
use crate::packet::{Header, Opcode};
use crate::replay::ReplayWindow;
use crate::wrap::Role;

const TAG: usize = 16;
/// Room that must stand free before a plaintext that is to be sealed: header with peer id, packet id, tag.
pub const HEADROOM: usize = 4 + 4 + TAG;
/// Packet id from which on a key should be renewed.
const WORN_PACKET_ID: u32 = 0xff00_0000;
/// Blocks and packets that one AES-GCM key may seal.
const AES_GCM_LIMIT: u64 = (1 << 36) - 1;
/// How many of them should be left when it is renewed.
const AES_GCM_RESERVE: u64 = 1 << 33;

/// A data channel cipher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cipher {
    /// `AES-256-GCM`
    Aes256Gcm,
    /// `AES-128-GCM`
    Aes128Gcm,
    /// `CHACHA20-POLY1305`
    ChaCha20Poly1305,
}

impl Cipher {
    /// Every cipher, in the order of preference that stock peers have.
    pub const ALL: &'static [Self] = &[Self::Aes256Gcm, Self::Aes128Gcm, Self::ChaCha20Poly1305];

    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "AES-256-GCM",
            Self::Aes128Gcm => "AES-128-GCM",
            Self::ChaCha20Poly1305 => "CHACHA20-POLY1305",
        }
    }

    fn algorithm(self) -> &'static aead::Algorithm {
        match self {
            Self::Aes256Gcm => &aead::AES_256_GCM,
            Self::Aes128Gcm => &aead::AES_128_GCM,
            Self::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
        }
    }
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name of a cipher that this crate does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown data cipher '{0}'; choose among AES-256-GCM, AES-128-GCM, CHACHA20-POLY1305")]
pub struct UnknownCipher(pub String);

impl FromStr for Cipher {
    type Err = UnknownCipher;

    fn from_str(name: &str) -> Result<Self, UnknownCipher> {
        let known = Self::ALL.iter().find(|cipher| cipher.as_str() == name);
        known.copied().ok_or_else(|| UnknownCipher(name.to_owned()))
    }
}

/// The keys cannot seal another packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the data keys have reached their limit of use")]
pub struct KeyExhausted;

/// Both directions of the data channel under one key id.
pub struct DataChannel {
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
    key: LessSafeKey,
    implicit_iv: [u8; 8],
}

/// What stands before the packet ids we send.
enum SendHeader {
    V1(u8),
    V2([u8; 4]),
}

impl DataChannel {
    /// Makes the channel of `role` under `key_id`. With a `peer_id` it sends the second format, else the first; it
    /// opens both.
    ///
    /// # Errors
    /// [`KeyExhausted`] never happens for the key lengths of [`Cipher`]; it stands for a refusal by the crypto library.
    pub fn new(
        role: Role,
        key_id: u8,
        peer_id: Option<u32>,
        cipher: Cipher,
        block: &KeyBlock,
    ) -> Result<Self, KeyExhausted> {
        let direction = |client_to_server| {
            let algorithm = cipher.algorithm();
            let key = &block.cipher(client_to_server)[..algorithm.key_len()];
            let key = UnboundKey::new(algorithm, key).map_err(|_| KeyExhausted)?;
            Ok(Direction { key: LessSafeKey::new(key), implicit_iv: block.implicit_iv(client_to_server) })
        };
        let header = match peer_id {
            None => SendHeader::V1(Header { opcode: Opcode::DataV1, key_id }.encode()),
            Some(id) => {
                let [_, a, b, c] = id.to_be_bytes();
                SendHeader::V2([Header { opcode: Opcode::DataV2, key_id }.encode(), a, b, c])
            }
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

    /// The cipher in use.
    #[must_use]
    pub fn cipher(&self) -> Cipher {
        self.cipher
    }

    /// Seals `buf[HEADROOM..]` in place and returns where in `buf` the packet stands.
    ///
    /// # Errors
    /// [`KeyExhausted`] when the keys may not be used any more, or when `buf` is shorter than [`HEADROOM`].
    pub fn seal(&mut self, buf: &mut [u8]) -> Result<Range<usize>, KeyExhausted> {
        let end = buf.len();
        let plain = buf.len().checked_sub(HEADROOM).ok_or(KeyExhausted)?;
        let number = self.next_id.ok_or(KeyExhausted)?;
        self.seal_budget = self.seal_budget.checked_sub(self.cost(plain)).ok_or(KeyExhausted)?;
        self.next_id = number.checked_add(1);
        let id = number.to_be_bytes();
        let nonce = self.seal.nonce(id);
        let (head, body) = buf.split_at_mut(HEADROOM);
        let (front, tag_place) = head.split_at_mut(HEADROOM - TAG);
        front[4..].copy_from_slice(&id);
        let (start, aad) = match self.header {
            SendHeader::V1(byte) => {
                front[3] = byte;
                (3, &front[4..])
            }
            SendHeader::V2(bytes) => {
                front[..4].copy_from_slice(&bytes);
                (0, &front[..])
            }
        };
        let tag = self.seal.key.seal_in_place_separate_tag(nonce, Aad::from(aad), body).map_err(|_| KeyExhausted)?;
        tag_place.copy_from_slice(tag.as_ref());
        Ok(start..end)
    }

    /// Opens a data packet in place and returns where in `packet` the plaintext stands. On an error the contents of
    /// `packet` are unspecified.
    ///
    /// # Errors
    /// Says why the packet is to be dropped.
    pub fn open(&mut self, packet: &mut [u8]) -> Result<Range<usize>, DropReason> {
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
        self.open
            .key
            .open_in_place_separate_tag(self.open.nonce(id), Aad::from(&front[aad_at..]), tag, body)
            .map_err(|_| DropReason::Authentication)?;
        if !self.window.accept(number) {
            return Err(DropReason::Replay);
        }
        self.open_budget = self.open_budget.saturating_sub(self.cost(end - start));
        Ok(start..end)
    }

    /// Whether the key is so far used up, in either direction, that it should be renewed.
    pub(crate) fn is_worn(&self) -> bool {
        self.next_id.is_none_or(|id| id >= WORN_PACKET_ID)
            || self.seal_budget < AES_GCM_RESERVE
            || self.open_budget < AES_GCM_RESERVE
    }

    /// What a plaintext of this length takes from a budget.
    fn cost(&self, plain: usize) -> u64 {
        match self.cipher {
            Cipher::ChaCha20Poly1305 => 0,
            Cipher::Aes256Gcm | Cipher::Aes128Gcm => plain.div_ceil(16) as u64 + 1,
        }
    }
}

impl fmt::Debug for DataChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataChannel").field("cipher", &self.cipher).field("next_id", &self.next_id).finish()
    }
}

impl Direction {
    fn nonce(&self, packet_id: [u8; 4]) -> Nonce {
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&packet_id);
        nonce[4..].copy_from_slice(&self.implicit_iv);
        Nonce::assume_unique_for_key(nonce)
    }
}

/// The peer id of a data packet of the second format.
pub(crate) fn peer_id(packet: &[u8]) -> Option<u32> {
    let word = packet.first_chunk::<4>()?;
    Some(u32::from_be_bytes(*word) & 0x00ff_ffff)
}

const PING: [u8; 16] = *b"\x2a\x18\x7b\xf3\x64\x1e\xb4\xcb\x07\xed\x2d\x0a\x98\x1f\xc7\x48";
const OCC: [u8; 16] = *b"\x28\x7f\x34\x6b\xd4\xef\x7a\x81\x2d\x56\xb8\xd3\xaf\xc5\x45\x9c";
const OCC_EXIT: u8 = 6;

/// What a decrypted payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// A sign of life.
    Ping,
    /// The peer leaves.
    Exit,
    /// Another message of the options channel; ignored.
    Other,
    /// Something for the device.
    Packet,
}

impl Payload {
    /// Tells messages of the data channel from packets.
    #[must_use]
    pub fn classify(plain: &[u8]) -> Self {
        if plain == PING {
            return Self::Ping;
        }
        match plain.strip_prefix(&OCC) {
            Some(&[OCC_EXIT, ..]) => Self::Exit,
            Some(_) => Self::Other,
            None => Self::Packet,
        }
    }

    /// The plaintext of a ping.
    #[must_use]
    pub fn ping() -> &'static [u8] {
        &PING
    }

    /// The plaintext of an exit notice.
    #[must_use]
    pub fn exit() -> [u8; 17] {
        let mut message = [OCC_EXIT; 17];
        message[..16].copy_from_slice(&OCC);
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(cipher: Cipher) -> DataChannel {
        DataChannel::new(Role::Client, 0, Some(0), cipher, &KeyBlock::from_exporter([7; 256])).unwrap()
    }

    fn seal(channel: &mut DataChannel) -> Result<Range<usize>, KeyExhausted> {
        channel.seal(&mut [0; HEADROOM + 16])
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
