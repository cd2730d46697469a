//! What a peer's certificate must be, at a time that is given.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use openssl::asn1::{Asn1Time, Asn1TimeRef};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::ssl::{SslRef, SslVerifyMode};
use openssl::x509::{X509ExtendedKeyUsage, X509NameRef, X509Ref, X509StoreContextRef, X509VerifyResult};
use ovpn::endpoint::Identity;
use ovpn::wrap::Role;

use crate::certificates::{Fingerprint, NameCheck};
use crate::config::CertificateDemand;

/// Numbers of OpenSSL's verification errors (`x509_vfy.h`) that need more words than OpenSSL has, or that do not count
/// where a fingerprint says whom to take.
mod code {
    pub(super) const NO_ISSUER: i32 = 2;
    pub(super) const NOT_YET_VALID: i32 = 9;
    pub(super) const EXPIRED: i32 = 10;
    pub(super) const SELF_SIGNED: i32 = 18;
    pub(super) const SELF_SIGNED_ROOT: i32 = 19;
    pub(super) const NO_LOCAL_ISSUER: i32 = 20;
    pub(super) const LEAF_NOT_VERIFIED: i32 = 21;
    pub(super) const UNTRUSTED: i32 = 27;
}

/// What a peer's certificate must be.
#[derive(Debug)]
pub(super) struct PeerCheck {
    pub(super) role: Role,
    /// Whether it must be marked for its role.
    pub(super) marked: bool,
    pub(super) name: Option<NameCheck>,
    /// It must have one of these, unless there are none.
    pub(super) fingerprints: Vec<Fingerprint>,
    /// Whether it must chain to an authority.
    pub(super) has_authority: bool,
    /// Whether there must be one at all.
    pub(super) demand: CertificateDemand,
}

/// Why a handshake was refused, left by OpenSSL's callback for whoever waits for the handshake.
pub(super) type Refusal = Arc<Mutex<Option<String>>>;

impl PeerCheck {
    /// Has a connection judge its peer as of `now`. The place that is given says afterwards why a peer was refused.
    pub(super) fn install(self: &Arc<Self>, ssl: &mut SslRef, now: SystemTime) -> Refusal {
        ssl.param_mut().set_time(unix(now));
        let (check, refusal) = (Arc::clone(self), Refusal::default());
        let place = Arc::clone(&refusal);
        let mode = match self.demand {
            CertificateDemand::Required => SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT,
            CertificateDemand::Optional => SslVerifyMode::PEER,
            CertificateDemand::None => SslVerifyMode::NONE,
        };
        ssl.set_verify_callback(mode, move |good, context| {
            let verdict = check.judge(good, context, now);
            let taken = verdict.is_ok();
            match verdict {
                Ok(()) => context.set_error(X509VerifyResult::OK),
                Err(why) => {
                    if good {
                        context.set_error(X509VerifyResult::APPLICATION_VERIFICATION);
                    }
                    *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
                }
            }
            taken
        });
        refusal
    }

    /// OpenSSL's verdict on one certificate of the chain, and ours on the peer's own.
    fn judge(&self, good: bool, context: &X509StoreContextRef, now: SystemTime) -> Result<(), String> {
        let Some(certificate) = context.current_cert() else {
            return if good { Ok(()) } else { Err(refused(context.error().error_string())) };
        };
        if !good && !self.tolerates(context.error()) {
            let whose = match context.error_depth() {
                0 => String::new(),
                _ => format!(" (of its issuer {})", subject(certificate.subject_name())),
            };
            let why = context.error().error_string();
            return Err(refused(&format!("{why}{whose}{}", validity(context.error(), certificate, now))));
        }
        match context.error_depth() {
            0 => self.identify(certificate, now).map(drop),
            _ => Ok(()),
        }
    }

    /// Where there is no authority, a fingerprint stands for what an authority would say: nothing else is excused.
    fn tolerates(&self, error: X509VerifyResult) -> bool {
        let of_the_chain = [
            code::NO_ISSUER,
            code::SELF_SIGNED,
            code::SELF_SIGNED_ROOT,
            code::NO_LOCAL_ISSUER,
            code::LEAF_NOT_VERIFIED,
            code::UNTRUSTED,
        ];
        !self.has_authority && of_the_chain.contains(&error.as_raw())
    }

