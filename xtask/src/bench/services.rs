//! The whole product with its services: how long they need to serve, for how long an upgrade keeps people out, and what the
//! agents themselves need.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::{Agent, Binaries, Cloud, Dialer, Memory, More};
use lab::images::Wanted;
use lab::{Http, capability, packages, wait_until};

use super::machine::Machine;
use crate::cargo;
use crate::progress::Progress;

/// The page whose answer says that Ghost serves.
const BLOG: &str = "https://example.test/";
/// Ghost's release at first, and the one it is upgraded to.
const GHOST: [&str; 2] = ["6.53.0", "6.65.0"];
/// For a service to be set up.
const LIMIT: Duration = Duration::from_secs(300);
/// Nobody asks for anything for so long before memory is read.
const IDLE: Duration = Duration::from_secs(60);
/// Between two looks at a service that is being upgraded.
const LOOK: Duration = Duration::from_millis(50);

/// Measures and prints.
pub(crate) fn run() -> Result<()> {
    let progress = Progress::start();
    super::need_root()?;
    let needed = packages::BUILD.iter().chain(packages::LAB).chain(packages::IMAGES);
    packages::ensure(needed, &mut |line| eprintln!("{line}"))?;
    let obstacles = capability::obstacles();
    ensure!(obstacles.is_empty(), "this cannot be measured here: {}", obstacles.join("; "));
    let machine = Machine::look([])?;
    progress.step("building the agents");
    let target = cargo::workspace().join("target");
    let dir = target.display().to_string();
    let programs = ["-p", "edge-agent", "-p", "home-agent", "-p", "agentctl"];
    cargo::run_without_flags(&[&["build", "--release", "--target-dir", &dir], &programs[..]].concat())?;
    let binaries = Binaries::in_dir(&target.join("release"))?;

    let more = More {
        edge: format!(
            "[services.blog]\nkind = \"ghost\"\nimage = \"ghost:{}\"\ndatabase = {{ image = \"mysql:8\" }}\n",
            GHOST[0]
        ),
        edge_images: vec![Wanted::Ghost, Wanted::NewerGhost, Wanted::Mariadb],
        ..More::default()
    };
    let mut cloud = Cloud::start_with(Dialer::Home, &binaries, &more, &mut |what| progress.step(what))?;
    let started = Instant::now();
    let visitor = cloud.visitor()?;
    progress.step("waiting for both services");
    let (nextcloud, ghost) = std::thread::scope(|scope| {
        let ghost = scope.spawn(|| {
            wait_until("Ghost at its public name", LIMIT, || Ok(visitor.get(BLOG)?.status == 200))?;
            anyhow::Ok(started.elapsed())
        });
        cloud.wait_until_serving()?;
        let nextcloud = started.elapsed();
        anyhow::Ok((nextcloud, ghost.join().map_err(|_| anyhow::anyhow!("asking for Ghost panicked"))??))
    })?;
    cloud.wait_until_proven()?;
    progress.step(&format!("idle for {} s", IDLE.as_secs()));
    std::thread::sleep(IDLE);
    let memory =
        [("edge-agent", Memory::of(cloud.edge.process.pid())?), ("home-agent", Memory::of(cloud.home.process.pid())?)];

    progress.step("upgrading Ghost");
    let upgrade = keeps_people_out(&cloud.edge, &visitor, &["upgrade", "--to", GHOST[1]])?;
    progress.step("taking it back");
    let rollback = keeps_people_out(&cloud.edge, &visitor, &["rollback", "--yes"])?;
    cloud.stop()?;

    println!("\n{machine}Both hosts, their engines, the routers and the visitor are on it.\n");
    println!("| what | s |\n|---|---|");
    println!(
        "| from the agents' start to Nextcloud's (stand-in's) answer at its public name | {} |",
        seconds(nextcloud)
    );
    println!("| the same for Ghost with MariaDB | {} |", seconds(ghost));
    println!("| Ghost {} to {}: no answer from it for | {} |", GHOST[0], GHOST[1], seconds(upgrade.0));
    println!("| the whole upgrade | {} |", seconds(upgrade.1));
    println!("| the way back: no answer for | {} |", seconds(rollback.0));
    println!("| the whole way back | {} |", seconds(rollback.1));
    println!("\n| idle, MiB | resident | of it its own (not a file's) |\n|---|---|---|");
    for (name, Memory { resident, own, .. }) in memory {
        println!("| {name} | {resident:.1} | {own:.1} |");
    }
    Ok(())
}

/// Has agentctl do something with Ghost, and returns for how long visitors got no answer from it meanwhile, and how long
/// all of it took.
fn keeps_people_out(edge: &Agent, visitor: &Http, what: &[&str]) -> Result<(Duration, Duration)> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looks = scope.spawn(|| {
            let (mut out, mut since) = (Duration::ZERO, None::<Instant>);
            while !done.load(Ordering::Acquire) || since.is_some() {
                let asked = Instant::now();
                let serves = visitor.get(BLOG).is_ok_and(|reply| reply.status == 200);
                match (serves, since) {
                    (false, None) => since = Some(asked),
                    (true, Some(begin)) => {
                        out += begin.elapsed();
                        since = None;
                    }
                    _ => {}
                }
                if since.is_some_and(|begin| begin.elapsed() > LIMIT) {
                    break;
                }
                std::thread::sleep(LOOK);
            }
            (out, since)
        });
        let begin = Instant::now();
        let told = edge.agentctl(&[&["service", "blog"], what].concat());
        let took = begin.elapsed();
        done.store(true, Ordering::Release);
        let (out, since) = looks.join().map_err(|_| anyhow::anyhow!("asking for Ghost panicked"))?;
        told.with_context(|| format!("agentctl service blog {}", what.join(" ")))?;
        ensure!(since.is_none(), "Ghost has not answered for {} s", LIMIT.as_secs());
        Ok((out, took))
    })
}

fn seconds(duration: Duration) -> String {
    format!("{:.1}", duration.as_secs_f64())
}
