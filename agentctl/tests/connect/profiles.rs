//! Profiles as people have them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::support::{Lab, SERVER, cannot_run};

/// The samples of the crate that reads profiles: each is taken or refused, and says why.
#[test]
fn samples_are_taken_or_refused_with_their_lines() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/profile/tests/samples");
    let dir = tempfile::tempdir().unwrap();
    for kind in ["valid", "invalid"] {
        for entry in fs::read_dir(samples.join(kind)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "ovpn") {
                continue;
            }
            // Beside it nothing that it names.
            let copy = dir.path().join(path.file_name().unwrap());
            fs::copy(&path, &copy).unwrap();
            let output =
                Command::new(env!("CARGO_BIN_EXE_agentctl")).args(["connect", "--check"]).arg(&copy).output().unwrap();
            let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            match output.status.code() {
                Some(0) => {
                    assert_eq!(kind, "valid", "{path:?}: {out}");
                    assert!(out.contains("can be used\nserver "), "{path:?}: {out}");
                }
                Some(64) => assert!(err.contains("cannot be used") && err.contains("next: "), "{path:?}: {err}"),
                other => panic!("{path:?}: {other:?} {err}"),
            }
        }
    }
}

#[test]
fn what_stands_in_the_way_is_told_at_once_with_lines() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.ovpn");
    fs::write(&path, "client\ndev tap\nremote vpn.example.net\nup ./run.sh\nca missing.pem\nfrobnicate 1\n").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_agentctl")).args(["connect", "--check"]).arg(&path).output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{err}");
    for line in ["line 2: 'dev' unsupported", "line 4: 'up' refused", "line 6: 'frobnicate' unknown"] {
        assert!(err.contains(line), "{line} in\n{err}");
    }
}

/// With its own file names, comments, quotes, CRLF and a byte order mark; keys in files beside it.
#[test]
fn tls_auth_with_a_direction_from_a_windows_editor() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    stock_key(&lab, &["secret", &lab.path("ta.key")]);
    lab.serve(&["--topology", "subnet", "--tls-auth", &lab.path("ta.key"), "0", "--auth", "SHA256"], &[]);
    let text = format!(
        "\u{feff}# from work\nclient\ndev tun7\nremote {SERVER} 1194 udp ; the office\nnobind\nca ca.pem\n\
         cert \"client.pem\"\nkey 'client.key'\ntls-auth ta.key\nkey-direction 1\nauth SHA256\n\
         remote-cert-tls server\nverify-x509-name server name\nresolv-retry infinite\npersist-key\nverb 3\n"
    );
    fs::write(lab.path("work.ovpn"), text.replace('\n', "\r\n")).unwrap();
    lab.connect(&lab.path("work.ovpn"), &[]);
    assert!(lab.on_host("ping -n -q -c 1 -W 2 10.8.0.1").status.success());
    assert_eq!(lab.end("client.log", Signal::SIGTERM), Some(0));
}

/// A phone's: everything in blocks, a key of its own.
#[test]
fn tls_crypt_v2_in_blocks() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    stock_key(&lab, &["tls-crypt-v2-server", &lab.path("v2s.key")]);
    let server = lab.path("v2s.key");
    let made = Command::new("openvpn")
        .args(["--tls-crypt-v2", &server, "--genkey", "tls-crypt-v2-client", &lab.path("v2c.key")])
        .output()
        .unwrap();
    assert!(made.status.success());
    lab.serve(&["--topology", "subnet", "--tls-crypt-v2", &server], &[]);
    let lines = format!(
        "proto udp\nremote {SERVER} 1194 tcp\nresolv-retry infinite\npersist-tun\nverify-x509-name server name\n\
         tls-version-min 1.2\ndata-ciphers AES-256-GCM:AES-128-GCM:CHACHA20-POLY1305\nauth-nocache\nverb 3\n\
         <tls-crypt-v2>\n{}</tls-crypt-v2>",
        lab.read("v2c.key")
    );
    let profile = lab.profile("phone.ovpn", &lines);
    lab.connect(&profile, &[]);
    assert!(lab.on_host("ping -n -q -c 1 -W 2 10.8.0.1").status.success());
    assert_eq!(lab.end("client.log", Signal::SIGTERM), Some(0));
}

/// The first place does not answer.
#[test]
fn connection_blocks_in_their_order() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    lab.serve(&["--topology", "subnet"], &[]);
    let lines = format!(
        "<connection>\nremote {SERVER} 1999 udp\n</connection>\n<connection>\nremote {SERVER} 1194\nproto udp\n\
         explicit-exit-notify 2\n</connection>"
    );
    let profile = lab.profile("two.ovpn", &lines);
    lab.connect(&profile, &[]);
    let log = lab.read("client.log");
    assert!(log.contains(&format!("no connection to {SERVER}:1999")), "{log}");
    assert_eq!(lab.end("client.log", Signal::SIGTERM), Some(0));
}

/// Only a password, from the profile's own file, and a wrong one that ends it.
#[test]
fn a_password_without_a_certificate() {
    if cannot_run() {
        return;
    }
    let mut lab = Lab::new();
    let check = lab.path("check.sh");
    fs::write(&check, "#!/bin/sh\n[ \"$username\" = anna ] && [ \"$password\" = 's3cret #1' ]\n").unwrap();
    fs::set_permissions(&check, fs::Permissions::from_mode(0o755)).unwrap();
    let words = ["--topology", "subnet", "--script-security", "3", "--verify-client-cert", "none"];
    lab.serve(&[&words[..], &["--auth-user-pass-verify", &check, "via-env"]].concat(), &[]);
    let profile = format!(
        "client\ndev tun7\nremote {SERVER} 1194\nnobind\nremote-cert-tls server\nauth-user-pass login.txt\n\
         setenv CLIENT_CERT 0\n<ca>\n{}</ca>\n",
        lab.read("ca.pem")
    );
    fs::write(lab.path("login.txt"), "anna\ns3cret #1\n").unwrap();
    fs::write(lab.path("work.ovpn"), profile).unwrap();
    lab.connect(&lab.path("work.ovpn"), &[]);
    assert!(lab.on_host("ping -n -q -c 1 -W 2 10.8.0.1").status.success());
    assert_eq!(lab.end("client.log", Signal::SIGTERM), Some(0));

    fs::write(lab.path("wrong.txt"), "anna\nguessed\n").unwrap();
    lab.start(&lab.path("work.ovpn"), &["--login", &lab.path("wrong.txt")]);
    assert_eq!(lab.wait_end("client.log"), Some(1), "it does not try again");
    let log = lab.read("client.log");
    assert!(log.contains("refused") && log.contains("next: check"), "{log}");
    assert!(!log.contains("guessed"), "{log}");
}

fn stock_key(lab: &Lab, words: &[&str]) {
    let output = Command::new("openvpn").arg("--genkey").args(words).current_dir(lab.path("")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
