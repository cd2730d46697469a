//! Keys of tls-crypt-v2: a client's own key, which the server keeps no copy of, because the client brings it along,
//! wrapped under a key that only the server has.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::drops::DropReason;
use crate::static_key::StaticKey;
use crate::wrap::tls_crypt::{Direction, TAG};

const SERVER_LABEL: &str = "OpenVPN tls-crypt-v2 server key";
const CLIENT_LABEL: &str = "OpenVPN tls-crypt-v2 client key";
/// Largest wrapped key, which limits metadata to 733 bytes and a type.
const MAX_WRAPPED: usize = 1024;
/// The smallest: a tag, a key, a length.
const MIN_WRAPPED: usize = TAG + 256 + 2;
const TYPE_TIMESTAMP: u8 = 1;

/// Why a text or metadata makes no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The begin or end line is missing.
    #[error("there is no '-----BEGIN {0}-----' ... '-----END {0}-----' block")]
    Markers(&'static str),
    /// What stands between is not base64.
    #[error("the block is not base64")]
    Base64,
    /// The contents have the wrong length, or do not tell the right one.
    #[error("the block holds {0} bytes, which is not the length of such a key")]
    Length(usize),
    /// Too much metadata.
    #[error("the metadata of a client's key may be up to 733 bytes long, not {0}")]
    Metadata(usize),
    /// The crypto library refused.
    #[error("the key cannot be wrapped")]
    Crypto,
}

/// What wraps clients' keys: 128 bytes, 64 for a cipher and 64 for an HMAC.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerKey([u8; 128]);

/// A client's key, and the same wrapped for the server.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientKey {
    key: StaticKey,
    wrapped: Vec<u8>,
}

/// What a wrapped key holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unwrapped {
    /// The client's key.
    pub key: StaticKey,
    /// What was said about it when it was made.
    pub metadata: Metadata,
}

/// What is said about a client's key. Authentic, because only the server can wrap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Metadata {
    /// When it was made, seconds since 1970.
    Timestamp(i64),
    /// Free bytes.
    User(Vec<u8>),
    /// Nothing, or of a type that is not known.
    Other,
}

impl ServerKey {
    /// Takes raw bytes, for instance fresh random ones.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 128]) -> Self {
        Self(bytes)
    }

    /// Reads the text form; whatever stands outside of the markers is ignored.
    ///
    /// # Errors
    /// Says what is wrong with the text, without repeating any of it.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let bytes = parse_block(text, SERVER_LABEL)?;
        let length = bytes.len();
        bytes.try_into().map(Self).map_err(|_| KeyError::Length(length))
    }

    /// The text form, as stock tools read it.
    #[must_use]
    pub fn to_text(&self) -> String {
        to_block(&self.0, SERVER_LABEL)
    }

    /// Makes a client's key, from fresh random bytes.
    ///
    /// # Errors
    /// When there is too much metadata.
    pub fn issue(&self, key: StaticKey, metadata: &Metadata) -> Result<ClientKey, KeyError> {
        let mut body = key.as_bytes().to_vec();
        match metadata {
            Metadata::Timestamp(seconds) => {
                body.push(TYPE_TIMESTAMP);
                body.extend_from_slice(&seconds.to_be_bytes());
            }
            Metadata::User(bytes) => {
                body.push(0);
                body.extend_from_slice(bytes);
            }
            Metadata::Other => {}
        }
        let too_much = KeyError::Metadata(body.len().saturating_sub(257));
        let length = u16::try_from(TAG + body.len() + 2).ok().filter(|&length| usize::from(length) <= MAX_WRAPPED);
        let length = length.ok_or(too_much)?.to_be_bytes();
        let direction = self.direction();
        let tag = direction.tag(&length, &body);
        direction.encrypt(&tag, &mut body).map_err(|_| KeyError::Crypto)?;
        Ok(ClientKey { key, wrapped: [&tag[..], &body, &length].concat() })
    }

    /// Unwraps a client's key. Nothing of it is used before it has authenticated.
    ///
    /// # Errors
    /// [`DropReason::Malformed`] for an impossible length, [`DropReason::Wrap`] when it is of another server's key.
    pub fn unwrap(&self, wrapped: &[u8]) -> Result<Unwrapped, DropReason> {
        let (rest, length) = wrapped.split_last_chunk::<2>().ok_or(DropReason::Malformed)?;
        if !(MIN_WRAPPED..=MAX_WRAPPED).contains(&wrapped.len())
            || usize::from(u16::from_be_bytes(*length)) != wrapped.len()
        {
            return Err(DropReason::Malformed);
        }
        let (tag, body) = rest.split_at(TAG);
        let mut body = body.to_vec();
        self.direction().open(length, tag, &mut body)?;
        let (key, metadata) = body.split_first_chunk::<256>().ok_or(DropReason::Malformed)?;
        let metadata = match metadata.split_first() {
            Some((0, bytes)) => Metadata::User(bytes.to_vec()),
            Some((&TYPE_TIMESTAMP, bytes)) => {
                Metadata::Timestamp(i64::from_be_bytes(bytes.try_into().map_err(|_| DropReason::Malformed)?))
            }
            _ => Metadata::Other,
        };
        Ok(Unwrapped { key: StaticKey::from_bytes(*key), metadata })
    }

    fn direction(&self) -> Direction {
        Direction::new(&self.0[..64], &self.0[64..])
    }
}

