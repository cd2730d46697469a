//! Two network namespaces with a wire between them, processes in them, and certificates.
//!
//! The stock peer is `openvpn`, or what the environment variable `CLOUDATHOME_OPENVPN` names: a program that takes the
//! same options, such as a script that runs another version in a root directory of its own. With `CLOUDATHOME_OFFLOAD=off`
//! our ends carry one packet a call, but where a test says otherwise.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use lab::capability;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};

/// Address of [`Side::Server`] on the wire.
pub(crate) const SERVER: &str = "192.0.2.1";
const CLIENT: &str = "192.0.2.2";
/// The IPv6 address of [`Side::Server`] on the wire.
pub(crate) const SERVER6: &str = "2001:db8::1";
const CLIENT6: &str = "2001:db8::2";

/// Whether the tests cannot run here, which is told then.
pub(crate) fn cannot_run() -> bool {
    let built = || {
        let hint = "the example is not built: cargo build -p tunnel --example peer";
        (!example().exists()).then(|| hint.to_owned())
    };
    let reason = capability::missing(&[&stock(), "socat"]).or_else(built);
    reason.inspect(|reason| capability::skip(reason)).is_some()
}

/// The program that is the stock peer.
pub(crate) fn stock() -> String {
    std::env::var("CLOUDATHOME_OPENVPN").unwrap_or_else(|_| "openvpn".to_owned())
}

/// Writes a tls-crypt-v2 server key as the stock tool makes it.
pub(crate) fn make_v2_server_key(path: &str) {
    must(&stock(), &["--genkey", "tls-crypt-v2-server", path]);
}

/// Writes a tls-crypt-v2 client key as the stock tool makes it, with metadata in base64 or the time.
pub(crate) fn make_v2_client_key(server: &str, path: &str, metadata: Option<&str>) {
    let words = ["--tls-crypt-v2", server, "--genkey", "tls-crypt-v2-client", path];
    must(&stock(), &[&words[..], metadata.as_slice()].concat());
}

/// Whether the stock peer is new enough to know the epoch format.
pub(crate) fn stock_has_epochs() -> bool {
    !run(&stock(), &["--version"]).contains("OpenVPN 2.6")
}

fn example() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    if path.ends_with("deps") {
        path.pop();
    }
    path.join("examples/peer")
}

/// Runs a command to its end and gives its output; nothing when it cannot be started.
pub(crate) fn run(program: &str, words: &[&str]) -> String {
    match Command::new(program).args(words).output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
        Err(_) => String::new(),
    }
}

fn must(program: &str, words: &[&str]) {
    let output = Command::new(program).args(words).output().unwrap();
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An end of the wire.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Server,
    Client,
}

/// The lab of one test. Dropping it ends its processes and removes its namespaces.
pub(crate) struct Lab {
    pub(crate) dir: tempfile::TempDir,
    /// The program of the stock peer.
    pub(crate) stock: String,
    namespaces: [String; 2],
    authority: CertifiedIssuer<'static, KeyPair>,
    children: Vec<(String, Child)>,
}

impl Lab {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let tag = format!("tun{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let lab = Self {
            dir: tempfile::tempdir().unwrap(),
            stock: stock(),
            namespaces: [format!("{tag}s"), format!("{tag}c")],
            authority: authority("Ours"),
            children: Vec::new(),
        };
        let [server, client] = &lab.namespaces;
        for name in &lab.namespaces {
            must("ip", &["netns", "add", name]);
            must("ip", &["-n", name, "link", "set", "lo", "up"]);
        }
        must("ip", &["-n", server, "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", client]);
        for (name, address, address6) in [(server, SERVER, SERVER6), (client, CLIENT, CLIENT6)] {
            must("ip", &["-n", name, "address", "add", &format!("{address}/24"), "dev", "wire"]);
            must("ip", &["-n", name, "address", "add", &format!("{address6}/64"), "dev", "wire", "nodad"]);
            must("ip", &["-n", name, "link", "set", "wire", "up"]);
        }
        fs::write(lab.path("ta.key"), static_key()).unwrap();
        fs::write(lab.path("other-ta.key"), static_key()).unwrap();
        lab.issue_certificates();
        lab
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// Certificates like that of `client` for others.
    pub(crate) fn issue_clients(&self, names: &[String]) {
        for name in names {
            self.issue(&self.authority, name, ExtendedKeyUsagePurpose::ClientAuth, |_| ());
        }
    }

