//! The supervisor against a real engine on a host of its own, with an image made of busybox.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::{
    ContainerSpec, ContainerState, ContainerStatus, Generation, Limits, Mount, MountSource, Network, PortBinding, Run,
    SecretFile, ServiceSpec, Unit,
};
use supervisor::{DockerEngine, Engine, Supervisor, SupervisorOptions};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

const BUSYBOX: &str = "/bin/busybox";
const IMAGE: &str = "cloudathome-test:1";
/// Ends at once when it is asked to, so that stopping the engine takes no time.
const SERVE: &str = "echo started >> /data/log; case $(cat /run/secrets/p) in geh?im) ;; *) exit 9;; esac; \
                     trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done";

#[tokio::test(flavor = "multi_thread")]
async fn containers_follow_their_definitions() {
    if !lab::capability::or_skip().unwrap() {
        return;
    }
    if !Path::new(BUSYBOX).exists() {
        return lab::capability::skip(&format!("{BUSYBOX} is missing: install busybox-static"));
    }
    let mut lab = Lab::start();
    let engine = Arc::new(DockerEngine::new(lab.socket(), "test-agent"));
    assert!(!engine.ping().await.unwrap().is_empty());

    // Made, its file placed, started.
    let (desired, receiver) = watch::channel(Some(vec![alone(web())]));
    let mut first = Watched::start(&engine, receiver.clone());
    let made = first.until("web", "running", running).await;
    let exec = async |command: &str| {
        let id = engine.observe().await.unwrap().ours("web").unwrap().id.clone();
        let output = engine.exec(&id, "0", &["/bin/sh", "-c", command], Duration::from_secs(10)).await.unwrap();
        assert_eq!(output.code, 0, "{command}: {output:?}");
        output.stdout
    };
    let file = exec("ls -ln /run/secrets/p; ls -ld /run/secrets").await;
    assert!(file.starts_with("-r--------    1 33       0"), "{file}");
    assert!(file.contains("drwxr-xr-x"), "{file}");
    assert_eq!(exec("id -u; echo error >&2").await, "0\n");
    assert_eq!(exec("cat /data/log").await, "started\n");
    let inspected = lab.docker(&["inspect", "cloudathome-web"]);
    assert!(!inspected.contains("geheim"), "the secret shows");

    // The agent goes, the container stays; the next agent adopts it.
    first.stop().await;
    let mut supervisor = Watched::start(&engine, receiver);
    let adopted = supervisor.until("web", "adopted", running).await;
    assert_eq!(adopted, made);
    let started_at = lab.docker(&["inspect", "-f", "{{.State.StartedAt}}", "cloudathome-web"]);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(lab.docker(&["inspect", "-f", "{{.State.StartedAt}}", "cloudathome-web"]), started_at);

    // A new definition makes a new container on the old volume.
    let changed = || {
        let mut spec = web();
        spec.env.insert("NEW".into(), "1".into());
        spec
    };
    desired.send(Some(vec![alone(changed())])).unwrap();
    let replaced = supervisor.until("web", "replaced", |s| running(s) && s.id != made.id).await;
    assert_eq!(exec("cat /data/log; echo $NEW").await, "started\nstarted\n1\n");

    // Killed: started again, after a pause, as the same container.
    let killed = Instant::now();
    lab.docker(&["kill", "cloudathome-web"]);
    supervisor.until("web", "ended", |s| s.state == ContainerState::Exited).await;
    let again = supervisor.until("web", "started again", running).await;
    assert_eq!(again.id, replaced.id);
    assert!(killed.elapsed() >= Duration::from_millis(900), "{:?}", killed.elapsed());
    // That it runs is seen before whoever started it reports.
    let counted = supervisor.inner.restarts.wait_for(|restarts| restarts["web"] == 1);
    timeout(Duration::from_secs(20), counted).await.expect("the restart is counted").unwrap();

    // One that can't live says why; a foreign container with a name of ours stays; a missing address is awaited.
    let looping =
        ContainerSpec { command: sh("echo no database; exit 3"), service: "loop".parse().unwrap(), ..bare("loop") };
    let taken = ContainerSpec { service: "taken".parse().unwrap(), ..bare("taken") };
    let foreign = lab.docker(&["run", "-d", "--pull", "never", "--name", "cloudathome-taken", IMAGE]);
    let imageless = ContainerSpec {
        service: "imageless".parse().unwrap(),
        image: "registry.invalid/none:1".into(),
        ..bare("imageless")
    };
    let homeless = ContainerSpec {
        service: "homeless".parse().unwrap(),
        ports: vec![PortBinding { host: "10.99.0.2:8080".parse().unwrap(), container: 80 }],
        network: Network::Private("cloudathome-test".into()),
        ..bare("homeless")
    };
    desired.send(Some([changed(), looping, taken, imageless, homeless.clone()].map(alone).into())).unwrap();
    let says = |text: &'static str| move |s: &ContainerStatus| s.reason.as_ref().is_some_and(|r| r.contains(text));
    supervisor
        .until("loop", "looping", says("ended 3 times in a row; ended with exit code 3; its last words: no database"))
        .await;
    supervisor
        .until("imageless", "told", says("image registry.invalid/none:1 is not on this host and could not be fetched"))
        .await;
    supervisor.until("taken", "refused", says("is not ours")).await;
    let stuck =
        supervisor.until("homeless", "stuck", says("10.99.0.2:8080: this host does not have the address")).await;
    assert_eq!(stuck.state, ContainerState::Created);
    lab.ip(&["address", "add", "10.99.0.2/32", "dev", "lo"]);
    let housed = supervisor.until("homeless", "started", running).await;
    assert_eq!(housed.id, stuck.id);
    assert_eq!(
        lab.docker(&["inspect", "-f", "{{.Id}} {{.State.Running}}", "cloudathome-taken"]),
        format!("{foreign} true")
    );
    lab.docker(&["rm", "-f", "cloudathome-taken"]);

    // What is no longer wanted goes.
    desired.send(Some([changed(), homeless].map(alone).into())).unwrap();
    supervisor.until("web", "untouched", |s| *s == again).await;
    timeout(Duration::from_secs(20), async {
        while engine.observe().await.unwrap().ours("loop").is_some() {
            sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .expect("the unwanted container is removed");

    // The engine goes and stops everything; back again, everything is started again.
    lab.engine.stop().unwrap();
    supervisor.until("web", "without engine", says("no container engine answers")).await;
    lab.engine.start().unwrap();
    let back = supervisor.until("web", "back", running).await;
    assert_eq!(back.id, again.id);
    supervisor.until("homeless", "back", running).await;
    assert_eq!(exec("cat /data/log").await.lines().count(), 4);

    // Wanting none removes containers and keeps volumes.
    desired.send(Some(Vec::new())).unwrap();
    timeout(Duration::from_secs(20), async {
        while !engine.observe().await.unwrap().containers.is_empty() {
            sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .expect("all are removed");
    assert!(engine.observe().await.unwrap().volumes.contains("cloudathome-test-data"));
    supervisor.stop().await;
    lab.engine.stop().unwrap();
}

fn running(status: &ContainerStatus) -> bool {
    status.state == ContainerState::Running && status.reason.is_none()
}

fn sh(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
}

fn bare(name: &str) -> ContainerSpec {
    ContainerSpec {
        name: name.into(),
        service: "web".parse().unwrap(),
        image: IMAGE.into(),
        image_id: None,
        entrypoint: Vec::new(),
        command: sh("trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done"),
        user: None,
        env: BTreeMap::new(),
        secrets: Vec::new(),
        mounts: Vec::new(),
        network: Network::Host,
        aliases: Vec::new(),
        limits: Limits::default(),
        ports: Vec::new(),
        extra_hosts: BTreeMap::new(),
        dns: Vec::new(),
        stop_signal: None,
        stop_grace: Duration::from_secs(5),
    }
}

fn web() -> ContainerSpec {
    ContainerSpec {
        command: sh(SERVE),
        secrets: vec![SecretFile { path: "/run/secrets/p".into(), content: "geheim".into(), uid: 33 }],
        mounts: vec![Mount {
            source: MountSource::Volume("cloudathome-test-data".into()),
            target: "/data".into(),
            read_only: false,
        }],
        network: Network::Private("cloudathome-test".into()),
        aliases: Vec::new(),
        limits: Limits::default(),
        ports: vec![PortBinding { host: "127.0.0.1:8080".parse().unwrap(), container: 80 }],
        ..bare("web")
    }
}

/// The container as a service of its own.
fn alone(container: ContainerSpec) -> ServiceSpec {
    ServiceSpec {
        name: container.service.clone(),
        generation: Generation(1),
        run: Run::All,
        units: vec![Unit { container, needs: Vec::new(), ready: None, restart_after: None }],
        checks: Vec::new(),
        setup: Vec::new(),
        volumes: Vec::new(),
        upgrade: None,
        admin: None,
    }
}

struct Watched {
    inner: Supervisor,
    token: CancellationToken,
}

impl Watched {
    fn start(engine: &Arc<DockerEngine>, desired: watch::Receiver<Option<Vec<ServiceSpec>>>) -> Self {
        let token = CancellationToken::new();
        let inner = Supervisor::spawn(Arc::clone(engine), desired, SupervisorOptions::default(), token.clone());
        Self { inner, token }
    }

    async fn until(&mut self, name: &str, what: &str, fits: impl Fn(&ContainerStatus) -> bool) -> ContainerStatus {
        let find = |all: &[ContainerStatus]| all.iter().find(|status| status.name == name && fits(status)).cloned();
        let wait = self.inner.statuses.wait_for(|all| find(all).is_some());
        let found = timeout(Duration::from_secs(30), wait).await.ok().and_then(|all| find(&all.unwrap()));
        found.unwrap_or_else(|| panic!("{name} is never {what}: {:#?}", self.inner.statuses.borrow()))
    }

    async fn stop(self) {
        self.token.cancel();
        timeout(Duration::from_secs(5), self.inner.task).await.expect("it ends").unwrap();
    }
}

/// An engine with the image of these tests. Nothing of it is left afterwards, however a test ends.
struct Lab {
    engine: lab::Engine,
    _lab: lab::Lab,
}

impl Lab {
    fn start() -> Self {
        let (lab, engine) = lab::Lab::with_engine(&lab::EngineOptions::default(), &[]).unwrap();
        let archive = lab.dir().join("files/image.tar");
        fs::write(&archive, image()).unwrap();
        let change = r#"CMD ["/bin/sh", "-c", "sleep 1000"]"#;
        engine.docker(&["import", "-c", change, archive.to_str().unwrap(), IMAGE]).unwrap();
        Self { engine, _lab: lab }
    }

    fn socket(&self) -> PathBuf {
        self.engine.host().engine_socket()
    }

    fn docker(&self, args: &[&str]) -> String {
        self.engine.docker(args).unwrap().trim().to_owned()
    }

    fn ip(&self, args: &[&str]) {
        self.engine.host().exec(&[&["ip"], args].concat()).unwrap();
    }
}

/// A root file system with busybox under the names the tests use.
fn image() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_path_with_name(BUSYBOX, "bin/busybox").unwrap();
    for name in ["sh", "cat", "echo", "id", "ls", "sleep", "test"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        archive.append_link(&mut header, format!("bin/{name}"), "busybox").unwrap();
    }
    archive.into_inner().unwrap()
}
