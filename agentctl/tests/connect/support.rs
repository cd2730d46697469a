//! Two network namespaces: a stock server behind a router, and a host that connects to it.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use lab::capability;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use serde_json::Value;

/// The server, which the host reaches by its default route only.
pub(crate) const SERVER: &str = "198.51.100.1";
/// What the host's `resolv.conf` says before anything is changed.
pub(crate) const RESOLV_CONF: &str = "nameserver 192.0.2.53\noptions edns0\n";

/// Whether the tests cannot run here, which is told then.
pub(crate) fn cannot_run() -> bool {
    capability::missing(&["openvpn"]).inspect(|reason| capability::skip(reason)).is_some()
}

/// The lab of one test. Dropping it ends its processes and removes its namespaces.
pub(crate) struct Lab {
    dir: tempfile::TempDir,
    pub(crate) server: String,
    pub(crate) host: String,
    children: Vec<(String, Child)>,
}

impl Lab {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let tag = format!("con{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::tempdir().unwrap();
        let lab = Self { dir, server: format!("{tag}s"), host: format!("{tag}h"), children: Vec::new() };
        for name in [&lab.server, &lab.host] {
            must(&format!("netns add {name}"));
            must(&format!("-n {name} link set lo up"));
        }
        let (server, host) = (&lab.server, &lab.host);
        must(&format!("-n {server} link add wire type veth peer name wire netns {host}"));
        must(&format!("-n {server} address add {SERVER}/32 dev lo"));
        for (name, last) in [(server, 1), (host, 2)] {
            must(&format!("-n {name} address add 192.0.2.{last}/24 dev wire"));
            must(&format!("-n {name} address add 2001:db8::{last}/64 dev wire nodad"));
            must(&format!("-n {name} link set wire up"));
        }
        must(&format!("-n {host} route add default via 192.0.2.1"));
        must(&format!("-n {host} -6 route add default via 2001:db8::1"));
        fs::create_dir_all(lab.resolv_conf().parent().unwrap()).unwrap();
        fs::write(lab.resolv_conf(), RESOLV_CONF).unwrap();
        lab.issue();
        lab
    }

