//! `[services.NAME.ingress]`: from what is written to what the edge is asked.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use daemon::config::Invalid;
use ipnet::IpNet;
use model::{BasicUser, ForwardAuth, IngressOptions, ServiceName};
use serde::{Deserialize, Serialize};

use super::check::Service;
use super::written::WrittenKind;
use crate::config::absolute;

/// `[services.NAME.ingress]` as it stands in the file.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct IngressSection {
    allow: Vec<String>,
    deny: Vec<String>,
    basic_auth: Option<PathBuf>,
    forward_auth: Option<ForwardAuthSection>,
    headers: BTreeMap<String, String>,
    paths: Vec<String>,
    strip_prefix: Option<String>,
    login_paths: Option<Vec<String>>,
}

/// `forward_auth`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct ForwardAuthSection {
    service: String,
    uri: String,
    #[serde(default)]
    copy: Vec<String>,
}

/// What a service asks of the ingress, checked.
#[derive(Debug, Clone, Default)]
pub struct Published {
    /// All but whom the ingress asks: where that service answers is not known yet.
    options: IngressOptions,
    judge: Option<Judge>,
}

/// The service that is asked about each request.
#[derive(Debug, Clone)]
struct Judge {
    service: ServiceName,
    uri: String,
    copy: Vec<String>,
}

/// Attempts to log in at Nextcloud: its forms. Its clients send their password with each request, and are told apart by that.
const NEXTCLOUD_LOGINS: [&str; 8] = [
    "/login",
    "/login/challenge/*",
    "/login/confirm",
    "/lostpassword/*",
    "/index.php/login",
    "/index.php/login/challenge/*",
    "/index.php/login/confirm",
    "/index.php/lostpassword/*",
];

/// Attempts to log in at Ghost, of its staff and of its members.
/// It also answers under the names of old versions of its interface.
const GHOST_LOGINS: [&str; 11] = [
    "/ghost/api/admin/session*",
    "/ghost/api/v2/admin/session*",
    "/ghost/api/v3/admin/session*",
    "/ghost/api/v4/admin/session*",
    "/ghost/api/canary/admin/session*",
    "/ghost/api/admin/authentication/*",
    "/ghost/api/v2/admin/authentication/*",
    "/ghost/api/v3/admin/authentication/*",
    "/ghost/api/v4/admin/authentication/*",
    "/ghost/api/canary/admin/authentication/*",
    "/members/api/send-magic-link*",
];

impl IngressSection {
    /// Checks the section of the service `name`.
    pub(super) fn check(self, name: &str, kind: WrittenKind) -> Result<Published, Invalid> {
        let key = |key: &str| format!("services.{name}.ingress.{key}");
        let networks = |at: &str, texts: Vec<String>| -> Result<Vec<IpNet>, Invalid> {
            let network = |text: &String| {
                let known = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
                known.map_err(|_| {
                    Invalid::new(key(at), format_args!("{text:?} is no network; write 192.168.0.0/16 or 2001:db8::1"))
                })
            };
            texts.iter().map(network).collect()
        };
        let usual: &[&str] = match kind {
            WrittenKind::Nextcloud => &NEXTCLOUD_LOGINS,
            WrittenKind::Ghost => &GHOST_LOGINS,
            WrittenKind::Container | WrittenKind::External => &[],
        };
        let options = IngressOptions {
            allow: networks("allow", self.allow)?,
            deny: networks("deny", self.deny)?,
            users: match self.basic_auth {
                Some(path) => users(&absolute(&key("basic_auth"), Some(path), "")?)
                    .map_err(|reason| Invalid::new(key("basic_auth"), reason))?,
                None => Vec::new(),
            },
            forward_auth: None,
            headers: self.headers,
            paths: self.paths,
            strip_prefix: self.strip_prefix,
            login_paths: self.login_paths.unwrap_or_else(|| usual.iter().map(|path| (*path).to_owned()).collect()),
        };
        let judge = match self.forward_auth {
            Some(auth) if auth.service == name => {
                return Err(Invalid::new(key("forward_auth.service"), "is this service; name the one that knows"));
            }
            Some(auth) => Some(Judge {
                service: auth
                    .service
                    .parse()
                    .map_err(|error: model::InvalidName| Invalid::new(key("forward_auth.service"), error))?,
                uri: auth.uri,
                copy: auth.copy,
            }),
            None => None,
        };
        let published = Published { options, judge };
        // Any address will do for the check.
        let any = SocketAddr::from(([127, 0, 0, 1], 1));
        published.announced(|_| Some(any)).check().map_err(|error| Invalid::new(key(error.key), error.reason))?;
        Ok(published)
    }
}

