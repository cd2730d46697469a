//! Who may come to a site, as its owner has asked.

use std::time::Duration;

use ingress::{LimitsSocket, ProbeError};
use model::{BasicUser, ForwardAuth, IngressOptions};
use tokio_util::sync::CancellationToken;

use crate::support::{Published, eventually, name};

/// Of `geheim`, at the lowest cost.
const HASH: &str = "$2a$05$lp/PqEcEIjl7WEeTnT3O4OdR5vpufTbFr17b6FIeHj3AFz5DadI3O";
const TOKEN: &str = "0123456789abcdef";

/// Publishes with these options.
async fn start(options: IngressOptions) -> Option<Published> {
    let mut published = Published::start().await?;
    published
        .load(|state| {
            state.sites[0].options = options;
            state.guard.probe_token = Some(TOKEN.to_owned());
        })
        .await;
    Some(published)
}

/// The status that a visitor gets.
fn status(published: &Published, path: &str, arguments: &[&str]) -> u16 {
    let answer = published.lab.visit(path, &[&["--http1.1"], arguments].concat());
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
}

#[tokio::test]
async fn only_the_right_networks_and_users_come_in_and_the_edges_own_proof() {
    let options = IngressOptions { allow: vec!["10.0.0.0/8".parse().unwrap()], ..IngressOptions::default() };
    let Some(mut published) = start(options).await else { return };
    assert_eq!(status(&published, "/", &[]), 403);
    assert_eq!(status(&published, "/", &["-H", "X-Forwarded-For: 10.0.0.1", "-H", "Cloudathome-Probe: x"]), 403);
    assert!(matches!(published.probe().await, Err(ProbeError::Status { status: 403, .. })));
    let own = published.prober.clone().with_token(TOKEN.to_owned());
    let prove = async |published: &Published| {
        own.probe(published.address(), &name("/status.php", Some(200))).await.unwrap();
    };
    prove(&published).await;
    published.load(|state| state.sites[0].options.allow.push("127.0.0.0/8".parse().unwrap())).await;
    assert_eq!(status(&published, "/", &[]), 200);
    published.load(|state| state.sites[0].options.deny.push("127.0.0.1/32".parse().unwrap())).await;
    assert_eq!(status(&published, "/", &[]), 403);
    prove(&published).await;

    let users = vec![BasicUser { name: "me".to_owned(), hash: HASH.to_owned() }];
    published.load(|state| state.sites[0].options = IngressOptions { users, ..IngressOptions::default() }).await;
    assert_eq!(status(&published, "/", &[]), 401);
    assert_eq!(status(&published, "/", &["-u", "me:falsch"]), 401);
    let seen = published.lab.visit("/", &["-u", "me:geheim"]);
    assert!(
        seen.contains(" 200") && !seen.to_lowercase().contains("authorization:"),
        "the password is passed on: {seen}"
    );
    prove(&published).await;
}

#[tokio::test]
async fn paths_prefixes_and_headers_are_as_asked() {
    let options = IngressOptions {
        paths: vec!["/app/api".to_owned()],
        strip_prefix: Some("/app".to_owned()),
        headers: [("X-Frame-Options", ""), ("X-Robots-Tag", "noindex")]
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .into(),
        ..IngressOptions::default()
    };
    let Some(published) = start(options).await else { return };
    for path in ["/", "/app", "/api", "/app/apix", "/app/%2e%2e/api/x", "/x/../app/api/y", "/x/%2e%2E/app/api/y"] {
        assert_eq!(status(&published, path, &["--path-as-is"]), 404, "{path}");
    }
    let seen = published.lab.visit("/app/api/own?x=1", &[]).to_lowercase();
    assert!(seen.contains("get /api/own?x=1 ") && seen.contains("x-forwarded-prefix: /app"), "{seen}");
    assert!(seen.contains("x-robots-tag: noindex") && !seen.contains("x-frame-options"), "{seen}");
}

