//! Many peers on one listener: what they cost, and how fast they come.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use lab::topology::RIGHT;
use lab::{Process, packages};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;

use super::bed::Bed;
use super::load::{self, Ways};
use super::machine::Machine;
use super::paths::{self, End, INSIDE};
use super::programs::{self, Programs};
use super::results;
use super::tunnel::Tunnel;
use super::{congestion, figure};
use crate::cargo;
use crate::progress::Progress;

/// Dialers in a handshake at a time: many at once, but fewer than ours serves at a time, so that nobody waits for a repetition.
const AT_ONCE: u32 = 48;
/// Time for all to connect.
const LIMIT: Duration = Duration::from_secs(300);
/// File descriptors that a dialer may need.
const DESCRIPTORS: u32 = 16;

/// What to measure, and for how long.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Both listeners are measured this often, in turn
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds for each throughput, after one second to warm up
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=20))]
    seconds: u32,
    /// So many peers connect beside the one whose throughput is measured
    #[arg(long, default_value_t = 999, value_parser = clap::value_parser!(u32).range(1..=1000))]
    count: u32,
    /// Write all results and the machine's description to this file, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What one listener did in one round.
#[derive(Debug, Serialize)]
struct Round {
    /// Handshakes a second, from the first packet of the first dialer until the last was connected.
    handshakes: f64,
    /// The listener's CPU time for each handshake, milliseconds.
    handshake_cpu: f64,
    /// The listener's memory for each connected peer, KiB.
    memory: f64,
    /// One peer's throughput alone and beside the connected ones; ours only.
    alone: Option<Ways>,
    beside: Option<Ways>,
}

/// Measures and prints.
pub(crate) fn run(options: &Options) -> Result<()> {
    let progress = Progress::start();
    super::need_root()?;
    let needed = packages::BUILD.iter().chain(packages::BENCH);
    packages::ensure(needed, &mut |line| eprintln!("{line}"))?;
    let programs = Programs::provide(&[], &mut |what| progress.step(what))?;
    progress.step("building the crowd of dialers");
    let dialers = programs::build("crowd", &cargo::workspace().join("target"), &[])?;
    let machine = Machine::look(programs.versions())?;
    congestion::allow()?;

    let (mut ours, mut stock) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        let mut turn = [(End::Ours, "ours", &mut ours), (End::Stock26, "openvpn-2.6", &mut stock)];
        if round % 2 == 1 {
            turn.reverse();
        }
        for (end, name, rounds) in turn {
            let what = format!("round {} of {}, {name}", round + 1, options.rounds);
            let mut say = |step: &str| progress.step(&format!("{what}: {step}"));
            rounds.push(measure(end, options, &programs, &dialers, &mut say).with_context(|| what.clone())?);
        }
    }
    println!("\n{machine}");
    report(&ours, &stock, options.count);
    if let Some(file) = &options.json {
        #[derive(Serialize)]
        struct Document<'a> {
            machine: &'a Machine,
            peers: u32,
            ours: &'a [Round],
            stock: &'a [Round],
        }
        let document = Document { machine: &machine, peers: options.count, ours: &ours, stock: &stock };
        fs::write(file, serde_json::to_string_pretty(&document)?)
            .with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

/// One listener, once, on hosts of its own that go with it.
fn measure(
    end: End,
    options: &Options,
    programs: &Programs,
    dialers: &Path,
    say: &mut dyn FnMut(&str),
) -> Result<Round> {
    say("coming up");
    let bed = Bed::new(true)?;
    bed.issue_device_certificates(options.count)?;
    let mut listener = bed.right.spawn("listener", listener(&bed, programs, end)?)?;
    let one = bed.left.spawn("tunnel", paths::dialer(&bed, programs, End::Ours, false)?)?;
    listener.wait_until("a packet through the tunnel", Duration::from_secs(30), || {
        bed.left.exec(&["ping", "-n", "-c", "1", "-W", "1", INSIDE]).map(|_| true)
    })?;
    let tunnel = Tunnel { address: INSIDE.to_owned(), ends: vec![listener] };
    let server = load::serve(&bed)?;
    let throughput = |say: &mut dyn FnMut(&str), what: &str| -> Result<Option<Ways>> {
        if end != End::Ours {
            return Ok(None);
        }
        let [up, down] = [false, true].map(|down| load::tcp(&bed.left, &tunnel, 1, down, options.seconds));
        let ways = Ways { up: up?, down: down? };
        say(&format!("one flow of one peer {what}: {:.2} Gbit/s up, {:.2} down", ways.up.rate, ways.down.rate));
        Ok(Some(ways))
    };
    let alone = throughput(say, "alone")?;

    let look = || -> Result<(f64, f64)> {
        Ok((tunnel.cpu_seconds().context("no CPU time")?, tunnel.memory().context("no memory")?))
    };
    let (cpu_before, memory_before) = look()?;
    say(&format!("{} dialers connect", options.count));
    let mut crowd = crowd(&bed, dialers, options.count)?;
    let seconds = connected(&mut crowd)?;
    let (cpu_after, _) = look()?;
    let count = f64::from(options.count);
    let (handshakes, handshake_cpu) = (count / seconds, (cpu_after - cpu_before) / count * 1e3);
    say(&format!("{count} handshakes: {handshakes:.0} a second, {handshake_cpu:.2} ms of the listener's CPU each"));
    // What a thousand dialers need themselves is spent on other machines in life. They are idle, and short of their
    // patience the listener cannot tell an idle peer from one that stands still.
    pause(&crowd, Signal::SIGSTOP)?;
    let beside = throughput(say, "beside the connected ones")?;
    pause(&crowd, Signal::SIGCONT)?;
    ensure!(crowd.is_running(), "{}", crowd.log_tail(10));
    let lost = crowd.log()?.lines().filter(|line| line.contains("disconnected")).count();
    ensure!(lost == 0, "{lost} of the peers lost their connection: {}", crowd.log_tail(3));
    let (_, memory_after) = look()?;
    let memory = (memory_after - memory_before) * 1024.0 / count;
    say(&format!("{memory:.0} KiB of the listener's memory for each"));
    drop((server, one));
    Ok(Round { handshakes, handshake_cpu, memory, alone, beside })
}

