//! A session whose data flows: its data keys, its signs of life, and what was carried.

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::batch::{Batch, Packets};
use crate::data::{Cipher, DataChannel, DataSettings, Framing, KeyExhausted, OVERHEAD, Payload};
use crate::drops::DropReason;
use crate::endpoint::{EndReason, Identity, Keepalive, PeerId, RenewalLimits, Traffic};
use crate::inner;
use crate::keys::{KeyBlock, KeyDerivation};
use crate::login::Credentials;
use crate::mss::{self, Carrier, MssFix};
use crate::packet::Header;
use crate::path_mtu::PathMtu;
use crate::underlay::Underlay;
use crate::wrap::Role;

mod path;
mod renewal;
#[cfg(test)]
mod wear_tests;

use path::Path;
use renewal::Renewal;
pub(crate) use renewal::{Desk, Heard};

/// How long a new key waits at least before it seals unproven, so that the acknowledgement that tells the peer to take it
/// into use arrives before the data.
const GRACE: Duration = Duration::from_secs(1);

/// How late a ping may be.
const PING_DELAY: Duration = Duration::from_secs(1);

/// What is agreed for a whole session and holds for all of its keys.
pub(crate) struct Terms {
    pub(crate) role: Role,
    pub(crate) peer: PeerId,
    pub(crate) identity: Identity,
    /// What our data packets carry; without it they are of the first format.
    pub(crate) sends_peer_id: Option<u32>,
    pub(crate) cipher: Cipher,
    /// Around every payload.
    pub(crate) framing: Framing,
    pub(crate) data: DataSettings,
    /// Where the peer is.
    pub(crate) remote: Underlay,
    /// Whether data packets are in the epoch format.
    pub(crate) epochs: bool,
    pub(crate) derivation: KeyDerivation,
    /// Of our key exchange messages.
    pub(crate) options: String,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) peer_info: String,
    pub(crate) limits: RenewalLimits,
    /// Whether both ends take part in discovering the MTU of the path.
    pub(crate) path_mtu: bool,
}

impl Terms {
    fn data_channel(&self, key_id: u8, block: &KeyBlock) -> Result<DataChannel, KeyExhausted> {
        match self.sends_peer_id {
            Some(peer_id) if self.epochs => DataChannel::with_epochs(self.role, key_id, peer_id, self.cipher, block),
            peer_id => DataChannel::new(self.role, key_id, peer_id, self.cipher, self.data.digest, block),
        }
    }

    /// The largest segment of TCP connections through the tunnel.
    fn mss_limit(&self, path_mtu: Option<PathMtu>) -> Option<u16> {
        // Other sizes were chosen by somebody.
        let mss_fix = match (self.data.mss_fix, path_mtu) {
            (MssFix::Datagram(_), Some(path_mtu)) => MssFix::Inner(path_mtu.inside),
            (mss_fix, _) => mss_fix,
        };
        mss_fix.limit(&Carrier {
            remote: self.remote,
            has_peer_id: self.sends_peer_id.is_some(),
            epochs: self.epochs,
            cipher: self.cipher,
            digest: self.data.digest,
            framing: self.framing,
        })
    }

    /// How long after the beginning of a new key the old one still seals, unless the peer uses the new one earlier. Stock
    /// peers wait the same.
    fn late_switch(&self) -> Duration {
        let half = self.limits.after / 2;
        if half.is_zero() { self.limits.hand_window } else { half.min(self.limits.hand_window) }
    }
}

/// A data key and its times.
struct DataKey {
    key_id: u8,
    channel: DataChannel,
    /// From when on the peer surely takes it, and it seals instead of the one before: since the peer has used it itself
    /// or begun the next one, or after a time in which it must have come to an end with the renewal. `None` while the key
    /// is still being negotiated; it opens packets already then.
    usable_at: Option<Instant>,
    /// Set when its successor is begun.
    dies_at: Option<Instant>,
    packets: u64,
    bytes: u64,
}

impl DataKey {
    fn is_alive(&self, now: Instant) -> bool {
        self.dies_at.is_none_or(|dies| now < dies)
    }

    fn is_usable(&self, now: Instant) -> bool {
        self.usable_at.is_some_and(|at| at <= now)
    }

    /// Counts a packet; true when the key should be renewed.
    fn is_worn_after(&mut self, bytes: usize, limits: &RenewalLimits) -> bool {
        self.packets += 1;
        self.bytes += bytes as u64;
        self.channel.is_worn()
            || limits.packets.is_some_and(|limit| self.packets >= limit)
            || limits.bytes.is_some_and(|limit| self.bytes >= limit)
    }
}

