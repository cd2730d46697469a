//! What peers' certificates must be, and the clock that says when they are valid.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

/// Whose certificate a peer must show (`verify-x509-name`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameCheck {
    /// It has this common name, or this URI among its subject alternative names.
    Name(String),
    /// Its common name begins so.
    Prefix(String),
    /// Its subject reads so in the form of stock OpenVPN, as in `C=KG, ST=NA, O=Example, CN=server`: in the
    /// certificate's order, divided by `, `.
    Subject(String),
}

/// SHA-256 of a certificate in DER. Written as in `openssl x509 -fingerprint -sha256`: 32 pairs of hexadecimal digits
/// divided by colons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

/// A text is no [`Fingerprint`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a fingerprint is 32 pairs of hexadecimal digits divided by colons, as `openssl x509 -fingerprint -sha256` prints them"
)]
pub struct FingerprintError;

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let mut bytes = [0; 32];
        let mut pairs = text.split(':');
        for byte in &mut bytes {
            let pair =
                pairs.next().filter(|pair| pair.len() == 2 && pair.bytes().all(|digit| digit.is_ascii_hexdigit()));
            *byte = u8::from_str_radix(pair.ok_or(FingerprintError)?, 16).map_err(|_| FingerprintError)?;
        }
        if pairs.next().is_some() { Err(FingerprintError) } else { Ok(Self(bytes)) }
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(":")?;
            }
            write!(f, "{byte:02X}")?;
        }
        Ok(())
    }
}

/// Where the time comes from at which certificates and revocation lists are judged.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

impl Clock {
    /// A clock that is read by calling `read`, which must not block.
    pub fn new(read: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    pub(crate) fn now(&self) -> SystemTime {
        (self.0)()
    }
}

impl Default for Clock {
    /// The clock of this host.
    fn default() -> Self {
        Self::new(SystemTime::now)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_read_and_written() {
        let text = (0..32).map(|byte| format!("{:02X}", byte * 7)).collect::<Vec<_>>().join(":");
        let fingerprint: Fingerprint = text.parse().unwrap();
        assert_eq!(fingerprint.to_string(), text);
        assert_eq!(text.to_lowercase().parse(), Ok(fingerprint));
        for bad in
            ["", &text[1..], &text[3..], &format!("{text}:00"), &text.replace(':', ""), &text.replacen("00", "+1", 1)]
        {
            assert_eq!(bad.parse::<Fingerprint>(), Err(FingerprintError), "{bad}");
        }
    }
}
