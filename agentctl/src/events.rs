//! `agentctl events`: asks what happened on both hosts, prints.

use std::io::{self, ErrorKind, Write, stdout};
use std::pin::pin;

use control::InspectorError;
use futures_util::StreamExt;
use model::{Event, ServiceName};

use crate::ask::ask;
use crate::cli::EventsArgs;
use crate::exit::{Exit, Failure};
use crate::render::{Colour, events};

/// Asks the agent and prints what it says, with `--follow` as it comes.
pub(crate) fn run(args: &EventsArgs, colour: Colour, out: &mut dyn Write) -> Result<Exit, Failure> {
    let wanted = |event: &Event| args.service.as_ref().is_none_or(|service| concerns(event, service));
    let write = |event: &Event, out: &mut dyn Write| -> io::Result<()> {
        if args.ask.json {
            serde_json::to_writer(&mut *out, event)?;
            writeln!(out)
        } else {
            out.write_all(events::line(event, colour).as_bytes())
        }
    };
    let printed = ask(args.ask.socket.as_deref(), async |inspector| {
        let mut batches = pin!(inspector.events(args.follow).await?);
        while let Some(batch) = batches.next().await {
            let mut text = Vec::new();
            let printed = batch?.iter().filter(|event| wanted(event)).try_for_each(|event| write(event, &mut text));
            let printed = printed.and_then(|()| {
                if !args.follow {
                    return out.write_all(&text);
                }
                // It is to be read when it happens.
                let mut out = stdout().lock();
                out.write_all(&text).and_then(|()| out.flush())
            });
            if printed.is_err() {
                return Ok(printed);
            }
        }
        Ok::<_, InspectorError>(Ok(()))
    })?;
    match printed {
        // A reader that leaves has seen enough.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(Exit::Ok),
    }
}

/// Whether an event is about a service, or about what all services need.
pub(crate) fn concerns(event: &Event, service: &ServiceName) -> bool {
    event.service.as_ref().is_none_or(|of| of == service)
}
