//! Certificates, checks of the server, protection of the control channel.

use secrecy::SecretString;

use super::Reader;
use super::args::choice;
use crate::connection::{KeyDirection, Wrapping};
use crate::lines::Line;
use crate::problem::{Fault, Note, shown};
use crate::settings::{CertProfile, Crl, NameCheck, Source, TlsVersion};

/// Protection of the control channel as far as it is known.
#[derive(Clone, Default)]
pub(super) struct WrappingDraft {
    tls_auth: Option<Source<SecretString>>,
    tls_crypt: Option<Source<SecretString>>,
    tls_crypt_v2: Option<Source<SecretString>>,
    direction: Option<KeyDirection>,
}

impl WrappingDraft {
    /// Whether the option is one of these.
    pub(super) fn apply(&mut self, line: &Line<'_>) -> Result<bool, Fault> {
        match line.name.as_str() {
            "tls-auth" if line.block.is_some() => self.tls_auth = Some(line.secret_source()?),
            "tls-auth" => {
                let (file, way) = line.one_or_two()?;
                self.tls_auth = Some(Source::File(file.to_owned()));
                self.direction = way.map(direction).transpose()?.or(self.direction);
            }
            "tls-crypt" => self.tls_crypt = Some(line.secret_source()?),
            "tls-crypt-v2" => self.tls_crypt_v2 = Some(line.secret_source()?),
            "key-direction" => self.direction = Some(direction(line.one()?)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Whether no key is named.
    pub(super) fn is_empty(&self) -> bool {
        self.tls_auth.is_none() && self.tls_crypt.is_none() && self.tls_crypt_v2.is_none()
    }

    /// The one way that is named; the error names an option.
    pub(super) fn finish(self) -> Result<Wrapping, (&'static str, Fault)> {
        match (self.tls_auth, self.tls_crypt, self.tls_crypt_v2) {
            (None, None, None) => Ok(Wrapping::None),
            (Some(key), None, None) => {
                Ok(Wrapping::TlsAuth { key, direction: self.direction.unwrap_or(KeyDirection::Bidirectional) })
            }
            (None, Some(key), None) => Ok(Wrapping::TlsCrypt(key)),
            (None, None, Some(key)) => Ok(Wrapping::TlsCryptV2(key)),
            _ => Err(("tls-crypt", Fault::malformed("only one of tls-auth, tls-crypt and tls-crypt-v2 can be used"))),
        }
    }
}

fn direction(word: &str) -> Result<KeyDirection, Fault> {
    choice(word, &[("0", KeyDirection::Normal), ("1", KeyDirection::Inverse)])
}

impl Reader {
    /// Whether the option is one of these.
    pub(super) fn tls_option(&mut self, line: &Line<'_>) -> Result<bool, Fault> {
        let tls = &mut self.profile.tls;
        match line.name.as_str() {
            "ca" => tls.ca = Some(line.source()?),
            "cert" => tls.cert = Some(line.source()?),
            "extra-certs" => tls.extra_certs = Some(line.source()?),
            "key" => tls.key = Some(line.secret_source()?),
            "crl-verify" => tls.crl = Some(crl(line)?),
            "peer-fingerprint" => tls.peer_fingerprints.extend(fingerprints(line)?),
            "remote-cert-tls" => tls.remote_cert_tls = remote_cert_tls(line.one()?)?,
            "verify-x509-name" => tls.name_check = Some(name_check(line)?),
            "tls-version-min" => return self.version_min(line).map(|()| true),
            "tls-version-max" => {
                let version = tls_version(line.one()?)?;
                tls.version_max = Some(version.ok_or(Fault::unsupported("TLS before 1.2 is not spoken; remove it"))?);
            }
            "tls-cipher" => tls.ciphers = Some(names(line)?),
            "tls-ciphersuites" => tls.ciphersuites = Some(names(line)?),
            "tls-groups" => tls.groups = Some(names(line)?),
            "tls-cert-profile" => {
                let profiles = [
                    ("insecure", CertProfile::Insecure),
                    ("legacy", CertProfile::Legacy),
                    ("preferred", CertProfile::Preferred),
                    ("suiteb", CertProfile::SuiteB),
                ];
                tls.cert_profile = choice(line.one()?, &profiles)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn version_min(&mut self, line: &Line<'_>) -> Result<(), Fault> {
        let (version, or_highest) = line.one_or_two()?;
        if or_highest.is_some_and(|word| word != "or-highest") {
            return Err(Fault::malformed("its second argument can only be or-highest"));
        }
        match tls_version(version)? {
            Some(version) => self.profile.tls.version_min = version,
            None => self.note(line, "TLS before 1.2 is never spoken; 1.2 is the lowest"),
        }
        Ok(())
    }

    /// What has to be there, and what fits together.
    pub(super) fn check_tls(&mut self) {
        let tls = &self.profile.tls;
        let versions_cross = tls.version_max.is_some_and(|highest| highest < tls.version_min);
        let unchecked = !tls.remote_cert_tls && tls.name_check.is_none() && tls.peer_fingerprints.is_empty();
        let (ca, cert, key) = (tls.ca.is_some(), tls.cert.is_some(), tls.key.is_some());
        if !ca && tls.peer_fingerprints.is_empty() {
            self.missing("ca", "nothing says whom to trust; add the authority's certificate, or a peer-fingerprint");
        }
        match (cert, key) {
            (true, false) => self.missing("key", "a certificate is of no use without its key"),
            (false, true) => self.missing("cert", "a key is of no use without its certificate"),
            (false, false) if self.profile.user_pass.is_none() && !self.has_problem("auth-user-pass") => {
                self.missing("cert", "nothing says who we are; add cert and key, or auth-user-pass");
            }
            _ => {}
        }
        if versions_cross {
            let fault = Fault::malformed("it is lower than tls-version-min");
            self.problems.push(fault.at(None, "tls-version-max"));
        }
        if unchecked && ca {
            let reason = "is not set: any certificate of the authority can play the server".into();
            self.profile.notes.push(Note { line: None, option: "remote-cert-tls".to_owned(), reason });
        }
    }
}

/// `None` for one that is too old.
fn tls_version(word: &str) -> Result<Option<TlsVersion>, Fault> {
    let versions = [("1.0", None), ("1.1", None), ("1.2", Some(TlsVersion::V1_2)), ("1.3", Some(TlsVersion::V1_3))];
    choice(word, &versions)
}

fn remote_cert_tls(word: &str) -> Result<bool, Fault> {
    match word {
        "server" => Ok(true),
        "client" => Err(Fault::refused("a client asks for a server's certificate; write 'remote-cert-tls server'")),
        _ => Err(Fault::malformed(format!("'{}' is not server", shown(word)))),
    }
}

fn name_check(line: &Line<'_>) -> Result<NameCheck, Fault> {
    let (name, kind) = line.one_or_two()?;
    let kind: fn(String) -> NameCheck = match kind {
        None | Some("subject") => NameCheck::Subject,
        Some("name") => NameCheck::CommonName,
        Some("name-prefix") => NameCheck::CommonNamePrefix,
        Some(other) => {
            return Err(Fault::malformed(format!("'{}' is none of subject, name, name-prefix", shown(other))));
        }
    };
    Ok(kind(name.to_owned()))
}

fn crl(line: &Line<'_>) -> Result<Crl, Fault> {
    if line.block.is_some() {
        return line.source().map(Crl::List);
    }
    match line.one_or_two()? {
        (file, None) => Ok(Crl::List(Source::File(file.to_owned()))),
        (dir, Some("dir")) => Ok(Crl::Directory(dir.to_owned())),
        _ => Err(Fault::malformed("its second argument can only be dir")),
    }
}

/// One as argument, or a block with one a line, comments allowed.
fn fingerprints(line: &Line<'_>) -> Result<Vec<[u8; 32]>, Fault> {
    let Some(block) = line.block else { return Ok(vec![fingerprint(line.one()?)?]) };
    let texts = block.body.lines().map(|text| text.split(['#', ';']).next().unwrap_or_default().trim());
    let found: Vec<_> = texts.filter(|text| !text.is_empty()).map(fingerprint).collect::<Result<_, _>>()?;
    if found.is_empty() { Err(Fault::malformed("the block is empty")) } else { Ok(found) }
}

fn fingerprint(text: &str) -> Result<[u8; 32], Fault> {
    let wrong = || Fault::malformed("a fingerprint is written as 32 pairs of hexadecimal digits with colons between");
    let mut bytes = [0; 32];
    let mut pairs = text.split(':');
    for byte in &mut bytes {
        let pair = pairs.next().filter(|pair| pair.len() == 2 && pair.chars().all(|c| c.is_ascii_hexdigit()));
        *byte = u8::from_str_radix(pair.ok_or_else(wrong)?, 16).map_err(|_| wrong())?;
    }
    if pairs.next().is_none() { Ok(bytes) } else { Err(wrong()) }
}

/// Names divided by colons, as TLS libraries take them.
fn names(line: &Line<'_>) -> Result<String, Fault> {
    let text = line.one()?;
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '-' | '_' | '+' | '!' | '@' | '=' | '?');
    if text.chars().all(fits) {
        Ok(text.to_owned())
    } else {
        Err(Fault::malformed(format!("'{}' is no list of names divided by colons", shown(text))))
    }
}
