//! Operations over a real unix socket, done by an operator that only writes down what it is asked.
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a test that fails")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use control::{
    Configurator, Doctor, Inspected, InspectionSocket, Inspector, OperateError, OperationsClient, Operator, Outputs,
    Snapshot, Steps, Timelines,
};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt};
use model::{
    ConfigReport, Credential, ExecInput, ExecQuery, Finding, HostStatus, LogsQuery, Output, Refusal, Role, RunCommand,
    ServiceName, TerminalSize, TunnelReport,
};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

#[derive(Default)]
struct Recorder(Mutex<Vec<String>>);

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

struct Served {
    operator: Arc<Recorder>,
    client: OperationsClient,
    _dir: tempfile::TempDir,
    _stop: tokio_util::sync::DropGuard,
}

/// Has nothing to say.
struct FakeDoctor;

impl Doctor for FakeDoctor {
    fn examine(&self) -> BoxFuture<'static, Vec<Finding>> {
        Box::pin(async { Vec::new() })
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
}

async fn serve() -> Served {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    let operator = Arc::new(Recorder::default());
    let stop = CancellationToken::new();
    let local = HostStatus::new("attic".parse().unwrap(), Role::Home);
    let (_, state) = watch::channel(Snapshot { local, peer: None });
    let (_, tunnel) = watch::channel(TunnelReport::default());
    let socket = InspectionSocket::bind(&path).unwrap();
    let (_, timelines) = watch::channel(Timelines::default());
    let inspected = Inspected { state, timelines, tunnel, doctor: Arc::new(FakeDoctor), ingress: None };
    tokio::spawn(socket.serve(inspected, operator.clone(), Arc::new(FakeConfigurator), stop.clone()));
    let client = Inspector::connect(&path).await.unwrap().operations();
    Served { operator, client, _dir: dir, _stop: stop.drop_guard() }
}

async fn all<T>(
    mut stream: futures_util::stream::BoxStream<'static, Result<T, OperateError>>,
) -> (Vec<T>, Option<OperateError>) {
    let mut got = Vec::new();
    let read = async {
        while let Some(item) = stream.next().await {
            match item {
                Ok(item) => got.push(item),
                Err(error) => return Some(error),
            }
        }
        None
    };
    let error = timeout(Duration::from_secs(10), read).await.expect("the stream ends");
    (got, error)
}

#[tokio::test]
async fn steps_come_in_order_and_end_with_the_reason() {
    let mut served = serve().await;
    let nextcloud = "nextcloud".parse().unwrap();
    let (steps, error) = all(served.client.run(&nextcloud, RunCommand::Restart).await.unwrap()).await;
    assert_eq!(steps, ["stopping", "done"]);
    assert!(error.is_none());

    let (steps, error) = all(served.client.upgrade(&nextcloud, "33.0.1-apache").await.unwrap()).await;
    assert_eq!(steps, ["saving"]);
    assert!(matches!(error, Some(OperateError::Refused(Refusal::Failed(text))) if text.contains("32.0.1 is back")));

    let (_, error) = all(served.client.rollback(&nextcloud).await.unwrap()).await;
    assert!(matches!(error, Some(OperateError::Refused(Refusal::Refused(_)))), "{error:?}");
    let (_, error) = all(served.client.run(&"ghost".parse().unwrap(), RunCommand::Stop).await.unwrap()).await;
    assert!(matches!(error, Some(OperateError::Refused(Refusal::NotFound(_)))), "{error:?}");
    let (_, error) = all(served.client.purge(&nextcloud).await.unwrap()).await;
    assert!(error.is_none());

    let asked = served.operator.0.lock().unwrap().clone();
    assert_eq!(
        asked,
        ["Restart nextcloud", "upgrade nextcloud 33.0.1-apache", "rollback nextcloud", "Stop ghost", "purge nextcloud"]
    );
}

#[tokio::test]
async fn a_command_gets_its_input_and_tells_its_end() {
    let mut served = serve().await;
    let (sender, input) = mpsc::channel(4);
    let size = TerminalSize { columns: 80, rows: 25 };
    let query = ExecQuery {
        service: "nextcloud".parse().unwrap(),
        container: None,
        user: Some("www-data".into()),
        command: vec!["status".into()],
        admin: true,
        terminal: Some(size),
    };
    for part in [ExecInput::Stdin(vec![0, 0xff]), ExecInput::Size(size), ExecInput::Eof] {
        sender.send(part).await.unwrap();
    }
    let (output, error) = all(served.client.exec(query.clone(), input).await.unwrap()).await;
    assert!(error.is_none(), "{error:?}");
    let container = String::new;
    assert_eq!(
        output,
        [
            Output::Stdout { container: container(), bytes: vec![0, 0xff] },
            Output::Stderr { container: container(), bytes: format!("{size:?}").into_bytes() },
            Output::Ended(2),
        ]
    );
    assert_eq!(*served.operator.0.lock().unwrap(), [format!("{query:?}")]);
}

#[tokio::test]
async fn logs_follow_and_credentials_are_told() {
    let mut served = serve().await;
    let nextcloud: ServiceName = "nextcloud".parse().unwrap();
    let query = LogsQuery { service: nextcloud.clone(), container: Some("nextcloud-db".into()), follow: true, tail: 7 };
    let mut lines = served.client.logs(query.clone()).await.unwrap();
    let line = timeout(Duration::from_secs(10), lines.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(line, Output::Stderr { container: "nextcloud-db".into(), bytes: vec![0xff, b'\n'] });
    assert_eq!(*served.operator.0.lock().unwrap(), [format!("{query:?}")]);

    let logins = served.client.credentials(&nextcloud).await.unwrap();
    assert_eq!(logins[0].value, "geheim");
    assert!(!format!("{logins:?}").contains("geheim"));
    let unknown = served.client.credentials(&"ghost".parse().unwrap()).await.unwrap_err();
    assert!(matches!(unknown, OperateError::Refused(Refusal::NotFound(_))), "{unknown:?}");
}
