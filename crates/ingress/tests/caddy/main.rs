//! What a real Caddy makes of our configuration. It is taken from PATH or from `CLOUDATHOME_CADDY`; certificates come
//! from Debian's `pebble`, which here believes every challenge: that challenges work is shown where there is a network.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

mod app;
mod changes;
mod guard;
mod headers;
mod outages;
mod own_certificates;
mod support;

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;

use ingress::{AdminClient, AdminError, ProbeError, Prober, render};
use lab::capability::skip;

use crate::support::{Caddy, Lab, Published, caddy_binary, curl, eventually, name, site};

const NAME: &str = "cloud.example.test";

#[tokio::test]
async fn a_configuration_is_taken_whole_or_not_at_all_and_outlives_caddy() {
    let Some(caddy) = caddy_binary() else { return skip("there is no caddy: set CLOUDATHOME_CADDY or install it") };
    let lab = Lab::new();
    let bootstrap = render(&lab.state("https://127.0.0.1:1/dir", vec![]));
    let mut caddy = Caddy::start(&caddy, &lab, &bootstrap);
    let admin = AdminClient::new(&lab.admin_socket());
    eventually("the admin endpoint", async || admin.current().await.ok()).await;

    let mode = std::fs::metadata(lab.admin_socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(admin.current().await.unwrap(), bootstrap, "what is in force can be compared with what is wanted");
    let held = curl(&[&format!("http://127.0.0.1:{}/any", lab.http)]);
    assert!(held.contains("503 Service Unavailable") && held.contains("Retry-After: 15"), "{held}");
    assert!(held.contains("Cache-Control: no-store") && held.contains("This server cannot be reached"), "{held}");

    let mut wrong = bootstrap.clone();
    wrong["apps"]["http"]["servers"]["http"]["routes"][0]["handle"][0]["handler"] = "no_such_thing".into();
    let error = admin.load(&wrong).await.unwrap_err();
    assert!(
        matches!(&error, AdminError::Refused { status: 400, reason } if reason.contains("no_such_thing")),
        "{error}"
    );
    assert_eq!(admin.current().await.unwrap(), bootstrap, "the old one stays");
    assert!(curl(&[&format!("http://127.0.0.1:{}/any", lab.http)]).contains("503"));

    let sites = render(&lab.state("https://127.0.0.1:1/dir", vec![site(None)]));
    admin.load(&sites).await.unwrap();
    assert_eq!(admin.current().await.unwrap(), sites);
    let redirect = curl(&["-H", "Host: cloud.example.test", &format!("http://127.0.0.1:{}/a?b=c", lab.http)]);
    assert!(redirect.contains("308") && redirect.contains("Location: https://cloud.example.test/a?b=c"), "{redirect}");
    assert!(curl(&[&format!("http://127.0.0.1:{}/", lab.http)]).contains("404 Not Found"));
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, lab.https));
    let probed = Prober::new(None).unwrap().probe(address, &name("/", Some(200))).await.unwrap_err();
    assert!(matches!(probed, ProbeError::NoCertificate(_)), "{probed:?}");

    caddy.restart();
    eventually("the last configuration after a restart", async || {
        admin.current().await.ok().filter(|current| *current == sites)
    })
    .await;

    caddy.stop();
    let error = admin.current().await.unwrap_err();
    assert!(matches!(error, AdminError::Connect { .. }), "{error:?}");
    let probed = Prober::new(None).unwrap().probe(address, &name("/", Some(200))).await.unwrap_err();
    assert!(matches!(probed, ProbeError::Connect { .. }), "{probed:?}");
}

#[tokio::test]
async fn a_site_serves_with_an_acme_certificate_and_is_held_on_purpose() {
    let Some(mut published) = Published::start().await else { return };
    let report = published.probe().await.unwrap();
    assert_eq!(report.status, 200);
    assert!(report.not_after > std::time::SystemTime::now());
    let address = published.address();
    let untrusted = Prober::new(None).unwrap().probe(address, &name("/", Some(200))).await.unwrap_err();
    assert!(matches!(untrusted, ProbeError::Untrusted(_)), "{untrusted:?}");
    let missing = published.prober.probe(address, &name("/missing", Some(200))).await.unwrap_err();
    assert_eq!(missing.to_string(), "it answers HTTP 404 instead of 200");
    let not_the_service = published.prober.probe(address, &name("/.well-known/caldav", Some(301))).await.unwrap_err();
    assert!(matches!(not_the_service, ProbeError::Elsewhere), "{not_the_service:?}");
    let plain = published.lab.visit("/status.php", &["-H", "Cloudathome-Nonce: <script>"]).to_lowercase();
    assert!(plain.contains(" 200") && !plain.contains("cloudathome-"), "{plain}");

    let dav = published.lab.visit("/.well-known/caldav", &["-X", "PROPFIND"]).to_lowercase();
    assert!(dav.contains(" 301") && dav.contains("location: /remote.php/dav/"), "{dav}");
    published.load(|state| state.sites[0].also = vec!["www.example.test".parse().unwrap()]).await;
    let led = eventually("the certificate of the other name", async || {
        let led = published.lab.visit_name("www.example.test", "/a?b=c", &[]).to_lowercase();
        led.contains(" 308").then_some(led)
    })
    .await;
    assert!(led.contains("location: https://cloud.example.test/a?b=c"), "{led}");

    published.load(|state| state.sites = vec![site(None)]).await;
    assert!(matches!(published.probe().await, Err(ProbeError::Holding { status: 503 })));
    let upstream = published.app.address;
    published.load(|state| state.sites = vec![site(Some(upstream))]).await;
    assert!(published.probe().await.is_ok());
}

#[tokio::test]
async fn while_the_disk_is_full_uploads_are_refused_and_all_else_goes_on() {
    let Some(mut published) = Published::start().await else { return };
    published.load(|state| state.sites[0].full = true).await;
    let status = |path: &str, words: &[&str]| {
        let answer = published.lab.visit(path, words);
        answer.split(' ').nth(1).map(str::to_owned).unwrap_or_default()
    };
    let large = published.lab.path("large");
    std::fs::write(&large, vec![0; 1_000_000]).unwrap();
    let large = format!("@{}", large.display());
    assert_eq!(status("/remote.php/dav/files/me/a", &["-X", "PUT", "--data-binary", "x"]), "507");
    assert_eq!(status("/remote.php/dav/uploads/me/1/.file", &["-X", "MOVE"]), "507");
    assert_eq!(status("/any/form", &["--data-binary", &large]), "507");
    for protocol in ["--http1.1", "--http2"] {
        let chunked = [protocol, "-H", "Content-Length:", "-H", "Transfer-Encoding: chunked", "--data-binary", "x"];
        // HTTP/2 has no such header, and needs none.
        let words = if protocol == "--http2" { [&chunked[..3], &chunked[5..]].concat() } else { chunked.to_vec() };
        assert_eq!(status("/any/form", &words), "507", "{protocol}: a body that may be of any length");
    }
    for goes_on in [
        ("/remote.php/dav/files/me/a", "GET"),
        ("/remote.php/dav/files/me/a", "DELETE"),
        ("/remote.php/dav/files/me/a", "PROPFIND"),
        ("/login", "POST"),
        ("/ocs/v2.php/settings", "PUT"),
        ("/remote.php/dav/calendars/me/a/1.ics", "PUT"),
    ] {
        let (path, method) = goes_on;
        assert_ne!(status(path, &["-X", method, "--data-binary", "x"]), "507", "{goes_on:?}");
    }
    assert!(published.probe().await.is_ok(), "it serves");
}
