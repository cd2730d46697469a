//! Copies of volumes and dumps of databases.

use std::path::Path;
use std::time::Duration;

use model::{DatabaseSpec, Generation, Mount, MountSource, ServiceName};

use super::{Host, LONG, Words};
use crate::chain;
use crate::engine::ExecOutput;
use crate::observed::EngineState;
use crate::record::{Former, Release};
use crate::storage::{Helper, Storage};
use crate::upgrade::{Failure, Journal, copy_name, dump_name};

const FROM: &str = "/cloudathome-from";
const TO: &str = "/cloudathome-to";

/// Whatever there was goes; then everything comes with owners, modes, times and links, and is on the disk: the journal
/// that says so must not outlive it in a power loss. No list of arguments grows with the number of files.
const COPY: &str = r#"set -eu
cd /cloudathome-to
for old in ..?* .[!.]* *; do rm -rf -- "$old"; done
cp -a /cloudathome-from/. /cloudathome-to/
sync"#;

/// Below `/cloudathome` each copy beside its volume: one that has nothing in it would empty what holds something.
const COMPARE: &str = r#"set -eu
cd /cloudathome
for copy in *; do
  if [ -z "$(ls -A "$copy/copy")" ] && [ -n "$(ls -A "$copy/volume")" ]; then
    echo "$copy is empty"
    exit 1
  fi
done"#;

/// Removes from the directory `$1` the dumps of all generations but `$2`.
const DISCARD: &str = r#"cd "$1" || exit 0
for dump in g[0-9]*; do
  case $dump in g"$2"-*) ;; *) rm -rf -- "$dump" ;; esac
done"#;

/// The last of what a command said, for people.
pub(super) fn said(output: &ExecOutput) -> String {
    let text = if output.stderr.trim().is_empty() { &output.stdout } else { &output.stderr };
    let last = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("it said nothing");
    format!("exit code {}: {last}", output.code)
}

fn log(output: &ExecOutput) -> Vec<String> {
    let lines: Vec<&str> = output.stdout.lines().chain(output.stderr.lines()).collect();
    lines[lines.len().saturating_sub(super::LOG_LINES)..].iter().map(|&line| line.to_owned()).collect()
}

fn volume(name: &str, target: &str, read_only: bool) -> Mount {
    Mount { source: MountSource::Volume(name.to_owned()), target: target.into(), read_only }
}

impl<E: Storage> Host<E> {
    /// Runs a command in a container of ours that runs.
    pub(super) async fn run_in(
        &self,
        container: &str,
        user: &str,
        command: &[String],
        deadline: Duration,
    ) -> Result<ExecOutput, Words> {
        let observed = self.observe().await?;
        let found = observed.ours(container).filter(|found| found.state == EngineState::Running);
        let id = &found.ok_or_else(|| format!("{container} does not run"))?.id;
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        self.engine.exec(id, user, &words, deadline).await.map_err(|error| chain(&error))
    }

    /// Runs a script in a helper made from the application's image of a release.
    pub(super) async fn help(
        &self,
        service: &ServiceName,
        release: &Release,
        mounts: Vec<Mount>,
        script: &str,
    ) -> Result<ExecOutput, Words> {
        let (_, upgrade) = self.spec(service)?;
        let image = upgrade.units.iter().find_map(|unit| release.images.get(unit));
        let image = image.ok_or("the service has no image of its own")?;
        let helper = Helper {
            service: service.clone(),
            image: image.id.clone().unwrap_or_else(|| image.reference.clone()),
            mounts,
            command: ["sh", "-c", script].map(str::to_owned).to_vec(),
            deadline: LONG,
        };
        let output = self.engine.run_helper(&helper).await.map_err(|error| chain(&error))?;
        if output.code == 0 { Ok(output) } else { Err(said(&output)) }
    }

    pub(super) async fn copied(
        &self,
        service: &ServiceName,
        journal: &Journal,
        from: &str,
        to: &str,
    ) -> Result<(), Words> {
        // The engine would make an empty one and so empty the other.
        if !self.observe().await?.volumes.contains(from) {
            return Err(format!("there is no volume {from}"));
        }
        self.engine.ensure_volume(to).await.map_err(|error| chain(&error))?;
        let mounts = vec![volume(from, FROM, true), volume(to, TO, false)];
        let copied = self.help(service, &journal.old, mounts, COPY).await;
        copied.map(drop).map_err(|why| format!("copying volume {from} to {to} failed: {why}"))
    }

    pub(super) async fn dumped(&self, service: &ServiceName, journal: &Journal) -> Result<(), Failure> {
        self.in_databases(service, journal, "dumping", |database| &database.dump).await?;
        // What was dumped must be on the disk; the journal will say that it is.
        let synced = self.help(service, &journal.old, Vec::new(), "sync").await;
        synced.map(drop).map_err(|why| Failure::new(journal.step, why))
    }

    pub(super) async fn restored(&self, service: &ServiceName, journal: &Journal) -> Result<(), Failure> {
        self.in_databases(service, journal, "restoring", |database| &database.restore).await
    }

