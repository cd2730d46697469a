//! Peers that this machine's own Debian does not have, in a root of sid: OpenVPN 2.7, the OpenVPN 3 client for Linux,
//! NetworkManager's reader of profiles, and WireGuard in user space.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

use crate::images::{debian, output};

const CACHE: &str = "/var/cache/cloudathome/peers";
const SUITE: &str = "sid";
/// Counted up when this program starts to build differently from the same packages.
const BUILDER: &str = "cloudathome peers 1";
/// OpenVPN 3 is a set of services on a message bus and asks another one, of systemd, what system this is.
const PACKAGES: &str =
    "openvpn,openvpn3-client,network-manager-openvpn,dbus,dbus-bin,systemd,wireguard-go,wireguard-tools";
/// Runs a program in the root.
const ENTER: &str = include_str!("peers/enter.sh");
/// A session of OpenVPN 3, from inside of the root.
const SESSION: &str = include_str!("peers/session.sh");
/// An import into NetworkManager, from inside of the root.
const IMPORT: &str = include_str!("peers/import.sh");
/// What must be there.
const PROGRAMS: [&str; 5] =
    ["usr/sbin/openvpn", "usr/bin/openvpn3", "usr/bin/nmcli", "usr/bin/wireguard-go", "usr/bin/wg"];
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
        Self::provide_in(Path::new(CACHE), progress)
    }

    fn provide_in(cache: &Path, progress: &mut dyn FnMut(&str)) -> Result<Self> {
        let advice = || format!("cannot use the cache {}: run as root (or with sudo)", cache.display());
        fs::create_dir_all(cache).with_context(advice)?;
        let lock = File::create(cache.join("lock")).with_context(advice)?;
        let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error).with_context(advice)?;

        let hash = Sha256::digest([BUILDER, SUITE, PACKAGES, &debian::architecture()?].join("\n"));
        let peers = Self { dir: cache.join(format!("{SUITE}-{}", &format!("{hash:x}")[..16])) };
        if !peers.dir.exists() {
            build(&peers.dir, progress)?;
        }
        Ok(peers)
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

/// Makes `dir` appear whole: `root`, and `mount`, where each program has a copy of its own in sight of itself only.
fn build(dir: &Path, progress: &mut dyn FnMut(&str)) -> Result<()> {
    let part = dir.with_extension("part");
    if part.exists() {
        fs::remove_dir_all(&part).with_context(|| format!("cannot remove {}", part.display()))?;
    }
    let mut directories = DirBuilder::new();
    directories.mode(0o755).recursive(true);
    directories.create(part.join("mount")).with_context(|| format!("cannot make {}", part.display()))?;
    let (root, mirror) = (part.join("root"), debian::mirror());
    progress(&format!(
        "unpacking OpenVPN 2.7, OpenVPN 3, NetworkManager and wireguard-go from Debian {SUITE} ({mirror}), once"
    ));
    let mut mmdebstrap = debian::mmdebstrap("directory", "minbase", PACKAGES, &debian::apt_options()?);
    mmdebstrap.arg(SUITE).arg(&root).arg(&mirror);
    output(mmdebstrap).with_context(|| {
        format!("cannot build Debian {SUITE}: is the mirror {mirror} within reach, and mmdebstrap installed?")
    })?;
    for program in PROGRAMS {
        if !root.join(program).is_file() {
            bail!("Debian {SUITE} has no /{program} any more: see what its packages hold now");
        }
    }
    fs::rename(&part, dir).with_context(|| format!("cannot keep {}", dir.display()))
}
