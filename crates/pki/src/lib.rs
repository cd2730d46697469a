//! Identities: the private CA, host and device certificates, tls-crypt keys.
