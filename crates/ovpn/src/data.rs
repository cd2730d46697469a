//! The data channel: sealing packets into buffers that the caller lends and opening them in place, in one of three
//! formats.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use aws_lc_rs::aead;
use aws_lc_rs::cipher;

use crate::drops::DropReason;
use crate::keys::KeyBlock;
use crate::mss::MssFix;
use crate::packet::{Header, Opcode};
use crate::path_mtu;
use crate::protection::AuthDigest;
use crate::wrap::Role;

mod aead_key;
mod cbc;
mod classic;
mod epoch;
mod framing;

use aead_key::AeadKey;
use cbc::Cbc;
use classic::Classic;
use epoch::Epochs;
pub use framing::Framing;

const TAG: usize = 16;
/// How much longer a sealed packet may be than what is in it. The most is taken by CBC: header with peer id, HMAC, IV,
/// packet id and padding, and a framing inside of them.
pub const OVERHEAD: usize = 4 + AuthDigest::MAX_LEN + cbc::IV + 4 + 16 + Framing::MOST;
/// Packet id from which on a key should be renewed.
const WORN_PACKET_ID: u32 = 0xff00_0000;
/// Blocks and packets that one AES-GCM key may seal.
const AES_GCM_LIMIT: u64 = (1 << 36) - 1;
/// Packets that do not authenticate, after which a key should be renewed.
const WORN_FAILURES: u64 = 1 << 35;
/// Packets that do not authenticate, after which a key opens nothing any more.
const MAX_FAILURES: u64 = 1 << 36;

/// A data channel cipher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cipher {
    /// `AES-256-GCM`
    Aes256Gcm,
    /// `AES-128-GCM`
    Aes128Gcm,
    /// `CHACHA20-POLY1305`
    ChaCha20Poly1305,
    /// `AES-192-GCM`
    Aes192Gcm,
    /// `AES-256-CBC` with an HMAC, for old peers.
    Aes256Cbc,
    /// `AES-192-CBC`, as above.
    Aes192Cbc,
    /// `AES-128-CBC`, as above.
    Aes128Cbc,
}

impl Cipher {
    /// Every cipher that is offered unless others are named: first those that stock peers offer unasked, in their order
    /// of preference.
    pub const ALL: &'static [Self] = &[Self::Aes256Gcm, Self::Aes128Gcm, Self::ChaCha20Poly1305, Self::Aes192Gcm];
    /// Those of old peers, which are used only where they are named. Their packets are authenticated by an HMAC, whose
    /// digest (`auth`) is not negotiated.
    pub const CBC: &'static [Self] = &[Self::Aes256Cbc, Self::Aes192Cbc, Self::Aes128Cbc];

    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "AES-256-GCM",
            Self::Aes128Gcm => "AES-128-GCM",
            Self::ChaCha20Poly1305 => "CHACHA20-POLY1305",
            Self::Aes192Gcm => "AES-192-GCM",
            Self::Aes256Cbc => "AES-256-CBC",
            Self::Aes192Cbc => "AES-192-CBC",
            Self::Aes128Cbc => "AES-128-CBC",
        }
    }

    /// Whether it authenticates by itself, without an HMAC. Only such a cipher can have the epoch format.
    #[must_use]
    pub fn is_aead(self) -> bool {
        self.cbc().is_none()
    }

    fn key(self, bytes: &[u8]) -> Result<AeadKey, KeyExhausted> {
        AeadKey::new(self.aead().ok_or(KeyExhausted)?, bytes)
    }

    /// What a plaintext of this length takes from the number of blocks and packets that a key may seal.
    fn cost(self, plain: usize) -> u64 {
        match self {
            Self::Aes256Gcm | Self::Aes192Gcm | Self::Aes128Gcm => plain.div_ceil(16) as u64 + 1,
            _ => 0,
        }
    }

    fn aead(self) -> Option<&'static aead::Algorithm> {
        match self {
            Self::Aes256Gcm => Some(&aead::AES_256_GCM),
            Self::Aes128Gcm => Some(&aead::AES_128_GCM),
            Self::ChaCha20Poly1305 => Some(&aead::CHACHA20_POLY1305),
            Self::Aes192Gcm => Some(&aead::AES_192_GCM),
            Self::Aes256Cbc | Self::Aes192Cbc | Self::Aes128Cbc => None,
        }
    }

    /// The block cipher and the length of its key.
    fn cbc(self) -> Option<(&'static cipher::Algorithm, usize)> {
        match self {
            Self::Aes256Cbc => Some((&cipher::AES_256, cipher::AES_256_KEY_LEN)),
            Self::Aes192Cbc => Some((&cipher::AES_192, cipher::AES_192_KEY_LEN)),
            Self::Aes128Cbc => Some((&cipher::AES_128, cipher::AES_128_KEY_LEN)),
            _ => None,
        }
    }
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is set about the data channel besides its ciphers. Not negotiated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DataSettings {
    /// Digest of the HMAC under a CBC cipher (`auth`): the same at the other end.
    pub digest: AuthDigest,
    /// The cipher for a peer that tells nothing about ciphers at all (`data-ciphers-fallback`).
    pub fallback: Option<Cipher>,
    /// What TCP connections through the tunnel are made to fit into, both ways.
    pub mss_fix: MssFix,
}

