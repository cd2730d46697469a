//! `[ingress.dns_challenge]`: certificates by DNS-01.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use acme::{Challenge, Command, TsigKey, Update};
use agent::config::absolute;
use daemon::config::Invalid;
use model::Hostname;
use serde::Deserialize;

const SECTION: &str = "ingress.dns_challenge";
/// Authorities refuse more than a hundred; the wildcard spares people from many.
const MAX_NAMES: usize = 20;

/// The section as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DnsChallengeSection {
    command: Option<PathBuf>,
    rfc2136: Option<Rfc2136Section>,
    #[serde(default)]
    names: Vec<String>,
}

/// A name server that takes dynamic updates, as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rfc2136Section {
    server: String,
    key_file: PathBuf,
    zone: Option<String>,
}

/// How certificates are got by DNS-01.
#[derive(Debug, Clone)]
pub struct DnsChallenge {
    /// How the DNS is changed.
    pub challenge: Challenge,
    /// The command among it, where it is one.
    pub command: Option<PathBuf>,
    /// The names of the one certificate; a wildcard begins with `*.`.
    pub names: Vec<String>,
}

impl DnsChallengeSection {
    pub(crate) fn check(self, domain: &Hostname) -> Result<DnsChallenge, Invalid> {
        let (challenge, command) = match (self.command, self.rfc2136) {
            (Some(path), None) => {
                let path = command(path)?;
                (Challenge::Command(Command::new(&path)), Some(path))
            }
            (None, Some(section)) => (Challenge::Update(section.check()?), None),
            _ => return Err(Invalid::new(SECTION, "set either `command` or `rfc2136`")),
        };
        Ok(DnsChallenge { challenge, command, names: names(self.names, domain)? })
    }
}

impl Rfc2136Section {
    fn check(self) -> Result<Update, Invalid> {
        let key = "ingress.dns_challenge.rfc2136.key_file";
        let path = absolute(key, Some(self.key_file), "")?;
        let unreadable = |error| Invalid::new(key, format_args!("{} cannot be read: {error}", path.display()));
        if mode(&path).map_err(unreadable)? & 0o077 != 0 {
            return Err(Invalid::new(
                key,
                format_args!("{0} can be read by others than its owner: `chmod 600 {0}`", path.display()),
            ));
        }
        let text = fs::read_to_string(&path).map_err(unreadable)?;
        let tsig = TsigKey::parse(&text)
            .map_err(|error| Invalid::new(key, format_args!("{} cannot be used: {error}", path.display())))?;
        if self.server.is_empty() || self.server.contains(char::is_whitespace) {
            return Err(Invalid::new(
                "ingress.dns_challenge.rfc2136.server",
                "it must be the name or address of a name server, with `:PORT` where that is not 53",
            ));
        }
        Update::new(&self.server, self.zone.as_deref(), tsig)
            .map_err(|error| Invalid::new("ingress.dns_challenge.rfc2136.zone", error))
    }
}

fn command(path: PathBuf) -> Result<PathBuf, Invalid> {
    let key = "ingress.dns_challenge.command";
    let path = absolute(key, Some(path), "")?;
    let mode = mode(&path).map_err(|error| Invalid::new(key, format_args!("{}: {error}", path.display())))?;
    if mode & 0o111 == 0 || path.is_dir() {
        return Err(Invalid::new(key, format_args!("{0} is no program: `chmod +x {0}`", path.display())));
    }
    // It is run as root.
    if mode & 0o022 != 0 {
        return Err(Invalid::new(
            key,
            format_args!("{0} can be changed by others than its owner: `chmod go-w {0}`", path.display()),
        ));
    }
    Ok(path)
}

fn mode(path: &Path) -> std::io::Result<u32> {
    Ok(fs::metadata(path)?.permissions().mode())
}

fn names(written: Vec<String>, domain: &Hostname) -> Result<Vec<String>, Invalid> {
    let key = "ingress.dns_challenge.names";
    if written.is_empty() {
        return Ok(vec![domain.to_string(), format!("*.{domain}")]);
    }
    if written.len() > MAX_NAMES {
        return Err(Invalid::new(key, format_args!("there may be {MAX_NAMES} at most")));
    }
    for name in &written {
        let plain = name.strip_prefix("*.").unwrap_or(name);
        let hostname: Hostname = plain.parse().map_err(|error| Invalid::new(key, error))?;
        if !hostname.is_under(domain) {
            return Err(Invalid::new(key, format_args!("{name} is not under the domain {domain}")));
        }
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(dir: &Path, name: &str, mode: u32, content: &str, toml: &str) -> Result<DnsChallenge, String> {
        let path = dir.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let section: DnsChallengeSection = toml::from_str(&toml.replace("PATH", path.to_str().unwrap())).unwrap();
        section.check(&"example.com".parse().unwrap()).map_err(|error| format!("{error:?}"))
    }

    #[test]
    fn a_command_must_be_a_program_that_only_its_owner_changes() {
        let dir = tempfile::tempdir().unwrap();
        let command = |mode, more: &str| checked(dir.path(), "dns", mode, "", &format!("command = \"PATH\"\n{more}"));
        let challenge = command(0o755, "").unwrap();
        assert_eq!(challenge.names, ["example.com", "*.example.com"]);
        assert!(command(0o644, "").unwrap_err().contains("chmod +x"));
        assert!(command(0o777, "").unwrap_err().contains("chmod go-w"));
        let named = command(0o755, "names = [\"*.home.example.com\", \"a.example.com\"]").unwrap();
        assert_eq!(named.names, ["*.home.example.com", "a.example.com"]);
        for wrong in ["*.example.org", "*", "*.*.example.com"] {
            assert!(command(0o755, &format!("names = [{wrong:?}]")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_key_must_be_one_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let toml = "rfc2136 = { server = \"ns.example.com\", key_file = \"PATH\" }";
        let key = "key \"edge\" { algorithm hmac-sha256; secret \"c2VjcmV0\"; };";
        assert!(checked(dir.path(), "key", 0o600, key, toml).is_ok());
        assert!(checked(dir.path(), "key", 0o640, key, toml).unwrap_err().contains("chmod 600"));
        let wrong = checked(dir.path(), "key", 0o600, "c2VjcmV0", toml).unwrap_err();
        assert!(wrong.contains("as `tsig-keygen NAME` writes it") && !wrong.contains("c2VjcmV0"), "{wrong}");
        let both = "command = \"PATH\"\nrfc2136 = { server = \"ns\", key_file = \"PATH\" }";
        assert!(checked(dir.path(), "key", 0o600, key, both).unwrap_err().contains("either"));
        assert!(checked(dir.path(), "key", 0o600, key, "").unwrap_err().contains("either"));
    }
}
