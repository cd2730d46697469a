//! `agentctl init` and `agentctl join`.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use clap::Args;
use model::Hostname;

use super::AgentRole;

#[derive(Debug, Args)]
pub(crate) struct SetupArgs {
    /// Read answers from this file (TOML); flags override it
    #[arg(long, value_name = "FILE")]
    pub(crate) answers: Option<PathBuf>,
    /// Look at everything, say what would be done, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask whether to go on
    #[arg(long, short)]
    pub(crate) yes: bool,
    /// Print what came of it as JSON; steps still go to standard error
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct EdgeInitArgs {
    /// The domain under which services get their names
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) domain: Option<Hostname>,
    /// Your mail address, where certificate authorities write
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) email: Option<String>,
    /// The public IPv4 address of this host, where its provider translates it [default: the one it speaks from]
    #[arg(long, value_name = "IPV4", value_parser = setup::reachable_ipv4)]
    pub(crate) address: Option<Ipv4Addr>,
    /// Go without the blog at the domain itself
    #[arg(long)]
    pub(crate) no_blog: bool,
    /// Go on although the names do not lead here yet; they have no certificates until they do
    #[arg(long)]
    pub(crate) dns_later: bool,
    #[command(flatten)]
    pub(crate) setup: SetupArgs,
}

#[derive(Debug, Args)]
pub(crate) struct JoinArgs {
    /// Where the edge is, where the code does not say it or says it wrongly
    #[arg(long, value_name = "HOST[:PORT]", value_parser = setup::remote)]
    pub(crate) edge: Option<(String, Option<u16>)>,
    /// Go without Nextcloud
    #[arg(long)]
    pub(crate) no_nextcloud: bool,
    /// Do not wait until the services answer at their public names
    #[arg(long)]
    pub(crate) no_wait: bool,
    #[command(flatten)]
    pub(crate) setup: SetupArgs,
}

#[derive(Debug, Args)]
pub(crate) struct LeaveArgs {
    /// What this host is [default: what its files show]
    #[arg(long, value_name = "ROLE")]
    pub(crate) role: Option<AgentRole>,
    /// Say what would be done and what stays, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print what came of it as JSON; steps still go to standard error
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LeaveHostArgs {
    /// Do not ask whether to go on
    #[arg(long, short)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) leave: LeaveArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PurgeHostArgs {
    /// Delete all of it without asking
    #[arg(long)]
    pub(crate) yes_delete_everything: bool,
    #[command(flatten)]
    pub(crate) leave: LeaveArgs,
}