    async fn in_databases(
        &self,
        service: &ServiceName,
        journal: &Journal,
        what: &str,
        command: impl Fn(&DatabaseSpec) -> &[String] + Send,
    ) -> Result<(), Failure> {
        let failure = |why: Words| Failure::new(journal.step, why);
        let (_, upgrade) = self.spec(service).map_err(failure)?;
        for (at, database) in upgrade.databases.iter().enumerate() {
            let command = with_dump(command(database), database, at, &journal.old, &journal.new);
            let output = self.run_in(&database.container, &database.user, &command, LONG).await.map_err(failure)?;
            if output.code != 0 {
                let reason = format!("{what} the database in {} failed: {}", database.container, said(&output));
                return Err(Failure { step: journal.step, reason, log: log(&output) });
            }
        }
        Ok(())
    }

    pub(super) async fn has_way_back(
        &self,
        service: &ServiceName,
        former: &Former,
        current: &Release,
    ) -> Result<(), Words> {
        let (_, upgrade) = self.spec(service)?;
        let generation = former.release.generation;
        let observed = self.observe().await?;
        let copies: Vec<_> = former.volumes.iter().map(|volume| copy_name(volume, generation)).collect();
        if let Some(copy) = copies.iter().find(|copy| !observed.volumes.contains(*copy)) {
            return Err(format!("the copy {copy} is gone"));
        }
        for image in upgrade.units.iter().filter_map(|unit| former.release.images.get(unit)) {
            let wanted = image.id.as_ref().unwrap_or(&image.reference);
            let found = self.engine.image_id(wanted).await.map_err(|error| chain(&error))?;
            found.ok_or_else(|| {
                format!("image {} ({wanted}) is gone; fetch it with `docker pull {}`", image.reference, image.reference)
            })?;
        }
        let beside = |(of, copy): (&String, &String)| {
            let target = |what: &str| format!("/cloudathome/{copy}/{what}");
            [volume(of, &target("volume"), true), volume(copy, &target("copy"), true)]
        };
        let mounts: Vec<_> = former.volumes.iter().zip(&copies).flat_map(beside).collect();
        if !mounts.is_empty() {
            let compared = self.help(service, &former.release, mounts, COMPARE).await;
            compared.map_err(|why| format!("what was copied can't be used: {why}"))?;
        }
        for (at, database) in upgrade.databases.iter().enumerate() {
            let verify = with_dump(&database.verify, database, at, &former.release, current);
            let output = self.run_in(&database.container, &database.user, &verify, LONG).await?;
            if output.code != 0 {
                return Err(format!("the dump of {} is gone or not whole: {}", database.container, said(&output)));
            }
        }
        Ok(())
    }

    pub(super) async fn discarded(
        &self,
        service: &ServiceName,
        journal: &Journal,
        keep: Option<Generation>,
    ) -> Result<(), Words> {
        self.engine.end_helper(service).await.map_err(|error| chain(&error))?;
        for name in self.observe().await?.volumes {
            let copied =
                journal.volumes.iter().find_map(|volume| name.strip_prefix(volume.as_str())?.strip_prefix(".g"));
            let generation = copied.and_then(|number| number.parse().ok()).map(Generation);
            if generation.is_some() && generation != keep {
                self.engine.remove_volume(&name).await.map_err(|error| chain(&error))?;
            }
        }
        let (_, upgrade) = self.spec(service)?;
        let keep = keep.map(|generation| generation.to_string()).unwrap_or_default();
        for database in &upgrade.databases {
            let directory = database.directory.display().to_string();
            let command = ["sh", "-c", DISCARD, "sh", &directory, &keep].map(str::to_owned);
            let output = self.run_in(&database.container, &database.user, &command, super::REST).await?;
            if output.code != 0 {
                return Err(format!("removing old dumps in {} failed: {}", database.container, said(&output)));
            }
        }
        Ok(())
    }
}

/// The command with the file of the dump that is written when `old` is left for `new`.
fn with_dump(command: &[String], database: &DatabaseSpec, at: usize, old: &Release, new: &Release) -> Vec<String> {
    let file = Path::new(&database.directory).join(dump_name(old.generation, new.generation, at));
    command.iter().map(|word| word.replace("{dump}", &file.display().to_string())).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_copy_takes_the_place_of_any_number_of_files() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        for file in ["from/.hidden", "from/code/app", "to/-rf", "to/..odd", "to/.old/deep", "to/two words"] {
            let file = dir.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "x").unwrap();
        }
        symlink("/nowhere", from.join("link")).unwrap();
        // More than a list of arguments can hold.
        let long = "n".repeat(240);
        for at in 0..12_000 {
            fs::write(to.join(format!("{long}{at}")), "").unwrap();
        }
        let script = COPY.replace("/cloudathome-", &format!("{}/", dir.path().display())).replace("\nsync", "");
        let copied = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        let mut names: Vec<_> = fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [".hidden", "code", "link"]);
    }
}
