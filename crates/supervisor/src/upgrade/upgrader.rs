//! The task that carries journals out, and what people ask of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use model::{ServiceName, ServiceSpec, UpgradeSpec, VolumeKind};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::drive::{Drive, unix_now};
use super::{Effects, Injector, PathError, Retry, check_path, retag};
use crate::chain;
use crate::record::{PinnedImage, Record, RecordError, RecordMap, Records};

/// Images that were not seen yet when a service was installed are looked for this often.
const PIN: Duration = Duration::from_secs(5);

/// Begins upgrades and ways back. Whoever wants to know how one goes watches the [`Records`]: the journal is there until
/// it has ended, and then [`Record::last`].
#[derive(Debug)]
pub struct Upgrader<H> {
    pub(super) records: Arc<Records>,
    pub(super) host: Arc<H>,
    specs: watch::Receiver<Option<Vec<ServiceSpec>>>,
    /// Services whose journals are being carried out.
    driven: watch::Receiver<BTreeSet<ServiceName>>,
    /// Ends soon after the token is cancelled, at any point of a journal: the next one goes on from there.
    pub task: JoinHandle<()>,
}

/// Why nothing was begun.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// The record can't be changed.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Its definition is not known yet.
    #[error("it is not known yet what {service} is to be; see `agentctl status` for what it waits for")]
    Unknown {
        /// The service.
        service: ServiceName,
    },
    /// It has no images of its own, or no way to change them.
    #[error("{service} can't be upgraded from here; change its image in the configuration")]
    NoUpgrade {
        /// The service.
        service: ServiceName,
    },
    /// A person stopped it.
    #[error("{service} is stopped; `agentctl service start {service}` first, so that it can be seen to work")]
    Stopped {
        /// The service.
        service: ServiceName,
    },
    /// The version may not follow the one in force.
    #[error("{service} can't go there: {source}")]
    Path {
        /// The service.
        service: ServiceName,
        /// Why.
        source: PathError,
    },
    /// There is no former release.
    #[error("{service} has no former release to go back to: it was not upgraded, or went back already")]
    NoFormer {
        /// The service.
        service: ServiceName,
    },
    /// Something that the way back needs is gone.
    #[error("{service} can't go back: {why}")]
    NoWayBack {
        /// The service.
        service: ServiceName,
        /// What.
        why: String,
    },
}

impl<H: Effects> Upgrader<H> {
    /// Starts carrying out journals: first those that an agent before left unfinished.
    pub fn spawn<I: Injector>(
        records: Arc<Records>,
        host: Arc<H>,
        specs: watch::Receiver<Option<Vec<ServiceSpec>>>,
        injector: I,
        retry: Retry,
        token: CancellationToken,
    ) -> Self {
        let mut watch = records.watch();
        // What is begun from here on is not a leftover.
        let leftovers = at_work(&watch.borrow_and_update());
        let (sender, driven) = watch::channel(BTreeSet::new());
        let worker = Worker {
            records: Arc::clone(&records),
            host: Arc::clone(&host),
            injector: Arc::new(injector),
            retry,
            driven: sender,
        };
        let task = tokio::spawn(async move {
            let _ = token.run_until_cancelled(worker.run(watch, leftovers)).await;
        });
        Self { records, host, specs, driven, task }
    }

