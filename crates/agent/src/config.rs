//! The part of the configuration that both agents have: written form, checked form, and the check between them.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use control::Rights;
use daemon::config::Invalid;
use daemon::logs;
use ipnet::Ipv4Net;
use model::{HostId, Role};
use pki::HostIdentity;
use serde::Deserialize;
use tunnel::{Cipher, Offload, Remote, TlsVersion};

use crate::devices::{DevicePolicy, DevicesSection};
use crate::link;

/// `[log]` as written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSection {
    format: logs::Format,
    filter: Option<String>,
}

/// `[metrics]` as written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsSection {
    listen: Option<String>,
    tunnel: bool,
}

/// `[control]` as written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ControlSection {
    port: Option<u16>,
    socket: Option<PathBuf>,
    home_may: Option<String>,
    edge_may: Option<String>,
}

/// What is to stay free on the disk of the engine's data, MiB: databases and logs need some to go on.
const KEEP_FREE_MIB: u64 = 1024;

/// `[engine]` as written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EngineSection {
    socket: Option<PathBuf>,
    keep_free_mib: Option<u64>,
}

/// `[tunnel]` as written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TunnelSection {
    mode: TunnelMode,
    peer: String,
    listen: Option<String>,
    #[serde(default)]
    remotes: Vec<String>,
    subnet: Option<String>,
    device: Option<String>,
    data_ciphers: Option<Vec<String>>,
    tls_version_min: Option<String>,
    crl: Option<PathBuf>,
    offload: Option<String>,
    mtu: Option<Mtu>,
}

/// A number, also as it stands in an environment variable or a flag, or a word.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "\"auto\" or a number of bytes")]
enum Mtu {
    Bytes(i64),
    Word(String),
}

/// Which end of the tunnel waits and which one calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TunnelMode {
    /// Waits for peers.
    Listen,
    /// Calls a peer.
    Dial,
}

/// What every configuration file of an agent holds besides the agent's own sections.
#[derive(Debug)]
pub struct Written {
    /// `identity_dir`.
    pub identity_dir: Option<PathBuf>,
    /// `state_dir`.
    pub state_dir: Option<PathBuf>,
    /// `[log]`.
    pub log: LogSection,
    /// `[metrics]`.
    pub metrics: MetricsSection,
    /// `[control]`.
    pub control: ControlSection,
    /// `[engine]`.
    pub engine: EngineSection,
    /// `[tunnel]`.
    pub tunnel: TunnelSection,
    /// `[devices]`.
    pub devices: DevicesSection,
}

/// The checked form of [`Written`].
#[derive(Debug)]
pub struct Common {
    /// Where this host's identity lies.
    pub identity_dir: PathBuf,
    /// Who this host is.
    pub identity: HostIdentity,
    /// Where state is kept.
    pub state_dir: PathBuf,
    /// Log format.
    pub log_format: logs::Format,
    /// Log filter.
    pub log_filter: String,
    /// Where `/metrics` answers.
    pub metrics_listen: SocketAddr,
    /// Whether it answers the opposite host too, on the tunnel address at the same port.
    pub metrics_tunnel: bool,
    /// TCP port of the control channel on the edge's tunnel address.
    pub control_port: u16,
    /// The unix socket for `agentctl`.
    pub control_socket: PathBuf,
    /// What the opposite agent may ask of this one.
    pub opposite_may: Rights,
    /// The Docker engine's unix socket.
    pub engine_socket: PathBuf,
    /// Bytes that are to stay free on the disk of the engine's data. With less, uploads are refused; 0: they never are.
    pub keep_free: u64,
    /// The tunnel.
    pub tunnel: TunnelSettings,
}

/// The tunnel, checked.
#[derive(Debug, Clone)]
pub struct TunnelSettings {
    /// Which end we are.
    pub mode: Mode,
    /// The opposite agent's host, as its certificate must say.
    pub peer: HostId,
    /// Addresses inside: the edge is the first host, home the second, devices come after. /8 to /29.
    pub subnet: Ipv4Net,
    /// The link's name.
    pub device: String,
    /// Data ciphers in order of preference.
    pub data_ciphers: Vec<Cipher>,
    /// Lowest TLS version that peers may speak.
    pub tls_version_min: TlsVersion,
    /// The authority's list of revoked certificates.
    pub crl: Option<PathBuf>,
    /// Whether the kernel's offloads are used.
    pub offload: Offload,
    /// Largest packet inside, bytes, one of [`MTUS`]. `None`: it follows the path.
    pub mtu: Option<u16>,
    /// What devices may reach by way of this host.
    pub devices: DevicePolicy,
}

