//! The authority's list of revoked certificates.

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use crate::ca::{BACKDATE, Ca, CaError, date, generate_error};
use crate::certificate::{CertificateError, check_issued, first_in_pem, parse};

/// The number that an authority gave to one of its certificates. Written in hexadecimal digits, as `openssl x509 -serial`
/// does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Serial(Vec<u8>);

/// A text is no [`Serial`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a serial number is 1 to 40 hexadecimal digits, as `openssl x509 -noout -serial` prints them; colons may divide them"
)]
pub struct InvalidSerial;

impl Serial {
    /// The number of the first certificate in a PEM text, which `ca_pem` must have issued.
    ///
    /// # Errors
    /// When there is none, or another authority's.
    pub fn of(cert_pem: &str, ca_pem: &str) -> Result<Self, CertificateError> {
        check_issued(cert_pem, ca_pem)?;
        let der = first_in_pem(cert_pem)?;
        Ok(Self::new(parse(&der)?.raw_serial()))
    }

    /// The number of a certificate, whoever issued it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of_der(certificate: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        Ok(Self::new(parse(certificate)?.raw_serial()))
    }

    pub(crate) fn new(bytes: &[u8]) -> Self {
        let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
        Self(bytes.get(zeros..).unwrap_or_default().to_vec())
    }
}

impl FromStr for Serial {
    type Err = InvalidSerial;

    fn from_str(text: &str) -> Result<Self, InvalidSerial> {
        let digits: Vec<u8> = text.bytes().filter(|&byte| byte != b':').collect();
        let even = digits.len().div_ceil(2) * 2;
        let padded = std::iter::repeat_n(b'0', even - digits.len()).chain(digits.iter().copied()).collect::<Vec<_>>();
        let value = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
        let byte = |pair: &[u8]| Some(value(*pair.first()?)? << 4 | value(*pair.get(1)?)?);
        let bytes: Option<Vec<u8>> = padded.chunks(2).map(byte).collect();
        bytes.filter(|bytes| (1..=20).contains(&bytes.len())).map(|bytes| Self::new(&bytes)).ok_or(InvalidSerial)
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("00");
        }
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02X}"))
    }
}

/// Why a list cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RevocationError {
    /// The text holds no list.
    #[error("it holds no PEM list of revoked certificates (X509 CRL)")]
    NotPem(#[source] rustls_pki_types::pem::Error),
    /// The bytes are none.
    #[error("not a list of revoked certificates: {0}")]
    NotCrl(String),
    /// The authority's own certificate is the trouble.
    #[error("the authority's certificate cannot be used")]
    Authority(#[source] CertificateError),
    /// Another authority signed it.
    #[error("it was not signed by this authority")]
    OtherCa,
    /// There is a newer one.
    #[error("it is older than the one that is in force: who was revoked since then would count again")]
    Older,
    /// Its time is over.
    #[error("its time is over: whoever keeps to it refuses everybody")]
    Ended,
}

/// Which certificates of an authority count no more, although their time is not over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RevocationList {
    /// Of the list as it was signed last; 0 if it never was.
    number: u64,
    entries: Vec<(Serial, SystemTime)>,
}

impl RevocationList {
    /// How long a signed list is good. When it has ended, everybody who reads it refuses everybody.
    pub const LIFE: Duration = Duration::from_secs(365 * 86_400);

    /// Reads a list of the authority.
    ///
    /// # Errors
    /// When it is none, or of another authority.
    pub fn from_pem(pem: &str, ca_pem: &str) -> Result<Self, RevocationError> {
        let der = CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).map_err(RevocationError::NotPem)?;
        let list = match CertificateRevocationList::from_der(&der) {
            Ok(([], list)) => list,
            Ok(_) => return Err(RevocationError::NotCrl("bytes follow it".to_owned())),
            Err(error) => return Err(RevocationError::NotCrl(error.to_string())),
        };
        let ca_der = first_in_pem(ca_pem).map_err(RevocationError::Authority)?;
        let ca = parse(&ca_der).map_err(RevocationError::Authority)?;
        if list.issuer() != ca.subject() || list.verify_signature(ca.public_key()).is_err() {
            return Err(RevocationError::OtherCa);
        }
        let number = list.crl_number().and_then(|number| u64::try_from(number).ok()).unwrap_or_default();
        let entries = list.iter_revoked_certificates().map(|entry| {
            let at = SystemTime::from(entry.revocation_date.to_datetime());
            (Serial::new(entry.raw_serial()), at)
        });
        Ok(Self { number, entries: entries.collect() })
    }

    /// Adds a certificate; false if it is there already.
    pub fn revoke(&mut self, serial: Serial, at: SystemTime) -> bool {
        if self.is_revoked(&serial) {
            return false;
        }
        self.entries.push((serial, at));
        true
    }

    /// Whether a certificate is on it.
    #[must_use]
    pub fn is_revoked(&self, serial: &Serial) -> bool {
        self.entries.iter().any(|(listed, _)| listed == serial)
    }

    /// Since when a certificate counts no more.
    #[must_use]
    pub fn revoked_at(&self, serial: &Serial) -> Option<SystemTime> {
        self.entries.iter().find(|(listed, _)| listed == serial).map(|&(_, at)| at)
    }

    /// How many certificates are on it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is on it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Puts a signed list at `path` in one step, readable by all: it is no secret.
    ///
    /// # Errors
    /// When the directory cannot be written; what was there stays.
    pub fn save(pem: &str, path: &Path) -> io::Result<()> {
        let dir = path.parent().filter(|dir| *dir != Path::new("")).unwrap_or(Path::new("."));
        let mut new = tempfile::Builder::new().prefix(".cloudathome-new-").tempfile_in(dir)?;
        new.write_all(pem.as_bytes())?;
        new.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
        new.as_file().sync_all()?;
        new.persist(path).map_err(|error| error.error)?;
        fs::File::open(dir)?.sync_all()
    }
}

impl Ca {
    /// Signs a list, good from `now` (less an hour, for clocks that differ) for `life`, and counts its number up. The
    /// result is PEM.
    ///
    /// # Errors
    /// When its life is no span of time, or the cryptographic library fails.
    pub fn sign_list(&self, list: &mut RevocationList, now: SystemTime, life: Duration) -> Result<String, CaError> {
        let entries = list.entries.iter().map(|(serial, at)| {
            Ok(RevokedCertParams {
                serial_number: SerialNumber::from_slice(&serial.0),
                revocation_time: date(*at)?,
                reason_code: None,
                invalidity_date: None,
            })
        });
        let params = CertificateRevocationListParams {
            this_update: date(now - BACKDATE)?,
            next_update: date(now + life)?,
            crl_number: SerialNumber::from(list.number + 1),
            issuing_distribution_point: None,
            revoked_certs: entries.collect::<Result<_, CaError>>()?,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let sign = || params.signed_by(self.issuer())?.pem();
        let pem = sign().map_err(generate_error("sign the list of revoked certificates"))?;
        list.number += 1;
        Ok(pem)
    }
}
