//! What a service's owner asks of the ingress, beside a name.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Networks in a list.
const MAX_NETWORKS: usize = 64;
const MAX_USERS: usize = 32;
/// Headers or paths in a list.
const MAX_ITEMS: usize = 32;
const MAX_PATH: usize = 256;
/// All texts of one service: those of the most services together must fit into one message of the control channel.
const MAX_BYTES: usize = 6144;
/// What one guess at a password may cost the ingress: about a second.
const BCRYPT_COSTS: std::ops::RangeInclusive<u32> = 5..=14;
/// Headers of an answer that are the ingress' own business, or that speak for other names of the domain too.
const RESERVED_HEADERS: [&str; 14] = [
    "alt-svc",
    "cloudathome-state",
    "connection",
    "content-encoding",
    "content-length",
    "keep-alive",
    "nel",
    "report-to",
    "set-cookie",
    "strict-transport-security",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Who may come to a service and what the ingress does with requests and answers. The default lets everybody in and changes
/// nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IngressOptions {
    /// Where visitors must come from; empty: anywhere.
    pub allow: Vec<IpNet>,
    /// Where visitors must not come from.
    pub deny: Vec<IpNet>,
    /// Who may log in at the ingress; empty: nobody has to.
    pub users: Vec<BasicUser>,
    /// Whom the ingress asks about each request.
    pub forward_auth: Option<ForwardAuth>,
    /// Headers of every answer, in place of the service's own; an empty one removes it.
    pub headers: BTreeMap<String, String>,
    /// The only paths that are served, each with all below it; empty: all.
    pub paths: Vec<String>,
    /// The path below which it is published and that it does not know of itself.
    pub strip_prefix: Option<String>,
    /// Paths whose POST and PUT requests are attempts to log in: few of them a minute pass. A `*` at the end stands for
    /// anything.
    pub login_paths: Vec<String>,
}

/// A user whom the ingress itself knows.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BasicUser {
    /// The name.
    pub name: String,
    /// bcrypt's hash of the password, in the usual form `$2y$12$...`. Empty where it is only told that there is such a user.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hash: String,
}

impl fmt::Debug for BasicUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BasicUser").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A service that knows who may come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardAuth {
    /// Where it answers plain HTTP: an address of the announcing host's own.
    pub upstream: SocketAddr,
    /// What is asked there, by GET, with the visitor's headers. 2xx lets the request pass; any other answer goes to the visitor.
    pub uri: String,
    /// Headers of its answer that the request takes along, for example `Remote-User`. A visitor's own are dropped.
    pub copy: Vec<String>,
}

/// An option that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} {reason}")]
pub struct InvalidOption {
    /// Which, by its key in a configuration file.
    pub key: &'static str,
    /// Why not.
    pub reason: String,
}

impl IngressOptions {
    /// Whether they keep anybody out, or anything in: published without them, the service would be open to more people, or show
    /// more, than its owner wants. Headers and limits on logging in do not.
    #[must_use]
    pub fn keeps_out(&self) -> bool {
        let Self { allow, deny, users, forward_auth, headers: _, paths, strip_prefix, login_paths: _ } = self;
        !(allow.is_empty() && deny.is_empty() && users.is_empty() && paths.is_empty())
            || forward_auth.is_some()
            || strip_prefix.is_some()
    }

