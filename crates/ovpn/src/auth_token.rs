//! Tokens that stand for a password once it was right (`auth-gen-token`), in the form of stock servers: a server that
//! knows the secret needs to remember nothing.
//!
//! `SESS_ID_AT_` and the base64 of 12 bytes that name the login, the time of the login, the time of the token (both
//! seconds since 1970, 8 bytes), and an HMAC-SHA256 over the user name and these 28 bytes.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::login::{Credentials, Secret};
use crate::tls_crypt_v2::{KeyError, parse_block};

const PREFIX: &str = "SESS_ID_AT_";
const LABEL: &str = "OpenVPN auth-token server key";
const SIGNED: usize = 28;
const LEN: usize = SIGNED + 32;

/// What tokens are signed with.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenKey([u8; 32]);

impl TokenKey {
    /// From random bytes. Tokens under a key that is made at each start end with the process.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads a secret file as `openvpn --genkey auth-token` makes it: 128 bytes of which the third quarter counts.
    ///
    /// # Errors
    /// Says what is wrong with the text, without repeating any of it.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let bytes = parse_block(text, LABEL)?;
        let key = <[u8; 128]>::try_from(bytes.as_slice()).map_err(|_| KeyError::Length(bytes.len()))?;
        let mut used = [0; 32];
        used.copy_from_slice(&key[64..96]);
        Ok(Self(used))
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(..)")
    }
}

/// How a server gives tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// What they are signed with.
    pub key: TokenKey,
    /// How long after the password was shown they are good; zero for ever.
    pub lifetime: Duration,
    /// How often clients get a new one, which should be how often keys are renewed: a token is good for twice this time.
    /// Zero sets no limit but the lifetime.
    pub renewal: Duration,
}

/// What a token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// Names the login.
    pub login: [u8; 12],
    /// When the password was shown, seconds since 1970.
    pub since: u64,
    /// When the token was made, seconds since 1970.
    pub made: u64,
}

impl Token {
    /// The token for a user name, to be sent as a password.
    #[must_use]
    pub fn sign(&self, key: &TokenKey, username: &str) -> Secret {
        let mut bytes = [0; LEN];
        bytes[..12].copy_from_slice(&self.login);
        bytes[12..20].copy_from_slice(&self.since.to_be_bytes());
        bytes[20..SIGNED].copy_from_slice(&self.made.to_be_bytes());
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &key.0));
        context.update(username.as_bytes());
        context.update(&bytes[..SIGNED]);
        bytes[SIGNED..].copy_from_slice(context.sign().as_ref());
        Secret::from(format!("{PREFIX}{}", STANDARD.encode(bytes)))
    }

    /// Reads a token that was signed for this user name.
    #[must_use]
    pub fn verify(key: &TokenKey, credentials: &Credentials) -> Option<Self> {
        let text = credentials.password.expose().strip_prefix(PREFIX)?;
        let bytes = <[u8; LEN]>::try_from(STANDARD.decode(text).ok()?.as_slice()).ok()?;
        let (signed, tag) = bytes.split_at(SIGNED);
        let message = [credentials.username.as_bytes(), signed].concat();
        hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, &key.0), &message, tag).ok()?;
        let (login, rest) = signed.split_first_chunk::<12>()?;
        let (since, made) = rest.split_first_chunk::<8>()?;
        Some(Self { login: *login, since: u64::from_be_bytes(*since), made: u64::from_be_bytes(*made.first_chunk()?) })
    }
}

impl Tokens {
    /// Whether a password claims to be a token, of whomever.
    #[must_use]
    pub fn is_token(password: &Secret) -> bool {
        password.expose().starts_with(PREFIX)
    }

    /// The token that was shown, if it is ours, for this user, and good at `time` (seconds since 1970).
    #[must_use]
    pub fn check(&self, credentials: &Credentials, time: u64) -> Option<Token> {
        let within = |from: u64, limit: Duration| limit.is_zero() || time < from.saturating_add(limit.as_secs());
        Token::verify(&self.key, credentials)
            .filter(|token| within(token.since, self.lifetime) && within(token.made, self.renewal * 2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_end() {
        let key = TokenKey::from_bytes([1; 32]);
        let tokens = Tokens { key: key.clone(), lifetime: Duration::from_secs(100), renewal: Duration::from_secs(20) };
        let token = Token { login: [2; 12], since: 1000, made: 1050 };
        let credentials = Credentials { username: "alice".to_owned(), password: token.sign(&key, "alice") };
        assert!(Tokens::is_token(&credentials.password));
        for (time, good) in [(1050, true), (1089, true), (1090, false), (1100, false)] {
            assert_eq!(tokens.check(&credentials, time), good.then_some(token), "{time}");
        }
        let late = Token { made: 1095, ..token };
        let credentials = Credentials { password: late.sign(&key, "alice"), ..credentials };
        assert!(tokens.check(&credentials, 1099).is_some() && tokens.check(&credentials, 1100).is_none());
        let endless = Tokens { lifetime: Duration::ZERO, renewal: Duration::ZERO, ..tokens.clone() };
        assert!(endless.check(&credentials, u64::MAX).is_some());
        // Of another user, another server, or changed.
        let other = Credentials { username: "bob".to_owned(), ..credentials.clone() };
        assert_eq!(endless.check(&other, 1099), None);
        let elsewhere = Tokens { key: TokenKey::from_bytes([3; 32]), ..endless.clone() };
        assert_eq!(elsewhere.check(&credentials, 1099), None);
        let text = credentials.password.expose();
        for bad in ["", PREFIX, &text[..text.len() - 4], &text.replace('A', "B"), "SESS_ID_AT_?"] {
            assert_eq!(endless.check(&Credentials::new("alice", bad), 1099), None, "{bad}");
        }
    }
}
