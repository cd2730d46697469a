//! Certificates from a real ACME server (pebble), proven in a real name server that takes dynamic updates (BIND).
#![expect(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use acme::{Challenge, Dns, Keeper, Plan, Status, TsigKey, Update};
use lab::capability::skip;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tempfile::TempDir;
use tokio::sync::watch;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

const KEY: &str = "key \"edge\" { algorithm hmac-sha256; secret \"QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVowMTIzNDU=\"; };\n";

/// Name server and ACME server, each a process of the test's own.
struct World {
    dns_port: u16,
    api: u16,
    _processes: Vec<Running>,
    // Last: what runs is in its directory.
    dir: TempDir,
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl World {
    /// With certificates that live so long; none where a program is missing.
    fn start(life: Duration) -> Option<Self> {
        let (Some(named), Some(pebble)) = (program("named"), program("pebble")) else {
            skip("there is no named (Debian: bind9) or no pebble");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        // A name server of the machine may run under a user of its own, and does so with its own files only.
        let dns_port = free_port();
        let named = Self::serve_names(&named, dir.path(), dns_port);
        let (api, pebble) = Self::issue(&pebble, dir.path(), dns_port, life);
        let world = Self { dns_port, api, _processes: vec![Running(named), Running(pebble)], dir };
        for port in [world.dns_port, world.api] {
            let deadline = Instant::now() + Duration::from_secs(20);
            while std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
                assert!(Instant::now() < deadline, "nobody listens on {port}: {}", world.log());
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Some(world)
    }

    fn serve_names(named: &Path, dir: &Path, port: u16) -> Child {
        fs::write(dir.join("edge.key"), KEY).unwrap();
        let zone = "$TTL 60\n@ SOA ns hostmaster 1 60 60 60 60\n@ NS ns\nns A 127.0.0.1\n* A 127.0.0.1\n";
        fs::write(dir.join("zone"), zone).unwrap();
        fs::write(dir.join("other"), zone).unwrap();
        fs::write(dir.join("root"), "$TTL 60\n@ SOA ns. hostmaster. 1 60 60 60 60\n@ NS ns.\nns A 127.0.0.1\n")
            .unwrap();
        // What people do who will not let the key of the ingress change their zone.
        let mut delegating = zone.to_owned();
        delegating.push_str("_acme-challenge CNAME delegated.example.test.\n");
        fs::write(dir.join("delegating"), delegating).unwrap();
        let config = format!(
            "options {{ directory \"{0}\"; listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};
               pid-file \"{0}/named.pid\"; session-keyfile \"{0}/session.key\"; recursion yes; dnssec-validation no; }};
             controls {{ }};
             include \"{0}/edge.key\";
             zone \".\" {{ type primary; file \"root\"; }};
             zone \"example.test\" {{ type primary; file \"zone\"; update-policy {{ grant edge zonesub TXT; }}; }};
             zone \"other.test\" {{ type primary; file \"other\"; }};
             zone \"alias.test\" {{ type primary; file \"delegating\"; }};\n",
            dir.display()
        );
        fs::write(dir.join("named.conf"), config).unwrap();
        let log = fs::File::create(dir.join("named.log")).unwrap();
        let mut command = Command::new(named);
        command.args(["-g", "-n", "1", "-c"]).arg(dir.join("named.conf"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    fn issue(pebble: &Path, dir: &Path, dns_port: u16, life: Duration) -> (u16, Child) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        fs::write(dir.join("api.crt"), made.cert.pem()).unwrap();
        fs::write(dir.join("api.key"), made.signing_key.serialize_pem()).unwrap();
        let api = free_port();
        let config = serde_json::json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{api}"),
            "managementListenAddress": format!("127.0.0.1:{}", free_port()),
            "certificate": dir.join("api.crt"),
            "privateKey": dir.join("api.key"),
            "httpPort": free_port(),
            "tlsPort": free_port(),
            "certificateValidityPeriod": life.as_secs(),
        } });
        fs::write(dir.join("pebble.json"), config.to_string()).unwrap();
        let log = fs::File::create(dir.join("pebble.log")).unwrap();
        let mut command = Command::new(pebble);
        command.args(["-dnsserver", &format!("127.0.0.1:{dns_port}"), "-config"]).arg(dir.join("pebble.json"));
        // Never believed, always looked up.
        command.envs([("PEBBLE_VA_NOSLEEP", "1"), ("PEBBLE_AUTHZREUSE", "0")]);
        (api, command.stdin(Stdio::null()).stdout(log).stderr(Stdio::null()).spawn().unwrap())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("named.log")).unwrap_or_default()
    }

    /// How many orders the ACME server got.
    fn orders(&self) -> usize {
        fs::read_to_string(self.dir.path().join("pebble.log")).unwrap().matches("orders in the db").count()
    }

    fn plan(&self, names: &[&str]) -> Plan {
        Plan {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            directory: format!("https://localhost:{}/dir", self.api),
            email: Some("me@example.test".to_owned()),
            api_root: Some(fs::read_to_string(self.dir.path().join("api.crt")).unwrap()),
        }
    }

    fn update(&self) -> Challenge {
        let server = format!("127.0.0.1:{}", self.dns_port);
        Challenge::Update(Update::new(&server, None, TsigKey::parse(KEY).unwrap()).unwrap())
    }

    fn command(&self, script: &str) -> Challenge {
        let (text, path) = (self.dir.path().join("script"), self.dir.path().join("dns-command"));
        fs::write(&text, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&text, fs::Permissions::from_mode(0o700)).unwrap();
        // Not by this process: what it has open for writing a child of another test may still have.
        assert!(Command::new("cp").arg(&text).arg(&path).status().unwrap().success());
        Challenge::Command(acme::Command::new(&path))
    }

    fn keep(&self, plan: Plan, challenge: Challenge) -> (Keeper, watch::Receiver<Status>) {
        let dns =
            Dns::new(vec![Ipv4Addr::LOCALHOST.into()]).on_port(self.dns_port).shown_within(Duration::from_secs(3));
        Keeper::open(plan, challenge, dns, &self.dir.path().join("state"), &self.certificates()).unwrap()
    }

    fn certificates(&self) -> PathBuf {
        self.dir.path().join("certificates")
    }

    /// The texts that the name server still shows.
    fn texts(&self, name: &str) -> String {
        let port = self.dns_port.to_string();
        let mut dig = Command::new("dig");
        let output = dig.args(["@127.0.0.1", "-p", &port, "+short", "+tcp", name, "TXT"]).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }
}

fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    dirs.map(|dir| dir.join(name)).find(|path| path.is_file())
}

