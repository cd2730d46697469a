//! Benchmarks over the network: our tunnel and others side by side in one run.

mod bed;
mod congestion;
mod goals;
pub(crate) mod ingress;
mod load;
mod machine;
mod paths;
pub(crate) mod peers;
mod programs;
mod report;
mod results;
pub(crate) mod services;
mod tunnel;
mod udp;

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use lab::packages;

use crate::progress::Progress;
use bed::Bed;
use load::Round;
use machine::Machine;
use paths::Path;
use programs::Programs;
use results::Results;

/// What to measure, and for how long.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Each path is measured this often, once a round, in an order that changes from round to round
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds for each of a round's throughputs, after one second to warm up
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Only these paths, with commas between them
    #[arg(long, value_delimiter = ',', long_help = paths::help())]
    paths: Vec<String>,
    /// Another tunnel to measure: its name, the address of its right end, and the command for either end
    ///
    /// The commands run in the background by `sh -c`, each on its host, and bring up a device with an address each.
    /// Left is 192.0.2.1 and right is 192.0.2.2 on the cable. In $DIR, for both ends, are ca.pem, and for left and right
    /// left.pem, left.key, right.pem and right.key. Their processes' CPU time and memory count as the tunnel's. Can be
    /// given several times.
    ///
    /// Example: --peer socat 10.9.0.1 \
    /// 'socat UDP-DATAGRAM:192.0.2.2:5000,bind=192.0.2.1:5000 TUN:10.9.0.2/24,iff-no-pi,up' \
    /// 'socat UDP-DATAGRAM:192.0.2.1:5000,bind=192.0.2.2:5000 TUN:10.9.0.1/24,iff-no-pi,up'
    #[arg(long, num_args = 4, value_names = ["NAME", "ADDRESS", "LEFT", "RIGHT"], verbatim_doc_comment)]
    peer: Vec<String>,
    /// Write all results and the machine's description to this file, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Measures and prints.
pub(crate) fn run(options: &Options) -> Result<()> {
    let progress = Progress::start();
    need_root()?;
    let paths = paths::selected(&options.paths, &options.peer)?;
    let needed = packages::BUILD.iter().chain(packages::BENCH);
    packages::ensure(needed, &mut |line| eprintln!("{line}"))?;
    let programs = Programs::provide(&paths, &mut |what| progress.step(what))?;
    let machine = Machine::look(programs.versions())?;
    let rounds = options.rounds as usize;
    let estimate = rounds * paths.len() * load::seconds(options.seconds);
    progress.step(&format!("{} paths, {rounds} rounds: about {} minutes", paths.len(), estimate.div_ceil(60)));

    congestion::allow()?;
    let mut results = Results::new(&paths);
    for round in 0..rounds {
        for at in 0..paths.len() {
            let path = &paths[(at + round) % paths.len()];
            let what = format!("round {} of {rounds}, {}", round + 1, path.name);
            let mut say = |step: &str| progress.step(&format!("{what}: {step}"));
            match measure(path, &programs, options.seconds, &mut say) {
                Ok(figures) => results.add(&path.name, figures),
                Err(error) => {
                    say(&format!("FAILED: {error:#}"));
                    results.fail(&path.name, &format!("{error:#}"));
                }
            }
        }
    }
    report::print(&machine, &results);
    goals::print(&results);
    if let Some(file) = &options.json {
        results.write(&machine, file).with_context(|| format!("write {}", file.display()))?;
        progress.step(&format!("written to {}", file.display()));
    }
    match results.failures() {
        0 => Ok(()),
        failures => bail!("{failures} measurements failed: see above"),
    }
}

fn need_root() -> Result<()> {
    ensure!(nix::unistd::Uid::effective().is_root(), "not root: run it as root or with sudo");
    Ok(())
}

/// Three digits that say something.
fn figure(value: f64) -> String {
    let decimals = match value {
        value if value >= 100.0 => 0,
        value if value >= 10.0 => 1,
        value if value >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

/// One path, once, between hosts of its own that go with it.
fn measure(path: &Path, programs: &Programs, seconds: u32, say: &mut dyn FnMut(&str)) -> Result<Round> {
    say("coming up");
    let bed = Bed::new(path.whole)?;
    let tunnel = path.start(&bed, programs)?;
    load::measure(&bed, tunnel, seconds, say)
}
