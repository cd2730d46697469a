//! An agent's parts that make their answers up, and write down what they are asked.
#![allow(dead_code, clippy::allow_attributes, reason = "each test program uses a part")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use control::{
    Asked, Configurator, Doctor, Inspected, InspectionSocket, Inspector, Offered, Operator, Opposite, Outputs,
    Snapshot, Steps, Timelines,
};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt};
use model::{
    ConfigReport, Credential, ExecInput, ExecQuery, Finding, Grade, HostStatus, LogsQuery, Output, Port, PortReach,
    PortService, Protocol, Refusal, Role, RunCommand, Seen, ServiceName, TunnelReport,
};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Bytes of a line of endless logs.
const LINE: usize = 16 * 1024;

/// An agent's socket, as `agentctl` asks it.
pub(crate) async fn socket(offered: Offered, opposite: Opposite, stop: CancellationToken) -> (Inspector, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    tokio::spawn(InspectionSocket::bind(&path).unwrap().serve(offered, Arc::new(FakeConfigurator), opposite, stop));
    (Inspector::connect(&path).await.unwrap(), dir)
}

/// What an agent offers that runs nothing, who writes down what it is asked, and what the agent hears of that.
pub(crate) fn offered(host: &str, role: Role) -> (Offered, Arc<Recorder>, mpsc::Receiver<Asked>) {
    let local = HostStatus::new(host.parse().unwrap(), role);
    let (_, state) = watch::channel(Snapshot { local, peer: None });
    let (_, tunnel) = watch::channel(TunnelReport { device: format!("link of {host}"), ..TunnelReport::default() });
    let (_, timelines) = watch::channel(Timelines::default());
    let inspected = Inspected { state, timelines, tunnel, doctor: Arc::new(FakeDoctor), ingress: None };
    let operator = Arc::new(Recorder::default());
    let (asked, heard) = mpsc::channel(64);
    (Offered { host: host.parse().unwrap(), inspected, operator: operator.clone(), asked }, operator, heard)
}

/// What it is asked, and how many bytes of endless logs were taken from it.
#[derive(Default)]
pub(crate) struct Recorder(pub(crate) Mutex<Vec<String>>, pub(crate) Arc<AtomicUsize>);

impl Recorder {
    fn note(&self, what: String) {
        self.0.lock().unwrap().push(what);
    }
}

fn known(service: &ServiceName) -> Result<(), Refusal> {
    if service.as_str() == "nextcloud" { Ok(()) } else { Err(Refusal::NotFound(format!("no service {service} here"))) }
}

impl Operator for Recorder {
    fn run(&self, service: ServiceName, command: RunCommand) -> Steps {
        self.note(format!("{command:?} {service}"));
        let steps = match known(&service) {
            Ok(()) => vec![Ok("stopping".to_owned()), Ok("done".to_owned())],
            Err(refusal) => vec![Err(refusal)],
        };
        stream::iter(steps).boxed()
    }

    fn logs(&self, query: LogsQuery) -> Outputs {
        self.note(format!("{query:?}"));
        if query.service.as_str() == "endless" {
            let taken = Arc::clone(&self.1);
            let line = move || {
                taken.fetch_add(LINE, Ordering::Relaxed);
                Ok(Output::Stdout { container: "endless".into(), bytes: vec![b'x'; LINE] })
            };
            return stream::repeat_with(line).boxed();
        }
        let line = Output::Stderr { container: "nextcloud-db".into(), bytes: vec![0xff, b'\n'] };
        stream::iter([Ok(line)]).chain(stream::pending()).boxed()
    }

    /// Hands the input back and ends with its length.
    fn exec(&self, query: ExecQuery, input: mpsc::Receiver<ExecInput>) -> Outputs {
        self.note(format!("{query:?}"));
        stream::unfold((input, 0, false), async |(mut input, length, ended)| {
            if ended {
                return None;
            }
            Some(match input.recv().await? {
                ExecInput::Stdin(bytes) => {
                    let length = length + i64::try_from(bytes.len()).unwrap();
                    (Ok(Output::Stdout { container: String::new(), bytes }), (input, length, false))
                }
                ExecInput::Size(size) => {
                    let bytes = format!("{size:?}").into_bytes();
                    (Ok(Output::Stderr { container: String::new(), bytes }), (input, length, false))
                }
                ExecInput::Eof => (Ok(Output::Ended(length)), (input, length, true)),
            })
        })
        .boxed()
    }

    fn credentials(&self, service: ServiceName) -> BoxFuture<'static, Result<Vec<Credential>, Refusal>> {
        Box::pin(async move {
            known(&service)?;
            Ok(vec![Credential { label: "password".into(), value: "geheim".into() }])
        })
    }

    fn upgrade(&self, service: ServiceName, to: String) -> Steps {
        self.note(format!("upgrade {service} {to}"));
        let failed = Refusal::Failed("it did not get healthy; 32.0.1 is back".into());
        stream::iter([Ok("saving".to_owned()), Err(failed)]).boxed()
    }

    fn rollback(&self, service: ServiceName) -> Steps {
        self.note(format!("rollback {service}"));
        stream::iter([Err(Refusal::Refused("there is nothing to go back to".into()))]).boxed()
    }

    fn purge(&self, service: ServiceName) -> Steps {
        self.note(format!("purge {service}"));
        stream::empty().boxed()
    }
}

/// Knows nothing.
struct FakeConfigurator;

impl Configurator for FakeConfigurator {
    fn show(&self) -> BoxFuture<'static, Option<ConfigReport>> {
        Box::pin(async { None })
    }

    fn reload(&self) -> BoxFuture<'static, Option<ConfigReport>> {
        Box::pin(async { None })
    }

    fn secrets(&self) -> BoxFuture<'static, Option<Vec<secrecy::SecretString>>> {
        Box::pin(async { None })
    }
}

/// Finds that there is room.
struct FakeDoctor;

impl Doctor for FakeDoctor {
    fn examine(&self) -> BoxFuture<'static, Vec<Finding>> {
        let finding = Finding { check: "disk".into(), grade: Grade::Good, text: "there is room".into(), next: None };
        Box::pin(async { vec![finding] })
    }

    fn reach(&self) -> BoxFuture<'static, Option<Vec<PortReach>>> {
        let port = Port { number: 443, over: Protocol::Tcp };
        let reach = PortReach { service: PortService::Https, port, address: None, seen: Seen::Answers };
        Box::pin(async { Some(vec![reach]) })
    }
}
