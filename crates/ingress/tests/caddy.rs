//! What a real Caddy makes of our configuration. It is taken from PATH or from `CLOUDATHOME_CADDY`; certificates come
//! from Debian's `pebble`, which here believes every challenge: that challenges work is shown where there is a network.
#![expect(clippy::unwrap_used, reason = "a helper that fails is a failed test")]

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ingress::{Acme, AdminClient, AdminError, IngressState, Listen, ProbeError, Prober, Site, render};
use lab::capability::skip;
use tempfile::TempDir;

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
    assert!(held.contains("Cache-Control: no-store") && held.contains("Back soon"), "{held}");

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
    let probed = Prober::new(None).unwrap().probe(address, &NAME.parse().unwrap(), "/", Some(200)).await.unwrap_err();
    assert!(matches!(probed, ProbeError::NoCertificate(_)), "{probed:?}");

    caddy.restart();
    eventually("the last configuration after a restart", async || {
        admin.current().await.ok().filter(|current| *current == sites)
    })
    .await;

    caddy.stop();
    let error = admin.current().await.unwrap_err();
    assert!(matches!(error, AdminError::Connect { .. }), "{error:?}");
    let probed = Prober::new(None).unwrap().probe(address, &NAME.parse().unwrap(), "/", Some(200)).await.unwrap_err();
    assert!(matches!(probed, ProbeError::Connect { .. }), "{probed:?}");
}

#[tokio::test]
async fn a_site_serves_with_an_acme_certificate_and_is_held_without_its_upstream() {
    let Some(caddy) = caddy_binary() else { return skip("there is no caddy: set CLOUDATHOME_CADDY or install it") };
    let Some(pebble) = on_path("pebble") else { return skip("there is no pebble") };
    let lab = Lab::new();
    let pebble = Pebble::start(&pebble, &lab);
    let upstream = Echo::start();
    let mut state = lab.state(&pebble.directory(), vec![]);
    let _caddy = Caddy::start(&caddy, &lab, &render(&state));
    let admin = AdminClient::new(&lab.admin_socket());
    eventually("the admin endpoint", async || admin.current().await.ok()).await;
    let roots = eventually("pebble's root", async || pebble.root()).await;
    let prober = Prober::new(Some(&roots)).unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, lab.https));
    let probe = async || prober.probe(address, &NAME.parse().unwrap(), "/status.php", Some(200)).await;

    state.sites = vec![site(Some(upstream.address))];
    admin.load(&render(&state)).await.unwrap();
    let report = eventually("the name to serve", async || probe().await.ok()).await;
    assert_eq!(report.status, 200);
    assert!(report.not_after > std::time::SystemTime::now());
    let untrusted =
        Prober::new(None).unwrap().probe(address, &NAME.parse().unwrap(), "/", Some(200)).await.unwrap_err();
    assert!(matches!(untrusted, ProbeError::Untrusted(_)), "{untrusted:?}");
    let missing = prober.probe(address, &NAME.parse().unwrap(), "/missing", Some(200)).await.unwrap_err();
    assert_eq!(missing.to_string(), "it answers HTTP 404 instead of 200");

    let seen = lab.visit(
        "/echo",
        &[
            "X-Forwarded-For: 6.6.6.6",
            "X-Forwarded-Proto: http",
            "X-Forwarded-Host: evil.test",
            "X-Real-IP: 6.6.6.6",
            "X_Real_IP: 6.6.6.6",
            "X_Forwarded_For: 6.6.6.6",
            "Forwarded: for=6.6.6.6",
            "True-Client-IP: 6.6.6.6",
            "CF-Connecting-IP: 6.6.6.6",
            "X-Forwarded-Port: 6",
            "Proxy: http://6.6.6.6",
            "X-Requested-With: kept",
        ],
    );
    assert!(!seen.contains("6.6.6.6") && !seen.contains("evil.test") && !seen.contains("Port: 6"), "{seen}");
    for kept in [
        "X-Real-Ip: 127.0.0.1",
        "X-Forwarded-For: 127.0.0.1",
        "X-Forwarded-Proto: https",
        "X-Requested-With: kept",
        "Host: cloud.example.test",
        "strict-transport-security: max-age=15552000",
    ] {
        assert!(seen.to_lowercase().contains(&kept.to_lowercase()), "{kept} in {seen}");
    }
    let dav = lab.visit("/.well-known/caldav", &[]).to_lowercase();
    assert!(dav.contains(" 301") && dav.contains("location: /remote.php/dav"), "{dav}");

    // Held on purpose, and given back.
    state.sites = vec![site(None)];
    admin.load(&render(&state)).await.unwrap();
    assert!(matches!(probe().await, Err(ProbeError::Holding { status: 503 })));
    state.sites = vec![site(Some(upstream.address))];
    admin.load(&render(&state)).await.unwrap();
    assert!(probe().await.is_ok());

    // Gone without anybody saying so.
    let answers = upstream.address;
    drop(upstream);
    let held = lab.visit("/", &[]).to_lowercase();
    assert!(held.contains(" 503") && held.contains("retry-after: 15") && held.contains("no-store"), "{held}");
    assert!(matches!(probe().await, Err(ProbeError::Holding { status: 503 })));
    // Accepting connections, answering none.
    let _mute = TcpListener::bind(answers).unwrap();
    let started = Instant::now();
    eventually("the holding page for a hung service", async || {
        matches!(probe().await, Err(ProbeError::Holding { status: 503 })).then_some(())
    })
    .await;
    assert!(started.elapsed() < Duration::from_secs(15));
}

