//! An agent with one service, as the tests of installing and upgrading run it: a process that can be killed.
//!
//! `agent SOCKET STATE SERVICE [DEATH]`: `SERVICE` is `toy-NAME`, `ghost`, `nextcloud` or `nextcloud-NAME`, or
//! `install-NAME`, which is installed and no more. Kills itself at the point with the number `DEATH`, counted from 1: of an upgrade, or of the
//! installation. Commands come on standard input: `upgrade TAG`, `rollback`, `health`, `last`, `outlook`, and `clock TIME`,
//! which is what its upgrades by themselves go by. What happens is told on standard output, a line each. `TOY_IMAGE` names
//! the image of a `toy-NAME`, `POLICY` and `WINDOW` when it is upgraded by itself, `SETTLE` for how many seconds a new release is waited for.

mod ghost;
mod install;
mod nextcloud;
mod toy;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jiff::civil::DateTime;
use model::{Check, ContainerSpec, Network, Probe, ServiceName, ServiceSpec, Unit};
use registry::Client;
use supervisor::upgrade::{Automatic, Clock, Host, HostOptions, Injector, Point, Policy, Retry, Rule, Upgrader};
use supervisor::{DockerEngine, PinnedImage, Records, Supervisor, SupervisorOptions};
use tokio::sync::{Mutex, mpsc, watch};
use tokio_util::sync::CancellationToken;

type Error = Box<dyn std::error::Error>;

/// Kills the process at one point.
struct Death {
    at: usize,
    passed: AtomicUsize,
}

impl Death {
    /// A point, by what it is.
    fn pass(&self, point: &str) {
        let number = self.passed.fetch_add(1, Ordering::SeqCst) + 1;
        println!("point {number}: {point}");
        if number == self.at {
            println!("dies");
            let killed = Command::new("kill").args(["-KILL", &std::process::id().to_string()]).status();
            println!("lives: {killed:?}");
        }
    }
}

impl Injector for Death {
    async fn at(&self, point: Point) {
        self.pass(&format!("{point:?}"));
    }
}

/// A clock that moves when it is told to.
#[derive(Clone)]
struct Told {
    time: watch::Receiver<DateTime>,
    /// Knows which move was the last to be heard of. A clone of it would hear of that one again, and for ever. Held while somebody
    /// waits: nobody else does.
    moves: Arc<Mutex<watch::Receiver<DateTime>>>,
}

impl Clock for Told {
    fn now(&self) -> DateTime {
        *self.time.borrow()
    }

