//! A whole lab.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::engine::{Engine, EngineOptions};
use crate::guardian::{self, Guardian};
use crate::host::Host;
use crate::images::{self, Wanted};
use crate::process::Process;
use crate::topology::{self, INTERNET, Topology, VPS};

/// Where labs lie. On disk on every Debian, which matters for images and large uploads; `/tmp` may be memory.
pub const LABS: &str = "/var/tmp";
const PREFIX: &str = "cloudathome-lab-";
/// Port of the internet's own address where a test may run a name server for `_acme-challenge.example.test`.
pub const CHALLENGES: u16 = 5353;

/// A small internet on one machine; dropping it leaves the machine as it was (see the crate's text).
#[derive(Debug)]
pub struct Lab {
    dir: PathBuf,
    topology: Topology,
    hosts: Vec<Host>,
    // Fields are dropped in this order: the name service is ended, then the guardian takes down what remains.
    _names: Option<Process>,
    _guardian: Guardian,
}

impl Lab {
    /// Builds a lab: hosts, routers, and the name service where there is an internet. No engine and no ACME server yet.
    ///
    /// # Errors
    /// When a step fails: not root, or a program is missing (see [`crate::packages`]). Nothing is left behind then.
    pub fn new(topology: Topology) -> Result<Self> {
        guardian::sweep(Path::new(LABS))?;
        let dir = tempfile::Builder::new()
            .prefix(PREFIX)
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(LABS)
            .with_context(|| format!("make a directory in {LABS}"))?;
        let guardian = Guardian::watch(dir.path())?;
        let dir = dir.keep();
        let doing = || format!("write the lab's files in {}", dir.display());
        for sub in ["ns", "logs", "files"] {
            fs::create_dir(dir.join(sub)).with_context(doing)?;
        }
        fs::write(dir.join("resolv.conf"), format!("nameserver {INTERNET}\noptions timeout:1 attempts:3\n"))
            .with_context(doing)?;
        fs::write(dir.join("nsswitch.conf"), "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n")
            .with_context(doing)?;

        topology::build(topology, &dir.join("ns"))?;
        let hosts: Vec<Host> =
            topology.stations().into_iter().map(|station| Host::create(&dir, station)).collect::<Result<_>>()?;
        let names = match topology {
            Topology::HomeBehindNat | Topology::HomePublic => {
                Some(serve_names(find(&hosts, "internet")?, find(&hosts, "visitor")?)?)
            }
            Topology::Pair | Topology::Alone => None,
        };
        Ok(Self { dir, topology, hosts, _names: names, _guardian: guardian })
    }

    /// One host with an engine that holds these images, as tests of containers need it. Drop the engine first, or both at
    /// once.
    ///
    /// # Errors
    /// As [`Lab::new`], [`images::one`] and [`Host::start_engine_with`].
    pub fn with_engine(options: &EngineOptions, wanted: &[Wanted]) -> Result<(Self, Engine)> {
        let images: Vec<_> =
            wanted.iter().map(|&one| images::one(one, &mut |step| eprintln!("{step}"))).collect::<Result<_>>()?;
        let lab = Self::new(Topology::Alone)?;
        let engine = lab.host("host")?.start_engine_with(options)?;
        for image in &images {
            engine.load(image)?;
        }
        Ok((lab, engine))
    }

    /// The lab's name on this machine, of which all its traces have a part: `cloudathome-lab-` and six characters.
    pub fn id(&self) -> String {
        self.dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// Directory of all the lab's files; it goes with the lab.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The topology the lab was built with.
    pub fn topology(&self) -> Topology {
        self.topology
    }

    /// All hosts, routers included.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// A host by its name: `internet`, `vps`, `visitor`, `home`, and behind NAT `isp` and `cpe`; or `left` and `right`; or
    /// `host` alone.
    ///
    /// # Errors
    /// When the topology has no such host.
    pub fn host(&self, name: &str) -> Result<&Host> {
        find(&self.hosts, name)
    }

    /// How many TCP connections from outside the provider has refused to let in so far.
    ///
    /// # Errors
    /// When there is no provider (home is public) or its counter cannot be read.
    pub fn inbound_connections_dropped(&self) -> Result<u64> {
        let listing = self.host("isp")?.exec(&["nft", "list", "counter", "ip", "router", "inbound_syn"])?;
        let mut words = listing.split_whitespace().skip_while(|word| *word != "packets").skip(1);
        let count = words.next().with_context(|| format!("find the count in {listing:?}"))?;
        count.parse().with_context(|| format!("read the count in {listing:?}"))
    }

    /// A file of `bytes` random bytes.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn random_file(&self, name: &str, bytes: u64) -> Result<PathBuf> {
        let path = self.dir.join("files").join(name);
        let doing = || format!("write {bytes} random bytes to {}", path.display());
        let mut source = File::open("/dev/urandom").with_context(doing)?.take(bytes);
        let mut file = File::create(&path).with_context(doing)?;
        std::io::copy(&mut source, &mut file).with_context(doing)?;
        Ok(path)
    }

    /// What is where and how to look inside, line by line, for people.
    pub fn describe(&self) -> Vec<String> {
        let mut lines = vec![format!("lab {} (all its files are in {})", self.id(), self.dir.display())];
        for host in &self.hosts {
            let engine = if host.engine_socket().exists() {
                format!(", engine: docker -H unix://{}", host.engine_socket().display())
            } else {
                String::new()
            };
            lines.push(format!("  {:<8} {:<15} shell: sh {}{engine}", host.name(), host.address(), enter(host)));
        }
        lines.push(format!("  logs     {}", self.dir.join("logs").display()));
        lines
    }
}

fn enter(host: &Host) -> String {
    host.enter_path().display().to_string()
}

fn find<'a>(hosts: &'a [Host], name: &str) -> Result<&'a Host> {
    hosts.iter().find(|host| host.name() == name).with_context(|| format!("there is no host `{name}` in this lab"))
}

/// Answers for `example.test` and everything below it with the VPS, for `acme.test` with the internet's own address, and
/// for no other name. What proves the domain to ACME servers is asked for at [`CHALLENGES`].
fn serve_names(internet: &Host, client: &Host) -> Result<Process> {
    let mut dnsmasq = internet.command("dnsmasq");
    dnsmasq
        .args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file="])
        .args(["--log-facility=-", "--bind-interfaces"])
        .arg(format!("--listen-address={INTERNET}"))
        .arg(format!("--address=/example.test/{VPS}"))
        .arg(format!("--address=/acme.test/{INTERNET}"))
        .arg(format!("--server=/_acme-challenge.example.test/{INTERNET}#{CHALLENGES}"));
    let mut process = internet.spawn("dnsmasq", dnsmasq)?;
    process.wait_until("the name service", Duration::from_secs(10), || {
        client.exec_within(Duration::from_secs(5), &["getent", "ahostsv4", "acme.test"]).map(|_| true)
    })?;
    Ok(process)
}
