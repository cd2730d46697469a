//! What has to be undone, on disk, so that it is undone also after a crash.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::dns::DnsUndo;
use super::plan::RouteSpec;

const VERSION: u32 = 1;

/// How one change is undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Undo {
    /// Take a route away.
    Route(RouteSpec),
    /// Bring a default route back, of which this is the kernel's message.
    Default(Vec<u8>),
    /// Bring name resolution back.
    Dns(DnsUndo),
}

/// The content of a journal's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Content {
    version: u32,
    /// Routes are of one boot of the machine and of one network namespace.
    place: Place,
    undo: Vec<Undo>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    boot: String,
    namespace: u64,
}

impl Place {
    fn here() -> io::Result<Self> {
        Ok(Self {
            boot: fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned(),
            namespace: fs::metadata("/proc/self/ns/net")?.ino(),
        })
    }
}

/// The journal of one device. Whoever has it open owns the device's connection.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    place: Place,
    /// Locked as long as it is open; the system unlocks it when the process ends, however that comes.
    lock: File,
    lock_path: PathBuf,
}

impl Journal {
    /// Opens the journal of `device` in `dir`, which is made if it is not there. None when another process has it.
    pub(super) fn open(dir: &Path, device: &str) -> io::Result<Option<Self>> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let lock_path = dir.join(format!("{device}.lock"));
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&lock_path)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        Ok(Some(Self { path: dir.join(format!("{device}.json")), place: Place::here()?, lock, lock_path }))
    }

    /// Devices that have a journal in `dir`.
    pub(super) fn devices(dir: &Path) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut devices = Vec::new();
        for entry in entries {
            if let Some(device) = entry?.file_name().to_str().and_then(|name| name.strip_suffix(".json")) {
                devices.push(device.to_owned());
            }
        }
        Ok(devices)
    }

    /// What is to be undone here, in the order in which it was done: all, or after a restart of the machine only what
    /// outlives one; nothing of another network namespace.
    pub(super) fn read(&self) -> io::Result<Vec<Undo>> {
        let text = match fs::read_to_string(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            text => text?,
        };
        let content: Content = serde_json::from_str(&text)?;
        if content.version != VERSION {
            let why = format!("{} is of another release: version {}", self.path.display(), content.version);
            return Err(io::Error::other(why));
        }
        let mut undo = content.undo;
        if content.place.boot != self.place.boot {
            undo.retain(|undo| matches!(undo, Undo::Dns(DnsUndo::File(_))));
        } else if content.place != self.place {
            undo.clear();
        }
        Ok(undo)
    }

    /// Whether the journal is of this network namespace and boot, or of an earlier boot.
    pub(super) fn is_of_here(&self) -> bool {
        let content = fs::read_to_string(&self.path).ok().and_then(|text| serde_json::from_str::<Content>(&text).ok());
        content.is_none_or(|content| content.place.boot != self.place.boot || content.place == self.place)
    }

    /// Writes what has to be undone, whole or not at all.
    pub(super) fn write(&self, undo: &[Undo]) -> io::Result<()> {
        let content = Content { version: VERSION, place: self.place.clone(), undo: undo.to_vec() };
        let new = self.path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec(&content)?)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)
    }

    /// Writes what is left to undo; without any the journal goes.
    pub(super) fn keep(&self, left: &[Undo]) -> io::Result<()> {
        if left.is_empty() { self.remove() } else { self.write(left) }
    }

    fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // Removed while it is locked, so that nobody else's lock is taken away.
        let _ = fs::remove_file(&self.lock_path);
        let _ = self.lock.unlock();
    }
}
