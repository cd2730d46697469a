//! Room on the disks.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use model::{Finding, Grade};
use nix::sys::statvfs::statvfs;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::found;

/// With less room than this services fail.
const BAD: u64 = 1 << 30;
/// With less room than this an upgrade may not be possible, which copies what it changes.
const DOUBTFUL: u64 = 10 << 30;
/// Looks at a time. One at a file system that does not answer, as of a server that is away, stands still until it does.
const LOOKS: usize = 4;
/// For the kernel to say how much room there is.
const DEADLINE: Duration = Duration::from_secs(2);
const WHAT: &str = "disk";

/// Looks at disks, and waits for none.
#[derive(Debug, Clone)]
pub struct Rooms(Arc<Semaphore>);

impl Default for Rooms {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LOOKS)))
    }
}

impl Rooms {
    /// The room at `dir`: whether services can go on.
    pub async fn look(&self, dir: PathBuf) -> Finding {
        self.fits(dir, BAD).await
    }

    /// The room at `dir`: whether there are `least` bytes.
    pub async fn fits(&self, dir: PathBuf, least: u64) -> Finding {
        let look = {
            let dir = dir.clone();
            move || room(&dir, least)
        };
        self.within(DEADLINE, dir, look).await
    }

    async fn within(
        &self,
        deadline: Duration,
        dir: PathBuf,
        look: impl FnOnce() -> Finding + Send + 'static,
    ) -> Finding {
        let hangs = |why: String| {
            let next = format!("is {} on a server that is away? `findmnt --target {0}` tells", dir.display());
            found(WHAT, Grade::Bad, format!("{} cannot be looked at: {why}", dir.display()), Some(&next))
        };
        let Ok(place) = Arc::clone(&self.0).try_acquire_owned() else {
            return hangs("earlier looks at disks still wait for an answer".to_owned());
        };
        let looking = spawn_blocking(move || {
            let finding = look();
            drop(place);
            finding
        });
        match timeout(deadline, looking).await {
            Ok(Ok(finding)) => finding,
            Ok(Err(error)) => hangs(error.to_string()),
            Err(_) => hangs(format!("no answer within {} s", deadline.as_secs())),
        }
    }
}

fn room(dir: &Path, least: u64) -> Finding {
    let of = dir.display();
    match statvfs(dir) {
        Err(error) => found(WHAT, Grade::Bad, format!("{of} cannot be looked at: {error}"), None),
        Ok(stat) => {
            let (free, all) = (stat.blocks_available() * stat.fragment_size(), stat.blocks() * stat.fragment_size());
            let grade = match free {
                free if free < least => Grade::Bad,
                free if free < DOUBTFUL => Grade::Doubtful,
                _ => Grade::Good,
            };
            let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
            let next = "make room, for example with `docker image prune`; an upgrade needs a copy of what it changes";
            let text = format!("{:.1} of {:.1} GiB are free at {of}", gib(free), gib(all));
            found(WHAT, grade, text, (grade != Grade::Good).then_some(next))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_disk_that_hangs_holds_up_nobody_and_takes_no_more_than_some_threads() {
        let rooms = Rooms::default();
        let absent = rooms.look(PathBuf::from("/no/such/directory")).await;
        assert!(absent.grade == Grade::Bad && absent.text.contains("ENOENT"), "{absent:?}");
        let (go_on, held) = mpsc::channel::<()>();
        let held = Arc::new(std::sync::Mutex::new(held));
        for look in 0..LOOKS + 2 {
            let held = Arc::clone(&held);
            let hang = move || {
                // Ends when the other end is gone.
                held.lock().unwrap().recv().unwrap_err();
                room(Path::new("/"), BAD)
            };
            let finding = rooms.within(Duration::from_millis(10), PathBuf::from("/mnt/nas"), hang).await;
            let why = if look < LOOKS { "no answer within" } else { "earlier looks" };
            assert!(finding.grade == Grade::Bad && finding.text.contains(why), "{finding:?}");
        }
        drop(go_on);
        let all = Arc::clone(&rooms.0).acquire_many_owned(LOOKS as u32).await.unwrap();
        drop(all);
        assert!(rooms.look(PathBuf::from("/")).await.text.contains("GiB are free"));
    }
}
