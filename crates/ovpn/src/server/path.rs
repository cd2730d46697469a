//! The MTU of the paths to the peers ([`crate::path_mtu`]).

use std::time::Instant;

use super::{Phase, Server, Session};
use crate::endpoint::{Event, SessionKey};
use crate::underlay::Underlay;

impl Server {
    /// Tells what is newly known of the path to a peer, and has its probes answered.
    pub(super) fn note_path(&mut self, key: SessionKey) {
        let Some(Session { phase: Phase::Connected { live, peer }, .. }) = self.sessions.get_mut(&key) else { return };
        if let Some(path_mtu) = live.poll_path_mtu() {
            self.events.push_back(Event::PathMtu { peer: peer.connected.peer, path_mtu });
        }
        self.probed.insert(key);
    }

    /// The next datagram about a path, which must not be fragmented.
    pub(super) fn poll_path_message(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<Underlay> {
        while let Some(&key) = self.probed.first() {
            if let Some(Session { phase: Phase::Connected { live, .. }, remote, .. }) = self.sessions.get_mut(&key)
                && let Some(datagram) = live.poll_probe(now)
            {
                *out = datagram;
                return Some(*remote);
            }
            self.probed.remove(&key);
        }
        None
    }

    /// Asks the peer at `at` to search.
    pub(super) fn want_search(&mut self, at: Underlay) {
        let Some(&key) = self.by_remote.get(&at) else { return };
        if let Some(Session { phase: Phase::Connected { live, .. }, .. }) = self.sessions.get_mut(&key) {
            live.want_search();
            self.probed.insert(key);
        }
    }
}
