//! The command line; what has commands of its own is in the modules.

mod code;
mod config;
mod device;
mod identity;
mod pki;
mod service;
mod setup;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use model::{HostId, Role, ServiceName};

pub(crate) use self::code::{CodeCommand, NewCodeArgs};
pub(crate) use self::config::{ConfigCheckArgs, ConfigCommand};
pub(crate) use self::device::{DeviceCommand, ProfileArgs as DeviceProfileArgs};
pub(crate) use self::identity::{IdentityCommand, RevokeIdentityArgs};
pub(crate) use self::pki::{CrlArgs, InitArgs, IssueArgs, PkiCommand, ProfileArgs, RevokeArgs};
pub(crate) use self::service::{ExecArgs, LogsArgs, OccArgs, PurgeArgs, ServiceArgs, ServiceCommand};
pub(crate) use self::setup::{EdgeInitArgs, JoinArgs, LeaveArgs, LeaveHostArgs, PurgeHostArgs, SetupArgs};
use crate::exit::Exit;

/// Inspects and operates the agents of CloudAtHome
#[derive(Debug, Parser)]
#[command(
    name = "agentctl",
    version,
    arg_required_else_help = true,
    after_help = overview(),
    disable_help_subcommand = true
)]
pub struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The process' arguments with `service COMMAND NAME` put right as `service NAME COMMAND`: people say it either way, and
/// the parser knows one.
#[must_use]
pub fn ordered(mut args: Vec<OsString>) -> Vec<OsString> {
    let is_command = |word: &OsString| {
        let cli = Cli::command();
        let service = cli.find_subcommand("service");
        word.to_str().is_some_and(|word| service.is_some_and(|service| service.find_subcommand(word).is_some()))
    };
    if let [_, service, first, second, ..] = &mut args[..]
        && service == "service"
        && is_command(first)
        && !is_command(second)
        && !second.to_string_lossy().starts_with('-')
    {
        std::mem::swap(first, second);
    }
    args
}

fn overview() -> String {
    examples(&[
        ("sudo agentctl init", "on the VPS: the first of two commands"),
        ("sudo agentctl join", "at home: the second"),
        ("sudo agentctl status", "is it serving, and if not, why"),
        ("sudo agentctl status --json | jq .local.services", "the same for programs"),
        ("sudo agentctl why", "what failed first, and what was tried"),
        ("sudo agentctl tunnel", "who is connected, and how packets go"),
        ("sudo agentctl service nextcloud credentials", "where to log in, and with what"),
        ("sudo agentctl device add phone --out phone.ovpn", "a profile for a stock OpenVPN client"),
        ("agentctl pki init --dir ./authority", "make the private certificate authority"),
        ("sudo agentctl connect work.ovpn", "join another OpenVPN server's network"),
    ])
}

