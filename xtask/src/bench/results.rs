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
/// Most that was lost in one of the measurements: the round trips are of the others.
const PINGS_LOST: Metric = less("lost", "%", |round| {
    let loads = [&round.one, &round.four].into_iter().flat_map(|ways| [&ways.up, &ways.down]);
    let trips = loads.map(|load| &load.round_trip).chain([&round.idle]);
    trips.map(|trip| trip.loss() * 100.0).max_by(f64::total_cmp)
});
pub(crate) const UDP: Metric = more("UDP 64 B", "10^3/s", |round| Some(load::best(&round.udp) / 1e3));
const UDP_SEGMENTED: Metric = more("UDP GSO", "10^3/s", |round| Some(load::best(&round.udp_segmented) / 1e3));
const MEMORY: Metric = less("memory", "MiB", |round| round.peak_memory);

/// All figures, in the order of the tables.
pub(crate) const METRICS: [Metric; 15] = [
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
    PINGS_LOST,
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
    pub(crate) fn median(&self, metric: Metric) -> Option<f64> {
        median(self.values(metric), metric.more_is_better)
    }

    /// The best of a figure's values.
    pub(crate) fn best(&self, metric: Metric) -> Option<f64> {
        best_last(self.values(metric), metric.more_is_better).last().copied()
    }

    fn values(&self, metric: Metric) -> impl Iterator<Item = f64> {
        self.rounds.iter().filter_map(metric.of)
    }
}

/// The middle of a figure's values, the better one of two middles.
pub(crate) fn median(values: impl Iterator<Item = f64>, more_is_better: bool) -> Option<f64> {
    let values = best_last(values, more_is_better);
    values.get(values.len() / 2).copied()
}

fn best_last(values: impl Iterator<Item = f64>, more_is_better: bool) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    if !more_is_better {
        values.reverse();
    }
    values
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

#[cfg(test)]
mod tests {
    use super::super::load::Load;
    use super::*;

    fn round(rate: f64, cpu: f64) -> Round {
        let trip = RoundTrip { median: 1.0, p99: 2.0, sent: 100, received: 98 };
        let load = Load { rate, cpu: Some(cpu), round_trip: trip.clone() };
        let ways = Ways { up: load.clone(), down: load };
        let (udp, udp_segmented) = (vec![], vec![]);
        Round { one: ways.clone(), four: ways, idle: trip, udp, udp_segmented, peak_memory: None }
    }

    #[test]
    fn the_best_is_the_most_of_a_rate_and_the_least_of_a_cost() {
        let rounds = [(3.0, 5.0), (1.0, 4.0), (2.0, 9.0)].map(|(rate, cpu)| round(rate, cpu));
        let rounds = Rounds { rounds: rounds.into(), failures: vec![] };
        assert_eq!((rounds.median(ONE_UP), rounds.best(ONE_UP)), (Some(2.0), Some(3.0)));
        assert_eq!((rounds.median(CPU_DOWN), rounds.best(CPU_DOWN)), (Some(5.0), Some(4.0)));
        assert_eq!((rounds.median(PINGS_LOST), rounds.median(MEMORY)), (Some(2.0), None));
    }

    #[test]
    fn of_two_middles_the_better_one_counts() {
        let median = |more_is_better| median([4.0, 1.0, 3.0, 2.0].into_iter(), more_is_better);
        assert_eq!((median(true), median(false)), (Some(3.0), Some(2.0)));
    }

    #[test]
    fn a_goal_is_met_by_its_bound() {
        let path = |name: &str, round| (name.to_owned(), Rounds { rounds: vec![round], failures: vec![] });
        let results = Results { paths: vec![path("ours", round(13.0, 1.0)), path("openvpn-2.6", round(1.0, 12.9))] };
        let outcomes = serde_json::to_value(goals::outcomes(&results)).unwrap();
        let met =
            |goal: &str| outcomes.as_array().unwrap().iter().find(|one| one["goal"] == goal).unwrap()["met"].clone();
        assert_eq!(met("one flow up, to OpenVPN"), true);
        assert_eq!(met("CPU per byte up, to OpenVPN"), false);
        assert!(met("one flow up, to wireguard-go").is_null());
    }
}
