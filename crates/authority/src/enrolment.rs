//! Letting a home in: a code is made, and redeemed for an identity.

use std::time::{Duration, SystemTime};

use model::{HostId, Role};
use pki::{CertificateRequest, Validity};
use secrecy::SecretString;

use crate::code::{Fingerprint, JoinCode, Place, Secret};
use crate::codes::{CodeInfo, CodesError, Refusal};
use crate::{Authority, AuthorityError};

/// A code that was made. Only this shows its secret.
#[derive(Debug)]
pub struct NewCode {
    /// What is kept of it.
    pub info: CodeInfo,
    /// The code.
    pub code: JoinCode,
}

/// Why a code could not be made or ended.
#[derive(Debug, thiserror::Error)]
pub enum CodeFailure {
    /// It may not be.
    #[error(transparent)]
    Refused(#[from] CodesError),
    /// The authority failed.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

/// Why somebody was not let in.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The code does not.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The authority failed.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

/// A home's new identity, but for its private key, which it has already.
#[derive(Debug)]
pub struct Enrolled {
    /// Its name.
    pub home: HostId,
    /// Its certificate.
    pub cert_pem: String,
    /// The CA's certificate.
    pub ca_pem: String,
    /// Its tls-crypt-v2 client key, the whole file's text.
    pub client_key: SecretString,
}

impl Authority {
    /// Makes a join code for the home of a name, good from `now` for `life` (at most [`crate::MAX_LIFE`]). `place` is where
    /// the edge takes it.
    ///
    /// # Errors
    /// When too many are open, `life` is too long, or it cannot be stored.
    pub fn new_code(
        &mut self,
        home: &HostId,
        place: Place,
        life: Duration,
        now: SystemTime,
    ) -> Result<NewCode, CodeFailure> {
        let secret = Secret::random();
        let info = self.codes.add(&secret, home, life, now)?;
        self.store_codes()?;
        Ok(NewCode { info, code: JoinCode { place, fingerprint: self.fingerprint()?, secret } })
    }

    /// By what a home knows the edge of this authority.
    fn fingerprint(&self) -> Result<Fingerprint, AuthorityError> {
        let der = pki::certificate_der(self.ca_pem());
        let der = der.map_err(|source| AuthorityError::Certificate { path: self.dir.clone(), source })?;
        Ok(Fingerprint::of(&der))
    }

    /// The codes that are open or have ended within the last week, without their secrets.
    #[must_use]
    pub fn codes(&self, now: SystemTime) -> Vec<CodeInfo> {
        self.codes.infos(now)
    }

    /// Makes an open code let nobody in.
    ///
    /// # Errors
    /// When there is no such code, it has ended, or that cannot be stored.
    pub fn revoke_code(&mut self, id: &str, now: SystemTime) -> Result<CodeInfo, CodeFailure> {
        let info = self.codes.revoke(id, now)?;
        self.store_codes()?;
        Ok(info)
    }

    /// Redeems a code for an identity. The code is used up by it, but whoever holds the key of the request may ask
    /// again while the code lives. Identities that a home of this name had before count no more: the new host takes its
    /// place.
    ///
    /// # Errors
    /// [`EnrolError::Refused`] with the reason, or when the authority fails. A code that could not be stored as used
    /// lets nobody in.
    pub fn enrol(
        &mut self,
        secret: &Secret,
        request: &CertificateRequest,
        now: SystemTime,
    ) -> Result<Enrolled, EnrolError> {
        let home = self.codes.redeem(secret, request.public_key(), now)?;
        self.store_codes()?;
        let before = self.unrevoked(Role::Home, &home)?;
        let cert_pem = self.certify(request, Role::Home, &home, Validity::LEAF, now)?;
        if !before.is_empty() {
            self.revoke(&before, now)?;
        }
        Ok(Enrolled { home, cert_pem, ca_pem: self.ca_pem().to_owned(), client_key: self.client_key(now)? })
    }

    /// What is not on disk does not count either.
    fn store_codes(&mut self) -> Result<(), AuthorityError> {
        self.codes_file.store(&self.codes).inspect_err(|_| {
            self.codes = self.codes_file.load().ok().flatten().unwrap_or_default();
        })?;
        Ok(())
    }
}
