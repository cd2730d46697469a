//! The configuration of a running agent: shown, compared, and put in force all of it or nothing, with the containers of a real engine.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Agent, Binaries, identity};
use lab::images::{self, Wanted};
use lab::{Engine, Host, Http, Lab, Topology, capability, wait_until};
use model::Role;
use pki::{Ca, Validity};

/// For a container to come or to go.
const LIMIT: Duration = Duration::from_secs(90);

struct Edge {
    agent: Agent,
    engine: Engine,
    file: PathBuf,
    binaries: Binaries,
    // Last: it takes everything down.
    lab: Lab,
}

/// What a command says on either output, with its exit code.
type Told = (Option<i32>, String);

impl Edge {
    fn start(services: &str) -> Result<Self> {
        let caddy = images::one(Wanted::Caddy, &mut |what| println!("{what}"))?;
        let lab = Lab::new(Topology::HomeBehindNat)?;
        let vps = lab.host("vps")?;
        let engine = vps.start_engine()?;
        engine.load(&caddy)?;
        let ca = Ca::generate("ours", Validity::from_now(Validity::CA))?;
        identity(&ca, Role::Edge, "vps", Validity::from_now(Validity::LEAF))?.save(&vps.dir().join("identity"))?;
        let binaries = Binaries::beside_this_one()?;
        let agent = Agent::start(vps, &binaries, "edge-agent", &configuration(vps, "", services))?;
        let file = vps.dir().join("edge-agent.toml");
        wait_until("the agent", LIMIT, || Ok(agent.metrics().is_ok()))?;
        Ok(Self { agent, engine, file, binaries, lab })
    }

    fn write(&self, tunnel: &str, services: &str) -> Result<()> {
        fs::write(&self.file, configuration(self.lab.host("vps")?, tunnel, services)).context("write the configuration")
    }

    fn agentctl(&self, words: &[&str]) -> Result<Told> {
        let program = self.binaries.path("agentctl");
        let program = program.to_string_lossy();
        let argv: Vec<&str> = [&*program].into_iter().chain(words.iter().copied()).collect();
        let output = self.lab.host("vps")?.output(Duration::from_secs(60), &argv)?;
        let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        Ok((output.status.code(), told))
    }

    fn expect(&self, words: &[&str], code: i32, said: &[&str]) -> Result<String> {
        let (ended, told) = self.agentctl(words)?;
        ensure!(ended == Some(code), "{words:?} ended with {ended:?}: {told}");
        for fragment in said {
            ensure!(told.contains(fragment), "{words:?} does not say {fragment:?}: {told}");
        }
        Ok(told)
    }

    fn answers(&self, port: u16, text: &str) -> Result<()> {
        let http = Http::new(self.lab.host("vps")?).limit(Duration::from_secs(5));
        wait_until(&format!("{text:?} on port {port}"), LIMIT, || {
            Ok(http.get(&format!("http://127.0.0.1:{port}/")).is_ok_and(|reply| reply.text() == text))
        })?;
        Ok(())
    }

    fn container(&self, name: &str) -> Result<String> {
        self.engine.docker(&["inspect", "--format", "{{.Id}} {{.State.StartedAt}}", name])
    }
}

fn configuration(vps: &Host, tunnel: &str, services: &str) -> String {
    format!(
        "domain = \"example.test\"\nidentity_dir = {:?}\nstate_dir = {:?}\n\n\
         [tunnel]\nmode = \"listen\"\npeer = \"attic\"\n{tunnel}\n{services}",
        vps.dir().join("identity"),
        vps.dir().join("state"),
    )
}

fn service(name: &str, port: u16, text: &str) -> String {
    format!(
        "[services.{name}]\nkind = \"container\"\nimage = \"caddy:2\"\nport = {port}\ncontainer_port = 8000\n\
         command = [\"caddy\", \"respond\", \"--listen\", \":8000\", \"{text}\"]\nhealth_path = \"/\"\n\
         env = {{ API = \"secret-in-the-environment\" }}\n\n"
    )
}

#[test]
fn a_configuration_is_put_in_force_all_of_it_or_nothing() -> Result<()> {
    if !capability::or_skip()? {
        return Ok(());
    }
    let edge = Edge::start(&service("one", 8081, "first"))?;
    let checked = check(&edge);
    if checked.is_err() {
        println!("{}\n{}", edge.agent.status_text()?, edge.agent.process.log_tail(40));
    }
    checked
}

