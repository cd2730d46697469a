//! Identities: the private CA, host and device certificates and their revocation, tls-crypt keys.
//!
//! One CA stands behind everything. A certificate says by a single subject alternative name,
//! `cloudathome://ROLE/NAME`, what its holder is and who; nothing else in it grants anything.
//!
//! On disk an identity is a directory that is replaced whole, so that its files always belong together:
//!
//! | file | what | mode |
//! |---|---|---|
//! | `ca.crt` | the CA's certificate | 0644 |
//! | `host.crt` | the holder's certificate | 0644 |
//! | `host.key` | its private key | 0600 |
//! | `tls-crypt.key` | the tunnel's static key, the same on every host | 0600 |
//! | `tls-crypt-v2.key` | instead: the listener's server key, or the dialer's own client key | 0600 |
#![forbid(unsafe_code)]

mod ca;
mod certificate;
mod directory;
mod host;
mod request;
mod revocation;
mod revoked;
mod static_key;

pub use ca::{Ca, CaError, Identity, Subject, Validity};
pub use certificate::{CertificateError, CertificateInfo, certificate_der, role_of, server_name};
pub use directory::DirectoryError;
pub use host::{HostIdentity, LoadError, file};
pub use request::{CertificateRequest, PrivateKey, RequestError};
pub use revocation::{InvalidSerial, RevocationError, RevocationList, Serial};
pub use revoked::Revoked;
pub use static_key::{StaticKeyError, check_static_key, generate_static_key};