/// Examples and exit codes, as they stand under every help text.
fn examples(examples: &[(&str, &str)]) -> String {
    let width = examples.iter().map(|(command, _)| command.len()).max().unwrap_or_default();
    let mut text = String::from("Examples:\n");
    for (command, what) in examples {
        text.push_str(&format!("  {command:width$}  {what}\n"));
    }
    text.push('\n');
    text.push_str(Exit::HELP);
    text
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Makes this host, which the internet reaches, the edge of your cloud: the first of two commands
    ///
    /// Looks at the host and at the DNS first and refuses with the reason when something is in the way. Then it makes a certificate
    /// authority of your own, writes /etc/cloudathome/edge.toml, starts cloudathome-edge, and prints the join code for home. It can be run
    /// again: what is there stays. What it asks can be said by flags or stand in an answer file, which has the keys domain, email, address,
    /// blog, dns_later, acme_directory, acme_api_root, acme_issuer_root, and [mail] with host, port, security, user, password_file, from.
    #[command(after_help = examples(&[
        ("sudo agentctl init", "asks for domain and mail address"),
        ("sudo agentctl init --domain example.com --email me@example.com", "asks nothing but whether to go on"),
        ("sudo agentctl init --dry-run", "what is in the way, and what would be done"),
        ("sudo agentctl init --answers edge.toml --yes --json | jq -r .code", "JSON for programs: {domain, findings, records, changed, code, code_info}"),
    ]))]
    Init(EdgeInitArgs),
    /// Makes this host the home of your cloud: the second of two commands
    ///
    /// Asks for the join code that `agentctl init` printed on the edge, or reads it from standard input. The key is made here and does
    /// not leave this host. It can be run again, with the same code too. An answer file has the keys edge, nextcloud, acme_issuer_root, and
    /// [mail] with host, port, security, user, password_file, from.
    #[command(after_help = examples(&[
        ("sudo agentctl join", "asks for the code"),
        ("sudo agentctl join --edge vps.example.com", "where the code does not say where the edge is"),
        ("sudo agentctl join --dry-run", "what is in the way, and what would be done; the code stays unused"),
        ("sudo agentctl join --yes --json < code.txt", "JSON for programs: {findings, changed, services}"),
    ]))]
    Join(JoinArgs),
    /// Takes this host out of its cloud; its data stays
    ///
    /// Stops the agent and its containers, removes what it has set in the kernel, and takes the configuration out of force. At home the
    /// identity goes, at the edge the authority stays, and `agentctl init` takes it up again. It can be run again.
    #[command(after_help = examples(&[
        ("sudo agentctl leave --dry-run", "what would be done, and what stays"),
        ("sudo agentctl leave", "asks whether to go on"),
        ("sudo agentctl leave --yes --json", "JSON for programs: {role, changed, plan, stays}"),
    ]))]
    Leave(LeaveHostArgs),
    /// Takes this host out of its cloud and deletes its data for good: files, databases, passwords, identity
    ///
    /// Images stay: `docker image prune --all` removes those. Programs stay: `apt purge` removes those.
    #[command(after_help = examples(&[
        ("sudo agentctl purge --dry-run", "what would be deleted"),
        ("sudo agentctl purge", "asks for the word `delete`"),
        ("sudo agentctl purge --yes-delete-everything --json", "JSON for programs: {role, changed, plan, stays}"),
    ]))]
    Purge(PurgeHostArgs),
    /// Shows how both hosts are, by asking the agent of this one
    #[command(after_help = examples(&[
        ("sudo agentctl status", "tables for people"),
        ("sudo agentctl status --json", "JSON for programs: {local, peer, peer_age_seconds}"),
        ("sudo agentctl status --watch", "drawn anew every two seconds; q ends it"),
        ("sudo agentctl status --socket /run/cloudathome/home.sock", "where both agents run on one host"),
    ]))]
    Status(StatusArgs),
    /// Lists the services of both hosts: how they are, since when, and their containers
    #[command(after_help = examples(&[
        ("sudo agentctl services", "a table; the exit code is 4 when one of them is not well"),
        ("sudo agentctl services --json | jq '.[] | {name, since}'", "JSON for programs: a list of services with since and containers"),
    ]))]
    Services(AskArgs),
    /// Shows what the ingress publishes: names, upstreams, options, certificates, and what it refuses
    ///
    /// It is on the edge. At home the agent there is asked.
    #[command(after_help = examples(&[
        ("sudo agentctl ingress", "a table; the exit code is 4 when a name does not serve or a service is refused"),
        ("sudo agentctl ingress --json | jq '.sites[] | {hostname, certificate_ends}'", "JSON for programs: {reason, sites, refused}"),
    ]))]
    Ingress(HostArgs),
    /// Tells why a service does not serve, or did not the last time: what changed, what failed first, what was tried
    ///
    /// One story from what both hosts saw, in the order in which it happened, although their clocks may differ. Without a name, of
    /// the first service that does not serve.
    #[command(after_help = examples(&[
        ("sudo agentctl why", "the first service that does not serve"),
        ("sudo agentctl why nextcloud", "a certain one"),
        ("sudo agentctl why nextcloud --json | jq .first", "JSON for programs: {service, hostname, serves, reason, since, first, events}"),
    ]))]
    Why(WhyArgs),
    /// Shows what happened on both hosts, oldest first
    ///
    /// Times are UTC by this host's clock. Each host keeps its last 500 events, through restarts of its agent too.
    #[command(after_help = examples(&[
        ("sudo agentctl events -f", "until Ctrl-C"),
        ("sudo agentctl events --service nextcloud", "of one service, and of what all of them need"),
        ("sudo agentctl events --json | jq 'select(.kind == \"fault\")'", "a line of JSON for each"),
    ]))]
    Events(EventsArgs),
    /// Shows, checks and reloads the configuration of this host's agent
    #[command(
        arg_required_else_help = true,
        disable_help_subcommand = true,
        after_help = examples(&[
            ("sudo agentctl config check", "whether the file is good, before anything else"),
            ("sudo agentctl config diff", "what it would change"),
            ("sudo agentctl config reload", "put it in force, all of it or nothing"),
            ("sudo agentctl config show", "what is in force, without secrets"),
        ])
    )]
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Looks at what services and tunnel of both hosts stand on: engine, disk, tunnel, ports from outside, certificates, names, mail
    ///
    /// Each host looks at itself, and at the ports of the other from outside.
    #[command(after_help = examples(&[
        ("sudo agentctl doctor", "both hosts: what is well, what is not, and what to do about it"),
        ("sudo agentctl doctor --host attic", "of the host called attic only"),
        ("sudo agentctl doctor --json | jq '.[] | select(.grade != \"good\")'", "JSON for programs: a list of {host, check, grade, text, next}"),
    ]))]
    Doctor(HostArgs),
    /// Shows this host's end of the tunnel: its peers, what was dropped, and which of the kernel's offloads are in use
    ///
    /// Where a step carries not much more than one packet a call, offloads do not help there: "plain" and "single" stand for
    /// a kernel that lacks them or a setting that forbids them.
    #[command(after_help = examples(&[
        ("sudo agentctl tunnel", "tables for people"),
        ("sudo agentctl tunnel --json | jq .data_path", "JSON for programs: {status, device, mtu, data_path, drops, peers}"),
        ("sudo agentctl tunnel --socket /run/cloudathome/home.sock", "where both agents run on one host"),
    ]))]
    Tunnel(HostArgs),
    /// Shows live how it goes: the tunnel's rates and round trip as curves, and what people get of each service
    ///
    /// Needs a terminal; q or Ctrl-C ends it. Curves are drawn against their highest value; a column is a second. Of a service: a full
    /// block while it serves, a half one while it is degraded, a low one while it starts, x while it is down, _ while it is stopped.
    #[command(after_help = examples(&[("sudo agentctl top", "a new look every second")]))]
    Top(TopArgs),
    /// Writes an archive for whoever is to find out what is wrong: all that agent and host say, without secrets
    ///
    /// Configuration, status, events, findings, the last lines of containers and agents, and what the host is. Secrets that the agent
    /// knows are masked, and what looks like one; look through it all the same before you hand it on. The exit code is 4 when a
    /// part could not be had.
    #[command(after_help = examples(&[
        ("sudo agentctl bundle", "cloudathome-DATE-TIME.tar.gz here, readable for root alone"),
        ("sudo agentctl bundle --out /tmp/case.tar.gz --lines 5000", "with more of the logs"),
        ("tar -tzf cloudathome-2026-11-23-201500.tar.gz", "what is in it"),
    ]))]
    Bundle(BundleArgs),
    /// Acts on a service: starts and stops it, shows what it writes, upgrades it
    ///
    /// NAME and the command may change places. A service of the other host is acted upon there, as far as that host's
    /// configuration allows: from home it does, from the edge it does not unless home says so.
    #[command(after_help = examples(&[
        ("sudo agentctl service nextcloud restart", "stops and starts its containers in order"),
        ("sudo agentctl service nextcloud logs -f", "what they write, until Ctrl-C"),
        ("sudo agentctl service nextcloud credentials", "where to log in, and with what"),
        ("sudo agentctl service nextcloud upgrade --to 33.0.1-apache", "with a way back"),
        ("sudo agentctl service nextcloud exec -- df -h /var/www/html", "a command in its main container"),
    ]))]
    Service(ServiceArgs),
    /// Runs Nextcloud's own administration program
    #[command(after_help = examples(&[
        ("sudo agentctl occ status", "what Nextcloud says of itself"),
        ("sudo agentctl occ user:add --password-from-env ann", "any of its commands, with its options"),
        ("sudo agentctl occ --service photos app:list", "of a Nextcloud that has another name here"),
    ]))]
    Occ(OccArgs),
    /// Connects this host to any OpenVPN server, from a profile file, until it is interrupted
    ///
    /// Addresses, routes and name resolution are set as the server asks, and are undone at the end; after a crash by the
    /// next connection. What happens is told on standard error.
    #[command(after_help = examples(&[
        ("agentctl connect --check work.ovpn", "what of the profile is followed and what is not; needs no rights"),
        ("sudo agentctl connect work.ovpn", "connect; Ctrl-C ends it"),
        ("sudo agentctl connect --device work0 --login work.login work.ovpn", "without a terminal"),
    ]))]
    Connect(ConnectArgs),
    /// Lets phones and laptops in with stock OpenVPN clients, and ends them
    #[command(
        arg_required_else_help = true,
        disable_help_subcommand = true,
        after_help = examples(&[
            ("sudo agentctl device add phone --out phone.ovpn", "a profile for a new one"),
            ("sudo agentctl device list", "who there is, and when they were seen last"),
            ("sudo agentctl device revoke phone", "when it is lost: it is out within seconds"),
            ("sudo agentctl device reissue phone --out phone.ovpn", "another profile in place of the one it has"),
        ])
    )]
    Device {
        #[command(subcommand)]
        command: DeviceCommand,
    },
    /// Makes, lists and revokes join codes, by which a home gets in
    #[command(
        arg_required_else_help = true,
        disable_help_subcommand = true,
        after_help = examples(&[
            ("sudo agentctl code new", "a new one, good for an hour"),
            ("sudo agentctl code list", "those that are open, and what became of others"),
            ("sudo agentctl code revoke 7Q2K", "one that should let nobody in"),
        ])
    )]
    Code {
        #[command(subcommand)]
        command: CodeCommand,
    },
    /// Lists and revokes what the authority of this edge issued
    #[command(
        arg_required_else_help = true,
        disable_help_subcommand = true,
        after_help = examples(&[
            ("sudo agentctl identity list", "who has a certificate, and until when"),
            ("sudo agentctl identity revoke phone", "when it is lost: it is out within seconds"),
        ])
    )]
    Identity {
        #[command(subcommand)]
        command: IdentityCommand,
    },
    /// Makes identities by hand
    #[command(
        arg_required_else_help = true,
        disable_help_subcommand = true,
        after_help = examples(&[
            ("agentctl pki init --dir ./authority", "once, on a machine you trust"),
            ("agentctl pki issue --ca ./authority --role edge --name vps --out ./vps", "then for each host"),
            ("agentctl pki revoke --ca ./authority --name phone", "when one is lost"),
            (
                "agentctl pki profile --ca ./authority --name phone --server vps --remote vps.example.com --out phone.ovpn",
                "and for each device",
            ),
        ])
    )]
    Pki {
        #[command(subcommand)]
        command: PkiCommand,
    },
    /// Prints a script that completes agentctl's arguments in a shell
    #[command(after_help = examples(&[
        ("agentctl completions bash > /etc/bash_completion.d/agentctl", "for every user's bash"),
        ("agentctl completions fish > ~/.config/fish/completions/agentctl.fish", "for your own fish"),
    ]))]
    Completions(CompletionsArgs),
    /// Writes a manual page for every command
    #[command(after_help = examples(&[
        ("agentctl man --dir /usr/local/share/man/man1", "then: man agentctl-status"),
    ]))]
    Man(ManArgs),
}