fn free_port() -> u16 {
    // Of both: the name server listens on either.
    loop {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        if UdpSocket::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).is_ok() {
            return port;
        }
    }
}

/// Waits until the status is so.
async fn until(status: &mut watch::Receiver<Status>, what: &str, is: impl FnMut(&Status) -> bool) -> Status {
    let found = tokio::time::timeout(Duration::from_secs(60), status.wait_for(is)).await;
    assert!(found.is_ok(), "waited in vain for {what}");
    found.unwrap().unwrap().clone()
}

fn names(pem: &str) -> Vec<String> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    let mut names: Vec<String> = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        })
        .collect();
    names.sort();
    names
}

const DAY: Duration = Duration::from_secs(86400);
const WILDCARD: [&str; 2] = ["example.test", "*.example.test"];

#[tokio::test]
async fn a_wildcard_is_issued_by_dynamic_updates_and_kept_over_a_restart() {
    let Some(world) = World::start(90 * DAY) else { return };
    let (keeper, mut status) = world.keep(world.plan(&WILDCARD), world.update());
    assert_eq!(*status.borrow(), Status::default());
    let running = tokio::spawn(keeper.run());
    let told =
        until(&mut status, "a certificate", |status| status.in_force.is_some() || status.failure.is_some()).await;
    assert_eq!(told.failure, None, "{}", world.log());
    let in_force = told.in_force.unwrap();
    assert_eq!(in_force.names, WILDCARD);
    let left = in_force.not_after.duration_since(SystemTime::now()).unwrap();
    assert!(left > 89 * DAY && left <= 90 * DAY, "{left:?}");
    let pem = fs::read_to_string(&in_force.file).unwrap();
    assert_eq!(names(&pem), ["*.example.test", "example.test"]);
    assert!(pem.matches("BEGIN CERTIFICATE").count() > 1, "the chain is part of it");
    assert!(pem.contains("PRIVATE KEY"));
    for private in [&in_force.file, &world.dir.path().join("state/acme.json")] {
        assert_eq!(fs::metadata(private).unwrap().permissions().mode() & 0o777, 0o600, "{}", private.display());
    }
    assert_eq!(fs::metadata(world.certificates()).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(world.texts("_acme-challenge.example.test"), "", "what was laid into the DNS is taken away");
    running.abort();
    let _ = running.await;

    let orders = world.orders();
    assert_eq!(orders, 1);
    let (keeper, mut again) = world.keep(world.plan(&WILDCARD), world.update());
    assert_eq!(again.borrow_and_update().in_force.as_ref(), Some(&in_force), "before anybody is asked");
    let running = tokio::spawn(keeper.run());
    assert!(tokio::time::timeout(Duration::from_secs(2), again.changed()).await.is_err(), "there is nothing to do");
    assert_eq!(world.orders(), orders);
    running.abort();

    // Other names: a new order, and until it has succeeded the old certificate stays.
    let (keeper, mut status) = world.keep(world.plan(&["a.example.test", "*.a.example.test"]), world.update());
    assert_eq!(status.borrow().in_force.as_ref(), Some(&in_force));
    let running = tokio::spawn(keeper.run());
    let told = until(&mut status, "the other", |status| status.in_force.as_ref() != Some(&in_force)).await;
    assert_eq!(
        names(&fs::read_to_string(told.in_force.unwrap().file).unwrap()),
        ["*.a.example.test", "a.example.test"]
    );
    running.abort();
}

#[tokio::test]
async fn it_is_renewed_before_its_end() {
    let Some(world) = World::start(Duration::from_secs(12)) else { return };
    let (keeper, mut status) = world.keep(world.plan(&["*.example.test"]), world.update());
    let running = tokio::spawn(keeper.run());
    let mut before = until(&mut status, "a certificate", |status| status.in_force.is_some()).await.in_force.unwrap();
    for _ in 0..2 {
        let told = until(&mut status, "another", |status| status.in_force.as_ref() != Some(&before)).await;
        assert!(SystemTime::now() < before.not_after, "only after its end");
        let now = told.in_force.unwrap();
        assert!(now.not_after > before.not_after && now.file != before.file);
        before = now;
    }
    running.abort();
}

#[tokio::test]
async fn a_command_changes_the_dns_and_its_failure_is_told_and_leaves_the_old_certificate() {
    let Some(world) = World::start(90 * DAY) else { return };
    let calls = world.dir.path().join("calls");
    let script = format!(
        "echo \"$1 $2\" >> {calls}
         case $1 in present) do=add; ttl=60 ;; cleanup) do=delete; ttl= ;; esac
         printf 'server 127.0.0.1 {port}\\nzone example.test\\nupdate %s %s %s TXT \"%s\"\\nsend\\n' $do $2. \"$ttl\" \"$3\" |
           nsupdate -v -k {dir}/edge.key",
        calls = calls.display(),
        port = world.dns_port,
        dir = world.dir.path().display()
    );
    let (keeper, mut status) = world.keep(world.plan(&WILDCARD), world.command(&script));
    let running = tokio::spawn(keeper.run());
    let told =
        until(&mut status, "a certificate", |status| status.in_force.is_some() || status.failure.is_some()).await;
    assert_eq!(told.failure, None, "{}", world.log());
    let first = told.in_force.unwrap();
    let calls = fs::read_to_string(calls).unwrap();
    assert_eq!(calls.matches("present _acme-challenge.example.test\n").count(), 2, "{calls}");
    assert_eq!(calls.matches("cleanup _acme-challenge.example.test\n").count(), 2, "{calls}");
    running.abort();
    let _ = running.await;

    let wanted = ["example.test", "*.example.test", "*.more.example.test"];
    for (script, reason) in [
        ("echo 'the provider says: no credit' >&2; exit 7", "failed (exit status: 7): the provider says: no credit"),
        ("exit 0", "ns.example.test. did not show the TXT record _acme-challenge."),
    ] {
        let (keeper, mut status) = world.keep(world.plan(&wanted), world.command(script));
        let running = tokio::spawn(keeper.run());
        let told = until(&mut status, "the failure", |status| status.failure.is_some()).await;
        let failure = told.failure.unwrap();
        assert!(failure.reason.contains(reason), "{}", failure.reason);
        assert!(failure.again > SystemTime::now() + Duration::from_secs(50));
        assert_eq!(told.in_force.as_ref(), Some(&first));
        assert!(first.file.exists());
        running.abort();
    }
}

