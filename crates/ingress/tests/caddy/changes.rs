//! What goes on while the configuration changes.

use std::process::Command;
use std::time::Duration;

use lab::capability::skip;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::NAME;
use crate::support::{Published, eventually, on_path, site};

const CHANGES: u16 = 200;
/// Between two changes. What is lost is lost in the instant of a change; a little is served in between.
const PACE: Duration = Duration::from_millis(10);

#[tokio::test]
async fn a_websocket_and_an_upload_outlive_changes_and_refused_ones() {
    let Some(mut published) = Published::start().await else { return };
    let mut socket = published.connect().await;
    let head = "GET /ws HTTP/1.1\r\nHost: cloud.example.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let length = socket.read(&mut answer).await.unwrap();
    assert!(answer[..length].starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&answer[..length]));
    let mut upload = published.connect().await;
    let head = "PUT /file HTTP/1.1\r\nHost: cloud.example.test\r\nContent-Length: 20\r\nConnection: close\r\n\r\n";
    upload.write_all(head.as_bytes()).await.unwrap();
    upload.write_all(b"x").await.unwrap();
    eventually("the beginning of the upload", async || (published.app.received() == 1).then_some(())).await;

    for change in 0..19 {
        published
            .load(|state| {
                state.sites[0].health_path = format!("/status.php?{change}");
                state.sites.truncate(1);
                if change % 2 == 0 {
                    state.sites.push(ingress::Site { hostname: "b.example.test".parse().unwrap(), ..site(None) });
                }
            })
            .await;
        let mut wrong = ingress::render(&published.state);
        wrong["apps"]["http"]["servers"]["https"]["routes"][0]["handle"][0]["handler"] = "no_such_thing".into();
        published.admin.load(&wrong).await.unwrap_err();
        upload.write_all(b"x").await.unwrap();
        socket.write_all(b"ping").await.unwrap();
        let mut echo = [0; 4];
        tokio::time::timeout(Duration::from_secs(5), socket.read_exact(&mut echo)).await.unwrap().unwrap();
        assert_eq!(&echo, b"ping", "after change {change}");
    }
    let mut answer = String::new();
    upload.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("20 bytes"), "{answer}");
}

#[tokio::test]
async fn many_changes_under_load_fail_no_request_that_a_plain_reload_would_not() {
    let Some(wrk) = on_path("wrk") else { return skip("there is no wrk") };
    let Some(published) = Published::start().await else { return };
    let ours = |change: u16| {
        let mut state = published.state.clone();
        state.sites[0].health_path = format!("/status.php?{change}");
        ingress::render(&state)
    };
    let plain = |change: u16| {
        let mut config = ours(0);
        config["apps"]["http"]["servers"]["https"]["routes"] = json!([{ "match": [{ "host": [NAME] }], "handle": [{
            "handler": "reverse_proxy",
            "upstreams": [{ "dial": published.app.address.to_string() }],
            "headers": { "request": { "set": { "X-Change": [change.to_string()] } } },
        }] }]);
        config["apps"]["http"]["servers"]["https"].as_object_mut().unwrap().remove("errors");
        config
    };
    let mut lost = Vec::new();
    for (what, config, changes) in
        [("a plain proxy", &plain as &dyn Fn(u16) -> Value, CHANGES / 4), ("ours", &ours, CHANGES)]
    {
        // wrk asks for an address, not for a name.
        let patched = |change: u16| {
            let mut config = config(change);
            config["apps"]["http"]["servers"]["https"]["tls_connection_policies"] =
                json!([{ "default_sni": NAME, "fallback_sni": NAME }]);
            config
        };
        published.admin.load(&patched(0)).await.unwrap();
        let mut load = Command::new(&wrk)
            .args(["-t1", "-c8", "-d60s", "-H"])
            .arg(format!("Host: {NAME}"))
            .arg(format!("https://127.0.0.1:{}/", published.lab.https))
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let before = published.app.answered();
        eventually("the load", async || (published.app.answered() > before + 100).then_some(())).await;
        let (started, answered) = (std::time::Instant::now(), published.app.answered());
        for change in 1..=changes {
            published.admin.load(&patched(change)).await.unwrap();
            tokio::time::sleep(PACE).await;
        }
        println!("{what}: {changes} changes in {:.1} s", started.elapsed().as_secs_f64());
        // It reports when it is interrupted.
        Command::new("kill").args(["-INT", &load.id().to_string()]).status().unwrap();
        let mut report = String::new();
        std::io::Read::read_to_string(&mut load.stdout.take().unwrap(), &mut report).unwrap();
        load.wait().unwrap();
        println!("{what}: {report}");
        assert!(published.app.answered() > answered + 20, "{report}");
        assert!(!report.contains("Non-2xx"), "{report}");
        lost.push(f64::from(lost_connections(&report)) / f64::from(changes));
    }
    // A change closes the connections that happen to be between two requests, of which the load has eight.
    assert!(lost[1] <= lost[0] + 2.0, "{} lost connections a change, and {} of a plain proxy", lost[1], lost[0]);
}

/// How many connections were closed on a client or could not be opened, by wrk's report.
fn lost_connections(report: &str) -> u32 {
    let line = report.lines().find(|line| line.contains("Socket errors")).unwrap_or_default();
    line.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse::<u32>().ok()).sum()
}
