//! The programs that are measured.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use lab::Peers;

use super::bed::Bed;
use super::paths::{self, End, Kind, WireGuard};
use crate::cargo;

const BORINGTUN: &str = "0.7.1";
const CACHE: &str = "/var/cache/cloudathome";
/// See `ovpn`'s data channel.
const NULL_CIPHER: &str = r#"build.rustflags=["--cfg", "null_cipher"]"#;
const WIREGUARD: &str = include_str!("wireguard.sh");

/// All that a run needs, built or unpacked.
pub(crate) struct Programs {
    pub(crate) ours: PathBuf,
    /// There only if a path needs it.
    pub(crate) ours_null: PathBuf,
    pub(crate) sid: Option<Peers>,
    boringtun: Option<PathBuf>,
}

impl Programs {
    /// Builds ours and provides the others that `paths` need. `progress` hears what is waited for.
    pub(crate) fn provide(paths: &[paths::Path], progress: &mut dyn FnMut(&str)) -> Result<Self> {
        progress("building our peer");
        let target = cargo::workspace().join("target");
        let ours = build("peer", &target, &[])?;
        let mut ours_null = PathBuf::new();
        let any = |needs: &dyn Fn(&Kind) -> bool| paths.iter().any(|path| needs(&path.kind));
        if any(&|kind| matches!(kind, Kind::OpenVpn { left: End::OursNull, .. })) {
            progress("building our peer without encryption");
            // In a directory of its own: either build would throw out the other's work.
            ours_null = build("peer", &target.join("null-cipher"), &["--config", NULL_CIPHER])?;
        }
        let newest = |kind: &Kind| match kind {
            Kind::OpenVpn { left, right, .. } => [left, right].contains(&&End::Stock27),
            Kind::WireGuard(which) => *which == WireGuard::Go,
            Kind::Bare | Kind::Given { .. } => false,
        };
        Ok(Self {
            ours,
            ours_null,
            sid: any(&newest).then(|| Peers::provide(progress)).transpose()?,
            boringtun: any(&|kind| matches!(kind, Kind::WireGuard(WireGuard::Boring)))
                .then(|| boringtun(progress))
                .transpose()?,
        })
    }
}

/// Builds an example of the tunnel into `target`, whatever directory the environment or cargo's configuration names.
/// Returns the program.
///
/// # Errors
/// When cargo fails.
pub(crate) fn build(example: &str, target: &Path, options: &[&str]) -> Result<PathBuf> {
    let dir = target.display().to_string();
    let arguments = ["build", "--release", "-p", "tunnel", "--example", example, "--target-dir", &dir];
    cargo::run_without_flags(&[&arguments, options].concat())?;
    Ok(target.join("release/examples").join(example))
}

impl Programs {
    /// A program that takes the options of `openvpn` 2.7.
    ///
    /// # Errors
    /// When it is not there, or cannot be made ready for `bed`.
    pub(crate) fn openvpn_2_7(&self, bed: &Bed) -> Result<String> {
        Ok(self.sid()?.openvpn(&bed.dir())?.display().to_string())
    }

    /// A program that runs a WireGuard as the device that is its first argument, by the configuration that is its second.
    ///
    /// # Errors
    /// As [`Programs::openvpn_2_7`].
    pub(crate) fn wireguard(&self, which: WireGuard, bed: &Bed) -> Result<Vec<String>> {
        match which {
            WireGuard::Go => {
                let text = WIREGUARD.replace("@PROGRAM@", "wireguard-go");
                Ok(vec![self.sid()?.shell(&bed.dir(), "wireguard-go", &text)?.display().to_string()])
            }
            WireGuard::Boring => {
                let program = self.boringtun.as_ref().context("boringtun was not built")?;
                let program = format!("{} --disable-drop-privileges", program.display());
                let script = bed.file("boringtun.sh");
                fs::write(&script, WIREGUARD.replace("@PROGRAM@", &program))?;
                Ok(vec!["sh".to_owned(), script])
            }
        }
    }

    fn sid(&self) -> Result<&Peers> {
        self.sid.as_ref().context("sid's programs were not unpacked")
    }

    /// What is measured and with what, for people: name and version.
    pub(crate) fn versions(&self) -> Vec<(String, String)> {
        let mut versions = vec![("ours".to_owned(), said("git", &["describe", "--always", "--dirty"]))];
        for (name, arguments) in [("openvpn", ["--version"]), ("iperf3", ["--version"]), ("wg", ["--version"])] {
            versions.push((name.to_owned(), said(name, &arguments)));
        }
        if self.boringtun.is_some() {
            versions.push(("boringtun-cli".to_owned(), BORINGTUN.to_owned()));
        }
        if let Some(sid) = &self.sid {
            let status = fs::read_to_string(sid.root().join("var/lib/dpkg/status")).unwrap_or_default();
            for name in ["openvpn", "wireguard-go"] {
                versions.push((format!("sid's {name}"), installed(&status, name).unwrap_or("unknown").to_owned()));
            }
        }
        versions
    }
}

/// The first line that a program says, run in the workspace.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(cargo::workspace()).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}

/// The version of a package by dpkg's `status`.
fn installed<'a>(status: &'a str, package: &str) -> Option<&'a str> {
    let mut lines = status.lines().skip_while(|line| line.strip_prefix("Package: ") != Some(package));
    lines.find_map(|line| line.strip_prefix("Version: "))
}

/// Cloudflare's WireGuard from crates.io, built once.
fn boringtun(progress: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    let root = Path::new(CACHE).join(format!("boringtun-{BORINGTUN}"));
    let program = root.join("bin/boringtun-cli");
    if !program.exists() {
        progress(&format!("building boringtun {BORINGTUN} from crates.io, once"));
        let version = format!("boringtun-cli@{BORINGTUN}");
        cargo::run_without_flags(&["install", "--locked", "--quiet", &version, "--root", &root.display().to_string()])?;
    }
    Ok(program)
}
