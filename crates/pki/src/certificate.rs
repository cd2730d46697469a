//! Reading certificates of ours.

use std::time::{Duration, SystemTime};

use model::{Role, RoleUri};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// Why a certificate is not one of ours, or cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The text holds no PEM certificate.
    #[error("no PEM certificate found")]
    NotPem(#[source] rustls_pki_types::pem::Error),
    /// The bytes are no X.509 certificate.
    #[error("not an X.509 certificate: {0}")]
    NotX509(String),
    /// It has no URI among its subject alternative names, or several.
    #[error("it carries {0} URI names instead of the one that says its role")]
    UriCount(usize),
    /// The one URI is not a role.
    #[error("its URI name grants no role")]
    Role(#[source] model::InvalidName),
    /// A time in it cannot be expressed.
    #[error("its validity lies outside of the times this system can express")]
    Time,
    /// It is not valid yet.
    #[error("it becomes valid only in {}: check this host's clock", in_words(*.wait))]
    NotYetValid {
        /// How long until then.
        wait: Duration,
    },
    /// It has expired.
    #[error("it expired {} ago: issue a new one, or check this host's clock", in_words(*.since))]
    Expired {
        /// How long ago.
        since: Duration,
    },
    /// Its signature was not made by the CA.
    #[error("it was not issued by this CA")]
    OtherCa,
    /// It belongs to another private key.
    #[error("it does not belong to this private key")]
    OtherKey,
}

/// The DNS name that every certificate of a role carries, for TLS clients that must verify some name.
#[must_use]
pub fn server_name(role: Role) -> String {
    format!("{role}.cloudathome.internal")
}

/// The first certificate of a PEM text.
///
/// # Errors
/// When there is none.
pub fn certificate_der(pem: &str) -> Result<CertificateDer<'static>, CertificateError> {
    first_in_pem(pem)
}

/// What the holder of a certificate is and who, by its only URI name. The signature is not looked at: that is
/// the TLS handshake's part.
///
/// # Errors
/// When the certificate cannot be read, or carries anything but exactly one URI name, which must be a role.
pub fn role_of(certificate: &CertificateDer<'_>) -> Result<RoleUri, CertificateError> {
    role_in(&parse(certificate)?)
}

/// What we want to know of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateInfo {
    /// The holder's role and name.
    pub role: RoleUri,
    /// Valid from.
    pub not_before: SystemTime,
    /// Valid until.
    pub not_after: SystemTime,
}

impl CertificateInfo {
    /// Reads the first certificate of a PEM text.
    ///
    /// # Errors
    /// When there is none, or it is not one of ours.
    pub fn from_pem(pem: &str) -> Result<Self, CertificateError> {
        Self::from_der(&first_in_pem(pem)?)
    }

    /// Reads a DER certificate.
    ///
    /// # Errors
    /// When it is not one of ours.
    pub fn from_der(certificate: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        let certificate = parse(certificate)?;
        let validity = certificate.validity();
        Ok(Self {
            role: role_in(&certificate)?,
            not_before: system_time(validity.not_before.timestamp())?,
            not_after: system_time(validity.not_after.timestamp())?,
        })
    }

    /// When it is time for a successor: at two thirds of its life, so that a third is left in which attempts may fail.
    #[must_use]
    pub fn renew_at(&self) -> SystemTime {
        let life = self.not_after.duration_since(self.not_before).unwrap_or_default();
        self.not_before + life / 3 * 2
    }

    /// Whether it is valid at a time.
    ///
    /// # Errors
    /// [`CertificateError::NotYetValid`] or [`CertificateError::Expired`].
    pub fn check_valid_at(&self, now: SystemTime) -> Result<(), CertificateError> {
        if let Ok(wait) = self.not_before.duration_since(now)
            && !wait.is_zero()
        {
            return Err(CertificateError::NotYetValid { wait });
        }
        match now.duration_since(self.not_after) {
            Ok(since) if !since.is_zero() => Err(CertificateError::Expired { since }),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

/// Checks that `leaf` was signed by one of the authorities in `ca` and belongs to the public key `spki` (DER), all of them as given on disk.
pub(crate) fn check_belongs(leaf_pem: &str, ca_pem: &str, spki: &[u8]) -> Result<(), CertificateError> {
    check_issued(leaf_pem, ca_pem)?;
    let leaf_der = first_in_pem(leaf_pem)?;
    if parse(&leaf_der)?.public_key().raw != spki {
        return Err(CertificateError::OtherKey);
    }
    Ok(())
}

/// Checks that `leaf` was signed by one of the authorities in `ca_pem`.
pub(crate) fn check_issued(leaf_pem: &str, ca_pem: &str) -> Result<(), CertificateError> {
    let leaf_der = first_in_pem(leaf_pem)?;
    let leaf = parse(&leaf_der)?;
    for ca_der in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        let ca_der = ca_der.map_err(CertificateError::NotPem)?;
        let ca = parse(&ca_der)?;
        if leaf.issuer() == ca.subject() && leaf.verify_signature(Some(ca.public_key())).is_ok() {
            return Ok(());
        }
    }
    // For a text without any.
    first_in_pem(ca_pem)?;
    Err(CertificateError::OtherCa)
}

pub(crate) fn first_in_pem(pem: &str) -> Result<CertificateDer<'static>, CertificateError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(CertificateError::NotPem)
}

/// When the last of the certificates in a PEM text ends, of whatever kind they are.
pub(crate) fn last_end(pem: &str) -> Result<SystemTime, CertificateError> {
    let mut last = None;
    for der in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let der = der.map_err(CertificateError::NotPem)?;
        last = last.max(Some(system_time(parse(&der)?.validity().not_after.timestamp())?));
    }
    match last {
        Some(last) => Ok(last),
        None => first_in_pem(pem).and(Err(CertificateError::Time)),
    }
}

pub(crate) fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, CertificateError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(CertificateError::NotX509("bytes follow it".to_owned())),
        Err(error) => Err(CertificateError::NotX509(error.to_string())),
    }
}

fn role_in(certificate: &X509Certificate<'_>) -> Result<RoleUri, CertificateError> {
    let names = certificate.subject_alternative_name().map_err(|error| CertificateError::NotX509(error.to_string()))?;
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
        .collect();
    match uris.as_slice() {
        [uri] => uri.parse().map_err(CertificateError::Role),
        _ => Err(CertificateError::UriCount(uris.len())),
    }
}

pub(crate) fn system_time(unix: i64) -> Result<SystemTime, CertificateError> {
    let distance = Duration::from_secs(unix.unsigned_abs());
    let time = if unix < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    };
    time.ok_or(CertificateError::Time)
}

fn in_words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..120 => format!("{seconds} seconds"),
        120..7_200 => format!("{} minutes", seconds / 60),
        7_200..172_800 => format!("{} hours", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}