    /// The file that is `/etc/resolv.conf` in the host's namespace.
    pub(crate) fn resolv_conf(&self) -> std::path::PathBuf {
        Path::new("/etc/netns").join(&self.host).join("resolv.conf")
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn issue(&self) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::write(self.path("ca.pem"), authority.pem()).unwrap();
        for (name, usage) in
            [("server", ExtendedKeyUsagePurpose::ServerAuth), ("client", ExtendedKeyUsagePurpose::ClientAuth)]
        {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![usage];
            (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2090, 1, 1));
            let key = KeyPair::generate().unwrap();
            fs::write(self.path(&format!("{name}.pem")), params.signed_by(&key, &authority).unwrap().pem()).unwrap();
            fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
        }
    }

    /// A profile with the authority, the client's certificate and its key in blocks, and `lines`.
    pub(crate) fn profile(&self, name: &str, lines: &str) -> String {
        let blocks: String = [("ca", "ca.pem"), ("cert", "client.pem"), ("key", "client.key")]
            .map(|(tag, file)| format!("<{tag}>\n{}</{tag}>\n", self.read(file)))
            .concat();
        let text = format!("client\ndev tun7\nremote {SERVER} 1194\nnobind\nremote-cert-tls server\n{lines}\n{blocks}");
        fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    fn spawn(&mut self, namespace: &str, log: &str, program: &str, words: &[String]) {
        let file = File::create(self.path(log)).unwrap();
        // As a shell starts it, also where these tests themselves outlive their terminal, in which ours would follow them.
        let child = Command::new("ip")
            .args(["netns", "exec", namespace, "env", "--default-signal=HUP", program])
            .args(words)
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        self.children.push((log.to_owned(), child));
    }

    /// Starts the stock server with further options; pushes are whole options too.
    #[track_caller]
    pub(crate) fn serve(&mut self, words: &[&str], pushes: &[&str]) {
        let usual = format!(
            "--dev tun --proto udp --local {SERVER} --port 1194 --server 10.8.0.0 255.255.255.0 \
             --server-ipv6 fd00:8::/64 --dh none --keepalive 2 8 --verb 4 --ca {} --cert {} --key {}",
            self.path("ca.pem"),
            self.path("server.pem"),
            self.path("server.key")
        );
        let mut all: Vec<String> = usual.split(' ').map(str::to_owned).collect();
        all.extend(words.iter().map(|&word| word.to_owned()));
        for &push in pushes {
            all.extend(["--push".to_owned(), push.to_owned()]);
        }
        let namespace = self.server.clone();
        self.spawn(&namespace, "server.log", "openvpn", &all);
        self.wait_for("server.log", "Initialization Sequence Completed");
    }

    /// Connects with the stock client and waits until it is up.
    #[track_caller]
    pub(crate) fn connect_stock(&mut self, profile: &str) {
        let namespace = self.host.clone();
        let words = ["--config", profile, "--verb", "4"].map(str::to_owned);
        self.spawn(&namespace, "client.log", "openvpn", &words);
        self.wait_for("client.log", "Initialization Sequence Completed");
    }

    /// Starts ours.
    pub(crate) fn start(&mut self, profile: &str, words: &[&str]) {
        let journals = self.path("journals");
        let mut all: Vec<String> = ["connect", "--journals", &journals].map(str::to_owned).to_vec();
        all.extend(words.iter().map(|&word| word.to_owned()));
        all.push(profile.to_owned());
        let namespace = self.host.clone();
        self.spawn(&namespace, "client.log", env!("CARGO_BIN_EXE_agentctl"), &all);
    }

    /// Connects with ours and waits until it is up.
    #[track_caller]
    pub(crate) fn connect(&mut self, profile: &str, words: &[&str]) {
        self.start(profile, words);
        self.wait_for("client.log", "\nconnected to server at ");
    }

    #[track_caller]
    pub(crate) fn wait_for(&self, log: &str, text: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let contents = format!("\n{}", self.read(log));
            if contents.contains(text) {
                return contents;
            }
            assert!(Instant::now() < deadline, "no '{text}' in {log}:\n{contents}\n{}", self.read("server.log"));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends a signal to the process with this log and waits for its end; gives its exit code.
    #[track_caller]
    pub(crate) fn end(&mut self, log: &str, signal: Signal) -> Option<i32> {
        let at = self.children.iter().position(|(name, _)| name == log).unwrap();
        kill(Pid::from_raw(self.children[at].1.id() as i32), signal).unwrap();
        self.wait_end(log)
    }

    /// Waits for the end of the process with this log; gives its exit code.
    #[track_caller]
    pub(crate) fn wait_end(&mut self, log: &str) -> Option<i32> {
        let at = self.children.iter().position(|(name, _)| name == log).unwrap();
        let (_, mut child) = self.children.remove(at);
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status.code();
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                panic!("{log}: no end\n{}", self.read(log));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Runs a command in the host's namespace.
    pub(crate) fn on_host(&self, command: &str) -> Output {
        Command::new("ip").args(["netns", "exec", &self.host]).args(command.split(' ')).output().unwrap()
    }

    /// Everything that a connection may change on the host.
    pub(crate) fn state(&self) -> State {
        let json = |words: &str| -> Vec<Value> {
            let output = Command::new("ip").args(["-n", &self.host, "-j"]).args(words.split(' ')).output().unwrap();
            serde_json::from_slice(&output.stdout).unwrap_or_default()
        };
        let sorted = |words: &str| {
            let mut lines: Vec<String> = json(words).iter().map(ToString::to_string).collect();
            lines.sort();
            lines
        };
        let mut addresses = Vec::new();
        for link in json("address") {
            // What the kernel makes up for each link is no setting.
            let of_link = link["addr_info"].as_array().cloned().unwrap_or_default();
            let set =
                of_link.into_iter().filter(|address| address["scope"] != "link").map(|address| address.to_string());
            addresses.push((link["ifname"].to_string(), link["mtu"].to_string(), set.collect()));
        }
        State {
            addresses,
            routes: sorted("route show table main"),
            routes6: sorted("-6 route show table main"),
            resolv_conf: fs::read_to_string(self.resolv_conf()).unwrap(),
        }
    }

    /// Waits until the host's state is this one: the kernel forgets a device's routes a moment later.
    #[track_caller]
    pub(crate) fn must_become(&self, state: &State) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while &self.state() != state && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(&self.state(), state, "{}", self.read("client.log"));
    }
}

/// A host's network as far as a connection may change it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// Links with their MTU and addresses.
    pub(crate) addresses: Vec<(String, String, Vec<String>)>,
    pub(crate) routes: Vec<String>,
    pub(crate) routes6: Vec<String>,
    pub(crate) resolv_conf: String,
}

impl Drop for Lab {
    fn drop(&mut self) {
        for (_, child) in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        for name in [&self.server, &self.host] {
            let _ = Command::new("ip").args(["netns", "delete", name]).output();
        }
        let _ = fs::remove_dir_all(Path::new("/etc/netns").join(&self.host));
    }
}

#[track_caller]
fn must(words: &str) {
    let output = Command::new("ip").args(words.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
}
