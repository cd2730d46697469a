//! The proof from outside: home fetches what the edge publishes as any visitor does, by the names' own addresses and its own
//! provider's route. An edge that asks itself proves neither DNS nor its provider's firewall.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use agent::config::chain;
use ingress::Prober;
use model::{OutsideProof, PublicName};
use tokio::net::lookup_host;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Names are fetched this often while all of them come.
const INTERVAL: Duration = Duration::from_secs(60);
/// And this often while one of them does not.
const RETRY: Duration = Duration::from_secs(5);
const LOOKUP: Duration = Duration::from_secs(5);
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
        let names = published.borrow_and_update().clone();
        let mut fetches = JoinSet::new();
        for name in names {
            let prober = prober.clone();
            fetches.spawn(async move {
                let failure = fetch(&prober, &name).await.err();
                OutsideProof { hostname: name.hostname, failure }
            });
        }
        let mut results = fetches.join_all().await;
        results.sort_by(|a, b| a.hostname.cmp(&b.hostname));
        let pause = if results.iter().all(|proof| proof.failure.is_none()) { INTERVAL } else { RETRY };
        proofs.send_if_modified(|old| {
            let changed = *old != results;
            *old = results;
            changed
        });
        tokio::select! {
            changed = published.changed() => if changed.is_err() { return },
            () = proofs.closed() => return,
            () = sleep(pause) => {}
        }
    }
}

/// Fetches one name from one of its addresses.
async fn fetch(prober: &Prober, name: &PublicName) -> Result<(), String> {
    let hostname = &name.hostname;
    let found = timeout(LOOKUP, lookup_host((hostname.as_str(), HTTPS)))
        .await
        .map_err(|_| format!("no name server answered for {hostname} within {} s", LOOKUP.as_secs()))?
        .map_err(|error| format!("{hostname} has no address here ({error}): does its DNS record exist?"))?;
    fetch_from(prober, name, found).await
}

async fn fetch_from(prober: &Prober, name: &PublicName, found: impl Iterator<Item = SocketAddr>) -> Result<(), String> {
    let hostname = &name.hostname;
    let (public, private): (Vec<SocketAddr>, Vec<SocketAddr>) =
        found.partition(|address| is_public(address.ip().to_canonical()));
    let mut failure = match private.first() {
        Some(address) => format!("{hostname} leads here to {}, which is not the way visitors come", address.ip()),
        None => format!("{hostname} has no address: does its DNS record exist?"),
    };
    for address in public.into_iter().take(ADDRESSES) {
        match prober.probe(address, name).await {
            Ok(_) => return Ok(()),
            Err(error) => failure = format!("by {}: {}", address.ip(), chain(&error)),
        }
    }
    Err(failure)
}

/// Whether visitors may come by this address. What the edge calls a public name must not make home ask in its own network.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [a, b, ..] = address.octets();
            let shared = a == 100 && (64..128).contains(&b);
            !(address.is_private()
                || address.is_loopback()
                || address.is_link_local()
                || address.is_unspecified()
                || address.is_multicast()
                || address.is_broadcast()
                || shared)
        }
        IpAddr::V6(address) => {
            !(address.is_loopback()
                || address.is_unspecified()
                || address.is_multicast()
                || address.is_unique_local()
                || address.is_unicast_link_local())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn home_never_asks_in_its_own_network() {
        for private in ["127.0.0.1", "10.86.0.1", "192.168.1.1", "172.20.0.1", "100.64.3.4", "169.254.169.254", "::1"] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
        for private in ["fd00::1", "fe80::1", "0.0.0.0", "224.0.0.1"] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
        for public in ["198.51.100.10", "2001:db8::1", "100.128.0.1"] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
    }

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
        let failure = fetch_from(&prober, &name, home).await.unwrap_err();
        assert!(failure.contains("not the way visitors come"), "{failure}");
    }
}