#[tokio::test]
async fn refusals_name_the_cause() {
    let Some(world) = World::start(90 * DAY) else { return };
    let server = format!("127.0.0.1:{}", world.dns_port);
    let with = |key: &str, zone| Challenge::Update(Update::new(&server, zone, TsigKey::parse(key).unwrap()).unwrap());
    let failing: [(Challenge, &str, &str); 4] = [
        (with(&KEY.replace("QUJD", "AAAA"), None), "example.test", "it does not know the key, its secret"),
        (with(KEY, None), "other.test", "refuses the update of other.test.: Query refused (the key may not"),
        (
            with(KEY, Some("other.test")),
            "example.test",
            "the zone other.test. does not hold _acme-challenge.example.test.",
        ),
        (with(KEY, None), "nowhere.invalid", "names no zone, or no name servers, for _acme-challenge.nowhere.invalid."),
    ];
    for (challenge, name, reason) in failing {
        let (keeper, mut status) = world.keep(world.plan(&[name]), challenge);
        let running = tokio::spawn(keeper.run());
        let told = until(&mut status, "the failure", |status| status.failure.is_some()).await;
        let failure = told.failure.unwrap();
        assert!(failure.reason.to_lowercase().contains(&reason.to_lowercase()), "{}", failure.reason);
        assert_eq!(told.in_force, None);
        running.abort();
    }
}

#[tokio::test]
async fn a_challenge_may_be_an_alias_into_another_zone() {
    let Some(world) = World::start(90 * DAY) else { return };
    let (keeper, mut status) = world.keep(world.plan(&["alias.test", "*.alias.test"]), world.update());
    let running = tokio::spawn(keeper.run());
    let told =
        until(&mut status, "a certificate", |status| status.in_force.is_some() || status.failure.is_some()).await;
    assert_eq!(told.failure, None, "{}", world.log());
    assert_eq!(world.texts("delegated.example.test"), "");
    running.abort();
}