/// Which end of the tunnel we are, with what that end needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Waits for peers on this address, over UDP and TCP.
    Listen(SocketAddr),
    /// Calls the first of these that answers.
    Dial(Vec<Remote>),
}

impl TunnelSettings {
    /// The edge's address inside, whoever listens: the first of the subnet.
    #[must_use]
    pub fn edge_address(&self) -> Ipv4Addr {
        self.host_address(1)
    }

    /// Home's address inside: the second of the subnet.
    #[must_use]
    pub fn home_address(&self) -> Ipv4Addr {
        self.host_address(2)
    }

    /// Addresses for everybody else.
    #[must_use]
    pub fn pool(&self) -> RangeInclusive<Ipv4Addr> {
        let hosts = (1_u32 << (32 - self.subnet.prefix_len())) - 2;
        self.host_address(3)..=self.host_address(hosts)
    }

    /// The subnet has room for five hosts at least, see [`LONGEST_PREFIX`].
    fn host_address(&self, host: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.subnet.network().to_bits() + host)
    }
}

/// Smallest subnet: network, edge, home, a device, broadcast.
const LONGEST_PREFIX: u8 = 29;
/// MTUs that can be set, bytes. On a link with less Linux has no IPv6.
pub const MTUS: RangeInclusive<u16> = 1280..=tunnel::MAX_MTU;
/// Linux takes 15 bytes for the name of a link.
const MAX_DEVICE_NAME: usize = 15;

impl Written {
    /// Checks everything, reading the identity's files. `role` is what this host must be by its certificate.
    ///
    /// # Errors
    /// Naming the key.
    pub fn check(self, role: Role) -> Result<Common, Invalid> {
        let state_dir = absolute("state_dir", self.state_dir, "/var/lib/cloudathome")?;
        let identity_dir = self.identity_dir.unwrap_or_else(|| state_dir.join("identity"));
        let log_filter = self.log.filter.unwrap_or_else(|| "info".to_owned());
        logs::check_filter(&log_filter).map_err(|reason| Invalid::new("log.filter", reason))?;
        let metrics_listen = match self.metrics.listen {
            Some(text) => socket_address("metrics.listen", &text)?,
            None => SocketAddr::from(([127, 0, 0, 1], 9586)),
        };
        if metrics_listen.ip().is_unspecified() {
            return Err(Invalid::new(
                "metrics.listen",
                format_args!("{metrics_listen} would open the metrics to everybody; use a loopback address"),
            ));
        }
        let default_socket = format!("/run/cloudathome/{role}.sock");
        let identity = identity(&identity_dir, role)?;
        let tunnel = self.tunnel.check(&identity, &state_dir, self.devices, role)?;
        link::protection(&tunnel.mode, &identity)
            .map_err(|error| Invalid::new("identity_dir", format_args!("{error:#}")))?;
        Ok(Common {
            identity_dir,
            identity,
            state_dir,
            log_format: self.log.format,
            log_filter,
            metrics_listen,
            metrics_tunnel: self.metrics.tunnel,
            control_port: match self.control.port {
                Some(0) => return Err(Invalid::new("control.port", "0 is no port; use 1 to 65535")),
                port => port.unwrap_or(7443),
            },
            opposite_may: self.control.rights(role)?,
            control_socket: absolute("control.socket", self.control.socket, &default_socket)?,
            keep_free: self.engine.keep_free_mib.unwrap_or(KEEP_FREE_MIB).saturating_mul(1 << 20),
            engine_socket: absolute("engine.socket", self.engine.socket, "/var/run/docker.sock")?,
            tunnel,
        })
    }
}

impl ControlSection {
    /// Each host's own file says what the other may do there.
    fn rights(&self, role: Role) -> Result<Rights, Invalid> {
        let (ours, others) = match role {
            Role::Edge => (("control.home_may", &self.home_may), ("control.edge_may", &self.edge_may)),
            Role::Home | Role::Device => (("control.edge_may", &self.edge_may), ("control.home_may", &self.home_may)),
        };
        if others.1.is_some() {
            return Err(Invalid::new(others.0, format_args!("belongs to the opposite host; here it is {}", ours.0)));
        }
        let Some(word) = ours.1 else { return Ok(Rights::of_opposite(role)) };
        word.parse().map_err(|error| Invalid::new(ours.0, error))
    }
}

