//! Data channel keys: the 256 bytes that both key derivations end in.

use std::fmt;

use hmac::{Hmac, Mac};

use crate::key_method2::Randoms;
use crate::packet::SessionId;

/// Label of the TLS exporter that gives [`KeyBlock`] with TLS-EKM; no context, [`KeyBlock::LEN`] bytes.
pub const EXPORTER_LABEL: &str = "EXPORTER-OpenVPN-datakeys";

/// Label of the TLS exporter that gives the key of dynamic tls-crypt; no context, 256 bytes.
pub const DYNAMIC_TLS_CRYPT_LABEL: &str = "EXPORTER-OpenVPN-dynamic-tls-crypt";

/// Which way the keys of a session are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyDerivation {
    /// TLS exported keying material.
    Ekm,
    /// The PRF of TLS 1.0 over the randoms of key method 2; what peers without EKM speak.
    Prf,
}

/// Key material for both directions: client to server, then server to client, each 64 bytes cipher and 64 bytes HMAC
/// or implicit IV.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyBlock([u8; Self::LEN]);

impl KeyBlock {
    /// Its length in bytes.
    pub const LEN: usize = 256;

    /// From the TLS exporter.
    #[must_use]
    pub fn from_exporter(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// From the randoms of both sides and the session ids of the control channel.
    #[must_use]
    pub fn from_prf(client: &Randoms, server: &Randoms, client_session: SessionId, server_session: SessionId) -> Self {
        let mut master = [0; 48];
        let seed = [b"OpenVPN master secret".as_slice(), &client.random1, &server.random1].concat();
        tls1_prf(&client.pre_master, &seed, &mut master);
        let mut block = [0; Self::LEN];
        let label = b"OpenVPN key expansion".as_slice();
        let seed = [label, &client.random2, &server.random2, &client_session.0, &server_session.0].concat();
        tls1_prf(&master, &seed, &mut block);
        Self(block)
    }

    /// Cipher key field (64 bytes) of a direction.
    pub(crate) fn cipher(&self, client_to_server: bool) -> &[u8] {
        let at = if client_to_server { 0 } else { 128 };
        &self.0[at..at + 64]
    }

    /// The eight bytes of implicit IV of a direction.
    pub(crate) fn implicit_iv(&self, client_to_server: bool) -> [u8; 8] {
        let at = if client_to_server { 64 } else { 192 };
        let mut iv = [0; 8];
        iv.copy_from_slice(&self.0[at..at + 8]);
        iv
    }

    /// HMAC key field (64 bytes) of a direction.
    pub(crate) fn hmac(&self, client_to_server: bool) -> &[u8] {
        let at = if client_to_server { 64 } else { 192 };
        &self.0[at..at + 64]
    }

    /// All bytes. A secret.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Debug for KeyBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyBlock(..)")
    }
}

/// The PRF of TLS 1.0 and 1.1: P_MD5 xor P_SHA1 over the halves of the secret, which share a byte when it is odd.
fn tls1_prf(secret: &[u8], seed: &[u8], out: &mut [u8]) {
    let half = secret.len().div_ceil(2);
    out.fill(0);
    p_hash::<Hmac<md5::Md5>>(&secret[..half], seed, out);
    p_hash::<Hmac<sha1::Sha1>>(&secret[secret.len() - half..], seed, out);
}

/// Xors P_hash(secret, seed) into `out`.
fn p_hash<M: Mac + hmac::digest::KeyInit + Clone>(secret: &[u8], seed: &[u8], out: &mut [u8]) {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
    let keyed = <M as Mac>::new_from_slice(secret).expect("any key length");
    let mut a = keyed.clone().chain_update(seed).finalize().into_bytes();
    let mut done = 0;
    while done < out.len() {
        let block = keyed.clone().chain_update(&a).chain_update(seed).finalize().into_bytes();
        for (to, from) in out[done..].iter_mut().zip(&block) {
            *to ^= from;
        }
        done += block.len();
        a = keyed.clone().chain_update(&a).finalize().into_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls1_prf_with_even_and_odd_secret() {
        let file: serde_json::Value =
            serde_json::from_str(include_str!("../tests/vectors/key_derivation_prf.json")).unwrap();
        let hex = |value: &serde_json::Value| -> Vec<u8> {
            let text = value.as_str().unwrap();
            (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
        };
        for vector in file["tls1_prf_only"].as_array().unwrap() {
            let expected = hex(&vector["output"]);
            let mut out = vec![0xaa; expected.len()];
            tls1_prf(&hex(&vector["secret"]), &hex(&vector["seed"]), &mut out);
            assert_eq!(out, expected);
        }
    }
}
