//! Wrong configuration stops either daemon before it binds or changes anything: exit code 64, and one line that names
//! the file, the line, the key, the reason and the valid choices. No lab is needed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use e2e::{Binaries, identity};
use model::Role;
use pki::{Ca, Validity};

const BAD: i32 = 64;

struct Fixture {
    dir: tempfile::TempDir,
    binaries: Binaries,
}

struct Outcome {
    code: Option<i32>,
    text: String,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::generate("test", Validity::from_now(Validity::CA)).unwrap();
        for (role, name) in [(Role::Edge, "vps"), (Role::Home, "attic")] {
            let identity = identity(&ca, role, name, Validity::from_now(Validity::LEAF)).unwrap();
            identity.save(&dir.path().join(role.as_str())).unwrap();
        }
        Self { dir, binaries: Binaries::beside_this_one().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn edge(&self) -> String {
        format!(
            "domain = \"example.test\"\nidentity_dir = {:?}\nstate_dir = {:?}\n\n[tunnel]\nmode = \"listen\"\n\
             listen = \"127.0.0.1:1194\"\npeer = \"attic\"\n\n[metrics]\nlisten = \"127.0.0.1:9586\"\n\n\
             [ingress]\nemail = \"owner@example.test\"\n",
            self.path("edge"),
            self.path("state"),
        )
    }

    fn home(&self) -> String {
        format!(
            "identity_dir = {:?}\nstate_dir = {:?}\n\n[tunnel]\nmode = \"dial\"\nremotes = [\"vps.example.test:1194\"]\n\
             peer = \"vps\"\n\n[services.nextcloud]\nkind = \"nextcloud\"\nhostname = \"cloud\"\nport = 8080\n",
            self.path("home"),
            self.path("state"),
        )
    }

    fn run(&self, program: &str, config: &Path, more: &[&str]) -> Outcome {
        // A daemon that starts after all would run on: it must not.
        let output = Command::new("timeout")
            .args(["--kill-after=1", &Duration::from_secs(10).as_secs().to_string()])
            .arg(self.binaries.path(program))
            .arg("--config")
            .arg(config)
            .args(more)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        Outcome { code: output.status.code(), text }
    }

    /// Runs with `from` replaced by `to` in the program's configuration.
    fn changed(&self, program: &str, from: &str, to: &str) -> Outcome {
        let config = if program == "edge-agent" { self.edge() } else { self.home() };
        assert!(config.contains(from), "{from} is not in the configuration");
        let file = self.path("agent.toml");
        fs::write(&file, config.replacen(from, to, 1)).unwrap();
        self.run(program, &file, &[])
    }

    /// The outcome must be bad, on one line, with all of `fragments`, and leave nothing behind.
    fn refuses(&self, program: &str, from: &str, to: &str, fragments: &[&str]) {
        let outcome = self.changed(program, from, to);
        assert_eq!(outcome.code, Some(BAD), "{to:?}: {}", outcome.text);
        assert!(outcome.text.contains("agent.toml"), "{to:?} does not name the file: {}", outcome.text);
        for fragment in fragments {
            assert!(outcome.text.contains(fragment), "{to:?}: no {fragment:?} in: {}", outcome.text);
        }
        assert!(!self.path("state").exists(), "{to:?} left state behind");
    }
}

#[test]
fn good_configurations_are_good() {
    let fixture = Fixture::new();
    for (program, config) in [("edge-agent", fixture.edge()), ("home-agent", fixture.home())] {
        let file = fixture.path("good.toml");
        fs::write(&file, config).unwrap();
        for more in
            [&["--check"][..], &["--check", "--set", "tunnel.mtu=1400"], &["--check", "--set", "tunnel.mtu=auto"]]
        {
            let outcome = fixture.run(program, &file, more);
            assert_eq!(outcome.code, Some(0), "{}", outcome.text);
        }
    }
}

#[test]
fn the_shipped_examples_are_good() {
    let fixture = Fixture::new();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../systemd");
    for (program, name, identity) in [("edge-agent", "edge.toml", "edge"), ("home-agent", "home.toml", "home")] {
        let identity = format!("identity_dir={}", fixture.path(identity).display());
        let outcome = fixture.run(program, &shipped.join(name), &["--check", "--set", &identity]);
        assert_eq!(outcome.code, Some(0), "{name}: {}", outcome.text);
    }
}

#[test]
fn unknown_keys_are_named_with_line_and_choices() {
    let fixture = Fixture::new();
    let edge = "edge-agent";
    fixture.refuses(edge, "peer = ", "peeer = ", &["agent.toml:8: tunnel.peeer", "unknown field", "`peer`"]);
    fixture.refuses(edge, "[metrics]", "[metricss]", &[":10: metricss", "unknown field", "`metrics`"]);
    fixture.refuses("home-agent", "port = ", "prot = ", &["services.nextcloud.prot", "unknown field", "`port`"]);
}

#[test]
fn wrong_types_and_choices_are_named() {
    let fixture = Fixture::new();
    fixture.refuses("home-agent", "port = 8080", "port = \"web\"", &["services.nextcloud.port", ":12:"]);
    fixture.refuses("home-agent", "port = 8080", "port = 70000", &["services.nextcloud.port", ":12:", "70000"]);
    fixture.refuses("edge-agent", "\"listen\"\n", "\"both\"\n", &[":6: tunnel.mode", "both", "`listen`", "`dial`"]);
    fixture.refuses("home-agent", "\"nextcloud\"", "\"owncloud\"", &["services.nextcloud.kind", "`nextcloud`"]);
    fixture.refuses("edge-agent", "[tunnel]", "[tunnel", &[":5"]);
}

#[test]
fn impossible_values_are_named() {
    let fixture = Fixture::new();
    let edge = |from: &str, to: &str, fragments: &[&str]| fixture.refuses("edge-agent", from, to, fragments);
    edge("example.test\"\ni", "example\"\ni", &[":1: domain", "cloud.example.com"]);
    edge("127.0.0.1:1194", "127.0.0.1", &[":7: tunnel.listen", "ADDRESS:PORT"]);
    edge("127.0.0.1:1194", "127.0.0.1:0", &["tunnel.listen", "1 to 65535"]);
    edge("127.0.0.1:9586", "0.0.0.0:9586", &[":11: metrics.listen", "everybody"]);
    edge("peer = ", "subnet = \"8.8.8.0/24\"\npeer = ", &["tunnel.subnet", "private"]);
    edge("peer = ", "subnet = \"10.86.0.0/30\"\npeer = ", &["tunnel.subnet", "/29"]);
    edge(
        "peer = ",
        "data_ciphers = [\"BF-CBC\"]\npeer = ",
        &["tunnel.data_ciphers", "AES-256-GCM", "CHACHA20-POLY1305"],
    );
    edge("peer = ", "tls_version_min = \"1.1\"\npeer = ", &["tunnel.tls_version_min", "1.2", "1.3"]);
    edge("peer = ", "mtu = 1200\npeer = ", &["tunnel.mtu", "\"auto\"", "1280", "9000"]);
    edge("peer = ", "mtu = \"automatic\"\npeer = ", &["tunnel.mtu", "automatic", "\"auto\""]);
    edge("peer = ", "mtu = [1400]\npeer = ", &["tunnel.mtu", "\"auto\" or a number of bytes"]);
    edge("peer = ", "crl = \"crl.pem\"\npeer = ", &["tunnel.crl", "absolute"]);
    edge("peer = ", "crl = \"/nonexistent/crl.pem\"\npeer = ", &["tunnel.crl", "/nonexistent/crl.pem", "No such file"]);
    edge("peer = ", "crl = \"/etc/passwd\"\npeer = ", &["tunnel.crl", "no PEM list"]);
    edge("peer = ", "remotes = [\"a:1\"]\npeer = ", &["tunnel.remotes", "dial"]);
    edge("owner@example.test", "owner", &["ingress.email", "mail address"]);
    edge("peer = \"attic\"", "peer = \"The Attic\"", &[":8: tunnel.peer", "a-z"]);
    fixture.refuses("home-agent", "\"vps.example.test:1194\"", "\"vps\"", &["tunnel.remotes", "HOST:PORT"]);
    fixture.refuses("home-agent", "\"cloud\"", "\"my cloud\"", &["services.nextcloud.hostname"]);
    let home = |to: &str, fragments: &[&str]| fixture.refuses("home-agent", "port = 8080\n", to, fragments);
    home("titel = \"x\"\n", &[":12: services.nextcloud.titel", "`title`"]);
    home("title = \"x\"\n", &[":12: services.nextcloud.title", "no key of kind = \"nextcloud\"", "phone_region"]);
    home("database = { kind = \"oracle\" }\n", &[":12: services.nextcloud.database.kind", "postgresql"]);
    home("[services.blog]\nkind = \"ghost\"\n", &[":12: services.blog.owner_email", "missing"]);
    home("[services.vault]\nkind = \"container\"\n", &[":12: services.vault.port", "missing"]);
    edge("[metrics]", "[services.blog]\nkind = \"ghost\"\nport = 0\n[metrics]", &["services.blog.port", "1 to 65535"]);
}

#[test]
fn missing_keys_and_files_are_named() {
    let fixture = Fixture::new();
    fixture.refuses("edge-agent", "peer = \"attic\"\n", "", &["tunnel", "missing field `peer`"]);
    let gone = fixture.run("edge-agent", Path::new("/nonexistent/edge.toml"), &[]);
    assert_eq!(gone.code, Some(BAD));
    assert!(gone.text.contains("/nonexistent/edge.toml: no such file"), "{}", gone.text);

    let wrong = fixture.path("home").display().to_string();
    let right = fixture.path("edge").display().to_string();
    fixture.refuses("edge-agent", &right, &wrong, &[":2: identity_dir", "cloudathome://home/attic", "edge"]);
    fixture.refuses("edge-agent", &right, "/nonexistent", &["identity_dir", "/nonexistent/ca.crt"]);
    fs::write(fixture.path("edge/host.key"), "not a key").unwrap();
    fixture.refuses("edge-agent", "[metrics]", "[metrics]", &["identity_dir", "host.key"]);
}

#[test]
fn environment_and_flags_override_and_are_blamed_when_wrong() {
    let fixture = Fixture::new();
    let file = fixture.path("agent.toml");
    fs::write(&file, fixture.edge()).unwrap();
    let outcome = fixture.run("edge-agent", &file, &["--check", "--set", "tunnel.mode=sideways"]);
    assert_eq!(outcome.code, Some(BAD));
    assert!(outcome.text.contains("sideways") && outcome.text.contains("--set"), "{}", outcome.text);

    let output = Command::new(fixture.binaries.path("edge-agent"))
        .args(["--check", "--config"])
        .arg(&file)
        .env("CLOUDATHOME_EDGE__TUNNEL__LISTEN", "nowhere")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(BAD));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("nowhere") && text.contains("tunnel.listen"), "{text}");
}