/// See the module's documentation.
pub(crate) struct Live {
    terms: Terms,
    /// Largest segment of TCP connections through the tunnel, over IPv4.
    mss_limit: Option<u16>,
    /// Oldest first: at most the one before the current one, the current one, and one in the making. Never empty.
    keys: Vec<DataKey>,
    /// When we begin the next key.
    renew_at: Option<Instant>,
    renewal: Option<Renewal>,
    keepalive: Keepalive,
    since: Instant,
    last_sent: Instant,
    last_heard: Instant,
    traffic: Traffic,
    /// A payload in its framing, where there is one.
    framed: Vec<u8>,
    path: Path,
}

/// An opened data packet.
pub(crate) enum Opened {
    /// For us, and done with.
    Message,
    Exit,
    Packet(Range<usize>),
}

impl Live {
    /// Starts with the key that `block` makes, under key id 0.
    pub(crate) fn new(
        now: Instant,
        terms: Terms,
        block: &KeyBlock,
        keepalive: Keepalive,
        rng: &mut dyn rand::CryptoRng,
    ) -> Result<Self, KeyExhausted> {
        let first = DataKey {
            key_id: 0,
            channel: terms.data_channel(0, block)?,
            usable_at: Some(now),
            dies_at: None,
            packets: 0,
            bytes: 0,
        };
        Ok(Self {
            renew_at: renewal::due(now, &terms, rng),
            mss_limit: terms.mss_limit(None),
            path: Path::new(now, &terms),
            terms,
            keys: vec![first],
            renewal: None,
            keepalive,
            since: now,
            last_sent: now,
            last_heard: now,
            traffic: Traffic::default(),
            framed: Vec::new(),
        })
    }

    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    pub(crate) fn last_heard(&self) -> Instant {
        self.last_heard
    }

    /// When two of the peer's pings are missing, if it sends them as often as we do.
    pub(crate) fn silent_at(&self) -> Option<Instant> {
        (!self.keepalive.ping.is_zero()).then(|| self.last_heard + self.keepalive.ping * 2 + PING_DELAY)
    }

    pub(crate) fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// Whether the peer is known to be ours: nobody else discovers the path's MTU.
    pub(crate) fn is_with_ours(&self) -> bool {
        self.terms.path_mtu
    }

    /// Who the peer's certificate says it is.
    pub(crate) fn certificate(&self) -> &Identity {
        &self.terms.identity
    }

    /// Shows these in the key exchanges to come.
    pub(crate) fn use_credentials(&mut self, credentials: Option<Credentials>) {
        self.terms.credentials = credentials;
    }

    /// The peer is elsewhere.
    pub(crate) fn note_remote(&mut self, remote: Underlay) {
        self.terms.remote = remote;
        self.mss_limit = self.terms.mss_limit(self.path.mtu());
    }

    /// A control packet of the peer authenticated.
    pub(crate) fn note_heard(&mut self, now: Instant) {
        self.last_heard = now;
    }

    /// A control packet went to the peer.
    pub(crate) fn note_sent(&mut self, now: Instant) {
        self.last_sent = now;
    }

    /// Opens a data packet in place and tells what it is. A packet for the device is an IPv4 or IPv6 packet whose
    /// header and length hold.
    pub(crate) fn open(&mut self, now: Instant, datagram: &mut [u8]) -> Result<Opened, DropReason> {
        let key_id = datagram.first().copied().and_then(Header::decode).map(|header| header.key_id);
        let at = self.keys.iter().rposition(|key| Some(key.key_id) == key_id);
        let at = at.filter(|&at| self.keys[at].is_alive(now)).ok_or(DropReason::UnknownKey)?;
        let range = self.keys[at].channel.open(datagram)?;
        self.note_use(now, at, range.len());
        if at + 1 == self.keys.len() && !self.keys[at].is_usable(now) {
            self.prove_newest(now);
        }
        self.last_heard = now;
        let range = self.terms.framing.unwrap(datagram, range)?;
        let plain = datagram.get(range.clone()).unwrap_or_default();
        match Payload::classify(plain) {
            Payload::Ping | Payload::Other => Ok(Opened::Message),
            Payload::PathMtu => {
                let outside = datagram.len() + self.terms.remote.headers();
                self.handle_path_message(now, plain, outside);
                Ok(Opened::Message)
            }
            Payload::Exit => Ok(Opened::Exit),
            Payload::Packet => {
                let length = inner::length(plain).ok_or(DropReason::NotIp)?;
                let range = range.start..range.start + length;
                self.clamp(&mut datagram[range.clone()]);
                self.traffic.received_packets += 1;
                self.traffic.received_bytes += length as u64;
                Ok(Opened::Packet(range))
            }
        }
    }

