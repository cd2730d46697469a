//! Certificates, key and settings as OpenSSL takes them.

use openssl::pkey::{PKey, Private};
use openssl::ssl::{
    SslContext, SslContextBuilder, SslFiletype, SslMethod, SslOptions, SslSessionCacheMode, SslVersion,
};
use openssl::x509::X509;
use openssl::x509::store::X509Lookup;
use openssl::x509::verify::X509VerifyFlags;
use ovpn::wrap::Role;
use secrecy::ExposeSecret;

use super::TlsError;
use crate::config::{TlsMaterial, TlsVersion, TunnelConfig};

/// What every connection of a tunnel starts from.
pub(super) struct Material {
    /// Who may issue peers' certificates. Empty where fingerprints say whom to take.
    pub(super) authorities: Vec<X509>,
    own: Option<Own>,
    lowest: SslVersion,
    highest: Option<SslVersion>,
}

/// What this end shows. A dialer may show only a password.
struct Own {
    leaf: X509,
    intermediates: Vec<X509>,
    key: PKey<Private>,
}

impl Own {
    fn read(tls: &TlsMaterial) -> Result<Self, TlsError> {
        let mut chain = X509::stack_from_pem(tls.cert_pem.as_bytes()).map_err(TlsError::Certificate)?.into_iter();
        let leaf = chain.next().ok_or(TlsError::Empty("own certificate"))?;
        let key = PKey::private_key_from_pem(tls.key_pem.expose_secret().as_bytes()).map_err(TlsError::Key)?;
        Ok(Self { leaf, intermediates: chain.collect(), key })
    }

    fn show(&self, context: &mut SslContextBuilder) -> Result<(), TlsError> {
        context.set_certificate(&self.leaf).map_err(TlsError::Certificate)?;
        for intermediate in &self.intermediates {
            context.add_extra_chain_cert(intermediate.clone()).map_err(TlsError::Certificate)?;
        }
        context.set_private_key(&self.key).map_err(TlsError::Key)?;
        context.check_private_key().map_err(TlsError::Key)
    }
}

impl Material {
    pub(super) fn read(config: &TunnelConfig, role: Role) -> Result<Self, TlsError> {
        let shows = role == Role::Server || !config.tls.cert_pem.is_empty();
        let this = Self {
            authorities: authorities(&config.tls)?,
            own: if shows { Some(Own::read(&config.tls)?) } else { None },
            lowest: version(config.tls_version_min),
            highest: config.tls_version_max.map(version),
        };
        if this.authorities.is_empty() && config.peer_fingerprints.is_empty() {
            return Err(TlsError::Empty("CA"));
        }
        Ok(this)
    }

    /// The same with other certificates: with authorities where there were some, with an own certificate where there was one.
    pub(super) fn with(&self, tls: &TlsMaterial) -> Result<Self, TlsError> {
        let authorities = authorities(tls)?;
        if authorities.is_empty() && !self.authorities.is_empty() {
            return Err(TlsError::Empty("CA"));
        }
        let own = if self.own.is_some() { Some(Own::read(tls)?) } else { None };
        Ok(Self { authorities, own, ..*self })
    }

    /// What both roles share: no tickets, no resumption, no renegotiation. With `crl`, the path of a file of revocation
    /// lists, every certificate of a peer's chain must be covered by a list that is in force, and not be on it.
    pub(super) fn context(&self, crl: Option<&str>) -> Result<SslContext, TlsError> {
        let mut context = SslContextBuilder::new(SslMethod::tls()).map_err(TlsError::Setup)?;
        for authority in &self.authorities {
            context.add_client_ca(authority).map_err(TlsError::Authority)?;
            context.cert_store_mut().add_cert(authority.clone()).map_err(TlsError::Authority)?;
        }
        if let Some(path) = crl {
            let store = context.cert_store_mut();
            let lookup = store.add_lookup(X509Lookup::file()).map_err(TlsError::Setup)?;
            lookup.load_crl_file(path, SslFiletype::PEM).map_err(TlsError::Setup)?;
            let flags = X509VerifyFlags::CRL_CHECK | X509VerifyFlags::CRL_CHECK_ALL;
            store.set_flags(flags).map_err(TlsError::Setup)?;
        }
        if let Some(own) = &self.own {
            own.show(&mut context)?;
        }
        context.set_min_proto_version(Some(self.lowest)).map_err(TlsError::Setup)?;
        context.set_max_proto_version(self.highest).map_err(TlsError::Setup)?;
        context.set_num_tickets(0).map_err(TlsError::Setup)?;
        context.set_options(SslOptions::NO_TICKET | SslOptions::NO_RENEGOTIATION | SslOptions::NO_COMPRESSION);
        context.set_session_cache_mode(SslSessionCacheMode::OFF);
        Ok(context.build())
    }
}

fn authorities(tls: &TlsMaterial) -> Result<Vec<X509>, TlsError> {
    X509::stack_from_pem(tls.ca_pem.as_bytes()).map_err(TlsError::Authority)
}

fn version(version: TlsVersion) -> SslVersion {
    match version {
        TlsVersion::V1_2 => SslVersion::TLS1_2,
        TlsVersion::V1_3 => SslVersion::TLS1_3,
    }
}
