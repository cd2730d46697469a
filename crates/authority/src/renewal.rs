//! A home gets a successor of its certificate before that ends.

use std::time::{Duration, SystemTime};

use model::Role;
use pki::{CertificateRequest, Serial, Validity};
use secrecy::SecretString;

use crate::{Authority, AuthorityError};

/// A home needs one in years. One that gets so many within [`WITHIN`] does something wrong, or is not the home.
const MOST: usize = 8;
/// See [`MOST`].
const WITHIN: Duration = Duration::from_secs(86_400);

/// Why a certificate gets no successor.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// It is not one that this authority issued to a home.
    #[error("certificate {0} is none that this authority issued to a home: join again with a new code")]
    Unknown(Serial),
    /// It counts no more.
    #[error("certificate {0} has been revoked: join again with a new code")]
    Revoked(Serial),
    /// It has ended.
    #[error("certificate {0} is not valid by this edge's clock: join again with a new code")]
    Ended(Serial),
    /// It got too many.
    #[error("this home got {MOST} certificates within a day: look why, and try again tomorrow")]
    TooMany,
    /// The authority failed.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

/// What takes the place of what a home has.
#[derive(Debug)]
pub struct Renewed {
    /// Its certificate.
    pub cert_pem: String,
    /// Its tls-crypt-v2 client key, the whole file's text.
    pub client_key: SecretString,
}

impl Authority {
    /// Issues a successor of the certificate with the number `serial`, which whoever asks has just proved to hold: to the same
    /// home, for the key of the request. The one before counts on until it ends, because the answer can get lost.
    ///
    /// # Errors
    /// When that certificate is not a home's, or counts no more; when there were too many, or the authority fails.
    pub fn renew(
        &mut self,
        serial: &Serial,
        request: &CertificateRequest,
        now: SystemTime,
    ) -> Result<Renewed, RenewError> {
        let issued = self.issued()?;
        let known = issued.iter().find(|issued| issued.serial == *serial && issued.holder.role == Role::Home);
        let known = known.ok_or_else(|| RenewError::Unknown(serial.clone()))?;
        if known.revoked.is_some() {
            return Err(RenewError::Revoked(serial.clone()));
        }
        if !known.counts_at(now) {
            return Err(RenewError::Ended(serial.clone()));
        }
        let lately = |begun: SystemTime| now.duration_since(begun).is_ok_and(|age| age < WITHIN);
        if issued.iter().filter(|other| other.holder == known.holder && lately(other.not_before)).count() >= MOST {
            return Err(RenewError::TooMany);
        }
        let home = known.holder.name.clone();
        let cert_pem = self.certify(request, Role::Home, &home, Validity::LEAF, now)?;
        Ok(Renewed { cert_pem, client_key: self.client_key(now)? })
    }
}
