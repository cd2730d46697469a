//! edge-agent's configuration file.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use agent::config::{
    Common, ControlSection, EngineSection, LogSection, MetricsSection, TunnelSection, Written as CommonWritten,
    absolute, certificate,
};
use agent::devices::DevicesSection;
use agent::services::{self, Service, ServiceSection};
use daemon::ConfigCheck;
use daemon::config::{ConfigError, Invalid, Loaded, Source, load};
use daemon::logs::Format;
use model::{Hostname, Role};
use serde::Deserialize;

use crate::dns_challenge::{DnsChallenge, DnsChallengeSection};

/// The file as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    domain: String,
    identity_dir: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    #[serde(default)]
    log: LogSection,
    #[serde(default)]
    metrics: MetricsSection,
    #[serde(default)]
    control: ControlSection,
    #[serde(default)]
    engine: EngineSection,
    tunnel: TunnelSection,
    #[serde(default)]
    devices: DevicesSection,
    ingress: Option<IngressSection>,
    #[serde(default)]
    services: BTreeMap<String, ServiceSection>,
}

/// `[ingress]` as written. Without the section the edge runs no Caddy and publishes nothing.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct IngressSection {
    email: String,
    image: Option<String>,
    acme_directory: Option<String>,
    acme_api_root: Option<PathBuf>,
    acme_issuer_root: Option<PathBuf>,
    import: Option<PathBuf>,
    access_log: Option<bool>,
    #[serde(default)]
    dns: Vec<String>,
    dns_challenge: Option<DnsChallengeSection>,
}

/// The checked configuration.
#[derive(Debug)]
pub struct Config {
    /// What both agents have.
    pub common: Common,
    /// Services get their names under it.
    pub domain: Hostname,
    /// What runs the ingress, if anything.
    pub ingress: Option<Ingress>,
    /// The services of this edge.
    pub services: Vec<Service>,
}

/// The ingress, checked.
#[derive(Debug, Clone)]
pub struct Ingress {
    /// Caddy's image.
    pub image: String,
    /// Where the ACME server writes when a certificate is about to expire unrenewed.
    pub email: String,
    /// The ACME server.
    pub acme_directory: String,
    /// PEM of the root that the ACME server's own API chains to, when it is not a public one.
    pub acme_api_root: Option<String>,
    /// PEM of the root that issued certificates chain to, when it is not a public one: what probes then trust.
    pub acme_issuer_root: Option<String>,
    /// Caddy's name servers; empty takes the engine's.
    pub dns: Vec<String>,
    /// A directory with the data of another Caddy, whose certificates are taken over.
    pub import: Option<PathBuf>,
    /// Whether visits are written to files.
    pub access_log: bool,
    /// How certificates are got by DNS-01, if any are.
    pub dns_challenge: Option<DnsChallenge>,
}

/// The ACME directory of Let's Encrypt.
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

impl TryFrom<Written> for Config {
    type Error = Invalid;

    fn try_from(written: Written) -> Result<Self, Invalid> {
        let domain = written.domain.parse().map_err(|error| Invalid::new("domain", error))?;
        let ingress = written.ingress.map(|section| Ingress::check(section, &domain)).transpose()?;
        let common = CommonWritten {
            identity_dir: written.identity_dir,
            state_dir: written.state_dir,
            log: written.log,
            metrics: written.metrics,
            control: written.control,
            engine: written.engine,
            tunnel: written.tunnel,
            devices: written.devices,
        };
        let owner = ingress.as_ref().map(|ingress: &Ingress| ingress.email.as_str());
        let services = services::check(written.services, Role::Edge, owner)?;
        let mut common = common.check(Role::Edge)?;
        common.tunnel.devices.ingress = ingress.is_some();
        Ok(Self { common, domain, ingress, services })
    }
}

impl Ingress {
    fn check(written: IngressSection, domain: &Hostname) -> Result<Self, Invalid> {
        let email = written.email;
        if !email.split_once('@').is_some_and(|(user, host)| !user.is_empty() && host.contains('.')) {
            return Err(Invalid::new("ingress.email", format_args!("{email:?} is not a mail address")));
        }
        let acme_directory = written.acme_directory.unwrap_or_else(|| LETS_ENCRYPT.to_owned());
        if !acme_directory.starts_with("https://") {
            return Err(Invalid::new(
                "ingress.acme_directory",
                format_args!("{acme_directory:?} is not an https:// URL"),
            ));
        }
        for address in &written.dns {
            if address.parse::<IpAddr>().is_err() {
                return Err(Invalid::new("ingress.dns", format_args!("{address:?} is not an IP address")));
            }
        }
        Ok(Self {
            image: written.image.unwrap_or_else(|| "caddy:2".to_owned()),
            email,
            acme_directory,
            acme_api_root: certificate("ingress.acme_api_root", written.acme_api_root)?,
            acme_issuer_root: certificate("ingress.acme_issuer_root", written.acme_issuer_root)?,
            dns: written.dns,
            import: written.import.map(import).transpose()?,
            access_log: written.access_log.unwrap_or(true),
            dns_challenge: written.dns_challenge.map(|section| section.check(domain)).transpose()?,
        })
    }
}

/// A directory with the data of another Caddy: itself, or the one above it.
fn import(dir: PathBuf) -> Result<PathBuf, Invalid> {
    let key = "ingress.import";
    let dir = absolute(key, Some(dir), "")?;
    if dir.join("certificates").is_dir() || dir.join("caddy/certificates").is_dir() {
        Ok(dir)
    } else {
        Err(Invalid::new(
            key,
            format_args!("{} has no folder certificates; name the data directory of the other Caddy", dir.display()),
        ))
    }
}

impl ConfigCheck for Config {
    fn logs(&self) -> (Format, &str) {
        (self.common.log_format, &self.common.log_filter)
    }

    fn load(source: &Source) -> Result<Loaded<Self>, ConfigError> {
        load::<Written, Self>(source)
    }
}