impl ClientKey {
    /// Reads the text form; whatever stands outside of the markers is ignored.
    ///
    /// # Errors
    /// Says what is wrong with the text, without repeating any of it.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let bytes = parse_block(text, CLIENT_LABEL)?;
        let (key, wrapped) = bytes.split_first_chunk::<256>().ok_or(KeyError::Length(bytes.len()))?;
        let told = wrapped.last_chunk::<2>().map(|length| usize::from(u16::from_be_bytes(*length)));
        if !(MIN_WRAPPED..=MAX_WRAPPED).contains(&wrapped.len()) || told != Some(wrapped.len()) {
            return Err(KeyError::Length(bytes.len()));
        }
        Ok(Self { key: StaticKey::from_bytes(*key), wrapped: wrapped.to_vec() })
    }

    /// The text form, as stock tools read it.
    #[must_use]
    pub fn to_text(&self) -> String {
        to_block(&[self.key.as_bytes(), &self.wrapped[..]].concat(), CLIENT_LABEL)
    }

    /// The key itself.
    #[must_use]
    pub fn key(&self) -> &StaticKey {
        &self.key
    }

    /// What the server is sent.
    #[must_use]
    pub fn wrapped(&self) -> &[u8] {
        &self.wrapped
    }
}

/// Cuts a wrapped key off the end of a datagram.
pub(crate) fn split_wrapped(datagram: &mut [u8]) -> Result<(&mut [u8], &[u8]), DropReason> {
    let length = datagram.last_chunk::<2>().map(|length| usize::from(u16::from_be_bytes(*length)));
    let length = length.filter(|length| (MIN_WRAPPED..=MAX_WRAPPED).contains(length)).ok_or(DropReason::Malformed)?;
    let at = datagram.len().checked_sub(length).ok_or(DropReason::Malformed)?;
    let (packet, wrapped) = datagram.split_at_mut(at);
    Ok((packet, wrapped))
}

/// What a server says in the payload of its reset: whether it wants the wrapped key again. Unknown items are skipped.
pub(crate) fn wants_key_again(payload: &[u8]) -> Result<bool, DropReason> {
    let (mut rest, mut wants) = (payload, false);
    while !rest.is_empty() {
        let (head, tail) = rest.split_first_chunk::<4>().ok_or(DropReason::Malformed)?;
        let (kind, length) = (u16::from_be_bytes([head[0], head[1]]), u16::from_be_bytes([head[2], head[3]]));
        let (value, tail) = tail.split_at_checked(length.into()).ok_or(DropReason::Malformed)?;
        if kind == 1 {
            let flags: [u8; 2] = value.try_into().map_err(|_| DropReason::Malformed)?;
            wants = u16::from_be_bytes(flags) & 1 != 0;
        }
        rest = tail;
    }
    Ok(wants)
}

