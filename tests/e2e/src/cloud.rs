//! An edge and a home in a lab, with everything around them that is not theirs: engines, images, certificates, ACME.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::images::{self, Image, Wanted};
use lab::{Engine, EngineOptions, Host, Http, Lab, Pebble, Process, Topology, wait_until};
use model::Role;
use pki::{Ca, HostIdentity, Subject, Validity};
use serde_json::Value;

/// The public name of home's Nextcloud.
pub const HOSTNAME: &str = "cloud.example.test";
/// The edge's name in its certificate.
const EDGE: &str = "vps";
/// Home's name in its certificate.
const HOME: &str = "attic";
/// Nextcloud's administrator.
const ADMIN: &str = "admin";
/// From the agents' start to the first answer through the public name: Nextcloud installs itself meanwhile.
const SERVING_LIMIT: Duration = Duration::from_secs(180);
/// For an agent to end when asked to.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// The product's programs.
#[derive(Debug, Clone)]
pub struct Binaries {
    dir: PathBuf,
}

impl Binaries {
    /// The programs in `dir`.
    ///
    /// # Errors
    /// When one of them is missing.
    pub fn in_dir(dir: &Path) -> Result<Self> {
        for name in ["edge-agent", "home-agent", "agentctl"] {
            let path = dir.join(name);
            ensure!(path.is_file(), "{} is missing; build it with `cargo build`", path.display());
        }
        Ok(Self { dir: dir.to_owned() })
    }

    /// The programs that were built together with the running one.
    ///
    /// # Errors
    /// When one of them is missing.
    pub fn beside_this_one() -> Result<Self> {
        let this = std::env::current_exe().context("find the running program")?;
        let dir = this.parent().context("find the running program's directory")?;
        // Tests are one level deeper.
        Self::in_dir(if dir.ends_with("deps") { dir.parent().unwrap_or(dir) } else { dir })
    }

    /// The path of a program.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// Who dials whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialer {
    /// The usual case: home is behind NAT and dials the edge.
    Home,
    /// Home has a public address and listens.
    Edge,
}

/// An agent on its host.
#[derive(Debug)]
pub struct Agent {
    /// Its host.
    pub host: Host,
    /// Its process; where it runs in a container, that of `docker run`.
    pub process: Process,
    agentctl: PathBuf,
    /// The name of its container, if it runs in one.
    container: Option<String>,
}

impl Agent {
    /// Starts `program` with `config` on `host`.
    ///
    /// # Errors
    /// When the configuration cannot be written or the program not be started.
    pub fn start(host: &Host, binaries: &Binaries, program: &str, config: &str) -> Result<Self> {
        let command = host.command(&binaries.path(program).to_string_lossy());
        Self::start_by(command, host, binaries, program, config)
    }

    /// As [`Agent::start`], where it sees the disk of its engine.
    fn start_beside(engine: &Engine, binaries: &Binaries, program: &str, config: &str) -> Result<Self> {
        let command = engine.command(&binaries.path(program).to_string_lossy());
        Self::start_by(command, engine.host(), binaries, program, config)
    }

    /// As [`Agent::start`], from its image, which the engine has, as docs/operations.md says. `shared` is a directory that both hosts
    /// read.
    fn start_in_container(
        engine: &Engine,
        image: &Image,
        shared: &Path,
        binaries: &Binaries,
        program: &str,
        config: &str,
    ) -> Result<Self> {
        let host = engine.host();
        let mut command = host.command("docker");
        command.args(["run", "--rm", "--pull", "never", "--name", program, "--network", "host", "--cap-drop", "ALL"]);
        command.args(["--cap-add", "NET_ADMIN", "--cap-add", "NET_BIND_SERVICE", "--device", "/dev/net/tun"]);
        for path in ["/run/cloudathome", "/run/docker.sock", &host.dir().to_string_lossy()] {
            command.args(["--volume", &format!("{path}:{path}")]);
        }
        command.args(["--volume", &format!("{0}:{0}:ro", shared.display()), &image.name]);
        let container = Some(program.to_owned());
        Ok(Self { container, ..Self::start_by(command, host, binaries, program, config)? })
    }

    fn start_by(mut command: Command, host: &Host, binaries: &Binaries, program: &str, config: &str) -> Result<Self> {
        let file = host.dir().join(format!("{program}.toml"));
        fs::write(&file, config).with_context(|| format!("write {}", file.display()))?;
        command.arg("--config").arg(&file);
        let process = host.spawn(program, command)?;
        Ok(Self { host: host.clone(), process, agentctl: binaries.path("agentctl"), container: None })
    }

    /// Ends the agent the hard way, with no chance to tidy up.
    ///
    /// # Errors
    /// When it runs in a container and the engine does not end that.
    pub fn kill9(&mut self) -> Result<()> {
        if let Some(name) = &self.container {
            self.host.exec(&["docker", "kill", "--signal", "KILL", name])?;
            self.process.wait(STOP_LIMIT)?;
        }
        self.process.kill9();
        Ok(())
    }

