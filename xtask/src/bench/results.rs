//! What all rounds found out.

use std::collections::BTreeMap;
use std::fs;

use anyhow::Result;
use serde::Serialize;

use super::load::{self, Round, RoundTrip, Ways};
use super::machine::Machine;
use super::{goals, paths};

/// One of the figures of a round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) more_is_better: bool,
    of: fn(&Round) -> Option<f64>,
}

const fn more(name: &'static str, unit: &'static str, of: fn(&Round) -> Option<f64>) -> Metric {
    Metric { name, unit, more_is_better: true, of }
}

const fn less(name: &'static str, unit: &'static str, of: fn(&Round) -> Option<f64>) -> Metric {
    Metric { name, unit, more_is_better: false, of }
}

/// The worse of both ways.
fn ping(ways: &Ways, of: fn(&RoundTrip) -> f64) -> Option<f64> {
    Some(of(&ways.up.round_trip).max(of(&ways.down.round_trip)))
}

pub(crate) const ONE_UP: Metric = more("1 flow up", "Gbit/s", |round| Some(round.one.up.rate));
pub(crate) const ONE_DOWN: Metric = more("1 down", "Gbit/s", |round| Some(round.one.down.rate));
pub(crate) const FOUR_UP: Metric = more("4 up", "Gbit/s", |round| Some(round.four.up.rate));
pub(crate) const FOUR_DOWN: Metric = more("4 down", "Gbit/s", |round| Some(round.four.down.rate));
pub(crate) const CPU_UP: Metric = less("CPU 1 up", "s/GB", |round| round.one.up.cpu);
pub(crate) const CPU_DOWN: Metric = less("1 down", "s/GB", |round| round.one.down.cpu);
pub(crate) const IDLE: Metric = less("ping idle", "ms", |round| Some(round.idle.median));
pub(crate) const PING_ONE: Metric = less("1 flow", "ms", |round| ping(&round.one, |trip| trip.median));
const PING_ONE_P99: Metric = less("99 %", "ms", |round| ping(&round.one, |trip| trip.p99));
pub(crate) const PING_FOUR: Metric = less("4 flows", "ms", |round| ping(&round.four, |trip| trip.median));
const PING_FOUR_P99: Metric = less("99 %", "ms", |round| ping(&round.four, |trip| trip.p99));
pub(crate) const UDP: Metric = more("UDP 64 B", "10^3/s", |round| Some(load::best(&round.udp) / 1e3));
pub(crate) const UDP_SEGMENTED: Metric =
    more("UDP GSO", "10^3/s", |round| Some(load::best(&round.udp_segmented) / 1e3));
const MEMORY: Metric = less("memory", "MiB", |round| round.peak_memory);

/// All figures, in the order of the tables.
pub(crate) const METRICS: [Metric; 14] = [
    ONE_UP,
    ONE_DOWN,
    FOUR_UP,
    FOUR_DOWN,
    CPU_UP,
    CPU_DOWN,
    IDLE,
    PING_ONE,
    PING_ONE_P99,
    PING_FOUR,
    PING_FOUR_P99,
    UDP,
    UDP_SEGMENTED,
    MEMORY,
];

/// A path's rounds.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Rounds {
    pub(crate) rounds: Vec<Round>,
    failures: Vec<String>,
}

impl Rounds {
    /// The middle of a figure's values, the better one of two middles.
    pub(crate) fn median(&self, metric: Metric) -> Option<f64> {
        let values = self.sorted(metric);
        values.get(values.len() / 2).copied()
    }

    /// The best of a figure's values.
    pub(crate) fn best(&self, metric: Metric) -> Option<f64> {
        self.sorted(metric).last().copied()
    }

    /// The best last.
    fn sorted(&self, metric: Metric) -> Vec<f64> {
        let mut values: Vec<f64> = self.rounds.iter().filter_map(metric.of).collect();
        values.sort_by(f64::total_cmp);
        if !metric.more_is_better {
            values.reverse();
        }
        values
    }
}

/// All paths' rounds, in the order of the tables.
#[derive(Debug)]
pub(crate) struct Results {
    paths: Vec<(String, Rounds)>,
}

impl Results {
    pub(crate) fn new(paths: &[paths::Path]) -> Self {
        Self { paths: paths.iter().map(|path| (path.name.clone(), Rounds::default())).collect() }
    }

    pub(crate) fn add(&mut self, name: &str, round: Round) {
        self.change(name, |rounds| rounds.rounds.push(round));
    }

    pub(crate) fn fail(&mut self, name: &str, reason: &str) {
        self.change(name, |rounds| rounds.failures.push(reason.to_owned()));
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut Rounds)) {
        if let Some((_, rounds)) = self.paths.iter_mut().find(|(path, _)| path == name) {
            change(rounds);
        }
    }

    pub(crate) fn failures(&self) -> usize {
        self.paths.iter().map(|(_, rounds)| rounds.failures.len()).sum()
    }

    pub(crate) fn paths(&self) -> impl Iterator<Item = (&str, &Rounds)> {
        self.paths.iter().map(|(name, rounds)| (name.as_str(), rounds))
    }

    /// The median of a path's figure, if it was measured.
    pub(crate) fn median(&self, path: &str, metric: Metric) -> Option<f64> {
        self.paths().find(|(name, _)| *name == path)?.1.median(metric)
    }

    /// Writes everything as JSON.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn write(&self, machine: &Machine, file: &std::path::Path) -> Result<()> {
        #[derive(Serialize)]
        struct Document<'a> {
            machine: &'a Machine,
            paths: BTreeMap<&'a str, &'a Rounds>,
            goals: Vec<goals::Outcome>,
        }
        let document = Document { machine, paths: self.paths().collect(), goals: goals::outcomes(self) };
        fs::write(file, serde_json::to_string_pretty(&document)?)?;
        Ok(())
    }
}
