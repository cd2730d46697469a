//! Debian packages, tarballs and images.

use std::path::PathBuf;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use clap::Args;
use lab::{images, packages};
use packaging::{Plan, Role};

use crate::cargo;
use crate::progress::Progress;

const PROGRAMS: [&str; 3] = ["agentctl", "edge-agent", "home-agent"];

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Debian's name of the architecture to build for
    #[arg(long, default_value = "amd64")]
    arch: String,
    /// Where to put them
    #[arg(long, value_name = "DIR", default_value = "target/packages")]
    out: PathBuf,
    /// The version they bear
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
    package_version: String,
    /// Also make an image of each agent, as an archive for `docker load`; needs root
    #[arg(long)]
    images: bool,
}

/// Builds the programs as they ship, and packages of them.
pub(crate) fn run(options: &Options) -> Result<()> {
    let progress = Progress::start();
    if options.arch != "amd64" || std::env::consts::ARCH != "x86_64" {
        bail!("packages are made for amd64 on amd64 only; see docs/roadmap.md");
    }
    let needed = packages::BUILD.iter().chain(packages::PACKAGE);
    let for_images = packages::IMAGES.iter().filter(|_| options.images);
    packages::ensure(needed.chain(for_images), &mut |line| eprintln!("{line}"))?;
    progress.step("building");
    let mut arguments = vec!["build", "--release", "--locked"];
    arguments.extend(PROGRAMS.iter().flat_map(|program| ["--package", program]));
    let agentctl = cargo::build("agentctl", &arguments)?;
    let programs = agentctl.parent().context("find the directory of the programs")?;
    let out = cargo::workspace().join(&options.out);
    let plan = Plan {
        workspace: cargo::workspace(),
        programs,
        agentctl: &agentctl,
        version: &options.package_version,
        architecture: &options.arch,
        date: date()?,
        fast: false,
    };
    for role in Role::ALL {
        progress.step(&format!("packing {}", role.word()));
        let deb = packaging::deb(&plan, role, &out)?;
        println!("{}", deb.display());
        println!("{}", packaging::tarball(&plan, role, &out)?.display());
        if options.images {
            let tar = deb.with_extension("docker.tar");
            let image = images::of_agent(role.word(), plan.version, &deb, &tar, &mut |what| progress.step(what))?;
            println!("{}", image.tar.display());
        }
    }
    Ok(())
}

/// The time that files bear: as told by `SOURCE_DATE_EPOCH`, else that of the last commit, else now.
fn date() -> Result<u64> {
    if let Ok(told) = std::env::var("SOURCE_DATE_EPOCH") {
        return told.parse().with_context(|| format!("SOURCE_DATE_EPOCH is {told:?}, not a number of seconds"));
    }
    let commit = Command::new("git").current_dir(cargo::workspace()).args(["log", "-1", "--format=%ct"]).output();
    let told = commit.ok().and_then(|output| String::from_utf8(output.stdout).ok());
    if let Some(seconds) = told.and_then(|text| text.trim().parse().ok()) {
        return Ok(seconds);
    }
    Ok(SystemTime::now().duration_since(UNIX_EPOCH).context("read the clock")?.as_secs())
}
