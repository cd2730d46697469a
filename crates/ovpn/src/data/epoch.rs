//! The epoch format: the tag stands at the end, packet ids are an epoch of 16 bits and a counter of 48, and every epoch
//! has a key of its own, which both sides make from that of the epoch before.

use std::collections::VecDeque;
use std::ops::Range;

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk};

use super::aead_key::{AeadKey, NONCE};
use super::{AES_GCM_LIMIT, Cipher, KeyExhausted, TAG};
use crate::drops::DropReason;
use crate::keys::KeyBlock;
use crate::packet::{Header, Opcode};
use crate::replay::ReplayWindow;
use crate::wrap::Role;

/// Header with peer id, then epoch and counter: everything that is authenticated but not encrypted.
const AD: usize = 4 + 8;
/// Largest counter of an epoch.
const MAX_COUNTER: u64 = (1 << 48) - 1;
/// Keys of epochs to come that are made in advance: how far the peer may be ahead.
const FUTURE: usize = 16;
/// Epoch of ours from which on the whole key should be renewed.
const WORN_EPOCH: u16 = 0xf000;

pub(super) struct Epochs {
    header: [u8; 4],
    cipher: Cipher,
    sending: Secret,
    seal: EpochKey,
    next_counter: u64,
    budget: u64,
    /// The newest epoch that the peer has used.
    open: Receiving,
    /// The one it used before, for packets that were overtaken.
    retiring: Option<Receiving>,
    /// Those that follow, without a gap.
    future: VecDeque<EpochKey>,
    /// Of the last of them.
    receiving: Secret,
}

/// What an epoch's key is made from, and the next epoch's secret.
struct Secret {
    epoch: u16,
    bytes: [u8; 32],
}

struct EpochKey {
    epoch: u16,
    key: AeadKey,
    iv: [u8; NONCE],
}

struct Receiving {
    key: EpochKey,
    window: ReplayWindow,
}

impl Secret {
    fn first(field: &[u8]) -> Result<Self, KeyExhausted> {
        Ok(Self { epoch: 1, bytes: *field.first_chunk::<32>().ok_or(KeyExhausted)? })
    }

    fn advance(&mut self) -> Result<(), KeyExhausted> {
        self.epoch = self.epoch.checked_add(1).ok_or(KeyExhausted)?;
        self.bytes = expand_label::<32>(&self.bytes, "datakey upd")?;
        Ok(())
    }

    fn key(&self, cipher: Cipher) -> Result<EpochKey, KeyExhausted> {
        let key = match cipher.aead().ok_or(KeyExhausted)?.key_len() {
            16 => cipher.key(&expand_label::<16>(&self.bytes, "data_key")?),
            24 => cipher.key(&expand_label::<24>(&self.bytes, "data_key")?),
            _ => cipher.key(&expand_label::<32>(&self.bytes, "data_key")?),
        };
        Ok(EpochKey { epoch: self.epoch, key: key?, iv: expand_label(&self.bytes, "data_iv")? })
    }
}

/// HKDF-Expand-Label of TLS 1.3 with an empty context and a prefix of its own.
fn expand_label<const N: usize>(secret: &[u8; 32], label: &str) -> Result<[u8; N], KeyExhausted> {
    struct Length(usize);
    impl KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let (length, label) = ((N as u16).to_be_bytes(), [b"ovpn ", label.as_bytes()].concat());
    let info = [&length[..], &[label.len() as u8], &label, &[0]];
    let mut out = [0; N];
    let prk = Prk::new_less_safe(HKDF_SHA256, secret);
    let filled = prk.expand(&info, Length(N)).and_then(|okm| okm.fill(&mut out));
    filled.map(|()| out).map_err(|_| KeyExhausted)
}

impl Epochs {
    pub(super) fn new(
        role: Role,
        key_id: u8,
        peer_id: u32,
        cipher: Cipher,
        block: &KeyBlock,
    ) -> Result<Self, KeyExhausted> {
        let sending = Secret::first(block.cipher(role == Role::Client))?;
        let receiving = Secret::first(block.cipher(role == Role::Server))?;
        let mut epochs = Self {
            header: super::header_v2(key_id, peer_id),
            cipher,
            seal: sending.key(cipher)?,
            sending,
            next_counter: 1,
            budget: AES_GCM_LIMIT,
            open: Receiving { key: receiving.key(cipher)?, window: ReplayWindow::default() },
            retiring: None,
            future: VecDeque::with_capacity(FUTURE),
            receiving,
        };
        epochs.look_ahead();
        Ok(epochs)
    }

