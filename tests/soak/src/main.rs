//! Our tunnel against stock peers under load, on a network that changes, loses and blocks, with new keys every few
//! seconds. It ends with the counts, and with 1 when a byte was wrong or memory or descriptors grew.
#![forbid(unsafe_code)]

mod dial;
mod listen;
mod load;
mod net;

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};
use rand::SeedableRng;
use rand::rngs::StdRng;
use relay::Faults;

use crate::listen::after;
use crate::load::Totals;
use crate::net::Usage;

/// What relays do at all times: every mapping gets another source port.
const ADDRESS_CHANGES: Faults = Faults {
    moves: Some(Duration::from_secs(5)),
    loss: 0.0,
    repeat: 0.0,
    delay: (Duration::ZERO, Duration::ZERO),
    forgets: None,
    blocked: false,
};
/// An episode of loss.
const LOSS: Faults =
    Faults { loss: 0.1, repeat: 0.05, delay: (Duration::ZERO, Duration::from_millis(30)), ..ADDRESS_CHANGES };
/// Time after an episode before the next.
const UNBLOCKED: Duration = Duration::from_secs(20);
/// Most growth of memory between the first and the last look, KiB.
const GROWTH: u64 = 2048;
/// How long it may take until everything is connected over UDP again.
const CALM: Duration = Duration::from_secs(120);

/// Our tunnel against stock peers, under load and on a bad network. Needs root.
#[derive(Debug, Parser)]
#[command(name = "soak")]
struct Cli {
    /// How long it runs
    #[arg(long, default_value_t = 30)]
    minutes: u64,
    /// Our role
    #[arg(long, value_enum, default_value_t = Which::Both)]
    role: Which,
    /// Stock clients of our listener
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u8).range(1..=200))]
    clients: u8,
    /// Bytes a second each way in each stream
    #[arg(long, default_value_t = 40_000)]
    rate: u64,
    /// Whether our ends carry many packets a call
    #[arg(long, value_parser = ["auto", "off"], default_value = "auto")]
    offload: String,
    /// Of what happens by chance; another one each time if it is not given
    #[arg(long)]
    seed: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Which {
    Listen,
    Dial,
    Both,
}

