//! `agentctl config`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{AgentRole, AskArgs, examples};

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Shows what is in force in the running agent: what is set in its file, its environment and its flags, without secrets
    #[command(after_help = examples(&[
        ("sudo agentctl config show", "lines of TOML"),
        ("sudo agentctl config show --json | jq '.[\"tunnel.mode\"]'", "JSON for programs: values as TOML by key"),
    ]))]
    Show(AskArgs),
    /// Checks a configuration file and the files that it names, as the agent does at its start; it need not run
    #[command(after_help = examples(&[
        ("sudo agentctl config check", "the file of the agent that is installed here"),
        ("sudo agentctl config check ./new.toml --role home", "another one"),
    ]))]
    Check(ConfigCheckArgs),
    /// Shows what the file would change of what is in force, and which of it needs a new start of the agent
    ///
    /// The exit code is 4 when it would change anything.
    #[command(after_help = examples(&[
        ("sudo agentctl config diff", "+ is set, - is set no more, ~ is set to something else"),
        ("sudo agentctl config diff --json | jq '.changes'", "JSON for programs: {file, in_force, changes, fault, refused}"),
    ]))]
    Diff(AskArgs),
    /// Puts the file in force, all of it or nothing, without a new start of the agent
    ///
    /// Services can change that way. A file with a fault, or with changes that need a new start, is refused whole; the configuration
    /// before stays in force.
    #[command(after_help = examples(&[
        ("sudo agentctl config reload", "as systemctl reload cloudathome-edge does (or cloudathome-home)"),
    ]))]
    Reload(AskArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ConfigCheckArgs {
    /// The file [default: /etc/cloudathome/edge.toml or home.toml, whichever is there]
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Whose file it is [default: by its name, or of the agent that is installed here]
    #[arg(long, value_name = "ROLE")]
    pub(crate) role: Option<AgentRole>,
}
