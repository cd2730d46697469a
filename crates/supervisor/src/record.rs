//! What a service is beyond its configuration: which release of it is in force, whether a person stopped it, and the
//! journal of an upgrade. One state file for each service.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use model::{Generation, Run, ServiceName, ServiceSpec};
use serde::{Deserialize, Serialize};
use state::{StateError, StateFile};
use tokio::sync::watch;

use crate::upgrade::{Asked, Ended, Journal, Step};

/// An image as a release has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedImage {
    /// The reference that a person gave.
    pub reference: String,
    /// The id of the image that it meant then; none before it was seen on this host.
    pub id: Option<String>,
}

/// A generation of a service with its images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Its number.
    pub generation: Generation,
    /// The image of each unit, by the container's name without our prefix.
    pub images: BTreeMap<String, PinnedImage>,
}

/// The release before the one in force, and what was saved of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Former {
    /// The release.
    pub release: Release,
    /// The engine's names of the volumes that were copied; a copy is called `NAME.gGENERATION`.
    pub volumes: Vec<String>,
    /// Units whose databases were dumped.
    pub databases: Vec<String>,
    /// Unix time when it was left, in seconds: what was written since is not in the copies.
    pub left_at: i64,
}

/// A service's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The release in force; while a journal is there, the one that was when it began.
    pub release: Release,
    /// The highest generation that was ever tried.
    pub newest: Generation,
    /// Whether a person stopped the service.
    pub stopped: bool,
    /// To which release a person can go back.
    pub former: Option<Former>,
    /// The upgrade at work.
    pub journal: Option<Journal>,
    /// The last one that ended.
    pub last: Option<Ended>,
    /// Images that were left, by upgrades to them that failed or by a person, since one of them was last in force: no policy
    /// tries them again. The newest last, and not more than [`LEFT`].
    #[serde(default)]
    pub left: Vec<String>,
    /// All of the service is being removed, with what it keeps: until that is done it is none that could run.
    #[serde(default)]
    pub purging: bool,
}

/// So many images that were left are remembered.
pub(crate) const LEFT: usize = 16;

/// Why a service that is being removed does nothing else.
const PURGING: &str = "being removed with all that it keeps; if that was broken off, ask for `purge` again";

/// What the record says is to be true of the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The release that runs.
    pub release: Release,
    /// What of it runs.
    pub run: Run,
    /// Why nobody may use it now; none when people may.
    pub held: Option<String>,
}

impl Wanted {
    /// The service as the record wants it. Images that an upgrade changes are as the record has them; others are as the
    /// configuration has them, and while they are the same, the very ones that the record knows. While people are kept
    /// out nothing is started anew because it does not answer: it may be at a migration that takes hours.
    #[must_use]
    pub fn shape(self, mut spec: ServiceSpec) -> ServiceSpec {
        spec.generation = self.release.generation;
        spec.run = self.run;
        let upgraded = spec.upgrade.as_ref().map(|upgrade| upgrade.units.as_slice()).unwrap_or_default();
        for unit in &mut spec.units {
            if self.held.is_some() {
                unit.restart_after = None;
            }
            let container = &mut unit.container;
            let Some(image) = self.release.images.get(&container.name) else { continue };
            if upgraded.contains(&container.name) {
                container.image.clone_from(&image.reference);
            }
            if container.image == image.reference {
                container.image_id.clone_from(&image.id);
            }
        }
        spec
    }
}

impl Release {
    /// Its images as people know them, each once.
    #[must_use]
    pub fn words(&self) -> String {
        let mut references: Vec<&str> = self.images.values().map(|image| image.reference.as_str()).collect();
        references.sort_unstable();
        references.dedup();
        format!("{} (generation {})", references.join(", "), self.generation)
    }
}

impl Record {
    /// The record of a service that is installed with these images.
    #[must_use]
    pub fn new(images: BTreeMap<String, PinnedImage>) -> Self {
        let generation = Generation(1);
        Self {
            release: Release { generation, images },
            newest: generation,
            stopped: false,
            former: None,
            journal: None,
            last: None,
            left: Vec::new(),
            purging: false,
        }
    }