    /// `ca`, `server`, `client`, `expired` and, of another authority that nobody knows, `stranger`.
    fn issue_certificates(&self) {
        let (ours, theirs) = (&self.authority, authority("Theirs"));
        fs::write(self.path("ca.pem"), ours.pem()).unwrap();
        let expired = |params: &mut CertificateParams| params.not_after = date_time_ymd(2021, 1, 1);
        self.issue(ours, "server", ExtendedKeyUsagePurpose::ServerAuth, |_| ());
        self.issue(ours, "client", ExtendedKeyUsagePurpose::ClientAuth, |_| ());
        self.issue(ours, "expired", ExtendedKeyUsagePurpose::ClientAuth, expired);
        self.issue(ours, "expired-server", ExtendedKeyUsagePurpose::ServerAuth, expired);
        self.issue(&theirs, "stranger", ExtendedKeyUsagePurpose::ClientAuth, |_| ());
    }

    fn issue(
        &self,
        authority: &CertifiedIssuer<'_, KeyPair>,
        name: &str,
        usage: ExtendedKeyUsagePurpose,
        change: impl FnOnce(&mut CertificateParams),
    ) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = vec![SanType::URI(format!("urn:test:{name}").try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2090, 1, 1);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, authority).unwrap();
        fs::write(self.path(&format!("{name}.pem")), certificate.pem()).unwrap();
        fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    /// The name of the namespace of `side`.
    pub(crate) fn namespace(&self, side: Side) -> &str {
        &self.namespaces[side as usize]
    }

