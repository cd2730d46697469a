//! An installation that can be killed at every step: an engine that counts what it is asked to change.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::BoxStream;
use model::{ContainerSpec, Health, Hook, SecretFile, ServiceSpec, VolumeKind, VolumeSpec};
use secrecy::{ExposeSecret, SecretString};
use supervisor::observed::Observed;
use supervisor::{
    DockerEngine, Engine, EngineError, ExecOutput, Hint, PinnedImage, PullProgress, Records, SecretKind, Secrets,
    Supervisor, SupervisorOptions,
};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Death, Error, commands, container, mount, service, unit, words};

/// Ends when it finds that its password is not the one that it was set up with, as databases do.
const DATABASE: &str = r#"
password=$(cat /run/secrets/db)
test -e /db/password || echo "$password" > /db/password
if [ "$(cat /db/password)" != "$password" ]; then echo "wrong password"; exit 1; fi
touch /up
trap 'exit 0' TERM
while :; do sleep 1 & wait $!; done
"#;
const APP: &str = r#"
if [ "$(cat /db/password)" != "$(cat /run/secrets/db)" ]; then echo "the database refuses the password"; exit 1; fi
test -e /data/installed || { echo installed >> /data/log; touch /data/installed; }
touch /up
trap 'exit 0' TERM
while :; do sleep 1 & wait $!; done
"#;
/// Slow enough to be killed within, and to be met at work by whoever comes after a death.
const OWNER: &str = r#"
test -e /data/owner && exit 0
sleep 0.6
cp /run/secrets/owner "/data/owner.$$" && mv "/data/owner.$$" /data/owner
"#;

/// Passes everything on, and dies after the call with a number, of those that change something, or while the engine is at
/// work on it.
struct Mortal {
    engine: DockerEngine,
    death: Arc<Death>,
}

impl Mortal {
    /// A point when it is done.
    async fn quick<T>(&self, what: &str, work: impl Future<Output = T> + Send) -> T {
        let done = work.await;
        self.death.pass(&format!("after {what}"));
        done
    }

    /// A point while it is done, which takes longer than this, and one when it is.
    async fn slow<T: Send>(&self, what: &str, least: Duration, work: impl Future<Output = T> + Send) -> T {
        let mut work = std::pin::pin!(work);
        tokio::select! {
            done = &mut work => return self.quick(what, std::future::ready(done)).await,
            () = sleep(least) => self.death.pass(&format!("while {what}")),
        }
        self.quick(what, work).await
    }
}

impl Engine for Mortal {
    async fn ping(&self) -> Result<String, EngineError> {
        self.engine.ping().await
    }

    async fn observe(&self) -> Result<Observed, EngineError> {
        self.engine.observe().await
    }

    async fn image_id(&self, reference: &str) -> Result<Option<String>, EngineError> {
        self.engine.image_id(reference).await
    }

    async fn pull(&self, reference: &str, progress: watch::Sender<PullProgress>) -> Result<(), EngineError> {
        self.engine.pull(reference, progress).await
    }

    async fn ensure_network(&self, name: &str) -> Result<Option<IpAddr>, EngineError> {
        self.quick("making a network", self.engine.ensure_network(name)).await
    }

    async fn ensure_volume(&self, name: &str) -> Result<(), EngineError> {
        self.quick("making a volume", self.engine.ensure_volume(name)).await
    }

    async fn create(&self, spec: &ContainerSpec, labels: BTreeMap<String, String>) -> Result<String, EngineError> {
        self.slow("making a container", Duration::from_millis(5), self.engine.create(spec, labels)).await
    }

    async fn upload(&self, id: &str, files: &[SecretFile]) -> Result<(), EngineError> {
        self.quick("placing files", self.engine.upload(id, files)).await
    }

    async fn start(&self, id: &str) -> Result<(), EngineError> {
        self.slow("starting a container", Duration::from_millis(20), self.engine.start(id)).await
    }

    async fn stop(&self, id: &str, grace: Duration) -> Result<(), EngineError> {
        self.quick("stopping a container", self.engine.stop(id, grace)).await
    }

    async fn remove(&self, id: &str, grace: Duration) -> Result<(), EngineError> {
        self.quick("removing a container", self.engine.remove(id, grace)).await
    }

