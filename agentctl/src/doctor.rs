//! `agentctl doctor`: has the agents look at their hosts, prints.

use std::io::{self, Write};

use control::{Inspector, InspectorError};
use model::{Finding, Grade, HostId};
use serde::Serialize;

use crate::ask::{ask, explain};
use crate::cli::HostArgs;
use crate::exit::{Exit, Failure};
use crate::place::ask_host;
use crate::render::{Colour, doctor};

/// What was found of a host.
pub(crate) type Found = (HostId, Vec<Finding>);

/// A finding as JSON.
#[derive(Serialize)]
struct Of<'a> {
    host: &'a HostId,
    #[serde(flatten)]
    finding: &'a Finding,
}

/// Asks the agents and prints what they found; the exit code tells whether anything is bad.
pub(crate) fn run(args: &HostArgs, colour: Colour, out: &mut dyn Write) -> Result<Exit, Failure> {
    let socket = args.ask.socket.as_deref();
    let found = match &args.host {
        Some(host) => {
            let findings = ask_host(socket, Some(host), async |inspector| inspector.doctor().await)?;
            vec![(host.clone(), findings)]
        }
        None => ask(socket, both)?,
    };
    let all = || found.iter().flat_map(|(host, findings)| findings.iter().map(move |finding| Of { host, finding }));
    if args.ask.json {
        serde_json::to_writer_pretty(&mut *out, &all().collect::<Vec<_>>()).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        out.write_all(doctor::render(&found, colour).as_bytes())?;
    }
    Ok(if all().any(|of| of.finding.grade == Grade::Bad) { Exit::Unwell } else { Exit::Ok })
}

/// The host of the agent that is asked, and the opposite one where that is known. One that cannot be asked is a finding.
async fn both(inspector: &mut Inspector) -> Result<Vec<Found>, InspectorError> {
    let (local, peer) = inspector.status().await?;
    let Some(peer) = peer.map(|(peer, _)| peer.host).or(local.control.peer) else {
        return Ok(vec![(local.host, inspector.doctor().await?)]);
    };
    let mut opposite = inspector.opposite();
    let (here, there) = tokio::join!(inspector.doctor(), opposite.doctor());
    let there = there.unwrap_or_else(|error| {
        let failure = explain(&format!("the agent of {peer}"), error);
        let text = format!("not looked at: {:#}", failure.error);
        vec![Finding { check: "agent".to_owned(), grade: Grade::Doubtful, text, next: failure.hint }]
    });
    Ok(vec![(local.host, here?), (peer, there)])
}
