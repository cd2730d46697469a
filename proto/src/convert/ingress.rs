//! What a service asks of the ingress. Whether it may is the edge's to say, service by service.

use std::fmt::Display;
use std::str::FromStr;

use model::{BasicUser, ForwardAuth, IngressOptions};

use super::{InvalidMessage, MAX_ITEMS, MAX_TEXT, invalid, parse};
use crate::v1;

impl From<IngressOptions> for v1::IngressOptions {
    fn from(options: IngressOptions) -> Self {
        let user = |user: BasicUser| v1::BasicUser { name: user.name, hash: user.hash };
        let auth =
            |auth: ForwardAuth| v1::ForwardAuth { upstream: auth.upstream.to_string(), uri: auth.uri, copy: auth.copy };
        Self {
            allow: options.allow.iter().map(ToString::to_string).collect(),
            deny: options.deny.iter().map(ToString::to_string).collect(),
            users: options.users.into_iter().map(user).collect(),
            forward_auth: options.forward_auth.map(auth),
            headers: options.headers.into_iter().collect(),
            paths: options.paths,
            strip_prefix: options.strip_prefix.unwrap_or_default(),
            login_paths: options.login_paths,
        }
    }
}

impl TryFrom<v1::IngressOptions> for IngressOptions {
    type Error = InvalidMessage;

    fn try_from(wire: v1::IngressOptions) -> Result<Self, InvalidMessage> {
        let auth = |auth: v1::ForwardAuth| {
            Ok(ForwardAuth {
                upstream: parse("ForwardAuth.upstream", &auth.upstream)?,
                uri: auth.uri,
                copy: bounded_list("ForwardAuth.copy", auth.copy)?,
            })
        };
        if wire.headers.len() > MAX_ITEMS || wire.users.len() > MAX_ITEMS {
            return Err(invalid("IngressOptions", "more than 256 items"));
        }
        if wire.strip_prefix.len() > MAX_TEXT {
            return Err(invalid("IngressOptions.strip_prefix", "longer than 1024 bytes"));
        }
        let user = |user: v1::BasicUser| BasicUser { name: user.name, hash: user.hash };
        Ok(Self {
            allow: parsed("IngressOptions.allow", wire.allow)?,
            deny: parsed("IngressOptions.deny", wire.deny)?,
            users: wire.users.into_iter().map(user).collect(),
            forward_auth: wire.forward_auth.map(auth).transpose()?,
            headers: wire.headers.into_iter().collect(),
            paths: bounded_list("IngressOptions.paths", wire.paths)?,
            strip_prefix: (!wire.strip_prefix.is_empty()).then_some(wire.strip_prefix),
            login_paths: bounded_list("IngressOptions.login_paths", wire.login_paths)?,
        })
    }
}

fn parsed<T: FromStr<Err: Display>>(field: &'static str, texts: Vec<String>) -> Result<Vec<T>, InvalidMessage> {
    bounded_list(field, texts)?.iter().map(|text| parse(field, text)).collect()
}

fn bounded_list(field: &'static str, texts: Vec<String>) -> Result<Vec<String>, InvalidMessage> {
    if texts.len() > MAX_ITEMS {
        return Err(invalid(field, "more than 256 items"));
    }
    if texts.iter().any(|text| text.len() > MAX_TEXT) {
        return Err(invalid(field, "an item is longer than 1024 bytes"));
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_come_back_as_they_were() {
        let options = IngressOptions {
            allow: vec!["192.168.0.0/16".parse().unwrap()],
            deny: vec!["2001:db8::1/128".parse().unwrap()],
            users: vec![BasicUser { name: "me".into(), hash: "$2y$".into() }],
            forward_auth: Some(ForwardAuth {
                upstream: "10.86.0.2:9091".parse().unwrap(),
                uri: "/verify".into(),
                copy: vec!["Remote-User".into()],
            }),
            headers: [("X-Robots-Tag".to_owned(), "noindex".to_owned())].into(),
            paths: vec!["/api".into()],
            strip_prefix: Some("/app".into()),
            login_paths: vec!["/login".into()],
        };
        for options in [options, IngressOptions::default()] {
            let wire = v1::IngressOptions::from(options.clone());
            assert_eq!(IngressOptions::try_from(wire).unwrap(), options);
        }
        let wire = v1::IngressOptions { allow: vec!["home".into()], ..v1::IngressOptions::default() };
        assert_eq!(IngressOptions::try_from(wire).unwrap_err().field, "IngressOptions.allow");
        let wire = v1::IngressOptions { paths: vec![String::new(); MAX_ITEMS + 1], ..v1::IngressOptions::default() };
        assert_eq!(IngressOptions::try_from(wire).unwrap_err().field, "IngressOptions.paths");
    }
}
