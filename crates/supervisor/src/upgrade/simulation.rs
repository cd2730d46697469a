//! A host in memory, on which upgrades are broken off at every point.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use model::{Generation, Run, ServiceName};
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::drive::Drive;
use super::*;
use crate::record::{Former, PinnedImage, Records, Release, Wanted};

const VOLUME: &str = "cloudathome-app";

/// What a volume or the database holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Content {
    /// The number of the last thing that a person wrote.
    writes: u64,
    /// The generation whose form it has.
    form: u64,
    /// Half copied or half restored.
    torn: bool,
}

#[derive(Default)]
struct World {
    volumes: BTreeMap<String, Content>,
    database: Content,
    dumps: BTreeMap<u64, Content>,
    /// A restore runs in the database's container: it outlives the agent, but not the container.
    restoring: bool,
    /// The generation of the application that runs.
    running: Option<u64>,
    /// What the supervisor acts on.
    applied: Option<Wanted>,
    /// Generations that never get healthy.
    broken: BTreeSet<u64>,
    /// How many things people have written.
    writes: u64,
    /// Effects that fail, counted from now.
    faults: BTreeSet<usize>,
    effects: usize,
}

impl World {
    /// The supervisor acts on what is wanted.
    fn apply(&mut self, wanted: Wanted) {
        self.running = match &wanted.run {
            Run::All => Some(wanted.release.generation.0),
            Run::Nothing | Run::Only(_) => None,
        };
        self.restoring &= wanted.run != Run::Nothing;
        if let Some(generation) = self.running {
            assert!(!self.restoring, "the application runs while its database is restored");
            for content in [self.volumes.get_mut(VOLUME).unwrap(), &mut self.database] {
                assert!(!content.torn, "the application of generation {generation} started on {content:?}");
                assert!(content.form <= generation, "generation {generation} started on data of {content:?}");
                content.form = generation;
            }
            if wanted.held.is_none() && !self.broken.contains(&generation) {
                assert_eq!(self.database.writes, self.writes, "what people wrote last is there");
                self.writes += 1;
                self.database.writes = self.writes;
                self.volumes.get_mut(VOLUME).unwrap().writes = self.writes;
            }
        }
        self.applied = Some(wanted);
    }

    fn still(&self) {
        assert_eq!(self.running, None, "the application runs while its data is touched");
        assert!(self.applied.as_ref().is_some_and(|wanted| wanted.held.is_some()), "people use it meanwhile");
    }
}

/// Dies at the points whose numbers were given, counted from the last death.
struct Deaths {
    left: Mutex<Vec<usize>>,
    passed: Mutex<usize>,
    died: Notify,
}

impl Injector for Deaths {
    async fn at(&self, _: Point) {
        let dies = {
            let (mut left, mut passed) = (self.left.lock().unwrap(), self.passed.lock().unwrap());
            let dies = left.first() == Some(&*passed);
            *passed += 1;
            if dies {
                left.remove(0);
                *passed = 0;
            }
            dies
        };
        if dies {
            self.died.notify_one();
            std::future::pending::<()>().await;
        }
    }
}

struct SimHost {
    world: Arc<Mutex<World>>,
    deaths: Arc<Deaths>,
}

impl SimHost {
    fn with<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        change(&mut self.world.lock().unwrap())
    }

    /// A place in the middle of an effect.
    async fn middle(&self, step: Step) {
        self.deaths.at(Point::Before(step, "the middle".into())).await;
    }

    fn fails(&self, step: Step) -> Result<(), Failure> {
        self.with(|world| {
            world.effects += 1;
            if world.faults.contains(&world.effects) { Err(Failure::new(step, "a fault")) } else { Ok(()) }
        })
    }
}

impl Effects for SimHost {
    async fn images_in_use(&self, _: &ServiceName) -> Result<BTreeMap<String, PinnedImage>, String> {
        Ok(BTreeMap::new())
    }

    async fn version(&self, _: &PinnedImage) -> Option<String> {
        None
    }

    async fn prepare(&self, _: &ServiceName, journal: &Journal) -> Result<BTreeMap<String, PinnedImage>, Failure> {
        self.middle(journal.step).await;
        self.fails(journal.step)?;
        let mut images = journal.new.images.clone();
        images.values_mut().for_each(|image| image.id = Some(format!("sha256:{}", image.reference)));
        Ok(images)
    }