    /// A command that runs in the namespace of `side`.
    pub(crate) fn command(&self, side: Side, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespaces[side as usize], program]);
        command
    }

    /// Does something in the namespace of `side`. Sockets stay in the one in which they were made.
    pub(crate) fn inside<T: Send>(&self, side: Side, what: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(Path::new("/run/netns").join(&self.namespaces[side as usize])).unwrap();
        let enter_and_do = || {
            nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            what()
        };
        std::thread::scope(|scope| scope.spawn(enter_and_do).join().unwrap())
    }

    /// Starts a process whose output goes to the file `log`.
    pub(crate) fn spawn(&mut self, side: Side, log: &str, program: &str, words: &[String]) {
        let file = File::create(self.path(log)).unwrap();
        let child = self
            .command(side, program)
            .args(words)
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        self.children.push((log.to_owned(), child));
    }

    /// Starts our end as `name`'s certificate holder.
    pub(crate) fn spawn_ours(&mut self, side: Side, log: &str, name: &str, words: &[&str]) {
        let mut all: Vec<String> = match side {
            Side::Server => vec!["mode=listen".into(), "bind=0.0.0.0:1194".into(), "address=10.8.0.1/24".into()],
            Side::Client => vec!["mode=dial".into(), format!("remote={SERVER}:1194")],
        };
        all.push(format!("ca={}", self.path("ca.pem")));
        all.push(format!("cert={}", self.path(&format!("{name}.pem"))));
        all.push(format!("key={}", self.path(&format!("{name}.key"))));
        all.extend(words.iter().map(|&word| word.to_owned()));
        self.spawn_example(side, log, &all);
    }

    /// Starts our end with nothing but these words, and what is set for all tests.
    pub(crate) fn spawn_example(&mut self, side: Side, log: &str, words: &[String]) {
        let offload = if self.has_offload() { "offload=auto" } else { "offload=off" };
        // Of the same words the last counts.
        let words = [&[offload.to_owned()], words].concat();
        self.spawn(side, log, example().to_str().unwrap(), &words);
    }

    /// Whether our ends carry many packets a call unless they are told otherwise.
    pub(crate) fn has_offload(&self) -> bool {
        !std::env::var("CLOUDATHOME_OFFLOAD").is_ok_and(|value| value == "off")
    }

    /// Starts stock openvpn as `name`'s certificate holder.
    pub(crate) fn spawn_stock(&mut self, side: Side, log: &str, name: &str, words: &[&str]) {
        let role = match side {
            Side::Server => "--server 10.8.0.0 255.255.255.0 --topology subnet --dh none --keepalive 2 8".to_owned(),
            Side::Client if words.contains(&"--remote") => "--client --nobind --remote-cert-tls server".to_owned(),
            Side::Client => format!("--client --nobind --remote {SERVER} 1194 --remote-cert-tls server"),
        };
        let mut all: Vec<String> = "--dev tun --proto udp --verb 4".split(' ').map(str::to_owned).collect();
        all.extend(role.split(' ').map(str::to_owned));
        for (option, file) in
            [("--ca", "ca.pem".to_owned()), ("--cert", format!("{name}.pem")), ("--key", format!("{name}.key"))]
        {
            all.extend([option.to_owned(), self.path(&file)]);
        }
        all.extend(words.iter().map(|&word| word.to_owned()));
        let program = self.stock.clone();
        self.spawn(side, log, &program, &all);
    }

    /// The contents of a log.
    pub(crate) fn log(&self, log: &str) -> String {
        let mut text = String::new();
        if let Ok(mut file) = File::open(self.path(log)) {
            let _ = file.read_to_string(&mut text);
        }
        text
    }

    /// Waits until a log contains `text`, and gives the log.
    #[track_caller]
    pub(crate) fn wait_for(&self, log: &str, text: &str) -> String {
        self.wait_for_count(log, text, 1)
    }

    /// Waits until a log contains `text` that many times.
    #[track_caller]
    pub(crate) fn wait_for_count(&self, log: &str, text: &str, count: usize) -> String {
        self.wait_long_for(log, text, count, Duration::from_secs(25))
    }

    /// As [`Self::wait_for_count`], for what may take as long as `limit`.
    #[track_caller]
    pub(crate) fn wait_long_for(&self, log: &str, text: &str, count: usize, limit: Duration) -> String {
        let deadline = Instant::now() + limit;
        loop {
            let contents = self.log(log);
            if contents.matches(text).count() >= count {
                return contents;
            }
            if Instant::now() > deadline {
                panic!("no '{text}' in {log}\n{}", self.all_logs());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn all_logs(&self) -> String {
        self.children.iter().map(|(log, _)| format!("== {log}\n{}\n", self.log(log))).collect()
    }

    /// Id of the process with this log. Namespaces are entered by exec, so it is the process itself.
    pub(crate) fn pid(&self, log: &str) -> u32 {
        self.children.iter().find(|(name, _)| name == log).unwrap().1.id()
    }

    /// Sends a signal to the process with this log.
    pub(crate) fn signal(&self, log: &str, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid(log) as i32), signal).unwrap();
    }

    /// Interrupts the process with this log and waits for its end; gives the whole log.
    pub(crate) fn finish(&mut self, log: &str) -> String {
        self.signal(log, nix::sys::signal::Signal::SIGTERM);
        let at = self.children.iter().position(|(name, _)| name == log).unwrap();
        let (_, mut child) = self.children.remove(at);
        let deadline = Instant::now() + Duration::from_secs(10);
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("{log}: no end after SIGTERM\n{}", self.log(log));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.log(log)
    }

    /// Kills the process with this log.
    pub(crate) fn kill(&mut self, log: &str) {
        let at = self.children.iter().position(|(name, _)| name == log).unwrap();
        let (_, mut child) = self.children.remove(at);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Makes the wire swallow datagrams, or carry them again.
    pub(crate) fn block_udp(&self, block: bool) {
        for name in &self.namespaces {
            let rule = "add table inet block; add chain inet block in { type filter hook input priority 0; };
                add rule inet block in iifname wire meta l4proto udp drop";
            must("ip", &["netns", "exec", name, "nft", if block { rule } else { "delete table inet block" }]);
        }
    }

    /// Sends about 60 echo requests a second to `address` for `seconds`, and gives how many were sent and answered.
    pub(crate) fn echo(&self, side: Side, address: &str, seconds: u32) -> (u32, u32) {
        let count = (seconds * 60).to_string();
        let words = ["-n", "-q", "-c", &count, "-i", "0.01", "-W", "2", address];
        let output = self.command(side, "ping").args(words).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let number_before = |what: &str| -> Option<u32> {
            let (before, _) = text.split_once(what)?;
            before.rsplit([' ', '\n']).next()?.parse().ok()
        };
        let numbers = number_before(" packets transmitted").zip(number_before(" received"));
        numbers.unwrap_or_else(|| panic!("no result of ping:\n{text}"))
    }

    /// Pings `address` until three answers in a row.
    #[track_caller]
    pub(crate) fn ping(&self, side: Side, address: &str, size: u32) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let size = size.to_string();
            let words = ["-n", "-q", "-c", "3", "-i", "0.05", "-W", "1", "-s", &size, address];
            if self.command(side, "ping").args(words).stdout(Stdio::null()).status().unwrap().success() {
                return;
            }
            assert!(Instant::now() < deadline, "no answer from {address}\n{}", self.all_logs());
        }
    }
}

