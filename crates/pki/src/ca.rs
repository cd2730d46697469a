//! The certificate authority: making it, keeping it, issuing with it.

use std::path::Path;
use std::time::{Duration, SystemTime};

use model::{HostId, Role, RoleUri};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use secrecy::{ExposeSecret, SecretString};
use time::OffsetDateTime;

use crate::certificate::{check_belongs, last_end, server_name};
use crate::directory::{self, File};
use crate::host::{LoadError, file, read};
use crate::request::{CertificateRequest, PrivateKey};

/// Clocks of two hosts may differ by so much and a new certificate is still valid at once on both.
pub(crate) const BACKDATE: Duration = Duration::from_secs(3_600);

/// The times between which a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// From.
    pub not_before: SystemTime,
    /// Until.
    pub not_after: SystemTime,
}

impl Validity {
    /// A CA's usual life: longer than any host it serves, because replacing it means joining everything again.
    pub const CA: Duration = Duration::from_secs(20 * 365 * 86_400);
    /// A host's usual life, and that of a device whose profile is made by hand.
    pub const LEAF: Duration = Duration::from_secs(825 * 86_400);

    /// The life of a device whose certificate can be revoked at once: its client renews nothing, so the end means a walk to the device.
    pub const DEVICE: Duration = Duration::from_secs(10 * 365 * 86_400);

    /// From now (less an hour, for clocks that differ) for `life`, some decades at most.
    #[must_use]
    pub fn from_now(life: Duration) -> Self {
        Self::from(SystemTime::now(), life)
    }

    /// As [`Validity::from_now`], by a clock that is handed in.
    #[must_use]
    pub fn from(now: SystemTime, life: Duration) -> Self {
        Self { not_before: now - BACKDATE, not_after: now + life }
    }
}

/// Why the CA could not do something.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// Making a key or certificate failed.
    #[error("cannot {what}")]
    Generate {
        /// What was to be made.
        what: &'static str,
        /// Why not.
        #[source]
        source: rcgen::Error,
    },
    /// The wanted validity ends before it begins, or lies beyond the year 9999.
    #[error("the wanted validity ends before it begins, or lies beyond the year 9999")]
    Validity,
}

pub(crate) fn generate_error(what: &'static str) -> impl FnOnce(rcgen::Error) -> CaError {
    move |source| CaError::Generate { what, source }
}

/// Whom a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// What the holder may be.
    pub role: Role,
    /// Who the holder is.
    pub name: HostId,
    /// When the certificate is valid.
    pub validity: Validity,
}

/// A certificate and its private key.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate.
    pub cert_pem: String,
    /// The key, PKCS#8.
    pub key_pem: SecretString,
}

/// A certificate authority with its key in memory.
pub struct Ca {
    cert_pem: String,
    key_pem: SecretString,
    issuer: Issuer<'static, KeyPair>,
    ends: SystemTime,
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ca").finish_non_exhaustive()
    }
}

