//! The configuration in force, and how another takes its place: by `agentctl config reload`, or by SIGHUP. The services can change
//! while the agent runs; all else is bound into what was started with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use control::Configurator;
use daemon::ConfigCheck;
use daemon::config::{Loaded, Source};
use futures_util::future::BoxFuture;
use model::{ConfigChange, ConfigReport};
use secrecy::SecretString;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::services::Service;
use crate::settings::Settings;

/// Questions that wait.
const QUEUE: usize = 4;

/// Services to take the place of those in force, for the owner of these.
#[derive(Debug)]
pub struct NewServices {
    /// All of them.
    pub services: Vec<Service>,
    /// Told when they are in force, or why none of them is.
    pub done: oneshot::Sender<Result<(), String>>,
}

/// The one owner of what is known of the configuration.
pub struct Configuration<C> {
    source: Source,
    in_force: Settings,
    /// Where secrets are kept that were generated.
    state_dir: PathBuf,
    services: fn(C) -> Vec<Service>,
    owner: mpsc::Sender<NewServices>,
    questions: mpsc::Receiver<Question>,
    hangup: Signal,
}

enum Question {
    Show(oneshot::Sender<ConfigReport>),
    Reload(oneshot::Sender<ConfigReport>),
    Secrets(oneshot::Sender<Vec<SecretString>>),
}

impl<C: ConfigCheck + Send + 'static> Configuration<C> {
    /// What is in force from the start, from which `services` are those that may change. Returns also whom to ask, and where the
    /// owner of the services hears of others. Needs a tokio runtime; takes SIGHUP from here on.
    ///
    /// # Errors
    /// When the signal cannot be taken.
    pub fn new(
        loaded: &Loaded<C>,
        state_dir: &Path,
        services: fn(C) -> Vec<Service>,
    ) -> std::io::Result<(Self, Arc<dyn Configurator>, mpsc::Receiver<NewServices>)> {
        let (owner, new_services) = mpsc::channel(1);
        let (asker, questions) = mpsc::channel(QUEUE);
        let configuration = Self {
            source: loaded.source.clone(),
            in_force: Settings::of(&loaded.values),
            state_dir: state_dir.to_owned(),
            services,
            owner,
            questions,
            hangup: signal(SignalKind::hangup())?,
        };
        Ok((configuration, Arc::new(Asker(asker)), new_services))
    }

    /// Answers until stopped.
    ///
    /// # Errors
    /// Never; parts of an agent have one.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                // Who asked may have left.
                Some(question) = self.questions.recv() => match question {
                    Question::Show(answer) => drop(answer.send(self.show().await)),
                    Question::Reload(answer) => drop(answer.send(self.reload().await)),
                    Question::Secrets(answer) => drop(answer.send(self.secrets())),
                },
                _ = self.hangup.recv() => drop(self.reload().await),
            }
        }
    }

    async fn show(&self) -> ConfigReport {
        let (mut report, loaded) = self.look().await;
        report.changes = loaded.map(|(_, settings)| self.in_force.changes(&settings)).unwrap_or_default();
        report
    }

    async fn reload(&mut self) -> ConfigReport {
        let (mut report, loaded) = self.look().await;
        if let Some((config, settings)) = loaded {
            report.changes = self.in_force.changes(&settings);
            match self.put_in_force(config, &report.changes).await {
                Ok(()) => {
                    self.in_force = settings;
                    report.in_force = self.in_force.shown();
                }
                Err(reason) => report.refused = Some(reason),
            }
        }
        let file = &report.file;
        match report.fault.as_ref().or(report.refused.as_ref()) {
            Some(reason) => warn!(file, reason, "the configuration is not taken; the one before stays in force"),
            None => info!(file, changes = report.changes.len(), "the configuration is in force"),
        }
        report
    }

    /// What is configured, and what was generated for services and for the ingress.
    fn secrets(&self) -> Vec<SecretString> {
        let generated = fs::read_dir(self.state_dir.join("secrets")).into_iter().flatten().flatten();
        let generated = generated.filter_map(|file| fs::read_to_string(file.path()).ok()).map(SecretString::from);
        self.in_force.secrets().iter().cloned().chain(generated).collect()
    }

    /// What is in force, and what there is now, if that can be.
    async fn look(&self) -> (ConfigReport, Option<(C, Settings)>) {
        let source = self.source.clone();
        // Files are read, the identity's among them.
        let loaded = tokio::task::spawn_blocking(move || {
            let loaded = C::load(&source).map_err(|error| error.to_string())?;
            let settings = Settings::of(&loaded.values);
            Ok((loaded.checked, settings))
        });
        let loaded = loaded.await.unwrap_or_else(|_| Err("reading it failed".to_owned()));
        let report = ConfigReport {
            file: self.source.file.display().to_string(),
            in_force: self.in_force.shown(),
            fault: loaded.as_ref().err().cloned(),
            ..ConfigReport::default()
        };
        (report, loaded.ok())
    }

    async fn put_in_force(&self, config: C, changes: &[ConfigChange]) -> Result<(), String> {
        let fixed: Vec<&str> =
            changes.iter().filter(|change| change.needs_restart).map(|change| change.key.as_str()).collect();
        if !fixed.is_empty() {
            return Err(format!("only a new start of the agent changes {}", fixed.join(", ")));
        }
        let (done, outcome) = oneshot::channel();
        let new = NewServices { services: (self.services)(config), done };
        let gone = || "the agent is stopping".to_owned();
        self.owner.send(new).await.map_err(|_| gone())?;
        outcome.await.map_err(|_| gone())?
    }
}

/// Asks for agentctl.
struct Asker(mpsc::Sender<Question>);

impl Asker {
    fn ask<T: Send + 'static>(&self, question: fn(oneshot::Sender<T>) -> Question) -> BoxFuture<'static, Option<T>> {
        let questions = self.0.clone();
        Box::pin(async move {
            let (sender, answer) = oneshot::channel();
            questions.send(question(sender)).await.ok()?;
            answer.await.ok()
        })
    }
}

impl Configurator for Asker {
    fn show(&self) -> BoxFuture<'static, Option<ConfigReport>> {
        self.ask(Question::Show)
    }

    fn reload(&self) -> BoxFuture<'static, Option<ConfigReport>> {
        self.ask(Question::Reload)
    }

    fn secrets(&self) -> BoxFuture<'static, Option<Vec<SecretString>>> {
        self.ask(Question::Secrets)
    }
}
