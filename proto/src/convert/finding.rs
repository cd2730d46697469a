//! What a look at a host found.

use model::{Finding, Grade};

use super::{InvalidMessage, bounded, list};
use crate::v1;

impl From<Finding> for v1::Finding {
    fn from(finding: Finding) -> Self {
        use v1::finding::Grade as Wire;
        let grade = match finding.grade {
            Grade::Good => Wire::Good,
            Grade::Doubtful => Wire::Doubtful,
            Grade::Bad => Wire::Bad,
        };
        Self { check: finding.check, grade: grade.into(), text: bounded(&finding.text), next: finding.next }
    }
}

impl TryFrom<v1::Finding> for Finding {
    type Error = InvalidMessage;

    fn try_from(wire: v1::Finding) -> Result<Self, InvalidMessage> {
        use v1::finding::Grade as Wire;
        let grade = match wire.grade() {
            Wire::Good => Grade::Good,
            Wire::Unspecified | Wire::Doubtful => Grade::Doubtful,
            Wire::Bad => Grade::Bad,
        };
        let next = wire.next.map(|next| bounded(&next));
        Ok(Self { check: bounded(&wire.check), grade, text: bounded(&wire.text), next })
    }
}

impl TryFrom<v1::DoctorReport> for Vec<Finding> {
    type Error = InvalidMessage;

    fn try_from(wire: v1::DoctorReport) -> Result<Self, InvalidMessage> {
        list("DoctorReport.findings", wire.findings)
    }
}
