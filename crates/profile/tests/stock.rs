//! What the stock `openvpn` says to the profiles that we write, and whether we know all of its options.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a helper that fails is a failed test")]

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use profile::{
    Cipher, DeviceIdentity, DeviceNetwork, DeviceProfile, DeviceRemote, DeviceWrapping, ProblemKind, Profile,
    TlsVersion,
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use secrecy::ExposeSecret;

/// Said once the whole profile has been taken and the first remote is tried.
const TRYING: &str = "link remote: [AF_INET]127.0.0.1:9";

#[test]
fn stock_takes_what_we_write() {
    if cannot_run(true) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let remote = |port, tcp| DeviceRemote { host: "127.0.0.1".to_owned(), port, tcp };
    let (ca_pem, identity) = identities();
    let with_certificate = DeviceProfile {
        remotes: vec![remote(9, false), remote(9, true)],
        server_name: "edge".to_owned(),
        data_ciphers: Cipher::DEFAULT.to_vec(),
        tls_version_min: TlsVersion::V1_2,
        ca_pem,
        identity: Some(identity),
        ask_password: false,
        wrapping: DeviceWrapping::TlsCryptV2(tls_crypt_v2_key(dir.path()).into()),
        network: DeviceNetwork::default(),
    };
    let with_both = DeviceProfile {
        server_name: "edge one".to_owned(),
        tls_version_min: TlsVersion::V1_3,
        ask_password: true,
        wrapping: DeviceWrapping::TlsCrypt(generated(dir.path(), &["--genkey", "secret"], "static.key").into()),
        ..with_certificate.clone()
    };
    let full = DeviceProfile {
        network: DeviceNetwork { full: true, dns: vec![[192, 0, 2, 53].into()] },
        ..with_certificate.clone()
    };
    let with_password = DeviceProfile { identity: None, ..with_both.clone() };
    for (name, profile) in
        [("certificate", with_certificate), ("both", with_both), ("password", with_password), ("full", full)]
    {
        let config = dir.path().join(name).with_extension(DeviceProfile::EXTENSION);
        fs::write(&config, profile.to_text().unwrap().expose_secret()).unwrap();
        fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
        Profile::parse(&fs::read_to_string(&config).unwrap()).unwrap();
        let said = run_until_trying(dir.path(), &config);
        for complaint in ["Options error", "WARNING", "DEPRECATED", "Cannot"] {
            let line = said.lines().find(|line| line.contains(complaint));
            assert!(line.is_none(), "{name}: {line:?} in\n{said}");
        }
        let understood = format!("verify_x509_name = '{}'", profile.server_name);
        assert!(said.contains(&understood) && said.contains("Connection profiles [1]"), "{name}: {said}");
    }
}

#[test]
fn every_option_of_stock_is_known() {
    if cannot_run(false) {
        return;
    }
    let help = Command::new("openvpn").arg("--help").output().unwrap();
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    let mut count = 0;
    for line in help.lines().filter_map(|line| line.strip_prefix("--")) {
        let name: String = line.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
        let Err(errors) = Profile::parse(&format!("{name}\n")) else { panic!("{name} alone is no profile") };
        let unknown = errors.problems.iter().find(|problem| problem.kind == ProblemKind::Unknown);
        assert!(unknown.is_none(), "{unknown:?}");
        count += 1;
    }
    assert!(count > 200, "only {count} options in\n{help}");
}

/// The log up to the first attempt to connect, in a network of its own.
fn run_until_trying(dir: &Path, config: &Path) -> String {
    let log = dir.join("log");
    let login = dir.join("login");
    fs::write(&login, "anna\nsecret\n").unwrap();
    fs::set_permissions(&login, fs::Permissions::from_mode(0o600)).unwrap();
    let mut command = Command::new("unshare");
    command
        .args(["--net", "sh", "-c", "ip link set lo up && exec openvpn --config \"$0\" --verb 4 \"$@\""])
        .arg(config);
    if fs::read_to_string(config).unwrap().contains("auth-user-pass") {
        command.arg("--auth-user-pass").arg(&login);
    }
    let output = File::create(&log).unwrap();
    let errors = output.try_clone().unwrap();
    let mut openvpn = Killed(command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn().unwrap());
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let ended = openvpn.0.try_wait().unwrap();
        let said = fs::read_to_string(&log).unwrap();
        if said.contains(TRYING) {
            return said;
        }
        assert!(ended.is_none(), "openvpn ended before it tried to connect:\n{said}");
        assert!(Instant::now() < deadline, "waited in vain for {TRYING:?} in\n{said}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn identities() -> (String, DeviceIdentity) {
    let params = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params
    };
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = params("authority");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let key = KeyPair::generate().unwrap();
    let cert_pem = params("phone").signed_by(&key, &Issuer::new(ca, &ca_key)).unwrap().pem();
    (ca_pem, DeviceIdentity { cert_pem, key_pem: key.serialize_pem().into() })
}

fn tls_crypt_v2_key(dir: &Path) -> String {
    generated(dir, &["--genkey", "tls-crypt-v2-server"], "server.key");
    let server = dir.join("server.key");
    generated(dir, &["--tls-crypt-v2", server.to_str().unwrap(), "--genkey", "tls-crypt-v2-client"], "client.key")
}

fn generated(dir: &Path, args: &[&str], file: &str) -> String {
    let path = dir.join(file);
    let output = Command::new("openvpn").args(args).arg(&path).output().unwrap();
    fs::read_to_string(&path).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stdout)))
}

fn cannot_run(with_namespace: bool) -> bool {
    let succeeds = |program: &str, args: &[&str]| {
        Command::new(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    };
    let namespace = || {
        let tried =
            Command::new("unshare").args(["--net", "ip", "link", "set", "lo", "up"]).stderr(Stdio::null()).status();
        tried.is_ok_and(|status| status.success())
    };
    let reason = if !succeeds("openvpn", &["--version"]) {
        "no openvpn installed"
    } else if with_namespace && !namespace() {
        "no network namespace can be made"
    } else {
        return false;
    };
    lab::capability::skip(reason);
    true
}
