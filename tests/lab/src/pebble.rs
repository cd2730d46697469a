//! The lab's certificate authority: Debian's pebble, an ACME server made for tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::http::Http;
use crate::lab::Lab;
use crate::process::Process;
use crate::topology::{self, INTERNET};

const START_LIMIT: Duration = Duration::from_secs(20);
const NAME: &str = "acme.test";
const PORT: u16 = 14000;
const MANAGEMENT_PORT: u16 = 15000;

/// The profile of the two certificates with which the ACME server itself is reached.
const OPENSSL_CONFIG: &str = "[req]
distinguished_name = subject
[subject]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = DNS:acme.test
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
";

/// A running ACME server at `acme.test` in the host `internet`. It validates by HTTP-01 on port 80 and TLS-ALPN-01 on
/// port 443, as Let's Encrypt does, with the lab's names, and never reuses an authorisation: every order is a proof.
#[derive(Debug)]
pub struct Pebble {
    api_root: PathBuf,
    issuing_root: PathBuf,
    _process: Process,
}

impl Pebble {
    /// Starts the server and waits until it answers.
    ///
    /// # Errors
    /// When it does not answer in time, or `openssl` or `pebble` is missing.
    pub fn start(lab: &Lab) -> Result<Self> {
        let internet = lab.host("internet")?;
        let dir = internet.dir().join("pebble");
        fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        certify(&dir)?;
        let config = dir.join("pebble.json");
        let settings = json!({ "pebble": {
            "listenAddress": format!("{INTERNET}:{PORT}"),
            "managementListenAddress": format!("{INTERNET}:{MANAGEMENT_PORT}"),
            "certificate": dir.join("api.pem"),
            "privateKey": dir.join("api.key"),
            "httpPort": 80,
            "tlsPort": 443,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
        }});
        fs::write(&config, settings.to_string()).with_context(|| format!("write {}", config.display()))?;

        let mut command = internet.command("pebble");
        command.args(["-dnsserver", &format!("{INTERNET}:53"), "-config"]).arg(&config).envs([
            ("PEBBLE_AUTHZREUSE", "0"),
            ("PEBBLE_VA_NOSLEEP", "1"),
            ("PEBBLE_WFE_NONCEREJECT", "0"),
        ]);
        let mut process = internet.spawn("pebble", command)?;
        let api_root = dir.join("api-root.pem");
        let issuing_root = dir.join("issuing-root.pem");
        let client = Http::new(internet).trust(&api_root).limit(Duration::from_secs(5));
        process.wait_until("the ACME server", START_LIMIT, || {
            let url = format!("https://{NAME}:{MANAGEMENT_PORT}/roots/0");
            Ok(client.download(&url, &issuing_root)?.status == 200
                && client.get(&format!("https://{NAME}:{PORT}/dir"))?.status == 200)
        })?;
        Ok(Self { api_root, issuing_root, _process: process })
    }

    /// Where an ACME client begins.
    pub fn directory_url(&self) -> String {
        format!("https://{NAME}:{PORT}/dir")
    }

    /// PEM file an ACME client must trust to speak to the server.
    pub fn api_root(&self) -> &Path {
        &self.api_root
    }

    /// PEM file a visitor must trust: the root of the certificates issued. A new one each start.
    pub fn issuing_root(&self) -> &Path {
        &self.issuing_root
    }
}

/// An authority of the lab and the server's certificate from it: clients are to check it like any other.
fn certify(dir: &Path) -> Result<()> {
    fs::write(dir.join("openssl.cnf"), OPENSSL_CONFIG).with_context(|| format!("write to {}", dir.display()))?;
    let request = |profile: &str, subject: &str, name: &str, certificate: &str| {
        let mut openssl = Command::new("openssl");
        openssl
            .current_dir(dir)
            .args(["req", "-x509", "-config", "openssl.cnf", "-extensions", profile, "-subj", subject, "-days", "30"])
            .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"])
            .args(["-keyout", &format!("{name}.key"), "-out", certificate]);
        openssl
    };
    let doing = "make the ACME server's certificate";
    topology::run(request("authority", "/CN=CloudAtHome lab ACME API", "api-root", "api-root.pem"), doing)?;
    let mut server = request("server", "/CN=acme.test", "api", "api.pem");
    server.args(["-CA", "api-root.pem", "-CAkey", "api-root.key"]);
    topology::run(server, doing)
}
