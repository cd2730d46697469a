//! From the command line to the exit code.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::Context;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::{ConfigError, Loaded, Overrides, Source};
use crate::{Watchdog, exit, logs};

/// How long the daemon may take to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// How long it may take when the host goes down: what it looks after may have to be stopped before.
const HOST_STOP_DEADLINE: Duration = Duration::from_secs(160);
/// How long systemd may take to say what it is doing.
const SYSTEMD_DEADLINE: Duration = Duration::from_secs(3);

/// The flags of every daemon of ours.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Override one key of the configuration, as in `--set tunnel.mode=dial`; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    pub overrides: Vec<(String, String)>,
    /// Check the configuration and the files it names, print the verdict, and exit (0 good, 64 bad)
    #[arg(long)]
    pub check: bool,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

/// What must hold before the daemon binds or changes anything.
pub trait ConfigCheck: Sized {
    /// The log format and filter.
    fn logs(&self) -> (logs::Format, &str);

    /// Reads the configuration and every file it names.
    ///
    /// # Errors
    /// When any of it cannot be used.
    fn load(source: &Source) -> Result<Loaded<Self>, ConfigError>;
}

/// Runs a daemon: loads its configuration (a bad one ends it with [`exit::CONFIG`] before anything is bound),
/// starts logging, and drives `serve` until it ends or SIGTERM or SIGINT asks it to; `serve` then has ten
/// seconds, and 160 when the host goes down.
/// `serve` calls the given notifier once it is ready.
pub fn run<C, Serve>(
    name: &'static str,
    file: PathBuf,
    env_prefix: &'static str,
    args: Args,
    serve: impl FnOnce(Loaded<C>, Ready, CancellationToken) -> Serve,
) -> ExitCode
where
    C: ConfigCheck,
    Serve: Future<Output = anyhow::Result<()>>,
{
    let source = Source { file, overrides: Overrides { env_prefix, flags: args.overrides } };
    let config = match C::load(&source) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{name}: bad configuration: {error}");
            return exit::CONFIG.into();
        }
    };
    if args.check {
        println!("{}: good", source.file.display());
        return exit::OK.into();
    }
    match try_run(name, config, serve) {
        Ok(()) => exit::OK.into(),
        Err(error) => {
            // The log may not have started: people must see this line in any case.
            eprintln!("{name}: {error:#}");
            exit::FAILED.into()
        }
    }
}

/// Tells systemd that the daemon is ready.
#[derive(Debug)]
pub struct Ready(());

impl Ready {
    /// Everything that was asked for is bound and running, and from now on `watchdog` looks after it.
    pub fn notify(self, watchdog: Watchdog) {
        if let Err(error) = sd_notify::notify(&[NotifyState::Ready]) {
            warn!(%error, "systemd could not be told that the daemon is ready");
        }
        // It goes on while the daemon stops, which may take its time.
        tokio::spawn(watchdog.run());
    }
}

fn try_run<C, Serve>(
    name: &'static str,
    config: Loaded<C>,
    serve: impl FnOnce(Loaded<C>, Ready, CancellationToken) -> Serve,
) -> anyhow::Result<()>
where
    C: ConfigCheck,
    Serve: Future<Output = anyhow::Result<()>>,
{
    let (format, filter) = config.checked.logs();
    logs::start(format, filter)?;
    info!(version = env!("CARGO_PKG_VERSION"), "{name} starting");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let stop = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let serving = serve(config, Ready(()), stop.clone());
        tokio::pin!(serving);
        let signal = tokio::select! {
            ended = &mut serving => return ended,
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        info!(signal, "{name} stopping");
        drop(sd_notify::notify(&[NotifyState::Stopping]));
        stop.cancel();
        let deadline = async {
            tokio::time::sleep(STOP_DEADLINE).await;
            if host_is_stopping().await {
                tokio::time::sleep(HOST_STOP_DEADLINE - STOP_DEADLINE).await;
            }
        };
        tokio::select! {
            ended = &mut serving => ended,
            () = deadline => {
                error!("not stopped in time; leaving anyway");
                Ok(())
            }
        }
    });
    // Tasks that still wait on the outside must not hold the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// Whether systemd is taking the host down, and not only this daemon: its manager's state is then `stopping`
/// (systemctl(1), is-system-running). Where systemd does not run, or does not answer, no.
pub async fn host_is_stopping() -> bool {
    let answer = async {
        loop {
            let mut ask = tokio::process::Command::new("systemctl");
            ask.arg("is-system-running").stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
            match ask.output().await {
                // A signal for all of the unit ended it before it could say.
                Ok(output) if output.status.signal().is_some() => {}
                Ok(output) => return output.stdout.trim_ascii() == b"stopping",
                Err(_) => return false,
            }
        }
    };
    tokio::time::timeout(SYSTEMD_DEADLINE, answer).await.unwrap_or(false)
}

/// Waits until the first of a daemon's parts ends, asks the others to, and waits for them. The first error wins.
///
/// # Errors
/// With what a part failed of, or that one panicked.
pub async fn until_first_ends(mut parts: JoinSet<anyhow::Result<()>>, stop: CancellationToken) -> anyhow::Result<()> {
    let mut result = Ok(());
    while let Some(ended) = parts.join_next().await {
        stop.cancel();
        result = result.and(ended.context("a part of the agent panicked").flatten());
    }
    result
}
