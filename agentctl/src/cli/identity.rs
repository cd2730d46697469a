//! `agentctl identity`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use model::HostId;
use pki::Serial;

use super::{AskArgs, examples};

#[derive(Debug, Subcommand)]
pub(crate) enum IdentityCommand {
    /// Lists the certificates that the authority of this edge issued
    #[command(after_help = examples(&[
        ("sudo agentctl identity list", "a table; what ends within 60 days stands out"),
        ("sudo agentctl identity list --json | jq '.[] | select(.name == \"phone\")'", "JSON for programs: a list of {serial, role, name, not_before, not_after, revoked}"),
    ]))]
    List(AskArgs),
    /// Makes certificates count no more, on both hosts within seconds
    ///
    /// Who is connected with one is disconnected. A home or device comes back only with a new identity.
    #[command(after_help = examples(&[
        ("sudo agentctl identity revoke phone", "everything that was issued to phone"),
        ("sudo agentctl identity revoke --serial 4AF0", "one certificate"),
    ]))]
    Revoke(RevokeIdentityArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RevokeIdentityArgs {
    /// Every certificate that was issued to this holder
    #[arg(value_name = "NAME", required_unless_present = "serial", conflicts_with = "serial")]
    pub(crate) name: Option<HostId>,
    /// The certificate with this number, in hexadecimal digits
    #[arg(long, value_name = "HEX")]
    pub(crate) serial: Option<Serial>,
    /// The agent's socket [default: the one of /run/cloudathome/edge.sock and home.sock that is there]
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
}