/// The name of a cipher that this crate does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown data cipher '{0}'; choose among AES-256-GCM, AES-128-GCM, CHACHA20-POLY1305, AES-192-GCM or, \
     for old peers only, AES-256-CBC, AES-192-CBC, AES-128-CBC"
)]
pub struct UnknownCipher(pub String);

impl FromStr for Cipher {
    type Err = UnknownCipher;

    fn from_str(name: &str) -> Result<Self, UnknownCipher> {
        let known = Self::ALL.iter().chain(Self::CBC).find(|cipher| cipher.as_str() == name);
        known.copied().ok_or_else(|| UnknownCipher(name.to_owned()))
    }
}

/// The keys cannot seal another packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the data keys have reached their limit of use")]
pub struct KeyExhausted;

/// Both directions of the data channel under one key id.
pub struct DataChannel {
    format: Format,
    cipher: Cipher,
    failures: u64,
}

enum Format {
    Classic(Box<Classic>),
    Cbc(Box<Cbc>),
    Epoch(Box<Epochs>),
}

impl DataChannel {
    /// Makes the channel of `role` under `key_id`. With a `peer_id` it sends the second format of the header, else the
    /// first; it opens both. `digest` is that of a CBC cipher's HMAC; the others have none.
    ///
    /// # Errors
    /// [`KeyExhausted`] never happens for the key lengths of [`Cipher`]; it stands for a refusal by the crypto library.
    pub fn new(
        role: Role,
        key_id: u8,
        peer_id: Option<u32>,
        cipher: Cipher,
        digest: AuthDigest,
        block: &KeyBlock,
    ) -> Result<Self, KeyExhausted> {
        let header = send_header(key_id, peer_id);
        let format = if cipher.is_aead() {
            Format::Classic(Box::new(Classic::new(role, header, cipher, block)?))
        } else {
            Format::Cbc(Box::new(Cbc::new(role, header, cipher, digest, block)?))
        };
        Ok(Self { format, cipher, failures: 0 })
    }

    /// Makes a channel that speaks the epoch format, which changes its keys by itself.
    ///
    /// # Errors
    /// [`KeyExhausted`] for a cipher that is no AEAD.
    pub fn with_epochs(
        role: Role,
        key_id: u8,
        peer_id: u32,
        cipher: Cipher,
        block: &KeyBlock,
    ) -> Result<Self, KeyExhausted> {
        let format = Format::Epoch(Box::new(Epochs::new(role, key_id, peer_id, cipher, block)?));
        Ok(Self { format, cipher, failures: 0 })
    }

    /// The cipher in use.
    #[must_use]
    pub fn cipher(&self) -> Cipher {
        self.cipher
    }

