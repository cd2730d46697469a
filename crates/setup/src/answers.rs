//! The answer file: everything that a person would be asked or could say by flags, for hosts that are set up by programs.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use hostcheck::MailServer;
use serde::{Deserialize, Serialize};
use supervisor::apps::MailSecurity;

use crate::SetupError;

/// The file's content (TOML). Whatever it leaves out comes from flags, questions or defaults. A join code has no place in it: it
/// comes by standard input.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AnswerFile {
    /// At the edge: the domain under which services get their names.
    pub domain: Option<String>,
    /// At the edge: where certificate authorities write.
    pub email: Option<String>,
    /// At the edge: its public IPv4 address, where its own is translated.
    pub address: Option<Ipv4Addr>,
    /// At the edge: whether there is a blog.
    pub blog: Option<bool>,
    /// At the edge: whether to go on while the names do not lead here yet.
    pub dns_later: Option<bool>,
    /// At the edge: another ACME server than Let's Encrypt.
    pub acme_directory: Option<String>,
    /// The root of that server's own API, a PEM file.
    pub acme_api_root: Option<PathBuf>,
    /// On both: the root of the certificates that it issues, a PEM file.
    pub acme_issuer_root: Option<PathBuf>,
    /// At home: where the edge is, for codes that do not carry it: `HOST` or `HOST:PORT`.
    pub edge: Option<String>,
    /// At home: whether there is a Nextcloud.
    pub nextcloud: Option<bool>,
    /// On both: by which server services send mail.
    pub mail: Option<Mail>,
}

/// A mail server, as it stands in a service's section.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mail {
    /// Its name or address.
    pub host: String,
    /// Its port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// `tls`, `starttls` or `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security: Option<String>,
    /// Who logs in there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// A file with the password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// The sender.
    pub from: String,
}

/// What the agents' units hide from them: homes of people and other programs' temporary files.
const HIDDEN: [&str; 5] = ["/root", "/home", "/run/user", "/tmp", "/var/tmp"];

/// A file that a configuration names, as the agent will find it.
///
/// # Errors
/// In words for people, when it is not there, or lies where the agent cannot look.
pub fn for_the_agent(path: &Path) -> Result<PathBuf, String> {
    let name = path.display();
    let whole = fs::canonicalize(path).map_err(|error| format!("{name} cannot be used: {error}"))?;
    if HIDDEN.iter().any(|dir| whole.starts_with(dir)) {
        return Err(format!("{name} lies where the agent cannot look: put it into /etc/cloudathome"));
    }
    fs::File::open(&whole).map_err(|error| format!("{name} cannot be read: {error}"))?;
    Ok(whole)
}

impl Mail {
    /// The same with what can be found out about it beforehand.
    ///
    /// # Errors
    /// In words for people.
    pub fn checked(mut self) -> Result<Self, String> {
        if self.server("mail").is_none() {
            let word = self.security.unwrap_or_default();
            return Err(format!("mail.security {word:?} is not known; use \"tls\", \"starttls\" or \"none\""));
        }
        if self.port == Some(0) {
            return Err("mail.port 0 is no port".to_owned());
        }
        if let Some(file) = self.password_file {
            self.password_file = Some(for_the_agent(&file)?);
        }
        Ok(self)
    }
    /// The server, to be looked at for a service; none where the words for its protection are none.
    pub(crate) fn server(&self, service: &str) -> Option<MailServer> {
        let (security, usual) = match self.security.as_deref() {
            None | Some("tls") => (MailSecurity::Tls, 465),
            Some("starttls") => (MailSecurity::StartTls, 587),
            Some("none") => (MailSecurity::None, 25),
            Some(_) => return None,
        };
        let service = service.parse().ok()?;
        Some(MailServer { service, host: self.host.clone(), port: self.port.unwrap_or(usual), security })
    }
}

impl AnswerFile {
    /// Reads a file.
    ///
    /// # Errors
    /// Naming the line that cannot be used.
    pub fn read(path: &Path) -> Result<Self, SetupError> {
        let name = path.display();
        let text = fs::read_to_string(path).map_err(|error| {
            SetupError::because(format!("{name} cannot be read"), error, "name the file with the answers")
        })?;
        toml::from_str(&text).map_err(|error| {
            let next = "`agentctl init --help` and `agentctl join --help` name what can stand there";
            SetupError::new(format!("{name} is no answer file: {}", error.to_string().trim()), next)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_where_the_agent_looks() {
        assert!(for_the_agent(Path::new("/etc/hostname")).is_ok());
        assert!(for_the_agent(Path::new("/etc/no such file")).unwrap_err().contains("cannot be used"));
        let hidden = tempfile::NamedTempFile::new_in("/tmp").unwrap();
        assert!(for_the_agent(hidden.path()).unwrap_err().contains("put it into /etc/cloudathome"));
        let mail = |security: &str| {
            let mail: Mail = toml::from_str("host = \"smtp\"\nfrom = \"a@b.c\"\n").unwrap();
            Mail { security: Some(security.to_owned()), ..mail }.checked()
        };
        assert!(mail("starttls").is_ok() && mail("ssl").unwrap_err().contains("ssl"));
    }

    #[test]
    fn unknown_answers_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("answers.toml");
        fs::write(&path, "domain = \"example.com\"\nblog = false\n[mail]\nhost = \"smtp\"\nfrom = \"a@b.c\"\n")
            .unwrap();
        let read = AnswerFile::read(&path).unwrap();
        assert_eq!((read.domain.as_deref(), read.blog), (Some("example.com"), Some(false)));
        assert_eq!(read.mail.unwrap().host, "smtp");
        for (wrong, says) in [("code = \"x\"\n", "code"), ("blog = 1\n", "line 1"), ("domain = \n", "line 1")] {
            fs::write(&path, wrong).unwrap();
            let error = AnswerFile::read(&path).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
        assert!(AnswerFile::read(&dir.path().join("none")).is_err());
    }
}
