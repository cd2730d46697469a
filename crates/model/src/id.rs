//! Names and numbers that identify things, checked when they are made.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not a valid name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid {what}: {reason}")]
pub struct InvalidName {
    /// What the text was to be, for example `host name`.
    pub what: &'static str,
    /// The text as given, cut to 80 characters.
    pub text: String,
    /// What a valid one looks like.
    pub reason: &'static str,
}

fn invalid(what: &'static str, text: &str, reason: &'static str) -> InvalidName {
    InvalidName { what, text: text.chars().take(80).collect(), reason }
}

/// A DNS label as RFC 1123 has it: 1 to 63 of `a-z 0-9 -`, no hyphen at either end.
fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

const LABEL_RULE: &str = "use 1 to 63 of a-z, 0-9 and '-', with no '-' at either end";

macro_rules! name_type {
    ($(#[$meta:meta])* $name:ident, $what:literal, $valid:expr, $rule:expr) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) { Ok(Self(text.to_owned())) } else { Err(invalid($what, text, $rule)) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type!(
    /// The identity of one host (an edge or a home); a DNS label.
    HostId,
    "host name",
    is_label,
    LABEL_RULE
);

name_type!(
    /// The name of a service on its host, for example `nextcloud`; a DNS label.
    ServiceName,
    "service name",
    is_label,
    LABEL_RULE
);

name_type!(
    /// A public DNS name in lower case, for example `cloud.example.com`: at least two labels, at most
    /// 253 characters, no trailing dot and no wildcard.
    Hostname,
    "hostname",
    |text| text.len() <= 253 && text.contains('.') && text.split('.').all(is_label),
    "use labels of a-z, 0-9 and '-' joined by dots, as in cloud.example.com"
);

impl Hostname {
    /// Whether this name is `domain` or lies under it.
    #[must_use]
    pub fn is_under(&self, domain: &Hostname) -> bool {
        self == domain || self.0.strip_suffix(domain.as_str()).is_some_and(|rest| rest.ends_with('.'))
    }
}

/// What a certificate of ours entitles its holder to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The public host.
    Edge,
    /// The host behind NAT.
    Home,
    /// A phone or laptop with a stock OpenVPN client.
    Device,
}

impl Role {
    /// The role in lower case.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Home => "home",
            Self::Device => "device",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The subject alternative name that carries role and name in every certificate of ours:
/// `cloudathome://ROLE/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RoleUri {
    /// What the holder is.
    pub role: Role,
    /// Who the holder is.
    pub name: HostId,
}

impl fmt::Display for RoleUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cloudathome://{}/{}", self.role, self.name)
    }
}

impl FromStr for RoleUri {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let bad = || invalid("role URI", text, "expected cloudathome://edge|home|device/NAME");
        let (role, name) = text.strip_prefix("cloudathome://").and_then(|rest| rest.split_once('/')).ok_or_else(bad)?;
        let role = match role {
            "edge" => Role::Edge,
            "home" => Role::Home,
            "device" => Role::Device,
            _ => return Err(bad()),
        };
        Ok(Self { role, name: name.parse().map_err(|_| bad())? })
    }
}

/// A numbered version of a configuration; the first is 1, 0 means none yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["nextcloud", "a", "a-b", "0"] {
            assert!(good.parse::<ServiceName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", &"x".repeat(64)] {
            assert!(bad.parse::<ServiceName>().is_err(), "{bad}");
        }
        for bad in ["example", "a..b", "*.example.com", "example.com.", ".com"] {
            assert!(bad.parse::<Hostname>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_hostname_knows_its_domain() {
        let domain: Hostname = "example.com".parse().unwrap();
        assert!("cloud.example.com".parse::<Hostname>().unwrap().is_under(&domain));
        assert!(domain.is_under(&domain));
        assert!(!"badexample.com".parse::<Hostname>().unwrap().is_under(&domain));
    }

    #[test]
    fn role_uri_round_trips() {
        let uri = RoleUri { role: Role::Home, name: "attic".parse().unwrap() };
        assert_eq!(uri.to_string().parse::<RoleUri>().unwrap(), uri);
        for bad in ["cloudathome://root/x", "cloudathome://home/", "https://home/x", "cloudathome://home/a/b"] {
            assert!(bad.parse::<RoleUri>().is_err(), "{bad}");
        }
    }
}
