//! Certificates that an authority issued.

use model::{IssuedIdentity, RoleUri};

use super::{InvalidMessage, bounded, parse};
use crate::v1;

impl From<IssuedIdentity> for v1::IssuedCertificate {
    fn from(identity: IssuedIdentity) -> Self {
        Self {
            serial: identity.serial,
            holder: RoleUri { role: identity.role, name: identity.name }.to_string(),
            not_before: identity.not_before,
            not_after: identity.not_after,
            revoked: identity.revoked,
        }
    }
}

impl TryFrom<v1::IssuedCertificate> for IssuedIdentity {
    type Error = InvalidMessage;

    fn try_from(wire: v1::IssuedCertificate) -> Result<Self, InvalidMessage> {
        let holder: RoleUri = parse("IssuedCertificate.holder", &wire.holder)?;
        Ok(Self {
            serial: bounded(&wire.serial),
            role: holder.role,
            name: holder.name,
            not_before: wire.not_before,
            not_after: wire.not_after,
            revoked: wire.revoked,
        })
    }
}