    /// What `agentctl status --json` says on this host.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn status(&self) -> Result<Value> {
        let agentctl = self.agentctl.to_string_lossy();
        let output = self.host.output(Duration::from_secs(10), &[&agentctl, "status", "--json"])?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        serde_json::from_slice(&output.stdout).with_context(|| format!("read what agentctl printed; it said: {stderr}"))
    }

    /// What `agentctl doctor --json` says on this host, whether or not anything is bad.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn doctor(&self) -> Result<Value> {
        let agentctl = self.agentctl.to_string_lossy();
        let output = self.host.output(Duration::from_secs(10), &[&agentctl, "doctor", "--json"])?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        serde_json::from_slice(&output.stdout).with_context(|| format!("read what agentctl printed; it said: {stderr}"))
    }

    /// What `agentctl status` shows people.
    ///
    /// # Errors
    /// When agentctl cannot be run.
    pub fn status_text(&self) -> Result<String> {
        let agentctl = self.agentctl.to_string_lossy();
        let output = self.host.output(Duration::from_secs(10), &[&agentctl, "status"])?;
        Ok(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
    }

    /// What `agentctl` prints when it is run on this host with these arguments, within five minutes.
    ///
    /// # Errors
    /// When it ends with another code than 0; the error has what it printed.
    pub fn agentctl(&self, arguments: &[&str]) -> Result<String> {
        let agentctl = self.agentctl.to_string_lossy();
        let argv: Vec<&str> = [&*agentctl].into_iter().chain(arguments.iter().copied()).collect();
        self.host.exec_within(Duration::from_secs(300), &argv)
    }

    /// The agent's metrics page.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn metrics(&self) -> Result<String> {
        let reply = Http::new(&self.host).limit(Duration::from_secs(5)).get("http://127.0.0.1:9586/metrics")?;
        ensure!(reply.status == 200, "/metrics answered {}", reply.status);
        Ok(reply.text())
    }

    /// The value of a metric of this agent, all label sets added up; none when it is not exported.
    ///
    /// # Errors
    /// As [`Agent::metrics`].
    pub fn metric(&self, name: &str) -> Result<Option<f64>> {
        let page = self.metrics()?;
        let sample = |line: &str| {
            let rest = line.strip_prefix(name)?;
            rest.starts_with(['{', ' ']).then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
        };
        let values: Vec<f64> = page.lines().filter_map(sample).collect();
        Ok((!values.is_empty()).then(|| values.iter().sum()))
    }
}

/// What a cloud has beside Caddy and Nextcloud.
#[derive(Debug, Clone, Default)]
pub struct More {
    /// Leaves Nextcloud out, and what it needs.
    pub without_nextcloud: bool,
    /// Added to the table of the service `nextcloud`.
    pub nextcloud: String,
    /// Added to the end of the edge's configuration.
    pub edge: String,
    /// Added to the end of home's configuration.
    pub home: String,
    /// Further images for the edge's engine.
    pub edge_images: Vec<Wanted>,
    /// Further images for home's engine.
    pub home_images: Vec<Wanted>,
    /// Whether the dialer falls back to TCP.
    pub over_tcp_too: bool,
    /// How home's engine runs.
    pub home_engine: EngineOptions,
    /// The agents' own images, where the agents run in the engines as containers: the edge's and home's.
    pub agents: Option<[Image; 2]>,
}

/// The whole product in a lab.
#[derive(Debug)]
pub struct Cloud {
    /// The agent on the public host.
    pub edge: Agent,
    /// The agent at home.
    pub home: Agent,
    /// The edge's engine.
    pub edge_engine: Engine,
    /// Home's engine.
    pub home_engine: Engine,
    /// The ACME server.
    pub pebble: Pebble,
    /// The authority of both hosts.
    pub ca: Ca,
    // Last: it takes everything down.
    /// The lab.
    pub lab: Lab,
}

impl Cloud {
    /// Builds the lab and starts everything; `say` hears of each step. Returns before the service is up: see
    /// [`Cloud::wait_until_serving`].
    ///
    /// # Errors
    /// When a step fails; nothing is left behind then.
    pub fn start(dialer: Dialer, binaries: &Binaries, say: &mut dyn FnMut(&str)) -> Result<Self> {
        Self::start_with(dialer, binaries, &More::default(), say)
    }

