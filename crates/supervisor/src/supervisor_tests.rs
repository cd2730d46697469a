use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;

use bollard::errors::Error as DockerError;
use model::{Check, ContainerState, Generation, Network, PortBinding, Probe, SecretFile, Unit};

use super::*;
use crate::NAME_PREFIX;
use crate::engine::ExecOutput;
use crate::observed::{EngineState, LABEL_DEFINITION, LABEL_POSITION, ObservedContainer, Owned};

/// What it does takes a moment, so that what comes in between can be seen.
const TAKES: Duration = Duration::from_millis(20);

/// An engine in memory that does as the tests tell it.
#[derive(Default)]
struct FakeEngine {
    world: Mutex<World>,
}

#[derive(Default)]
struct World {
    gone: bool,
    observed: Observed,
    images: BTreeSet<String>,
    pullable: BTreeSet<String>,
    missing_address: bool,
    /// Commands that fail, as `COMMAND in CONTAINER`.
    failing: BTreeSet<String>,
    uploads: HashMap<String, usize>,
    calls: Vec<String>,
}

fn refused(status_code: u16, message: &str) -> EngineError {
    EngineError::Failed {
        operation: "it".into(),
        source: DockerError::DockerResponseServerError { status_code, message: message.into() },
    }
}

impl FakeEngine {
    fn with<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        change(&mut self.world.lock().unwrap())
    }

    fn crash(&self, name: &str) {
        self.with(|world| {
            let name = format!("{NAME_PREFIX}{name}");
            let container = world.observed.containers.iter_mut().find(|c| c.name == name).unwrap();
            container.state = EngineState::Exited;
            container.exit_code = Some(3);
        });
    }

    fn calls(&self) -> Vec<String> {
        self.with(|world| std::mem::take(&mut world.calls))
    }
}

impl Engine for FakeEngine {
    async fn ping(&self) -> Result<String, EngineError> {
        Ok("fake".into())
    }

    async fn observe(&self) -> Result<Observed, EngineError> {
        // Like any engine, it lets others go on meanwhile.
        tokio::task::yield_now().await;
        self.with(|world| match world.gone {
            true => Err(EngineError::Unreachable {
                socket: "/fake.sock".into(),
                source: DockerError::SocketNotFoundError("/fake.sock".into()),
            }),
            false => Ok(world.observed.clone()),
        })
    }

    async fn image_id(&self, reference: &str) -> Result<Option<String>, EngineError> {
        Ok(self.with(|world| world.images.contains(reference).then(|| "sha256:1".into())))
    }

    async fn pull(&self, reference: &str, progress: watch::Sender<PullProgress>) -> Result<(), EngineError> {
        tokio::time::sleep(Duration::from_secs(3)).await;
        progress.send_replace(PullProgress { done: 33_500_000, total: 120_000_000 });
        tokio::time::sleep(Duration::from_secs(3)).await;
        self.with(|world| {
            world.calls.push(format!("pull {reference}"));
            if world.pullable.contains(reference) {
                world.images.insert(reference.into());
                Ok(())
            } else {
                Err(refused(404, "no such image"))
            }
        })
    }

    async fn ensure_network(&self, name: &str) -> Result<Option<IpAddr>, EngineError> {
        self.with(|world| world.observed.networks.insert(name.into()));
        Ok(None)
    }

    async fn ensure_volume(&self, name: &str) -> Result<(), EngineError> {
        self.with(|world| world.observed.volumes.insert(name.into()));
        Ok(())
    }

    async fn create(&self, spec: &ContainerSpec, labels: BTreeMap<String, String>) -> Result<String, EngineError> {
        self.with(|world| {
            world.calls.push(format!("create {}", spec.name));
            let id = format!("id{}-{}", world.calls.len(), spec.name);
            world.observed.containers.push(ObservedContainer {
                id: id.clone(),
                name: format!("{NAME_PREFIX}{}", spec.name),
                owned: Some(Owned {
                    service: spec.service.clone(),
                    definition: labels[LABEL_DEFINITION].clone(),
                    generation: Generation(1),
                    position: labels[LABEL_POSITION].parse().unwrap(),
                }),
                image: spec.image.clone(),
                image_id: "sha256:1".into(),
                state: EngineState::Created,
                exit_code: None,
                started_at: None,
                finished_at: None,
                stop_grace: None,
            });
            Ok(id)
        })
    }

    async fn upload(&self, id: &str, files: &[SecretFile]) -> Result<(), EngineError> {
        self.with(|world| world.uploads.insert(id.into(), files.len()));
        Ok(())
    }

