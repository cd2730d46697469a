//! Two hosts with a live systemd and the packages for them: what a person has before anything is set up.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use lab::images::{self, Image, Wanted};
use lab::{Http, Lab, Pebble, System, Topology};
use packaging::{Plan, Role};

use crate::Binaries;

/// The edge's package and unit.
pub const EDGE: &str = "cloudathome-edge";
/// Home's package and unit.
pub const HOME: &str = "cloudathome-home";
/// For dpkg to unpack, and for units to stop and start.
pub const INSTALLING: Duration = Duration::from_secs(120);

/// Both hosts, in their lab.
#[derive(Debug)]
pub struct Hosts {
    /// The public host.
    pub vps: System,
    /// The host behind NAT.
    pub home: System,
    /// A client on the internet.
    pub visitor: Http,
    /// Where the packages are, and room for files.
    pub packages: PathBuf,
    /// The ACME server.
    pub pebble: Pebble,
    // Last: it takes everything down.
    /// The lab.
    pub lab: Lab,
}

/// Packages of the programs that are tested, under two versions.
fn packages(out: &Path) -> Result<()> {
    let binaries = Binaries::beside_this_one()?;
    let agentctl = binaries.path("agentctl");
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).context("find the workspace")?;
    for version in ["1.0", "1.1"] {
        let plan = Plan {
            workspace,
            programs: agentctl.parent().context("find the programs")?,
            agentctl: &agentctl,
            version,
            architecture: "amd64",
            date: 1_700_000_000,
            fast: true,
        };
        for role in Role::ALL {
            packaging::deb(&plan, role, out)?;
        }
    }
    Ok(())
}

impl Hosts {
    /// Boots both, with these images in their engines (the edge's and home's) and the ACME server's roots in files.
    ///
    /// # Errors
    /// When an image or a package cannot be had, or a host does not boot.
    pub fn boot(edge: &[Wanted], home: &[Wanted]) -> Result<Self> {
        let mut say = |step: &str| println!("{step}");
        let mut provide = |wanted: &[Wanted]| -> Result<Vec<Image>> {
            wanted.iter().map(|&wanted| images::one(wanted, &mut say)).collect()
        };
        let (for_edge, for_home) = (provide(edge)?, provide(home)?);
        let lab = Lab::new(Topology::HomeBehindNat)?;
        let packages = lab.dir().join("files");
        let pebble = Pebble::start(&lab)?;
        let boot = |name: &str, images: &[Image]| -> Result<System> {
            let system = lab.host(name)?.boot()?;
            images.iter().try_for_each(|image| system.load(image))?;
            Ok(system)
        };
        let (vps, home) = std::thread::scope(|scope| -> Result<_> {
            let vps = scope.spawn(|| boot("vps", &for_edge));
            let home = scope.spawn(|| boot("home", &for_home));
            self::packages(&packages)?;
            let panicked = |_| anyhow!("booting a host panicked");
            Ok((vps.join().map_err(panicked)??, home.join().map_err(panicked)??))
        })?;
        for (name, root) in [("api", pebble.api_root()), ("issuer", pebble.issuing_root())] {
            let pem = fs::read(root).context("read a root of the ACME server")?;
            vps.write(&format!("/etc/cloudathome/{name}.pem"), &pem)?;
            home.write(&format!("/etc/cloudathome/{name}.pem"), &pem)?;
        }
        let visitor = Http::new(lab.host("visitor")?).trust(pebble.issuing_root()).limit(Duration::from_secs(5));
        Ok(Self { vps, home, visitor, packages, pebble, lab })
    }
}

/// Brings a package to a host and installs it, as a person would.
///
/// # Errors
/// With what was printed.
pub fn install(hosts: &Hosts, system: &System, package: &str, version: &str) -> Result<String> {
    let file = format!("{package}_{version}_amd64.deb");
    let deb = fs::read(hosts.packages.join(&file)).with_context(|| format!("read {file}"))?;
    system.write(&format!("/root/{file}"), deb)?;
    apt(system, &["install", &format!("/root/{file}")])
}

/// Runs apt-get, nobody being there to be asked.
///
/// # Errors
/// With what was printed.
pub fn apt(system: &System, words: &[&str]) -> Result<String> {
    // Maintainer scripts write to either.
    let line = format!("DEBIAN_FRONTEND=noninteractive apt-get --yes --quiet {} 2>&1", words.join(" "));
    system.exec_within(INSTALLING, &["sh", "-c", &line])
}

/// A property of a unit.
///
/// # Errors
/// When systemd does not tell.
pub fn property(system: &System, unit: &str, name: &str) -> Result<String> {
    let value = system.exec(&["systemctl", "show", "--value", "--property", name, unit])?;
    Ok(value.trim().to_owned())
}
