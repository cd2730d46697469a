//! The Debian packages that building and testing need, and their installation.

use std::env;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::unistd::Uid;

/// How to see that a package's content is there, whoever put it there: a machine may have its engine from Docker's own
/// packages, which would conflict with Debian's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// A program of this name on the search path.
    Program(&'static str),
    /// A file at this path.
    File(&'static str),
}

/// A Debian package and what it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Package {
    /// Its name in Debian.
    pub name: &'static str,
    /// What it is needed for, to complete "needed to …".
    pub why: &'static str,
    /// What shows that it need not be installed.
    pub probe: Probe,
}

const fn program(name: &'static str, program: &'static str, why: &'static str) -> Package {
    Package { name, why, probe: Probe::Program(program) }
}

const fn file(name: &'static str, path: &'static str, why: &'static str) -> Package {
    Package { name, why, probe: Probe::File(path) }
}

/// To build what this workspace ships.
pub const BUILD: &[Package] = &[
    program("gcc", "cc", "compile and link"),
    file("libc6-dev", "/usr/include/stdio.h", "compile and link"),
    file("libssl-dev", "/usr/include/openssl/ssl.h", "build the tunnel's TLS"),
    program("pkg-config", "pkg-config", "find the system's OpenSSL when building"),
];

/// To make Debian packages.
pub const PACKAGE: &[Package] = &[
    program("dpkg-dev", "dpkg-shlibdeps", "find out which packages our programs need"),
    program("binutils", "strip", "leave debugging symbols out of packages"),
];

/// To run a lab.
pub const LAB: &[Package] = &[
    program("iproute2", "ip", "lay the lab's network"),
    program("nftables", "nft", "set up NAT in the lab's routers"),
    program("dnsmasq-base", "dnsmasq", "serve names in the lab"),
    program("pebble", "pebble", "issue certificates in the lab by ACME"),
    program("openssl", "openssl", "make the lab's own authority"),
    program("curl", "curl", "be the lab's visitor"),
    program("socat", "socat", "be a plain server in the lab"),
    file("ca-certificates", "/etc/ssl/certs/ca-certificates.crt", "check certificates as a visitor does"),
    program("iptables", "iptables", "let Docker publish ports in the lab"),
    program("docker.io", "dockerd", "give every host of the lab its own engine"),
];

/// To build the images where no registry can be reached.
pub const IMAGES: &[Package] = &[
    program("mmdebstrap", "mmdebstrap", "build images from Debian's packages"),
    program("npm", "npm", "build Ghost's image from npm's packages"),
    program("g++", "g++", "compile what Ghost's image needs"),
    program("make", "make", "compile what Ghost's image needs"),
    program("python3", "python3", "compile what Ghost's image needs"),
];

/// To test the parts against the originals they work with.
pub const TESTS: &[Package] = &[
    program("openvpn", "openvpn", "be the other end of the tunnel in the interoperability tests"),
    program("busybox-static", "busybox", "be the content of a tiny container image"),
    program("iputils-ping", "ping", "send packets through the tunnel"),
    program("ethtool", "ethtool", "switch a wire's offloads off"),
    program("e2fsprogs", "mkfs.ext4", "make a disk that can be full"),
    program("docker-registry", "docker-registry", "give out images in the lab"),
    program("python3-aiosmtpd", "aiosmtpd", "take the mail that services send"),
    program("wrk", "wrk", "put Caddy under load"),
    program("rclone", "rclone", "keep files alike by WebDAV"),
    file("bind9", "/usr/sbin/named", "be a name server that takes dynamic updates"),
    program("bind9-dnsutils", "nsupdate", "change a zone by a command"),
    program("prometheus", "prometheus", "read the metrics, and check them and the alerts by its promtool"),
];

