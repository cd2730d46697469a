//! `agentctl ingress`: asks what is published, prints.

use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use model::Serving;

use crate::cli::HostArgs;
use crate::exit::{Exit, Failure};
use crate::place::{ask_edge, ask_host};
use crate::render::{self, Colour};

/// Asks the agent and prints what it says; the exit code tells whether every name serves and nothing is refused.
pub(crate) fn run(args: &HostArgs, colour: Colour, out: &mut dyn Write) -> Result<Exit, Failure> {
    let socket = args.ask.socket.as_deref();
    let report = match &args.host {
        Some(host) => ask_host(socket, Some(host), async |inspector| inspector.ingress().await)?,
        None => ask_edge(socket, async |inspector| inspector.ingress().await)?,
    };
    if args.ask.json {
        serde_json::to_writer_pretty(&mut *out, &report).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        out.write_all(render::ingress::render(&report, colour, now).as_bytes())?;
    }
    let serves = report.sites.iter().all(|site| site.serving == Serving::Yes);
    Ok(if serves && report.refused.is_empty() && report.reason.is_none() { Exit::Ok } else { Exit::Unwell })
}
