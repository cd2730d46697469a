//! The stock `openvpn` takes our certificates and static keys, with the checks its users switch on.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a helper that fails is a failed test")]

use std::fs::File;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use model::Role;
use pki::{Ca, HostIdentity, Subject, Validity, file, generate_static_key};

const DONE: &str = "Initialization Sequence Completed";

#[test]
fn remote_cert_tls_accepts_agents_and_refuses_a_device_that_plays_server() {
    if Command::new("openvpn").arg("--version").stdout(Stdio::null()).status().is_err() {
        return lab::capability::skip("there is no openvpn");
    }
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::generate("test authority", Validity::from_now(Validity::CA)).unwrap();
    let tls_crypt = generate_static_key();
    let identity = |role: Role| {
        let subject = Subject { role, name: "somebody".parse().unwrap(), validity: Validity::from_now(Validity::LEAF) };
        let identity = ca.issue(&subject).unwrap();
        let path = dir.path().join(role.as_str());
        HostIdentity { ca_pem: ca.cert_pem().to_owned(), identity, tls_crypt: tls_crypt.clone() }.save(&path).unwrap();
        path
    };
    let (edge, home, device) = (identity(Role::Edge), identity(Role::Home), identity(Role::Device));

    for (server, client) in [(&edge, &home), (&home, &edge), (&edge, &device)] {
        let pair = Pair::start(dir.path(), server, client);
        for log in [&pair.server_log, &pair.client_log] {
            wait_for(log, DONE);
            wait_for(log, "VERIFY EKU OK");
        }
    }
    let pair = Pair::start(dir.path(), &device, &home);
    wait_for(&pair.client_log, "certificate verify failed");
    assert!(!std::fs::read_to_string(&pair.client_log).unwrap().contains(DONE));
}

/// Two ends on loopback, without a tunnel device.
struct Pair {
    children: [Child; 2],
    server_log: PathBuf,
    client_log: PathBuf,
}

impl Pair {
    fn start(dir: &Path, server: &Path, client: &Path) -> Self {
        let ports = [free_port(), free_port()];
        let end = |role: &str, identity: &Path, expected: &str, local: u16, remote: u16| {
            let log = dir.join(format!("{role}-{local}.log"));
            let child = Command::new("openvpn")
                .args(["--dev", "null", "--proto", "udp4", "--local", "127.0.0.1", "--verb", "4"])
                .args([&format!("--tls-{role}"), "--remote-cert-tls", expected])
                .args(["--lport", &local.to_string(), "--remote", "127.0.0.1", &remote.to_string()])
                .arg("--ca")
                .arg(identity.join(file::CA_CERT))
                .arg("--cert")
                .arg(identity.join(file::HOST_CERT))
                .arg("--key")
                .arg(identity.join(file::HOST_KEY))
                .arg("--tls-crypt")
                .arg(identity.join(file::TLS_CRYPT))
                .args(if role == "server" { &["--dh", "none"][..] } else { &[] })
                .stdout(File::create(&log).unwrap())
                .spawn()
                .unwrap();
            (child, log)
        };
        let (server, server_log) = end("server", server, "client", ports[0], ports[1]);
        let (client, client_log) = end("client", client, "server", ports[1], ports[0]);
        Self { children: [server, client], server_log, client_log }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn wait_for(log: &Path, text: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let seen = std::fs::read_to_string(log).unwrap();
        if seen.contains(text) {
            return;
        }
        if Instant::now() > deadline {
            panic!("waited in vain for {text:?} in\n{seen}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
