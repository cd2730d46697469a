//! `agentctl pki`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use model::{HostId, Role};
use pki::Serial;
use profile::{DeviceProfileError, DeviceRemote};

use super::examples;

#[derive(Debug, Subcommand)]
pub(crate) enum PkiCommand {
    /// Makes the private certificate authority and the tunnel's static key
    ///
    /// Whoever holds the directory can make hosts that yours trust: keep it on a machine that neither agent runs on.
    #[command(after_help = examples(&[
        ("agentctl pki init --dir ./authority", "makes ./authority, which must not exist or be empty"),
        ("agentctl pki init --dir ./authority --name \"Our cloud\"", "with a name that people see"),
    ]))]
    Init(InitArgs),
    /// Issues an identity: the directory that an agent loads, or the files for a device
    ///
    /// The directory holds a private key: bring it to its host by a way that nobody else can read (scp does), and
    /// let root own it there.
    #[command(after_help = examples(&[
        ("agentctl pki issue --ca ./authority --role edge --name vps --out ./vps", "for the public host"),
        ("agentctl pki issue --ca ./authority --role home --name attic --out ./attic", "for the host at home"),
        ("scp -r ./vps root@vps.example.com:/var/lib/cloudathome/identity", "where the agent looks for it"),
    ]))]
    Issue(IssueArgs),
    /// Puts certificates on the authority's list of those that count no more
    ///
    /// The list is crl.pem in the authority's directory, good for a year. An agent whose tunnel.crl names a copy of it
    /// takes a new copy up within seconds: it disconnects who is on it, and refuses them from then on.
    #[command(after_help = examples(&[
        ("agentctl pki revoke --ca ./authority --name phone", "everything that was issued to phone"),
        ("agentctl pki revoke --ca ./authority --cert ./phone/host.crt", "one certificate"),
        ("scp ./authority/crl.pem root@vps.example.com:/etc/cloudathome/crl.pem", "where tunnel.crl says"),
    ]))]
    Revoke(RevokeArgs),
    /// Signs the list of revoked certificates anew, so that it does not end
    ///
    /// An agent whose list has ended refuses everybody. It warns of that a week ahead.
    #[command(after_help = examples(&[
        ("agentctl pki crl --ca ./authority", "the first list, or the same list for another year"),
        ("agentctl pki crl --ca ./authority --days 90", "for a shorter time"),
    ]))]
    Crl(CrlArgs),
    /// Issues a device's identity as a profile, the one file that a stock OpenVPN client imports
    ///
    /// OpenVPN 2.6 and newer, OpenVPN Connect, OpenVPN 3 for Linux, Tunnelblick, NetworkManager and OpenVPN for Android
    /// take it. It holds the device's private key: bring it there by a way that nobody else can read.
    #[command(after_help = examples(&[
        (
            "agentctl pki profile --ca ./authority --name phone --server vps --remote vps.example.com --out phone.ovpn",
            "UDP, then TCP",
        ),
        (
            "agentctl pki profile --ca ./authority --name phone --server vps --remote 192.0.2.1:443/tcp --out phone.ovpn",
            "TCP only",
        ),
    ]))]
    Profile(ProfileArgs),
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// The directory to make
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// The authority's name, for people only; 1 to 64 characters
    #[arg(long, value_name = "NAME", default_value = "CloudAtHome", value_parser = authority_name)]
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct IssueArgs {
    /// The authority's directory, as `pki init` made it
    #[arg(long, value_name = "DIR")]
    pub(crate) ca: PathBuf,
    /// What the holder may be
    #[arg(long, value_name = "ROLE")]
    pub(crate) role: RoleArg,
    /// The holder's name; the opposite agent's tunnel.peer must say the same
    #[arg(long, value_name = "NAME")]
    pub(crate) name: HostId,
    /// The directory to make
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct RevokeArgs {
    /// The authority's directory, as `pki init` made it
    #[arg(long, value_name = "DIR")]
    pub(crate) ca: PathBuf,
    #[command(flatten)]
    pub(crate) what: RevokeWhat,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct RevokeWhat {
    /// Every certificate that was issued to this holder
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<HostId>,
    /// The certificate with this number, in hexadecimal digits
    #[arg(long, value_name = "HEX")]
    pub(crate) serial: Option<Serial>,
    /// The certificate in this file
    #[arg(long, value_name = "FILE")]
    pub(crate) cert: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct CrlArgs {
    /// The authority's directory, as `pki init` made it
    #[arg(long, value_name = "DIR")]
    pub(crate) ca: PathBuf,
    /// How long the list is good, in days
    #[arg(long, value_name = "DAYS", default_value = "365", value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub(crate) days: u32,
}

#[derive(Debug, Args)]
pub(crate) struct ProfileArgs {
    /// The authority's directory, as `pki init` made it
    #[arg(long, value_name = "DIR")]
    pub(crate) ca: PathBuf,
    /// The device's name
    #[arg(long, value_name = "NAME")]
    pub(crate) name: HostId,
    /// The name of the host that the device connects to, as it was given to `pki issue`
    #[arg(long, value_name = "NAME")]
    pub(crate) server: HostId,
    /// Where that host listens: HOST[:PORT][/udp|/tcp]; repeat it for more
    ///
    /// Without a port it is 1194, without a transport UDP and TCP. All places for UDP are tried before those for TCP.
    #[arg(long = "remote", value_name = "HOST", required = true, value_parser = DeviceRemotes::parse)]
    pub(crate) remotes: Vec<DeviceRemotes>,
    /// A tls-crypt-v2 client key of the device's own, for a server that has such keys [default: the authority's tls-crypt.key]
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_crypt_v2: Option<PathBuf>,
    /// The file to make, usually with the extension .ovpn
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

/// What one `--remote` stands for.
#[derive(Debug, Clone)]
pub(crate) struct DeviceRemotes(pub(crate) Vec<DeviceRemote>);

impl DeviceRemotes {
    fn parse(text: &str) -> Result<Self, DeviceProfileError> {
        DeviceRemote::parse(text).map(Self)
    }
}

/// [`Role`] on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleArg {
    /// The public host
    Edge,
    /// The host behind NAT
    Home,
    /// A phone or laptop with a stock OpenVPN client
    Device,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Edge => Self::Edge,
            RoleArg::Home => Self::Home,
            RoleArg::Device => Self::Device,
        }
    }
}

/// X.509 takes 64 characters for a common name.
fn authority_name(text: &str) -> Result<String, String> {
    if (1..=64).contains(&text.chars().count()) && !text.contains(char::is_control) {
        Ok(text.to_owned())
    } else {
        Err("use 1 to 64 printable characters".to_owned())
    }
}