#[tokio::test]
async fn another_service_decides_who_comes() {
    let Some(mut published) = start(IngressOptions::default()).await else { return };
    let judge = crate::app::App::start();
    let auth = ForwardAuth { upstream: judge.address, uri: "/verify".into(), copy: vec!["Remote-User".into()] };
    published.load(|state| state.sites[0].options.forward_auth = Some(auth)).await;
    let forged = ["-H", "Remote-User: root"];
    let led = published.lab.visit("/x", &forged).to_lowercase();
    assert!(led.contains(" 302") && led.contains("location: https://auth.example.test/"), "{led}");
    let cookie = ["-H", "Remote-User: root", "-H", "Cookie: session=good"];
    for method in ["GET", "POST"] {
        let seen = published.lab.visit("/x", &[&cookie[..], &["-X", method, "-d", "abc"]].concat());
        assert!(seen.contains(&format!("{method} /x ")) && seen.contains("Remote-User: me"), "{seen}");
        assert!(!seen.contains("root") && seen.contains("3 bytes"), "{seen}");
    }
    let seen = published.lab.visit("/x", &[&cookie[..], &["--http1.1", "-H", "Connection: Remote-User"]].concat());
    assert!(seen.contains("Remote-User: me"), "a visitor took it away: {seen}");
    drop(judge);
    assert_eq!(status(&published, "/x", &cookie), 503, "nobody comes in unasked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_to_log_in_are_limited_and_work_is_not() {
    let options = IngressOptions { login_paths: vec!["/login*".to_owned()], ..IngressOptions::default() };
    let Some(mut published) = start(options).await else { return };
    let path = published.lab.path("limits.sock");
    let stop = CancellationToken::new();
    let limits = LimitsSocket::bind(&path).unwrap();
    let serving = tokio::spawn(limits.serve(stop.clone()));
    published.load(|state| state.guard.limits_socket = Some(path.to_str().unwrap().to_owned())).await;
    // On a thread of its own: the limits answer from this one.
    let statuses = async |times: usize, path: &'static str, arguments: &'static [&'static str]| {
        let published = &published;
        let mut all = Vec::new();
        for _ in 0..times {
            all.push(tokio::task::block_in_place(|| status(published, path, arguments)));
        }
        all
    };
    let logins = statuses(12, "/login/", &["-d", "user=me"]).await;
    assert_eq!(logins.iter().filter(|status| **status == 200).count(), 10, "{logins:?}");
    let refused = tokio::task::block_in_place(|| published.lab.visit("/login", &["-d", "x"])).to_lowercase();
    assert!(refused.contains(" 429") && refused.contains("retry-after: "), "{refused}");
    let otherwise = &["-H", "Host: CLOUD.example.test:1", "-d", "x"];
    assert_eq!(statuses(1, "/login", otherwise).await, [429], "the same name, written otherwise");
    assert_eq!(statuses(3, "/login", &[]).await, [200; 3], "the form itself");
    assert_eq!(statuses(3, "/other", &["-d", "x"]).await, [200; 3]);

    // A client that synchronizes, and one that guesses.
    assert_eq!(statuses(30, "/remote.php/dav/", &["-u", "me:geheim"]).await, [200; 30]);
    let guesses = tokio::task::block_in_place(|| {
        (0..25).map(|n| status(&published, "/remote.php/dav/", &["-u", &format!("me:{n}")])).collect::<Vec<_>>()
    });
    assert_eq!(guesses.iter().filter(|status| **status == 429).count(), 6, "{guesses:?}");
    // Nor by what hides the password from the question, or is understood by some applications only.
    for tricks in [
        &["-u", "me:another", "-H", "Connection: Authorization"][..],
        &["-H", "Authorization: Basic\tbWU6c29tZXRoaW5n"],
        &["-H", "Authorization: x Basic bWU6c29tZXRoaW5n"],
    ] {
        let got = tokio::task::block_in_place(|| status(&published, "/remote.php/dav/", tricks));
        assert_eq!(got, 429, "{tricks:?}");
    }
    assert_eq!(statuses(3, "/remote.php/dav/", &["-u", "me:geheim"]).await, [200; 3]);

    // An application that is gone shows the holding page, not twice the wait.
    let upstream = published.app.address;
    published.load(|state| state.sites[0].upstream = Some("127.0.0.1:1".parse().unwrap())).await;
    assert_eq!(tokio::task::block_in_place(|| status(&published, "/", &["-u", "me:geheim"])), 503);
    published.load(|state| state.sites[0].upstream = Some(upstream)).await;
    // Without anybody to ask everything passes.
    stop.cancel();
    serving.await.unwrap().unwrap();
    eventually("a login without limits", async || {
        (tokio::task::block_in_place(|| status(&published, "/login", &["-d", "x"])) == 200).then_some(())
    })
    .await;
    let started = std::time::Instant::now();
    let passed = tokio::task::block_in_place(|| published.lab.visit("/login", &["-d", "abc"]));
    assert!(passed.contains("3 bytes") && started.elapsed() < Duration::from_secs(3), "{passed}");
}

#[tokio::test]
async fn whatever_passes_the_check_is_taken_by_caddy_and_means_itself() {
    let odd = "/-._~!$&'()+,;=:@";
    let all: String = (' '..='~').filter(|c| !"{}".contains(*c)).collect();
    let options = IngressOptions {
        allow: vec!["::/0".parse().unwrap(), "127.0.0.1/32".parse().unwrap()],
        deny: vec!["10.1.2.3/8".parse().unwrap()],
        users: vec![BasicUser { name: "!#$%&'*+-./<=>?@[]^_`|~".to_owned(), hash: HASH.to_owned() }],
        forward_auth: None,
        headers: [("X-All".to_owned(), all.clone())].into(),
        paths: vec![odd.to_owned()],
        strip_prefix: Some(odd.to_owned()),
        login_paths: vec![format!("{odd}*"), odd.to_owned()],
    };
    options.check().unwrap();
    let Some(published) = start(options).await else { return };
    let answer = published.lab.visit(&format!("{odd}/x"), &["--path-as-is", "-u", "!#$%&'*+-./<=>?@[]^_`|~:geheim"]);
    assert!(answer.contains(" 200") && answer.contains("GET /x "), "{answer}");
    assert!(answer.contains(all.trim()), "{answer}");
}