fn site(upstream: Option<SocketAddr>) -> Site {
    Site {
        host: "attic".parse().unwrap(),
        service: "nextcloud".parse().unwrap(),
        hostname: NAME.parse().unwrap(),
        upstream,
        health_path: "/status.php".to_owned(),
        health_status: Some(200),
        also: vec![],
        well_known_dav: true,
    }
}

/// A directory and ports that nobody else uses.
struct Lab {
    dir: TempDir,
    http: u16,
    https: u16,
}

impl Lab {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), http: free_port(), https: free_port() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn admin_socket(&self) -> PathBuf {
        self.path("admin.sock")
    }

    fn state(&self, directory: &str, sites: Vec<Site>) -> IngressState {
        IngressState {
            admin_socket: self.admin_socket().to_str().unwrap().to_owned(),
            listen: Listen { address: Some(Ipv4Addr::LOCALHOST.into()), http_port: self.http, https_port: self.https },
            acme: Acme {
                directory: directory.to_owned(),
                email: None,
                trusted_roots: vec![self.path("api.crt").to_str().unwrap().to_owned()],
            },
            sites,
        }
    }

    fn visit(&self, path: &str, headers: &[&str]) -> String {
        let resolve = format!("{NAME}:{}:127.0.0.1", self.https);
        let url = format!("https://{NAME}:{}{path}", self.https);
        let host = format!("Host: {NAME}");
        let mut arguments = vec!["-k", "--resolve", &resolve, "-H", &host];
        for header in headers {
            arguments.extend(["-H", header]);
        }
        arguments.push(&url);
        curl(&arguments)
    }
}

struct Caddy {
    binary: PathBuf,
    bootstrap: PathBuf,
    home: PathBuf,
    child: Child,
}

impl Caddy {
    fn start(binary: &Path, lab: &Lab, bootstrap: &serde_json::Value) -> Self {
        // Caddy reads the trusted roots even of an ACME server that cannot be reached.
        if !lab.path("api.crt").exists() {
            certificate(lab);
        }
        let path = lab.path("bootstrap.json");
        std::fs::write(&path, bootstrap.to_string()).unwrap();
        let home = lab.dir.path().to_owned();
        let child = Self::spawn(binary, &path, &home);
        Self { binary: binary.to_owned(), bootstrap: path, home, child }
    }

    fn spawn(binary: &Path, bootstrap: &Path, home: &Path) -> Child {
        Command::new(binary)
            .args(["run", "--resume", "--config"])
            .arg(bootstrap)
            .env("XDG_DATA_HOME", home.join("data"))
            .env("XDG_CONFIG_HOME", home.join("config"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// As after a power cut.
    fn restart(&mut self) {
        self.stop();
        self.child = Self::spawn(&self.binary, &self.bootstrap, &self.home);
    }
}

impl Drop for Caddy {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Pebble {
    child: Child,
    api: u16,
    management: u16,
}

impl Pebble {
    fn start(binary: &Path, lab: &Lab) -> Self {
        certificate(lab);
        let (api, management) = (free_port(), free_port());
        let config = serde_json::json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{api}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": lab.path("api.crt"),
            "privateKey": lab.path("api.key"),
            "httpPort": lab.http,
            "tlsPort": lab.https,
        } });
        std::fs::write(lab.path("pebble.json"), config.to_string()).unwrap();
        let child = Command::new(binary)
            .arg("-config")
            .arg(lab.path("pebble.json"))
            .envs([("PEBBLE_VA_ALWAYS_VALID", "1"), ("PEBBLE_VA_NOSLEEP", "1"), ("PEBBLE_WFE_NONCEREJECT", "0")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, api, management }
    }

    fn directory(&self) -> String {
        format!("https://127.0.0.1:{}/dir", self.api)
    }

    fn root(&self) -> Option<String> {
        let url = format!("https://127.0.0.1:{}/roots/0", self.management);
        let output = Command::new("curl").args(["-sk", "-m", "5", &url]).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The certificate of the ACME server's own HTTPS.
fn certificate(lab: &Lab) {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(lab.path("api.crt"), made.cert.pem()).unwrap();
    std::fs::write(lab.path("api.key"), made.signing_key.serialize_pem()).unwrap();
}

/// An application that answers with the request it got; 404 under `/missing`.
struct Echo {
    address: SocketAddr,
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Echo {
    fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stopped.load(std::sync::atomic::Ordering::SeqCst) {
                    return;
                }
                let _ = Self::answer(stream);
            }
        });
        Self { address, stop, thread: Some(thread) }
    }

    fn answer(mut stream: std::net::TcpStream) -> std::io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut head = String::new();
        let mut reader = BufReader::new(&stream);
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let status = if head.starts_with("GET /missing") { "404 Not Found" } else { "200 OK" };
        write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{head}", head.len())
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, std::sync::atomic::Ordering::SeqCst);
        let _ = std::net::TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Head and body of an answer.
fn curl(arguments: &[&str]) -> String {
    let output = Command::new("curl").args(["-s", "-i", "-m", "10"]).args(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Asks again until there is something, for 20 s.
async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

fn caddy_binary() -> Option<PathBuf> {
    match std::env::var_os("CLOUDATHOME_CADDY") {
        Some(path) => Some(path.into()),
        None => on_path("caddy"),
    }
}

fn on_path(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(program)).find(|path| path.is_file())
}
