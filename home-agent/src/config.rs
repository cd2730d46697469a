//! home-agent's configuration file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use agent::config::{
    Common, ControlSection, EngineSection, LogSection, MetricsSection, TunnelSection, Written as CommonWritten,
    certificate,
};
use agent::devices::DevicesSection;
use agent::services::{self, Service, ServiceSection};
use daemon::ConfigCheck;
use daemon::config::{ConfigError, Invalid, Loaded, Source, load};
use daemon::logs::Format;
use model::{Hostname, Role};
use serde::Deserialize;

/// The file as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    domain: Option<String>,
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
    #[serde(default)]
    outside: OutsideSection,
    #[serde(default)]
    services: BTreeMap<String, ServiceSection>,
}

/// `[outside]` as written: how public names are fetched from here.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct OutsideSection {
    issuer_root: Option<PathBuf>,
}

/// The checked configuration.
#[derive(Debug)]
pub struct Config {
    /// What both agents have.
    pub common: Common,
    /// The only domain under which the edge may give names; none: the one that it says.
    pub domain: Option<Hostname>,
    /// The services of this home.
    pub services: Vec<Service>,
    /// PEM of a root that the public names' certificates chain to, besides those that browsers trust.
    pub issuer_root: Option<String>,
}

impl TryFrom<Written> for Config {
    type Error = Invalid;

    fn try_from(written: Written) -> Result<Self, Invalid> {
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
        let domain = written.domain.map(|domain| domain.parse()).transpose();
        let domain = domain.map_err(|error| Invalid::new("domain", error))?;
        let services = services::check(written.services, Role::Home, None)?;
        let issuer_root = certificate("outside.issuer_root", written.outside.issuer_root)?;
        Ok(Self { common: common.check(Role::Home)?, domain, services, issuer_root })
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