    async fn start(&self, id: &str) -> Result<(), EngineError> {
        tokio::time::sleep(TAKES).await;
        self.with(|world| {
            let container = world.observed.containers.iter_mut().find(|c| c.id == id).unwrap();
            world.calls.push(format!("start {}", container.name.trim_start_matches(NAME_PREFIX)));
            if world.missing_address {
                return Err(refused(500, "listen tcp4 10.86.0.2:80: bind: cannot assign requested address"));
            }
            container.state = EngineState::Running;
            container.started_at = Some(container.started_at.unwrap_or(0) + 1);
            Ok(())
        })
    }

    async fn stop(&self, id: &str, _grace: Duration) -> Result<(), EngineError> {
        tokio::time::sleep(TAKES).await;
        self.with(|world| {
            let container = world.observed.containers.iter_mut().find(|c| c.id == id).unwrap();
            container.state = EngineState::Exited;
            world.calls.push(format!("stop {}", container.name.trim_start_matches(NAME_PREFIX)));
        });
        Ok(())
    }

    async fn remove(&self, id: &str, _grace: Duration) -> Result<(), EngineError> {
        self.with(|world| {
            world.calls.push(format!("remove {id}"));
            world.observed.containers.retain(|container| container.id != id);
        });
        Ok(())
    }

    async fn log_tail(&self, _id: &str, _lines: usize) -> Result<Vec<String>, EngineError> {
        Ok(vec!["starting".into(), "no database".into()])
    }

    async fn exec(
        &self,
        id: &str,
        _user: &str,
        command: &[&str],
        _deadline: Duration,
    ) -> Result<ExecOutput, EngineError> {
        tokio::time::sleep(TAKES).await;
        self.with(|world| {
            let running = |c: &&ObservedContainer| c.id.starts_with(id) && c.state == EngineState::Running;
            let name = match world.observed.containers.iter().find(running) {
                Some(container) => container.name.trim_start_matches(NAME_PREFIX).to_owned(),
                None => return Err(refused(409, "it does not run")),
            };
            let call = format!("{} in {name}", command.join(" "));
            let code = i64::from(world.failing.contains(&call));
            if command != ["ready"] {
                world.calls.push(call);
            }
            Ok(ExecOutput { code, stdout: String::new(), stderr: "no luck".into() })
        })
    }

    fn hints(&self) -> BoxStream<'static, Hint> {
        // Crashes are found by looking: the tests are about the level, not the edge.
        Box::pin(futures_util::stream::pending())
    }
}

fn spec(name: &str) -> ContainerSpec {
    ContainerSpec {
        secrets: vec![SecretFile { path: "/run/secrets/p".into(), content: "geheim".into(), uid: 0 }],
        ports: vec![PortBinding { host: "10.86.0.2:80".parse().unwrap(), container: 80 }],
        stop_grace: Duration::from_secs(5),
        ..ContainerSpec::new(&"svc".parse().unwrap(), name, "image:1", Network::Private("cloudathome-net".into()))
    }
}

/// The container as a service of its own.
fn alone(container: ContainerSpec) -> ServiceSpec {
    let name = container.service.clone();
    ServiceSpec::new(name, vec![Unit { container, needs: Vec::new(), ready: None, restart_after: None }])
}

/// A service of a database and an application that needs it, each ready when the command `ready` in it succeeds.
fn pair() -> ServiceSpec {
    let check = |name: &str| Check {
        container: Some(name.into()),
        probe: Probe::Exec { user: "0".into(), command: vec!["ready".into()] },
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
        grace: Duration::ZERO,
    };
    let unit = |name: &str, needs: &[&str]| Unit {
        container: ContainerSpec { ports: Vec::new(), ..spec(name) },
        needs: needs.iter().map(|need| (*need).to_owned()).collect(),
        ready: Some(check(name)),
        restart_after: Some(Duration::from_secs(30)),
    };
    ServiceSpec { units: vec![unit("db", &[]), unit("app", &["db"])], checks: vec![check("app")], ..alone(spec("a")) }
}

struct Bench {
    engine: Arc<FakeEngine>,
    desired: watch::Sender<Option<Vec<ServiceSpec>>>,
    supervisor: Supervisor,
    token: CancellationToken,
}

fn bench(desired: Option<Vec<ServiceSpec>>) -> Bench {
    let engine = Arc::new(FakeEngine::default());
    engine.with(|world| world.images.insert("image:1".into()));
    bench_on(engine, desired)
}

