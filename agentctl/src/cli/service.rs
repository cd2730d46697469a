//! `agentctl service` and `agentctl occ`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use model::{HostId, ServiceName};

use super::examples;

#[derive(Debug, Args)]
#[command(arg_required_else_help = true, disable_help_subcommand = true, subcommand_value_name = "COMMAND")]
pub(crate) struct ServiceArgs {
    /// The service's name, as in `agentctl status`
    #[arg(value_name = "NAME")]
    pub(crate) name: ServiceName,
    /// The host that has the service, by its name in `agentctl status` [default: found out]
    #[arg(long, value_name = "NAME")]
    pub(crate) host: Option<HostId>,
    /// The agent's socket [default: the one of /run/cloudathome/edge.sock and home.sock that is there]
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: ServiceCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// Starts it, from now on
    #[command(after_help = examples(&[("sudo agentctl service ghost start", "after a stop")]))]
    Start,
    /// Stops it in order, until it is started again; its public name shows the holding page
    #[command(after_help = examples(&[("sudo agentctl service ghost stop", "also after the next start of the host")]))]
    Stop,
    /// Stops and starts its containers in order
    #[command(after_help = examples(&[("sudo agentctl service ghost restart", "a few seconds of holding page")]))]
    Restart,
    /// Shows what its containers write
    #[command(after_help = examples(&[
        ("sudo agentctl service nextcloud logs --tail 20", "the last lines of each container"),
        ("sudo agentctl service nextcloud logs -f --container nextcloud-db", "of one, as it comes"),
    ]))]
    Logs(LogsArgs),
    /// Runs a command in one of its containers
    ///
    /// The command gets a terminal when this one has one.
    #[command(after_help = examples(&[
        ("sudo agentctl service nextcloud exec -- ls /var/www/html", "in its main container"),
        ("sudo agentctl service nextcloud exec --container nextcloud-db -- psql -U nextcloud", "in another one"),
        ("sudo agentctl service ghost exec -- sh", "a shell"),
    ]))]
    Exec(ExecArgs),
    /// Shows what a person needs to log in to it: where, and with what
    #[command(after_help = examples(&[("sudo agentctl service ghost credentials", "and nobody else can see them")]))]
    Credentials {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Upgrades it: saves what it has, changes the version, and goes back by itself when that does not work
    ///
    /// Without --to it only says what is in force, and where the policy of the configuration would lead.
    #[command(after_help = examples(&[
        ("sudo agentctl service nextcloud upgrade", "what there would be"),
        ("sudo agentctl service nextcloud upgrade --to 33.0.1-apache", "a tag of its image"),
        ("sudo agentctl service ghost upgrade --to ghost:6.65.0-alpine", "a whole image reference"),
    ]))]
    Upgrade {
        /// Tag or whole reference of the image
        #[arg(long, value_name = "TAG")]
        to: Option<String>,
    },
    /// Goes back to what was before its last upgrade
    ///
    /// Database, settings and code become what they were then; files that people put in stay as they are.
    #[command(after_help = examples(&[("sudo agentctl service nextcloud rollback", "asks first")]))]
    Rollback(RollbackArgs),
    /// Removes its containers and everything that it keeps
    #[command(after_help = examples(&[("sudo agentctl service ghost purge", "asks first")]))]
    Purge(PurgeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Of this container only
    #[arg(long, value_name = "CONTAINER")]
    pub(crate) container: Option<String>,
    /// Go on with what is written from now on, until Ctrl-C
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// How many of the last lines of each container come first
    #[arg(long, value_name = "LINES", default_value = "100", value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub(crate) tail: u32,
}

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// In this container [default: the service's main one]
    #[arg(long, value_name = "CONTAINER")]
    pub(crate) container: Option<String>,
    /// As this user, by name or number [default: the container's]
    #[arg(long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// Give the command no terminal
    #[arg(long, short = 'T')]
    pub(crate) no_terminal: bool,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PurgeArgs {
    /// Do not ask
    #[arg(long)]
    pub(crate) yes_remove_everything: bool,
}

#[derive(Debug, Args)]
pub(crate) struct OccArgs {
    /// The service
    #[arg(long, value_name = "NAME", default_value = "nextcloud")]
    pub(crate) service: ServiceName,
    /// The host that has the service, by its name in `agentctl status` [default: found out]
    #[arg(long, value_name = "NAME")]
    pub(crate) host: Option<HostId>,
    /// The agent's socket [default: the one of /run/cloudathome/edge.sock and home.sock that is there]
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Arguments of occ; without any it lists its commands
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    pub(crate) arguments: Vec<String>,
}
