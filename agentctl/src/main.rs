//! Inspects and operates both agents.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::process::ExitCode;

use agentctl::{Cli, Colour, Exit};
use clap::Parser;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colour = Colour::when(stdout().is_terminal() && !no_colour);
    let mut out = stdout().lock();
    let exit =
        match agentctl::run(cli, colour, &mut out).and_then(|exit| out.flush().map_err(Into::into).map(|()| exit)) {
            Ok(exit) => exit,
            Err(failure) if failure.is_closed_pipe() => Exit::Ok,
            Err(failure) => {
                // Where nobody can be told, the exit code still says it.
                drop(write!(stderr(), "{failure}"));
                failure.exit
            }
        };
    exit.into()
}