fn bench_on(engine: Arc<FakeEngine>, desired: Option<Vec<ServiceSpec>>) -> Bench {
    let (desired, receiver) = watch::channel(desired);
    let token = CancellationToken::new();
    let options =
        SupervisorOptions { resync: Duration::from_millis(200), jitter_percent: 0, ..SupervisorOptions::default() };
    let supervisor = Supervisor::spawn(Arc::clone(&engine), receiver, options, token.clone());
    Bench { engine, desired, supervisor, token }
}

impl Bench {
    /// Waits until the status of the only container fits, and returns it.
    async fn until(&mut self, what: &str, fits: impl Fn(&ContainerStatus) -> bool) -> ContainerStatus {
        let wait = self.supervisor.statuses.wait_for(|all| all.first().is_some_and(&fits));
        let found = tokio::time::timeout(Duration::from_secs(300), wait).await.ok().map(|all| all.unwrap()[0].clone());
        found.unwrap_or_else(|| panic!("never {what}: {:?}", self.supervisor.statuses.borrow()))
    }

    async fn running(&mut self) -> ContainerStatus {
        self.until("running", |status| status.state == ContainerState::Running && status.reason.is_none()).await
    }
}

#[tokio::test(start_paused = true)]
async fn it_makes_and_starts_and_then_rests() {
    let mut bench = bench(Some(vec![alone(spec("a"))]));
    let status = bench.running().await;
    assert_eq!(status.name, "a");
    assert_eq!(bench.engine.calls(), ["create a", "start a"]);
    assert_eq!(bench.engine.with(|world| world.uploads.values().copied().collect::<Vec<_>>()), [1]);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(bench.engine.calls().is_empty());
}

#[tokio::test(start_paused = true)]
async fn stopping_leaves_containers_and_the_next_one_adopts_them() {
    let mut first = bench(Some(vec![alone(spec("a"))]));
    first.running().await;
    first.token.cancel();
    first.supervisor.task.await.unwrap();
    first.engine.calls();
    let mut second = bench_on(first.engine, Some(vec![alone(spec("a"))]));
    second.running().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(second.engine.calls().is_empty());
}

