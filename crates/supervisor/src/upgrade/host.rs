//! [`Effects`] with an engine and a supervisor.

mod data;
mod prepare;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use model::{Check, Generation, Run, ServiceName, ServiceSpec, UpgradeSpec};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::{Effects, Failure, Journal, Step};
use crate::chain;
use crate::observed::{EngineState, Observed};
use crate::plan::fits;
use crate::probe::ask;
use crate::record::{Former, PinnedImage, Release, Wanted};
use crate::storage::Storage;
use crate::supervisor::{Applied, Supervisor};

/// The host is looked at this often while something is awaited.
const LOOK: Duration = Duration::from_millis(500);
/// For the supervisor to hear what is wanted, and for databases to be ready.
const REST: Duration = Duration::from_secs(300);
/// For a copy, a dump, a restore of a large service.
const LONG: Duration = Duration::from_secs(6 * 3600);
/// Lines of a container's output that go into a failure.
const LOG_LINES: usize = 20;

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub struct HostOptions {
    /// Until a release is healthy and up to date. Migrations of large databases take their time.
    pub settle: Duration,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self { settle: Duration::from_secs(3600) }
    }
}

/// This host: its engine, and what its supervisor says.
#[derive(Debug)]
pub struct Host<E> {
    engine: Arc<E>,
    specs: watch::Receiver<Option<Vec<ServiceSpec>>>,
    applied: watch::Receiver<BTreeMap<ServiceName, Applied>>,
    restarts: watch::Receiver<BTreeMap<String, u64>>,
    options: HostOptions,
}

/// Why something is not as it should be, in words for people.
type Words = String;

impl<E: Storage> Host<E> {
    /// The host with this engine, whose supervisor follows `specs`.
    #[must_use]
    pub fn new(
        engine: Arc<E>,
        specs: watch::Receiver<Option<Vec<ServiceSpec>>>,
        supervisor: &Supervisor,
        options: HostOptions,
    ) -> Self {
        Self { engine, specs, applied: supervisor.applied.clone(), restarts: supervisor.restarts.clone(), options }
    }

    /// The definition of the service, as it is now.
    fn definition(&self, service: &ServiceName) -> Result<ServiceSpec, Words> {
        let specs = self.specs.borrow();
        let spec = specs.iter().flatten().find(|spec| &spec.name == service);
        Ok(spec.cloned().ok_or("it is not known yet what the service is to be")?)
    }

    /// The definition of a service that can be upgraded.
    fn spec(&self, service: &ServiceName) -> Result<(ServiceSpec, UpgradeSpec), Words> {
        let spec = self.definition(service)?;
        let upgrade = spec.upgrade.clone().ok_or("the service has no upgrade of its own")?;
        Ok((spec, upgrade))
    }

    /// The definition once it is made from what is wanted, and the supervisor acts on it and on nothing older.
    async fn acted_on(&self, service: &ServiceName, wanted: &Wanted) -> Result<(ServiceSpec, UpgradeSpec), Words> {
        let expected = Applied { generation: wanted.release.generation, run: wanted.run.clone() };
        let mut applied = self.applied.clone();
        let acts = timeout(REST, applied.wait_for(|all| all.get(service) == Some(&expected))).await;
        match acts {
            Ok(Ok(_)) => self.spec(service),
            Ok(Err(_)) => Err("the agent is stopping".into()),
            Err(_) => Err(format!("the supervisor did not act on the change within {} s", REST.as_secs())),
        }
    }

    async fn observe(&self) -> Result<Observed, Words> {
        self.engine.observe().await.map_err(|error| chain(&error))
    }

    /// Asks a check of the service.
    async fn ask(&self, observed: &Observed, check: &Check) -> Result<(), Words> {
        let container = check.container.as_ref().and_then(|name| observed.ours(name));
        ask(&*self.engine, check, container.map(|container| container.id.as_str())).await.map_err(|error| chain(&error))
    }