    pub(super) fn seal(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, KeyExhausted> {
        let end = AD + plain.len() + TAG;
        let out = out.get_mut(..end).ok_or(KeyExhausted)?;
        let cost = self.cipher.cost(plain.len());
        if self.budget < cost || self.next_counter > MAX_COUNTER {
            self.sending.advance()?;
            self.begin_sending()?;
        }
        self.budget = self.budget.saturating_sub(cost);
        let number = (u64::from(self.seal.epoch) << 48 | self.next_counter).to_be_bytes();
        self.next_counter += 1;
        let (ad, sealed) = out.split_at_mut(AD);
        let (body, tag) = sealed.split_at_mut(plain.len());
        ad[..4].copy_from_slice(&self.header);
        ad[4..].copy_from_slice(&number);
        self.seal.key.seal(self.seal.nonce(number), ad, plain, body, tag)?;
        Ok(end)
    }

    pub(super) fn open(&mut self, packet: &mut [u8]) -> Result<Range<usize>, DropReason> {
        let opcode = packet.first().and_then(|&byte| Header::decode(byte)).map(|header| header.opcode);
        if opcode != Some(Opcode::DataV2) || packet.len() <= AD + TAG {
            return Err(DropReason::Malformed);
        }
        let end = packet.len() - TAG;
        let (ad, rest) = packet.split_at_mut(AD);
        let (body, tag) = rest.split_at_mut(end - AD);
        let mut number = [0; 8];
        number.copy_from_slice(&ad[4..]);
        let (epoch, counter) = split_number(number);
        let places = [Some(&mut self.open), self.retiring.as_mut()];
        if let Some(place) = places.into_iter().flatten().find(|place| place.key.epoch == epoch) {
            if !place.window.is_fresh(counter) {
                return Err(DropReason::Replay);
            }
            place.key.open(number, ad, tag, body)?;
            // Fresh before, and nothing happened in between.
            place.window.accept(counter);
            return Ok(AD..end);
        }
        let ahead = usize::from(epoch).checked_sub(usize::from(self.open.key.epoch) + 1);
        let ahead = ahead.filter(|&ahead| ahead < self.future.len()).ok_or(DropReason::UnknownKey)?;
        if counter == 0 {
            return Err(DropReason::Replay);
        }
        self.future[ahead].open(number, ad, tag, body)?;
        self.follow(ahead, counter);
        Ok(AD..end)
    }

    /// The peer has gone on to an epoch to come; so do we.
    fn follow(&mut self, ahead: usize, counter: u64) {
        let Some(key) = self.future.drain(..=ahead).next_back() else { return };
        let epoch = key.epoch;
        let mut window = ReplayWindow::default();
        window.accept(counter);
        self.retiring = Some(std::mem::replace(&mut self.open, Receiving { key, window }));
        self.look_ahead();
        let mut moved = false;
        while self.sending.epoch < epoch && self.sending.advance().is_ok() {
            moved = true;
        }
        if moved && self.begin_sending().is_err() {
            // Only if the crypto library refuses; then nothing may be sealed under a key of another epoch.
            self.next_counter = MAX_COUNTER + 1;
        }
    }

    fn begin_sending(&mut self) -> Result<(), KeyExhausted> {
        self.seal = self.sending.key(self.cipher)?;
        (self.next_counter, self.budget) = (1, AES_GCM_LIMIT);
        Ok(())
    }

    /// Makes the keys of epochs to come. At the end of all epochs there are fewer.
    fn look_ahead(&mut self) {
        while self.future.len() < FUTURE && self.receiving.advance().is_ok() {
            let Ok(key) = self.receiving.key(self.cipher) else { return };
            self.future.push_back(key);
        }
    }

    pub(super) fn is_worn(&self) -> bool {
        self.sending.epoch >= WORN_EPOCH
    }
}

fn split_number(number: [u8; 8]) -> (u16, u64) {
    let number = u64::from_be_bytes(number);
    ((number >> 48) as u16, number & MAX_COUNTER)
}

impl EpochKey {
    fn nonce(&self, number: [u8; 8]) -> [u8; NONCE] {
        let mut nonce = self.iv;
        for (byte, mixed) in nonce.iter_mut().zip(number) {
            *byte ^= mixed;
        }
        nonce
    }

