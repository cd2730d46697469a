use std::net::SocketAddr;

use model::{Expect, Expectation, HttpProbe, Probe, Target};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::*;
use crate::DockerEngine;
use crate::probe::CheckError;

const READY: &str = r#"{"installed":true,"maintenance":false,"needsDbUpgrade":false,"version":"34.0.4"}"#;

fn http(address: SocketAddr) -> HttpProbe {
    HttpProbe {
        target: Target::Tcp(address),
        path: "/status.php".into(),
        host: "cloud.example.com".into(),
        forwarded_https: true,
        status: 200,
        expect: vec![Expect {
            that: Expectation::Json { pointer: "/maintenance".into(), equals: "false".into() },
            otherwise: "it is in maintenance mode".into(),
        }],
    }
}

fn check(probe: Probe) -> Check {
    Check {
        container: Some("nextcloud".into()),
        probe,
        interval: Duration::from_millis(20),
        timeout: Duration::from_millis(500),
        grace: Duration::ZERO,
    }
}

fn container(state: ContainerState) -> ContainerStatus {
    ContainerStatus {
        name: "nextcloud".into(),
        service: "nextcloud".parse().unwrap(),
        image: "nextcloud:apache".into(),
        id: "abc".into(),
        state,
        started_at: 1000,
        reason: None,
    }
}

/// No test here asks it.
fn engine() -> Arc<DockerEngine> {
    Arc::new(DockerEngine::new("/nowhere.sock", "test"))
}

/// Answers every request with what `answer` holds, after noting the request in it.
async fn serve(listener: TcpListener, answer: watch::Receiver<String>, requests: watch::Sender<String>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 4096];
        let length = stream.read(&mut request).await.unwrap();
        requests.send_replace(String::from_utf8_lossy(&request[..length]).into_owned());
        let answer = answer.borrow().clone();
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn it_asks_as_a_proxy_would_and_follows_the_answers() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (answers, receiver) = watch::channel(answer("200 OK", READY));
    let (requests, mut seen) = watch::channel(String::new());
    tokio::spawn(serve(listener, receiver, requests));
    let (containers, statuses) = watch::channel(vec![container(ContainerState::Running)]);
    let (sender, mut news) = mpsc::channel(NEWS);
    let key = Key::Unit("nextcloud".into());
    let (took, latency) = watch::channel(None);
    tokio::spawn(watch_check(engine(), key, check(Probe::Http(http(address))), statuses, sender, took));

    let mut until = async |word: &str, reason: &str| {
        let fits = async {
            loop {
                let (_, verdict) = news.recv().await.unwrap();
                if verdict.health.word() == word && verdict.health.reason().unwrap_or_default().contains(reason) {
                    return verdict;
                }
            }
        };
        timeout(Duration::from_secs(10), fits).await.unwrap_or_else(|_| panic!("never {word}: {reason}"))
    };
    assert_eq!(until("healthy", "").await.start, Some(Start { id: "abc".into(), at: 1000 }));
    assert!(latency.borrow().is_some_and(|took| took > Duration::ZERO && took < Duration::from_secs(10)));
    let request = seen.wait_for(|request| !request.is_empty()).await.unwrap().to_lowercase();
    assert!(request.starts_with("get /status.php http/1.1\r\n"), "{request}");
    assert!(request.contains("\r\nhost: cloud.example.com\r\n"), "{request}");
    assert!(request.contains("\r\nx-forwarded-proto: https\r\n"), "{request}");

    for (status, body, reason) in [
        ("500 Internal Server Error", "", "/status.php answered 500 Internal Server Error"),
        ("200 OK", &READY.replace("\"maintenance\":false", "\"maintenance\":true"), "maintenance mode"),
        ("200 OK", "<html>", "maintenance mode"),
    ] {
        answers.send_replace(answer(status, body));
        assert!(until("unhealthy", reason).await.failing_since.is_some());
        answers.send_replace(answer("200 OK", READY));
        assert_eq!(until("healthy", "").await.failing_since, None);
    }
    // One that no longer runs is not asked; its next run is.
    containers.send_replace(vec![container(ContainerState::Exited)]);
    assert_eq!(until("unknown", "").await, Verdict::default());
    assert_eq!(*latency.borrow(), None);
    containers.send_replace(vec![ContainerStatus { started_at: 2000, ..container(ContainerState::Running) }]);
    assert_eq!(until("healthy", "").await.start, Some(Start { id: "abc".into(), at: 2000 }));
}

#[tokio::test]
async fn one_that_accepts_and_says_nothing_answers_tcp_and_not_http() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let silent = ask(&*engine(), &check(Probe::Http(http(address))), None).await;
    assert!(matches!(silent, Err(CheckError::Timeout(_))), "{silent:?}");
    ask(&*engine(), &check(Probe::Tcp(address)), None).await.unwrap();
    drop(listener);
    let gone = ask(&*engine(), &check(Probe::Tcp(address)), None).await;
    assert!(matches!(gone, Err(CheckError::Connect(_))), "{gone:?}");
}