    async fn log_tail(&self, id: &str, lines: usize) -> Result<Vec<String>, EngineError> {
        self.engine.log_tail(id, lines).await
    }

    async fn exec(
        &self,
        id: &str,
        user: &str,
        command: &[&str],
        deadline: Duration,
    ) -> Result<ExecOutput, EngineError> {
        let work = self.engine.exec(id, user, command, deadline);
        if !command.contains(&OWNER) {
            return work.await;
        }
        self.slow("setting up", Duration::from_millis(300), work).await
    }

    fn hints(&self) -> BoxStream<'static, Hint> {
        self.engine.hints()
    }
}

/// Two containers in a network of their own, with volumes, files and a command that comes before people.
fn spec(name: &str, db_password: &SecretString, owner_password: &SecretString) -> Result<ServiceSpec, Error> {
    let mut spec = service(name.parse()?);
    let volume = |what: &str| format!("cloudathome-{name}-{what}");
    let secret = |path: &str, secret: &SecretString| SecretFile {
        path: path.into(),
        content: secret.expose_secret().to_owned(),
        uid: 0,
    };
    let (app_name, db_name) = (name.to_owned(), format!("{name}-db"));
    let mut db = container(&spec.name, db_name.clone(), "toydb:1.0.0");
    db.command = words(&["sh", "-c", DATABASE]);
    db.mounts = vec![mount(&volume("db"), "/db")];
    db.secrets = vec![secret("/run/secrets/db", db_password)];
    let mut app = container(&spec.name, app_name.clone(), "toydb:1.0.0");
    app.command = words(&["sh", "-c", APP]);
    app.mounts = vec![mount(&volume("db"), "/db"), mount(&volume("data"), "/data")];
    app.secrets = vec![secret("/run/secrets/db", db_password), secret("/run/secrets/owner", owner_password)];
    spec.units = vec![unit(db, &[], "test -e /up"), unit(app, &[&db_name], "test -e /up")];
    spec.checks =
        spec.units.iter().filter(|unit| unit.container.name == name).filter_map(|u| u.ready.clone()).collect();
    let of = |what: &str, kind| VolumeSpec { name: volume(what), kind };
    spec.volumes = vec![of("db", VolumeKind::Database), of("data", VolumeKind::Data)];
    spec.setup = vec![Hook {
        what: "creating the owner".into(),
        container: app_name,
        user: "0".into(),
        command: words(&["sh", "-c", OWNER]),
        timeout: Duration::from_secs(10),
        also_fine: Vec::new(),
        before_publishing: true,
    }];
    Ok(spec)
}

/// Installs the service and says how it is, until the input ends.
pub(crate) async fn run(socket: &str, state: &Path, name: &str, death: Death) -> Result<(), Error> {
    let death = Arc::new(death);
    std::fs::create_dir_all(state)?;
    let records = Records::open(state.join("services"))?;
    let secrets = Secrets::open(state.join("secrets"))?;
    let secret = |what: &str| {
        let secret = secrets.get_or_create(what, SecretKind::Password);
        death.pass(&format!("after generating the secret {what}"));
        secret
    };
    let spec = spec(name, &secret("db")?, &secret("owner")?)?;
    let images = spec.units.iter().map(|unit| {
        let image = PinnedImage { reference: unit.container.image.clone(), id: None };
        (unit.container.name.clone(), image)
    });
    let record = records.install(&spec.name, images.collect())?;
    death.pass("after recording the release");
    let service = spec.name.clone();
    let (_sender, specs) = watch::channel(Some(vec![record.wanted().shape(spec)]));
    let engine = DockerEngine::new(socket, format!("agent-of-{name}"));
    let engine = Arc::new(Mortal { engine, death });
    let quick = SupervisorOptions { backoff_max: Duration::from_secs(2), ..SupervisorOptions::default() };
    let supervisor = Supervisor::spawn(engine, specs, quick, CancellationToken::new());
    let (mut health, mut lines) = (supervisor.health.clone(), commands());
    loop {
        let now = health.borrow_and_update().get(&service).cloned().unwrap_or(Health::Unknown);
        println!("health: {} {}", now.word(), now.reason().unwrap_or_default());
        tokio::select! {
            changed = health.changed() => changed?,
            line = lines.recv() => match line {
                Some(_) => println!("now: {}", now.word()),
                None => return Ok(()),
            },
        }
    }
}
