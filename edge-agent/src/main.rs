//! The daemon on the public host.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Ends the tunnel on the public host, runs Caddy, and publishes what home announces.
#[derive(Debug, Parser)]
#[command(
    name = "edge-agent",
    version,
    after_help = "Examples:\n  \
        edge-agent                                   run with /etc/cloudathome/edge.toml\n  \
        edge-agent --check                           only check the configuration\n  \
        edge-agent --set tunnel.listen=0.0.0.0:443   override one key\n\n\
        Environment: CLOUDATHOME_EDGE__SECTION__KEY overrides a key of the file; --set overrides both.\n\
        Exit codes: 0 stopped as asked, 1 failed, 64 bad configuration (nothing was bound or changed)."
)]
struct Cli {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = "/etc/cloudathome/edge.toml")]
    config: PathBuf,
    #[command(flatten)]
    args: daemon::Args,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    daemon::run("edge-agent", cli.config, "CLOUDATHOME_EDGE", cli.args, edge_agent::serve)
}
