//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use model::{HostId, Role, ServiceName};
use pki::Serial;
use profile::{DeviceProfileError, DeviceRemote};

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
        ("sudo agentctl status", "is it serving, and if not, why"),
        ("sudo agentctl status --json | jq .local.services", "the same for programs"),
        ("sudo agentctl why", "what failed first, and what was tried"),
        ("sudo agentctl tunnel", "who is connected, and how packets go"),
        ("sudo agentctl service nextcloud credentials", "where to log in, and with what"),
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
    /// It is on the edge: run it there.
    #[command(after_help = examples(&[
        ("sudo agentctl ingress", "a table; the exit code is 4 when a name does not serve or a service is refused"),
        ("sudo agentctl ingress --json | jq '.sites[] | {hostname, certificate_ends}'", "JSON for programs: {reason, sites, refused}"),
    ]))]
    Ingress(AskArgs),
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
    /// Looks at what services and tunnel of this host stand on: engine, disk, tunnel, path, clock, certificate, names
    ///
    /// Names are looked up at home, which knows where the edge is. Look at the other host too, with --host.
    #[command(after_help = examples(&[
        ("sudo agentctl doctor", "what is well, what is not, and what to do about it"),
        ("sudo agentctl doctor --host attic", "the same of the other host, called attic"),
        ("sudo agentctl doctor --json | jq '.[] | select(.grade != \"good\")'", "JSON for programs: a list of {check, grade, text, next}"),
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
    /// The host that it is about, by its name in `agentctl status` [default: the one of the agent that is asked]
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
        ("scp -r ./vps root@vps.example.com:/etc/cloudathome/identity", "where the agent looks for it"),
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
