//! The profile with which a phone or a laptop joins us.

use std::fmt;
use std::net::Ipv4Addr;

use secrecy::{ExposeSecret, SecretString};

use crate::lines::MAX_PROFILE;
use crate::settings::{Cipher, TlsVersion};

/// Longest line outside of blocks, bytes: OpenVPN 2.x takes 254 and a line feed.
const MAX_LINE: usize = 254;
/// Longest line inside of blocks, bytes.
const MAX_PEM_LINE: usize = 76;
/// Longest common name of a certificate.
const MAX_NAME: usize = 64;
/// All traffic goes into the tunnel, and none of IPv6 comes out.
const FULL: &str = "redirect-gateway def1 ipv6\nblock-ipv6\n";
const CERTIFICATE: &str = "CERTIFICATE";
const KEYS: [&str; 3] = ["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"];
const STATIC_KEY: &str = "OpenVPN Static key V1";
const CLIENT_KEY_V2: &str = "OpenVPN tls-crypt-v2 client key";

/// Everything that a device's profile holds.
///
/// The text keeps to what all clients take: no option that only some know, none that OpenVPN 3 counts as an error in a
/// profile, keys in blocks, remotes as plain lines.
#[derive(Clone, Debug)]
pub struct DeviceProfile {
    /// Where the device connects, tried in this order; at least one.
    pub remotes: Vec<DeviceRemote>,
    /// Common name of the server's certificate.
    pub server_name: String,
    /// Data ciphers offered, best first; at least one. AEAD only, since other modes depend on the server's `auth`.
    pub data_ciphers: Vec<Cipher>,
    /// Lowest TLS version.
    pub tls_version_min: TlsVersion,
    /// Certificates of the authorities, PEM.
    pub ca_pem: String,
    /// The device's certificate and key; without them it must have a password.
    pub identity: Option<DeviceIdentity>,
    /// Whether the person is asked for user name and password.
    pub ask_password: bool,
    /// Protection of the control channel.
    pub wrapping: DeviceWrapping,
    /// What goes through the tunnel.
    pub network: DeviceNetwork,
}

/// What of a device's traffic goes through the tunnel. By default what is for the tunnel's own network, and what the server pushes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceNetwork {
    /// All of it. The tunnel carries no IPv6, so that the client then refuses IPv6 instead of letting it pass by.
    pub full: bool,
    /// The name servers to use.
    pub dns: Vec<Ipv4Addr>,
}

/// A place to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRemote {
    /// Name in ASCII, or address.
    pub host: String,
    /// Port, from 1.
    pub port: u16,
    /// TCP instead of UDP.
    pub tcp: bool,
}

/// Who the device is.
#[derive(Clone, Debug)]
pub struct DeviceIdentity {
    /// Its certificate, then intermediates, PEM.
    pub cert_pem: String,
    /// Its private key, PEM, not encrypted.
    pub key_pem: SecretString,
}

/// Protection of the control channel.
#[derive(Clone, Debug)]
pub enum DeviceWrapping {
    /// By a static key that all clients share.
    TlsCrypt(SecretString),
    /// By a key of this device's own.
    TlsCryptV2(SecretString),
}

/// Why no profile can be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceProfileError {
    /// No remotes.
    #[error("the profile names no server; give at least one remote")]
    NoRemote,
    /// A remote that cannot be understood.
    #[error("'{0}' is not HOST, HOST:PORT or [ADDRESS]:PORT, perhaps with /udp or /tcp behind it")]
    Remote(String),
    /// A remote that cannot be written.
    #[error("'{0}' is no ASCII host name and no address")]
    Host(String),
    /// Port 0.
    #[error("the remote '{0}' has port 0")]
    Port(String),
    /// A name that clients would read differently.
    #[error(
        "'{0}' cannot be checked as the server's name: 1 to 64 ASCII letters, digits, blanks and '.-_@' are possible"
    )]
    ServerName(String),
    /// No ciphers, or one that is not AEAD.
    #[error("the profile needs data ciphers, and only GCM and ChaCha20-Poly1305 can be offered to every client")]
    Ciphers,
    /// Neither certificate nor password.
    #[error("the device has neither a certificate nor a password")]
    NoCredentials,
    /// A PEM text that is not what it should be.
    #[error("{what}: {reason}")]
    Pem {
        /// Which one.
        what: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// Too much for clients.
    #[error("the profile has more than 256 KiB or a line of more than 254 bytes; leave out remotes or certificates")]
    TooLong,
}