    async fn rest(&self, _: &ServiceName, wanted: &Wanted, journal: &Journal) -> Result<(), Failure> {
        self.fails(journal.step)?;
        while !self.with(|world| world.applied.as_ref().is_some_and(|applied| applied.run == wanted.run)) {
            sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    async fn copy(&self, _: &ServiceName, journal: &Journal, from: &str, to: &str) -> Result<(), Failure> {
        let whole = self.with(|world| {
            world.still();
            let whole = *world.volumes.get(from).expect("copies what is there");
            assert!(!whole.torn, "copies what is torn");
            world.volumes.insert(to.into(), Content { torn: true, ..Content::default() });
            whole
        });
        self.middle(journal.step).await;
        self.fails(journal.step)?;
        self.with(|world| {
            world.still();
            world.volumes.insert(to.into(), whole);
        });
        Ok(())
    }

    async fn dump(&self, _: &ServiceName, journal: &Journal) -> Result<(), Failure> {
        let generation = journal.old.generation;
        self.with(|world| {
            world.still();
            world.dumps.insert(generation.0, Content { torn: true, ..Content::default() });
        });
        self.middle(journal.step).await;
        self.fails(journal.step)?;
        self.with(|world| world.dumps.insert(generation.0, world.database));
        Ok(())
    }

    async fn restore(&self, _: &ServiceName, journal: &Journal) -> Result<(), Failure> {
        let generation = journal.old.generation;
        self.with(|world| {
            world.still();
            assert!(!world.restoring, "two restores at once");
            world.restoring = true;
            assert!(!world.dumps[&generation.0].torn, "restores from half a dump");
            world.database = Content { torn: true, ..Content::default() };
        });
        self.middle(journal.step).await;
        self.with(|world| world.restoring = false);
        self.fails(journal.step)?;
        self.with(|world| world.database = world.dumps[&generation.0]);
        Ok(())
    }

    async fn settle(&self, _: &ServiceName, wanted: &Wanted, journal: &Journal, _: bool) -> Result<(), Failure> {
        self.fails(journal.step)?;
        let generation = wanted.release.generation.0;
        let healthy = async {
            while !self.with(|world| {
                let acts = world.applied.as_ref().is_some_and(|applied| applied.release == wanted.release);
                acts && world.running == Some(generation) && !world.broken.contains(&generation)
            }) {
                sleep(Duration::from_secs(1)).await;
            }
        };
        let late = timeout(Duration::from_secs(600), healthy).await;
        self.middle(journal.step).await;
        late.map_err(|_| Failure::new(journal.step, "it does not get healthy"))
    }

    async fn finish(&self, _: &ServiceName, journal: &Journal) -> Result<Option<String>, Failure> {
        sleep(Duration::from_secs(10)).await;
        self.middle(journal.step).await;
        self.fails(journal.step).map(|()| Some("an app has no new version".into()))
    }

    async fn way_back(&self, _: &ServiceName, _: &Former, _: &Release) -> Result<(), String> {
        Ok(())
    }

    async fn discard(&self, _: &ServiceName, journal: &Journal, keep: Option<Generation>) -> Result<(), Failure> {
        self.fails(journal.step)?;
        self.with(|world| {
            let kept = keep.map(|generation| copy_name(VOLUME, generation));
            world.volumes.retain(|name, _| name == VOLUME || Some(name) == kept.as_ref());
        });
        self.middle(journal.step).await;
        self.with(|world| world.dumps.retain(|generation, _| Some(Generation(*generation)) == keep));
        Ok(())
    }
}

/// A host with one service, whose agent can die.
struct Simulation {
    service: ServiceName,
    dir: TempDir,
    host: SimHost,
    records: Arc<Records>,
    supervisor: Option<JoinHandle<()>>,
}

#[derive(Debug, Clone)]
enum Wish {
    Upgrade { broken: bool },
    Rollback,
}

impl Drop for Simulation {
    fn drop(&mut self) {
        self.supervisor.take().inspect(|task| task.abort());
    }
}

impl Simulation {
    async fn start() -> Self {
        // In memory where that is possible: thousands of runs write hundreds of thousands of journals.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let world = World {
            volumes: [(VOLUME.to_owned(), Content { form: 1, ..Content::default() })].into(),
            database: Content { form: 1, ..Content::default() },
            ..World::default()
        };
        let deaths = Deaths { left: Mutex::default(), passed: Mutex::default(), died: Notify::new() };
        let host = SimHost { world: Arc::new(Mutex::new(world)), deaths: Arc::new(deaths) };
        let records = Arc::new(Records::open(dir.path().join("services")).unwrap());
        let service: ServiceName = "app".parse().unwrap();
        let image = |reference: &str| PinnedImage { reference: reference.into(), id: Some("sha256:1".into()) };
        let images = [("app".to_owned(), image("app:1")), ("db".to_owned(), image("db:1"))].into();
        records.install(&service, images).unwrap();
        let mut simulation = Self { service, dir, host, records, supervisor: None };
        simulation.boot(Duration::ZERO);
        simulation.calm().await;
        simulation
    }

    /// A new agent: what it knows is what is on the disk.
    fn boot(&mut self, delay: Duration) {
        self.supervisor.take().inspect(|task| task.abort());
        self.records = Arc::new(Records::open(self.dir.path().join("services")).unwrap());
        let mut watch = self.records.watch();
        let (world, service) = (Arc::clone(&self.host.world), self.service.clone());
        self.supervisor = Some(tokio::spawn(async move {
            loop {
                sleep(delay).await;
                let wanted = watch.borrow_and_update()[&service].wanted();
                world.lock().unwrap().apply(wanted);
                if watch.changed().await.is_err() {
                    return;
                }
            }
        }));
    }

    /// Until the supervisor acts on what is wanted now.
    async fn calm(&self) {
        let wanted = self.records.record(&self.service).unwrap().wanted();
        while !self.host.with(|world| world.applied.as_ref() == Some(&wanted)) {
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Lets a wish be carried out while the agent dies at these points. Returns how many points were passed after the
    /// last death.
    async fn carry_out(&mut self, wish: &Wish, deaths: &[usize], reboots: bool, delay: Duration) -> usize {
        *self.host.deaths.left.lock().unwrap() = deaths.to_vec();
        *self.host.deaths.passed.lock().unwrap() = 0;
        let begun = self.records.change_idle(&self.service, |record| match wish {
            Wish::Upgrade { broken } => {
                let next = record.newest.next();
                if *broken {
                    self.host.with(|world| world.broken.insert(next.0));
                }
                let reference = format!("app:{next}");
                *record = record.begin_upgrade(&["app".into()], &reference, vec![VOLUME.into()], vec!["db".into()], 7);
            }
            Wish::Rollback => {
                if let Some(begun) = record.begin_rollback(7) {
                    *record = begun;
                    // What was written since is given up.
                    let former = former(record).unwrap();
                    self.host.with(|world| world.writes = world.volumes[&copy_name(VOLUME, former)].writes);
                }
            }
        });
        if begun.unwrap().journal.is_none() {
            return 0;
        }
        let mut first = true;
        loop {
            let dead = {
                let drive = Drive {
                    service: &self.service,
                    records: &self.records,
                    host: &self.host,
                    injector: &*self.host.deaths,
                    retry: Retry::default(),
                };
                let work = async { if first { drive.run().await } else { drive.resume().await } };
                tokio::select! {
                    _ = work => false,
                    () = self.host.deaths.died.notified() => true,
                }
            };
            if !dead {
                self.calm().await;
                return *self.host.deaths.passed.lock().unwrap();
            }
            first = false;
            if reboots {
                self.host.with(|world| {
                    world.running = None;
                    world.restoring = false;
                    world.applied = None;
                });
            }
            self.boot(delay);
        }
    }

    /// Everything that must hold whenever nothing is at work. `before` is what there was when the wish was made.
    fn check(&self, before: &Before, wish: &Wish) {
        let record = self.records.record(&self.service).unwrap();
        assert_eq!(record.journal, None);
        let wanted = record.wanted();
        assert_eq!((&wanted.run, &wanted.held), (&Run::All, &None), "it runs, and people may use it");
        let generation = record.release.generation;
        self.host.with(|world| {
            assert_eq!(world.running, Some(generation.0));
            let volume = world.volumes[VOLUME];
            assert_eq!(volume, world.database, "volume and database belong together");
            assert_eq!((volume.form, volume.torn), (generation.0, false));
            assert_eq!(volume.writes, world.writes, "what people wrote last is there");
            let ended = record.last.as_ref();
            match wish {
                Wish::Upgrade { broken: true } => assert_eq!(generation, before.generation),
                Wish::Upgrade { broken: false } if generation == before.generation => {
                    assert!(ended.is_some_and(|ended| ended.failure.is_some()), "it says why it stays");
                }
                Wish::Upgrade { broken: false } => assert_eq!(Some(before.generation), former(&record)),
                Wish::Rollback => assert_eq!(generation, before.former.unwrap_or(before.generation)),
            }
            let copies: BTreeSet<_> = former(&record).map(|former| copy_name(VOLUME, former)).into_iter().collect();
            let found: BTreeSet<_> = world.volumes.keys().filter(|name| *name != VOLUME).cloned().collect();
            let dumps: Vec<_> = world.dumps.keys().map(|&generation| Generation(generation)).collect();
            if world.faults.is_empty() {
                assert_eq!(found, copies, "only what is of use is kept");
                assert_eq!(dumps, former(&record).into_iter().collect::<Vec<_>>());
            } else {
                assert!(found.is_superset(&copies), "the way back is there");
            }
            if let Some(former) = former(&record) {
                let (copy, dump) = (world.volumes[&copy_name(VOLUME, former)], world.dumps[&former.0]);
                assert_eq!(copy, dump, "copy and dump belong together");
                assert_eq!((copy.form, copy.torn), (former.0, false));
            }
        });
    }

    fn before(&self) -> Before {
        let record = self.records.record(&self.service).unwrap();
        Before { generation: record.release.generation, former: former(&record) }
    }
}

struct Before {
    generation: Generation,
    former: Option<Generation>,
}

fn former(record: &crate::Record) -> Option<Generation> {
    record.former.as_ref().map(|former| former.release.generation)
}

fn simulate<F: Future>(test: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(test)
}

/// The wishes before the one that is looked at, so that there are former releases.
async fn with_history() -> Simulation {
    let mut simulation = Simulation::start().await;
    for _ in 0..2 {
        let wish = Wish::Upgrade { broken: false };
        let before = simulation.before();
        simulation.carry_out(&wish, &[], false, Duration::ZERO).await;
        simulation.check(&before, &wish);
    }
    simulation
}

#[test]
fn an_agent_that_dies_at_any_point_and_once_more_finishes_or_goes_back() {
    for wish in [Wish::Upgrade { broken: false }, Wish::Upgrade { broken: true }, Wish::Rollback] {
        let points = simulate(async {
            let mut simulation = with_history().await;
            let before = simulation.before();
            let points = simulation.carry_out(&wish, &[], false, Duration::ZERO).await;
            simulation.check(&before, &wish);
            points
        });
        assert!(points > 15, "{wish:?} passes {points} points");
        for death in 0..points {
            // The second death comes at each point of the way that the first one left.
            let mut second = 0;
            loop {
                let reboots = second % 2 == 0;
                let left = simulate(async {
                    let mut simulation = with_history().await;
                    let before = simulation.before();
                    simulation.carry_out(&wish, &[death, second], reboots, Duration::from_secs(3)).await;
                    simulation.check(&before, &wish);
                    simulation.host.deaths.left.lock().unwrap().len()
                });
                if left > 0 {
                    break;
                }
                second += 1;
            }
        }
    }
}

#[test]
fn without_a_death_the_new_release_is_in_force_and_a_broken_one_leads_back() {
    simulate(async {
        let mut simulation = with_history().await;
        let record = simulation.records.record(&simulation.service).unwrap();
        assert_eq!(record.release.generation, Generation(3));
        assert!(record.last.unwrap().words().ends_with("; an app has no new version"));
        assert_eq!(record.release.images["app"].reference, "app:3");
        assert_eq!(record.release.images["app"].id.as_deref(), Some("sha256:app:3"));
        assert_eq!(record.release.images["db"].reference, "db:1");

        simulation.carry_out(&Wish::Upgrade { broken: true }, &[], false, Duration::ZERO).await;
        let record = simulation.records.record(&simulation.service).unwrap();
        assert_eq!((record.release.generation, former(&record)), (Generation(3), Some(Generation(2))));
        let words = record.last.unwrap().words();
        assert!(words.contains("went back to app:3, db:1 (generation 3)"), "{words}");
        assert!(words.contains("it does not get healthy"), "{words}");

        let written = simulation.host.with(|world| world.volumes[&copy_name(VOLUME, Generation(2))].writes);
        simulation.carry_out(&Wish::Rollback, &[], false, Duration::ZERO).await;
        let record = simulation.records.record(&simulation.service).unwrap();
        assert_eq!((record.release.generation, former(&record)), (Generation(2), None));
        assert_eq!(record.newest, Generation(4), "a number is used once");
        // The release has one more: what was written after it was back.
        assert!(written > 0);
        let before = simulation.before();
        simulation.carry_out(&Wish::Rollback, &[], false, Duration::ZERO).await;
        simulation.check(&before, &Wish::Rollback);
    });
}

fn wishes() -> impl Strategy<Value = Wish> {
    prop_oneof![
        3 => any::<bool>().prop_map(|broken| Wish::Upgrade { broken }),
        1 => Just(Wish::Rollback),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn any_history_of_wishes_deaths_and_faults_ends_in_one_release_whole(
        history in prop::collection::vec(
            (wishes(), prop::collection::vec(0..30usize, 0..4), prop::collection::btree_set(1..25usize, 0..4)),
            1..5,
        ),
        reboots: bool,
        delay in 0..5000u64,
    ) {
        simulate(async {
            let mut simulation = Simulation::start().await;
            for (wish, deaths, faults) in &history {
                let before = simulation.before();
                simulation.host.with(|world| {
                    world.faults.extend(faults.iter().map(|fault| world.effects + fault));
                });
                simulation.carry_out(wish, deaths, reboots, Duration::from_millis(delay)).await;
                simulation.check(&before, wish);
            }
        });
    }
}
