//! User names and passwords: what a client sends beside or instead of its certificate, and what a server makes of it.

use std::fmt;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use crate::auth_token::Tokens;
use crate::endpoint::{Identity, TlsKey};
use crate::underlay::Underlay;

/// A text that is shown nowhere, and wiped from memory when it is dropped.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// The text, for comparing or sending it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A user name and what shows that it is rightly used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The user name.
    pub username: String,
    /// The password, or a token in its place.
    pub password: Secret,
}

impl Credentials {
    /// Longest user name and password that stock peers take, bytes.
    pub const MAX: usize = 127;

    /// A user name with its password.
    pub fn new(username: impl Into<String>, password: impl Into<Secret>) -> Self {
        Self { username: username.into(), password: password.into() }
    }
}

/// What a client shows to one server over all of its sessions with it: the configured credentials until the server
/// gives a token, and the token from then on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Login {
    configured: Option<Credentials>,
    token: Option<Credentials>,
}

impl Login {
    /// Starts without a token.
    #[must_use]
    pub fn new(configured: Option<Credentials>) -> Self {
        Self { configured, token: None }
    }

    /// What the next key exchange message carries.
    #[must_use]
    pub fn credentials(&self) -> Option<&Credentials> {
        self.token.as_ref().or(self.configured.as_ref())
    }

    /// Uses a token from now on, under another user name if the server gave one.
    pub(crate) fn take_token(&mut self, token: Secret, username: Option<String>) {
        let username = username.or_else(|| self.credentials().map(|known| known.username.clone()));
        self.token = Some(Credentials { username: username.unwrap_or_default(), password: token });
    }

    /// Goes back to what was configured. True when there was a token.
    pub(crate) fn drop_token(&mut self) -> bool {
        self.token.take().is_some()
    }
}

/// Whether a server asks for a certificate (`verify-client-cert`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CertificateDemand {
    /// Nobody gets in without.
    #[default]
    Required,
    /// One that is shown must be good. Who shows none is known by the user name.
    Optional,
    /// None is asked for: everyone is known by the user name.
    None,
}

/// How clients show a server who they are. The default asks for a certificate and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// Whether a certificate is asked for. Anything but [`CertificateDemand::Required`] needs `passwords`.
    pub certificate: CertificateDemand,
    /// Whether a user name and password are asked for. Each is a [`LoginRequest`], which somebody must decide within
    /// the hand window.
    pub passwords: bool,
    /// Whether who has shown the password gets a token that stands for it later (`auth-gen-token`).
    pub tokens: Option<Tokens>,
    /// Whether sessions of the same name live side by side (`duplicate-cn`); otherwise the newest ends the others.
    pub duplicate_names: bool,
}

/// Somebody shows a user name and a password to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginRequest {
    /// Goes back with the decision.
    pub id: TlsKey,
    /// Where it comes from.
    pub remote: Underlay,
    /// What the certificate says, if one was shown.
    pub certificate: Option<Identity>,
    /// What is to be judged. Untrusted, but without control characters in the user name.
    pub credentials: Credentials,
    /// Whether this is a peer that is connected and renews its keys. Data flows on until it is refused.
    pub is_renewal: bool,
}

/// What becomes of a [`LoginRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is right.
    Accept,
    /// It is wrong; clients give up or ask for another.
    Refuse {
        /// For the person at the client; may be empty.
        reason: String,
    },
    /// It cannot be judged now; clients try again.
    Later {
        /// For the person at the client; may be empty.
        reason: String,
        /// How long the client waits, whole seconds; its own choice without.
        backoff: Option<Duration>,
        /// Where it tries again.
        advance: Advance,
    },
    /// Something else must happen first, such as a second factor. Another decision must follow within `timeout`.
    Pending {
        /// How long the client is told to wait, whole seconds. At most half the time of a renewal or a hand window,
        /// whichever is more.
        timeout: Duration,
        /// What the client's user is told, for instance `WEB_AUTH::https://...`; nothing if empty.
        info: String,
    },
}

/// Where a client goes that was refused for a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Advance {
    /// To the same address.
    No,
    /// To the next address of the same remote.
    #[default]
    Address,
    /// To the next remote.
    Remote,
}

impl Advance {
    /// As it stands in `AUTH_FAILED,TEMP`.
    #[must_use]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Address => "addr",
            Self::Remote => "remote",
        }
    }
}