/// A listener with room for all.
fn listener(bed: &Bed, programs: &Programs, end: End) -> Result<Command> {
    if end == End::Ours {
        let words =
            ["mode=listen", "bind=0.0.0.0:1194", "address=10.9.0.1/16", "pool=10.9.1.0-10.9.7.255", "peers=1100"];
        return Ok(paths::ours(bed, programs, end, &bed.right, &words));
    }
    let words = "--server 10.9.0.0 255.255.0.0 --topology subnet --dh none --keepalive 10 60 --max-clients 1100";
    paths::stock(bed, programs, &bed.right, end, words)
}

/// The other dialers, in one process on the left.
fn crowd(bed: &Bed, program: &Path, count: u32) -> Result<Process> {
    let mut command = bed.left.command("prlimit");
    // Only the soft limit: the hard one may be out of reach even for root.
    command
        .arg(format!("--nofile={}:", (count + 4) * DESCRIPTORS))
        .arg(program)
        .arg(format!("remote={RIGHT}:1194"))
        .arg(format!("count={count}"));
    command.arg(format!("dir={}", bed.dir().display())).arg(format!("at_once={AT_ONCE}"));
    bed.left.spawn("crowd", command)
}

fn pause(crowd: &Process, signal: Signal) -> Result<()> {
    kill(Pid::from_raw(crowd.pid().cast_signed()), signal).context("stop or continue the crowd")
}

/// Waits until all of the crowd are connected; returns how many seconds that took.
fn connected(crowd: &mut Process) -> Result<f64> {
    const SAID: &str = "connected in ";
    let log = crowd.log_path().to_owned();
    let said = |log: &Path| -> Result<Option<f64>> {
        let text = fs::read_to_string(log)?;
        text.lines().find_map(|line| line.strip_prefix(SAID)).map(|seconds| Ok(seconds.parse()?)).transpose()
    };
    crowd.wait_until("all handshakes", LIMIT, || Ok(said(&log)?.is_some()))?;
    said(&log)?.context("read how long the handshakes took")
}

/// A figure of a round.
#[derive(Clone, Copy)]
struct Metric {
    name: &'static str,
    more_is_better: bool,
    of: fn(&Round) -> Option<f64>,
}

const fn more(name: &'static str, of: fn(&Round) -> Option<f64>) -> Metric {
    Metric { name, more_is_better: true, of }
}

const fn less(name: &'static str, of: fn(&Round) -> Option<f64>) -> Metric {
    Metric { name, more_is_better: false, of }
}

const HANDSHAKES: Metric = more("handshakes a second", |round| Some(round.handshakes));
const HANDSHAKE_CPU: Metric = less("CPU time of the listener for one, ms", |round| Some(round.handshake_cpu));
const MEMORY: Metric = less("memory of the listener for one, KiB", |round| Some(round.memory));
const KEPT_UP: Metric = more("throughput up beside them, to alone", |round| {
    Some(round.beside.as_ref()?.up.rate / round.alone.as_ref()?.up.rate)
});
const KEPT_DOWN: Metric = more("throughput down beside them, to alone", |round| {
    Some(round.beside.as_ref()?.down.rate / round.alone.as_ref()?.down.rate)
});
const CPU_UP: Metric = less("its CPU time per byte up, to alone", |round| {
    Some(round.beside.as_ref()?.up.cpu? / round.alone.as_ref()?.up.cpu?)
});
const CPU_DOWN: Metric = less("its CPU time per byte down, to alone", |round| {
    Some(round.beside.as_ref()?.down.cpu? / round.alone.as_ref()?.down.cpu?)
});

fn median(rounds: &[Round], metric: Metric) -> Option<f64> {
    results::median(rounds.iter().filter_map(metric.of), metric.more_is_better)
}

fn report(ours: &[Round], stock: &[Round], count: u32) {
    println!("\nMedian of all rounds, {count} peers{:>30}{:>14}", "ours", "openvpn-2.6");
    let cell = |rounds, metric| median(rounds, metric).map_or("–".to_owned(), figure);
    for metric in [HANDSHAKES, HANDSHAKE_CPU, MEMORY, KEPT_UP, KEPT_DOWN, CPU_UP, CPU_DOWN] {
        println!("  {:<40}{:>14}{:>14}", metric.name, cell(ours, metric), cell(stock, metric));
    }
    println!("\nGoals, in this run");
    let handshakes = median(ours, HANDSHAKES).zip(median(stock, HANDSHAKES)).map(|(ours, stock)| ours / stock);
    let goals = [
        ("handshakes a second, to OpenVPN: at least 1", handshakes, handshakes.map(|ratio| ratio >= 1.0)),
        ("memory for a peer: at most 100 KiB", median(ours, MEMORY), median(ours, MEMORY).map(|kib| kib <= 100.0)),
        ("throughput up: at least 0.95", median(ours, KEPT_UP), median(ours, KEPT_UP).map(|kept| kept >= 0.95)),
        ("throughput down: at least 0.95", median(ours, KEPT_DOWN), median(ours, KEPT_DOWN).map(|kept| kept >= 0.95)),
    ];
    for (goal, reached, met) in goals {
        let met = if met == Some(true) { "met" } else { "MISSED" };
        println!("  {met:<8}{goal:<46}{}", reached.map(figure).unwrap_or_default());
    }
}