    /// Whether nothing runs of the service but `only`, and these are ready.
    async fn rests(&self, spec: &ServiceSpec, only: &[String]) -> Result<(), Words> {
        let observed = self.observe().await?;
        let running = observed.containers.iter().filter(|container| {
            container.owned.as_ref().is_some_and(|owned| owned.service == spec.name)
                && matches!(container.state, EngineState::Running | EngineState::Paused)
        });
        let name = |full: &str| full.strip_prefix(crate::NAME_PREFIX).unwrap_or(full).to_owned();
        if let Some(other) = running.map(|container| name(&container.name)).find(|name| !only.contains(name)) {
            return Err(format!("{other} still runs"));
        }
        for unit in spec.units.iter().filter(|unit| only.contains(&unit.container.name)) {
            let runs = observed.ours(&unit.container.name).is_some_and(|c| c.state == EngineState::Running);
            let ready = match &unit.ready {
                Some(check) if runs => self.ask(&observed, check).await,
                _ if runs => Ok(()),
                _ => Err("it does not run".into()),
            };
            ready.map_err(|why| format!("{} is not ready: {why}", unit.container.name))?;
        }
        Ok(())
    }

    /// Whether all of the service runs as it is defined and works.
    async fn works(&self, spec: &ServiceSpec, up_to_date: &[Check]) -> Result<(), Words> {
        let observed = self.observe().await?;
        for unit in &spec.units {
            let name = &unit.container.name;
            let container = observed
                .ours(name)
                .filter(|container| container.state == EngineState::Running && fits(&unit.container, container));
            container.ok_or_else(|| format!("{name} does not run"))?;
            if let Some(check) = &unit.ready {
                self.ask(&observed, check).await.map_err(|why| format!("{name} is not ready: {why}"))?;
            }
        }
        for check in spec.checks.iter().chain(up_to_date) {
            self.ask(&observed, check).await?;
        }
        Ok(())
    }

    /// How often containers of the application were started again, and which was so more often than in `before`.
    fn restarted(&self, upgrade: &UpgradeSpec, before: &BTreeMap<String, u64>) -> Option<String> {
        let count = |all: &BTreeMap<String, u64>, unit: &String| all.get(unit).copied().unwrap_or(0);
        let restarts = self.restarts.borrow();
        upgrade.units.iter().find(|unit| count(&restarts, unit) > count(before, unit)).cloned()
    }

    async fn last_lines(&self, unit: &str) -> Vec<String> {
        let Ok(observed) = self.engine.observe().await else { return Vec::new() };
        let Some(container) = observed.ours(unit) else { return Vec::new() };
        self.engine.log_tail(&container.id, LOG_LINES).await.unwrap_or_default()
    }

    async fn settles(
        &self,
        service: &ServiceName,
        wanted: &Wanted,
        step: Step,
        up_to_date: bool,
    ) -> Result<(), Failure> {
        let before = self.restarts.borrow().clone();
        let words = |why: Words| Failure::new(step, why);
        let (spec, upgrade) = self.acted_on(service, wanted).await.map_err(words)?;
        let checks = if up_to_date { &upgrade.up_to_date[..] } else { &[] };
        let until = Instant::now() + self.options.settle;
        loop {
            // Names and addresses may change meanwhile.
            let spec = self.definition(service).unwrap_or_else(|_| spec.clone());
            let Err(why) = self.works(&spec, checks).await else { return Ok(()) };
            let ended = self.restarted(&upgrade, &before);
            let reason = match &ended {
                Some(unit) => format!("{unit} ended by itself; {why}"),
                None if Instant::now() > until => {
                    format!("not healthy within {} s: {why}", self.options.settle.as_secs())
                }
                None => {
                    sleep(LOOK).await;
                    continue;
                }
            };
            let unit = ended.as_ref().or(upgrade.units.first());
            let log = match unit {
                Some(unit) => self.last_lines(unit).await,
                None => Vec::new(),
            };
            return Err(Failure { step, reason, log });
        }
    }
}

