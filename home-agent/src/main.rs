//! The daemon at home.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Keeps the tunnel to the edge up and runs the services of this home.
#[derive(Debug, Parser)]
#[command(
    name = "home-agent",
    version,
    after_help = "Examples:\n  \
        home-agent                          run with /etc/cloudathome/home.toml\n  \
        home-agent --check                  only check the configuration\n  \
        home-agent --set log.filter=debug   override one key\n\n\
        Environment: CLOUDATHOME_HOME__SECTION__KEY overrides a key of the file; --set overrides both.\n\
        Exit codes: 0 stopped as asked, 1 failed, 64 bad configuration (nothing was bound or changed)."
)]
struct Cli {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/cloudathome/home.toml")]
    config: PathBuf,
    #[command(flatten)]
    args: daemon::Args,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    daemon::run("home-agent", cli.config, "CLOUDATHOME_HOME", cli.args, home_agent::serve)
}
