//! The configuration files as set-up writes them: what was answered, and nothing that is a default.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use model::Role;
use serde::Serialize;

use crate::error::LOOK_AT_DISK;
use crate::{Mail, Paths, SetupError, unit};

#[derive(Debug, Serialize)]
pub(crate) struct EdgeFile {
    pub(crate) domain: String,
    pub(crate) tunnel: Tunnel,
    pub(crate) ingress: Ingress,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) services: BTreeMap<&'static str, Service>,
}

#[derive(Debug, Serialize)]
pub(crate) struct HomeFile {
    pub(crate) domain: String,
    pub(crate) tunnel: Tunnel,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) control: Option<Control>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) outside: Option<Outside>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) services: BTreeMap<&'static str, Service>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Tunnel {
    pub(crate) mode: &'static str,
    pub(crate) peer: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) remotes: Vec<String>,
    pub(crate) subnet: Ipv4Net,
}

#[derive(Debug, Serialize)]
pub(crate) struct Control {
    pub(crate) port: u16,
}

#[derive(Debug, Serialize)]
pub(crate) struct Ingress {
    pub(crate) email: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) acme_directory: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) acme_api_root: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) acme_issuer_root: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Outside {
    pub(crate) issuer_root: PathBuf,
}

#[derive(Debug, Serialize)]
pub(crate) struct Service {
    pub(crate) kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mail: Option<Mail>,
}

impl Service {
    /// One service of a kind, under the kind's name.
    pub(crate) fn only(kind: &'static str, mail: Option<Mail>) -> BTreeMap<&'static str, Self> {
        BTreeMap::from([(kind, Self { kind, mail })])
    }
}

/// Puts a configuration in its place when the agent's own program takes it; else nothing changes. One that was there before gets
/// another name, which is given back.
pub(crate) async fn put(paths: &Paths, role: Role, content: &impl Serialize) -> Result<Option<PathBuf>, SetupError> {
    let (file, candidate) = (paths.configuration(role), paths.etc.join(format!("{role}.candidate.toml")));
    let what = || format!("{} cannot be written", file.display());
    let text = text(role, content).map_err(|error| SetupError::because(what(), error, LOOK_AT_DISK))?;
    fs::create_dir_all(&paths.etc)
        .and_then(|()| state::write_private(&candidate, text.as_bytes()))
        .map_err(|error| SetupError::because(what(), error, LOOK_AT_DISK))?;
    let checked = unit::check(role, &candidate).await;
    let put = checked.and_then(|()| {
        let put = paths.put_aside(role).and_then(|aside| renamed(&candidate, &file).map(|()| aside));
        put.map_err(|error| SetupError::because(what(), error, LOOK_AT_DISK))
    });
    if put.is_err() {
        // It was never in force, and the next run writes it anew.
        fs::remove_file(&candidate).ok();
    }
    put
}

fn renamed(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::rename(from, to)?;
    fs::File::open(to.parent().unwrap_or(Path::new("/")))?.sync_all()
}

fn text(role: Role, content: &impl Serialize) -> Result<String, toml::ser::Error> {
    let command = match role {
        Role::Edge => "init",
        Role::Home | Role::Device => "join",
    };
    Ok(format!(
        "# As `agentctl {command}` wrote it. Every key and its default: /usr/share/doc/cloudathome-{role}/examples/{role}.toml.\n\
         # After a change: `agentctl config check`, then `agentctl config reload`.\n\n{}",
        toml::to_string(content)?
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_what_was_answered_and_nothing_else() {
        let file = EdgeFile {
            domain: "example.com".into(),
            tunnel: Tunnel {
                mode: "listen",
                peer: "home".into(),
                remotes: vec![],
                subnet: "10.86.0.0/24".parse().unwrap(),
            },
            ingress: Ingress {
                email: "me@example.com".into(),
                acme_directory: None,
                acme_api_root: None,
                acme_issuer_root: None,
            },
            services: Service::only("ghost", None),
        };
        let text = text(Role::Edge, &file).unwrap();
        let expected = "domain = \"example.com\"\n\n[tunnel]\nmode = \"listen\"\npeer = \"home\"\nsubnet = \"10.86.0.0/24\"\n\n\
                        [ingress]\nemail = \"me@example.com\"\n\n[services.ghost]\nkind = \"ghost\"\n";
        assert!(text.ends_with(expected), "{text}");
        assert!(text.starts_with("# As `agentctl init` wrote it."), "{text}");
    }
}
