//! A key that never leaves its host, and the request for a certificate that proves to have it.

use rcgen::{
    CertificateParams, CertificateSigningRequestParams, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKey, PublicKeyData,
};
use secrecy::SecretString;

use crate::ca::{CaError, generate_error};

/// Length of an uncompressed point of P-256, and its first byte (SEC 1, 2.3.3).
const POINT: (usize, u8) = (65, 4);

/// An EC P-256 private key.
pub struct PrivateKey(pub(crate) KeyPair);

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PrivateKey").finish_non_exhaustive()
    }
}

impl PrivateKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn generate() -> Result<Self, CaError> {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map(Self).map_err(generate_error("make a key"))
    }

    /// Reads what [`PrivateKey::to_pem`] wrote.
    ///
    /// # Errors
    /// When it is no private key.
    pub fn from_pem(pem: &str) -> Result<Self, CaError> {
        KeyPair::from_pem(pem).map(Self).map_err(generate_error("read a key"))
    }

    /// The key, PKCS#8.
    #[must_use]
    pub fn to_pem(&self) -> SecretString {
        self.0.serialize_pem().into()
    }

    /// A request for a certificate (PKCS#10, PEM), signed with the key. It names nobody: who the holder is, the authority
    /// knows.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn request(&self) -> Result<String, CaError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let sign = || params.serialize_request(&self.0)?.pem();
        sign().map_err(generate_error("sign a request for a certificate"))
    }
}

/// Why a request cannot be granted.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// It is none, or its signature is not by the key it names.
    #[error("it is no PEM request for a certificate that its own key has signed")]
    Unusable(#[source] rcgen::Error),
    /// Its key is of another kind.
    #[error("its key is not on the curve P-256")]
    Kind,
}

/// A request whose sender has proved to hold the private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRequest(pub(crate) PublicKey);

impl CertificateRequest {
    /// Reads a request and checks its signature.
    ///
    /// # Errors
    /// When it is none, is not signed by its own key, or its key is not on P-256.
    pub fn from_pem(pem: &str) -> Result<Self, RequestError> {
        let key = CertificateSigningRequestParams::from_pem(pem).map_err(RequestError::Unusable)?.public_key;
        // The library tells curves apart by the signature's algorithm, which does not say the curve.
        let point = (key.der_bytes().len(), key.der_bytes().first().copied().unwrap_or_default());
        if key.algorithm() != &PKCS_ECDSA_P256_SHA256 || point != POINT {
            return Err(RequestError::Kind);
        }
        Ok(Self(key))
    }

    /// The public key, as an uncompressed point.
    #[must_use]
    pub fn public_key(&self) -> &[u8] {
        self.0.der_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

    #[test]
    fn a_request_proves_the_key() {
        let key = PrivateKey::generate().unwrap();
        let pem = key.request().unwrap();
        let request = CertificateRequest::from_pem(&pem).unwrap();
        assert_eq!(request.public_key(), key.0.public_key_raw());
        let again = PrivateKey::from_pem(secrecy::ExposeSecret::expose_secret(&key.to_pem())).unwrap();
        assert_eq!(again.0.public_key_raw(), key.0.public_key_raw());
        assert!(PrivateKey::from_pem("nothing").is_err());

        // One that somebody else changed is none.
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let other = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().der().to_vec();
        let mut forged = other.clone();
        *forged.last_mut().unwrap() ^= 1;
        for der in [forged, other[..other.len() - 1].to_vec(), vec![]] {
            let pem =
                format!("-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n", base64(&der));
            assert!(matches!(CertificateRequest::from_pem(&pem), Err(RequestError::Unusable(_))));
        }
        assert!(matches!(CertificateRequest::from_pem("nothing"), Err(RequestError::Unusable(_))));
    }

    #[test]
    fn other_curves_are_refused() {
        for kind in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
            let key = PrivateKey(KeyPair::generate_for(kind).unwrap());
            assert!(CertificateRequest::from_pem(&key.request().unwrap()).is_err());
        }
    }

    fn base64(bytes: &[u8]) -> String {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::new();
        for chunk in bytes.chunks(3) {
            let n = chunk.iter().fold(0_u32, |n, &byte| n << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
            for at in 0..4 {
                let digit = ALPHABET[(n >> (18 - 6 * at)) as usize & 63];
                text.push(if at <= chunk.len() { char::from(digit) } else { '=' });
            }
        }
        text
    }
}