    /// Seals `plain`, writes the packet to `out` from its beginning, and returns its length.
    ///
    /// # Errors
    /// [`KeyExhausted`] when the keys may not be used any more, or when `out` has not [`OVERHEAD`] bytes more than `plain`.
    pub fn seal(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, KeyExhausted> {
        match &mut self.format {
            Format::Classic(classic) => classic.seal(plain, out),
            Format::Cbc(cbc) => cbc.seal(plain, out),
            Format::Epoch(epochs) => epochs.seal(plain, out),
        }
    }

    /// Opens a data packet in place and returns where in `packet` the plaintext stands. On an error the contents of
    /// `packet` are unspecified.
    ///
    /// # Errors
    /// Says why the packet is to be dropped.
    pub fn open(&mut self, packet: &mut [u8]) -> Result<Range<usize>, DropReason> {
        if self.failures >= MAX_FAILURES {
            return Err(DropReason::Authentication);
        }
        let opened = match &mut self.format {
            Format::Classic(classic) => classic.open(packet),
            Format::Cbc(cbc) => cbc.open(packet),
            Format::Epoch(epochs) => epochs.open(packet),
        };
        if opened == Err(DropReason::Authentication) {
            self.failures += 1;
        }
        opened
    }

    /// Lets the next packet have this id.
    #[cfg(test)]
    pub(crate) fn preset(&mut self, next_id: u32) {
        match &mut self.format {
            Format::Classic(classic) => classic.preset(next_id),
            Format::Cbc(cbc) => cbc.preset(next_id),
            Format::Epoch(_) => {}
        }
    }

    /// Whether the key is so far used up, in either direction, that it should be renewed.
    pub(crate) fn is_worn(&self) -> bool {
        let is_worn = match &self.format {
            Format::Classic(classic) => classic.is_worn(),
            Format::Cbc(cbc) => cbc.is_worn(),
            Format::Epoch(epochs) => epochs.is_worn(),
        };
        is_worn || self.failures >= WORN_FAILURES
    }
}

impl fmt::Debug for DataChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataChannel").field("cipher", &self.cipher).finish_non_exhaustive()
    }
}

/// How the packets we send begin.
#[derive(Clone, Copy)]
enum SendHeader {
    V1([u8; 1]),
    V2([u8; 4]),
}

fn send_header(key_id: u8, peer_id: Option<u32>) -> SendHeader {
    match peer_id {
        None => SendHeader::V1([Header { opcode: Opcode::DataV1, key_id }.encode()]),
        Some(id) => SendHeader::V2(header_v2(key_id, id)),
    }
}

impl SendHeader {
    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::V1(bytes) => bytes,
            Self::V2(bytes) => bytes,
        }
    }
}

/// What stands before the packet ids we send in the second format.
fn header_v2(key_id: u8, peer_id: u32) -> [u8; 4] {
    let [_, a, b, c] = peer_id.to_be_bytes();
    [Header { opcode: Opcode::DataV2, key_id }.encode(), a, b, c]
}

/// The peer id of a data packet of the second format.
pub(crate) fn peer_id(packet: &[u8]) -> Option<u32> {
    let word = packet.first_chunk::<4>()?;
    Some(u32::from_be_bytes(*word) & 0x00ff_ffff)
}

const PING: [u8; 16] = *b"\x2a\x18\x7b\xf3\x64\x1e\xb4\xcb\x07\xed\x2d\x0a\x98\x1f\xc7\x48";
/// Begins every message of the options channel.
pub(crate) const OCC: [u8; 16] = *b"\x28\x7f\x34\x6b\xd4\xef\x7a\x81\x2d\x56\xb8\xd3\xaf\xc5\x45\x9c";
const OCC_EXIT: u8 = 6;

/// What a decrypted payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// A sign of life.
    Ping,
    /// The peer leaves.
    Exit,
    /// One about the MTU of the path ([`crate::path_mtu`]).
    PathMtu,
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
            Some(rest) if path_mtu::is_message(rest) => Self::PathMtu,
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
