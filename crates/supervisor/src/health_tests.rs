use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

const READY: &str = r#"{"installed":true,"maintenance":false,"needsDbUpgrade":false,"version":"34.0.4"}"#;

fn check(address: SocketAddr) -> HealthCheck {
    HealthCheck {
        container: "nextcloud".into(),
        target: Target::Tcp(address),
        path: "/status.php".into(),
        host: "cloud.example.com".into(),
        forwarded_https: true,
        expect: Expectation::NextcloudReady,
        interval: Duration::from_millis(20),
        timeout: Duration::from_millis(500),
        grace: Duration::from_secs(60),
    }
}

fn container(state: ContainerState, reason: Option<&str>) -> ContainerStatus {
    ContainerStatus {
        name: "nextcloud".into(),
        service: "nextcloud".parse().unwrap(),
        image: "nextcloud:apache".into(),
        id: "abc".into(),
        state,
        started_at: 1000,
        reason: reason.map(str::to_owned),
    }
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
    let (_containers, statuses) = watch::channel(vec![container(ContainerState::Running, None)]);
    let token = CancellationToken::new();
    let mut health = spawn(check(address), statuses, token.clone());

    let wait = Duration::from_secs(10);
    timeout(wait, health.wait_for(|health| *health == Health::Healthy)).await.unwrap().unwrap();
    let request = seen.wait_for(|request| !request.is_empty()).await.unwrap().to_lowercase();
    assert!(request.starts_with("get /status.php http/1.1\r\n"), "{request}");
    assert!(request.contains("\r\nhost: cloud.example.com\r\n"), "{request}");
    assert!(request.contains("\r\nx-forwarded-proto: https\r\n"), "{request}");

    for (status, body, reason) in [
        ("500 Internal Server Error", "", "/status.php answered 500 Internal Server Error"),
        ("200 OK", &READY.replace("\"maintenance\":false", "\"maintenance\":true"), "maintenance mode"),
        ("200 OK", &READY.replace("\"needsDbUpgrade\":false", "\"needsDbUpgrade\":true"), "database upgrade"),
        ("200 OK", "<html>", "is not Nextcloud's"),
    ] {
        answers.send_replace(answer(status, body));
        let bad = |health: &Health| health.word() == "unhealthy" && health.reason().unwrap().contains(reason);
        timeout(wait, health.wait_for(bad)).await.expect(reason).unwrap();
        answers.send_replace(answer("200 OK", READY));
        timeout(wait, health.wait_for(|health| *health == Health::Healthy)).await.unwrap().unwrap();
    }
    token.cancel();
    timeout(wait, async { while health.changed().await.is_ok() {} }).await.expect("it ends with the token");
}

#[tokio::test]
async fn one_that_accepts_and_says_nothing_is_not_healthy() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let check = check(listener.local_addr().unwrap());
    assert!(matches!(check.ask().await, Err(CheckError::Timeout(_))));
}

#[tokio::test]
async fn a_unix_socket_can_be_asked() {
    let dir = tempfile::tempdir().unwrap();
    let check = HealthCheck {
        target: Target::Unix(dir.path().join("admin.sock")),
        expect: Expectation::Ok,
        ..check("127.0.0.1:1".parse().unwrap())
    };
    assert!(matches!(check.ask().await, Err(CheckError::Connect(_))));
    let listener = tokio::net::UnixListener::bind(dir.path().join("admin.sock")).unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 1024];
        assert!(stream.read(&mut request).await.unwrap() > 0);
        stream.write_all(answer("200 OK", "{}").as_bytes()).await.unwrap();
    });
    check.ask().await.unwrap();
}

#[test]
fn one_failure_is_no_outage_but_a_dead_container_is() {
    let (grace, running) = (Duration::from_secs(60), container(ContainerState::Running, None));
    let mut memory = Memory::default();
    let bad = || Err("nothing answers".to_owned());
    assert_eq!(memory.judge(Ok(()), Some(&running), grace, 1010), Health::Healthy);
    assert_eq!(memory.judge(bad(), Some(&running), grace, 1012), Health::Healthy);
    assert_eq!(memory.judge(Ok(()), Some(&running), grace, 1014), Health::Healthy);
    let ended = container(ContainerState::Exited, Some("ended with exit code 1"));
    let health = memory.judge(bad(), Some(&ended), grace, 1016);
    assert_eq!(health, Health::Unhealthy { reason: "ended with exit code 1".into() });
}

#[test]
fn grace_lasts_until_it_was_healthy_once_or_time_is_up() {
    let (grace, running) = (Duration::from_secs(60), container(ContainerState::Running, None));
    let bad = || Err("nothing answers".to_owned());
    let mut memory = Memory::default();
    assert_eq!(memory.judge(bad(), Some(&running), grace, 1005).word(), "starting");
    assert_eq!(memory.judge(bad(), Some(&running), grace, 1061).word(), "unhealthy");
    let mut memory = Memory::default();
    memory.judge(Ok(()), Some(&running), grace, 1005);
    memory.judge(bad(), Some(&running), grace, 1006);
    assert_eq!(memory.judge(bad(), Some(&running), grace, 1007).word(), "unhealthy");
}

#[test]
fn what_the_container_says_counts() {
    let grace = Duration::from_secs(60);
    let bad = || Err("nothing answers".to_owned());
    let mut memory = Memory::default();
    let fetching = container(ContainerState::Absent, Some("fetching image nextcloud:apache"));
    assert_eq!(memory.judge(bad(), Some(&fetching), grace, 0).word(), "starting");
    let looping = container(ContainerState::Running, Some("ended 3 times in a row; it did"));
    assert_eq!(memory.judge(Ok(()), Some(&looping), grace, 1010).word(), "degraded");
    let stuck = container(ContainerState::Created, Some("can't publish 10.86.0.2:80"));
    assert_eq!(memory.judge(bad(), Some(&stuck), grace, 0).word(), "unhealthy");
}
