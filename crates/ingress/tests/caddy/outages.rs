//! What visitors get while the application is gone or hangs, without anybody telling Caddy.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use ingress::{Away, AwayReason, ProbeError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Published, eventually};

/// From the moment something broke.
const LIMIT: Duration = Duration::from_secs(5);

#[tokio::test]
async fn browsers_get_a_page_and_others_a_line() {
    let Some(mut published) = Published::start().await else { return };
    let browser = ["-H", "Accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"];
    let sync = ["-X", "PROPFIND", "-H", "Accept: */*"];
    let check = |published: &Published, words: &str| {
        for (arguments, kind, page) in [(&browser[..], "text/html", true), (&sync[..], "text/plain", false)] {
            let answer = published.lab.visit("/remote.php/dav/", arguments).to_lowercase();
            assert!(answer.contains(" 503") && answer.contains("retry-after: 15"), "{answer}");
            assert!(
                answer.contains("cache-control: no-store") && answer.contains(&format!("type: {kind}")),
                "{answer}"
            );
            assert!(answer.contains(words) && answer.contains("<html") == page, "{words} in {answer}");
            assert!(answer.contains("strict-transport-security: "), "{answer}");
        }
    };
    let upstream = published.app.address;
    let since = std::time::UNIX_EPOCH + Duration::from_secs(1_795_449_120);
    published
        .load(|state| {
            state.sites[0].upstream = None;
            state.sites[0].away = Some(Away { reason: AwayReason::Unreachable, since: Some(since), upstream });
        })
        .await;
    check(&published, "since 15:52 utc on 23 november 2026: the computer that it runs on is not connected");

    // Gone without anybody saying so.
    published
        .load(|state| {
            state.sites[0].upstream = Some(upstream);
            state.sites[0].away = None;
        })
        .await;
    published.probe().await.unwrap();
    drop(std::mem::replace(&mut published.app, crate::app::App::start()));
    check(&published, "cannot be reached at the moment");
    // Accepting connections, answering none.
    let _mute = TcpListener::bind(upstream).unwrap();
    let started = Instant::now();
    held(&published).await;
    assert!(started.elapsed() < LIMIT, "{:?}", started.elapsed());
}

#[tokio::test]
async fn an_application_that_hangs_is_noticed_on_kept_alive_connections_too() {
    let Some(published) = Published::start().await else { return };
    // Caddy has connections that it will use again.
    for _ in 0..3 {
        published.probe().await.unwrap();
    }
    published.app.hang(true);
    let started = Instant::now();
    held(&published).await;
    assert!(started.elapsed() < LIMIT, "{:?}", started.elapsed());
    published.app.hang(false);
    eventually("the service again", async || published.probe().await.ok()).await;
}

/// The next visitors get the holding page soon, however long the first ones wait.
async fn held(published: &Published) {
    eventually("the holding page", async || {
        let probe = tokio::time::timeout(Duration::from_millis(300), published.probe()).await;
        matches!(probe, Ok(Err(ProbeError::Holding { status: 503 }))).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_upload_reaches_the_application_while_it_is_being_sent() {
    let Some(published) = Published::start().await else { return };
    let mut visitor = published.connect().await;
    let head =
        "PUT /file HTTP/1.1\r\nHost: cloud.example.test\r\nContent-Length: 5000000000\r\nConnection: close\r\n\r\n";
    visitor.write_all(head.as_bytes()).await.unwrap();
    let before = published.app.received();
    for part in 1..=3 {
        visitor.write_all(&[7; 100_000]).await.unwrap();
        visitor.flush().await.unwrap();
        eventually("the part that was sent", async || {
            (published.app.received() - before >= part * 100_000).then_some(())
        })
        .await;
    }
    drop(visitor);

    // A large one is kept nowhere: of itself Caddy needs 60 MiB.
    const LARGE: usize = 256 << 20;
    let before = published.caddy.memory();
    let mut visitor = published.connect().await;
    let head = format!(
        "PUT /file HTTP/1.1\r\nHost: cloud.example.test\r\nContent-Length: {LARGE}\r\nConnection: close\r\n\r\n"
    );
    visitor.write_all(head.as_bytes()).await.unwrap();
    let block = vec![7; 1 << 20];
    for _ in 0..LARGE >> 20 {
        visitor.write_all(&block).await.unwrap();
    }
    visitor.flush().await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_secs(30), visitor.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.contains(&format!("{LARGE} bytes")), "{answer}");
    let grown = published.caddy.memory().saturating_sub(before) >> 10;
    println!("Caddy grew by {grown} MiB");
    assert!(grown < 64, "Caddy grew by {grown} MiB");

    // One of unknown length, to its end.
    let mut visitor = published.connect().await;
    let head =
        "PUT /file HTTP/1.1\r\nHost: cloud.example.test\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
    visitor.write_all(head.as_bytes()).await.unwrap();
    visitor.write_all(b"5\r\nabcde\r\n").await.unwrap();
    visitor.write_all(b"0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    visitor.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("5 bytes"), "{answer}");
}
