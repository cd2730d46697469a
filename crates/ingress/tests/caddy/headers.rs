//! What reaches the application of a request's headers, and what is added to its answers.

use std::path::PathBuf;

use lab::Peers;
use lab::capability::skip;

use crate::NAME;
use crate::support::{Published, curl, eventually, name};

/// All that could make an application take a visitor for somebody else.
const FORGED: [&str; 21] = [
    "CF-Connecting-IP",
    "CF-Connecting-IPv6",
    "Client-IP",
    "Cloudathome-Client",
    "Fastly-Client-IP",
    "Forwarded",
    "Forwarded-For",
    "Front-End-Https",
    "Proxy",
    "True-Client-IP",
    "Via",
    "X-Client-IP",
    "X-Cluster-Client-IP",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Forwarded-Proto",
    "X-Forwarded-Whatever",
    "X-Original-URL",
    "X-Real-IP",
    "X_Real_IP",
];

#[tokio::test]
async fn nothing_forged_reaches_the_application_by_any_http() {
    let Some(published) = Published::start().await else { return };
    let mut ways = vec![("--http1.1", "HTTP/1.1 ", PathBuf::from("curl")), ("--http2", "HTTP/2 ", "curl".into())];
    match Peers::provide(&mut |step| println!("{step}")) {
        Ok(peers) => ways.push(("--http3-only", "HTTP/3 ", peers.curl(published.lab.dir.path()).unwrap())),
        Err(error) => skip(&format!("HTTP/3: {error:#}")),
    }
    let headers: Vec<String> = FORGED.iter().map(|name| format!("{name}: 6.6.6.6")).collect();
    for (version, spoken, program) in ways {
        let mut arguments = vec![version, "-H", "X-Requested-With: kept"];
        headers.iter().for_each(|header| arguments.extend(["-H", header]));
        let answer = published.lab.visit_by(&program, NAME, "/echo", &arguments);
        let (head, seen) = answer.split_once("GET /echo").unwrap_or((&answer, ""));
        assert!(head.starts_with(spoken), "{version}: {answer}");
        assert!(!seen.contains("6.6.6.6"), "{version}: {seen}");
        let seen = seen.to_lowercase();
        for kept in [
            "x-real-ip: 127.0.0.1",
            "x-forwarded-for: 127.0.0.1",
            "x-forwarded-proto: https",
            "x-forwarded-host: cloud.example.test",
            "x-requested-with: kept",
            "host: cloud.example.test",
        ] {
            assert_eq!(seen.matches(&format!("\n{kept}\r")).count(), 1, "{version}: {kept} in {seen}");
        }
    }
}

#[tokio::test]
async fn answers_get_what_the_application_has_not_said_itself() {
    let Some(published) = Published::start().await else { return };
    let head = |path: &str, arguments: &[&str]| {
        let answer = published.lab.visit(path, arguments).to_lowercase();
        answer.split("\r\n\r\n").next().unwrap_or_default().to_owned()
    };
    let has = |head: &str, line: &str| assert_eq!(head.matches(&format!("\n{line}")).count(), 1, "{line} in {head}");
    let plain = head("/", &[]);
    for line in [
        "strict-transport-security: max-age=15552000",
        "x-content-type-options: nosniff",
        "x-frame-options: sameorigin",
        "referrer-policy: strict-origin-when-cross-origin",
        // HTTP/3 is offered.
        "alt-svc: h3=",
    ] {
        has(&plain, line);
    }
    let own = head("/own", &[]);
    for line in ["x-frame-options: ", "x-frame-options: deny", "referrer-policy: ", "referrer-policy: no-referrer"] {
        has(&own, line);
    }
    has(&own, "strict-transport-security: max-age=15552000");
    has(&own, "strict-transport-security: ");

    has(&head("/large", &["-H", "Accept-Encoding: gzip, zstd"]), "content-encoding: zstd");
    has(&head("/large", &["-H", "Accept-Encoding: gzip"]), "content-encoding: gzip");
    // Parts, and files that clients tell apart by their ETag, stay as they are.
    for (path, arguments) in [
        ("/large", &["-H", "Accept-Encoding: gzip", "-H", "Range: bytes=0-9"][..]),
        ("/remote.php/dav/large", &["-H", "Accept-Encoding: gzip"]),
    ] {
        let head = head(path, arguments);
        assert!(!head.contains("content-encoding"), "{head}");
        has(&head, "etag: \"abc\"");
    }
    has(&head("/remote.php/dav/large", &["-X", "PROPFIND", "-H", "Accept-Encoding: gzip"]), "content-encoding: gzip");
    let upgraded = curl(&["-L", "-k", &format!("http://127.0.0.1:{}/", published.lab.http)]);
    assert!(upgraded.contains("404"), "a name that is not ours leads nowhere: {upgraded}");
}

#[tokio::test]
async fn visits_are_written_down_without_secrets() {
    let Some(mut published) = Published::start().await else { return };
    let file = published.lab.path("logs/access.log");
    published
        .load(|state| {
            state.access_log = Some(file.to_str().unwrap().to_owned());
            state.guard.probe_token = Some("0123".to_owned());
        })
        .await;
    let own = published.prober.clone().with_token("0123".to_owned());
    own.probe(published.address(), &name("/a/path-of-ours", None)).await.unwrap();
    let secrets =
        ["-u", "me:geheim", "-H", "Cookie: a=geheim", "-H", "X-Api-Key: geheim", "-H", "Referer: https://x/?geheim"];
    published.lab.visit("/a/path?token=geheim", &[&secrets[..], &["-A", "Agent/1"]].concat());
    let line = eventually("the visit", async || {
        let log = std::fs::read_to_string(&file).ok()?;
        log.lines().find(|line| line.contains("/a/path")).map(str::to_owned)
    })
    .await;
    assert!(!std::fs::read_to_string(&file).unwrap().contains("of-ours"), "the edge's own proof is no visit");
    // The second is `me:geheim` as it travels.
    assert!(!line.contains("geheim") && !line.contains("bWU6Z2VoZWlt"), "{line}");
    assert!(line.contains("\"ts\":\"20"), "{line}");
    for part in ["\"uri\":\"/a/path?\"", "\"remote_ip\":\"127.0.0.1\"", "\"status\":200", "\"user_agent\":\"Agent/1\""]
    {
        assert!(line.contains(part), "{part} in {line}");
    }
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}
