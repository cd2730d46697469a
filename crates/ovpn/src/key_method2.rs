//! The key exchange message, "key method 2": random material, an options string, and what the client tells about
//! itself. One message is one TLS record.

use std::fmt;

use crate::login::Credentials;

/// Largest plaintext message; stock peers read into a buffer of this size.
pub const MAX_MESSAGE: usize = 2048;
const MAX_OPTIONS: usize = 512;

/// Why a key exchange message was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyMethodError {
    /// It ends in the middle of a field.
    #[error("the key exchange message is truncated")]
    Truncated,
    /// It does not start with zero and key method 2.
    #[error("the key exchange message is not of key method 2")]
    Method,
    /// A string is longer than agreed or not terminated by NUL, or the user name or password is not UTF-8.
    #[error("a string of the key exchange message is too long, not terminated or not UTF-8")]
    Text,
}

/// The random material of one side. The pre-master is the client's only.
#[derive(Clone, PartialEq, Eq)]
pub struct Randoms {
    /// The client's 48 bytes; all zero in a server's message.
    pub pre_master: [u8; 48],
    /// Goes into the master secret.
    pub random1: [u8; 32],
    /// Goes into the key expansion.
    pub random2: [u8; 32],
}

impl fmt::Debug for Randoms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Randoms(..)")
    }
}

impl Randoms {
    /// Fresh material.
    pub fn generate(rng: &mut dyn rand::CryptoRng) -> Self {
        let mut randoms = Self { pre_master: [0; 48], random1: [0; 32], random2: [0; 32] };
        rng.fill_bytes(&mut randoms.pre_master);
        rng.fill_bytes(&mut randoms.random1);
        rng.fill_bytes(&mut randoms.random2);
        randoms
    }
}

/// A key exchange message. Strings are without their NUL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyMethod2 {
    /// Random material.
    pub randoms: Randoms,
    /// The options string. Peers only warn about differences, and so do not depend on it.
    pub options: String,
    /// User name and password, unless both are empty. Only a client's message has them.
    pub credentials: Option<Credentials>,
    /// Lines of `KEY=VALUE`; empty in a server's message.
    pub peer_info: String,
}

impl KeyMethod2 {
    /// The message with or without the pre-master, as the role of its sender demands.
    #[must_use]
    pub fn encode(&self, from_client: bool) -> Vec<u8> {
        let mut out = vec![0, 0, 0, 0, 2];
        if from_client {
            out.extend_from_slice(&self.randoms.pre_master);
        }
        out.extend_from_slice(&self.randoms.random1);
        out.extend_from_slice(&self.randoms.random2);
        let (username, password) =
            self.credentials.as_ref().map_or(("", ""), |known| (&known.username, known.password.expose()));
        for text in [&self.options, username, password, &self.peer_info] {
            if text.is_empty() {
                out.extend_from_slice(&[0, 0]);
                continue;
            }
            out.extend_from_slice(&(text.len() as u16 + 1).to_be_bytes());
            out.extend_from_slice(text.as_bytes());
            out.push(0);
        }
        out
    }

    /// Reads a message.
    ///
    /// # Errors
    /// When it is truncated, of another key method, or has an overlong string. A message that ends after the password
    /// is fine.
    pub fn decode(message: &[u8], from_client: bool) -> Result<Self, KeyMethodError> {
        let mut rest = message;
        if take::<4>(&mut rest)? != [0; 4] || take::<1>(&mut rest)?[0] & 0x0f != 2 {
            return Err(KeyMethodError::Method);
        }
        let pre_master = if from_client { take::<48>(&mut rest)? } else { [0; 48] };
        let randoms = Randoms { pre_master, random1: take(&mut rest)?, random2: take(&mut rest)? };
        let options = readable(text(&mut rest, MAX_OPTIONS)?);
        // How long they may be is for whoever judges them.
        let (username, password) = (strict(text(&mut rest, MAX_MESSAGE)?)?, strict(text(&mut rest, MAX_MESSAGE)?)?);
        let is_given = !(username.is_empty() && password.is_empty());
        let credentials = is_given.then(|| Credentials::new(username, password));
        let peer_info = if rest.is_empty() { String::new() } else { readable(text(&mut rest, MAX_MESSAGE)?) };
        Ok(Self { randoms, options, credentials, peer_info })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], KeyMethodError> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or(KeyMethodError::Truncated)?;
    *rest = tail;
    Ok(*head)
}

fn readable(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

/// A password is not to be another one for being read.
fn strict(text: &[u8]) -> Result<&str, KeyMethodError> {
    std::str::from_utf8(text).map_err(|_| KeyMethodError::Text)
}

fn text<'a>(rest: &mut &'a [u8], limit: usize) -> Result<&'a [u8], KeyMethodError> {
    let length = usize::from(u16::from_be_bytes(take(rest)?));
    if length > limit {
        return Err(KeyMethodError::Text);
    }
    let (bytes, tail) = rest.split_at_checked(length).ok_or(KeyMethodError::Truncated)?;
    *rest = tail;
    match bytes.split_last() {
        None => Ok(&[]),
        Some((0, text)) => Ok(text),
        Some(_) => Err(KeyMethodError::Text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes: Vec<u8>, from_client: bool) {
            let _ = KeyMethod2::decode(&bytes, from_client);
            let _ = KeyMethod2::decode(&[&[0, 0, 0, 0, 2][..], &[0; 112], &bytes].concat(), from_client);
        }

        #[test]
        fn reads_back_what_it_wrote(
            options in "[ -~]{0,300}",
            username in "\\PC{0,30}",
            password in "\\PC{0,30}",
            info in "([A-Z_]{1,9}=[ -~]{0,20}\n){0,9}",
            client: bool,
        ) {
            let mut randoms = Randoms::generate(&mut rand::rng());
            if !client {
                randoms.pre_master = [0; 48];
            }
            let is_given = !(username.is_empty() && password.is_empty());
            let credentials = is_given.then(|| Credentials::new(username, password));
            let message = KeyMethod2 { randoms, options, credentials, peer_info: info };
            prop_assert_eq!(KeyMethod2::decode(&message.encode(client), client), Ok(message));
        }
    }
}
