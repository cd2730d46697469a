//! `agentctl device`.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use model::HostId;
use profile::{DeviceProfileError, DeviceRemote};

use super::{AskArgs, examples};

#[derive(Debug, Subcommand)]
pub(crate) enum DeviceCommand {
    /// Makes a profile for a new device: the one file that a stock OpenVPN client imports
    ///
    /// It holds the device's private key, which the edge forgets: bring it there by a way that nobody else can read. It is good for
    /// ten years, or until the device is revoked.
    #[command(after_help = examples(&[
        ("sudo agentctl device add phone --out phone.ovpn", "a file that only you can read"),
        ("sudo agentctl device add phone --qr", "in the terminal, for a scanner that saves text as a file"),
        ("sudo agentctl device add laptop --full --dns 9.9.9.9 > laptop.ovpn", "all of its traffic goes through the tunnel"),
        ("sudo agentctl device add tablet --remote 192.0.2.1:443/tcp --out tablet.ovpn", "by another address than edge.DOMAIN"),
    ]))]
    Add(ProfileArgs),
    /// Lists the devices: until when they are good, when they were seen last, and what was carried for them
    #[command(after_help = examples(&[
        ("sudo agentctl device list", "a table; what ends within 60 days stands out"),
        (
            "sudo agentctl device list --json | jq '.[] | {name, last_seen}'",
            "JSON for programs: a list of {name, not_before, not_after, revoked, connected_since, address, last_seen, remote, received_bytes, sent_bytes, reach}",
        ),
    ]))]
    List(AskArgs),
    /// Ends a device: it is disconnected within seconds and gets in no more
    #[command(after_help = examples(&[
        ("sudo agentctl device revoke phone", "when it is lost"),
    ]))]
    Revoke(RevokeArgs),
    /// Makes another profile for a device that there is, in place of those that it has
    ///
    /// Those before count no more: a device that is connected with one is disconnected. What the profile is to say is said anew.
    #[command(after_help = examples(&[
        ("sudo agentctl device reissue phone --out phone.ovpn", "when its end comes near, or after it was revoked and found again"),
    ]))]
    Reissue(ProfileArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ProfileArgs {
    /// The device's name: a-z, 0-9 and '-'
    #[arg(value_name = "NAME")]
    pub(crate) name: HostId,
    /// The file to make, which must not be there, usually with the extension .ovpn [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Show the profile as a QR code, in a terminal of 185 columns and 93 lines at most
    ///
    /// No OpenVPN client scans a profile: a scanner that shows long texts and saves them as a file is needed on the device.
    #[arg(long)]
    pub(crate) qr: bool,
    /// Where the device finds the edge: HOST[:PORT][/udp|/tcp]; repeat it for more [default: edge.DOMAIN]
    ///
    /// Without a port it is the tunnel's, without a transport UDP and then TCP.
    #[arg(long = "remote", value_name = "HOST", value_parser = remote)]
    pub(crate) remotes: Vec<String>,
    /// Lead all of the device's traffic through the tunnel, not only what is for the tunnel's network
    ///
    /// The tunnel carries IPv4: the device then has no IPv6, and nothing passes by. The edge must allow devices the internet.
    #[arg(long)]
    pub(crate) full: bool,
    /// A name server that the device is to use while it is connected; repeat it for more
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) dns: Vec<Ipv4Addr>,
    /// The agent's socket [default: the one of /run/cloudathome/edge.sock and home.sock that is there]
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct RevokeArgs {
    /// The device
    #[arg(value_name = "NAME")]
    pub(crate) name: HostId,
    /// The agent's socket [default: the one of /run/cloudathome/edge.sock and home.sock that is there]
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
}

/// As written: the edge knows its port.
fn remote(text: &str) -> Result<String, DeviceProfileError> {
    DeviceRemote::parse(text).map(|_| text.to_owned())
}