    /// As [`Cloud::start`], with more services.
    ///
    /// # Errors
    /// When a step fails; nothing is left behind then.
    pub fn start_with(dialer: Dialer, binaries: &Binaries, more: &More, say: &mut dyn FnMut(&str)) -> Result<Self> {
        say("images");
        let caddy = provide(Wanted::Caddy, say)?;
        let (mut for_edge, mut for_home) = (vec![caddy.clone()], Vec::new());
        if let Some([edge, home]) = &more.agents {
            for_edge.push(edge.clone());
            for_home.push(home.clone());
        }
        let nextcloud = if more.without_nextcloud { String::new() } else { nextcloud(more, &mut for_home, say)? };
        for (images, wanted) in [(&mut for_edge, &more.edge_images), (&mut for_home, &more.home_images)] {
            for &wanted in wanted {
                images.push(provide(wanted, say)?);
            }
        }
        say("hosts, routers and the name service");
        let lab = Lab::new(match dialer {
            Dialer::Home => Topology::HomeBehindNat,
            Dialer::Edge => Topology::HomePublic,
        })?;
        say("the ACME server");
        let pebble = Pebble::start(&lab)?;
        let (vps, home) = (lab.host("vps")?, lab.host("home")?);
        say("the Docker engines, and their images");
        let (edge_engine, home_engine) = std::thread::scope(|scope| {
            let edge = scope.spawn(|| engine_with(vps, &EngineOptions::default(), &for_edge));
            let home = engine_with(home, &more.home_engine, &for_home);
            (edge.join().map_err(|_| anyhow::anyhow!("starting the edge's engine panicked")), home)
        });
        let (edge_engine, home_engine) = (edge_engine??, home_engine?);

        say("the agents");
        let ca = Ca::generate("CloudAtHome lab", Validity::from_now(Validity::CA))?;
        let tls_crypt = pki::generate_static_key();
        let own = |role, name: &str, host: &Host| -> Result<PathBuf> {
            let dir = host.dir().join("identity");
            let identity = identity(&ca, role, name, Validity::from_now(Validity::LEAF))?;
            HostIdentity { tls_crypt: tls_crypt.clone(), ..identity }.save(&dir)?;
            Ok(dir)
        };
        let (edge_identity, home_identity) = (own(Role::Edge, EDGE, vps)?, own(Role::Home, HOME, home)?);
        let listen = "mode = \"listen\"\nlisten = \"0.0.0.0:1194\"";
        let dial = |to: &str| {
            let tcp = if more.over_tcp_too { format!(", \"{to}:1194/tcp\"") } else { String::new() };
            format!("mode = \"dial\"\nremotes = [\"{to}:1194\"{tcp}]")
        };
        let (edge_tunnel, home_tunnel) = match dialer {
            Dialer::Home => (listen.to_owned(), dial("vps.example.test")),
            Dialer::Edge => (dial(&home.address().to_string()), listen.to_owned()),
        };
        let edge_config = format!(
            "domain = \"example.test\"\nidentity_dir = {:?}\nstate_dir = {:?}\n\n\
             [tunnel]\n{edge_tunnel}\npeer = \"{HOME}\"\n\n\
             [ingress]\nemail = \"owner@example.test\"\nimage = {:?}\nacme_directory = {:?}\n\
             acme_api_root = {:?}\nacme_issuer_root = {:?}\n\n{}",
            edge_identity,
            vps.dir().join("state"),
            caddy.name,
            pebble.directory_url(),
            pebble.api_root(),
            pebble.issuing_root(),
            more.edge,
        );
        let home_config = format!(
            "identity_dir = {:?}\nstate_dir = {:?}\n\n\
             [tunnel]\n{home_tunnel}\npeer = \"{EDGE}\"\n\n\
             [outside]\nissuer_root = {:?}\n\n{nextcloud}{}",
            home_identity,
            home.dir().join("state"),
            pebble.issuing_root(),
            more.home,
        );
        let (edge, home) = match &more.agents {
            None => (
                Agent::start_beside(&edge_engine, binaries, "edge-agent", &edge_config)?,
                Agent::start_beside(&home_engine, binaries, "home-agent", &home_config)?,
            ),
            Some([edge, home]) => {
                let start = |engine, image, program, config: &str| {
                    Agent::start_in_container(engine, image, lab.dir(), binaries, program, config)
                };
                (
                    start(&edge_engine, edge, "edge-agent", &edge_config)?,
                    start(&home_engine, home, "home-agent", &home_config)?,
                )
            }
        };
        Ok(Self { edge, home, edge_engine, home_engine, pebble, ca, lab })
    }

    /// A client on the visitor's host that trusts the ACME server's root and nothing else.
    ///
    /// # Errors
    /// Never in this lab: it has a visitor.
    pub fn visitor(&self) -> Result<Http> {
        Ok(Http::new(self.lab.host("visitor")?).trust(self.pebble.issuing_root()).limit(Duration::from_secs(10)))
    }

