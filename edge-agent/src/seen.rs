//! What the proofs of public names saw besides that a name serves, for the metrics.

use agent::{NameProof, NameProofs};

use crate::publisher::Proofs;

/// What is known after these proofs, of their names only. The end of a certificate stays known when a proof fails: a
/// certificate that has ended may be why.
pub(crate) fn after(known: &NameProofs, proofs: &Proofs) -> NameProofs {
    let seen = proofs.iter().map(|(name, proof)| {
        let report = proof.as_ref().ok();
        let ends = report.map(|report| report.not_after).or_else(|| known.get(name)?.certificate_ends);
        (name.clone(), NameProof { took: report.map(|report| report.elapsed), certificate_ends: ends })
    });
    seen.collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use ingress::ProbeReport;

    use super::*;

    #[test]
    fn a_failed_proof_keeps_the_certificate_s_end_and_a_name_that_is_gone_nothing() {
        let not_after = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let report = ProbeReport { status: 200, not_after, elapsed: Duration::from_millis(20) };
        let of = |proof| Proofs::from([("cloud.example.com".parse().unwrap(), proof)]);
        let proven = NameProof { took: Some(report.elapsed), certificate_ends: Some(not_after) };
        let seen = after(&NameProofs::new(), &of(Ok(report)));
        assert!(seen.values().eq([&proven]));
        let seen = after(&seen, &of(Err("its certificate has expired".into())));
        assert!(seen.values().eq([&NameProof { took: None, ..proven }]));
        assert!(after(&seen, &Proofs::new()).is_empty());
    }
}