/// One of our ends, its stock peers and their network.
trait Role: Send {
    fn name(&self) -> &'static str;
    /// Begins and ends what goes wrong by chance. Called every second.
    fn disturb(&mut self, rng: &mut StdRng) -> Result<()>;
    /// Ends all that goes wrong.
    fn calm(&mut self) -> Result<()>;
    /// Whether everybody is connected over UDP.
    fn is_calm(&mut self) -> bool;
    /// What our process uses.
    fn usage(&mut self) -> Result<Usage>;
    fn namespaces(&self) -> Vec<String>;
    /// Our process's log at its end, and facts for the report.
    fn finish(self: Box<Self>) -> Result<(String, Vec<String>)>;
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<bool> {
    let seed = cli.seed.unwrap_or_else(rand::random);
    println!("{} minutes, offload {}, seed {seed}", cli.minutes, cli.offload);
    let time = Duration::from_secs(cli.minutes * 60);
    let mut roles = Vec::new();
    if cli.role != Which::Dial {
        roles.push(std::thread::spawn({
            let (clients, offload, rate) = (cli.clients, cli.offload.clone(), cli.rate);
            move || soak(|totals| Ok(Box::new(listen::Listen::start(clients, &offload, rate, totals)?)), time, seed)
        }));
    }
    if cli.role != Which::Listen {
        let (offload, rate) = (cli.offload.clone(), cli.rate * 10);
        roles.push(std::thread::spawn(move || {
            soak(|totals| Ok(Box::new(dial::Dial::start(&offload, rate, totals)?)), time, seed.rotate_left(1))
        }));
    }
    let mut right = true;
    for role in roles {
        let (report, holds) = role.join().map_err(|_| anyhow::anyhow!("a role panicked"))??;
        println!("\n{report}");
        right &= holds;
    }
    Ok(right)
}

/// Lets one role run for `time`; gives its report, and whether all bounds hold.
fn soak(
    start: impl FnOnce(&Arc<Totals>) -> Result<Box<dyn Role>>,
    time: Duration,
    seed: u64,
) -> Result<(String, bool)> {
    let totals = Arc::new(Totals::default());
    let mut rng = StdRng::seed_from_u64(seed);
    let mut role = start(&totals)?;
    let begun = Instant::now();
    let say = |text: &str| println!("[{:>5} s] {text}", begun.elapsed().as_secs());
    let mut looks = Vec::new();
    let warm = (time / 6).min(Duration::from_secs(180));
    for (until, name) in [(warm, "start"), (time / 2, "middle"), (time, "end")] {
        let mut at = 0;
        while begun.elapsed() < until {
            std::thread::sleep(Duration::from_secs(1));
            role.disturb(&mut rng)?;
            at += 1;
            if at % 30 == 0 {
                say(&progress(&mut *role, &totals)?);
            }
        }
        role.calm()?;
        let since = Instant::now();
        while !role.is_calm() {
            ensure!(since.elapsed() < CALM, "{}: not everybody is connected again after {CALM:?}", role.name());
            std::thread::sleep(Duration::from_secs(5));
        }
        // What is over by then still has its last words.
        std::thread::sleep(Duration::from_secs(15));
        let usage = role.usage()?;
        say(&format!("{}: {name}: RSS {} KiB, {} descriptors", role.name(), usage.rss, usage.descriptors));
        looks.push((name, usage));
    }
    totals.stop.store(true, Ordering::Relaxed);
    let namespaces = role.namespaces();
    let mut checksums = 0;
    for namespace in &namespaces {
        checksums += net::checksum_errors(namespace)?;
    }
    let (name, minutes) = (role.name(), begun.elapsed().as_secs() / 60);
    let (log, facts) = role.finish()?;
    Ok(report(name, minutes, &totals, checksums, &looks, &log, &facts))
}

fn progress(role: &mut dyn Role, totals: &Totals) -> Result<String> {
    let usage = role.usage()?;
    Ok(format!(
        "{}: {:.1} MB up, {:.1} MB down, {} corrupt, {} streams, RSS {} KiB, {} descriptors",
        role.name(),
        megabytes(&totals.up),
        megabytes(&totals.down),
        totals.corrupt.load(Ordering::Relaxed),
        totals.streams.load(Ordering::Relaxed),
        usage.rss,
        usage.descriptors
    ))
}

fn megabytes(count: &AtomicU64) -> f64 {
    count.load(Ordering::Relaxed) as f64 / 1e6
}

fn report(
    name: &str,
    minutes: u64,
    totals: &Totals,
    checksums: u64,
    looks: &[(&str, Usage)],
    log: &str,
    facts: &[String],
) -> (String, bool) {
    let mut lines = vec![format!("== ours as {name}, {minutes} minutes")];
    let corrupt = totals.corrupt.load(Ordering::Relaxed);
    lines.push(format!("bytes verified: {:.1} MB up, {:.1} MB down", megabytes(&totals.up), megabytes(&totals.down)));
    lines.push(format!("corrupt bytes: {corrupt}, packets with a wrong checksum: {checksums}"));
    lines.push(format!("streams made: {}", totals.streams.load(Ordering::Relaxed)));
    lines.extend(facts.iter().cloned());
    let (connects, switches) = connections(log);
    lines.push(format!("sessions connected: {connects}, changes between UDP and TCP: {switches}"));
    let counters = log.lines().rev().take_while(|line| !line.starts_with("Traffic"));
    let mut counters: Vec<String> = counters.map(str::to_owned).collect();
    counters.reverse();
    let renewals: u64 = counters.iter().find_map(|line| after(line, "renewals_completed=")?.parse().ok()).unwrap_or(0);
    lines.extend(counters);
    for (name, usage) in looks {
        lines.push(format!("{name}: RSS {} KiB, {} descriptors", usage.rss, usage.descriptors));
    }
    let (first, last) = (looks.first().map(|look| look.1), looks.last().map(|look| look.1));
    let grown = first
        .zip(last)
        .map(|(first, last)| (last.rss.saturating_sub(first.rss), last.descriptors.saturating_sub(first.descriptors)));
    let (memory, descriptors) = grown.unwrap_or_default();
    let carried = megabytes(&totals.up).min(megabytes(&totals.down)) > minutes as f64;
    let mut holds = true;
    for (bound, kept) in [
        ("no byte and no packet was wrong".to_owned(), corrupt == 0 && checksums == 0),
        ("a megabyte a minute was verified each way".to_owned(), carried),
        ("keys were renewed, transports changed".to_owned(), renewals > 0 && switches > 0),
        (format!("memory grew by {memory} KiB, at most {GROWTH}"), memory <= GROWTH),
        (format!("descriptors grew by {descriptors}, at most 0"), descriptors == 0),
    ] {
        lines.push(format!("{}: {bound}", if kept { "holds" } else { "BROKEN" }));
        holds &= kept;
    }
    (lines.join("\n"), holds)
}

/// Sessions that came up, and how many of them over another transport than the one before of the same peer.
fn connections(log: &str) -> (u64, u64) {
    let mut last: HashMap<&str, &str> = HashMap::new();
    let (mut connects, mut switches) = (0, 0);
    for line in log.lines().filter(|line| line.starts_with("PeerConnected")) {
        connects += 1;
        let (Some(name), Some(transport)) = (after(line, "common_name: "), after(line, "transport: ")) else {
            continue;
        };
        if last.insert(name, transport).is_some_and(|before| before != transport) {
            switches += 1;
        }
    }
    (connects, switches)
}
