//! `agentctl doctor`: has the agent look at its host, prints.

use std::io::{self, Write};

use model::Grade;

use crate::cli::HostArgs;
use crate::exit::{Exit, Failure};
use crate::place::ask_host;
use crate::render::{Colour, doctor};

/// Asks the agent and prints what it found; the exit code tells whether anything is bad.
pub(crate) fn run(args: &HostArgs, colour: Colour, out: &mut dyn Write) -> Result<Exit, Failure> {
    let findings =
        ask_host(args.ask.socket.as_deref(), args.host.as_ref(), async |inspector| inspector.doctor().await)?;
    if args.ask.json {
        serde_json::to_writer_pretty(&mut *out, &findings).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        out.write_all(doctor::render(&findings, colour).as_bytes())?;
    }
    Ok(if findings.iter().any(|finding| finding.grade == Grade::Bad) { Exit::Unwell } else { Exit::Ok })
}
