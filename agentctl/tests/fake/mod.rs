//! A fake operator: it makes answers up, where a real agent would act on containers.
#![allow(dead_code, clippy::allow_attributes, reason = "each test program uses a part")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::PathBuf;
use std::sync::Arc;

use control::{Configurator, Doctor, Inspected, InspectionSocket, Offered, Operator, Opposite, Outputs, Steps};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt};
use model::{
    ConfigChange, ConfigReport, Credential, ExecInput, ExecQuery, Finding, Grade, LogsQuery, Output, PortReach,
    Refusal, RunCommand, ServiceName,
};
use secrecy::SecretString;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The real socket of an agent, with what a test makes up behind it, until this is dropped.
pub(crate) struct FakeAgent {
    pub(crate) socket: PathBuf,
    _dir: TempDir,
    runtime: Runtime,
    stop: CancellationToken,
}

impl FakeAgent {
    pub(crate) fn serve(inspected: Inspected) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("edge.sock");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let stop = CancellationToken::new();
        let bound = runtime.block_on(async { InspectionSocket::bind(&socket).unwrap() });
        runtime.spawn(serve(bound, inspected, stop.clone()));
        Self { socket, _dir: dir, runtime, stop }
    }

    /// As an agent that stops.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
        while self.socket.exists() {
            std::thread::yield_now();
        }
    }

    /// Another one, on the same socket.
    pub(crate) fn start_again(&mut self, inspected: Inspected) {
        self.stop = CancellationToken::new();
        let bound = self.runtime.block_on(async { InspectionSocket::bind(&self.socket).unwrap() });
        self.runtime.spawn(serve(bound, inspected, self.stop.clone()));
    }
}

async fn serve(bound: InspectionSocket, inspected: Inspected, stop: CancellationToken) {
    // Nobody asks for anything to be done.
    let (asked, _asked) = mpsc::channel(1);
    let offered = Offered { host: "vps".parse().unwrap(), inspected, operator: Arc::new(FakeOperator), asked };
    bound.serve(offered, Arc::new(FakeConfigurator), Opposite::none("").1, stop).await.unwrap();
}

/// Its file says another port, and, when reloaded, that only a new start changes the domain.
pub(crate) struct FakeConfigurator;

impl Configurator for FakeConfigurator {
    fn show(&self) -> BoxFuture<'static, Option<ConfigReport>> {
        let change = |key: &str, needs_restart| ConfigChange {
            key: key.into(),
            from: Some("1".into()),
            to: Some("2".into()),
            needs_restart,
        };
        let report = ConfigReport {
            file: "/etc/cloudathome/edge.toml".into(),
            in_force: [("services.app.port".to_owned(), "1".to_owned())].into(),
            changes: vec![change("domain", true), change("services.app.port", false)],
            ..ConfigReport::default()
        };
        Box::pin(async move { Some(report) })
    }

    fn secrets(&self) -> BoxFuture<'static, Option<Vec<SecretString>>> {
        Box::pin(async { Some(vec![SECRET.into()]) })
    }

    fn reload(&self) -> BoxFuture<'static, Option<ConfigReport>> {
        let shown = self.show();
        let refused = Some("only a new start of the agent changes domain".to_owned());
        Box::pin(async move { Some(ConfigReport { refused, ..shown.await? }) })
    }
}

/// What it says that must not be handed on.
pub(crate) const SECRET: &str = "planted-secret";

/// Finds this.
pub(crate) struct FakeDoctor(pub(crate) Grade);

impl Doctor for FakeDoctor {
    fn examine(&self) -> BoxFuture<'static, Vec<Finding>> {
        let finding = Finding {
            check: "disk".into(),
            grade: self.0,
            text: "0.2 GiB are free".into(),
            next: Some("make room".into()),
        };
        Box::pin(async move { vec![finding] })
    }

    fn reach(&self) -> BoxFuture<'static, Option<Vec<PortReach>>> {
        Box::pin(async { None })
    }
}

/// Knows the service `nextcloud`.
pub(crate) struct FakeOperator;

fn known(service: &ServiceName) -> Result<(), Refusal> {
    if service.as_str() == "nextcloud" { Ok(()) } else { Err(Refusal::NotFound(format!("no service {service} here"))) }
}

fn said(service: &ServiceName, steps: &[String], end: Option<Refusal>) -> Steps {
    let mut all: Vec<Result<String, Refusal>> = match known(service) {
        Ok(()) => steps.iter().cloned().map(Ok).collect(),
        Err(refusal) => return stream::iter([Err(refusal)]).boxed(),
    };
    all.extend(end.map(Err));
    stream::iter(all).boxed()
}

impl Operator for FakeOperator {
    fn run(&self, service: ServiceName, command: RunCommand) -> Steps {
        said(&service, &[format!("{command:?}")], None)
    }

    fn logs(&self, query: LogsQuery) -> Outputs {
        let bytes = format!("{} lines of {:?}\n", query.tail, query.container).into_bytes();
        stream::iter([Ok(Output::Stdout { container: "nextcloud".into(), bytes })]).boxed()
    }

    /// Says its command, its user and its input, and ends with 7.
    fn exec(&self, query: ExecQuery, mut input: mpsc::Receiver<ExecInput>) -> Outputs {
        let whole = async move {
            let mut read = Vec::new();
            while let Some(part) = input.recv().await {
                match part {
                    ExecInput::Stdin(bytes) => read.extend(bytes),
                    ExecInput::Eof => break,
                    ExecInput::Size(_) => {}
                }
            }
            let mut bytes = format!("{} {:?} {:?} ", query.admin, query.user, query.command).into_bytes();
            bytes.extend(read);
            Ok(Output::Stdout { container: String::new(), bytes })
        };
        stream::once(whole).chain(stream::iter([Ok(Output::Ended(7))])).boxed()
    }

    fn credentials(&self, service: ServiceName) -> BoxFuture<'static, Result<Vec<Credential>, Refusal>> {
        Box::pin(async move {
            known(&service)?;
            Ok(vec![Credential { label: "password".into(), value: "geheim".into() }])
        })
    }

    fn upgrade(&self, service: ServiceName, to: String) -> Steps {
        if to.is_empty() {
            return said(&service, &["nextcloud runs nextcloud:32.0.1".to_owned()], None);
        }
        let end = Refusal::Failed(format!("{to} did not get healthy; 32.0.1 is back"));
        said(&service, &["saving".to_owned(), "starting".to_owned()], Some(end))
    }

    fn rollback(&self, service: ServiceName) -> Steps {
        said(&service, &["back".to_owned()], None)
    }

    fn purge(&self, service: ServiceName) -> Steps {
        said(&service, &["gone".to_owned()], None)
    }
}
