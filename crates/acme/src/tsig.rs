//! The key of dynamic updates, from a file as `tsig-keygen` writes it and `nsupdate -k` reads it.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hickory_proto::rr::rdata::tsig::TsigAlgorithm;

use crate::dns::absolute;

/// Seconds by which the clocks of both ends may differ: what RFC 8945 recommends.
const FUDGE: u16 = 300;

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Not of the form.
    #[error(
        "it does not read `key \"NAME\" {{ algorithm hmac-sha256; secret \"...\"; }};`, as `tsig-keygen NAME` writes it"
    )]
    Form,
    /// An algorithm that is unsafe or unknown.
    #[error("its algorithm is {0}: hmac-sha256, hmac-sha384 and hmac-sha512 can be used")]
    Algorithm(String),
    /// The name is none.
    #[error("its name {0:?} is no name of the DNS")]
    Name(String),
    /// The secret is no base64, or empty.
    #[error("its secret is not base64")]
    Secret,
}

/// A key shared with a name server.
#[derive(Clone)]
pub struct TsigKey {
    pub(crate) signer: hickory_proto::rr::TSigner,
}

impl fmt::Debug for TsigKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TsigKey").field("name", self.signer.signer_name()).finish_non_exhaustive()
    }
}

impl TsigKey {
    /// Reads the key's file: one `key` statement in the form of BIND's configuration.
    ///
    /// # Errors
    /// When it has another form, or the key cannot be used.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let text: String = text.lines().filter(|line| !line.trim_start().starts_with(['#', '/'])).collect();
        let (head, rest) = text.split_once('{').ok_or(KeyError::Form)?;
        let (body, _) = rest.split_once('}').ok_or(KeyError::Form)?;
        let name = value(head.trim(), "key").ok_or(KeyError::Form)?;
        let find = |word| body.split(';').find_map(|statement| value(statement.trim(), word)).ok_or(KeyError::Form);
        let algorithm = match find("algorithm")?.to_ascii_lowercase().as_str() {
            "hmac-sha256" => TsigAlgorithm::HmacSha256,
            "hmac-sha384" => TsigAlgorithm::HmacSha384,
            "hmac-sha512" => TsigAlgorithm::HmacSha512,
            other => return Err(KeyError::Algorithm(other.to_owned())),
        };
        let secret = STANDARD.decode(find("secret")?).ok().filter(|secret| !secret.is_empty());
        let secret = secret.ok_or(KeyError::Secret)?;
        let wrong_name = || KeyError::Name(name.to_owned());
        let parsed = absolute(name).ok().filter(|name| !name.is_root()).ok_or_else(wrong_name)?;
        let signer = hickory_proto::rr::TSigner::new(secret, algorithm, parsed, FUDGE).map_err(|_| KeyError::Form)?;
        Ok(Self { signer })
    }
}

/// What follows the word in a statement, without its quotes.
fn value<'a>(statement: &'a str, word: &str) -> Option<&'a str> {
    let rest = statement.strip_prefix(word)?;
    let value = rest.trim_start();
    (value.len() < rest.len() || value.starts_with('"')).then(|| value.trim().trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "key \"cloudathome\" {\n\talgorithm hmac-sha256;\n\tsecret \"c2VjcmV0\";\n};\n";

    #[test]
    fn what_tsig_keygen_writes_is_read_and_never_shown() {
        let key = TsigKey::parse(KEY).unwrap();
        assert_eq!(key.signer.key(), b"secret");
        assert_eq!(key.signer.signer_name().to_string(), "cloudathome.");
        let shown = format!("{key:?}");
        assert!(shown.contains("cloudathome") && !shown.contains("115"), "{shown}");
        assert!(TsigKey::parse("# a comment\nkey k. { secret c2VjcmV0; algorithm HMAC-SHA512; };").is_ok());
    }

    #[test]
    fn what_cannot_be_used_is_told() {
        assert!(matches!(TsigKey::parse("c2VjcmV0"), Err(KeyError::Form)));
        assert!(matches!(TsigKey::parse(&KEY.replace("sha256", "md5")), Err(KeyError::Algorithm(_))));
        assert!(matches!(TsigKey::parse(&KEY.replace("c2Vj", "!!!!")), Err(KeyError::Secret)));
        assert!(matches!(TsigKey::parse(&KEY.replace("cloudathome", "")), Err(KeyError::Name(_))));
    }

    proptest! {
        #[test]
        fn no_file_panics(text in "(key|\\{|\\}|;|\"|secret|algorithm| |[a-z0-9=.-]){0,40}") {
            let _ = TsigKey::parse(&text);
        }
    }
}