/// To measure tunnels side by side.
pub const BENCH: &[Package] = &[
    program("iproute2", "ip", "lay the cable between the two hosts"),
    program("ethtool", "ethtool", "switch the cable's offloads off"),
    program("iperf3", "iperf3", "measure throughput"),
    program("iputils-ping", "ping", "measure round trips"),
    program("tcpdump", "tcpdump", "see how large the packets on the cable are"),
    program("openvpn", "openvpn", "be measured beside our tunnel"),
    program("wireguard-tools", "wg", "set up boringtun, which is measured beside our tunnel"),
    program("mmdebstrap", "mmdebstrap", "unpack newer programs to measure than this Debian's"),
    program("nghttp2-client", "h2load", "measure how long answers take"),
];

/// Those of `packages` that are not there.
pub fn missing<'a>(packages: impl IntoIterator<Item = &'a Package>) -> Vec<&'a Package> {
    packages.into_iter().filter(|package| !package.probe.holds()).collect()
}

/// Installs those of `packages` that are missing, from the machine's own Debian sources. First says what and why through
/// `say`, a line each. No service is started: not by systemd (`SYSTEMD_OFFLINE`), nor by another init (`RUNLEVEL`).
///
/// # Errors
/// When something is missing and this is not root, or not Debian, or `apt-get` fails: the error names the packages and
/// what to do.
pub fn ensure<'a>(packages: impl IntoIterator<Item = &'a Package>, say: &mut dyn FnMut(&str)) -> Result<()> {
    let missing = missing(packages);
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    let list = names.join(" ");
    if !Uid::effective().is_root() {
        bail!(
            "these Debian packages are missing: {list}; run this again as root or with sudo, or install them yourself"
        );
    }
    if !on_path("apt-get") {
        bail!("these Debian packages are missing: {list}; this machine has no apt-get, so install their like yourself");
    }
    say("Installing from this machine's Debian sources (no service is started now):");
    for package in &missing {
        say(&format!("  {:<16} to {}", package.name, package.why));
    }
    apt_get(&["update", "--quiet"], &list)?;
    let install = ["install", "--yes", "--quiet", "--no-install-recommends"];
    apt_get(&[&install[..], &names].concat(), &list)?;
    let still: Vec<&str> = missing.iter().filter(|p| !p.probe.holds()).map(|p| p.name).collect();
    if !still.is_empty() {
        bail!(
            "apt-get installed {} but what is needed of it was not found; look at `dpkg --listfiles {}`",
            still.join(" "),
            still.join(" ")
        );
    }
    Ok(())
}

fn apt_get(arguments: &[&str], packages: &str) -> Result<()> {
    let output = Command::new("apt-get")
        .args(arguments)
        .envs([("DEBIAN_FRONTEND", "noninteractive"), ("SYSTEMD_OFFLINE", "1"), ("RUNLEVEL", "1")])
        .output()
        .context("run apt-get")?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`apt-get {}` ended with {}:\n{}\nThe packages {packages} are needed: mend the cause (sources in /etc/apt, \
             network, another apt running) or install them yourself, then run this again",
            arguments.join(" "),
            output.status,
            stderr.trim()
        );
    }
    Ok(())
}

impl Probe {
    fn holds(self) -> bool {
        match self {
            Self::Program(name) => on_path(name),
            Self::File(path) => Path::new(path).exists(),
        }
    }
}

/// Whether a program is on the search path or in the directories for root's programs, which sudo adds.
fn on_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(Into::into);
    env::split_paths(&path).chain(usual).any(|dir| dir.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    const THERE: Package = program("dash", "sh", "run scripts");
    const NOT_THERE: Package = program("no-such-package", "no-such-program", "fail");

    #[test]
    fn finds_what_is_missing() {
        assert_eq!(missing(&[THERE, NOT_THERE, file("x", "/no/such/file", "fail")]).len(), 2);
    }

    #[test]
    fn says_nothing_when_all_is_there() {
        ensure(&[THERE], &mut |line| panic!("{line}")).unwrap();
    }

    #[test]
    fn names_the_package_and_the_next_step() {
        // Not as root: that would ask the network.
        if Uid::effective().is_root() {
            return;
        }
        let error = ensure(&[NOT_THERE], &mut |_| {}).unwrap_err().to_string();
        assert!(error.contains("no-such-package") && error.contains("sudo"), "{error}");
    }
}