    async fn moves(&self) {
        if self.moves.lock().await.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// What the environment says of upgrades by themselves.
fn rule() -> Result<Rule, Error> {
    let policy = match std::env::var("POLICY").as_deref() {
        Ok("patch") => Policy::Patch,
        Ok("minor") => Policy::Minor,
        _ => Policy::Off,
    };
    let window = std::env::var("WINDOW").map(|window| window.parse()).unwrap_or_else(|_| Ok(Default::default()))?;
    Ok(Rule { policy, window })
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, state, service, death @ ..] = &arguments[..] else {
        return Err("agent SOCKET STATE SERVICE [DEATH]".into());
    };
    let at = death.first().map(|number| number.parse()).transpose()?.unwrap_or(0);
    let death = Death { at, passed: AtomicUsize::new(0) };
    let spec = match service.as_str() {
        name if name.starts_with("install-") => return install::run(socket, Path::new(state), name, death).await,
        "ghost" => ghost::spec()?,
        name if name.starts_with("nextcloud") => nextcloud::spec(name)?,
        other => toy::spec(other)?,
    };
    run(socket, Path::new(state), spec, death).await
}

async fn run(socket: &str, state: &Path, spec: ServiceSpec, death: Death) -> Result<(), Error> {
    let engine = Arc::new(DockerEngine::new(PathBuf::from(socket), format!("agent-of-{}", spec.name)));
    let records = Arc::new(Records::open(state.join("services"))?);
    let service = spec.name.clone();
    let images = spec.units.iter().map(|unit| {
        let image = PinnedImage { reference: unit.container.image.clone(), id: None };
        (unit.container.name.clone(), image)
    });
    records.install(&service, images.collect())?;

    let (sender, specs) = watch::channel(None);
    let token = CancellationToken::new();
    let quick = SupervisorOptions { backoff_max: Duration::from_secs(2), ..SupervisorOptions::default() };
    let supervisor = Supervisor::spawn(Arc::clone(&engine), specs.clone(), quick, token.clone());
    let patience = std::env::var("SETTLE").ok().and_then(|seconds| seconds.parse().ok());
    let settle = patience.unwrap_or(if service.as_str().starts_with("toy") { 15 } else { 120 });
    let options = HostOptions { settle: Duration::from_secs(settle) };
    let host = Arc::new(Host::new(engine, specs.clone(), &supervisor, options));
    let retry = Retry { first: Duration::from_millis(200), max: Duration::from_secs(2) };
    let upgrader = Arc::new(Upgrader::spawn(Arc::clone(&records), host, specs, death, retry, token));
    let (clock, time) = watch::channel(DateTime::constant(2026, 1, 1, 2, 59, 0, 0));
    let told_clock = Told { moves: Arc::new(Mutex::new(time.clone())), time };
    let rules = BTreeMap::from([(service.clone(), rule()?)]);
    let automatic = Arc::new(Automatic::new(Arc::clone(&upgrader), Client::new()?, told_clock, rules, Duration::ZERO));
    let by_itself = Arc::clone(&automatic);
    tokio::spawn(async move { by_itself.run().await });

    let mut watched = records.watch();
    let mut health = supervisor.health.clone();
    let mut lines = commands();
    let (mut told, mut was_healthy) = (records.record(&service).and_then(|record| record.last), None);
    loop {
        let Some(record) = records.record(&service) else { return Err("the record is gone".into()) };
        watched.mark_unchanged();
        sender.send_replace(Some(vec![record.wanted().shape(spec.clone())]));
        if record.last != told {
            println!("ended: {}", record.last.as_ref().map(supervisor::upgrade::Ended::words).unwrap_or_default());
            told = record.last;
        }
        let now = health.borrow_and_update().get(&service).cloned();
        let held = record.journal.as_ref().is_some_and(|journal| !journal.step.published());
        let shown = (now.clone(), held);
        if was_healthy.as_ref() != Some(&shown) {
            let (word, reason) = now.as_ref().map(|now| (now.word(), now.reason())).unwrap_or_default();
            println!("health: {word} {}{}", reason.unwrap_or_default(), if held { " (held)" } else { "" });
            was_healthy = Some(shown.clone());
        }
        tokio::select! {
            changed = watched.changed() => changed?,
            changed = health.changed() => changed?,
            line = lines.recv() => match line.as_deref() {
                None => return Ok(()),
                Some("health") => println!("now: {}{}", shown.0.as_ref().map_or("", |now| now.word()), if held { " (held)" } else { "" }),
                Some("last") => match records.record(&service).map(|record| (record.journal, record.last)) {
                    Some((None, Some(last))) => println!("last: {}", last.words()),
                    _ => println!("last: not known yet"),
                },
                Some("rollback") => told_of(upgrader.rollback(&service).await),
                Some("give up") => told_of(upgrader.give_up(&service).await),
                Some("outlook") => match automatic.outlook(&service).await {
                    Ok(lines) => println!("outlook: {}", lines.join("; ")),
                    Err(error) => println!("outlook: {error}"),
                },
                Some(line) => match line.split_once(' ') {
                    Some(("upgrade", to)) => told_of(upgrader.upgrade(&service, to).await),
                    Some(("clock", time)) => drop(clock.send_replace(time.parse()?)),
                    _ => println!("what is {line}?"),
                },
            },
        }
    }
}

/// What comes on standard input, line by line.
fn commands() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(8);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

fn told_of<T, E: std::fmt::Display>(result: Result<T, E>) {
    match result {
        Ok(_) => println!("begun"),
        Err(error) => println!("refused: {error}"),
    }
}

/// A service of this name without anything in it.
fn service(name: ServiceName) -> ServiceSpec {
    ServiceSpec::new(name, Vec::new())
}

/// A container of a service without anything in it.
fn container(service: &ServiceName, name: String, image: &str) -> ContainerSpec {
    ContainerSpec {
        stop_grace: Duration::from_secs(20),
        ..ContainerSpec::new(service, name, image, Network::Private(format!("cloudathome-{service}")))
    }
}

/// A container that is ready when a script in it ends with 0, after those that it needs.
fn unit(container: ContainerSpec, needs: &[&str], script: &str) -> Unit {
    let ready = Check {
        container: Some(container.name.clone()),
        probe: Probe::Exec { user: "0".into(), command: words(&["sh", "-c", script]) },
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(10),
        grace: Duration::from_secs(60),
    };
    Unit {
        container,
        needs: needs.iter().map(|&name| name.to_owned()).collect(),
        ready: Some(ready),
        restart_after: None,
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn mount(volume: &str, target: &str) -> model::Mount {
    model::Mount { source: model::MountSource::Volume(volume.into()), target: target.into(), read_only: false }
}
