//! The developer's commands. Everything that needs more than `cargo` starts here: it installs what it needs first.
#![forbid(unsafe_code)]

mod bench;
mod cargo;
mod demo;
mod package;
mod progress;
mod room;
mod soak;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The developer's commands of CloudAtHome.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Set up a whole cloud on this machine, in a small internet of network namespaces, and show what is where
    ///
    /// Installs what is missing from Debian's packages, builds, starts edge and home with real engines, Caddy and an
    /// ACME server, waits until a visitor gets the service, and takes everything down on Ctrl-C. Needs root.
    Demo {
        /// Prove that it does its main job, in both dialing directions and with the agents in containers, and exit with 0 or 1
        #[arg(long)]
        check: bool,
        /// Run the agents in their hosts' engines, from their own images; with --check, prove only that
        #[arg(long)]
        containers: bool,
    },
    /// Run every test: formatting, clippy, unit, interoperability and end-to-end tests, and the demo's check
    ///
    /// Installs what is missing from Debian's packages. What cannot run here is listed as skipped with the reason; with
    /// CI=true a skip is a failure.
    Test,
    /// Make Debian packages, tarballs and images of both agents
    ///
    /// Builds with optimisation. The same sources give the same packages, byte for byte; files bear the time of the last
    /// commit, or that in SOURCE_DATE_EPOCH.
    Package(package::Options),
    /// Measure over the network; needs root
    #[command(subcommand)]
    Bench(Bench),
    /// Run our tunnel against stock peers in network namespaces for as long as you like, and print the counts
    ///
    /// Under load, with new keys every few seconds, changing addresses, changes between UDP and TCP, loss, and peers that
    /// are killed. Fails when a byte was wrong, or memory or descriptors grew. Builds with optimisation. Needs root.
    Soak {
        /// How long
        #[arg(long, default_value_t = 30)]
        minutes: u32,
        /// Our role in it: listen, dial, or both side by side
        #[arg(long, default_value = "both")]
        role: String,
        /// Whether our ends carry many packets a system call: auto, as far as the kernel can do it, or off
        #[arg(long, default_value = "auto")]
        offload: String,
    },
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Measure our tunnel and others side by side, between two hosts in network namespaces
    ///
    /// Throughput of TCP with one flow and four, each way; CPU time; round trips, idle and under load; small UDP packets;
    /// memory. Installs and unpacks what it measures. Prints tables with ratios to ours, and which goals were met. The
    /// cable between the hosts is a veth of MTU 1500; congestion control is cubic, which is added to
    /// net.ipv4.tcp_allowed_congestion_control of this machine until it starts again.
    Tunnel(bench::Options),
    /// Measure many peers on one listener, ours and Debian's openvpn in turn
    ///
    /// Handshakes a second, when as many of our own dialers connect to either at once; the listener's CPU time and memory for
    /// each peer; and one peer's throughput beside them. Prints which goals were met. Congestion control is cubic, which is
    /// added to net.ipv4.tcp_allowed_congestion_control of this machine until it starts again. Needs root.
    Peers(bench::peers::Options),
    /// Measure the whole product with Nextcloud and Ghost on this machine, once
    ///
    /// From the agents' start to the first answer at either public name; for how long Ghost does not answer while it is upgraded
    /// and while that is taken back; the agents' own memory after a minute in which nobody asks for anything. Needs root.
    Services,
    /// Measure what ingress and tunnel add to Caddy before the same application, and send a long upload
    ///
    /// Small answers over kept connections, one and many at once, three ways in turn: a plain Caddy on the edge that reaches the
    /// application at its public address, the same through the tunnel, and our ingress. Then what memory the agents and Caddy
    /// take for an upload of 10 GiB. Needs root.
    Ingress(bench::ingress::Options),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Demo { check, containers } => demo::run(check, containers),
        Command::Test => test::run(),
        Command::Package(options) => package::run(&options),
        Command::Bench(Bench::Tunnel(options)) => bench::run(&options),
        Command::Bench(Bench::Peers(options)) => bench::peers::run(&options),
        Command::Bench(Bench::Services) => bench::services::run(),
        Command::Bench(Bench::Ingress(options)) => bench::ingress::run(&options),
        Command::Soak { minutes, role, offload } => soak::run(minutes, &role, &offload),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