    /// Begins an upgrade of a service to the tag, or the image reference, `to`.
    ///
    /// # Errors
    /// It can't be begun; nothing was changed.
    pub async fn upgrade(&self, service: &ServiceName, to: &str) -> Result<Record, UpgradeError> {
        let Upgradable { spec, upgrade, record: _, image: old } = self.upgradable(service)?;
        let reference = retag(&old.reference, to);
        // A tag that says nothing may still be right: the image itself is asked once it is here.
        match check_path(upgrade.path, (&old.reference, None), (&reference, None)) {
            Ok(()) | Err(PathError::Unknown { .. }) => {}
            Err(source) => return Err(UpgradeError::Path { service: service.clone(), source }),
        }
        let state = |kind| matches!(kind, VolumeKind::State);
        let volumes = spec.volumes.iter().filter(|volume| state(volume.kind)).map(|volume| volume.name.clone());
        let databases: BTreeSet<_> = upgrade.databases.iter().map(|database| database.container.clone()).collect();
        let (volumes, databases): (Vec<_>, Vec<_>) = (volumes.collect(), databases.into_iter().collect());
        // What is left must be found again, whatever its tag comes to mean.
        if let Ok(seen) = self.host.images_in_use(service).await {
            self.records.pin(service, &seen)?;
        }
        let begun = self.records.change_idle(service, |record| {
            // A person may have stopped it meanwhile.
            if !record.stopped {
                *record = record.begin_upgrade(&upgrade.units, &reference, volumes, databases, unix_now());
            }
        })?;
        if begun.journal.is_some() { Ok(begun) } else { Err(UpgradeError::Stopped { service: service.clone() }) }
    }

    /// Begins the way back to the former release: its images, and what was copied and dumped of it when it was left.
    /// What was written since is lost, but for what people put into volumes that are never copied.
    ///
    /// # Errors
    /// It can't be begun; nothing was changed.
    pub async fn rollback(&self, service: &ServiceName) -> Result<Record, UpgradeError> {
        let missing = || RecordError::Missing { service: service.clone() };
        let no_former = || UpgradeError::NoFormer { service: service.clone() };
        let record = self.records.record(service).ok_or_else(missing)?;
        let former = record.former.ok_or_else(no_former)?;
        if record.stopped {
            return Err(UpgradeError::Stopped { service: service.clone() });
        }
        self.spec(service)?;
        let way = self.host.way_back(service, &former, &record.release).await;
        way.map_err(|why| UpgradeError::NoWayBack { service: service.clone(), why })?;
        let begun = self.records.change_idle(service, |record| {
            // Another one may have been quicker.
            if record.former.as_ref() == Some(&former)
                && !record.stopped
                && let Some(begun) = record.begin_rollback(unix_now())
            {
                *record = begun;
            }
        })?;
        if begun.journal.is_some() { Ok(begun) } else { Err(no_former()) }
    }

    /// Gives up for good whatever is at work on a service, so that all of it can be removed. What a step had begun on the host
    /// may still run; nothing is begun any more.
    ///
    /// # Errors
    /// The record can't be changed; what is at work goes on.
    pub async fn give_up(&self, service: &ServiceName) -> Result<Record, RecordError> {
        let record = self.records.begin_purge(service)?;
        // When the agent is stopping nothing is at work either.
        let _ = self.driven.clone().wait_for(|driven| !driven.contains(service)).await;
        Ok(record)
    }

    /// A service that can be upgraded now.
    pub(super) fn upgradable(&self, service: &ServiceName) -> Result<Upgradable, UpgradeError> {
        let spec = self.spec(service)?;
        let Some(upgrade) = spec.upgrade.clone().filter(|upgrade| !upgrade.units.is_empty()) else {
            return Err(UpgradeError::NoUpgrade { service: service.clone() });
        };
        let record = self.records.record(service).ok_or_else(|| RecordError::Missing { service: service.clone() })?;
        if record.stopped {
            return Err(UpgradeError::Stopped { service: service.clone() });
        }
        let image = upgrade.units.iter().find_map(|unit| record.release.images.get(unit)).cloned();
        let image = image.ok_or_else(|| UpgradeError::NoUpgrade { service: service.clone() })?;
        Ok(Upgradable { spec, upgrade, record, image })
    }

    fn spec(&self, service: &ServiceName) -> Result<ServiceSpec, UpgradeError> {
        let specs = self.specs.borrow();
        let spec = specs.iter().flatten().find(|spec| &spec.name == service);
        spec.cloned().ok_or_else(|| UpgradeError::Unknown { service: service.clone() })
    }
}

