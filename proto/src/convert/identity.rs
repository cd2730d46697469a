//! Until when identities count.

use model::IdentityStatus;

use super::bounded;
use crate::v1;

impl From<IdentityStatus> for v1::IdentityStatus {
    fn from(status: IdentityStatus) -> Self {
        let IdentityStatus { certificate_ends, list_ends, trouble } = status;
        Self { certificate_ends, list_ends, trouble: trouble.map(|trouble| bounded(&trouble)) }
    }
}

impl From<v1::IdentityStatus> for IdentityStatus {
    fn from(wire: v1::IdentityStatus) -> Self {
        let v1::IdentityStatus { certificate_ends, list_ends, trouble } = wire;
        Self { certificate_ends, list_ends, trouble: trouble.map(|trouble| bounded(&trouble)) }
    }
}