    /// What is to be true now.
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        if self.purging {
            return Wanted { release: self.release.clone(), run: Run::Nothing, held: Some(PURGING.to_owned()) };
        }
        let Some(journal) = &self.journal else {
            let run = if self.stopped { Run::Nothing } else { Run::All };
            return Wanted { release: self.release.clone(), run, held: None };
        };
        let release = if journal.step.runs_new() { &journal.new } else { &journal.old };
        let run = match journal.step {
            step if step.runs_nothing() => Run::Nothing,
            step if step.runs_databases_only() => Run::Only(journal.databases.clone()),
            _ => Run::All,
        };
        Wanted { release: release.clone(), run, held: (!journal.step.published()).then(|| journal.words()) }
    }

    /// Why nothing can be done with the service now, if so.
    #[must_use]
    pub fn busy(&self) -> Option<String> {
        if self.purging {
            return Some(PURGING.to_owned());
        }
        let journal = self.journal.as_ref()?;
        // Only a way back has to succeed.
        let next = match (&journal.trouble, journal.step.is_back()) {
            (Some(_), true) => "it is tried again; `purge` gives it up, with all that the service keeps",
            _ => "wait until that has ended",
        };
        Some(format!("{}; {next}", journal.words()))
    }

    /// The record with an upgrade begun: `units` get the image `reference`.
    #[must_use]
    pub fn begin_upgrade(
        &self,
        units: &[String],
        reference: &str,
        volumes: Vec<String>,
        databases: Vec<String>,
        now: i64,
    ) -> Self {
        let generation = self.newest.next();
        let mut images = self.release.images.clone();
        images.retain(|unit, _| !units.contains(unit));
        images.extend(units.iter().map(|unit| (unit.clone(), PinnedImage { reference: reference.into(), id: None })));
        let journal = Journal {
            asked: Asked::Upgrade,
            step: Step::Prepare,
            old: self.release.clone(),
            new: Release { generation, images },
            volumes,
            databases,
            began_at: now,
            step_at: now,
            failure: None,
            trouble: None,
        };
        Self { newest: generation, journal: Some(journal), ..self.clone() }
    }

    /// The record with a way back begun; none when there is no former release.
    #[must_use]
    pub fn begin_rollback(&self, now: i64) -> Option<Self> {
        let former = self.former.clone()?;
        let journal = Journal {
            asked: Asked::Rollback,
            step: Step::Halt,
            old: former.release,
            new: self.release.clone(),
            volumes: former.volumes,
            databases: former.databases,
            began_at: now,
            step_at: now,
            failure: None,
            trouble: None,
        };
        Some(Self { journal: Some(journal), ..self.clone() })
    }
}

/// Why a record could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Its file can't be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The directory can't be read.
    #[error("can't read the directory {}", dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no such service.
    #[error("{service} is not installed on this host")]
    Missing {
        /// The service.
        service: ServiceName,
    },
    /// An upgrade is at work, or all of it is being removed.
    #[error("{service} is {words}")]
    Busy {
        /// The service.
        service: ServiceName,
        /// What is at work, and what to do about it.
        words: String,
    },
}

/// All records of this host, by service.
pub type RecordMap = BTreeMap<ServiceName, Record>;

/// Owns the records of this host: a change is on the disk before anybody sees it.
#[derive(Debug)]
pub struct Records {
    dir: PathBuf,
    writing: Mutex<()>,
    current: watch::Sender<RecordMap>,
}

