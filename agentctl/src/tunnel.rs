//! `agentctl tunnel`: asks for the agent's own tunnel in detail, prints.

use std::io::{self, Write};
use std::time::SystemTime;

use model::TunnelState;

use crate::ask::ask;
use crate::cli::AskArgs;
use crate::exit::{Exit, Failure};
use crate::render::{Colour, tunnel};

/// Asks the agent and prints what it says; the exit code tells whether the opposite agent is connected.
pub(crate) fn run(args: &AskArgs, colour: Colour, out: &mut dyn Write) -> Result<Exit, Failure> {
    let report = ask(args.socket.as_deref(), async |inspector| inspector.tunnel().await)?;
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &report).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        out.write_all(tunnel::render(&report, colour, SystemTime::now()).as_bytes())?;
    }
    Ok(if report.status.state == TunnelState::Connected { Exit::Ok } else { Exit::Unwell })
}