/// The payload of a server's reset that makes the client send its wrapped key again.
pub(crate) const WANT_KEY_AGAIN: [u8; 6] = [0, 1, 0, 2, 0, 1];
/// First replay ids of clients that can do that, less one.
pub(crate) const EARLY_NEGOTIATION: u32 = 0x0f00_0000;

pub(crate) fn parse_block(text: &str, label: &'static str) -> Result<Vec<u8>, KeyError> {
    let (_, rest) = text.split_once(&format!("-----BEGIN {label}-----")).ok_or(KeyError::Markers(label))?;
    let (block, _) = rest.split_once(&format!("-----END {label}-----")).ok_or(KeyError::Markers(label))?;
    let digits: String = block.chars().filter(|c| !c.is_whitespace()).collect();
    STANDARD.decode(digits).map_err(|_| KeyError::Base64)
}

fn to_block(bytes: &[u8], label: &str) -> String {
    let digits = STANDARD.encode(bytes);
    let mut text = format!("-----BEGIN {label}-----\n");
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && at % 64 == 0 {
            text.push('\n');
        }
        text.push(digit);
    }
    text + &format!("\n-----END {label}-----\n")
}

impl fmt::Debug for ServerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerKey(..)")
    }
}

impl fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn metadata_has_a_limit() {
        let server = ServerKey::from_bytes([3; 128]);
        let issue = |length| server.issue(StaticKey::from_bytes([4; 256]), &Metadata::User(vec![7; length]));
        let largest = issue(733).unwrap();
        assert_eq!(largest.wrapped().len(), 1024);
        assert_eq!(server.unwrap(largest.wrapped()).unwrap().metadata, Metadata::User(vec![7; 733]));
        assert_eq!(issue(734), Err(KeyError::Metadata(734)));
        assert_eq!(ClientKey::parse(&largest.to_text()).unwrap(), largest);
    }

    #[test]
    fn replies_are_read_item_by_item() {
        assert_eq!(wants_key_again(&[]), Ok(false));
        assert_eq!(wants_key_again(&WANT_KEY_AGAIN), Ok(true));
        assert_eq!(wants_key_again(&[0, 9, 0, 1, 7, 0, 1, 0, 2, 0, 3]), Ok(true));
        assert_eq!(wants_key_again(&[0, 1, 0, 2, 0, 2]), Ok(false));
        for bad in [&[0, 1, 0][..], &[0, 1, 0, 2, 0], &[0, 1, 0, 1, 1], &[0, 1, 0, 3, 0, 1, 0]] {
            assert_eq!(wants_key_again(bad), Err(DropReason::Malformed));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1200), length in 0u16..1200) {
            let server = ServerKey::from_bytes([3; 128]);
            let mut datagram = [&bytes[..], &length.to_be_bytes()].concat();
            if let Ok((packet, wrapped)) = split_wrapped(&mut datagram) {
                let whole = packet.len() + wrapped.len();
                prop_assert_eq!(whole, bytes.len() + 2);
                prop_assert!(server.unwrap(wrapped).is_err());
            }
            prop_assert!(server.unwrap(&bytes).is_err());
            let _ = wants_key_again(&bytes);
        }

        #[test]
        fn arbitrary_text_does_not_panic(inside in "[0-9a-zA-Z+/=\\s-]{0,600}", around: String) {
            let _ = ClientKey::parse(&around);
            let _ = ClientKey::parse(&format!("{around}-----BEGIN {CLIENT_LABEL}-----{inside}-----END {CLIENT_LABEL}-----"));
            let _ = ServerKey::parse(&format!("-----BEGIN {SERVER_LABEL}-----{inside}-----END {SERVER_LABEL}-----{around}"));
        }
    }
}
