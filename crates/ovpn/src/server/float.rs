//! Float: a connected peer that sends from another address than before, because its network or a translator on the way
//! has changed.

use std::time::{Duration, Instant};

use super::{Phase, Server, Session};
use crate::drops::DropReason;
use crate::endpoint::{EndReason, Event, SessionKey};
use crate::live::Opened;
use crate::underlay::{Transport, Underlay};

/// Packets from unknown addresses that are tried in vain in each [`PERIOD`]: peer ids are easily guessed, and each guess
/// costs a decryption.
const LIMIT: u32 = 10_000;
const PERIOD: Duration = Duration::from_secs(1);

impl Server {
    /// Opens a data packet that claims to be a peer's but is not from the peer's address. When it authenticates and is no
    /// replay, the peer is there from now on, for data and for control packets. What comes or goes over a connection stays
    /// with it.
    pub(super) fn open_foreign(
        &mut self,
        now: Instant,
        key: SessionKey,
        from: Underlay,
        datagram: &mut [u8],
    ) -> Result<Opened, DropReason> {
        let here = match self.sessions.get(&key) {
            // One that was replaced stays where it is for the rest of its time.
            Some(Session { phase: Phase::Connected { peer, .. }, .. }) if peer.replaced.is_some() => None,
            session => session.map(|session| session.remote.transport),
        };
        if from.transport != Transport::Udp || here != Some(Transport::Udp) {
            return Err(DropReason::UnknownPeer);
        }
        let taken_by = self.by_remote.get(&from).copied();
        if taken_by.is_some_and(|other| !self.is_same_identity(key, other)) {
            return Err(DropReason::UnknownPeer);
        }
        if now.saturating_duration_since(self.float_rate.0) >= PERIOD {
            self.float_rate = (now, 0);
        }
        if self.float_rate.1 >= LIMIT {
            return Err(DropReason::FloatRate);
        }
        let opened = self.open_data(now, key, datagram).inspect_err(|_| self.float_rate.1 += 1)?;
        if let Some(other) = taken_by {
            self.end(now, other, EndReason::Replaced);
        }
        self.float(key, from);
        Ok(opened)
    }

    fn is_same_identity(&self, one: SessionKey, other: SessionKey) -> bool {
        let identity = |key| match self.sessions.get(&key).map(|session| &session.phase) {
            Some(Phase::Settling { peer, .. } | Phase::Connected { peer, .. }) => Some(&peer.connected.identity),
            _ => None,
        };
        identity(one).is_some_and(|mine| Some(mine) == identity(other))
    }

    fn float(&mut self, key: SessionKey, to: Underlay) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let Session { remote, channel, phase: Phase::Connected { peer, live } } = session else { return };
        let from = std::mem::replace(remote, to);
        peer.connected.remote = to;
        live.note_remote(to);
        live.want_search();
        self.probed.insert(key);
        if let Some(sender) = channel.remote() {
            self.by_source.remove(&(from, sender));
            self.by_source.insert((to, sender), key);
        }
        if self.by_remote.get(&from) == Some(&key) {
            self.by_remote.remove(&from);
        }
        self.by_remote.insert(to, key);
        self.events.push_back(Event::Floated { peer: peer.connected.peer, remote: to });
    }
}
