//! Operations over a real unix socket, done by an operator that only writes down what it is asked.
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a test that fails")]

mod fake;

use std::sync::Arc;
use std::time::Duration;

use control::{Asked, OperateError, OperationsClient, Opposite};
use fake::Recorder;
use futures_util::stream::StreamExt;
use model::{ExecInput, ExecQuery, LogsQuery, Output, Refusal, Role, RunCommand, ServiceName, TerminalSize};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

struct Served {
    operator: Arc<Recorder>,
    asked: mpsc::Receiver<Asked>,
    client: OperationsClient,
    _dir: tempfile::TempDir,
    _stop: tokio_util::sync::DropGuard,
}

async fn serve() -> Served {
    let stop = CancellationToken::new();
    let (offered, operator, asked) = fake::offered("attic", Role::Home);
    let (inspector, dir) = fake::socket(offered, Opposite::none("nobody is there").1, stop.clone()).await;
    Served { operator, asked, client: inspector.operations(), _dir: dir, _stop: stop.drop_guard() }
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
    // The agent has heard of each.
    let first = served.asked.recv().await.unwrap();
    let (on, service) = ("attic".parse().unwrap(), nextcloud);
    assert_eq!(first, Asked { on, service, what: "restart".into() });
    for what in ["upgrade to 33.0.1-apache", "rollback", "stop", "purge"] {
        assert_eq!(served.asked.recv().await.unwrap().what, what);
    }
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
    assert!(served.asked.try_recv().is_err(), "who reads at home leaves no trace");

    let logins = served.client.credentials(&nextcloud).await.unwrap();
    assert_eq!(logins[0].value, "geheim");
    assert!(!format!("{logins:?}").contains("geheim"));
    let unknown = served.client.credentials(&"ghost".parse().unwrap()).await.unwrap_err();
    assert!(matches!(unknown, OperateError::Refused(Refusal::NotFound(_))), "{unknown:?}");
}
