//! `agentctl connect`: a client of any OpenVPN server, in the foreground.

use std::io::Write;

use anyhow::Error;
use client::{Options, Plan, PlanError, RunError};
use hostnet::session::{Places, SessionError};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cli::ConnectArgs;
use crate::exit::{Exit, Failure};

/// Reads the profile and, unless only that was asked for, connects until it is interrupted.
pub(crate) fn run(args: ConnectArgs, out: &mut dyn Write) -> Result<Exit, Failure> {
    let shown = args.profile.display();
    let plan = Plan::read(&args.profile).map_err(|error| {
        let hint = match &error {
            PlanError::Unreadable { .. } => "name the profile's file",
            PlanError::Profile(_) => "change these lines, or ask whoever gave you the profile for another",
        };
        let error = Error::new(error).context(format!("{shown} cannot be used"));
        Failure { exit: Exit::BadFile, error, hint: Some(hint.to_owned()) }
    })?;
    if args.check {
        writeln!(out, "{shown} can be used")?;
        write!(out, "{plan}")?;
        for note in &plan.notes {
            writeln!(out, "passed over: {note}")?;
        }
        return Ok(Exit::Ok);
    }
    let places = Places { journals: args.journals, ..Places::default() };
    let options = Options { device: args.device, login: args.login, offload: args.offload, places };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build()?;
    let ended = runtime.block_on(async {
        let stop = CancellationToken::new();
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let mut hangup = if ignores_hangup() { None } else { Some(signal(SignalKind::hangup())?) };
        let stopping = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                Some(_) = async { hangup.as_mut()?.recv().await } => {}
            }
            stopping.cancel();
        });
        // Nobody may be left to read it, and the host must be brought back all the same.
        let mut say = |line: &str| drop(writeln!(std::io::stderr(), "{line}"));
        client::run(plan, options, stop, &mut say).await.map_err(failure)
    });
    // A question on the terminal that nobody has answered must not hold the end up.
    runtime.shutdown_background();
    ended.map(|()| Exit::Ok)
}

/// Whether whoever started us wants us to outlive the terminal, as nohup does.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    // Signal 1 is the lowest bit.
    ignored.is_some_and(|ignored| ignored & 1 != 0)
}

fn failure(error: RunError) -> Failure {
    let hint = match &error {
        // It says itself what to do.
        RunError::Session(SessionError::Busy(_)) => None,
        RunError::Device(_) | RunError::Session(_) => Some("run it with sudo"),
        RunError::Tunnel(_) => Some("check the profile's certificates, keys and password, or ask the server's owner"),
        RunError::Login(_) | RunError::Broken | RunError::GaveUp(_) => None,
    };
    let error = Error::new(error).context("the connection ended");
    Failure { exit: Exit::Failed, error, hint: hint.map(str::to_owned) }
}
