//! Caddy, an ACME server and an application, each a process or thread of the test's own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ingress::{
    Acme, AdminClient, Certificates, Guard, IngressState, Listen, ProbeError, ProbeReport, Prober, Site, render,
};
use lab::capability::skip;
use model::PublicName;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::NAME;
use crate::app::App;

/// A directory and ports that nobody else uses.
pub(crate) struct Lab {
    pub(crate) dir: TempDir,
    pub(crate) http: u16,
    pub(crate) https: u16,
}

impl Lab {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), http: free_port(), https: free_port() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn admin_socket(&self) -> PathBuf {
        self.path("admin.sock")
    }

    pub(crate) fn state(&self, directory: &str, sites: Vec<Site>) -> IngressState {
        IngressState {
            admin_socket: self.admin_socket().to_str().unwrap().to_owned(),
            listen: Listen { address: Some(Ipv4Addr::LOCALHOST.into()), http_port: self.http, https_port: self.https },
            acme: Acme {
                directory: directory.to_owned(),
                email: None,
                trusted_roots: vec![self.path("api.crt").to_str().unwrap().to_owned()],
            },
            certificates: Certificates::default(),
            sites,
            guard: Guard::default(),
            access_log: None,
        }
    }

    /// What a visitor with these arguments of curl gets: head and body.
    pub(crate) fn visit(&self, path: &str, arguments: &[&str]) -> String {
        self.visit_name(NAME, path, arguments)
    }

    pub(crate) fn visit_name(&self, name: &str, path: &str, arguments: &[&str]) -> String {
        self.visit_by(Path::new("curl"), name, path, arguments)
    }

    /// As [`Lab::visit`], by another program that takes the options of curl.
    pub(crate) fn visit_by(&self, program: &Path, name: &str, path: &str, arguments: &[&str]) -> String {
        let resolve = format!("{name}:{}:127.0.0.1", self.https);
        let url = format!("https://{name}:{}{path}", self.https);
        let host = format!("Host: {name}");
        let usual =
            if arguments.iter().any(|argument| argument.starts_with("Host: ")) { &[][..] } else { &["-H", &host] };
        run_curl(program, &[&["-k", "--resolve", &resolve], usual, arguments, &[&url]].concat())
    }
}

/// A published application.
pub(crate) struct Published {
    pub(crate) app: App,
    pub(crate) admin: AdminClient,
    pub(crate) state: IngressState,
    pub(crate) prober: Prober,
    pub(crate) roots: String,
    pub(crate) caddy: Caddy,
    _pebble: Pebble,
    // Last: what runs is in its directory.
    pub(crate) lab: Lab,
}

impl Published {
    /// Waits until it serves; none where a program is missing.
    pub(crate) async fn start() -> Option<Self> {
        let (Some(caddy), Some(pebble)) = (caddy_binary(), on_path("pebble")) else {
            skip("there is no caddy (set CLOUDATHOME_CADDY or install it) or no pebble");
            return None;
        };
        let lab = Lab::new();
        let pebble = Pebble::start(&pebble, &lab);
        let app = App::start();
        let state = lab.state(&pebble.directory(), vec![]);
        let caddy = Caddy::start(&caddy, &lab, &render(&state));
        let admin = AdminClient::new(&lab.admin_socket());
        eventually("the admin endpoint", async || admin.current().await.ok()).await;
        let roots = eventually("pebble's root", async || pebble.root()).await;
        let prober = Prober::new(Some(&roots)).unwrap();
        let mut this = Self { app, admin, state, prober, roots, caddy, _pebble: pebble, lab };
        this.load(|state| state.sites = vec![]).await;
        let upstream = this.app.address;
        this.load(|state| state.sites = vec![site(Some(upstream))]).await;
        eventually("the name to serve", async || this.probe().await.ok()).await;
        Some(this)
    }

