//! `agentctl identity`: what the authority of this edge issued, and its revocation, by the agent that has the authority.

use std::io::{self, Write};
use std::time::SystemTime;

use anyhow::anyhow;
use control::Revoke;

use crate::ask::ask;
use crate::cli::{IdentityCommand, RevokeIdentityArgs};
use crate::exit::{Exit, Failure};
use crate::render::{Colour, identities};

/// Runs the command.
pub(crate) fn run(command: &IdentityCommand, colour: Colour, out: &mut dyn Write) -> Result<Exit, Failure> {
    match command {
        IdentityCommand::List(args) => {
            let listed = ask(args.socket.as_deref(), async |agent| agent.identities().await)?;
            if args.json {
                serde_json::to_writer_pretty(&mut *out, &listed).map_err(io::Error::from)?;
                writeln!(out)?;
            } else {
                out.write_all(identities::render(&listed, colour, SystemTime::now()).as_bytes())?;
            }
            Ok(Exit::Ok)
        }
        IdentityCommand::Revoke(args) => revoke(args, out),
    }
}

fn revoke(args: &RevokeIdentityArgs, out: &mut dyn Write) -> Result<Exit, Failure> {
    let which = match (&args.name, &args.serial) {
        (Some(name), _) => Revoke::Name(name.clone()),
        (None, Some(serial)) => Revoke::Serial(serial.clone()),
        (None, None) => return Err(Failure::new(anyhow!("nothing is named"), "name a holder, or give --serial")),
    };
    let revoked = ask(args.socket.as_deref(), async |agent| agent.revoke(&which).await)?;
    for identity in &revoked {
        writeln!(out, "{}", identity.serial)?;
        eprintln!("Revoked {} of {} {}.", identity.serial, identity.role, identity.name);
    }
    if revoked.is_empty() {
        eprintln!("Everything of this name was revoked already.");
    } else {
        eprintln!("Both hosts refuse it within seconds, home as soon as it is connected.");
    }
    Ok(Exit::Ok)
}
