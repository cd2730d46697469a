//! The demo: a whole cloud on one machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use e2e::{Binaries, Cloud, Dialer, More};
use lab::images::{self, Image};
use lab::{capability, packages};
use packaging::{Plan, Role};

use crate::cargo;
use crate::progress::Progress;

/// The agents are looked at this often while the demo stands.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// What shells expect of a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// Sets the cloud up and shows it until Ctrl-C, or proves it; with the agents in containers if `containers`.
pub(crate) fn run(check: bool, containers: bool) -> Result<()> {
    let progress = Progress::start();
    prepare(&progress)?;
    let agents = containers.then(|| agents(&progress)).transpose()?;
    match (check, agents) {
        (false, agents) => show(&progress, agents),
        (true, None) => prove(&progress),
        (true, Some(agents)) => {
            prove_in_containers(&progress, agents)?;
            progress.step("everything holds; the machine is as it was");
            Ok(())
        }
    }
}

/// Installs and builds what the demo needs.
pub(crate) fn prepare(progress: &Progress) -> Result<()> {
    let needed = packages::BUILD.iter().chain(packages::LAB).chain(packages::IMAGES);
    packages::ensure(needed, &mut |line| eprintln!("{line}"))?;
    let obstacles = capability::obstacles();
    if !obstacles.is_empty() {
        bail!("the demo cannot run here: {}", obstacles.join("; "));
    }
    progress.step("building the agents");
    // The whole workspace: the same build as the tests', so that neither repeats the other's.
    cargo::run(&["build", "--workspace"])
}

/// The images of both agents, made of the programs that were just built.
fn agents(progress: &Progress) -> Result<[Image; 2]> {
    packages::ensure(packages::PACKAGE, &mut |line| eprintln!("{line}"))?;
    let binaries = Binaries::beside_this_one()?;
    let agentctl = binaries.path("agentctl");
    let plan = Plan {
        workspace: cargo::workspace(),
        programs: agentctl.parent().context("find the directory of the programs")?,
        agentctl: &agentctl,
        version: env!("CARGO_PKG_VERSION"),
        architecture: "amd64",
        date: 0,
        fast: true,
    };
    let out = cargo::workspace().join("target/agents");
    let image = |role: Role| -> Result<Image> {
        let deb = packaging::deb(&plan, role, &out)?;
        images::of_agent(role.word(), plan.version, &deb, &deb.with_extension("tar"), &mut |what| progress.step(what))
    };
    Ok([image(Role::Edge)?, image(Role::Home)?])
}

/// Proves that the cloud does its main job: in both directions, and with the agents in containers.
pub(crate) fn prove(progress: &Progress) -> Result<()> {
    for (dialer, what) in [
        (Dialer::Home, "home behind two NATs dials the edge"),
        (Dialer::Edge, "home with a public address listens, the edge dials"),
    ] {
        prove_one(progress, what, dialer, &More::default())?;
    }
    prove_in_containers(progress, agents(progress)?)?;
    progress.step("everything holds; the machine is as it was");
    Ok(())
}

fn prove_in_containers(progress: &Progress, agents: [Image; 2]) -> Result<()> {
    let more = More { agents: Some(agents), ..More::default() };
    prove_one(progress, "home behind two NATs dials the edge, both agents in containers", Dialer::Home, &more)
}

fn prove_one(progress: &Progress, what: &str, dialer: Dialer, more: &More) -> Result<()> {
    progress.step(&format!("check: {what}"));
    let binaries = Binaries::beside_this_one()?;
    let mut cloud = Cloud::start_with(dialer, &binaries, more, &mut |what| progress.step(what))?;
    let took = cloud.wait_until_serving()?;
    progress.step(&format!("serving {:.1} s after the agents started", took.as_secs_f64()));
    e2e::check(&mut cloud, &mut |result| progress.proven(result)).with_context(|| {
        format!(
            "{what}: the check failed; the end of the edge's log:\n{}\nof home's:\n{}\nbecause",
            cloud.edge.process.log_tail(20),
            cloud.home.process.log_tail(20)
        )
    })?;
    cloud.stop()
}

/// Ctrl-C is heard at any time. While the cloud is being set up, the program simply ends: the lab takes itself down
/// when its owner has gone.
fn show(progress: &Progress, agents: Option<[Image; 2]>) -> Result<()> {
    let (asked, stop) = mpsc::channel();
    let standing = Arc::new(AtomicBool::new(false));
    let set_up = standing.clone();
    ctrlc::set_handler(move || {
        if set_up.load(Ordering::Acquire) {
            let _ = asked.send(());
        } else {
            eprintln!("\nstopped; the lab takes itself down");
            std::process::exit(INTERRUPTED);
        }
    })
    .context("listen for Ctrl-C")?;

    let binaries = Binaries::beside_this_one()?;
    let more = More { agents, ..More::default() };
    let mut cloud = Cloud::start_with(Dialer::Home, &binaries, &more, &mut |what| progress.step(what))?;
    progress.step("waiting until the visitor gets the service (Nextcloud installs itself)");
    cloud.wait_until_serving()?;
    cloud.wait_until_proven()?;
    describe(&cloud)?;
    standing.store(true, Ordering::Release);
    let mut complained = false;
    while let Err(RecvTimeoutError::Timeout) = stop.recv_timeout(WATCH_INTERVAL) {
        let ended = [&mut cloud.edge, &mut cloud.home]
            .into_iter()
            .find_map(|agent| (!agent.process.is_running()).then_some(agent));
        if let Some(agent) = ended
            && !complained
        {
            eprintln!("an agent has ended; Ctrl-C takes the demo down. Its last words:\n{}", agent.process.log_tail(3));
            complained = true;
        }
    }
    eprintln!();
    progress.step("taking everything down");
    drop(cloud);
    progress.step("the machine is as it was");
    Ok(())
}

/// What is where, and how to look at it.
fn describe(cloud: &Cloud) -> Result<()> {
    let (user, password) = cloud.login()?;
    let enter = |name: &str| -> Result<String> { Ok(format!("sh {}", cloud.lab.host(name)?.enter_path().display())) };
    let root = cloud.pebble.issuing_root().display().to_string();
    let agentctl = Binaries::beside_this_one()?.path("agentctl").display().to_string();
    println!();
    println!("Home's Nextcloud serves at {} (only inside the lab)", cloud.url("/"));
    println!("  engines            Docker {} and {}", cloud.edge_engine.version(), cloud.home_engine.version());
    println!("  login              {user} / {password}");
    println!();
    println!("As the visitor       {} curl --cacert {root} {}", enter("visitor")?, cloud.url("/status.php"));
    println!("A visitor's shell    {}", enter("visitor")?);
    println!("Status at the edge   {} {agentctl} status", enter("vps")?);
    println!("Status at home       {} {agentctl} status", enter("home")?);
    println!("Metrics              {} curl http://127.0.0.1:9586/metrics", enter("vps")?);
    println!();
    for line in cloud.lab.describe() {
        println!("{line}");
    }
    println!();
    println!("{}", cloud.edge.status_text()?);
    println!("Ctrl-C takes everything down and leaves the machine as it was.");
    Ok(())
}
