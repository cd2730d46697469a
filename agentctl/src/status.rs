//! `agentctl status`: asks how both hosts are, prints.

use std::io::{self, ErrorKind, Write, stdout};
use std::path::Path;
use std::time::{Duration, SystemTime};

use control::{Inspector, InspectorError};
use model::HostStatus;
use serde::Serialize;
use tokio::time::{Instant, sleep_until};

use crate::ask::{ask, ask_at, runtime, socket_or_default};
use crate::cli::StatusArgs;
use crate::exit::{Exit, Failure};
use crate::render::{Colour, render};
use crate::screen::{Screen, Woken, next};
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

impl Report {
    /// Asks for one.
    pub(crate) async fn of(inspector: &mut Inspector) -> Result<Self, InspectorError> {
        let (local, peer) = inspector.status().await?;
        let (peer, age) = peer.unzip();
        Ok(Self { local, peer, peer_age_seconds: age.map(|age| age.as_secs()) })
    }
}

/// Asks the agent and prints what it says; the exit code tells whether all is well.
pub(crate) fn run(args: &StatusArgs, colour: Colour, out: &mut dyn Write) -> Result<Exit, Failure> {
    if let Some(seconds) = args.watch {
        return watch(args, Duration::from_secs(seconds), colour);
    }
    let report = ask(args.ask.socket.as_deref(), Report::of)?;
    let (text, exit) = told(&report, colour);
    if args.ask.json {
        serde_json::to_writer_pretty(&mut *out, &report).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        out.write_all(text.as_bytes())?;
    }
    Ok(exit)
}

fn told(report: &Report, colour: Colour) -> (String, Exit) {
    let verdict = judge(report);
    let exit = if verdict.well { Exit::Ok } else { Exit::Unwell };
    (render(report, &verdict, colour, SystemTime::now()), exit)
}

/// Shows it again and again. The exit code is that of the last.
fn watch(args: &StatusArgs, period: Duration, colour: Colour) -> Result<Exit, Failure> {
    let socket = socket_or_default(args.ask.socket.as_deref())?;
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        // An agent that does not answer from the start is rather the wrong one.
        let first = ask_at(&socket, Report::of).await?;
        if Screen::is_there() && !args.ask.json {
            on_screen(&socket, first, period, colour).await
        } else {
            in_lines(&socket, first, period, args.ask.json).await
        }
    });
    // A key that nobody will press must not hold the end up.
    runtime.shutdown_background();
    ended
}

async fn on_screen(socket: &Path, first: Report, period: Duration, colour: Colour) -> Result<Exit, Failure> {
    let mut screen = Screen::open()?;
    let (mut text, mut exit) = told(&first, colour);
    let mut asked = Instant::now();
    loop {
        screen.draw(&text)?;
        match screen.wait(next(asked, period)).await {
            Woken::Quit => return Ok(exit),
            Woken::Resized => continue,
            Woken::Time => asked = Instant::now(),
        }
        match ask_at(socket, Report::of).await {
            Ok(report) => (text, exit) = told(&report, colour),
            // It may be starting again.
            Err(failure) => (text, exit) = (failure.to_string(), failure.exit),
        }
    }
}

/// For programs, and for whoever wants to keep it: one after the other, until interrupted or until nobody reads.
async fn in_lines(socket: &Path, first: Report, period: Duration, json: bool) -> Result<Exit, Failure> {
    let mut answer = Ok(first);
    loop {
        let asked = Instant::now();
        match &answer {
            Ok(report) => {
                let text = if json {
                    serde_json::to_string(report).map_err(io::Error::from)?
                } else {
                    told(report, Colour::when(false)).0
                };
                let mut out = stdout().lock();
                match writeln!(out, "{text}").and_then(|()| out.flush()) {
                    Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(Exit::Ok),
                    printed => printed?,
                }
            }
            Err(failure) => drop(write!(io::stderr(), "{failure}")),
        }
        sleep_until(next(asked, period)).await;
        answer = ask_at(socket, Report::of).await;
    }
}
