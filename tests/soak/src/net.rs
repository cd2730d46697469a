//! Namespaces around one bridge, processes in them, certificates, and what the kernel knows of them.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// The server's address on the wire.
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Where a client's relay takes datagrams, in its namespace.
pub(crate) const RELAY: &str = "127.0.0.1:1195";

/// A server's namespace and those of its clients. Dropping it removes them.
pub(crate) struct Net {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) server: String,
    pub(crate) clients: Vec<String>,
}

impl Net {
    pub(crate) fn new(clients: u8) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let tag = format!("soak{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let net = Self {
            dir: tempfile::tempdir()?,
            server: format!("{tag}s"),
            clients: (0..clients).map(|at| format!("{tag}c{at}")).collect(),
        };
        let server = net.server.as_str();
        ip(&["netns", "add", server])?;
        ip(&["-n", server, "link", "set", "lo", "up"])?;
        ip(&["-n", server, "link", "add", "wire", "type", "bridge"])?;
        ip(&["-n", server, "address", "add", &format!("{SERVER}/24"), "dev", "wire"])?;
        ip(&["-n", server, "link", "set", "wire", "up"])?;
        for (at, name) in net.clients.iter().enumerate() {
            let port = format!("port{at}");
            ip(&["netns", "add", name])?;
            ip(&["-n", name, "link", "set", "lo", "up"])?;
            ip(&["-n", server, "link", "add", &port, "type", "veth", "peer", "name", "wire", "netns", name])?;
            ip(&["-n", server, "link", "set", &port, "master", "wire", "up"])?;
            ip(&["-n", name, "address", "add", &format!("192.0.2.{}/24", 10 + at), "dev", "wire"])?;
            ip(&["-n", name, "link", "set", "wire", "up"])?;
        }
        net.issue_certificates()?;
        Ok(net)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// `ca`, `server`, and `client0` and so on, and a key for tls-crypt.
    fn issue_certificates(&self) -> Result<()> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Soak");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        fs::write(self.path("ca.pem"), authority.pem())?;
        let clients = (0..self.clients.len()).map(|at| (client(at), ExtendedKeyUsagePurpose::ClientAuth));
        for (name, usage) in clients.chain([("server".to_owned(), ExtendedKeyUsagePurpose::ServerAuth)]) {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name.as_str());
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![usage];
            let key = KeyPair::generate()?;
            fs::write(self.path(&format!("{name}.pem")), params.signed_by(&key, &authority)?.pem())?;
            fs::write(self.path(&format!("{name}.key")), key.serialize_pem())?;
        }
        let key = tunnel::StaticKey::from_bytes(std::array::from_fn(|_| rand::random()));
        fs::write(self.path("ta.key"), key.to_text())?;
        Ok(())
    }

    /// Starts our end as `name`'s certificate holder.
    pub(crate) fn ours(&self, namespace: &str, name: &str, words: &[&str]) -> Result<Process> {
        let mut all: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        for (key, file) in [("ca", "ca.pem"), ("cert", &format!("{name}.pem")), ("key", &format!("{name}.key"))] {
            all.push(format!("{key}={}", self.path(file)));
        }
        all.push(format!("tls_crypt={}", self.path("ta.key")));
        let program = std::env::current_exe()?.with_file_name("examples").join("peer");
        ensure!(program.exists(), "{} is not there: cargo build -p tunnel --example peer", program.display());
        Process::start(namespace, &self.path("ours.log"), &program.display().to_string(), &all)
    }

    /// Starts a stock peer as `name`'s certificate holder, which logs to the file `log`.
    pub(crate) fn stock(&self, namespace: &str, log: &str, name: &str, words: &str) -> Result<Process> {
        let files = [("ca", "ca.pem"), ("cert", &format!("{name}.pem")), ("key", &format!("{name}.key"))];
        let mut all: Vec<String> = "--dev tun --verb 3".split(' ').map(str::to_owned).collect();
        all.extend(words.split_whitespace().map(str::to_owned));
        for (option, file) in files.into_iter().chain([("tls-crypt", "ta.key")]) {
            all.extend([format!("--{option}"), self.path(file)]);
        }
        Process::start(namespace, &self.path(log), "openvpn", &all)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in self.clients.iter().chain([&self.server]) {
            // What is left of it goes with the machine.
            let _ = ip(&["netns", "delete", name]);
        }
    }
}

/// The name of a client's certificate.
pub(crate) fn client(at: usize) -> String {
    format!("client{at}")
}

fn ip(words: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(words).output().context("run ip")?;
    ensure!(output.status.success(), "ip {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A process in a namespace. Dropping it kills it.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    fn start(namespace: &str, log: &str, program: &str, words: &[String]) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, program]).args(words);
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        Ok(Self { child: command.spawn().with_context(|| format!("start {program}"))?, log: log.into() })
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_none())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // It may have ended; whoever needs it alive looks.
        let _ = kill(self.pid(), signal);
    }

    /// Has it end in peace; gives its log.
    pub(crate) fn finish(mut self) -> Result<String> {
        self.signal(Signal::SIGTERM);
        for _ in 0..100 {
            if !self.is_running() {
                return Ok(self.log());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        anyhow::bail!("no end after SIGTERM")
    }

    fn pid(&self) -> Pid {
        // Namespaces are entered by exec, so it is the process itself.
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Resident memory in KiB and open descriptors.
    pub(crate) fn usage(&self) -> Result<Usage> {
        let proc = Path::new("/proc").join(self.pid().to_string());
        let status = fs::read_to_string(proc.join("status"))?;
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let rss = rss.trim().trim_end_matches(" kB").parse()?;
        Ok(Usage { rss, descriptors: fs::read_dir(proc.join("fd"))?.count() })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process uses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// KiB.
    pub(crate) rss: u64,
    pub(crate) descriptors: usize,
}

/// Packets with a wrong checksum that a namespace has seen: what the streams' own repetition hides.
pub(crate) fn checksum_errors(namespace: &str) -> Result<u64> {
    let text = relay::in_namespace(namespace, || fs::read_to_string("/proc/thread-self/net/snmp"))??;
    let mut lines = text.lines();
    let mut errors = 0;
    while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        for (name, value) in names.split(' ').zip(values.split(' ')) {
            if matches!(name, "InCsumErrors" | "InHdrErrors") {
                errors += value.parse::<u64>()?;
            }
        }
    }
    Ok(errors)
}