    /// Seals packets for the peer, who is at `to`.
    pub(crate) fn seal_all(
        &mut self,
        now: Instant,
        to: Underlay,
        packets: &mut dyn Packets,
        out: &mut Batch,
    ) -> Result<(), KeyExhausted> {
        while let Some(packet) = packets.next() {
            out.push(to, |room| self.seal(now, packet, room))?;
        }
        Ok(())
    }

    /// Seals a packet, writes the datagram to `out` and gives its length.
    pub(crate) fn seal(&mut self, now: Instant, packet: &mut [u8], out: &mut [u8]) -> Result<usize, KeyExhausted> {
        self.clamp(packet);
        let length = self.seal_any(now, packet, out)?;
        self.traffic.sent_packets += 1;
        self.traffic.sent_bytes += packet.len() as u64;
        Ok(length)
    }

    fn clamp(&self, packet: &mut [u8]) {
        if let Some(limit) = self.mss_limit {
            mss::clamp(packet, limit);
        }
    }

    /// A datagram that carries a message of the data channel.
    pub(crate) fn message(&mut self, now: Instant, message: &[u8]) -> Result<Vec<u8>, KeyExhausted> {
        let mut out = vec![0; message.len() + OVERHEAD];
        let length = self.seal_any(now, message, &mut out)?;
        out.truncate(length);
        Ok(out)
    }

    fn seal_any(&mut self, now: Instant, plain: &[u8], out: &mut [u8]) -> Result<usize, KeyExhausted> {
        let mut at = self.sealing_key(now);
        let plain = if self.terms.framing.wrap(plain, &mut self.framed) { &self.framed } else { plain };
        let length = loop {
            match self.keys[at].channel.seal(plain, out) {
                Ok(length) => break length,
                // A newer key that is agreed upon may be early, but it is better than none.
                Err(KeyExhausted) => {
                    at += 1;
                    self.keys.get(at).filter(|key| key.usable_at.is_some()).ok_or(KeyExhausted)?;
                }
            }
        };
        let bytes = plain.len();
        self.note_use(now, at, bytes);
        self.last_sent = now;
        Ok(length)
    }

    /// The newest that the peer surely has. An older one may be gone there: stock forgets the key before the last when a
    /// renewal begins.
    fn sealing_key(&self, now: Instant) -> usize {
        self.keys.iter().rposition(|key| key.is_usable(now)).unwrap_or(0)
    }

    fn note_use(&mut self, now: Instant, at: usize, bytes: usize) {
        let is_worn = self.keys[at].is_worn_after(bytes, &self.terms.limits);
        let is_newest = at + 1 == self.keys.len();
        if is_worn && is_newest && self.renewal.is_none() && self.renew_at.is_none_or(|due| due > now + renewal::RETRY)
        {
            self.renew_at = Some(now);
        }
    }

    /// A ping, if one is due.
    pub(crate) fn poll_ping(&mut self, now: Instant) -> Option<Result<Vec<u8>, KeyExhausted>> {
        let due = self.ping_at().is_some_and(|at| at <= now);
        due.then(|| self.message(now, Payload::ping()))
    }

    /// Does what is due about keys. Says why, when the session cannot go on.
    pub(crate) fn handle_timeout(&mut self, now: Instant, desk: &mut Desk<'_>) -> Option<EndReason> {
        if self.dead_at().is_some_and(|at| at <= now) {
            return Some(EndReason::PingTimeout);
        }
        self.check_renewal(now, desk);
        self.check_path(now);
        if !self.keys.iter().any(|key| key.usable_at.is_some() && key.is_alive(now)) {
            return Some(EndReason::KeyExhausted);
        }
        self.keys.retain(|key| key.is_alive(now));
        None
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let dies_at = self.keys.iter().filter_map(|key| key.dies_at).min();
        let path = self.path.poll_timeout();
        [self.ping_at(), self.dead_at(), self.renewal_timeout(), dies_at, path].into_iter().flatten().min()
    }

    fn ping_at(&self) -> Option<Instant> {
        (!self.keepalive.ping.is_zero()).then(|| self.last_sent + self.keepalive.ping)
    }

    fn dead_at(&self) -> Option<Instant> {
        (!self.keepalive.ping_restart.is_zero()).then(|| self.last_heard + self.keepalive.ping_restart)
    }
}