    /// Checks what any service may ask. None of it can reach another name, or speak to Caddy itself (whose placeholders have
    /// braces).
    ///
    /// # Errors
    /// Naming the first option that cannot be.
    pub fn check(&self) -> Result<(), InvalidOption> {
        let invalid = |key, reason: String| Err(InvalidOption { key, reason });
        for (key, length, most) in [
            ("allow", self.allow.len(), MAX_NETWORKS),
            ("deny", self.deny.len(), MAX_NETWORKS),
            ("basic_auth", self.users.len(), MAX_USERS),
            ("headers", self.headers.len(), MAX_ITEMS),
            ("paths", self.paths.len(), MAX_ITEMS),
            ("login_paths", self.login_paths.len(), MAX_ITEMS),
            ("forward_auth.copy", self.forward_auth.as_ref().map_or(0, |auth| auth.copy.len()), MAX_ITEMS),
        ] {
            if length > most {
                return invalid(key, format!("has {length} items; {most} are the most"));
            }
        }
        for (at, user) in self.users.iter().enumerate() {
            if self.users[..at].iter().any(|other| other.name == user.name) {
                return invalid("basic_auth", format!("has two lines for the user {:?}", cut(&user.name)));
            }
            if user.name.is_empty() || user.name.len() > 64 || !user.name.chars().all(|c| is_plain(c) && c != ':') {
                return invalid("basic_auth", format!("has a user {:?}, which is no plain name", cut(&user.name)));
            }
            if let Err(reason) = is_bcrypt(&user.hash) {
                return invalid("basic_auth", format!("has no usable hash for the user {}: {reason}", user.name));
            }
        }
        for (name, value) in &self.headers {
            is_header(name).or_else(|reason| invalid("headers", reason))?;
            if RESERVED_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
                return invalid("headers", format!("has {name}, which is not this service's to say"));
            }
            let sendable = |c: char| is_plain(c) || c == ' ';
            if !value.chars().all(sendable) {
                return invalid("headers", format!("has a value for {name} that is not plain ASCII without braces"));
            }
        }
        for (key, paths) in [("paths", &self.paths[..]), ("strip_prefix", self.strip_prefix.as_slice())] {
            if let Some(path) = paths.iter().find(|path| !is_path(path) || path.ends_with('/')) {
                return invalid(key, format!("has {:?}; write it as /one/path, without '/' at its end", cut(path)));
            }
        }
        if let Some(path) = self.login_paths.iter().find(|path| !is_path(path.strip_suffix('*').unwrap_or(path))) {
            return invalid("login_paths", format!("has {:?}; write it as /login or /login/*", cut(path)));
        }
        if let Some(auth) = &self.forward_auth {
            if !is_target(&auth.uri) {
                return invalid(
                    "forward_auth.uri",
                    "must begin with '/' and be plain ASCII without braces, and '%' only before two digits".to_owned(),
                );
            }
            for name in &auth.copy {
                is_header(name).or_else(|reason| invalid("forward_auth.copy", reason))?;
                if is_hop(name) {
                    return invalid("forward_auth.copy", format!("has {name}, which belongs to the request itself"));
                }
            }
        }
        let texts =
            self.headers.iter().flat_map(|(name, value)| [name, value]).chain(&self.paths).chain(&self.login_paths);
        let users = self.users.iter().flat_map(|user| [&user.name, &user.hash]);
        if texts.chain(users).map(String::len).sum::<usize>() > MAX_BYTES {
            return invalid("headers", format!("has, with paths and users, more than {MAX_BYTES} bytes"));
        }
        Ok(())
    }
}

/// For messages.
fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

/// What can stand in Caddy's configuration and mean itself.
fn is_plain(c: char) -> bool {
    c.is_ascii_graphic() && c != '{' && c != '}'
}

