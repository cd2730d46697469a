//! What becomes of files that are kept alike by WebDAV, with a client that deletes (`rclone sync`), when home falls silent among them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::thread::scope;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use lab::http::sha256;
use lab::{Host, Http, wait_until};

use crate::Cloud;
use crate::outage::{back, holding_page, signal, small_windows};

/// For one run of the client.
const LIMIT: Duration = Duration::from_secs(60);
/// Files that are on both sides from the beginning.
const OLD: [&str; 3] = ["one", "two", "three"];
/// One that is on its way down when home falls silent, and its size: at [`SLOWLY`] it takes half a minute.
const NEW: (&str, u64) = ("new", 64 << 20);
/// As much of it a second, and none of it ahead, in the client's words.
const SLOWLY: [&str; 4] = ["--bwlimit", "2M", "--buffer-size", "0"];

/// Home falls silent while one client gets a file; others come while it is away. Each fails, deletes nothing on either side, and goes
/// on where it was once home is back.
///
/// # Errors
/// Saying what was lost, or what a client was told that could make it delete.
pub fn home_falls_silent(cloud: &Cloud) -> Result<()> {
    small_windows(cloud)?;
    let (user, password) = cloud.login()?;
    let client = cloud.visitor()?.login(&user, &password);
    let folder = cloud.url(&format!("/remote.php/dav/files/{user}/sync"));
    let rclone = Rclone::new(cloud, &user)?;
    let (begun, late, other) = (rclone.folder("begun")?, rclone.folder("late")?, rclone.folder("other")?);
    for name in OLD {
        let file = cloud.lab.random_file(name, 100_000)?;
        for folder in [&begun, &late, &other] {
            fs::copy(&file, folder.join(name))?;
        }
    }
    rclone.sync(&begun, Way::Up, &[])?.succeeds()?;
    let new = cloud.lab.random_file(NEW.0, NEW.1)?;
    let sent = client.upload(&new, &format!("{folder}/{}", NEW.0))?;
    ensure!(sent.status == 201, "the new file is not taken: it answers {}", sent.status);
    // Here two of the files were deleted, and one is new.
    for name in &OLD[1..] {
        fs::remove_file(other.join(name))?;
    }
    fs::write(other.join("written"), "while home was away")?;

    scope(|scope| {
        let down = scope.spawn(|| rclone.sync(&begun, Way::Down, &SLOWLY));
        wait_until("the new file to be on its way", LIMIT, || Ok(fs::metadata(begun.join(NEW.0))?.len() > 1 << 20))?;
        ensure!(!down.is_finished(), "the file was there before home fell silent");
        signal(&cloud.home, "-STOP")?;
        let told = holding_page(&cloud.visitor()?, cloud, Instant::now()).and_then(|_| {
            waits(&client, &folder)?;
            rclone.sync(&late, Way::Down, &[])?.fails("one that gets files", "503")?;
            rclone.sync(&other, Way::Up, &[])?.fails("one that sends files", "503")
        });
        // Were home back sooner, the one in the middle would only have waited, and rightly so.
        let ended = down.join();
        signal(&cloud.home, "-CONT")?;
        told?;
        ended.map_err(|_| anyhow!("the client in the middle panicked"))??.fails("the one in the middle", NEW.0)
    })?;
    back(cloud, &cloud.visitor()?)?;

    for name in OLD {
        for folder in [&begun, &late] {
            ensure!(sha256(&folder.join(name))? == sha256(&new.with_file_name(name))?, "{name} was lost here");
        }
        let there = client.get(&format!("{folder}/{name}"))?;
        ensure!(there.status == 200, "{name} was lost at home: it answers {}", there.status);
    }
    for folder in [&begun, &late] {
        rclone.sync(folder, Way::Down, &[])?.succeeds()?;
        ensure!(sha256(&folder.join(NEW.0))? == sha256(&new)?, "the new file did not come once home was back");
    }
    rclone.sync(&other, Way::Up, &[])?.succeeds()?;
    let written = client.get(&format!("{folder}/written"))?;
    ensure!(written.text() == "while home was away", "what was written meanwhile answers {}", written.status);
    Ok(())
}

/// Whatever a client asks, it hears to come again later; nothing of it can be taken for an answer about files.
fn waits(client: &Http, folder: &str) -> Result<()> {
    for (method, name) in [
        ("OPTIONS", ""),
        ("PROPFIND", ""),
        ("PROPFIND", "/one"),
        ("REPORT", ""),
        ("GET", "/one"),
        ("PUT", "/one"),
        ("MKCOL", "/folder"),
        ("MOVE", "/one"),
        ("DELETE", "/one"),
    ] {
        let reply = client.request(&["-X", method], &format!("{folder}{name}"))?;
        ensure!(reply.status == 503, "{method} {name} answers {}", reply.status);
        let when = reply.header("retry-after").and_then(|when| when.parse::<u32>().ok());
        ensure!(when.is_some(), "{method} {name} is not told when to come again");
        let kind = reply.header("content-type").unwrap_or_default();
        ensure!(kind.starts_with("text/plain"), "{method} {name} is answered with {kind}");
    }
    Ok(())
}

/// Which side becomes like the other.
#[derive(Clone, Copy)]
enum Way {
    Up,
    Down,
}

struct Rclone {
    host: Host,
    dir: PathBuf,
}

/// How a run of it ended.
struct Ended(Output);

impl Rclone {
    fn new(cloud: &Cloud, user: &str) -> Result<Self> {
        let host = cloud.lab.host("visitor")?.clone();
        let dir = host.dir().join("rclone");
        fs::create_dir(&dir).with_context(|| format!("make {}", dir.display()))?;
        let password = cloud.home.host.dir().join("state/secrets/nextcloud-admin-password");
        let hide = format!("tr -d '\\n' <'{}' | rclone obscure -", password.display());
        let hidden = host.exec(&["sh", "-c", &hide])?;
        let url = cloud.url(&format!("/remote.php/dav/files/{user}"));
        let config = format!("[cloud]\ntype = webdav\nvendor = other\nurl = {url}\nuser = {user}\npass = {hidden}\n");
        fs::write(dir.join("rclone.conf"), config)?;
        fs::copy(cloud.pebble.issuing_root(), dir.join("root.pem"))?;
        Ok(Self { host, dir })
    }

    /// A folder on the visitor's side.
    fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(path)
    }

    /// Makes a folder here like the one at home, or that one like this, deletions included. It tries once.
    fn sync(&self, folder: &Path, way: Way, more: &[&str]) -> Result<Ended> {
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let (config, root) = (text(self.dir.join("rclone.conf")), text(self.dir.join("root.pem")));
        let folder = folder.to_string_lossy();
        let mut argv = vec!["rclone", "sync", "--config", &config, "--ca-cert", &root, "--verbose"];
        argv.extend(["--retries", "1", "--low-level-retries", "1"]);
        argv.extend(match way {
            Way::Up => [&*folder, "cloud:sync"],
            Way::Down => ["cloud:sync", &*folder],
        });
        argv.extend(more);
        Ok(Ended(self.host.output(LIMIT, &argv)?))
    }
}

impl Ended {
    fn succeeds(self) -> Result<()> {
        ensure!(self.0.status.success(), "a sync failed: {}", self.said());
        Ok(())
    }

    fn fails(self, which: &str, with: &str) -> Result<()> {
        let said = self.said();
        ensure!(!self.0.status.success(), "{which} thinks that all is well: {said}");
        ensure!(said.contains(with), "{which} does not say {with}: {said}");
        Ok(())
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }
}