impl TunnelSection {
    fn check(
        self,
        identity: &HostIdentity,
        state_dir: &Path,
        devices: DevicesSection,
        role: Role,
    ) -> Result<TunnelSettings, Invalid> {
        let mode = match self.mode {
            TunnelMode::Listen => {
                if !self.remotes.is_empty() {
                    return Err(Invalid::new("tunnel.remotes", "belongs to mode = \"dial\"; a listener calls nobody"));
                }
                let text = self.listen.as_deref().unwrap_or("0.0.0.0:1194");
                Mode::Listen(socket_address("tunnel.listen", text)?)
            }
            TunnelMode::Dial => {
                if self.listen.is_some() {
                    return Err(Invalid::new("tunnel.listen", "belongs to mode = \"listen\"; a dialer binds no port"));
                }
                if self.remotes.is_empty() {
                    return Err(Invalid::new(
                        "tunnel.remotes",
                        "is empty; mode = \"dial\" needs whom to call, as in [\"vps.example.com:1194\"]",
                    ));
                }
                Mode::Dial(self.remotes.iter().map(|remote| read_remote(remote)).collect::<Result<_, _>>()?)
            }
        };
        let peer = self.peer.parse().map_err(|error| Invalid::new("tunnel.peer", error))?;
        let subnet_text = self.subnet.as_deref().unwrap_or("10.86.0.0/24");
        let subnet: Ipv4Net = subnet_text.parse().map_err(|_| {
            Invalid::new("tunnel.subnet", format_args!("{subnet_text:?} is not an IPv4 subnet, as in 10.86.0.0/24"))
        })?;
        if subnet.trunc() != subnet || subnet.prefix_len() > LONGEST_PREFIX || subnet.prefix_len() < 8 {
            return Err(Invalid::new(
                "tunnel.subnet",
                format_args!("{subnet} must be a network address with a prefix of /8 to /{LONGEST_PREFIX}"),
            ));
        }
        if !subnet.network().is_private() {
            return Err(Invalid::new(
                "tunnel.subnet",
                format_args!("{subnet} is not private; use a part of 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16"),
            ));
        }
        let device = self.device.unwrap_or_else(|| "cah0".to_owned());
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if device.is_empty() || device.len() > MAX_DEVICE_NAME || !device.chars().all(plain) || device.starts_with('.')
        {
            return Err(Invalid::new(
                "tunnel.device",
                format_args!(
                    "{device:?} is no name for a link; use 1 to {MAX_DEVICE_NAME} of a-z, A-Z, 0-9, '-', '_', '.'"
                ),
            ));
        }
        let data_ciphers = match self.data_ciphers {
            None => Cipher::ALL.to_vec(),
            Some(names) => ciphers(&names)?,
        };
        let tls_version_min = match self.tls_version_min.as_deref() {
            None | Some("1.2") => TlsVersion::V1_2,
            Some("1.3") => TlsVersion::V1_3,
            Some(other) => {
                return Err(Invalid::new(
                    "tunnel.tls_version_min",
                    format_args!("{other:?} is not spoken; use \"1.2\" or \"1.3\""),
                ));
            }
        };
        // That of an authority of this host's own is in force at once.
        let own = || Some(state_dir.join("authority").join("crl.pem")).filter(|path| path.exists());
        let crl = self.crl.or_else(own).map(|path| revocation_list(path, identity)).transpose()?;
        let offload = match self.offload.as_deref() {
            None => Offload::default(),
            Some(word) => word.parse().map_err(|error| Invalid::new("tunnel.offload", error))?,
        };
        let mtu = self.mtu.map(Mtu::check).transpose()?.flatten();
        let devices = devices.check(role, matches!(mode, Mode::Listen(_)))?;
        Ok(TunnelSettings { mode, peer, subnet, device, data_ciphers, tls_version_min, crl, offload, mtu, devices })
    }
}

impl Mtu {
    fn check(self) -> Result<Option<u16>, Invalid> {
        let shown = match self {
            Self::Word(word) if word == "auto" => return Ok(None),
            Self::Word(word) => word,
            Self::Bytes(bytes) => bytes.to_string(),
        };
        match shown.parse().ok().filter(|mtu| MTUS.contains(mtu)) {
            Some(mtu) => Ok(Some(mtu)),
            None => Err(Invalid::new(
                "tunnel.mtu",
                format_args!("{shown:?} is neither \"auto\" nor a number from {} to {}", MTUS.start(), MTUS.end()),
            )),
        }
    }
}

