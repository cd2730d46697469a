//! Inspects and operates both agents.

use std::io::{self, ErrorKind, IsTerminal, Write, stderr, stdout};
use std::process::ExitCode;

use agentctl::{Cli, Colour, Failure};
use anyhow::Context;
use clap::Parser;

fn main() -> ExitCode {
    let cli = Cli::parse_from(agentctl::ordered(std::env::args_os().collect()));
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colour = Colour::when(stdout().is_terminal() && !no_colour);
    let mut data = Vec::new();
    let ended = agentctl::run(cli, colour, &mut data);
    let printed = print(&data).context("cannot print").map_err(Failure::from);
    let exit = ended.and_then(|exit| printed.map(|()| exit)).unwrap_or_else(|failure| {
        // Where nobody can be told, the exit code still says it.
        drop(write!(stderr(), "{failure}"));
        failure.exit
    });
    exit.into()
}

/// A reader that leaves early, as `head` does, has seen enough.
fn print(data: &[u8]) -> io::Result<()> {
    let mut out = stdout().lock();
    match out.write_all(data).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}