impl Ca {
    /// Makes a new authority with an EC P-256 key. `name` is for people only.
    ///
    /// # Errors
    /// When the validity is not a span of time, or the cryptographic library fails.
    pub fn generate(name: &str, validity: Validity) -> Result<Self, CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(generate_error("make the CA's key"))?;
        let mut params = params(name, validity)?;
        // No intermediate authority is ever issued, so none is allowed.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(generate_error("make the CA's certificate"))?;
        let (cert_pem, key_pem) = (certificate.pem(), key.serialize_pem().into());
        Ok(Self { cert_pem, key_pem, issuer: Issuer::new(params, key), ends: validity.not_after })
    }

    pub(crate) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// The CA's certificate.
    #[must_use]
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// When its own certificate ends, and with it all that it issued.
    #[must_use]
    pub fn ends(&self) -> SystemTime {
        self.ends
    }

    /// Issues a certificate with a new EC P-256 key.
    ///
    /// Edges and homes may act as TLS server and client alike, for either may listen or dial; a device is a client
    /// only.
    ///
    /// # Errors
    /// When the validity is not a span of time, or the cryptographic library fails.
    pub fn issue(&self, subject: &Subject) -> Result<Identity, CaError> {
        let key = PrivateKey::generate()?;
        Ok(Identity { cert_pem: self.certificate(subject, &key.0)?, key_pem: key.to_pem() })
    }

    /// Issues a certificate for the key of a request, whose holder has proved to have the private one. Nothing else of
    /// the request counts. The result is PEM.
    ///
    /// # Errors
    /// When the validity is not a span of time, or the cryptographic library fails.
    pub fn certify(&self, subject: &Subject, request: &CertificateRequest) -> Result<String, CaError> {
        self.certificate(subject, &request.0)
    }

    fn certificate(&self, subject: &Subject, key: &impl PublicKeyData) -> Result<String, CaError> {
        let mut params = params(subject.name.as_str(), subject.validity)?;
        let uri = RoleUri { role: subject.role, name: subject.name.clone() }.to_string();
        params.subject_alt_names = vec![
            SanType::URI(uri.try_into().map_err(generate_error("write the role's name"))?),
            SanType::DnsName(server_name(subject.role).try_into().map_err(generate_error("write the server name"))?),
        ];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match subject.role {
            Role::Edge | Role::Home => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            Role::Device => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        params.use_authority_key_identifier_extension = true;
        // The library would derive it from the key: two certificates of one key could not be told apart in a list of
        // revoked ones. The first byte keeps it positive and of full length.
        let mut serial: [u8; 16] = rand::random();
        serial[0] = serial[0] & 0x7f | 0x40;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let certificate = params.signed_by(key, &self.issuer).map_err(generate_error("sign a certificate"))?;
        Ok(certificate.pem())
    }

    /// Writes the authority into a directory of its own: `ca.crt`, and `ca.key` readable by its owner only. What
    /// the directory held of an earlier authority is replaced in one step.
    ///
    /// # Errors
    /// When the directory holds anything else, or cannot be written.
    pub fn save(&self, dir: &Path) -> Result<(), directory::DirectoryError> {
        directory::replace(
            dir,
            &[
                File { name: file::CA_CERT, content: self.cert_pem.as_bytes(), secret: false },
                File { name: file::CA_KEY, content: self.key_pem.expose_secret().as_bytes(), secret: true },
            ],
        )
    }

    /// Reads what [`Ca::save`] has written.
    ///
    /// # Errors
    /// Naming the file, what is wrong with it and what to do.
    pub fn load(dir: &Path) -> Result<Self, LoadError> {
        let (cert_path, cert_pem) = read(dir, file::CA_CERT)?;
        let (key_path, key_pem) = read(dir, file::CA_KEY)?;
        let key = KeyPair::from_pem(&key_pem).map_err(|source| LoadError::Key { path: key_path, source })?;
        check_belongs(&cert_pem, &cert_pem, &key.subject_public_key_info())
            .map_err(|source| LoadError::Certificate { path: cert_path.clone(), source })?;
        let ends = last_end(&cert_pem).map_err(|source| LoadError::Certificate { path: cert_path.clone(), source })?;
        let issuer = Issuer::from_ca_cert_pem(&cert_pem, key)
            .map_err(|source| LoadError::Authority { path: cert_path, source })?;
        Ok(Self { cert_pem, key_pem: key_pem.into(), issuer, ends })
    }
}

fn params(common_name: &str, validity: Validity) -> Result<CertificateParams, CaError> {
    if validity.not_after <= validity.not_before {
        return Err(CaError::Validity);
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = date(validity.not_before)?;
    params.not_after = date(validity.not_after)?;
    Ok(params)
}

/// Years beyond 9999 have no place in a certificate.
pub(crate) fn date(time: SystemTime) -> Result<OffsetDateTime, CaError> {
    let seconds = match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_secs()),
        Err(before) => i64::try_from(before.duration().as_secs()).map(|seconds| -seconds),
    };
    seconds.ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok()).ok_or(CaError::Validity)
}
