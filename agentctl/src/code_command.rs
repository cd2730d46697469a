//! `agentctl code`: join codes, by the agent that has the authority.

use std::io::{self, Write};
use std::time::SystemTime;

use model::JoinCodeInfo;
use secrecy::ExposeSecret;
use serde::Serialize;

use crate::ask::ask;
use crate::cli::{CodeCommand, NewCodeArgs};
use crate::exit::{Exit, Failure};
use crate::render::{Colour, codes, human_time};

/// A new code as JSON.
#[derive(Serialize)]
struct New<'a> {
    code: &'a str,
    #[serde(flatten)]
    info: &'a JoinCodeInfo,
}

/// Runs the command.
pub(crate) fn run(command: &CodeCommand, colour: Colour, out: &mut dyn Write) -> Result<Exit, Failure> {
    match command {
        CodeCommand::New(args) => new(args, out),
        CodeCommand::List(args) => {
            let listed = ask(args.socket.as_deref(), async |agent| agent.codes().await)?;
            if args.json {
                print(out, &listed)?;
            } else {
                out.write_all(codes::render(&listed, colour, SystemTime::now()).as_bytes())?;
            }
            Ok(Exit::Ok)
        }
        CodeCommand::Revoke(args) => {
            let code = ask(args.socket.as_deref(), async |agent| agent.revoke_code(&args.id).await)?;
            eprintln!("Revoked: nobody joins by code {} any more.", code.id);
            Ok(Exit::Ok)
        }
    }
}

fn new(args: &NewCodeArgs, out: &mut dyn Write) -> Result<Exit, Failure> {
    let address = args.address.or_else(::setup::public_ipv4);
    let (code, info) = ask(args.ask.socket.as_deref(), async |agent| agent.new_code(address, args.life).await)?;
    let code = code.expose_secret();
    if args.ask.json {
        print(out, &New { code, info: &info })?;
        return Ok(Exit::Ok);
    }
    let edge = if address.is_some() { "" } else { " --edge THIS-HOST'S-ADDRESS" };
    let life = human_time(args.life.as_secs());
    eprintln!(
        "At home, within {life}: `sudo agentctl join{edge}`. It asks for this join code, which can be used once:\n"
    );
    writeln!(out, "{code}")?;
    eprintln!("\nIt is called {}: `sudo agentctl code revoke {}` ends it.", info.id, info.id);
    Ok(Exit::Ok)
}

fn print(out: &mut dyn Write, value: &impl Serialize) -> Result<(), Failure> {
    serde_json::to_writer_pretty(&mut *out, value).map_err(io::Error::from)?;
    writeln!(out)?;
    Ok(())
}