    pub(crate) async fn load(&mut self, change: impl FnOnce(&mut IngressState)) {
        change(&mut self.state);
        self.admin.load(&render(&self.state)).await.unwrap();
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.lab.https))
    }

    pub(crate) async fn probe(&self) -> Result<ProbeReport, ProbeError> {
        self.prober.probe(self.address(), &name("/status.php", Some(200))).await
    }

    /// The certificate that a visitor of the name is shown, whoever issued it.
    pub(crate) async fn certificate(&self, name: &str) -> Option<CertificateDer<'static>> {
        let port = self.lab.https.to_string();
        let arguments = ["s_client", "-connect", &format!("127.0.0.1:{port}"), "-servername", name];
        let output = Command::new("openssl").args(arguments).stdin(Stdio::null()).output().unwrap();
        CertificateDer::from_pem_slice(&output.stdout).ok()
    }

    /// How many orders the ACME server got.
    pub(crate) fn orders(&self) -> usize {
        std::fs::read_to_string(self.lab.path("pebble.log")).unwrap().matches("orders in the db").count()
    }

    /// A connection of a visitor's, for what curl can't do.
    pub(crate) async fn connect(&self) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.roots.as_bytes()).unwrap()).unwrap();
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let stream = TcpStream::connect(self.address()).await.unwrap();
        TlsConnector::from(Arc::new(config)).connect(NAME.try_into().unwrap(), stream).await.unwrap()
    }
}

/// What a proof asks for.
pub(crate) fn name(path: &str, status: Option<u16>) -> PublicName {
    PublicName { hostname: NAME.parse().unwrap(), path: path.to_owned(), status, guarded: false }
}

/// The site that tests publish.
pub(crate) fn site(upstream: Option<SocketAddr>) -> Site {
    Site {
        host: "attic".parse().unwrap(),
        service: "nextcloud".parse().unwrap(),
        hostname: NAME.parse().unwrap(),
        upstream,
        away: None,
        also: vec![],
        health_path: "/status.php".to_owned(),
        health_status: Some(200),
        well_known_dav: true,
        options: model::IngressOptions::default(),
        full: false,
    }
}

pub(crate) struct Caddy {
    binary: PathBuf,
    bootstrap: PathBuf,
    home: PathBuf,
    child: Child,
}

impl Caddy {
    pub(crate) fn start(binary: &Path, lab: &Lab, bootstrap: &serde_json::Value) -> Self {
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
            .stderr(std::fs::File::options().create(true).append(true).open(home.join("caddy.log")).unwrap())
            .spawn()
            .unwrap()
    }

    /// Its memory, in KiB.
    pub(crate) fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    pub(crate) fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// As after a power cut.
    pub(crate) fn restart(&mut self) {
        self.stop();
        self.child = Self::spawn(&self.binary, &self.bootstrap, &self.home);
    }
}

impl Drop for Caddy {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(crate) struct Pebble {
    child: Child,
    api: u16,
    management: u16,
}

impl Pebble {
    pub(crate) fn start(binary: &Path, lab: &Lab) -> Self {
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
            .stdout(std::fs::File::create(lab.path("pebble.log")).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, api, management }
    }

    pub(crate) fn directory(&self) -> String {
        format!("https://127.0.0.1:{}/dir", self.api)
    }

    pub(crate) fn root(&self) -> Option<String> {
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
pub(crate) fn certificate(lab: &Lab) {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(lab.path("api.crt"), made.cert.pem()).unwrap();
    std::fs::write(lab.path("api.key"), made.signing_key.serialize_pem()).unwrap();
}

/// Head and body of an answer.
pub(crate) fn curl(arguments: &[&str]) -> String {
    run_curl(Path::new("curl"), arguments)
}

fn run_curl(program: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program).args(["-s", "-i", "-m", "10"]).args(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Asks again until there is something, for 20 s.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

pub(crate) fn caddy_binary() -> Option<PathBuf> {
    match std::env::var_os("CLOUDATHOME_CADDY") {
        Some(path) => Some(path.into()),
        None => on_path("caddy"),
    }
}

pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(program)).find(|path| path.is_file())
}