#[tokio::test(start_paused = true)]
async fn while_nothing_is_known_nothing_is_touched() {
    let mut first = bench(Some(vec![alone(spec("a"))]));
    first.running().await;
    first.token.cancel();
    first.engine.calls();
    let mut second = bench_on(first.engine, None);
    second.until("reported", |status| status.state == ContainerState::Running).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(second.engine.calls().is_empty());
    // Wanting none is something else.
    second.desired.send(Some(Vec::new())).unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(second.engine.calls()[0].starts_with("remove"));
    assert!(second.supervisor.statuses.borrow().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_crash_loop_backs_off_and_says_why() {
    let mut bench = bench(Some(vec![alone(spec("a"))]));
    bench.running().await;
    bench.engine.calls();
    let mut waits = Vec::new();
    for _ in 0..4 {
        let crashed = Instant::now();
        bench.engine.crash("a");
        bench.until("ended", |status| status.state == ContainerState::Exited).await;
        bench.until("again", |status| status.state == ContainerState::Running).await;
        waits.push(crashed.elapsed().as_secs());
    }
    assert_eq!(waits, [1, 2, 4, 8]);
    let status = bench.supervisor.statuses.borrow()[0].clone();
    let reason = status.reason.unwrap();
    assert_eq!(reason, "ended 4 times in a row; ended with exit code 3; its last words: starting | no database");
    assert_eq!(bench.supervisor.restarts.borrow()["a"], 4);
    assert_eq!(bench.engine.calls(), ["start a"; 4]);
    // Once it has proven stable the reason goes.
    let at = Instant::now();
    bench.running().await;
    assert!(at.elapsed() >= Duration::from_secs(59), "{:?}", at.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_missing_address_is_named_and_tried_again() {
    let engine = Arc::new(FakeEngine::default());
    engine.with(|world| {
        world.images.insert("image:1".into());
        world.missing_address = true;
    });
    let mut bench = bench_on(engine, Some(vec![alone(spec("a"))]));
    let status = bench.until("told", |status| status.reason.is_some()).await;
    assert_eq!(status.state, ContainerState::Created);
    assert!(status.reason.unwrap().contains("10.86.0.2:80: this host does not have the address"));
    bench.engine.with(|world| world.missing_address = false);
    bench.running().await;
    assert_eq!(bench.supervisor.restarts.borrow()["a"], 0);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_is_gone_is_told_and_awaited() {
    let mut bench = bench(Some(vec![alone(spec("a"))]));
    let before = bench.running().await;
    bench.engine.calls();
    bench.engine.with(|world| world.gone = true);
    let status = bench.until("gone", |status| status.reason.is_some()).await;
    assert_eq!(status.state, ContainerState::Running);
    assert!(status.reason.unwrap().contains("no container engine answers at /fake.sock"));
    bench.engine.with(|world| world.gone = false);
    assert_eq!(bench.running().await, before);
    assert!(bench.engine.calls().is_empty());
    let passes = *bench.supervisor.passes.borrow();
    assert!(passes.failures > 0 && passes.count > passes.failures, "{passes:?}");
}

#[tokio::test(start_paused = true)]
async fn a_missing_image_is_fetched_beside_the_work() {
    let mut other = spec("b");
    other.image = "image:2".into();
    let mut bench = bench(Some(vec![alone(other)]));
    bench.engine.with(|world| world.pullable.insert("image:2".into()));
    let status = bench.until("fetching", |status| status.reason.is_some()).await;
    assert_eq!(status.reason.unwrap(), "fetching image image:2");
    let bytes = |status: &ContainerStatus| status.reason.as_deref() == Some("fetching image image:2: 34 of 120 MB");
    bench.until("further", bytes).await;
    assert_eq!(bench.health("svc").word(), "starting");
    bench.running().await;
    assert_eq!(bench.engine.calls(), ["pull image:2", "create b", "start b"]);
}

#[tokio::test(start_paused = true)]
async fn an_image_that_can_not_be_had_keeps_the_old_container() {
    let mut bench = bench(Some(vec![alone(spec("a"))]));
    let before = bench.running().await;
    bench.engine.calls();
    let changed = ContainerSpec { image: "image:9".into(), ..spec("a") };
    bench.desired.send(Some(vec![alone(changed)])).unwrap();
    let failed = |status: &ContainerStatus| status.reason.as_ref().is_some_and(|r| r.contains("no such image"));
    let status = bench.until("failed", failed).await;
    assert_eq!((status.state, status.id), (ContainerState::Running, before.id));
    tokio::time::sleep(Duration::from_secs(30)).await;
    let calls = bench.engine.calls();
    assert!((2..8).contains(&calls.len()) && calls.iter().all(|call| call == "pull image:9"), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn an_obstacle_stops_those_who_need_it_only() {
    let mut service = pair();
    service.units[0].container.image = "image:9".into();
    let mut other = spec("c");
    other.service = "other".parse().unwrap();
    let mut bench = bench(Some(vec![service, alone(other)]));
    let running = |all: &Vec<ContainerStatus>| all.len() == 3 && all[2].state == ContainerState::Running;
    let statuses = bench.supervisor.statuses.wait_for(running).await.unwrap().clone();
    assert_eq!(statuses[1].reason.as_deref(), Some("waits for db"));
    assert_eq!(statuses[1].state, ContainerState::Absent);
}

impl Bench {
    fn health(&self, service: &str) -> Health {
        let name: ServiceName = service.parse().unwrap();
        self.supervisor.health.borrow().get(&name).cloned().unwrap_or_default()
    }

    /// Waits until the service `svc` is so, for a reason with these words, and returns how long it took.
    async fn until_health(&mut self, word: &str, reason: &str) -> Duration {
        let (since, name): (_, ServiceName) = (Instant::now(), "svc".parse().unwrap());
        let fits = |health: &Health| health.word() == word && health.reason().unwrap_or_default().contains(reason);
        let wait = self.supervisor.health.wait_for(|all| all.get(&name).is_some_and(fits));
        let found = tokio::time::timeout(Duration::from_secs(3000), wait).await.is_ok();
        assert!(found, "never {word} ({reason}): {:?}", self.supervisor.health.borrow());
        since.elapsed()
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_comes_up_in_order_and_is_restarted_in_order() {
    let engine = Arc::new(FakeEngine::default());
    engine.with(|world| {
        world.images.insert("image:1".into());
        world.failing.insert("ready in db".into());
    });
    let mut bench = bench_on(engine, Some(vec![pair()]));
    bench.until_health("unhealthy", "db: not ready: ready ended with 1: no luck").await;
    assert_eq!(bench.engine.calls(), ["create db", "start db"]);
    assert_eq!(bench.supervisor.statuses.borrow()[1].reason.as_deref(), Some("waits for db"));
    bench.engine.with(|world| world.failing.clear());
    bench.until_health("healthy", "").await;
    assert_eq!(bench.engine.calls(), ["create app", "start app"]);

    let requests = bench.supervisor.requests.clone();
    requests.restart("svc".parse().unwrap()).await.unwrap();
    assert_eq!(bench.health("svc").word(), "starting", "whoever has the answer sees what it is about");
    bench.until_health("healthy", "").await;
    assert_eq!(bench.engine.calls(), ["stop app", "stop db", "start db", "start app"]);
    assert!(bench.supervisor.restarts.borrow().values().all(|count| *count == 0), "these do not count");
    let unknown = requests.restart("none".parse().unwrap()).await;
    assert_eq!(unknown, Err(RequestError::Unknown("none".parse().unwrap())));

    requests.stop_all().await.unwrap();
    assert_eq!(bench.engine.calls(), ["stop app", "stop db"]);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(bench.engine.calls().is_empty(), "nothing is started again");
}

#[tokio::test(start_paused = true)]
async fn what_is_acted_on_is_not_told_while_something_else_is_under_way() {
    let stopped = ServiceSpec { run: Run::Nothing, ..pair() };
    let mut bench = bench(Some(vec![stopped.clone()]));
    let nothing = |all: &BTreeMap<ServiceName, Applied>| all.values().any(|applied| applied.run == Run::Nothing);
    bench.supervisor.applied.wait_for(nothing).await.unwrap();
    bench.desired.send(Some(vec![pair()])).unwrap();
    tokio::time::sleep(TAKES / 2).await;
    bench.desired.send(Some(vec![stopped])).unwrap();
    bench.supervisor.applied.wait_for(nothing).await.unwrap();
    assert_eq!(bench.engine.calls(), ["create db", "start db", "stop db"], "the start is over");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(bench.engine.calls().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_hangs_is_started_anew_with_growing_patience() {
    let mut bench = bench(Some(vec![pair()]));
    bench.until_health("healthy", "").await;
    bench.engine.calls();
    bench.engine.with(|world| world.failing.insert("ready in app".into()));
    let mut waits = Vec::new();
    for count in 1..=3 {
        let since = Instant::now();
        let restarted = |all: &BTreeMap<String, u64>| all.get("app") == Some(&count);
        bench.supervisor.restarts.wait_for(restarted).await.unwrap();
        waits.push(since.elapsed().as_secs());
    }
    for (wait, range) in waits.iter().zip([30..34, 60..64, 120..124]) {
        assert!(range.contains(wait), "{waits:?}");
    }
    assert_eq!(bench.engine.calls(), ["stop app", "start app"].repeat(3));
    bench.engine.with(|world| world.failing.clear());
    bench.until_health("healthy", "").await;
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_hangs_is_no_reason_to_start_anything_anew() {
    let mut bench = bench(Some(vec![pair()]));
    bench.until_health("healthy", "").await;
    bench.engine.calls();
    // Checks that go through it fail as well, for longer than there is patience with any container.
    bench.engine.with(|world| {
        world.failing.insert("ready in app".into());
        world.gone = true;
    });
    tokio::time::sleep(Duration::from_secs(300)).await;
    bench.engine.with(|world| world.gone = false);
    tokio::time::sleep(Duration::from_secs(20)).await;
    bench.engine.with(|world| world.failing.clear());
    bench.until_health("healthy", "").await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(bench.engine.calls().is_empty(), "nothing is started anew");
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_is_gone_for_a_moment_does_not_end_a_shutdown() {
    let mut bench = bench(Some(vec![pair()]));
    bench.until_health("healthy", "").await;
    bench.engine.calls();
    bench.engine.with(|world| world.gone = true);
    let requests = bench.supervisor.requests.clone();
    let restart = requests.restart("svc".parse().unwrap()).await;
    assert!(matches!(&restart, Err(RequestError::Failed(why)) if why.contains("no container engine")), "{restart:?}");
    let (since, stopping) = (Instant::now(), tokio::spawn(async move { requests.stop_all().await }));
    tokio::time::sleep(Duration::from_secs(8)).await;
    bench.engine.with(|world| world.gone = false);
    stopping.await.unwrap().unwrap();
    assert_eq!(bench.engine.calls(), ["stop app", "stop db"]);
    // One that does not come back is not waited for.
    bench.engine.with(|world| world.gone = true);
    let gone = bench.supervisor.requests.stop_all().await;
    assert!(matches!(gone, Err(RequestError::Failed(_))), "{gone:?}");
    assert!(since.elapsed() < Duration::from_secs(60), "{:?}", since.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_loop_degrades_the_service_while_it_answers_and_names_the_end() {
    let mut bench = bench(Some(vec![pair()]));
    bench.until_health("healthy", "").await;
    for times in 1..=3 {
        bench.engine.crash("app");
        bench.until_health("unhealthy", "ended with exit code 3; its last words: starting | no database").await;
        assert_eq!(bench.supervisor.statuses.borrow()[1].state, ContainerState::Exited);
        bench.until_health(if times < 3 { "healthy" } else { "degraded" }, "").await;
        assert_eq!(bench.supervisor.statuses.borrow()[1].state, ContainerState::Running);
    }
    let degraded = bench.health("svc");
    assert!(degraded.reason().unwrap().starts_with("app: ended 3 times in a row"), "{degraded:?}");
    bench.until_health("healthy", "").await;
}

#[tokio::test(start_paused = true)]
async fn nobody_is_let_in_before_the_setup_that_comes_first_however_often_it_ends() {
    let owner = model::Hook {
        what: "owner".into(),
        container: "app".into(),
        user: "33".into(),
        command: vec!["owner".into()],
        timeout: Duration::from_secs(10),
        also_fine: Vec::new(),
        before_publishing: true,
    };
    let engine = Arc::new(FakeEngine::default());
    engine.with(|world| {
        world.images.insert("image:1".into());
        world.failing.insert("owner in app".into());
    });
    // What answers is not the container that the setup is for.
    let mut service = ServiceSpec { setup: vec![owner], ..pair() };
    service.checks[0].container = Some("db".into());
    let mut bench = bench_on(engine, Some(vec![service]));
    let mut health = bench.supervisor.health.clone();
    let let_in = tokio::spawn(async move {
        let open = |all: &BTreeMap<ServiceName, Health>| all.values().any(Health::accepts_traffic);
        drop(health.wait_for(open).await.unwrap());
    });
    bench.until_health("unhealthy", "owner: ended with 1").await;
    for _ in 0..4 {
        bench.engine.crash("app");
        bench.until_health("starting", "owner").await;
        bench.until_health("unhealthy", "owner: ended with 1").await;
    }
    assert!(!let_in.is_finished());
    bench.engine.with(|world| world.failing.clear());
    let_in.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn hooks_run_after_each_start_and_are_tried_again() {
    let hook = |what: &str, before_publishing| model::Hook {
        what: what.into(),
        container: "app".into(),
        user: "33".into(),
        command: vec![what.into()],
        timeout: Duration::from_secs(10),
        also_fine: Vec::new(),
        before_publishing,
    };
    let service =
        ServiceSpec { setup: vec![hook("owner", true), hook("mail", false), hook("photos", false)], ..pair() };
    let engine = Arc::new(FakeEngine::default());
    engine.with(|world| {
        world.images.insert("image:1".into());
        world.failing = ["owner in app", "mail in app"].map(str::to_owned).into();
    });
    let mut bench = bench_on(engine, Some(vec![service.clone()]));
    bench.until_health("unhealthy", "owner: ended with 1: no luck").await;
    let calls = bench.engine.calls();
    assert_eq!(calls[4..], ["owner in app", "mail in app", "photos in app"], "one that fails holds up no other");
    bench.engine.with(|world| world.failing.remove("owner in app"));
    bench.until_health("degraded", "mail: ended with 1: no luck; it is tried again by itself").await;
    let calls = bench.engine.calls();
    assert!(!calls.contains(&"photos in app".to_owned()), "what succeeded is not repeated: {calls:?}");
    bench.engine.with(|world| world.failing.clear());
    assert!(bench.until_health("healthy", "").await < Duration::from_secs(600));
    bench.engine.calls();

    bench.supervisor.requests.restart("svc".parse().unwrap()).await.unwrap();
    bench.until_health("starting", "owner").await;
    bench.until_health("healthy", "").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let calls = bench.engine.calls();
    assert_eq!(calls[4..], ["owner in app", "mail in app", "photos in app"]);
    // A new one runs alone.
    let more = ServiceSpec { setup: [service.setup.clone(), vec![hook("notes", false)]].concat(), ..service };
    bench.desired.send(Some(vec![more])).unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(bench.engine.calls(), ["notes in app"]);
}
