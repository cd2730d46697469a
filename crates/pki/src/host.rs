//! A host's identity as it lies on disk.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rcgen::{KeyPair, PublicKeyData};
use secrecy::{ExposeSecret, SecretString};

use crate::ca::Identity;
use crate::certificate::{CertificateError, CertificateInfo, check_belongs, last_end};
use crate::directory::{self, DirectoryError, File};
use crate::static_key::{StaticKeyError, check_static_key};

/// The names of the files in an identity's or an authority's directory.
pub mod file {
    /// The CA's certificate.
    pub const CA_CERT: &str = "ca.crt";
    /// The CA's key, in the authority's directory only.
    pub const CA_KEY: &str = "ca.key";
    /// The host's certificate.
    pub const HOST_CERT: &str = "host.crt";
    /// The host's key.
    pub const HOST_KEY: &str = "host.key";
    /// The tunnel's static key.
    pub const TLS_CRYPT: &str = "tls-crypt.key";
    /// A tls-crypt-v2 key: the listener's server key, or the dialer's own client key.
    pub const TLS_CRYPT_V2: &str = "tls-crypt-v2.key";
    /// The authority's lists of revoked certificates.
    pub const REVOKED: &str = "crl.pem";
}

/// Why an identity or authority could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file cannot be read.
    #[error("cannot read {}: {}", .path.display(), hint(.source))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A certificate cannot be used.
    #[error("the certificate {} cannot be used", .path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: CertificateError,
    },
    /// A private key cannot be used.
    #[error("{} holds no private key that can be used: put back the key it was made with, or a new identity", .path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// A CA's certificate cannot be issued with.
    #[error("{} cannot issue certificates", .path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// The directory holds no key of the tunnel, or more than one.
    #[error("{} must hold {} or {}, and not both: which one is in force must not be a guess", .dir.display(), file::TLS_CRYPT, file::TLS_CRYPT_V2)]
    TunnelKeys {
        /// The directory.
        dir: PathBuf,
    },
    /// The tls-crypt-v2 key is none.
    #[error("{} holds no OpenVPN tls-crypt-v2 key: put back the key it was made with, or join again", .path.display())]
    TlsCryptV2 {
        /// The file.
        path: PathBuf,
    },
    /// The static key cannot be used.
    #[error("{} holds no OpenVPN static key: copy it again from the host it came from", .path.display())]
    StaticKey {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: StaticKeyError,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "it is missing; a host gets its identity when it is set up or joins",
        io::ErrorKind::PermissionDenied => "permission denied; the agent's user must own it",
        _ => "look at the disk and at what lies there",
    }
}

pub(crate) fn read(dir: &Path, name: &str) -> Result<(PathBuf, String), LoadError> {
    let path = dir.join(name);
    match fs::read_to_string(&path) {
        Ok(text) => Ok((path, text)),
        Err(source) => Err(LoadError::Read { path, source }),
    }
}

/// Everything a host needs to prove who it is and to check the others.
#[derive(Debug, Clone)]
pub struct HostIdentity {
    /// The CA's certificate.
    pub ca_pem: String,
    /// The host's own certificate and key.
    pub identity: Identity,
    /// The tunnel's key, the whole file's text: the static one of all hosts, or a tls-crypt-v2 key.
    pub tls_crypt: SecretString,
}

/// What the text of a tls-crypt-v2 key has, of the server as of a client.
const V2_MARK: &str = "-----BEGIN OpenVPN tls-crypt-v2 ";

impl HostIdentity {
    /// Whether [`HostIdentity::tls_crypt`] is a tls-crypt-v2 key.
    #[must_use]
    pub fn is_v2(&self) -> bool {
        self.tls_crypt.expose_secret().contains(V2_MARK)
    }

    /// Writes the directory, replacing an earlier identity in one step.
    ///
    /// # Errors
    /// When the directory holds anything else, or cannot be written; the old content then stays.
    pub fn save(&self, dir: &Path) -> Result<(), DirectoryError> {
        self.save_with(dir, None)
    }

