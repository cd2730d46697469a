//! The format of old peers: AES-CBC under an HMAC. The packet id is encrypted with the payload; the HMAC is over IV and
//! ciphertext, and is checked before anything is decrypted.

use std::ops::Range;

use aws_lc_rs::cipher::{
    DecryptionContext, EncryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;

use super::{Cipher, KeyExhausted, SendHeader, WORN_PACKET_ID};
use crate::drops::DropReason;
use crate::keys::KeyBlock;
use crate::packet::{Header, Opcode};
use crate::protection::AuthDigest;
use crate::replay::ReplayWindow;
use crate::wrap::Role;

pub(super) const IV: usize = 16;
const BLOCK: usize = 16;
const ID: usize = 4;

pub(super) struct Cbc {
    encrypt: PaddedBlockEncryptingKey,
    seal_hmac: hmac::Key,
    decrypt: PaddedBlockDecryptingKey,
    open_hmac: hmac::Key,
    tag: usize,
    header: SendHeader,
    /// `None` when the last one is used.
    next_id: Option<u32>,
    window: ReplayWindow,
}

impl Cbc {
    pub(super) fn new(
        role: Role,
        header: SendHeader,
        cipher: Cipher,
        digest: AuthDigest,
        block: &KeyBlock,
    ) -> Result<Self, KeyExhausted> {
        let cipher = |client_to_server| {
            let (algorithm, length) = cipher.cbc().ok_or(KeyExhausted)?;
            UnboundCipherKey::new(algorithm, &block.cipher(client_to_server)[..length]).map_err(|_| KeyExhausted)
        };
        let hmac = |client_to_server| digest.key(block.hmac(client_to_server));
        let (sends, receives) = (role == Role::Client, role == Role::Server);
        Ok(Self {
            encrypt: PaddedBlockEncryptingKey::cbc_pkcs7(cipher(sends)?).map_err(|_| KeyExhausted)?,
            seal_hmac: hmac(sends),
            decrypt: PaddedBlockDecryptingKey::cbc_pkcs7(cipher(receives)?).map_err(|_| KeyExhausted)?,
            open_hmac: hmac(receives),
            tag: digest.len(),
            header,
            next_id: Some(1),
            window: ReplayWindow::default(),
        })
    }

    pub(super) fn seal(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, KeyExhausted> {
        let number = self.next_id.ok_or(KeyExhausted)?;
        self.next_id = number.checked_add(1);
        let id = number.to_be_bytes();
        // Nobody can tell it in advance who does not have the key, and none comes twice. No packet that is authenticated
        // is as short.
        let mut iv = [0; IV];
        iv.copy_from_slice(&hmac::sign(&self.seal_hmac, &id).as_ref()[..IV]);
        self.seal_with(plain, out, id, iv)
    }

    fn seal_with(&self, plain: &[u8], out: &mut [u8], id: [u8; ID], iv: [u8; IV]) -> Result<usize, KeyExhausted> {
        let header = self.header.as_bytes();
        let tag_at = header.len();
        let iv_at = tag_at + self.tag;
        let id_at = iv_at + IV;
        let body_at = id_at + ID;
        let used = ID + plain.len();
        let end = id_at + (used + 1).next_multiple_of(BLOCK);
        let out = out.get_mut(..end).ok_or(KeyExhausted)?;
        out[..tag_at].copy_from_slice(header);
        out[iv_at..id_at].copy_from_slice(&iv);
        out[id_at..body_at].copy_from_slice(&id);
        out[body_at..id_at + used].copy_from_slice(plain);
        let mut in_place = InPlace { buf: &mut out[id_at..], used };
        let context = EncryptionContext::Iv128(FixedLength::from(iv));
        self.encrypt.less_safe_encrypt(&mut in_place, context).map_err(|_| KeyExhausted)?;
        let signed = hmac::sign(&self.seal_hmac, &out[iv_at..]);
        out[tag_at..iv_at].copy_from_slice(signed.as_ref());
        Ok(end)
    }

    pub(super) fn open(&mut self, packet: &mut [u8]) -> Result<Range<usize>, DropReason> {
        let opcode = packet.first().and_then(|&byte| Header::decode(byte)).map(|header| header.opcode);
        let tag_at = match opcode {
            Some(Opcode::DataV1) => 1,
            Some(Opcode::DataV2) => 4,
            _ => return Err(DropReason::Malformed),
        };
        let iv_at = tag_at + self.tag;
        let plain = iv_at + IV;
        let length = packet.len().checked_sub(plain).ok_or(DropReason::Malformed)?;
        if length == 0 || !length.is_multiple_of(BLOCK) {
            return Err(DropReason::Malformed);
        }
        let (head, signed) = packet.split_at_mut(iv_at);
        hmac::verify(&self.open_hmac, signed, &head[tag_at..]).map_err(|_| DropReason::Authentication)?;
        let (iv, body) = signed.split_at_mut(IV);
        let iv = FixedLength::try_from(&*iv).map_err(|_| DropReason::Authentication)?;
        let opened =
            self.decrypt.decrypt(body, DecryptionContext::Iv128(iv)).map_err(|_| DropReason::Authentication)?;
        let id = opened.first_chunk::<ID>().ok_or(DropReason::Malformed)?;
        if !self.window.accept(u32::from_be_bytes(*id).into()) {
            return Err(DropReason::Replay);
        }
        Ok(plain + ID..plain + opened.len())
    }

    pub(super) fn is_worn(&self) -> bool {
        self.next_id.is_none_or(|id| id >= WORN_PACKET_ID)
    }

    #[cfg(test)]
    pub(super) fn preset(&mut self, next_id: u32) {
        self.next_id = Some(next_id);
    }
}

/// A plaintext with room for its padding.
struct InPlace<'a> {
    buf: &'a mut [u8],
    used: usize,
}

impl AsMut<[u8]> for InPlace<'_> {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.buf[..self.used]
    }
}