impl DeviceProfile {
    /// Usual extension of the file.
    pub const EXTENSION: &str = "ovpn";
    /// Media type of the file.
    pub const MEDIA_TYPE: &str = "application/x-openvpn-profile";

    /// The file's text. It holds the device's key.
    ///
    /// # Errors
    /// Says which input cannot be written; nothing is written that a client would read as something else.
    pub fn to_text(&self) -> Result<SecretString, DeviceProfileError> {
        let mut text = format!("client\ndev tun\nproto {}\n", self.transport()?);
        for remote in &self.remotes {
            text.push_str(&format!("{remote}\n"));
        }
        text.push_str("resolv-retry infinite\nnobind\npersist-tun\nremote-cert-tls server\n");
        text.push_str(&format!("verify-x509-name {} name\n", self.quoted_server_name()?));
        text.push_str(match self.tls_version_min {
            TlsVersion::V1_2 => "tls-version-min 1.2\n",
            TlsVersion::V1_3 => "tls-version-min 1.3\n",
        });
        text.push_str(&format!("data-ciphers {}\n", self.cipher_names()?));
        if self.ask_password {
            text.push_str("auth-user-pass\n");
        }
        text.push_str("auth-nocache\nverb 3\n");
        if self.network.full {
            text.push_str(FULL);
        }
        for address in &self.network.dns {
            text.push_str(&format!("dhcp-option DNS {address}\n"));
        }
        match &self.identity {
            None if !self.ask_password => return Err(DeviceProfileError::NoCredentials),
            None => text.push_str("setenv CLIENT_CERT 0\n"),
            Some(_) => {}
        }
        if text.lines().any(|line| line.len() > MAX_LINE) {
            return Err(DeviceProfileError::TooLong);
        }
        text.push_str(&block("ca", &pem("the authority's certificate", &self.ca_pem, &[CERTIFICATE], false)?));
        if let Some(DeviceIdentity { cert_pem, key_pem }) = &self.identity {
            text.push_str(&block("cert", &pem("the device's certificate", cert_pem, &[CERTIFICATE], false)?));
            text.push_str(&block("key", &pem("the device's key", key_pem.expose_secret(), &KEYS, true)?));
        }
        let (tag, body) = match &self.wrapping {
            DeviceWrapping::TlsCrypt(key) => {
                ("tls-crypt", pem("the tls-crypt key", key.expose_secret(), &[STATIC_KEY], true)?)
            }
            DeviceWrapping::TlsCryptV2(key) => {
                ("tls-crypt-v2", pem("the tls-crypt-v2 key", key.expose_secret(), &[CLIENT_KEY_V2], true)?)
            }
        };
        text.push_str(&block(tag, &body));
        if text.len() > MAX_PROFILE { Err(DeviceProfileError::TooLong) } else { Ok(text.into()) }
    }

    /// Transport of the first remote, after all have been checked.
    fn transport(&self) -> Result<&'static str, DeviceProfileError> {
        for DeviceRemote { host, port, .. } in &self.remotes {
            let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
            let is_name = (1..=253).contains(&host.len()) && host.chars().all(fits) && !host.starts_with('-');
            if !is_name && host.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(DeviceProfileError::Host(crate::problem::shown(host)));
            }
            if *port == 0 {
                return Err(DeviceProfileError::Port(host.clone()));
            }
        }
        self.remotes.first().map(|first| if first.tcp { "tcp" } else { "udp" }).ok_or(DeviceProfileError::NoRemote)
    }

    fn quoted_server_name(&self) -> Result<String, DeviceProfileError> {
        let name = &self.server_name;
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '@' | ' ');
        if !(1..=MAX_NAME).contains(&name.len()) || !name.chars().all(fits) || name.trim() != name {
            return Err(DeviceProfileError::ServerName(crate::problem::shown(name)));
        }
        Ok(if name.contains(' ') { format!("\"{name}\"") } else { name.clone() })
    }

    fn cipher_names(&self) -> Result<String, DeviceProfileError> {
        let aead = |cipher: &Cipher| match cipher {
            Cipher::Aes128Gcm | Cipher::Aes192Gcm | Cipher::Aes256Gcm | Cipher::ChaCha20Poly1305 => true,
            Cipher::Aes128Cbc | Cipher::Aes192Cbc | Cipher::Aes256Cbc => false,
        };
        if self.data_ciphers.is_empty() || !self.data_ciphers.iter().all(aead) {
            return Err(DeviceProfileError::Ciphers);
        }
        Ok(self.data_ciphers.iter().map(|cipher| cipher.name()).collect::<Vec<_>>().join(":"))
    }
}

