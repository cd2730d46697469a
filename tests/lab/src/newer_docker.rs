//! The Docker engine of Debian sid, run on this machine's own Debian.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::debian_root::{Root, SID};

const CACHE: &str = "/var/cache/cloudathome/engines";
/// Its programs ask little of the system's libraries, so they run here as they are; only its `runc` asks for newer ones
/// than Debian 12 has, and the machine's own does as well.
const PROGRAMS: [&str; 4] =
    ["usr/sbin/dockerd", "usr/sbin/docker-proxy", "usr/bin/containerd", "usr/bin/containerd-shim-runc-v2"];
const ROOT: Root<'static> = Root {
    builder: "cloudathome engines 1",
    suite: SID,
    what: "the Docker engine",
    variant: "extract",
    packages: "containerd,docker.io",
    programs: &PROGRAMS,
};

/// Provides the engine, from the cache where it is there, and returns the folder that belongs in front of the search path.
/// Half a minute, the first time. `progress` hears what is being waited for.
///
/// # Errors
/// When the cache cannot be written (it needs root), or Debian's mirror gives no packages.
pub(crate) fn provide(progress: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    let dir = ROOT.provide(Path::new(CACHE), progress)?;
    let programs = dir.join("bin");
    fs::create_dir_all(&programs).with_context(|| format!("make {}", programs.display()))?;
    for program in PROGRAMS {
        let link = programs.join(Path::new(program).file_name().unwrap_or_default());
        match symlink(dir.join("root").join(program), &link) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("make {}", link.display()));
            }
            _ => {}
        }
    }
    Ok(programs)
}
