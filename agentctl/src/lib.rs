//! Sets hosts up; asks the agent next to it and prints; acts on services through it; makes identities by hand; connects to other servers; writes its own completions and manual pages.
//!
//! Data goes to standard output, everything else to standard error.
#![forbid(unsafe_code)]

mod ask;
mod bundle;
mod cli;
mod code_command;
mod config_command;
mod connect;
mod device_command;
mod doctor;
mod events;
mod exit;
mod identity_command;
mod ingress;
mod init_command;
mod join_command;
mod leave_command;
mod mask;
mod new_file;
mod pki_command;
mod place;
mod profile_command;
mod render;
mod revocation_command;
mod screen;
mod service_command;
mod services;
mod setup_command;
mod shell;
mod status;
mod terminal;
mod top;
mod tunnel;
mod verdict;
mod why;

use std::io::Write;

pub use cli::{Cli, ordered};
pub use exit::{Exit, Failure};
pub use render::Colour;

use cli::{Command, PkiCommand};

/// Runs one command, writing its data to `out`.
///
/// # Errors
/// When it could not be done. A host or tunnel that is not well is no error: it is [`Exit::Unwell`].
pub fn run(cli: Cli, colour: Colour, out: &mut dyn Write) -> Result<Exit, Failure> {
    match cli.command {
        Command::Init(args) => init_command::run(&args, out),
        Command::Join(args) => join_command::run(&args, out),
        Command::Leave(args) => leave_command::leave(&args.leave, args.yes, out),
        Command::Purge(args) => leave_command::purge(&args, out),
        Command::Status(args) => status::run(&args, colour, out),
        Command::Services(args) => services::run(&args, colour, out),
        Command::Ingress(args) => ingress::run(&args, colour, out),
        Command::Config { command } => config_command::run(&command, out),
        Command::Top(args) => top::run(&args, colour),
        Command::Bundle(args) => bundle::run(&args, out),
        Command::Doctor(args) => doctor::run(&args, colour, out),
        Command::Why(args) => why::run(&args, colour, out),
        Command::Events(args) => events::run(&args, colour, out),
        Command::Tunnel(args) => tunnel::run(&args, colour, out),
        Command::Service(args) => service_command::run(args, colour, out),
        Command::Occ(args) => service_command::occ(args),
        Command::Connect(args) => connect::run(args, out),
        Command::Device { command } => device_command::run(&command, colour, out),
        Command::Code { command } => code_command::run(&command, colour, out),
        Command::Identity { command } => identity_command::run(&command, colour, out),
        Command::Pki { command: PkiCommand::Init(args) } => pki_command::init(&args, out),
        Command::Pki { command: PkiCommand::Issue(args) } => pki_command::issue(&args, out),
        Command::Pki { command: PkiCommand::Revoke(args) } => revocation_command::revoke(&args, out),
        Command::Pki { command: PkiCommand::Crl(args) } => revocation_command::renew(&args, out),
        Command::Pki { command: PkiCommand::Profile(args) } => profile_command::run(&args, out),
        Command::Completions(args) => shell::completions(args.shell, out),
        Command::Man(args) => shell::man(&args.dir, out),
    }
}