impl DeviceRemote {
    /// OpenVPN's port.
    pub const PORT: u16 = 1194;

    /// Reads `HOST`, `HOST:PORT` and `[ADDRESS]:PORT`, each perhaps with `/udp` or `/tcp` behind it. Without a transport
    /// that is two places, UDP first; without a port it is [`DeviceRemote::PORT`].
    ///
    /// # Errors
    /// When it is none of these; whether the host can be written is found out by [`DeviceProfile::to_text`].
    pub fn parse(text: &str) -> Result<Vec<Self>, DeviceProfileError> {
        Self::parse_for(text, Self::PORT)
    }

    /// As [`DeviceRemote::parse`], with another port where none is written.
    ///
    /// # Errors
    /// As [`DeviceRemote::parse`].
    pub fn parse_for(text: &str, usual_port: u16) -> Result<Vec<Self>, DeviceProfileError> {
        let wrong = || DeviceProfileError::Remote(crate::problem::shown(text));
        let (place, transports) = match text.rsplit_once('/') {
            None => (text, &[false, true][..]),
            Some((place, "udp")) => (place, &[false][..]),
            Some((place, "tcp")) => (place, &[true][..]),
            Some(_) => return Err(wrong()),
        };
        let (host, port) = match place.strip_prefix('[').map(|rest| rest.split_once(']')) {
            Some(Some((address, port))) if address.parse::<std::net::Ipv6Addr>().is_ok() => (address, port),
            Some(_) => return Err(wrong()),
            None => place.split_at(place.find(':').unwrap_or(place.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().map_err(|_| wrong())?,
            None if port.is_empty() => usual_port,
            None => return Err(wrong()),
        };
        Ok(transports.iter().map(|&tcp| Self { host: host.to_owned(), port, tcp }).collect())
    }
}

impl fmt::Display for DeviceRemote {
    /// The line of the profile.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "remote {} {} {}", self.host, self.port, if self.tcp { "tcp" } else { "udp" })
    }
}

fn block(tag: &str, body: &str) -> String {
    format!("<{tag}>\n{body}</{tag}>\n")
}

/// The PEM blocks of a text and nothing else, so that no line of it can be read as an option.
fn pem(what: &'static str, text: &str, labels: &[&str], only_one: bool) -> Result<String, DeviceProfileError> {
    let wrong = |reason| Err(DeviceProfileError::Pem { what, reason });
    let mut kept = String::new();
    let mut count = 0;
    // Label of the block that the line is in.
    let mut inside: Option<&str> = None;
    for line in text.lines().map(str::trim) {
        match inside {
            None => {
                let begun = line.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----"));
                match begun {
                    None => continue,
                    Some(label) if labels.contains(&label) => inside = Some(label),
                    Some(_) => return wrong("it holds something else too"),
                }
                count += 1;
            }
            Some(label)
                if line.strip_prefix("-----END ").and_then(|rest| rest.strip_suffix("-----")) == Some(label) =>
            {
                inside = None;
            }
            Some(_) if line.is_empty() => continue,
            Some(_) if line.len() > MAX_PEM_LINE || !line.chars().all(is_base64) => {
                return wrong("it is not PEM with lines of at most 76 characters, or its key is encrypted");
            }
            Some(_) => {}
        }
        kept.push_str(line);
        kept.push('\n');
    }
    match count {
        _ if inside.is_some() => wrong("its last block does not end"),
        0 => wrong("there is none in the text"),
        1 => Ok(kept),
        _ if only_one => wrong("there is more than one in the text"),
        _ => Ok(kept),
    }
}

fn is_base64(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=')
}