impl Records {
    /// Reads all records in `dir`, which need not exist.
    ///
    /// # Errors
    /// A file is there that can't be used.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, RecordError> {
        let dir = dir.into();
        let names = names(&dir).map_err(|source| RecordError::Directory { dir: dir.clone(), source })?;
        let mut map = RecordMap::new();
        for name in names {
            if let Some(record) = file(&dir, &name).load()? {
                map.insert(name, record);
            }
        }
        Ok(Self { dir, writing: Mutex::new(()), current: watch::Sender::new(map) })
    }

    /// All records, to be watched.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<RecordMap> {
        self.current.subscribe()
    }

    /// A service's record.
    #[must_use]
    pub fn record(&self, service: &ServiceName) -> Option<Record> {
        self.current.borrow().get(service).cloned()
    }

    /// Installs a service: makes its record unless it has one. As long as it has never run with an image, another one may
    /// take its place: a name that was mistyped is put right in the configuration. Returns the record.
    ///
    /// # Errors
    /// It can't be stored.
    pub fn install(&self, service: &ServiceName, images: BTreeMap<String, PinnedImage>) -> Result<Record, RecordError> {
        self.change(service, |old| {
            let Some(mut record) = old.cloned() else { return Ok(Record::new(images)) };
            if record.journal.is_none() && record.former.is_none() {
                for (unit, image) in images {
                    let known = record.release.images.entry(unit).or_insert_with(|| image.clone());
                    if known.id.is_none() {
                        *known = image;
                    }
                }
            }
            Ok(record)
        })
    }

    /// Notes the ids of images that a release has no ids for yet, from what was seen of the same references: another
    /// reference may have come into the configuration.
    ///
    /// # Errors
    /// It can't be stored, there is no such record, or an upgrade is at work.
    pub fn pin(&self, service: &ServiceName, seen: &BTreeMap<String, PinnedImage>) -> Result<Record, RecordError> {
        self.change_idle(service, |record| {
            for (unit, image) in &mut record.release.images {
                let seen = seen.get(unit).filter(|seen| seen.reference == image.reference);
                if let Some(seen) = seen.filter(|_| image.id.is_none()) {
                    image.id.clone_from(&seen.id);
                }
            }
        })
    }

    /// Stops a service, or lets it run again, by a person's wish.
    ///
    /// # Errors
    /// It can't be stored, there is no such record, or an upgrade is at work.
    pub fn set_stopped(&self, service: &ServiceName, stopped: bool) -> Result<Record, RecordError> {
        self.change_idle(service, |record| record.stopped = stopped)
    }

    /// Says that a service is being removed with all that it keeps, whatever is at work: nothing of it runs from here on,
    /// and nothing else can be done with it, until it is begun anew.
    ///
    /// # Errors
    /// It can't be stored, or there is no such record.
    pub fn begin_purge(&self, service: &ServiceName) -> Result<Record, RecordError> {
        self.change(service, |old| {
            let record = old.cloned().ok_or_else(|| RecordError::Missing { service: service.clone() })?;
            Ok(Record { journal: None, purging: true, ..record })
        })
    }

    /// Begins a service's record anew, with the images that it names now, and stopped: nothing that it kept is left.
    ///
    /// # Errors
    /// It can't be stored, or there is no such record.
    pub fn renew(&self, service: &ServiceName) -> Result<Record, RecordError> {
        self.change(service, |old| {
            let record = old.cloned().ok_or_else(|| RecordError::Missing { service: service.clone() })?;
            let mut images = record.release.images;
            images.values_mut().for_each(|image| image.id = None);
            Ok(Record { stopped: true, ..Record::new(images) })
        })
    }

    /// Changes a record: stores what `change` makes of it, then tells. Nothing happens when it stays the same.
    ///
    /// # Errors
    /// What `change` says, or it can't be stored; the record stays as it was.
    pub(crate) fn change(
        &self,
        service: &ServiceName,
        change: impl FnOnce(Option<&Record>) -> Result<Record, RecordError>,
    ) -> Result<Record, RecordError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.record(service);
        let new = change(old.as_ref())?;
        if old.as_ref() != Some(&new) {
            file(&self.dir, service).store(&new)?;
            self.current.send_modify(|map| drop(map.insert(service.clone(), new.clone())));
        }
        Ok(new)
    }

    /// Changes a record that has no upgrade at work.
    pub(crate) fn change_idle(
        &self,
        service: &ServiceName,
        change: impl FnOnce(&mut Record),
    ) -> Result<Record, RecordError> {
        self.change(service, |old| {
            let mut record = old.cloned().ok_or_else(|| RecordError::Missing { service: service.clone() })?;
            if let Some(words) = record.busy() {
                return Err(RecordError::Busy { service: service.clone(), words });
            }
            change(&mut record);
            Ok(record)
        })
    }
}

fn file_name(service: &ServiceName) -> String {
    format!("{service}.json")
}

fn file(dir: &Path, service: &ServiceName) -> StateFile<Record> {
    StateFile::new(dir, &file_name(service))
}

/// The services that have a file.
fn names(dir: &Path) -> io::Result<Vec<ServiceName>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        // Others are what a write that was broken off left behind.
        names.extend(name.to_str().and_then(|name| name.strip_suffix(".json")?.parse().ok()));
    }
    Ok(names)
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
