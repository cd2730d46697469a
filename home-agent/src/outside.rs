//! The proof from outside: home fetches what the edge publishes as any visitor does, by the names' own addresses and its own
//! provider's route. An edge that asks itself proves neither DNS nor its provider's firewall.

use std::net::SocketAddr;
use std::time::Duration;

use agent::config::chain;
use hostcheck::public::{Ipv6Prefix, is_public, own_networks};
use ingress::Prober;
use model::{OutsideProof, PublicName};
use tokio::net::lookup_host;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::debug;

/// Names are fetched this often while all of them come.
const INTERVAL: Duration = Duration::from_secs(60);
/// And this often while one of them does not.
const RETRY: Duration = Duration::from_secs(5);
/// Between two rounds at least.
const PAUSE: Duration = Duration::from_secs(1);
/// So many names are fetched at once.
const AT_ONCE: usize = 8;
const LOOKUP: Duration = Duration::from_secs(5);
/// All that the edge is told of a name without a public address: which address it has here instead, or that it has none, is
/// nothing that an edge should learn of home's network.
const NOWHERE: &str = "at home it leads to no public address: does its DNS record exist, or is it answered at home by a name server of your own?";
/// Of a name with more addresses the first are tried.
const ADDRESSES: usize = 4;
/// Port of HTTPS.
const HTTPS: u16 = 443;

/// Fetches what is published, again and again, and at once when that has changed. Ends when nobody says what is published, or
/// nobody wants to know.
pub(crate) async fn prove(
    prober: Prober,
    mut published: watch::Receiver<Vec<PublicName>>,
    proofs: watch::Sender<Vec<OutsideProof>>,
) {
    loop {
        let mut names = published.borrow_and_update().clone();
        names.sort_by(|a, b| a.hostname.cmp(&b.hostname));
        names.dedup_by(|a, b| a.hostname == b.hostname);
        let own = own_networks();
        let mut results = Vec::new();
        for some in names.chunks(AT_ONCE) {
            let mut fetches = JoinSet::new();
            for name in some.iter().cloned() {
                let (prober, own) = (prober.clone(), own.clone());
                fetches.spawn(async move {
                    let failure = fetch(&prober, &name, &own).await.err();
                    OutsideProof { hostname: name.hostname, failure }
                });
            }
            results.extend(fetches.join_all().await);
        }
        results.sort_by(|a, b| a.hostname.cmp(&b.hostname));
        let pause = if results.iter().all(|proof| proof.failure.is_none()) { INTERVAL } else { RETRY };
        proofs.send_if_modified(|old| {
            let changed = *old != results;
            *old = results;
            changed
        });
        // Whatever the edge wants, home is nobody's hammer.
        sleep(PAUSE).await;
        tokio::select! {
            changed = published.changed() => if changed.is_err() { return },
            () = proofs.closed() => return,
            () = sleep(pause) => {}
        }
    }
}

/// Fetches one name from one of its addresses.
async fn fetch(prober: &Prober, name: &PublicName, own: &[Ipv6Prefix]) -> Result<(), String> {
    let hostname = &name.hostname;
    let found = timeout(LOOKUP, lookup_host((hostname.as_str(), HTTPS)))
        .await
        .map_err(|_| format!("no name server answered home for it within {} s", LOOKUP.as_secs()))?
        .map_err(|error| {
            debug!(%hostname, %error, "has no address");
            NOWHERE.to_owned()
        })?;
    fetch_from(prober, name, found, own).await
}

async fn fetch_from(
    prober: &Prober,
    name: &PublicName,
    found: impl Iterator<Item = SocketAddr>,
    own: &[Ipv6Prefix],
) -> Result<(), String> {
    let (public, private): (Vec<SocketAddr>, Vec<SocketAddr>) =
        found.partition(|address| is_public(address.ip().to_canonical(), own));
    if let Some(address) = private.first() {
        debug!(hostname = %name.hostname, %address, "visitors do not come by this address");
    }
    let mut failure = NOWHERE.to_owned();
    for address in public.into_iter().take(ADDRESSES) {
        match prober.probe(address, name).await {
            Ok(_) => return Ok(()),
            Err(error) => failure = format!("by {}: {}", address.ip(), chain(&error)),
        }
    }
    Err(failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_that_leads_home_is_no_proof_and_is_not_asked() {
        let prober = Prober::new(None).unwrap();
        let name = PublicName {
            hostname: "cloud.example.test".parse().unwrap(),
            path: "/".to_owned(),
            status: None,
            guarded: false,
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let home = [listener.local_addr().unwrap()].into_iter();
        let failure = fetch_from(&prober, &name, home, &[]).await.unwrap_err();
        assert_eq!(failure, NOWHERE, "the edge learns no address of home's network");
    }
}
