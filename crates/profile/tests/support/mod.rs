//! A device's profile out of texts that look like keys and certificates.

use profile::{Cipher, DeviceIdentity, DeviceNetwork, DeviceProfile, DeviceRemote, DeviceWrapping, TlsVersion};

pub(crate) const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nMIIBnotreal+/==\n-----END CERTIFICATE-----\n";
pub(crate) const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMIIEnotrealkey==\n-----END PRIVATE KEY-----\n";

pub(crate) fn tls_crypt_v2_key() -> String {
    let label = "OpenVPN tls-crypt-v2 client key";
    format!("-----BEGIN {label}-----\nbm90IHJlYWwgZWl0aGVy\n-----END {label}-----\n")
}

pub(crate) fn device() -> DeviceProfile {
    let remote = |host: &str, port, tcp| DeviceRemote { host: host.to_owned(), port, tcp };
    DeviceProfile {
        remotes: vec![remote("vpn.example.net", 1194, false), remote("2001:db8::1", 443, true)],
        server_name: "edge one".to_owned(),
        data_ciphers: vec![Cipher::ChaCha20Poly1305, Cipher::Aes256Gcm],
        tls_version_min: TlsVersion::V1_3,
        ca_pem: CERTIFICATE.to_owned(),
        identity: Some(DeviceIdentity { cert_pem: CERTIFICATE.repeat(2), key_pem: KEY.into() }),
        ask_password: false,
        wrapping: DeviceWrapping::TlsCryptV2(tls_crypt_v2_key().into()),
        network: DeviceNetwork::default(),
    }
}