/// A service that can be upgraded.
pub(super) struct Upgradable {
    pub(super) spec: ServiceSpec,
    pub(super) upgrade: UpgradeSpec,
    pub(super) record: Record,
    /// The application's image in force.
    pub(super) image: PinnedImage,
}

struct Worker<H, I> {
    records: Arc<Records>,
    host: Arc<H>,
    injector: Arc<I>,
    retry: Retry,
    driven: watch::Sender<BTreeSet<ServiceName>>,
}

/// A journal is being carried out, until dropped.
struct Driven {
    service: ServiceName,
    all: watch::Sender<BTreeSet<ServiceName>>,
}

impl Drop for Driven {
    fn drop(&mut self) {
        self.all.send_if_modified(|all| all.remove(&self.service));
    }
}

impl<H: Effects, I: Injector> Worker<H, I> {
    async fn run(self, mut watch: watch::Receiver<RecordMap>, leftovers: BTreeSet<ServiceName>) {
        let mut busy = BTreeSet::new();
        let mut drives = JoinSet::new();
        for service in leftovers {
            busy.insert(service.clone());
            drives.spawn(self.drive(service, true));
        }
        loop {
            let fresh: Vec<_> = at_work(&watch.borrow_and_update()).difference(&busy).cloned().collect();
            for service in fresh {
                busy.insert(service.clone());
                drives.spawn(self.drive(service, false));
            }
            let unpinned = unpinned(&watch.borrow_and_update());
            for service in &unpinned {
                self.pin(service).await;
            }
            tokio::select! {
                () = sleep(PIN), if !unpinned.is_empty() => {}
                changed = watch.changed() => if changed.is_err() { return },
                Some(ended) = drives.join_next() => match ended {
                    Ok(service) => drop(busy.remove(&service)),
                    Err(failure) => error!("an upgrade was broken off and goes on when the agent starts again: {failure}"),
                },
            }
        }
    }

    /// Notes which images a service was installed with, once they run: a tag that moves changes nothing from there on.
    async fn pin(&self, service: &ServiceName) {
        let Ok(seen) = self.host.images_in_use(service).await else { return };
        if let Err(failure) = self.records.pin(service, &seen) {
            warn!(%service, "its images can't be noted, which is tried again: {}", chain(&failure));
        }
    }

    fn drive(&self, service: ServiceName, leftover: bool) -> impl Future<Output = ServiceName> + use<H, I> {
        let (records, host) = (Arc::clone(&self.records), Arc::clone(&self.host));
        let (injector, retry) = (Arc::clone(&self.injector), self.retry);
        let driven = Driven { service: service.clone(), all: self.driven.clone() };
        self.driven.send_if_modified(|all| all.insert(service.clone()));
        async move {
            let _driven = driven;
            let drive = Drive { service: &service, records: &records, host: &*host, injector: &*injector, retry };
            let work = async { if leftover { drive.resume().await } else { drive.run().await } };
            let mut watch = records.watch();
            tokio::select! {
                _ = work => {}
                Ok(_) = watch.wait_for(|all| all.get(&service).is_none_or(|record| record.purging)) => {
                    warn!(%service, "what was at work is given up: all of the service is being removed");
                }
            }
            service
        }
    }
}

fn at_work(records: &RecordMap) -> BTreeSet<ServiceName> {
    records.iter().filter(|(_, record)| record.journal.is_some()).map(|(service, _)| service.clone()).collect()
}

/// Services with nothing at work and an image whose id is not known.
fn unpinned(records: &RecordMap) -> Vec<ServiceName> {
    let idle = records.iter().filter(|(_, record)| record.journal.is_none());
    let unknown = idle.filter(|(_, record)| record.release.images.values().any(|image| image.id.is_none()));
    unknown.map(|(service, _)| service.clone()).collect()
}
