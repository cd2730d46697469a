//! What a package holds, and that it is made the same way twice. Its life on a host is `tests/e2e/tests/hosts.rs`.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use packaging::{Plan, Role};

/// Stands in for an agentctl that makes pages and completions.
const AGENTCTL: &str =
    "#!/bin/sh\nif [ \"$1\" = man ]; then echo page >\"$3/agentctl.1\"; else echo \"completions $2\"; fi\n";

/// Programs that Debian has, in place of ours, in `dir`; packages go below it, too.
fn make(dir: &Path, out: &str) -> Vec<PathBuf> {
    for name in ["edge-agent", "home-agent", "agentctl"] {
        fs::copy("/bin/true", dir.join(name)).unwrap();
    }
    let agentctl = dir.join("stand-in");
    fs::write(&agentctl, AGENTCTL).unwrap();
    fs::set_permissions(&agentctl, fs::Permissions::from_mode(0o755)).unwrap();
    let plan = Plan {
        workspace: Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap(),
        programs: dir,
        agentctl: &agentctl,
        version: "1.2.3",
        architecture: "amd64",
        date: 1_700_000_000,
        fast: true,
    };
    let out = dir.join(out);
    let deb = Role::ALL.map(|role| packaging::deb(&plan, role, &out).unwrap());
    let tarball = Role::ALL.map(|role| packaging::tarball(&plan, role, &out).unwrap());
    [deb, tarball].concat()
}

fn told(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn packages_hold_what_a_host_needs_and_come_out_the_same() {
    if ["dpkg-deb", "dpkg-shlibdeps", "strip"].iter().any(|tool| Command::new(tool).arg("--version").output().is_err())
    {
        lab::capability::skip("Debian's tools for packages are not there (dpkg-dev, binutils)");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let first = make(dir.path(), "first");
    for (one, other) in first.iter().zip(make(dir.path(), "second")) {
        assert_eq!(fs::read(one).unwrap(), fs::read(&other).unwrap(), "{}", one.display());
    }

    let edge = told(Command::new("dpkg-deb").arg("--contents").arg(&first[0]));
    let line =
        |path: &str| edge.lines().find(|line| line.ends_with(path)).unwrap_or_else(|| panic!("{path} in {edge}"));
    for path in ["./usr/bin/edge-agent", "./usr/bin/agentctl"] {
        assert!(line(path).starts_with("-rwxr-xr-x root/root"), "{}", line(path));
    }
    assert!(line("./etc/cloudathome/").starts_with("drwx------ root/root"), "{}", line("./etc/cloudathome/"));
    for path in [
        "./usr/lib/systemd/system/cloudathome-edge.service",
        "./usr/lib/sysctl.d/60-cloudathome-edge.conf",
        "./usr/share/man/man1/agentctl.1.gz",
        "./usr/share/man/man8/edge-agent.8.gz",
        "./usr/share/bash-completion/completions/agentctl",
        "./usr/share/doc/cloudathome-edge/examples/edge.toml",
        "./usr/share/doc/cloudathome-edge/copyright",
    ] {
        assert!(line(path).starts_with("-rw-r--r-- root/root"), "{}", line(path));
    }
    assert!(!edge.contains("home-agent") && !edge.contains("cloudathome-home"), "{edge}");

    let fields = told(Command::new("dpkg-deb").arg("--field").arg(&first[1]));
    for field in ["Package: cloudathome-home", "Version: 1.2.3", "Conflicts: cloudathome-edge", "nftables", "libc6 (>="]
    {
        assert!(fields.contains(field), "{field} in {fields}");
    }
    let tarball = told(Command::new("tar").args(["--list", "--file"]).arg(&first[3]));
    for path in ["install.sh", "root/usr/bin/home-agent"] {
        assert!(tarball.contains(&format!("cloudathome-home-1.2.3-amd64/{path}\n")), "{path} in {tarball}");
    }
    // No word is left to be filled in.
    let scripts = dir.path().join("scripts");
    told(Command::new("dpkg-deb").arg("--control").arg(&first[0]).arg(&scripts));
    for script in ["preinst", "postinst", "prerm", "postrm"] {
        let text = fs::read_to_string(scripts.join(script)).unwrap();
        assert!(!text.contains('@'), "{text}");
        told(Command::new("sh").arg("-n").arg(scripts.join(script)));
    }
}