#[tokio::test]
async fn a_unix_socket_can_be_asked_and_headers_count() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    let header = |value: &str| {
        let that = Expectation::Header { name: "content-length".into(), value: value.into() };
        let expect = vec![Expect { that, otherwise: "another length".into() }];
        let probe = HttpProbe { target: Target::Unix(path.clone()), expect, ..http("127.0.0.1:1".parse().unwrap()) };
        check(Probe::Http(probe))
    };
    assert!(matches!(ask(&*engine(), &header("2"), None).await, Err(CheckError::Connect(_))));
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            stream.write_all(answer("200 OK", "{}").as_bytes()).await.unwrap();
        }
    });
    ask(&*engine(), &header("2"), None).await.unwrap();
    assert_eq!(ask(&*engine(), &header("3"), None).await.unwrap_err().to_string(), "another length");
}

fn run(at: i64) -> Start {
    Start { id: "abc".into(), at }
}

#[test]
fn one_failure_is_no_outage() {
    let (grace, start) = (Duration::from_secs(60), run(1000));
    let bad = || Err("nothing answers".to_owned());
    let mut memory = Memory::default();
    assert_eq!(memory.judge(Ok(()), Some(&start), grace, 1010), Health::Healthy);
    assert_eq!(memory.judge(bad(), Some(&start), grace, 1012), Health::Healthy);
    assert_eq!(memory.judge(Ok(()), Some(&start), grace, 1014), Health::Healthy);
    assert_eq!(memory.judge(bad(), Some(&start), grace, 1016), Health::Healthy);
    assert_eq!(memory.judge(bad(), Some(&start), grace, 1018).word(), "unhealthy");
}

#[test]
fn grace_lasts_until_it_was_healthy_once_or_time_is_up() {
    let grace = Duration::from_secs(60);
    let bad = || Err("nothing answers".to_owned());
    let mut memory = Memory::default();
    assert_eq!(memory.judge(bad(), Some(&run(1000)), grace, 1005).word(), "starting");
    assert_eq!(memory.judge(bad(), Some(&run(1000)), grace, 1061).word(), "unhealthy");
    let mut memory = Memory::default();
    memory.judge(Ok(()), Some(&run(1000)), grace, 1005);
    memory.judge(bad(), Some(&run(1000)), grace, 1006);
    assert_eq!(memory.judge(bad(), Some(&run(1000)), grace, 1007).word(), "unhealthy");
    // The next run has a grace of its own.
    memory.judge(Ok(()), Some(&run(1000)), grace, 1008);
    assert_eq!(memory.judge(bad(), Some(&run(1020)), grace, 1021).word(), "starting");
    // An external service has no start and so no grace.
    assert_eq!(Memory::default().judge(bad(), None, grace, 0).word(), "unhealthy");
}

#[test]
fn a_service_is_what_its_parts_are() {
    let (good, bad) = (Health::Healthy, Health::Unhealthy { reason: "500".into() });
    let starting = Health::Starting { reason: "nothing answers".into() };
    let pending = Trouble::Pending("fetching image a:1".into());
    let fault = Trouble::Fault("ended with exit code 1".into());
    let shown = |troubles: &[&Trouble], checks: &[&Health]| {
        let troubles: Vec<Trouble> = troubles.iter().map(|trouble| (*trouble).clone()).collect();
        let health = compose(&troubles, &checks.iter().map(|health| (*health).clone()).collect::<Vec<_>>());
        (health.word(), health.reason().unwrap_or_default().to_owned())
    };
    assert_eq!(shown(&[], &[]), ("healthy", String::new()));
    assert_eq!(shown(&[], &[&good, &good]), ("healthy", String::new()));
    assert_eq!(shown(&[], &[&good, &starting, &bad]), ("unhealthy", "500".into()));
    assert_eq!(shown(&[], &[&good, &Health::Unknown]), ("unknown", String::new()));
    // The cause is told rather than what follows from it.
    assert_eq!(shown(&[&pending], &[&bad]), ("starting", "fetching image a:1".into()));
    assert_eq!(shown(&[&pending, &fault], &[&bad]), ("unhealthy", "ended with exit code 1".into()));
    // It works, and something is wrong all the same.
    assert_eq!(shown(&[&fault], &[&good]), ("degraded", "ended with exit code 1".into()));
    assert_eq!(shown(&[&fault], &[]), ("unhealthy", "ended with exit code 1".into()));
    assert_eq!(shown(&[&pending, &fault], &[&good]), ("degraded", "ended with exit code 1".into()));
    assert_eq!(shown(&[&fault], &[&Health::Unknown]), ("unhealthy", "ended with exit code 1".into()));
}
