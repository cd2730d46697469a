//! How the control channel is protected: what both ends must be told, because it is never negotiated.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use aws_lc_rs::hmac;

use crate::static_key::StaticKey;
use crate::tls_crypt_v2::{ClientKey, ServerKey};

/// A key that all peers share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SharedKey {
    /// `tls-auth`: packets are authenticated.
    TlsAuth(TlsAuth),
    /// `tls-crypt`: packets are authenticated and encrypted.
    TlsCrypt(StaticKey),
}

impl SharedKey {
    pub(crate) fn tls_auth(&self) -> Option<&TlsAuth> {
        match self {
            Self::TlsAuth(auth) => Some(auth),
            Self::TlsCrypt(_) => None,
        }
    }
}

/// `tls-auth` and what goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsAuth {
    /// The key.
    pub key: StaticKey,
    /// `key-direction`; the other end has the opposite one, or none like this one.
    pub direction: Option<KeyDirection>,
    /// `auth`; the same at the other end.
    pub digest: AuthDigest,
}

/// Which half of a key is for sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyDirection {
    /// Usual on the server.
    Zero,
    /// Usual on clients.
    One,
}

/// The digest of `auth`: of tls-auth, and of data packets under a CBC cipher.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuthDigest {
    /// What stock peers use when they are told nothing.
    #[default]
    Sha1,
    /// SHA-256
    Sha256,
    /// SHA-512
    Sha512,
}

impl AuthDigest {
    const ALL: [Self; 3] = [Self::Sha1, Self::Sha256, Self::Sha512];

    /// The name in configurations and options strings.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
            Self::Sha512 => "SHA512",
        }
    }

    /// Length of the longest tag, bytes.
    pub(crate) const MAX_LEN: usize = 64;

    /// The key that begins a field of key material.
    ///
    /// `field` has at least [`Self::len`] bytes.
    pub(crate) fn key(self, field: &[u8]) -> hmac::Key {
        let algorithm = match self {
            Self::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha512 => hmac::HMAC_SHA512,
        };
        hmac::Key::new(algorithm, &field[..self.len()])
    }

    /// Length of a tag, bytes.
    pub(crate) fn len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

impl fmt::Display for AuthDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name of a digest that this crate does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown digest '{0}'; choose among SHA1, SHA256, SHA512")]
pub struct UnknownDigest(pub String);

impl FromStr for AuthDigest {
    type Err = UnknownDigest;

    fn from_str(name: &str) -> Result<Self, UnknownDigest> {
        let known = Self::ALL.into_iter().find(|digest| digest.as_str() == name);
        known.ok_or_else(|| UnknownDigest(name.to_owned()))
    }
}

/// What a client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientProtection {
    /// Nothing.
    None,
    /// A key that all clients share.
    Shared(SharedKey),
    /// `tls-crypt-v2`: a key of its own.
    TlsCryptV2(ClientKey),
}

/// What a server is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerProtection {
    /// Nothing.
    None,
    /// A key that all clients share.
    Shared(SharedKey),
    /// `tls-crypt-v2`: every client brings its own key, wrapped under the server's.
    TlsCryptV2(ServerV2),
}

/// `tls-crypt-v2` on a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerV2 {
    /// Unwraps the clients' keys.
    pub key: ServerKey,
    /// Those from before it, under which there are still clients' keys; tried in this order.
    pub older: Vec<ServerKey>,
    /// Largest age of a client's key (`tls-crypt-v2-max-age`). With it, a key that does not tell its age is refused.
    pub max_age: Option<Duration>,
    /// Serves clients that cannot send their key again (before 2.6; `allow-noncookie`). For these a session is kept from
    /// their first packet on, before they have shown their address.
    pub allow_noncookie: bool,
    /// Serves clients with a shared key too, on the same port.
    pub beside: Option<SharedKey>,
}

impl ClientProtection {
    pub(crate) fn tls_auth(&self) -> Option<&TlsAuth> {
        match self {
            Self::Shared(shared) => shared.tls_auth(),
            Self::None | Self::TlsCryptV2(_) => None,
        }
    }
}

impl ServerProtection {
    /// The key that all clients share, if there is one.
    pub(crate) fn shared(&self) -> Option<&SharedKey> {
        match self {
            Self::None => None,
            Self::Shared(shared) => Some(shared),
            Self::TlsCryptV2(v2) => v2.beside.as_ref(),
        }
    }
}
