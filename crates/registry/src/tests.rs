use std::sync::Mutex;

use proptest::prelude::*;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

/// A registry with these answers, by the beginning of what is asked; keeps what it was asked.
struct Fake {
    answers: Vec<(String, String)>,
    asked: Mutex<Vec<String>>,
}

impl Fake {
    fn answer(&self, request: &str) -> String {
        let line = request.lines().next().unwrap_or_default();
        let authorized = request.to_ascii_lowercase().contains("authorization: bearer secret-of-all");
        self.asked.lock().unwrap().push(format!("{line}{}", if authorized { " with token" } else { "" }));
        let wanted = format!("{line}{}", if authorized { " with token" } else { "" });
        let found = self.answers.iter().find(|(begin, _)| wanted.contains(begin.as_str()));
        found.map_or_else(|| answer("404 Not Found", "", "{}"), |(_, answer)| answer.clone())
    }

    async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => request.push(byte),
                Err(_) => return,
            }
        }
        let answer = self.answer(&String::from_utf8_lossy(&request));
        drop(stream.write_all(answer.as_bytes()).await);
        drop(stream.shutdown().await);
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len())
}

/// Starts one whose answers may name its own port.
async fn start(answers: impl FnOnce(u16) -> Vec<(&'static str, String)>) -> (u16, Arc<Fake>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let answers = answers(port).into_iter().map(|(begin, answer)| (begin.to_owned(), answer)).collect();
    let fake = Arc::new(Fake { answers, asked: Mutex::default() });
    let serving = Arc::clone(&fake);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            serving.serve(stream).await;
        }
    });
    (port, fake)
}