/// A list that can be used, though it may have ended: the tunnel then says so and refuses everybody.
fn revocation_list(path: PathBuf, identity: &HostIdentity) -> Result<PathBuf, Invalid> {
    let key = "tunnel.crl";
    let path = absolute(key, Some(path), "")?;
    tunnel::check_crl(&path, &identity.ca_pem).map_err(|error| Invalid::new(key, chain(&error)))?;
    Ok(path)
}

fn ciphers(names: &[String]) -> Result<Vec<Cipher>, Invalid> {
    let key = "tunnel.data_ciphers";
    if names.is_empty() {
        let known: Vec<_> = Cipher::ALL.iter().map(|cipher| cipher.as_str()).collect();
        return Err(Invalid::new(key, format_args!("is empty; choose among {}", known.join(", "))));
    }
    names.iter().map(|name| name.parse().map_err(|error| Invalid::new(key, error))).collect()
}

fn read_remote(text: &str) -> Result<Remote, Invalid> {
    text.parse().map_err(|error| Invalid::new("tunnel.remotes", error))
}

fn socket_address(key: &str, text: &str) -> Result<SocketAddr, Invalid> {
    let address: SocketAddr = text
        .parse()
        .map_err(|_| Invalid::new(key, format_args!("{text:?} is not ADDRESS:PORT, as in 127.0.0.1:9586")))?;
    if address.port() == 0 { Err(Invalid::new(key, "port 0 is no port; use 1 to 65535")) } else { Ok(address) }
}

/// A path that must be absolute, or its default.
///
/// # Errors
/// When it is relative: a daemon has no directory to start from.
pub fn absolute(key: &str, path: Option<PathBuf>, default: &str) -> Result<PathBuf, Invalid> {
    let path = path.unwrap_or_else(|| PathBuf::from(default));
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(Invalid::new(key, format_args!("{} is not an absolute path", path.display())))
    }
}

/// The text of a file with certificates, whose path the key `key` gives.
///
/// # Errors
/// When the path is not absolute, or the file cannot be read or holds no certificate.
pub fn certificate(key: &str, path: Option<PathBuf>) -> Result<Option<String>, Invalid> {
    let Some(path) = path else { return Ok(None) };
    let path = absolute(key, Some(path), "")?;
    let pem = std::fs::read_to_string(&path)
        .map_err(|error| Invalid::new(key, format_args!("{} cannot be read: {error}", path.display())))?;
    if pem.contains("-----BEGIN CERTIFICATE-----") {
        Ok(Some(pem))
    } else {
        Err(Invalid::new(key, format_args!("{} holds no PEM certificate", path.display())))
    }
}

fn identity(dir: &Path, role: Role) -> Result<HostIdentity, Invalid> {
    let key = "identity_dir";
    let identity = HostIdentity::load(dir).map_err(|error| Invalid::new(key, chain(&error)))?;
    let info = identity.info().map_err(|error| Invalid::new(key, chain(&error)))?;
    if info.role.role != role {
        return Err(Invalid::new(
            key,
            format_args!("{} holds the identity {}; this agent needs one of role {role}", dir.display(), info.role),
        ));
    }
    Ok(identity)
}

/// An error with its causes on one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_says_what_the_other_host_may() {
        let rights = |role, home_may: Option<&str>, edge_may: Option<&str>| {
            let (home_may, edge_may) = (home_may.map(str::to_owned), edge_may.map(str::to_owned));
            let section = ControlSection { home_may, edge_may, ..ControlSection::default() };
            section.rights(role).map_err(|invalid| format!("{invalid:?}"))
        };
        assert_eq!(rights(Role::Edge, None, None), Ok(Rights::Operate));
        assert_eq!(rights(Role::Home, None, None), Ok(Rights::Inspect));
        assert_eq!(rights(Role::Edge, Some("inspect"), None), Ok(Rights::Inspect));
        assert_eq!(rights(Role::Home, None, Some("operate")), Ok(Rights::Operate));
        assert_eq!(rights(Role::Home, None, Some("nothing")), Ok(Rights::Nothing));
        let others = rights(Role::Home, Some("operate"), None).unwrap_err();
        assert!(others.contains("control.home_may") && others.contains("here it is control.edge_may"), "{others}");
        let unknown = rights(Role::Edge, Some("all"), None).unwrap_err();
        assert!(unknown.contains("control.home_may") && unknown.contains("is none of"), "{unknown}");
    }
}
