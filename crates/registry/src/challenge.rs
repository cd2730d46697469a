//! What a registry wants to be shown first: `WWW-Authenticate: Bearer`.

use hyper::Uri;

/// Where a token is had, and for what.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Challenge {
    pub(crate) realm: String,
    service: Option<String>,
    scope: Option<String>,
}

impl Challenge {
    /// From the header's value; none when it asks for something else than a token.
    pub(crate) fn parse(value: &str) -> Option<Self> {
        let (scheme, mut rest) = value.trim_start().split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let mut challenge = Self::default();
        loop {
            rest = rest.trim_start_matches([' ', ',']);
            let Some((key, after)) = rest.split_once('=') else { break };
            let (value, after) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => after.split_at(after.find(',').unwrap_or(after.len())),
            };
            match key.trim().to_ascii_lowercase().as_str() {
                "realm" => challenge.realm = value.to_owned(),
                "service" => challenge.service = Some(value.to_owned()),
                "scope" => challenge.scope = Some(value.to_owned()),
                _ => {}
            }
            rest = after;
        }
        (!challenge.realm.is_empty()).then_some(challenge)
    }

    /// What the token's server is asked; for reading the image `name` where the registry did not say for what.
    pub(crate) fn path(&self, realm: &Uri, name: &str) -> String {
        let mut path = realm.path().to_owned();
        let mut parts: Vec<String> = realm.query().map(str::to_owned).into_iter().collect();
        parts.extend(self.service.as_ref().map(|service| format!("service={}", encoded(service))));
        let scope = self.scope.clone().unwrap_or_else(|| format!("repository:{name}:pull"));
        parts.push(format!("scope={}", encoded(&scope)));
        path.push('?');
        path.push_str(&parts.join("&"));
        path
    }
}

/// As a part of a query.
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