/// Whether a text can be asked for over HTTP as it is: a path and perhaps a query, in plain ASCII, without the braces of Caddy's
/// placeholders, and well encoded. Caddy refuses a whole configuration with one that is not.
#[must_use]
pub fn is_target(text: &str) -> bool {
    let hex = |digits: Option<&str>| digits.is_some_and(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
    text.starts_with('/')
        && text.len() <= MAX_PATH
        && text.chars().all(is_plain)
        && text.match_indices('%').all(|(at, _)| hex(text.get(at + 1..at + 3)))
}

/// A path whose characters mean themselves in a pattern.
fn is_path(path: &str) -> bool {
    path.starts_with('/')
        && path.len() <= MAX_PATH
        && path.chars().all(|c| c.is_ascii_alphanumeric() || "/-._~!$&'()+,;=:@".contains(c))
}

fn is_header(name: &str) -> Result<(), String> {
    let letter = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if (1..=64).contains(&name.len()) && name.chars().all(letter) {
        Ok(())
    } else {
        Err(format!("has {:?}, which is no header's name: use letters, digits and '-'", cut(name)))
    }
}

/// Headers that say where and how a request travels, or who sends it.
fn is_hop(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let hop =
        ["connection", "content-length", "forwarded", "host", "te", "trailer", "transfer-encoding", "upgrade", "via"];
    hop.contains(&name.as_str()) || name.starts_with("x-forwarded-") || name == "x-real-ip"
}

fn is_bcrypt(hash: &str) -> Result<(), String> {
    let make = "make one with `htpasswd -nB -C 12 NAME`";
    let parts: Vec<&str> = hash.split('$').collect();
    let ["", "2a" | "2b" | "2y", cost, text] = parts[..] else { return Err(format!("it is not bcrypt's; {make}")) };
    let known = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '/';
    if cost.len() != 2 || text.len() != 53 || !text.chars().all(known) {
        return Err(format!("it is not whole; {make}"));
    }
    match cost.parse::<u32>() {
        Ok(cost) if BCRYPT_COSTS.contains(&cost) => Ok(()),
        _ => Err(format!("its cost must be {} to {}; {make}", BCRYPT_COSTS.start(), BCRYPT_COSTS.end())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2a$14$BY1mjmKY.Isjisne2UzIVuEuqoTbv2Q4vYN819rV4tBQYD/WrDSlO";

    fn user(name: &str, hash: &str) -> IngressOptions {
        IngressOptions { users: vec![BasicUser { name: name.into(), hash: hash.into() }], ..IngressOptions::default() }
    }

    fn header(name: &str, value: &str) -> IngressOptions {
        IngressOptions { headers: [(name.to_owned(), value.to_owned())].into(), ..IngressOptions::default() }
    }

    #[test]
    fn what_means_itself_is_fine() {
        let all = IngressOptions {
            allow: vec!["192.168.0.0/16".parse().unwrap(), "2001:db8::/32".parse().unwrap()],
            forward_auth: Some(ForwardAuth {
                upstream: "10.86.0.2:9091".parse().unwrap(),
                uri: "/api/authz/forward-auth?x=1".into(),
                copy: vec!["Remote-User".into()],
            }),
            headers: [("Content-Security-Policy".to_owned(), "default-src 'self'".to_owned())].into(),
            paths: vec!["/api".into(), "/a/b.c".into()],
            strip_prefix: Some("/app".into()),
            login_paths: vec!["/login".into(), "/session*".into()],
            ..user("me", HASH)
        };
        assert_eq!(all.check(), Ok(()));
        assert_eq!(IngressOptions::default().check(), Ok(()));
    }

    #[test]
    fn what_could_mean_something_else_is_refused() {
        let path = |path: &str| IngressOptions { paths: vec![path.into()], ..IngressOptions::default() };
        let login = |path: &str| IngressOptions { login_paths: vec![path.into()], ..IngressOptions::default() };
        let auth = |uri: &str, copy: &str| IngressOptions {
            forward_auth: Some(ForwardAuth {
                upstream: "10.86.0.2:1".parse().unwrap(),
                uri: uri.into(),
                copy: vec![copy.into()],
            }),
            ..IngressOptions::default()
        };
        let many = IngressOptions { deny: vec!["10.0.0.0/8".parse().unwrap(); 65], ..IngressOptions::default() };
        for (options, key) in [
            (path("api"), "paths"),
            (path("/{env.HOME}"), "paths"),
            (path("/api/"), "paths"),
            (path("/a*b"), "paths"),
            (login("/a*b*"), "login_paths"),
            (login("*"), "login_paths"),
            (header("X-A", "{env.HOME}"), "headers"),
            (header("X-A", "a\r\nSet-Cookie: b"), "headers"),
            (header("X A", "a"), "headers"),
            (header("strict-Transport-security", "max-age=1; includeSubDomains"), "headers"),
            (header("Set-Cookie", "a=b; Domain=example.com"), "headers"),
            (user("me", "geheim"), "basic_auth"),
            (user("me", &HASH.replace("$14$", "$31$")), "basic_auth"),
            (user("me", &HASH[..59]), "basic_auth"),
            (user("{env.HOME}", HASH), "basic_auth"),
            (user("a:b", HASH), "basic_auth"),
            (auth("auth", "Remote-User"), "forward_auth.uri"),
            (auth("/{http.request.host}", "Remote-User"), "forward_auth.uri"),
            (auth("/auth", "X-Forwarded-For"), "forward_auth.copy"),
            (auth("/auth", "Remote_User"), "forward_auth.copy"),
            (many, "deny"),
        ] {
            assert_eq!(options.check().unwrap_err().key, key, "{options:?}");
        }
        assert!(!format!("{:?}", user("me", HASH)).contains("$2a$"), "a hash is shown");
    }
}
