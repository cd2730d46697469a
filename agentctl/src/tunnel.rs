//! `agentctl tunnel`: asks for the agent's own tunnel in detail, prints.

use std::io::{self, Write};
use std::time::SystemTime;

use model::TunnelState;

use crate::cli::HostArgs;
use crate::exit::{Exit, Failure};
use crate::place::ask_host;
use crate::render::{Colour, tunnel};

/// Asks the agent and prints what it says; the exit code tells whether the opposite agent is connected.
pub(crate) fn run(args: &HostArgs, colour: Colour, out: &mut dyn Write) -> Result<Exit, Failure> {
    let report = ask_host(args.ask.socket.as_deref(), args.host.as_ref(), async |inspector| inspector.tunnel().await)?;
    if args.ask.json {
        serde_json::to_writer_pretty(&mut *out, &report).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        out.write_all(tunnel::render(&report, colour, SystemTime::now()).as_bytes())?;
    }
    Ok(if report.status.state == TunnelState::Connected { Exit::Ok } else { Exit::Unwell })
}
