//! The tables that people read.

use super::figure;
use super::machine::Machine;
use super::results::{METRICS, Metric, Results, Rounds};

const OURS: &str = "ours";
const SEGMENTED: &str = "-segmented";

/// Prints machine and tables.
pub(crate) fn print(machine: &Machine, results: &Results) {
    println!("\n{machine}");
    table("Median of all rounds", results, |_, rounds, metric| rounds.median(metric).map(figure));
    table("Best round", results, |_, rounds, metric| rounds.best(metric).map(figure));
    table("Ours is so many times as good", results, |name, rounds, metric| {
        // Like with like: where super-packets do not survive, they do not for us either.
        let ours = if name.ends_with(SEGMENTED) { format!("{OURS}{SEGMENTED}") } else { OURS.to_owned() };
        let (ours, other) = (results.median(&ours, metric)?, rounds.median(metric)?);
        let ratio = if metric.more_is_better { ours / other } else { other / ours };
        // Nothing lost, to nothing lost, says nothing.
        ratio.is_finite().then(|| figure(ratio))
    });
}

fn table(title: &str, results: &Results, cell: impl Fn(&str, &Rounds, Metric) -> Option<String>) {
    println!("\n{title}");
    let heading = |of: fn(&Metric) -> &'static str| METRICS.iter().map(move |metric| format!("{:>10}", of(metric)));
    println!("{:<22}{}", "", heading(|metric| metric.name).collect::<String>());
    println!("{:<22}{}", "", heading(|metric| metric.unit).collect::<String>());
    for (name, rounds) in results.paths() {
        let cells = METRICS.map(|metric| format!("{:>10}", cell(name, rounds, metric).unwrap_or("–".to_owned())));
        println!("{name:<22}{}", cells.concat());
    }
}
