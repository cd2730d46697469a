//! Which certificates count no more, by the lists of all authorities that a host trusts.

use std::collections::{BTreeMap, HashSet};
use std::time::SystemTime;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use crate::certificate::{parse, system_time};
use crate::revocation::{RevocationError, Serial};

/// What the lists of the authorities say together. Of two authorities each speaks for the certificates of both: serial numbers
/// are random.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revoked {
    serials: HashSet<Serial>,
    ends: Option<SystemTime>,
    /// The numbers of the lists, by their authorities' names (DER).
    numbers: BTreeMap<Vec<u8>, u64>,
}

impl Revoked {
    /// Reads PEM lists, each signed by one of the authorities in `ca_pem`. Lists of others are passed over.
    ///
    /// # Errors
    /// When a list cannot be read, one in the name of a trusted authority is not signed by it, or none is of any.
    pub fn from_pem(lists: &str, ca_pem: &str) -> Result<Self, RevocationError> {
        let authorities = CertificateDer::pem_slice_iter(ca_pem.as_bytes());
        let authorities = authorities.collect::<Result<Vec<_>, _>>().map_err(RevocationError::NotPem)?;
        let authorities =
            authorities.iter().map(parse).collect::<Result<Vec<_>, _>>().map_err(RevocationError::Authority)?;
        let mut this = Self::default();
        let mut any = false;
        for der in CertificateRevocationListDer::pem_slice_iter(lists.as_bytes()) {
            any |= this.add(&der.map_err(RevocationError::NotPem)?, &authorities)?;
        }
        if any { Ok(this) } else { Err(RevocationError::OtherCa) }
    }

    /// Adds what a list says; false when it is of an authority that is not known.
    fn add(
        &mut self,
        der: &CertificateRevocationListDer<'_>,
        authorities: &[X509Certificate<'_>],
    ) -> Result<bool, RevocationError> {
        let list = match CertificateRevocationList::from_der(der) {
            Ok(([], list)) => list,
            Ok(_) => return Err(RevocationError::NotCrl("bytes follow it".to_owned())),
            Err(error) => return Err(RevocationError::NotCrl(error.to_string())),
        };
        let mut named = authorities.iter().filter(|authority| authority.subject() == list.issuer()).peekable();
        if named.peek().is_none() {
            return Ok(false);
        }
        if !named.any(|authority| list.verify_signature(authority.public_key()).is_ok()) {
            return Err(RevocationError::OtherCa);
        }
        let number = list.crl_number().map(|number| u64::try_from(number).unwrap_or(u64::MAX)).unwrap_or_default();
        let known = self.numbers.entry(list.issuer().as_raw().to_vec()).or_default();
        *known = number.max(*known);
        self.serials.extend(list.iter_revoked_certificates().map(|entry| Serial::new(entry.raw_serial())));
        let end = list.next_update().and_then(|end| system_time(end.timestamp()).ok());
        self.ends = [self.ends, end].into_iter().flatten().min();
        Ok(true)
    }

    /// Whether these lists may take the place of others at a time: they have not ended, and no authority has a newer one there.
    ///
    /// # Errors
    /// [`RevocationError::Older`] or [`RevocationError::Ended`].
    pub fn check_successor_of(&self, before: &Self, now: SystemTime) -> Result<(), RevocationError> {
        if self.ends.is_some_and(|end| end <= now) {
            return Err(RevocationError::Ended);
        }
        let older = |(name, number): (&Vec<u8>, &u64)| self.numbers.get(name).is_none_or(|ours| ours < number);
        if before.numbers.iter().any(older) { Err(RevocationError::Older) } else { Ok(()) }
    }

    /// Whether a certificate is on one of the lists. What is no certificate is.
    #[must_use]
    pub fn contains(&self, certificate: &CertificateDer<'_>) -> bool {
        parse(certificate).map_or(true, |certificate| self.serials.contains(&Serial::new(certificate.raw_serial())))
    }

    /// When the first of the lists ends, if any says so.
    #[must_use]
    pub fn ends(&self) -> Option<SystemTime> {
        self.ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate::first_in_pem;
    use crate::{Ca, RevocationList, Subject, Validity};
    use model::Role;

    #[test]
    fn lists_of_all_trusted_authorities_count() {
        let ca = |name| Ca::generate(name, Validity::from_now(Validity::CA)).unwrap();
        let (old, new, other) = (ca("old"), ca("new"), ca("other"));
        let issue = |ca: &Ca| {
            let name = "attic".parse().unwrap();
            let validity = Validity::from_now(Validity::LEAF);
            ca.issue(&Subject { role: Role::Home, name, validity }).unwrap().cert_pem
        };
        let list = |ca: &Ca, revoked: &[&str]| {
            let mut list = RevocationList::default();
            for pem in revoked {
                list.revoke(Serial::of(pem, ca.cert_pem()).unwrap(), SystemTime::now());
            }
            ca.sign_list(&mut list, SystemTime::now(), RevocationList::LIFE).unwrap()
        };
        let (first, second, third) = (issue(&old), issue(&new), issue(&new));
        let trusted = format!("{}{}", old.cert_pem(), new.cert_pem());
        let lists = list(&old, &[&first]) + &list(&other, &[]) + &list(&new, &[&second]);
        let revoked = Revoked::from_pem(&lists, &trusted).unwrap();
        let is_revoked = |pem| revoked.contains(&first_in_pem(pem).unwrap());
        assert_eq!([&first, &second, &third].map(|pem| is_revoked(pem)), [true, true, false]);
        assert!(revoked.ends().is_some_and(|end| end > SystemTime::now()));
        for bad in [list(&other, &[]), String::new(), "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n".into()]
        {
            assert!(Revoked::from_pem(&bad, &trusted).is_err(), "{bad}");
        }
        // One may be signed anew, and not be taken back, nor left out.
        let mut ours = RevocationList::default();
        let mut sign = |now| old.sign_list(&mut ours, now, RevocationList::LIFE).unwrap();
        let now = SystemTime::now();
        let read = |lists: &str| Revoked::from_pem(lists, &trusted).unwrap();
        let (one, two) = (sign(now), sign(now));
        let (early, late) = (read(&one), read(&(two.clone() + &list(&new, &[]))));
        assert!(late.check_successor_of(&early, now).is_ok() && late.check_successor_of(&late, now).is_ok());
        assert!(matches!(early.check_successor_of(&late, now), Err(RevocationError::Older)));
        assert!(matches!(read(&two).check_successor_of(&late, now), Err(RevocationError::Older)));
        let ended = read(&sign(now - 2 * RevocationList::LIFE));
        assert!(matches!(ended.check_successor_of(&early, now), Err(RevocationError::Ended)));
        // In the name of one and signed by another.
        assert!(Revoked::from_pem(&list(&ca("old"), &[]), &trusted).is_err());
    }
}
