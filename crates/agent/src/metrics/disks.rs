//! Room on the disks that services and state are on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use daemon::exposition::Family;
use model::HostStatus;
use nix::sys::statvfs::statvfs;
use supervisor::DockerEngine;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{interval, timeout};

use super::{family, labels};

/// Disks are looked at this often.
const INTERVAL: Duration = Duration::from_secs(5);
/// For the engine to say where its data is, and for disks to say how much room they have.
const DEADLINE: Duration = Duration::from_secs(3);

/// A directory and the room in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Which directory.
    pub path: PathBuf,
    /// Bytes that can still be written there.
    pub free: u64,
    /// Bytes of its whole filesystem.
    pub size: u64,
    /// Whether less is free than is to stay free. It has to be a quarter more before there is room again.
    pub full: bool,
}

/// Keeps looking at the agent's state directory and at where the engine has its images and volumes, for as long as
/// somebody watches. `keep_free` is how many bytes are to stay free on the engine's.
#[must_use]
pub fn watch_disks(state_dir: PathBuf, engine: Arc<DockerEngine>, keep_free: u64) -> watch::Receiver<Vec<Disk>> {
    let (sender, receiver) = watch::channel(Vec::new());
    tokio::spawn(async move {
        let (mut ticks, mut data_root) = (interval(INTERVAL), None);
        loop {
            tokio::select! {
                () = sender.closed() => return,
                _ = ticks.tick() => {}
            }
            // It stays where it is until the engine says otherwise.
            if let Ok(Ok(info)) = timeout(DEADLINE, engine.info()).await {
                data_root = Some(info.data_root);
            }
            // What people upload goes to the engine's disk.
            let places: Vec<(PathBuf, u64)> = std::iter::once((state_dir.clone(), 0))
                .chain(data_root.clone().map(|data_root| (data_root, keep_free)))
                .collect();
            let before = sender.borrow().clone();
            let mut look = spawn_blocking(move || {
                places.iter().filter_map(|(path, keep_free)| room(path, *keep_free, &before)).collect()
            });
            let seen = tokio::select! {
                () = sender.closed() => return,
                seen = timeout(DEADLINE, &mut look) => match seen {
                    Ok(seen) => seen,
                    // On a disk of a server that is away it can stand still for hours, in which nothing is known and no other begins.
                    Err(_) => {
                        sender.send_replace(Vec::new());
                        look.await
                    }
                },
            };
            sender.send_replace(seen.unwrap_or_default());
        }
    });
    receiver
}

/// None when the directory cannot be looked at; the doctor says why.
fn room(path: &Path, keep_free: u64, before: &[Disk]) -> Option<Disk> {
    let stat = statvfs(path).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
    let free = bytes(stat.blocks_available());
    let full = is_full(free, keep_free, before.iter().any(|disk| disk.path == path && disk.full));
    Some(Disk { path: path.to_owned(), free, size: bytes(stat.blocks()), full })
}

/// What is full needs a quarter more before it is not: it would change its mind with every file.
fn is_full(free: u64, keep_free: u64, was_full: bool) -> bool {
    free < if was_full { keep_free.saturating_add(keep_free / 4) } else { keep_free }
}

pub(super) fn families(status: &HostStatus, disks: &[Disk]) -> [Family; 2] {
    let of = |disk: &Disk| labels(status, [("path", disk.path.display().to_string())]);
    [
        family(
            "cloudathome_disk_free_bytes",
            "What can still be written to the disk of a directory",
            disks.iter().map(|disk| (of(disk), disk.free as f64)),
        ),
        family(
            "cloudathome_disk_size_bytes",
            "Size of the disk of a directory",
            disks.iter().map(|disk| (of(disk), disk.size as f64)),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_room_on_a_disk() {
        let disk = room(Path::new("/"), 0, &[]).unwrap();
        assert!(disk.size > 0 && disk.free <= disk.size, "{disk:?}");
        assert_eq!(room(Path::new("/no/such/directory"), 0, &[]), None);
        assert!(!disk.full);
        assert!(room(Path::new("/"), u64::MAX, &[disk]).unwrap().full);
    }

    #[test]
    fn a_full_disk_needs_some_room_before_it_is_not() {
        assert!(!is_full(100, 100, false) && is_full(99, 100, false));
        assert!(is_full(124, 100, true) && !is_full(125, 100, true));
        assert!(!is_full(0, 0, true), "nothing is to stay free");
    }
}