    fn open(&self, number: [u8; 8], ad: &[u8], tag: &[u8], body: &mut [u8]) -> Result<(), DropReason> {
        self.key.open(self.nonce(number), ad, tag, body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::OVERHEAD;

    fn pair(cipher: Cipher) -> (Epochs, Epochs) {
        let block = KeyBlock::from_exporter(std::array::from_fn(|at| at as u8));
        let side = |role| Epochs::new(role, 0, 5, cipher, &block).unwrap();
        (side(Role::Client), side(Role::Server))
    }

    fn sealed(epochs: &mut Epochs) -> Result<Vec<u8>, KeyExhausted> {
        let mut out = [0; 11 + OVERHEAD];
        epochs.seal(b"some packet", &mut out).map(|length| out[..length].to_vec())
    }

    fn epoch_of(packet: &[u8]) -> (u16, u64) {
        split_number(*packet[4..].first_chunk().unwrap())
    }

    fn opened(epochs: &mut Epochs, packet: &[u8]) -> Result<(), DropReason> {
        let mut copy = packet.to_vec();
        let range = epochs.open(&mut copy)?;
        assert_eq!(&copy[range], b"some packet");
        Ok(())
    }

    #[test]
    fn labels_expand_as_in_the_vectors() {
        let file = include_str!("../../tests/vectors/data_channel_epoch.json");
        let file: serde_json::Value = serde_json::from_str(file).unwrap();
        let hex = |value: &serde_json::Value| -> Vec<u8> {
            let text = value.as_str().unwrap();
            (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
        };
        for vector in file["expand_label"].as_array().unwrap() {
            let (secret, label) = (hex(&vector["secret"]).try_into().unwrap(), vector["label"].as_str().unwrap());
            let output = match vector["length"].as_u64().unwrap() {
                12 => expand_label::<12>(&secret, label).unwrap().to_vec(),
                16 => expand_label::<16>(&secret, label).unwrap().to_vec(),
                32 => expand_label::<32>(&secret, label).unwrap().to_vec(),
                other => unreachable!("length {other}"),
            };
            assert_eq!(output, hex(&vector["output"]));
        }
    }

    #[test]
    fn a_used_up_epoch_is_followed_by_the_next_on_both_sides() {
        for &cipher in Cipher::ALL {
            let (mut client, mut server) = pair(cipher);
            let early = sealed(&mut client).unwrap();
            opened(&mut server, &sealed(&mut client).unwrap()).unwrap();
            if cipher == Cipher::ChaCha20Poly1305 {
                client.next_counter = MAX_COUNTER + 1;
            } else {
                client.budget = 1;
            }
            let next = sealed(&mut client).unwrap();
            assert_eq!(epoch_of(&next), (2, 1));
            opened(&mut server, &next).unwrap();
            // The server answers in the new epoch, and still takes what was overtaken, once.
            assert_eq!(epoch_of(&sealed(&mut server).unwrap()), (2, 1));
            opened(&mut server, &early).unwrap();
            assert_eq!(opened(&mut server, &early), Err(DropReason::Replay));
            assert_eq!(opened(&mut server, &next), Err(DropReason::Replay));
            opened(&mut client, &sealed(&mut server).unwrap()).unwrap();
        }
    }

    #[test]
    fn jumps_are_followed_as_far_as_keys_are_there() {
        for (jump, follows) in [(2, true), (16, true), (17, false)] {
            let (mut client, mut server) = pair(Cipher::Aes256Gcm);
            for _ in 0..jump {
                client.sending.advance().unwrap();
            }
            client.begin_sending().unwrap();
            let packet = sealed(&mut client).unwrap();
            let mut forged = packet.clone();
            *forged.last_mut().unwrap() ^= 1;
            assert!(opened(&mut server, &forged).is_err());
            assert_eq!(server.open.key.epoch, 1, "a forged packet changes nothing");
            let result = opened(&mut server, &packet);
            assert_eq!(result, if follows { Ok(()) } else { Err(DropReason::UnknownKey) });
            assert_eq!(epoch_of(&sealed(&mut server).unwrap()).0, if follows { jump + 1 } else { 1 });
            if follows {
                assert_eq!(opened(&mut server, &packet), Err(DropReason::Replay));
                assert_eq!(server.future.len(), FUTURE);
            }
        }
    }

    #[test]
    fn epochs_end() {
        let (mut client, _) = pair(Cipher::Aes128Gcm);
        client.sending.epoch = WORN_EPOCH - 1;
        client.budget = 0;
        assert!(!client.is_worn());
        assert_eq!(epoch_of(&sealed(&mut client).unwrap()).0, WORN_EPOCH);
        assert!(client.is_worn());
        client.sending.epoch = u16::MAX;
        client.budget = 0;
        assert_eq!(sealed(&mut client), Err(KeyExhausted));
    }

    #[test]
    fn epoch_and_counter_zero_are_refused() {
        let (mut client, mut server) = pair(Cipher::Aes256Gcm);
        client.next_counter = 0;
        assert_eq!(opened(&mut server, &sealed(&mut client).unwrap()), Err(DropReason::Replay));
        let mut packet = sealed(&mut client).unwrap();
        packet[5] = 0;
        assert_eq!(opened(&mut server, &packet), Err(DropReason::UnknownKey));
    }
}
