//! What the edge's authority issued, for `agentctl`.

use std::time::{SystemTime, UNIX_EPOCH};

use authority::{Authority, AuthorityError, Issued};
use control::{Identities, Revoke};
use futures_util::future::BoxFuture;
use model::{IssuedIdentity, Role};

use crate::authority::{GONE, Keeper};

/// Lists and revokes what the authority issued, if there is one.
#[derive(Debug, Clone)]
pub(crate) struct Register(pub(crate) Option<Keeper>);

const NONE: &str = "this edge has no authority of its own: use `agentctl pki` where it is kept";

const OWN: &str =
    "this is the edge itself, and home would refuse it from then on: after a theft make a new authority and join again";

/// Whether a certificate of the edge is meant that has a successor.
fn is_left_behind(issued: &Issued, which: &Revoke, edges: &[Issued]) -> bool {
    matches!(which, Revoke::Serial(_)) && edges.iter().any(|other| other.not_before > issued.not_before)
}

impl Register {
    fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Authority) -> Result<T, String> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, String>> {
        let keeper = self.0.clone();
        Box::pin(async move { keeper.ok_or(NONE)?.ask(job).await.ok_or(GONE)? })
    }
}

impl Identities for Register {
    fn list(&self) -> BoxFuture<'static, Result<Vec<IssuedIdentity>, String>> {
        self.ask(|authority| {
            let issued = authority.issued().map_err(|error| told(&error))?;
            Ok(issued.into_iter().map(shown).collect())
        })
    }

    fn revoke(&self, which: Revoke) -> BoxFuture<'static, Result<Vec<IssuedIdentity>, String>> {
        self.ask(move |authority| {
            let issued = authority.issued().map_err(|error| told(&error))?;
            let edges: Vec<Issued> = issued.iter().filter(|one| one.holder.role == Role::Edge).cloned().collect();
            let named: Vec<Issued> = issued
                .into_iter()
                .filter(|issued| match &which {
                    Revoke::Name(name) => issued.holder.name == *name,
                    Revoke::Serial(serial) => issued.serial == *serial,
                })
                .collect();
            if named.is_empty() {
                return Err("this authority issued no such certificate: `agentctl identity list` has all".to_owned());
            }
            if named.iter().any(|issued| issued.holder.role == Role::Edge && !is_left_behind(issued, &which, &edges)) {
                return Err(OWN.to_owned());
            }
            let counted: Vec<Issued> = named.into_iter().filter(|issued| issued.revoked.is_none()).collect();
            let serials: Vec<_> = counted.iter().map(|issued| issued.serial.clone()).collect();
            if !serials.is_empty() {
                authority.revoke(&serials, SystemTime::now()).map_err(|error| told(&error))?;
            }
            Ok(counted.into_iter().map(shown).collect())
        })
    }
}

fn told(error: &AuthorityError) -> String {
    agent::config::chain(error)
}

fn shown(issued: Issued) -> IssuedIdentity {
    let seconds = |at: SystemTime| at.duration_since(UNIX_EPOCH).map(|since| since.as_secs()).unwrap_or_default();
    IssuedIdentity {
        serial: issued.serial.to_string(),
        role: issued.holder.role,
        name: issued.holder.name,
        not_before: seconds(issued.not_before),
        not_after: seconds(issued.not_after),
        revoked: issued.revoked.map(seconds),
    }
}

#[cfg(test)]
mod tests {
    use pki::{Revoked, Validity, certificate_der};

    use super::*;

    #[tokio::test]
    async fn what_is_revoked_is_on_the_list_at_once_and_the_edge_is_not() {
        let state = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let mut authority = Authority::create(&state.path().join("authority"), "ours", now).unwrap();
        let mut issue =
            |role, name: &str, at| authority.issue(role, &name.parse().unwrap(), Validity::LEAF, at).unwrap().cert_pem;
        let old = issue(Role::Edge, "vps", now - std::time::Duration::from_secs(60));
        let (edge, phone) = (issue(Role::Edge, "vps", now), issue(Role::Device, "phone", now));
        let ca = authority.ca_pem().to_owned();
        drop(authority);
        let keeper = Keeper::open(state.path()).unwrap().unwrap();
        let mut lists = keeper.lists();
        let register = Register(Some(keeper));
        assert_eq!(register.list().await.unwrap().len(), 3);

        let name = |name: &str| Revoke::Name(name.parse().unwrap());
        let serial = |pem: &str| pki::Serial::of(pem, &ca).unwrap();
        assert!(register.revoke(name("tablet")).await.unwrap_err().contains("no such certificate"));
        for own in [name("vps"), Revoke::Serial(serial(&edge))] {
            assert_eq!(register.revoke(own).await.unwrap_err(), OWN);
        }
        assert!(!lists.has_changed().unwrap());

        let revoked = register.revoke(name("phone")).await.unwrap();
        assert_eq!(revoked[0].serial, serial(&phone).to_string());
        lists.changed().await.unwrap();
        assert_eq!(register.revoke(name("phone")).await.unwrap(), [], "it was revoked already");
        assert_eq!(register.revoke(Revoke::Serial(serial(&old))).await.unwrap().len(), 1);
        lists.changed().await.unwrap();
        let list = lists.borrow().clone().unwrap();
        let list = Revoked::from_pem(&list, &ca).unwrap();
        let is_revoked = |pem: &str| list.contains(&certificate_der(pem).unwrap());
        assert_eq!([&old, &edge, &phone].map(|pem| is_revoked(pem)), [true, false, true]);
        assert!(Register(None).list().await.unwrap_err().contains("agentctl pki"));
    }
}