impl<E: Storage> Effects for Host<E> {
    async fn images_in_use(&self, service: &ServiceName) -> Result<BTreeMap<String, PinnedImage>, String> {
        let spec = self.definition(service)?;
        let observed = self.observe().await?;
        let images = spec.units.iter().filter_map(|unit| {
            let container = observed.ours(&unit.container.name)?;
            let runs = container.state == EngineState::Running && fits(&unit.container, container);
            let id = Some(container.image_id.clone());
            let image = || PinnedImage { reference: unit.container.image.clone(), id };
            runs.then(|| (unit.container.name.clone(), image()))
        });
        Ok(images.collect())
    }

    async fn version(&self, image: &PinnedImage) -> Option<String> {
        self.says(image).await
    }

    async fn prepare(
        &self,
        service: &ServiceName,
        journal: &Journal,
    ) -> Result<BTreeMap<String, PinnedImage>, Failure> {
        self.prepared(service, journal).await.map_err(|why| Failure::new(journal.step, why))
    }

    async fn rest(&self, service: &ServiceName, wanted: &Wanted, journal: &Journal) -> Result<(), Failure> {
        let words = |why: Words| Failure::new(journal.step, why);
        let (spec, _) = self.acted_on(service, wanted).await.map_err(words)?;
        self.engine.end_helper(service).await.map_err(|error| words(chain(&error)))?;
        let only = match &wanted.run {
            Run::Only(units) => &units[..],
            Run::All | Run::Nothing => &[],
        };
        let graces = spec.units.iter().map(|unit| unit.container.stop_grace).sum::<Duration>();
        let until = Instant::now() + REST + graces;
        loop {
            match self.rests(&spec, only).await {
                Ok(()) => return Ok(()),
                Err(why) if Instant::now() > until => return Err(words(why)),
                Err(_) => sleep(LOOK).await,
            }
        }
    }

    async fn copy(&self, service: &ServiceName, journal: &Journal, from: &str, to: &str) -> Result<(), Failure> {
        self.copied(service, journal, from, to).await.map_err(|why| Failure::new(journal.step, why))
    }

    async fn dump(&self, service: &ServiceName, journal: &Journal) -> Result<(), Failure> {
        self.dumped(service, journal).await
    }

    async fn restore(&self, service: &ServiceName, journal: &Journal) -> Result<(), Failure> {
        self.restored(service, journal).await
    }

    async fn settle(
        &self,
        service: &ServiceName,
        wanted: &Wanted,
        journal: &Journal,
        up_to_date: bool,
    ) -> Result<(), Failure> {
        self.settles(service, wanted, journal.step, up_to_date).await
    }

    async fn finish(&self, service: &ServiceName, journal: &Journal) -> Result<Option<String>, Failure> {
        let words = |why: Words| Failure::new(journal.step, why);
        let (_, upgrade) = self.spec(service).map_err(words)?;
        let mut troubles = Vec::new();
        for hook in &upgrade.after {
            let output = self.run_in(&hook.container, &hook.user, &hook.command, hook.timeout).await;
            match output {
                Ok(output) if output.code == 0 || hook.also_fine.contains(&output.code) => {}
                Ok(output) => troubles.push(format!("{} failed: {}", hook.what, data::said(&output))),
                Err(why) => troubles.push(format!("{} failed: {why}", hook.what)),
            }
        }
        Ok((!troubles.is_empty()).then(|| troubles.join("; ")))
    }

    async fn way_back(&self, service: &ServiceName, former: &Former, in_force: &Release) -> Result<(), String> {
        self.has_way_back(service, former, in_force).await
    }

    async fn discard(&self, service: &ServiceName, journal: &Journal, keep: Option<Generation>) -> Result<(), Failure> {
        self.discarded(service, journal, keep).await.map_err(|why| Failure::new(journal.step, why))
    }
}