    /// The process id of the edge's Caddy, as the machine sees it.
    ///
    /// # Errors
    /// When none runs.
    pub fn caddy_pid(&self) -> Result<u32> {
        let network = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/net"));
        let here = network(self.edge.process.pid()).context("find the edge's network")?;
        for entry in fs::read_dir("/proc")? {
            let entry = entry?;
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            if name.trim() == "caddy" && network(pid).is_ok_and(|network| network == here) {
                return Ok(pid);
            }
        }
        bail!("no Caddy runs on the edge")
    }

    /// The address of `path` at the public name.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("https://{HOSTNAME}{path}")
    }

    /// Waits until the visitor gets the service through its public name.
    ///
    /// # Errors
    /// When an agent ends, or the service does not come up; the error has what both agents say.
    pub fn wait_until_serving(&mut self) -> Result<Duration> {
        let visitor = self.visitor()?;
        let url = self.url("/status.php");
        let (edge, home) = (&mut self.edge.process, &mut self.home.process);
        let serving = wait_until("the service at its public name", SERVING_LIMIT, || {
            for agent in [&mut *edge, &mut *home] {
                // An agent that has ended will not come back: what it logged says why.
                ensure!(agent.is_running(), "an agent has ended: {}", agent.log_tail(5));
            }
            let reply = visitor.get(&url)?;
            ensure!(reply.status == 200, "{url} answers {}", reply.status);
            Ok(true)
        });
        serving.with_context(|| {
            format!(
                "not serving. The edge says:\n{}\nHome says:\n{}\nEnd of the edge's log:\n{}\nEnd of home's log:\n{}",
                self.edge.status_text().unwrap_or_else(|error| format!("{error:#}")),
                self.home.status_text().unwrap_or_else(|error| format!("{error:#}")),
                self.edge.process.log_tail(15),
                self.home.process.log_tail(15),
            )
        })
    }

    /// Waits until the edge's own proof agrees, which it renews every few seconds.
    ///
    /// # Errors
    /// When it does not.
    pub fn wait_until_proven(&self) -> Result<Duration> {
        wait_until("the edge to prove the service", SERVING_LIMIT, || {
            let status = self.edge.status()?;
            let services = status["local"]["services"].as_array().context("no list of services")?;
            Ok(services.iter().any(|service| service["serving"]["state"] == "serving"))
        })
    }

    /// Nextcloud's administrator and the password that home-agent generated.
    ///
    /// # Errors
    /// When there is none yet.
    pub fn login(&self) -> Result<(String, String)> {
        let file = self.home.host.dir().join("state/secrets/nextcloud-admin-password");
        let password = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        Ok((ADMIN.to_owned(), password.trim().to_owned()))
    }

    /// Asks the agents to end, as systemd would, and takes the lab down.
    ///
    /// # Errors
    /// When an agent has to be killed or does not end well.
    pub fn stop(mut self) -> Result<()> {
        for agent in [&mut self.home, &mut self.edge] {
            let status = agent.process.terminate(STOP_LIMIT)?;
            ensure!(status.success(), "an agent ended with {status}: {}", agent.process.log_tail(5));
        }
        Ok(())
    }
}

/// An identity with a tls-crypt key of its own.
///
/// # Errors
/// When the name is not one, or the certificate cannot be made.
pub fn identity(ca: &Ca, role: Role, name: &str, validity: Validity) -> Result<HostIdentity> {
    let identity = ca.issue(&Subject { role, name: name.parse()?, validity })?;
    Ok(HostIdentity { ca_pem: ca.cert_pem().to_owned(), identity, tls_crypt: pki::generate_static_key() })
}

/// An image, with a word on what it is.
fn provide(wanted: Wanted, say: &mut dyn FnMut(&str)) -> Result<Image> {
    let image = images::one(wanted, say)?;
    say(&format!("  {} is {}{}", image.name, image.version, if image.stand_in { ", a stand-in" } else { "" }));
    Ok(image)
}

/// The table of the service, whose images are added to home's.
fn nextcloud(more: &More, images: &mut Vec<Image>, say: &mut dyn FnMut(&str)) -> Result<String> {
    let [nextcloud, postgres, redis] =
        [provide(Wanted::Nextcloud, say)?, provide(Wanted::Postgres, say)?, provide(Wanted::Redis, say)?];
    let table = format!(
        "[services.nextcloud]\nkind = \"nextcloud\"\nimage = {:?}\nadmin_user = \"{ADMIN}\"\nredis_image = {:?}\n\
         database = {{ image = {:?} }}\n{}\n",
        nextcloud.name, redis.name, postgres.name, more.nextcloud,
    );
    images.extend([nextcloud, postgres, redis]);
    Ok(table)
}

fn engine_with(host: &Host, options: &EngineOptions, images: &[Image]) -> Result<Engine> {
    let engine = host.start_engine_with(options)?;
    for image in images {
        engine.load(image)?;
    }
    Ok(engine)
}