#[tokio::test]
async fn a_token_is_fetched_and_all_pages_are_read() {
    let (port, fake) = start(|port| {
        let challenge = format!(
            "www-authenticate: Bearer realm=\"http://127.0.0.1:{port}/token?of=all\",service=\"a registry\",\
             scope=\"repository:me/app:pull\"\r\n"
        );
        let next = "link: </v2/me/app/tags/list?n=1000&last=1.1.0>; rel=\"next\"\r\n";
        vec![
            ("/token?", answer("200 OK", "", "{\"token\": \"secret-of-all\", \"expires_in\": 300}")),
            ("last=1.1.0 HTTP/1.1 with token", answer("200 OK", "", r#"{"tags": ["1.1.1", "1.1.0"]}"#)),
            (
                "HTTP/1.1 with token",
                answer("200 OK", next, r#"{"name": "me/app", "tags": ["1.1.0", "../x", "", "1.0.0"]}"#),
            ),
            ("/v2/", answer("401 Unauthorized", &challenge, "{}")),
        ]
    })
    .await;
    let tags = Client::new().unwrap().tags(&format!("127.0.0.1:{port}/me/app:1.0.0@sha256:ab")).await.unwrap();
    assert_eq!(tags, ["1.0.0", "1.1.0", "1.1.1"]);
    assert_eq!(
        fake.asked(),
        [
            "GET /v2/me/app/tags/list?n=1000 HTTP/1.1",
            "GET /token?of=all&service=a%20registry&scope=repository%3Ame%2Fapp%3Apull HTTP/1.1",
            "GET /v2/me/app/tags/list?n=1000 HTTP/1.1 with token",
            "GET /v2/me/app/tags/list?n=1000&last=1.1.0 HTTP/1.1 with token",
        ]
    );
}

#[tokio::test]
async fn what_is_no_list_of_tags_is_told_and_ends() {
    let endless = "link: </v2/endless/tags/list?n=1000>; rel=\"next\"\r\n";
    let elsewhere = "www-authenticate: Bearer realm=\"http://192.0.2.1/token\"\r\n";
    let large = format!("[\"{}\"]", "a".repeat(5 << 20));
    let (port, fake) = start(|port| {
        let there = format!("location: http://127.0.0.1:{port}/v2/none/tags/list?n=1000\r\n");
        vec![
            ("/front/", answer("307 Temporary Redirect", &there, "")),
            ("/circle/", answer("302 Found", "location: /v2/circle/\r\n", "")),
            ("/away/", answer("302 Found", "location: http://192.0.2.1/v2/none/tags/list\r\n", "")),
            ("/endless/", answer("200 OK", endless, r#"{"tags": ["1"]}"#)),
            ("/none/", answer("200 OK", "", r#"{"tags": null}"#)),
            ("/html/", answer("200 OK", "", "<html>")),
            ("/busy/", answer("429 Too Many Requests", "", "")),
            ("/private/", answer("401 Unauthorized", "www-authenticate: Basic realm=\"x\"\r\n", "")),
            ("/elsewhere/", answer("401 Unauthorized", elsewhere, "")),
            ("/large/", answer("200 OK", "", &large)),
        ]
    })
    .await;
    let client = Client::new().unwrap();
    let ask = async |name: &str| client.tags(&format!("localhost:{port}/{name}")).await;
    assert!(matches!(ask("endless").await, Err(TagsError::TooMany { .. })));
    assert_eq!(fake.asked().len(), MAX_PAGES);
    assert_eq!(ask("none").await.unwrap(), Vec::<String>::new());
    assert_eq!(ask("front").await.unwrap(), Vec::<String>::new());
    assert!(matches!(ask("circle").await, Err(TagsError::Answer { .. })));
    assert!(matches!(ask("away").await, Err(TagsError::Answer { .. })));
    assert!(matches!(ask("html").await, Err(TagsError::Answer { .. })));
    assert!(matches!(ask("busy").await, Err(TagsError::Status { status: 429, .. })));
    assert!(matches!(ask("private").await, Err(TagsError::Refused { status: 401, .. })));
    assert!(matches!(ask("missing").await, Err(TagsError::Refused { status: 404, .. })));
    assert!(matches!(ask("elsewhere").await, Err(TagsError::Answer { .. })), "no token in plain text from elsewhere");
    assert!(matches!(ask("large").await, Err(TagsError::Exchange { source: ExchangeError::Answer(_), .. })));
    let gone = client.tags("127.0.0.1:1/app").await.unwrap_err();
    assert!(matches!(gone, TagsError::Exchange { source: ExchangeError::Connect(_), .. }), "{gone}");
}

#[tokio::test]
async fn elsewhere_only_who_shows_a_certificate_that_is_trusted_is_asked() {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(own.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let answers = vec![("/v2/".to_owned(), answer("200 OK", "", r#"{"tags": ["1"]}"#))];
    let fake = Fake { answers, asked: Mutex::default() };
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(stream) = acceptor.accept(stream).await {
                fake.serve(stream).await;
            }
        }
    });
    let repository = Repository { host: "localhost".into(), port, plain: false, name: "app".into() };
    let stranger = Client::new().unwrap().tags_of(&repository).await.unwrap_err();
    assert!(matches!(stranger, TagsError::Exchange { source: ExchangeError::Tls(_), .. }), "{stranger}");
    let mut roots = RootCertStore::empty();
    roots.add(own.cert.der().clone()).unwrap();
    assert_eq!(Client::trusting(roots).unwrap().tags_of(&repository).await.unwrap(), ["1"]);
}

#[test]
fn a_reference_means_one_repository() {
    for (reference, host, port, plain, name) in [
        ("nextcloud:32.0.1-apache", "registry-1.docker.io", 443, false, "library/nextcloud"),
        ("ghost", "registry-1.docker.io", 443, false, "library/ghost"),
        ("docker.io/vaultwarden/server:1.34.1", "registry-1.docker.io", 443, false, "vaultwarden/server"),
        ("ghcr.io/me/app@sha256:ab", "ghcr.io", 443, false, "me/app"),
        ("registry.example:5000/app:1", "registry.example", 5000, false, "app"),
        ("127.0.0.1:5001/toy:1.0.0", "127.0.0.1", 5001, true, "toy"),
        ("localhost/toy", "localhost", 80, true, "toy"),
    ] {
        let (host, name) = (host.to_owned(), name.to_owned());
        assert_eq!(Repository::of(reference), Some(Repository { host, port, plain, name }), "{reference}");
    }
    for reference in ["", ":1", "a//b", "Upper", "a/../b", "host:x/app", "registry.example/"] {
        assert_eq!(Repository::of(reference), None, "{reference}");
    }
}

proptest! {
    #[test]
    fn whatever_a_registry_says_nothing_panics(text in ".{0,60}") {
        let _ = Repository::of(&text);
        let _ = Challenge::parse(&text);
        let _ = Challenge::parse(&format!("Bearer {text}"));
        let mut headers = HeaderMap::new();
        if let Ok(value) = format!("<{text}>; rel=next").parse() {
            headers.insert(LINK, value);
        }
        prop_assert!(next_page(&headers).is_none_or(|path| path.starts_with("/v2/")));
    }
}
