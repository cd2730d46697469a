//! What our tunnel is to reach against the others of the same run.

use serde::Serialize;

use super::results::{CPU_DOWN, CPU_UP, FOUR_DOWN, FOUR_UP, IDLE, Metric, ONE_DOWN, ONE_UP, PING_ONE, Results, UDP};

/// The first figure in proportion to the second, each the median of a path's rounds.
struct Goal {
    what: &'static str,
    figure: (&'static str, Metric),
    to: (&'static str, Metric),
    bound: Bound,
}

#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

const fn goal(what: &'static str, path: &'static str, to: &'static str, metric: Metric, bound: Bound) -> Goal {
    Goal { what, figure: (path, metric), to: (to, metric), bound }
}

const STOCK: &str = "openvpn-2.6";
const GO: &str = "wireguard-go";
const STOCK_SEGMENTED: &str = "openvpn-2.6-segmented";

const GOALS: [Goal; 21] = [
    goal("one flow up, to OpenVPN", "ours", STOCK, ONE_UP, Bound::AtLeast(13.0)),
    goal("one flow down, to OpenVPN", "ours", STOCK, ONE_DOWN, Bound::AtLeast(13.0)),
    goal("one flow up, to wireguard-go", "ours", GO, ONE_UP, Bound::AtLeast(2.3)),
    goal("one flow down, to wireguard-go", "ours", GO, ONE_DOWN, Bound::AtLeast(2.3)),
    Goal { what: "four flows up, to one", figure: ("ours", FOUR_UP), to: ("ours", ONE_UP), bound: Bound::AtLeast(1.0) },
    Goal {
        what: "four flows down, to one",
        figure: ("ours", FOUR_DOWN),
        to: ("ours", ONE_DOWN),
        bound: Bound::AtLeast(1.0),
    },
    goal("CPU per byte up, to OpenVPN", "ours", STOCK, CPU_UP, Bound::AtMost(1.0 / 13.0)),
    goal("CPU per byte down, to OpenVPN", "ours", STOCK, CPU_DOWN, Bound::AtMost(1.0 / 13.0)),
    goal("CPU per byte up, to wireguard-go", "ours", GO, CPU_UP, Bound::AtMost(0.38)),
    goal("CPU per byte down, to wireguard-go", "ours", GO, CPU_DOWN, Bound::AtMost(0.38)),
    goal("round trip beside one flow, to OpenVPN", "ours", STOCK, PING_ONE, Bound::AtMost(1.0 / 8.0)),
    goal("idle round trip, to OpenVPN", "ours", STOCK, IDLE, Bound::AtMost(0.7)),
    goal("small UDP packets, to OpenVPN", "ours", STOCK, UDP, Bound::AtLeast(5.0)),
    goal("one flow up, to a null cipher", "ours", "ours-null", ONE_UP, Bound::AtLeast(0.75)),
    goal("one flow down, to a null cipher", "ours", "ours-null", ONE_DOWN, Bound::AtLeast(0.75)),
    goal("segmented cable, up, to OpenVPN", "ours-segmented", STOCK_SEGMENTED, ONE_UP, Bound::AtLeast(4.0)),
    goal("segmented cable, down, to OpenVPN", "ours-segmented", STOCK_SEGMENTED, ONE_DOWN, Bound::AtLeast(4.0)),
    goal("we dial OpenVPN, up, to two OpenVPNs", "ours-to-2.6", STOCK, ONE_UP, Bound::AtLeast(1.5)),
    goal("we dial OpenVPN, down, to two OpenVPNs", "ours-to-2.6", STOCK, ONE_DOWN, Bound::AtLeast(1.5)),
    goal("OpenVPN dials us, up, to two OpenVPNs", "2.6-to-ours", STOCK, ONE_UP, Bound::AtLeast(1.5)),
    goal("OpenVPN dials us, down, to two OpenVPNs", "2.6-to-ours", STOCK, ONE_DOWN, Bound::AtLeast(1.5)),
];

/// Whether a goal was met.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    goal: &'static str,
    bound: String,
    /// Nothing if a path of it was not measured.
    reached: Option<f64>,
    met: Option<bool>,
}

pub(crate) fn outcomes(results: &Results) -> Vec<Outcome> {
    let outcome = |goal: &Goal| {
        let median = |(path, metric)| results.median(path, metric);
        let reached = median(goal.figure).zip(median(goal.to)).map(|(figure, to)| figure / to);
        let (bound, met) = match goal.bound {
            Bound::AtLeast(bound) => (format!("at least {bound}"), reached.map(|reached| reached >= bound)),
            Bound::AtMost(bound) => (format!("at most {bound:.3}"), reached.map(|reached| reached <= bound)),
        };
        Outcome { goal: goal.what, bound, reached, met }
    };
    GOALS.iter().map(outcome).collect()
}

/// Prints the list, line by line.
pub(crate) fn print(results: &Results) {
    println!("\nGoals, in this run");
    for outcome in outcomes(results) {
        let met = match outcome.met {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "not measured",
        };
        let reached = outcome.reached.map_or(String::new(), |reached| format!("{reached:.3}"));
        println!("  {met:<13} {:<42} {:<14} {reached}", outcome.goal, outcome.bound);
    }
}
