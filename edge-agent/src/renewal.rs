//! Successors of certificates, by the edge's own authority: of home's, and of the edge's own.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use agent::Issuer;
use control::{Successor, Successors};
use futures_util::future::BoxFuture;
use model::{HostId, Role};
use pki::{CertificateRequest, HostIdentity, Serial, Validity};
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

use crate::authority::{GONE, Keeper};

/// How often it is looked whether the list is due.
const LOOK: Duration = Duration::from_secs(3_600);

impl Successors for Keeper {
    fn successor(&self, serial: Serial, request: CertificateRequest) -> BoxFuture<'static, Result<Successor, String>> {
        let keeper = self.clone();
        Box::pin(async move {
            let renewed = keeper.ask(move |authority| authority.renew(&serial, &request, SystemTime::now())).await;
            let renewed = renewed.ok_or(GONE)?.map_err(|error| agent::config::chain(&error))?;
            Ok(Successor { cert_pem: renewed.cert_pem, client_key: Some(renewed.client_key) })
        })
    }
}

impl Keeper {
    /// Whether an identity is of this authority.
    pub(crate) fn has_issued(&self, identity: &HostIdentity) -> bool {
        HostIdentity { ca_pem: self.ca_pem().to_owned(), ..identity.clone() }.check().is_ok()
    }

    /// What renews the edge's own identity, if this authority issued it.
    pub(crate) fn issuer(self, identity: &HostIdentity, edge: &HostId) -> Option<Arc<dyn Issuer>> {
        if !self.has_issued(identity) {
            return None;
        }
        Some(Arc::new(Own { keeper: self, edge: edge.clone() }))
    }
}

/// Has the authority sign its list anew long before it ends, for as long as it is polled.
pub(crate) async fn sign_lists(keeper: Keeper) {
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let sign = |authority: &mut authority::Authority| {
            let now = SystemTime::now();
            if authority.list_is_due(now) { authority.sign_list(now) } else { Ok(()) }
        };
        match keeper.ask(sign).await {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                let error = agent::config::chain(&error);
                warn!(error, "the list of revoked certificates is not signed anew; it is tried again");
            }
            None => return,
        }
    }
}

struct Own {
    keeper: Keeper,
    edge: HostId,
}

impl Issuer for Own {
    fn renew(&self, request: String) -> BoxFuture<'static, Result<Successor, String>> {
        let (keeper, edge) = (self.keeper.clone(), self.edge.clone());
        Box::pin(async move {
            let request = CertificateRequest::from_pem(&request).map_err(|error| agent::config::chain(&error))?;
            let issue = move |authority: &mut authority::Authority| {
                authority.certify(&request, Role::Edge, &edge, Validity::LEAF, SystemTime::now())
            };
            let cert_pem = keeper.ask(issue).await.ok_or(GONE)?.map_err(|error| agent::config::chain(&error))?;
            Ok(Successor { cert_pem, client_key: None })
        })
    }
}