impl Lab {
    /// Sends 100 MB over TCP to `address`, which is an inner address of the other side, and compares what arrived.
    #[track_caller]
    pub(crate) fn transfer(&self, from: Side, address: &str) {
        self.transfer_of(100_000_000, from, address);
    }

    /// The same with so many bytes.
    #[track_caller]
    pub(crate) fn transfer_of(&self, bytes: u64, from: Side, address: &str) {
        let (source, copy) = (self.path("source"), self.path("copy"));
        if !Path::new(&source).exists() {
            let mut random = File::open("/dev/urandom").unwrap().take(bytes);
            std::io::copy(&mut random, &mut File::create(&source).unwrap()).unwrap();
        }
        let _ = fs::remove_file(&copy);
        let to = if from == Side::Client { Side::Server } else { Side::Client };
        let (protocol, address) =
            if address.contains(':') { ("TCP6", format!("[{address}]")) } else { ("TCP4", address.to_owned()) };
        let mut receiver = self
            .command(to, "socat")
            .args(["-u", &format!("{protocol}-LISTEN:5000,bind={address},reuseaddr"), &format!("CREATE:{copy}")])
            .spawn()
            .unwrap();
        let sender = self
            .command(from, "timeout")
            .args(["60", "socat", "-u", &format!("OPEN:{source},rdonly")])
            .arg(format!("{protocol}:{address}:5000,retry=100,interval=0.05"))
            .status()
            .unwrap();
        if !sender.success() {
            receiver.kill().unwrap();
        }
        receiver.wait().unwrap();
        let sum = |path: &str| run("sha256sum", &[path]).split(' ').next().map(str::to_owned);
        assert!(sender.success(), "the transfer to {address} failed\n{}", self.all_logs());
        assert_eq!(fs::metadata(&copy).unwrap().len(), bytes);
        assert_eq!(sum(&source), sum(&copy));
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for (_, child) in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        for name in &self.namespaces {
            run("ip", &["netns", "delete", name]);
        }
    }
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn static_key() -> String {
    let bytes: [u8; 256] = std::array::from_fn(|_| rand::random());
    tunnel::StaticKey::from_bytes(bytes).to_text()
}
