//! When each device was heard last, from where, and what was carried for it: told by the tunnel, kept over restarts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use model::{HostId, TunnelPeer, TunnelReport};
use serde::{Deserialize, Serialize};
use state::StateFile;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// The file in the state directory.
pub(crate) const FILE: &str = "devices.json";
/// What is only in memory is lost when the power is: so much of the traffic, and of the time that a device was heard last.
const SAVE: Duration = Duration::from_secs(600);

/// What is known of devices.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sightings {
    devices: BTreeMap<HostId, Sighting>,
}

/// What is known of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sighting {
    /// When it was heard last, seconds since 1970.
    pub(crate) at: u64,
    /// Its address outside then.
    pub(crate) remote: SocketAddr,
    /// Inner bytes from it, of all sessions.
    pub(crate) received_bytes: u64,
    /// Inner bytes to it, of all sessions.
    pub(crate) sent_bytes: u64,
}

impl Sightings {
    pub(crate) fn of(&self, name: &HostId) -> Option<&Sighting> {
        self.devices.get(name)
    }
}

/// Adds up what sessions carry.
struct Ledger {
    known: Sightings,
    /// Of each session that goes on its beginning and what of its traffic is added already, received and sent.
    added: BTreeMap<HostId, (u64, [u64; 2])>,
    /// The other peer of the tunnel that is no device.
    home: HostId,
}

impl Ledger {
    /// Returns whether devices came or went.
    fn note(&mut self, peers: &[TunnelPeer]) -> bool {
        let mut going_on = BTreeMap::new();
        for peer in peers {
            let Ok(name) = peer.name.parse::<HostId>() else { continue };
            if name == self.home {
                continue;
            }
            let carried = [peer.received_bytes, peer.sent_bytes];
            let before =
                self.added.get(&name).filter(|(since, _)| *since == peer.since).map_or([0; 2], |(_, added)| *added);
            let seen = self.known.devices.entry(name.clone()).or_insert(Sighting {
                at: 0,
                remote: peer.remote,
                received_bytes: 0,
                sent_bytes: 0,
            });
            (seen.at, seen.remote) = (peer.last_heard, peer.remote);
            seen.received_bytes = seen.received_bytes.saturating_add(carried[0].saturating_sub(before[0]));
            seen.sent_bytes = seen.sent_bytes.saturating_add(carried[1].saturating_sub(before[1]));
            going_on.insert(name, (peer.since, carried));
        }
        let changed = !going_on.keys().eq(self.added.keys());
        self.added = going_on;
        changed
    }
}

/// Keeps the book until stopped. What cannot be stored is told, and tried again.
pub(crate) async fn keep(
    file: StateFile<Sightings>,
    known: Sightings,
    home: HostId,
    mut tunnel: watch::Receiver<TunnelReport>,
    told: watch::Sender<Sightings>,
    stop: CancellationToken,
) {
    let save = |known: &Sightings| match file.store(known) {
        Ok(()) => Some(known.clone()),
        Err(error) => {
            warn!(error = agent::config::chain(&error), "when devices were seen is not stored; it is tried again");
            None
        }
    };
    let mut stored = Some(known.clone());
    let mut ledger = Ledger { known, added: BTreeMap::new(), home };
    let mut due = interval(SAVE);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let save_now = tokio::select! {
            () = stop.cancelled() => break,
            changed = tunnel.changed() => match changed {
                Ok(()) => ledger.note(&tunnel.borrow_and_update().peers),
                Err(_) => break,
            },
            _ = due.tick() => true,
        };
        told.send_if_modified(|told| {
            let changed = *told != ledger.known;
            told.clone_from(&ledger.known);
            changed
        });
        if save_now && stored.as_ref() != Some(&ledger.known) {
            stored = save(&ledger.known);
        }
    }
    if stored.as_ref() != Some(&ledger.known) {
        save(&ledger.known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(name: &str, since: u64, last_heard: u64, bytes: u64) -> TunnelPeer {
        TunnelPeer {
            name: name.into(),
            address: Some("10.86.0.3".parse().unwrap()),
            address_ipv6: None,
            remote: "203.0.113.9:41234".parse().unwrap(),
            transport: "udp".into(),
            cipher: String::new(),
            tls: String::new(),
            software: String::new(),
            path_mtu: None,
            since,
            last_heard,
            received_packets: 0,
            received_bytes: bytes,
            sent_packets: 0,
            sent_bytes: 2 * bytes,
        }
    }

    #[tokio::test]
    async fn what_sessions_carried_adds_up_and_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (tunnel, tunnel_receiver) = watch::channel(TunnelReport::default());
        let (told, mut seen) = watch::channel(Sightings::default());
        let stop = CancellationToken::new();
        let file = || StateFile::new(dir.path(), FILE);
        let home: HostId = "attic".parse().unwrap();
        let phone: HostId = "phone".parse().unwrap();
        let keeping =
            tokio::spawn(keep(file(), Sightings::default(), home.clone(), tunnel_receiver, told, stop.clone()));
        let tell = |peers: Vec<TunnelPeer>| tunnel.send_replace(TunnelReport { peers, ..TunnelReport::default() });
        for (peers, bytes) in [
            (vec![peer("phone", 100, 101, 5), peer("attic", 1, 101, 99)], 5),
            (vec![peer("phone", 100, 102, 7), peer("attic", 1, 102, 99)], 7),
            // Another session, which begins anew.
            (vec![peer("phone", 200, 201, 3)], 10),
        ] {
            let last = peers[0].last_heard;
            tell(peers);
            seen.changed().await.unwrap();
            let now = seen.borrow_and_update().clone();
            let sighting = now.of(&phone).unwrap();
            assert_eq!((sighting.at, sighting.received_bytes, sighting.sent_bytes), (last, bytes, 2 * bytes));
            assert!(now.of(&home).is_none());
        }
        tell(vec![]);
        stop.cancel();
        keeping.await.unwrap();
        assert_eq!(file().load().unwrap(), Some(seen.borrow().clone()));
    }
}
