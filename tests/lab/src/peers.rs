//! Peers that this machine's own Debian does not have, in a root of sid: OpenVPN 2.7, the OpenVPN 3 client for Linux,
//! NetworkManager's reader of profiles, WireGuard in user space, and a `curl` that speaks HTTP/3.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::debian_root::{Root, SID};

const CACHE: &str = "/var/cache/cloudathome/peers";
/// OpenVPN 3 is a set of services on a message bus and asks another one, of systemd, what system this is.
const PACKAGES: &str =
    "openvpn,openvpn3-client,network-manager-openvpn,dbus,dbus-bin,systemd,wireguard-go,wireguard-tools,curl";
/// Runs a program in the root.
const ENTER: &str = include_str!("peers/enter.sh");
/// A session of OpenVPN 3, from inside of the root.
const SESSION: &str = include_str!("peers/session.sh");
/// An import into NetworkManager, from inside of the root.
const IMPORT: &str = include_str!("peers/import.sh");
/// Each program has a copy of it on `mount`, in sight of itself only.
const ROOT: Root<'static> = Root {
    builder: "cloudathome peers 1",
    suite: SID,
    what: "OpenVPN 2.7, OpenVPN 3, NetworkManager, wireguard-go and curl",
    variant: "minbase",
    packages: PACKAGES,
    programs: &[
        "usr/sbin/openvpn",
        "usr/bin/openvpn3",
        "usr/bin/nmcli",
        "usr/bin/wireguard-go",
        "usr/bin/wg",
        "usr/bin/curl",
    ],
};
/// For programs of several processes: they end together.
const TOGETHER: &str = "--mount --pid --fork --kill-child";

/// A root folder of Debian sid with `openvpn` 2.7, OpenVPN 3, NetworkManager and `wireguard-go`. It is kept in a cache under `/var/cache/cloudathome` and
/// never written to: each program runs in a copy that goes with it.
#[derive(Debug, Clone)]
pub struct Peers {
    dir: PathBuf,
}

impl Peers {
    /// Provides the root, from the cache where it is there. Building it takes half a minute, once. `progress` hears
    /// what is being waited for.
    ///
    /// # Errors
    /// When the cache cannot be written (it needs root), or Debian's mirror gives no packages.
    pub fn provide(progress: &mut dyn FnMut(&str)) -> Result<Self> {
        Ok(Self { dir: ROOT.provide(Path::new(CACHE), progress)? })
    }

    /// Writes into `dir` a program that takes the options of `openvpn` and is version 2.7. It has the caller's network
    /// and names, and of the caller's files those below `dir`. The started process is `openvpn` itself.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn openvpn(&self, dir: &Path) -> Result<PathBuf> {
        self.program(dir, "openvpn-2.7", "--mount", "openvpn")
    }

    /// Writes into `dir` a program that connects OpenVPN 3 by the profile that is its argument, a file below `dir`. When it
    /// is connected it prints `Connected to`. It goes on until there is a file of that name with `.stop` behind it;
    /// then it says goodbye. Killed, it takes everything with it at once.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn openvpn3(&self, dir: &Path) -> Result<PathBuf> {
        self.script(dir, "openvpn3", TOGETHER, SESSION)
    }

    /// Writes into `dir` a program that imports the profile that is its argument, a file below `dir`, into a NetworkManager
    /// of its own and prints the connection that this made.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn network_manager(&self, dir: &Path) -> Result<PathBuf> {
        // It would manage the links that it sees.
        self.script(dir, "network-manager", &format!("{TOGETHER} --net"), IMPORT)
    }

    /// Writes into `dir` a program that takes the options of `curl` and speaks HTTP/3 too. It has the caller's network and
    /// names, and of the caller's files those below `dir`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn curl(&self, dir: &Path) -> Result<PathBuf> {
        self.program(dir, "curl-http3", "--mount", "curl")
    }

    /// Writes into `dir` a program `name` that runs the shell script `text` in the root with the caller's network, among
    /// others with `wireguard-go` and `wg`. Of the caller's files it has those
    /// below `dir`. The started process is the script's shell.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn shell(&self, dir: &Path, name: &str, text: &str) -> Result<PathBuf> {
        self.script(dir, name, "--mount", text)
    }

    /// The root folder, to ask what is in it. Nothing may be written to it.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    fn script(&self, dir: &Path, name: &str, unshare: &str, text: &str) -> Result<PathBuf> {
        let script = dir.join(name).with_extension("sh");
        fs::write(&script, text).with_context(|| format!("cannot write {}", script.display()))?;
        self.program(dir, name, unshare, &format!("sh {}", script.display()))
    }

    fn program(&self, dir: &Path, name: &str, unshare: &str, command: &str) -> Result<PathBuf> {
        let path = dir.join(name);
        let of = |path: &Path| path.display().to_string();
        let text = ENTER
            .replace("@CACHE@", &of(&self.dir))
            .replace("@DIR@", &of(dir))
            .replace("@UNSHARE@", unshare)
            .replace("@COMMAND@", command);
        let write = || {
            fs::write(&path, text)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
        };
        write().with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}