impl Published {
    /// What the edge is told. `upstream` knows where services of this host answer; while it does not know the one that is to be
    /// asked, nobody answers for it and nobody is let in.
    pub(super) fn announced(&self, upstream: impl Fn(&ServiceName) -> Option<SocketAddr>) -> IngressOptions {
        let forward_auth = self.judge.as_ref().map(|judge| {
            let upstream = upstream(&judge.service).unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 1)));
            ForwardAuth { upstream, uri: judge.uri.clone(), copy: judge.copy.clone() }
        });
        IngressOptions { forward_auth, ..self.options.clone() }
    }
}

/// Whether every service that another has asked is there.
pub(super) fn check_judges(services: &[Service]) -> Result<(), Invalid> {
    for service in services {
        let Some(judge) = &service.ingress.judge else { continue };
        if !services.iter().any(|other| other.name == judge.service) {
            let key = format!("services.{}.ingress.forward_auth.service", service.name);
            return Err(Invalid::new(key, format_args!("there is no services.{} on this host", judge.service)));
        }
    }
    Ok(())
}

/// Lines of NAME:HASH, as `htpasswd -B` writes them.
fn users(path: &Path) -> Result<Vec<BasicUser>, String> {
    let content = fs::read_to_string(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    let user = |line: &str| {
        let (name, hash) = line.split_once(':')?;
        Some(BasicUser { name: name.to_owned(), hash: hash.trim().to_owned() })
    };
    let lines = content.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    let users: Option<Vec<BasicUser>> = lines.map(user).collect();
    match users {
        Some(users) if !users.is_empty() => Ok(users),
        Some(_) => Err(format!("{} has no user; make one with `htpasswd -nB -C 12 NAME`", path.display())),
        None => {
            Err(format!("{} has a line that is not NAME:HASH; `htpasswd -nB -C 12 NAME` makes one", path.display()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2y$12$BY1mjmKY.Isjisne2UzIVuEuqoTbv2Q4vYN819rV4tBQYD/WrDSlO";

    fn checked(text: &str, kind: WrittenKind) -> Result<IngressOptions, String> {
        let section: IngressSection = toml::from_str(text).unwrap();
        let published = section.check("x", kind).map_err(|invalid| format!("{}: {}", invalid.key, invalid.reason))?;
        Ok(published.announced(|_| Some("10.86.0.2:9091".parse().unwrap())))
    }

    #[test]
    fn a_section_becomes_what_the_edge_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("users");
        fs::write(&file, format!("# people\nme:{HASH}\n\nyou:{HASH}\n")).unwrap();
        let text = format!(
            "allow = [\"192.168.0.0/16\", \"2001:db8::1\"]\ndeny = [\"192.168.1.7\"]\nbasic_auth = {file:?}\n\
             headers = {{ X-Robots-Tag = \"noindex\" }}\npaths = [\"/api\"]\nstrip_prefix = \"/app\"\n\
             login_paths = [\"/session*\"]\n\
             forward_auth = {{ service = \"auth\", uri = \"/verify\", copy = [\"Remote-User\"] }}\n"
        );
        let options = checked(&text, WrittenKind::Container).unwrap();
        assert_eq!(options.allow[1].to_string(), "2001:db8::1/128");
        assert_eq!(options.users.iter().map(|user| user.name.as_str()).collect::<Vec<_>>(), ["me", "you"]);
        assert_eq!(options.forward_auth.unwrap().upstream.to_string(), "10.86.0.2:9091");
        assert_eq!(options.login_paths, ["/session*"]);
    }

    #[test]
    fn known_applications_have_their_login_paths() {
        let paths = |kind| checked("", kind).unwrap().login_paths;
        assert!(paths(WrittenKind::Nextcloud).contains(&"/index.php/login".to_owned()));
        assert!(paths(WrittenKind::Ghost).contains(&"/ghost/api/admin/session*".to_owned()));
        assert!(paths(WrittenKind::External).is_empty());
        assert!(checked("login_paths = []", WrittenKind::Ghost).unwrap().login_paths.is_empty());
    }

    #[test]
    fn wrong_ones_are_named_with_their_key() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("users");
        fs::write(&file, "me:geheim\n").unwrap();
        let plain = format!("basic_auth = {file:?}");
        for (text, said) in [
            ("allow = [\"home\"]", "services.x.ingress.allow: \"home\" is no network"),
            (
                &plain,
                "services.x.ingress.basic_auth: has no usable hash for the user me: it is not bcrypt's; make one with",
            ),
            ("basic_auth = \"users\"", "services.x.ingress.basic_auth"),
            ("basic_auth = \"/no/such/file\"", "/no/such/file cannot be read"),
            (
                "headers = { Strict-Transport-Security = \"x\" }",
                "services.x.ingress.headers: has Strict-Transport-Security",
            ),
            (
                "forward_auth = { service = \"x\", uri = \"/\" }",
                "services.x.ingress.forward_auth.service: is this service",
            ),
            ("forward_auth = { service = \"y\", uri = \"z\" }", "services.x.ingress.forward_auth.uri: must begin"),
        ] {
            let told = checked(text, WrittenKind::Container).unwrap_err();
            assert!(told.contains(said), "{told}");
        }
    }
}