    /// As [`HostIdentity::save`], with PEM lists of revoked certificates beside the identity.
    ///
    /// # Errors
    /// As [`HostIdentity::save`].
    pub fn save_with(&self, dir: &Path, lists: Option<&str>) -> Result<(), DirectoryError> {
        let tunnel_key = if self.is_v2() { file::TLS_CRYPT_V2 } else { file::TLS_CRYPT };
        let mut files = vec![
            File { name: file::CA_CERT, content: self.ca_pem.as_bytes(), secret: false },
            File { name: file::HOST_CERT, content: self.identity.cert_pem.as_bytes(), secret: false },
            File { name: file::HOST_KEY, content: self.identity.key_pem.expose_secret().as_bytes(), secret: true },
            File { name: tunnel_key, content: self.tls_crypt.expose_secret().as_bytes(), secret: true },
        ];
        files.extend(lists.map(|lists| File { name: file::REVOKED, content: lists.as_bytes(), secret: false }));
        directory::replace(dir, &files)
    }

    /// Reads a directory and checks that its files belong together. Whether the certificate is valid now is another
    /// question: see [`HostIdentity::info`].
    ///
    /// # Errors
    /// Naming the file, what is wrong with it and what to do.
    pub fn load(dir: &Path) -> Result<Self, LoadError> {
        let (_, ca_pem) = read(dir, file::CA_CERT)?;
        let (cert_path, cert_pem) = read(dir, file::HOST_CERT)?;
        let (key_path, key_pem) = read(dir, file::HOST_KEY)?;
        let (tls_crypt_path, tls_crypt) =
            match (dir.join(file::TLS_CRYPT).exists(), dir.join(file::TLS_CRYPT_V2).exists()) {
                (true, true) => return Err(LoadError::TunnelKeys { dir: dir.to_owned() }),
                (false, true) => read(dir, file::TLS_CRYPT_V2)?,
                (_, false) => read(dir, file::TLS_CRYPT)?,
            };

        let key = KeyPair::from_pem(&key_pem).map_err(|source| LoadError::Key { path: key_path, source })?;
        CertificateInfo::from_pem(&cert_pem)
            .and_then(|_| check_belongs(&cert_pem, &ca_pem, &key.subject_public_key_info()))
            .map_err(|source| LoadError::Certificate { path: cert_path, source })?;
        if tls_crypt_path.ends_with(file::TLS_CRYPT) {
            check_static_key(&tls_crypt).map_err(|source| LoadError::StaticKey { path: tls_crypt_path, source })?;
        } else if !tls_crypt.contains(V2_MARK) {
            return Err(LoadError::TlsCryptV2 { path: tls_crypt_path });
        }
        Ok(Self { ca_pem, identity: Identity { cert_pem, key_pem: key_pem.into() }, tls_crypt: tls_crypt.into() })
    }

    /// Whether all certificates and keys are the same.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let texts = |it: &Self| [it.ca_pem.clone(), it.identity.cert_pem.clone()];
        let secrets = |one: &SecretString, other: &SecretString| one.expose_secret() == other.expose_secret();
        texts(self) == texts(other)
            && secrets(&self.identity.key_pem, &other.identity.key_pem)
            && secrets(&self.tls_crypt, &other.tls_crypt)
    }

    /// Whether certificate, key and authority belong together, and who this host is then. For an identity that was not
    /// read from a directory.
    ///
    /// # Errors
    /// When they do not.
    pub fn check(&self) -> Result<CertificateInfo, CertificateError> {
        let key = KeyPair::from_pem(self.identity.key_pem.expose_secret()).map_err(|_| CertificateError::OtherKey)?;
        check_belongs(&self.identity.cert_pem, &self.ca_pem, &key.subject_public_key_info())?;
        self.info()
    }

    /// When the last of the authorities that this host trusts ends, and with it all that they issued.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn authority_ends(&self) -> Result<SystemTime, CertificateError> {
        last_end(&self.ca_pem)
    }

    /// Who this host is by its certificate, and until when.
    ///
    /// # Errors
    /// When the certificate is not one of ours; a loaded identity's always is.
    pub fn info(&self) -> Result<CertificateInfo, CertificateError> {
        CertificateInfo::from_pem(&self.identity.cert_pem)
    }
}