fn check(edge: &Edge) -> Result<()> {
    edge.answers(8081, "first")?;
    let one = edge.container("cloudathome-one")?;
    let shown = edge.expect(&["config", "show"], 0, &["services.one.port = 8081\n", "env.API = \"***\"\n"])?;
    ensure!(!shown.contains("secret-in-the-environment"), "a secret is shown: {shown}");
    edge.expect(&["config", "diff"], 0, &["is in force"])?;

    let file = path(&edge.file)?;
    edge.write("", &service("one", 8081, "first").replace("port = 8081", "prot = 8081"))?;
    let fault = ["edge-agent.toml:12: services.one.prot: unknown field"];
    for words in [&["config", "check", file, "--role", "edge"][..], &["config", "diff"], &["config", "reload"]] {
        edge.expect(words, 64, &fault)?;
    }

    let both = service("one", 8081, "first") + &service("two", 8082, "second");
    edge.write("mtu = 1400\n", &both)?;
    edge.expect(&["config", "check", file, "--role", "edge"], 0, &["good"])?;
    edge.expect(
        &["config", "diff"],
        4,
        &["+ tunnel.mtu = 1400  (needs a new start)\n", "+ services.two.port = 8082\n"],
    )?;
    edge.expect(&["config", "reload"], 1, &["only a new start of the agent changes tunnel.mtu"])?;
    edge.expect(&["config", "show"], 0, &["services.one.port"])?;
    ensure!(!edge.agentctl(&["services"])?.1.contains("two"), "a part of a refused file is in force");

    edge.write("", &both)?;
    edge.expect(&["config", "reload"], 0, &["is in force now", "+ services.two.port = 8082\n"])?;
    edge.expect(&["config", "reload"], 0, &["was in force already"])?;
    edge.answers(8082, "second")?;
    ensure!(edge.container("cloudathome-one")? == one, "a service that did not change was touched");

    let two = edge.container("cloudathome-two")?;
    edge.write("", &both.replace("\"first\"", "\"third\""))?;
    edge.expect(&["config", "reload"], 0, &["~ services.one.command = "])?;
    edge.answers(8081, "third")?;
    ensure!(edge.container("cloudathome-two")? == two, "a service that did not change was touched");

    edge.write("", &service("one", 8081, "third"))?;
    let agent = edge.agent.process.pid().to_string();
    edge.lab.host("vps")?.output(LIMIT, &["kill", "-HUP", &agent])?;
    bundle(edge).context("the bundle")?;
    wait_until("the service that is configured no more to be gone", LIMIT, || {
        let running = edge.engine.docker(&["ps", "--format", "{{.Names}}"])?;
        Ok(!running.contains("cloudathome-two") && !edge.agentctl(&["services"])?.1.contains("two"))
    })?;
    edge.answers(8081, "third")
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("the path of the configuration")
}

/// Nothing that was planted is in the archive.
fn bundle(edge: &Edge) -> Result<()> {
    let vps = edge.lab.host("vps")?;
    let archive = vps.dir().join("case.tar.gz");
    // In the log of a container, which got it by its environment.
    let said =
        ["service", "one", "exec", "--", "sh", "-c", "echo \"it is $API, password=planted-by-name\" > /proc/1/fd/1"];
    edge.expect(&said, 0, &[])?;
    // As if it had been generated.
    let generated = vps.dir().join("state/secrets/one-password");
    fs::write(&generated, "secret-that-was-generated").context("plant a secret")?;
    edge.expect(&["bundle", "--out", path(&archive)?], 0, &["case.tar.gz"])?;
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&archive)?.permissions());
    ensure!(mode & 0o777 == 0o600, "the archive's mode is {mode:o}");
    let unpacked = vps.dir().join("case");
    fs::create_dir(&unpacked)?;
    let tar = ["tar", "-xzf", path(&archive)?, "-C", path(&unpacked)?];
    ensure!(vps.output(LIMIT, &tar)?.status.success(), "it is no archive");
    let read =
        |name: &str| fs::read_to_string(unpacked.join("cloudathome").join(name)).with_context(|| name.to_owned());
    let logs = read("logs/one.txt")?;
    ensure!(logs.contains("it is ***, password=***"), "the log is {logs}");
    ensure!(read("configuration.txt")?.contains("services.one.port = 8081"), "the configuration is not in it");
    for name in ["status.json", "events.json", "doctor.json", "tunnel.json", "host/kernel.txt", "host/docker.txt"] {
        ensure!(!read(name)?.is_empty(), "{name} is empty");
    }
    let key = fs::read_to_string(vps.dir().join("identity/host.key"))?;
    let line = key.lines().nth(1).context("the key has no line")?;
    let planted = ["secret-in-the-environment", "secret-that-was-generated", "planted-by-name", line];
    for planted in planted {
        let found = vps.output(LIMIT, &["grep", "-r", "--fixed-strings", "--", planted, path(&unpacked)?])?;
        ensure!(found.stdout.is_empty(), "{planted} is in {}", String::from_utf8_lossy(&found.stdout));
    }
    // Another under the same name is not overwritten.
    edge.expect(&["bundle", "--out", path(&archive)?], 1, &["next: name another file"])?;
    Ok(())
}