#[derive(Debug, Args)]
pub(crate) struct AskArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// The agent's socket [default: the one of /run/cloudathome/edge.sock and home.sock that is there]
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Show it again every so many seconds, until q or Ctrl-C; with --json, or into a pipe, one after the other
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "2",
        value_parser = clap::value_parser!(u64).range(1..=3600)
    )]
    pub(crate) watch: Option<u64>,
    #[command(flatten)]
    pub(crate) ask: AskArgs,
}

#[derive(Debug, Args)]
pub(crate) struct HostArgs {
    /// The host that it is about, by its name in `agentctl status` [default: the one of the agent that is asked; of doctor both; of
    /// ingress the edge]
    #[arg(long, value_name = "NAME")]
    pub(crate) host: Option<HostId>,
    #[command(flatten)]
    pub(crate) ask: AskArgs,
}

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// The agent's socket [default: the one of /run/cloudathome/edge.sock and home.sock that is there]
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct BundleArgs {
    /// The archive to make, which must not be there [default: cloudathome-DATE-TIME.tar.gz here]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// How many of the last lines of each log are taken
    #[arg(long, value_name = "LINES", default_value = "1000", value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub(crate) lines: u32,
    /// The agent's socket [default: the one of /run/cloudathome/edge.sock and home.sock that is there]
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct WhyArgs {
    /// The service [default: the first that does not serve]
    #[arg(value_name = "SERVICE")]
    pub(crate) service: Option<ServiceName>,
    #[command(flatten)]
    pub(crate) ask: AskArgs,
}

#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Go on with what happens from now on, until Ctrl-C
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Only what is about this service, or about what all services need
    #[arg(long, value_name = "NAME")]
    pub(crate) service: Option<ServiceName>,
    #[command(flatten)]
    pub(crate) ask: AskArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ConnectArgs {
    /// The profile, as your provider or your administrator gave it to you (.ovpn)
    #[arg(value_name = "FILE")]
    pub(crate) profile: PathBuf,
    /// Read the profile and the files that it names, tell what is followed and what is not, and end
    #[arg(long)]
    pub(crate) check: bool,
    /// Name of the network device [default: the profile's, else the first free of tun0, tun1, ...]
    #[arg(long, value_name = "NAME")]
    pub(crate) device: Option<String>,
    /// File with the user name on its first line and the password on its second; readable for you alone
    #[arg(long, value_name = "FILE")]
    pub(crate) login: Option<PathBuf>,
    /// Which of the kernel's offloads packets go by: "auto" for all that there are, "off" for none
    #[arg(long, value_name = "auto|off", default_value = "auto")]
    pub(crate) offload: client::Offload,
    /// Where it is written down how to undo what was set
    #[arg(long, value_name = "DIR", default_value = "/var/lib/cloudathome/connections")]
    pub(crate) journals: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// Which shell
    pub(crate) shell: Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Where to; made when missing, and older pages in it are replaced
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// The [`Role`] of an agent on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AgentRole {
    /// The public host
    Edge,
    /// The host behind NAT
    Home,
}

impl From<AgentRole> for Role {
    fn from(role: AgentRole) -> Self {
        match role {
            AgentRole::Edge => Self::Edge,
            AgentRole::Home => Self::Home,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_and_command_may_change_places() {
        let ordered = |line: &str| {
            let words = ordered(line.split(' ').map(OsString::from).collect());
            words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
        };
        let right = "agentctl service nextcloud upgrade --to 33";
        assert_eq!(ordered("agentctl service upgrade nextcloud --to 33"), right);
        assert_eq!(ordered(right), right);
        assert_eq!(ordered("agentctl service rollback --yes"), "agentctl service rollback --yes");
        assert!(Cli::try_parse_from(super::ordered(right.split(' ').map(OsString::from).collect())).is_ok());
    }

    #[test]
    fn every_command_has_examples_and_exit_codes() {
        fn check(command: &clap::Command) {
            let help = command.clone().render_long_help().to_string();
            assert!(help.contains("Examples:\n") && help.contains("Exit codes:\n"), "{}", command.get_name());
            command.get_subcommands().for_each(check);
        }
        let mut command = Cli::command();
        command.build();
        command.clone().debug_assert();
        check(&command);
    }
}
