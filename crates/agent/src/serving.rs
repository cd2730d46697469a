//! What people get at a public name, concluded from two proofs and from what the service's own host says of it.

use model::{Health, Serving};

/// What came of fetching a public name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// It is on its way.
    Pending,
    /// It came as it should.
    Passed,
    /// It did not.
    Failed {
        /// What was seen.
        reason: String,
    },
    /// Nobody could try.
    Missing {
        /// Why not.
        reason: String,
    },
}

/// Concludes. `inside` is the edge's own proof, through its own front door; `outside` is home's, by its own provider's route. A
/// name that the edge itself does not get is down, whatever home saw before.
#[must_use]
pub fn conclude(health: &Health, inside: Proof, outside: Proof) -> Serving {
    use Proof::{Failed, Missing, Passed, Pending};
    if let Health::Stopped { reason } = health {
        return Serving::Stopped { reason: reason.clone() };
    }
    match (inside, outside) {
        (Pending, _) | (Passed, Pending) => Serving::Unknown,
        (Passed, Passed) => match health {
            Health::Healthy | Health::Unknown => Serving::Yes,
            Health::Starting { reason } => Serving::Starting { reason: reason.clone() },
            Health::Degraded { reason } | Health::Unhealthy { reason } | Health::Stopped { reason } => {
                Serving::Degraded { reason: reason.clone() }
            }
        },
        (Passed, Failed { reason }) => {
            Serving::Degraded { reason: format!("the edge gets it, home does not from outside: {reason}") }
        }
        (Passed, Missing { reason }) => Serving::Degraded { reason: format!("not proven from outside: {reason}") },
        (Failed { reason }, _) => match health {
            Health::Starting { reason } => Serving::Starting { reason: reason.clone() },
            _ => Serving::No { reason },
        },
        (Missing { reason }, Passed) => Serving::Degraded { reason: format!("{reason}; home gets it from outside") },
        (Missing { .. }, Failed { reason }) => {
            Serving::No { reason: format!("home does not get it from outside: {reason}") }
        }
        (Missing { reason }, Pending | Missing { .. }) => Serving::No { reason },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(reason: &str) -> Proof {
        Proof::Failed { reason: reason.into() }
    }

    fn missing(reason: &str) -> Proof {
        Proof::Missing { reason: reason.into() }
    }

    #[test]
    fn serving_needs_both_proofs() {
        use Proof::{Passed, Pending};
        let word = |inside, outside| conclude(&Health::Healthy, inside, outside).word();
        assert_eq!(word(Passed, Passed), "serving");
        assert_eq!(word(Passed, failed("nothing accepts connections")), "degraded");
        assert_eq!(word(Passed, missing("home is not connected")), "degraded");
        assert_eq!(word(Passed, Pending), "unknown");
        assert_eq!(word(failed("502"), Passed), "down");
        assert_eq!(word(failed("502"), Pending), "down");
        assert_eq!(word(Pending, Passed), "unknown");
    }

    #[test]
    fn without_the_edge_home_s_own_proof_tells_up_from_down() {
        let gone = || missing("the edge does not report");
        assert_eq!(conclude(&Health::Healthy, gone(), Proof::Passed).word(), "degraded");
        assert_eq!(conclude(&Health::Healthy, gone(), failed("refused")).word(), "down");
        let nothing = conclude(&Health::Healthy, gone(), Proof::Pending);
        assert_eq!(nothing, Serving::No { reason: "the edge does not report".into() });
    }

    #[test]
    fn the_service_s_own_word_counts() {
        let with = |health: Health, inside| conclude(&health, inside, Proof::Passed).word();
        assert_eq!(with(Health::Stopped { reason: "by hand".into() }, failed("503")), "stopped");
        assert_eq!(with(Health::Starting { reason: "pulls".into() }, failed("503")), "starting");
        assert_eq!(with(Health::Degraded { reason: "slow".into() }, Proof::Passed), "degraded");
        assert_eq!(with(Health::Unknown, Proof::Passed), "serving");
    }
}
