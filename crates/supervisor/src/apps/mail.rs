//! How a service sends mail.

use secrecy::SecretString;

/// A mail server that takes what a service sends.
#[derive(Debug, Clone)]
pub struct Mail {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is protected.
    pub security: MailSecurity,
    /// Who logs in; none where the server asks nobody.
    pub login: Option<MailLogin>,
    /// The sender, `local-part@domain`.
    pub from: String,
}

/// How the connection to a mail server is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailSecurity {
    /// TLS from the first byte, usually port 465.
    Tls,
    /// Begins in the clear and changes to TLS, usually port 587.
    StartTls,
    /// Not at all: a server on this host or in its own network.
    None,
}

/// Who logs in at a mail server.
#[derive(Debug, Clone)]
pub struct MailLogin {
    /// The user.
    pub user: String,
    /// The password.
    pub password: SecretString,
}

impl Mail {
    /// The sender's part before and after the `@`.
    pub(super) fn sender_parts(&self) -> (&str, &str) {
        self.from.split_once('@').unwrap_or((&self.from, "localhost"))
    }
}