impl<'b> Extend<&'b u8> for InPlace<'_> {
    fn extend<T: IntoIterator<Item = &'b u8>>(&mut self, bytes: T) {
        for (place, &byte) in self.buf[self.used..].iter_mut().zip(bytes) {
            *place = byte;
            self.used += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{OVERHEAD, send_header};

    fn hex(value: &serde_json::Value) -> Vec<u8> {
        let text = value.as_str().unwrap();
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    /// With the IV of the capture, what we seal is what stock sealed.
    #[test]
    fn seals_as_in_the_vectors() {
        let file: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/vectors/data_channel.json")).unwrap();
        let mut seen = 0;
        for vector in file["vectors"].as_array().unwrap() {
            let cipher: Cipher = vector["cipher"].as_str().unwrap().parse().unwrap();
            if cipher.is_aead() {
                continue;
            }
            let digest = vector["auth"].as_str().unwrap().parse().unwrap();
            let block = KeyBlock::from_exporter(hex(&vector["key2_256"]).try_into().unwrap());
            let role = if vector["from"] == "client" { Role::Client } else { Role::Server };
            let (wire, plain) = (hex(&vector["wire"]), hex(&vector["plaintext"]));
            let is_v2 = Header::decode(wire[0]).unwrap().opcode == Opcode::DataV2;
            let header = send_header(0, is_v2.then(|| u32::from_be_bytes([0, wire[1], wire[2], wire[3]])));
            let cbc = Cbc::new(role, header, cipher, digest, &block).unwrap();
            let mut out = vec![0; plain.len() + OVERHEAD];
            // The packet id is inside.
            let receiver = if role == Role::Client { Role::Server } else { Role::Client };
            let mut opener = Cbc::new(receiver, header, cipher, digest, &block).unwrap();
            let mut opened = wire.clone();
            let at = opener.open(&mut opened).unwrap().start;
            let (id, iv) = (*opened[at - ID..].first_chunk().unwrap(), hex(&vector["iv"]).try_into().unwrap());
            let length = cbc.seal_with(&plain, &mut out, id, iv).unwrap();
            assert_eq!(out[..length], wire);
            seen += 1;
        }
        assert_eq!(seen, 4);
    }

    #[test]
    fn every_length_comes_back_and_ids_never_wrap() {
        let block = KeyBlock::from_exporter(std::array::from_fn(|at| at as u8));
        for cipher in Cipher::CBC {
            for digest in [AuthDigest::Sha1, AuthDigest::Sha256, AuthDigest::Sha512] {
                let side = |role| Cbc::new(role, send_header(3, Some(7)), *cipher, digest, &block).unwrap();
                let (mut client, mut server) = (side(Role::Client), side(Role::Server));
                let mut ivs = std::collections::HashSet::new();
                for length in 0..70 {
                    let plain: Vec<u8> = (0..length).collect();
                    let mut out = [0; 70 + OVERHEAD];
                    let length = client.seal(&plain, &mut out).unwrap();
                    let packet = &mut out[..length];
                    ivs.insert(packet[4 + digest.len()..][..IV].to_vec());
                    let again = packet.to_vec();
                    let range = server.open(packet).unwrap();
                    assert_eq!(packet[range], plain);
                    assert_eq!(server.open(&mut again.clone()), Err(DropReason::Replay));
                }
                assert_eq!(ivs.len(), 70);
                client.preset(u32::MAX - 1);
                assert!(client.is_worn());
                let mut out = [0; 20 + OVERHEAD];
                client.seal(&[0; 20], &mut out).unwrap();
                client.seal(&[0; 20], &mut out).unwrap();
                assert_eq!(client.seal(&[0; 20], &mut out), Err(KeyExhausted));
            }
        }
    }
}
