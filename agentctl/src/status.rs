//! `agentctl status`: asks how both hosts are, prints.

use std::io::{self, Write};
use std::time::SystemTime;

use model::HostStatus;
use serde::Serialize;

use crate::ask::ask;
use crate::cli::AskArgs;
use crate::exit::{Exit, Failure};
use crate::render::{Colour, render};
use crate::verdict::judge;

/// What an agent answers, and the form of `--json`, which stays as it is but for additions.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    /// The host that was asked.
    pub(crate) local: HostStatus,
    /// The opposite host as it reported last.
    pub(crate) peer: Option<HostStatus>,
    /// How long ago that was.
    pub(crate) peer_age_seconds: Option<u64>,
}

/// Asks the agent and prints what it says; the exit code tells whether all is well.
pub(crate) fn run(args: &AskArgs, colour: Colour, out: &mut dyn Write) -> Result<Exit, Failure> {
    let (local, peer) = ask(args.socket.as_deref(), async |inspector| inspector.status().await)?;
    let (peer, age) = peer.unzip();
    let report = Report { local, peer, peer_age_seconds: age.map(|age| age.as_secs()) };
    let verdict = judge(&report);
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &report).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        out.write_all(render(&report, &verdict, colour, SystemTime::now()).as_bytes())?;
    }
    Ok(if verdict.well { Exit::Ok } else { Exit::Unwell })
}
