//! Certificates that an authority issued, as they can be shown.

use serde::Serialize;

use crate::{HostId, Role};

/// A certificate that an authority issued. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IssuedIdentity {
    /// Its number, hexadecimal digits.
    pub serial: String,
    /// What its holder is.
    pub role: Role,
    /// Who.
    pub name: HostId,
    /// Valid from.
    pub not_before: u64,
    /// Valid until.
    pub not_after: u64,
    /// Since when it counts no more, if it was revoked.
    pub revoked: Option<u64>,
}