    /// The identity of an acceptable certificate, or what is wrong with it.
    pub(super) fn identify(&self, certificate: &X509Ref, now: SystemTime) -> Result<Identity, String> {
        let wrong = |error: ErrorStack| refused(&error.to_string());
        let today = Asn1Time::from_unix(unix(now)).map_err(wrong)?;
        // OpenSSL looks at the time as well, but not where nobody is known who signed.
        if *certificate.not_before() > *today || *certificate.not_after() < *today {
            let until = format!("from {} until {}", certificate.not_before(), certificate.not_after());
            return Err(refused(&format!("it is valid {until}, and this host's clock says {}", &*today)));
        }
        if !self.fingerprints.is_empty() {
            let digest = certificate.digest(MessageDigest::sha256()).map_err(wrong)?;
            if !self.fingerprints.iter().any(|fingerprint| fingerprint.0.as_slice() == &*digest) {
                let found = <[u8; 32]>::try_from(&*digest).map(Fingerprint);
                let found = found.map(|found| found.to_string()).unwrap_or_default();
                return Err(format!("the certificate's fingerprint {found} is none of those that are taken"));
            }
        }
        self.check_marks(certificate)?;
        let common_name = certificate.subject_name().entries_by_nid(Nid::COMMONNAME).next();
        let common_name = common_name.and_then(|entry| entry.data().to_string().ok()).unwrap_or_default();
        if common_name.contains(char::is_control) {
            return Err("the certificate's common name holds control characters".to_owned());
        }
        let names = certificate.subject_alt_names();
        let san_uris = names.iter().flatten().filter_map(|name| name.uri().map(str::to_owned)).collect();
        let identity = Identity { common_name, san_uris };
        if identity.common_name.is_empty() && identity.san_uris.is_empty() {
            return Err("the certificate names nobody: it has neither a common name nor a URI".to_owned());
        }
        match &self.name {
            None => {}
            Some(NameCheck::Name(name)) if identity.is_named(name) => {}
            Some(NameCheck::Name(name)) => return Err(format!("the certificate is not that of '{name}'")),
            Some(NameCheck::Prefix(prefix)) if identity.common_name.starts_with(prefix) => {}
            Some(NameCheck::Prefix(prefix)) => {
                return Err(format!("the certificate's common name does not begin with '{prefix}'"));
            }
            Some(NameCheck::Subject(wanted)) => {
                let found = subject(certificate.subject_name());
                if found != *wanted {
                    return Err(format!("the certificate's subject is '{found}', not '{wanted}'"));
                }
            }
        }
        Ok(identity)
    }

    /// Stock's `remote-cert-tls`: key usage must be there, whatever it says, since OpenSSL judges its contents.
    fn check_marks(&self, certificate: &X509Ref) -> Result<(), String> {
        let (usage, role) = match self.role {
            Role::Client => (X509ExtendedKeyUsage::SSL_SERVER, "server"),
            Role::Server => (X509ExtendedKeyUsage::SSL_CLIENT, "client"),
        };
        let extended = certificate.extended_key_usage();
        match (self.marked, certificate.key_usage(), extended.is_some_and(|marks| marks.contains(usage))) {
            (false, _, _) | (true, Some(_), true) => Ok(()),
            (true, None, _) => Err(format!("the certificate has no key usage, as a TLS {role}'s must")),
            (true, Some(_), false) => Err(format!("the certificate is not marked for use by a TLS {role}")),
        }
    }
}

fn refused(why: &str) -> String {
    format!("the peer's certificate was refused: {why}")
}

/// More words where a wrong clock may be the reason.
fn validity(error: X509VerifyResult, certificate: &X509Ref, now: SystemTime) -> String {
    let clock = || Asn1Time::from_unix(unix(now)).map(|now| now.to_string()).unwrap_or_default();
    let words = |what: &str, at: &Asn1TimeRef| {
        format!(": {what} {at}, and this host's clock says {}; one of the clocks may be wrong", clock())
    };
    match error.as_raw() {
        code::NOT_YET_VALID => words("valid from", certificate.not_before()),
        code::EXPIRED => words("valid until", certificate.not_after()),
        _ => String::new(),
    }
}

/// A name in the form of stock OpenVPN, as in `C=KG, CN=server`.
fn subject(name: &X509NameRef) -> String {
    let mut text = String::new();
    for entry in name.entries() {
        if !text.is_empty() {
            text.push_str(", ");
        }
        match entry.object().nid() {
            Nid::UNDEF => text.push_str(&entry.object().to_string()),
            known => text.push_str(known.short_name().unwrap_or_default()),
        }
        text.push('=');
        for character in entry.data().to_string().unwrap_or_default().chars() {
            match u32::from(character) {
                control @ (0..0x20 | 0x7f) => text.push_str(&format!("\\{control:02X}")),
                _ => text.push(character),
            }
        }
    }
    text
}

/// Seconds since 1970.
pub(super) fn unix(time: SystemTime) -> i64 {
    let seconds = |distance: std::time::Duration| i64::try_from(distance.as_secs()).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => seconds(after),
        Err(before) => -seconds(before.duration()),
    }
}
