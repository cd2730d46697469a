//! The control channel of a session: its ids and wrapping, and for each key in use or in the making a reliability layer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::drops::DropReason;
use crate::endpoint::{DEFAULT_MAX_PACKET_SIZE, SessionKey, TlsKey};
use crate::packet::{ControlBody, Header, Opcode, SessionId};
use crate::protection::ClientProtection;
use crate::reliability::{self, Reliability};
use crate::static_key::StaticKey;
use crate::tls_crypt_v2::{EARLY_NEGOTIATION, wants_key_again};
use crate::underlay::Underlay;
use crate::wrap::{Role, Unwrapped, WrapKeys, WrapState};

/// How long a session that ended still acknowledges and retransmits.
pub(crate) const LINGER: Duration = Duration::from_secs(5);

/// A datagram that waits to be sent.
pub(crate) type Waiting = (Underlay, Vec<u8>);

/// See the module's documentation.
///
/// A session's first key has the id 0. Its successors are negotiated beside the key in use, each over a reliability
/// layer and a TLS connection of its own, under the ids 1 to 7 in turn; session ids, wrapping and replay counters stay.
pub(crate) struct ControlChannel {
    session: SessionKey,
    local: SessionId,
    remote: Option<SessionId>,
    wrap: Wrap,
    /// What wraps the packets of key ids other than 0, with dynamic tls-crypt.
    dynamic_wrap: Option<Wrap>,
    /// Our own key as only the server can read it, with tls-crypt-v2 on a client.
    wrapped_key: Option<Vec<u8>>,
    /// Of the key in use, over which commands go.
    current: Slot,
    /// Of the key that is to follow.
    next: Option<Slot>,
    /// Key exchanges begun so far.
    generations: u32,
    /// Most TLS bytes in one packet.
    max_payload: usize,
}

/// Keys of the wrapping, and what was sent and received under them.
struct Wrap {
    keys: Arc<WrapKeys>,
    state: WrapState,
}

/// The control channel of one key.
struct Slot {
    generation: u32,
    key_id: u8,
    reliability: Reliability,
    /// A message went to TLS and its record has not come back yet.
    encrypting: bool,
}

impl Slot {
    fn is_settled(&self) -> bool {
        !self.encrypting && self.reliability.is_idle()
    }
}

/// What a control packet did to the session's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handled {
    /// It belongs to a key that was there.
    Known,
    /// The peer begins a new key.
    Begun(TlsKey),
    /// The peer begins a new key, and so has the one before, which was waiting for acknowledgements here. What that
    /// replaced has no use for its TLS connection any more.
    Overtaken {
        /// Of the key before the last.
        old: Option<TlsKey>,
        /// Of the key that is begun.
        begun: TlsKey,
    },
}

/// Whether the peer may begin a new key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Renewable {
    /// Not now.
    No,
    /// It may.
    Yes,
    /// It may, and there is one already of which only acknowledgements are missing.
    Settling,
}

impl ControlChannel {
    /// A client's: its reset is due at once.
    pub(crate) fn client(
        session: SessionKey,
        now: Instant,
        local: SessionId,
        protection: &ClientProtection,
        unix_time: u32,
    ) -> Self {
        let (keys, opcode, sent) = match protection {
            ClientProtection::None => (WrapKeys::new(Role::Client, None), Opcode::HardResetClient, 0),
            ClientProtection::Shared(shared) => (WrapKeys::shared(Role::Client, shared), Opcode::HardResetClient, 0),
            ClientProtection::TlsCryptV2(key) => {
                let keys = WrapKeys::new(Role::Client, Some(key.key()));
                (keys, Opcode::HardResetClientV3, EARLY_NEGOTIATION)
            }
        };
        let reliability = Reliability::with_reset(now, opcode);
        let state = WrapState::new(unix_time, sent);
        let mut channel = Self::new(session, local, None, Arc::new(keys), state, reliability);
        if let ClientProtection::TlsCryptV2(key) = protection {
            channel.wrapped_key = Some(key.wrapped().to_vec());
        }
        channel
    }

    /// A server's, made from the packet that returned the cookie. The cookie's own packet had replay id 1.
    pub(crate) fn server(
        session: SessionKey,
        local: SessionId,
        remote: SessionId,
        keys: Arc<WrapKeys>,
        unix_time: u32,
    ) -> Self {
        Self::new(session, local, Some(remote), keys, WrapState::new(unix_time, 1), Reliability::after_reset())
    }

    /// A server's that was made without a cookie, from the client's reset: ours is due at once.
    pub(crate) fn server_without_cookie(
        session: SessionKey,
        now: Instant,
        local: SessionId,
        remote: SessionId,
        keys: Arc<WrapKeys>,
        unix_time: u32,
    ) -> Self {
        let reliability = Reliability::with_reset(now, Opcode::HardResetServer);
        Self::new(session, local, Some(remote), keys, WrapState::new(unix_time, 0), reliability)
    }

    fn new(
        session: SessionKey,
        local: SessionId,
        remote: Option<SessionId>,
        keys: Arc<WrapKeys>,
        wrap: WrapState,
        reliability: Reliability,
    ) -> Self {
        let current = Slot { generation: 0, key_id: 0, reliability, encrypting: false };
        Self {
            session,
            local,
            remote,
            wrap: Wrap { keys, state: wrap },
            dynamic_wrap: None,
            wrapped_key: None,
            current,
            next: None,
            generations: 1,
            max_payload: reliability::max_payload(DEFAULT_MAX_PACKET_SIZE),
        }
    }

    /// With IP datagrams of at most so many bytes, whatever carries and wraps them.
    pub(crate) fn with_max_packet_size(mut self, bytes: u16) -> Self {
        self.max_payload = reliability::max_payload(bytes);
        self
    }

    pub(crate) fn local(&self) -> SessionId {
        self.local
    }

    pub(crate) fn remote(&self) -> Option<SessionId> {
        self.remote
    }

    /// The TLS connection of the key in use.
    pub(crate) fn current(&self) -> TlsKey {
        self.tls_key(&self.current)
    }

    /// The TLS connection of the key that is being negotiated.
    pub(crate) fn next(&self) -> Option<TlsKey> {
        self.next.as_ref().map(|slot| self.tls_key(slot))
    }

    fn tls_key(&self, slot: &Slot) -> TlsKey {
        TlsKey { session: self.session, generation: slot.generation }
    }

    /// From now on, packets of renewals are wrapped under keys that TLS exported.
    pub(crate) fn use_dynamic_tls_crypt(&mut self, exported: &StaticKey) {
        let keys = Arc::new(self.wrap.keys.dynamic(exported));
        self.dynamic_wrap = Some(Wrap { keys, state: self.wrap.state.fresh() });
    }

    /// Unwraps a control packet of this session, in place.
    pub(crate) fn open<'a>(&self, header: Header, datagram: &'a mut [u8]) -> Result<Unwrapped<'a>, DropReason> {
        let wrap = self.dynamic_wrap.as_ref().filter(|_| header.key_id != 0).unwrap_or(&self.wrap);
        wrap.keys.open(datagram)
    }

    /// Takes a control packet that authenticated. `renewable` tells whether the peer may begin a new key.
    pub(crate) fn handle(
        &mut self,
        now: Instant,
        header: Header,
        packet: &Unwrapped<'_>,
        renewable: Renewable,
    ) -> Result<Handled, DropReason> {
        let body = ControlBody::decode(header.opcode, packet.body).ok_or(DropReason::Malformed)?;
        if body.ack_session.is_some_and(|session| session != self.local) {
            return Err(DropReason::UnknownSession);
        }
        match self.remote {
            Some(remote) if remote != packet.sender => return Err(DropReason::UnknownSession),
            // Only the server's reset, with the acknowledgement of ours, tells who the peer is.
            None if header.opcode != Opcode::HardResetServer
                || body.message_id != Some(0)
                || body.ack_session.is_none() =>
            {
                return Err(DropReason::OutOfTurn);
            }
            _ => {}
        }
        let is_reset = header.opcode == Opcode::HardResetServer;
        let send_key_again = is_reset
            && self.wrapped_key.is_some()
            && wants_key_again(body.payload)?
            && !self.current.reliability.has_received();
        let is_known =
            self.current.key_id == header.key_id || self.next.as_ref().is_some_and(|next| next.key_id == header.key_id);
        let overtakes = renewable == Renewable::Settling
            && header.opcode == Opcode::SoftReset
            && self.next.as_ref().is_some_and(|next| header.key_id == following(next.key_id));
        if !is_known && !overtakes {
            let begins = header.opcode == Opcode::SoftReset && header.key_id == self.next_key_id();
            if !begins || self.next.is_some() {
                return Err(DropReason::UnknownKey);
            }
            if renewable == Renewable::No {
                return Err(DropReason::OutOfTurn);
            }
        }
        if !is_known && body.message_id != Some(0) {
            return Err(DropReason::OutOfTurn);
        }
        let wrap = self.dynamic_wrap.as_mut().filter(|_| header.key_id != 0).unwrap_or(&mut self.wrap);
        wrap.state.accept(packet.replay)?;
        self.remote = Some(packet.sender);
        let handled = if is_known {
            Handled::Known
        } else if overtakes {
            let old = self.finish_renewal();
            Handled::Overtaken { old, begun: self.begin_renewal(now) }
        } else {
            Handled::Begun(self.begin_renewal(now))
        };
        let slot = match &mut self.next {
            Some(next) if next.key_id == header.key_id => next,
            _ => &mut self.current,
        };
        slot.reliability.handle_acks(now, &body.acks);
        if let Some(id) = body.message_id {
            // A server's reset says something to us, not to TLS.
            slot.reliability.handle_message(now, id, if is_reset { &[] } else { body.payload })?;
        }
        if send_key_again {
            slot.reliability.send_key_again(now);
        }
        Ok(handled)
    }

    // New keys

    /// Begins the key that is to follow the one in use; a soft reset is due at once.
    pub(crate) fn begin_renewal(&mut self, now: Instant) -> TlsKey {
        let slot = Slot {
            generation: self.generations,
            key_id: self.next_key_id(),
            reliability: Reliability::with_reset(now, Opcode::SoftReset),
            encrypting: false,
        };
        self.generations += 1;
        let key = self.tls_key(&slot);
        self.next = Some(slot);
        key
    }

    /// Whether the peer has sent its soft reset for the key that is being negotiated.
    pub(crate) fn is_renewal_answered(&self) -> bool {
        self.next.as_ref().is_some_and(|next| next.reliability.has_received())
    }

    /// Whether the peer has acknowledged everything of the key that is being negotiated.
    pub(crate) fn is_renewal_settled(&self) -> bool {
        self.next.as_ref().is_some_and(Slot::is_settled)
    }

    /// The key that was negotiated is the one in use from now on. Gives the TLS connection that is not needed any more.
    pub(crate) fn finish_renewal(&mut self) -> Option<TlsKey> {
        let next = self.next.take()?;
        let old = std::mem::replace(&mut self.current, next);
        Some(self.tls_key(&old))
    }

    /// Forgets the key that was being negotiated. The next attempt has the same key id: the peer counts only keys that
    /// came to be.
    pub(crate) fn abandon_renewal(&mut self) -> Option<TlsKey> {
        let next = self.next.take()?;
        Some(self.tls_key(&next))
    }

    /// The key id that follows the one in use.
    pub(crate) fn next_key_id(&self) -> u8 {
        following(self.current.key_id)
    }

    // The TLS streams

    /// Received bytes of a TLS stream, in order.
    pub(crate) fn poll_tls(&mut self) -> Option<(TlsKey, Vec<u8>)> {
        let session = self.session;
        for slot in self.next.iter_mut().chain([&mut self.current]) {
            while let Some(bytes) = slot.reliability.poll_received() {
                if !bytes.is_empty() {
                    return Some((TlsKey { session, generation: slot.generation }, bytes));
                }
            }
        }
        None
    }

    /// Queues bytes of a TLS stream.
    pub(crate) fn send_tls(&mut self, key: TlsKey, bytes: &[u8]) {
        if let Some(slot) = self.slot_mut(key) {
            slot.encrypting = false;
            slot.reliability.send(bytes);
        }
    }

    /// Notes that a message was handed to TLS.
    pub(crate) fn expect_record(&mut self, key: TlsKey) {
        if let Some(slot) = self.slot_mut(key) {
            slot.encrypting = true;
        }
    }

    /// Acks of what comes over this connection wait until [`Self::release_acks`], half a second at most.
    pub(crate) fn withhold_acks(&mut self, key: TlsKey) {
        if let Some(slot) = self.slot_mut(key) {
            slot.reliability.withhold_acks();
        }
    }

    /// What came over this connection has been read.
    pub(crate) fn release_acks(&mut self, key: TlsKey) {
        if let Some(slot) = self.slot_mut(key) {
            slot.reliability.release_acks();
        }
    }

    fn slot_mut(&mut self, key: TlsKey) -> Option<&mut Slot> {
        let slots = self.next.iter_mut().chain([&mut self.current]);
        slots.into_iter().find(|slot| slot.generation == key.generation)
    }

    /// Whether the peer has acknowledged everything of the key in use, including messages that TLS still had.
    pub(crate) fn is_settled(&self) -> bool {
        self.current.is_settled()
    }

    /// Whether the same goes for the key that is being negotiated, if there is one.
    pub(crate) fn is_next_settled(&self) -> bool {
        self.next.as_ref().is_none_or(Slot::is_settled)
    }

    /// Writes the next packet that is due.
    pub(crate) fn poll_transmit(&mut self, now: Instant, out: &mut Vec<u8>) -> bool {
        for slot in self.next.iter_mut().chain([&mut self.current]) {
            let Some(outgoing) = slot.reliability.poll_send(now, self.remote, self.max_payload) else { continue };
            let header = Header { opcode: outgoing.opcode, key_id: slot.key_id };
            let mut body = Vec::with_capacity(64 + outgoing.body.payload.len());
            outgoing.body.encode(&mut body);
            // Four thousand million control packets in one session do not happen; if they do, it falls silent and
            // times out.
            let wrap = self.dynamic_wrap.as_mut().filter(|_| slot.key_id != 0).unwrap_or(&mut self.wrap);
            let Some(replay) = wrap.state.next() else { return false };
            let is_sealed = wrap.keys.seal(header, self.local, replay, &body, out).is_ok();
            if let Some(wrapped) = &self.wrapped_key
                && matches!(header.opcode, Opcode::HardResetClientV3 | Opcode::ControlWkc)
            {
                out.extend_from_slice(wrapped);
            }
            return is_sealed;
        }
        false
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let next = self.next.as_ref().and_then(|next| next.reliability.poll_timeout());
        [next, self.current.reliability.poll_timeout()].into_iter().flatten().min()
    }
}

/// The key id that comes after another; 0 comes only once.
fn following(key_id: u8) -> u8 {
    key_id % 7 + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Acks;
    use crate::static_key::StaticKey;
    use crate::tls_crypt_v2::{Metadata, ServerKey, WANT_KEY_AGAIN};

    const SERVER: SessionId = SessionId([2; 8]);

    /// First bytes of what a client with a tls-crypt-v2 key sends after a server's reset with this payload.
    fn sent_after(payload: &[u8]) -> Result<Vec<u8>, DropReason> {
        let key = ServerKey::from_bytes([3; 128]).issue(StaticKey::from_bytes([4; 256]), &Metadata::Other).unwrap();
        let server = WrapKeys::new(Role::Server, Some(key.key()));
        let (now, local) = (Instant::now(), SessionId([1; 8]));
        let mut channel = ControlChannel::client(0, now, local, &ClientProtection::TlsCryptV2(key), 0);
        let mut out = Vec::new();
        assert!(channel.poll_transmit(now, &mut out));
        assert_eq!((out[0], &out[9..13]), (0x50, &[0x0f, 0, 0, 1][..]));

        let (mut acks, mut body, mut reset) = (Acks::default(), Vec::new(), Vec::new());
        acks.push(0);
        ControlBody { acks, ack_session: Some(local), message_id: Some(0), payload }.encode(&mut body);
        let header = Header { opcode: Opcode::HardResetServer, key_id: 0 };
        server.seal(header, SERVER, (0, 1), &body, &mut reset).unwrap();
        let packet = channel.open(header, &mut reset)?;
        channel.handle(now, header, &packet, Renewable::No)?;
        assert!(channel.poll_tls().is_none(), "the payload is not for TLS");
        let current = channel.current();
        channel.send_tls(current, &[9; 300]);
        let mut sent = Vec::new();
        while channel.poll_transmit(now, &mut out) {
            sent.push(out[0]);
        }
        Ok(sent)
    }

    /// A client of before 2.6 counts its packets from 1, and its server keeps a session from its reset on.
    #[test]
    fn a_session_without_cookie_carries_both_streams() {
        let key = ServerKey::from_bytes([3; 128]).issue(StaticKey::from_bytes([4; 256]), &Metadata::Other).unwrap();
        let keys = Arc::new(WrapKeys::new(Role::Server, Some(key.key())));
        let wrapped = key.wrapped().len();
        let (now, local) = (Instant::now(), SessionId([1; 8]));
        let mut client = ControlChannel::client(0, now, local, &ClientProtection::TlsCryptV2(key), 0);
        client.wrap.state = WrapState::new(0, 0);
        let mut server = ControlChannel::server_without_cookie(0, now, SERVER, local, keys, 0);
        let tls = client.current();
        server.send_tls(tls, b"to the client");
        let (mut out, mut received) = (Vec::new(), [Vec::new(), Vec::new()]);
        for turn in 0..8 {
            if turn == 2 {
                client.send_tls(tls, b"to the server");
            }
            let (from, to) = if turn % 2 == 0 { (&mut client, &mut server) } else { (&mut server, &mut client) };
            while from.poll_transmit(now, &mut out) {
                let header = Header::decode(out[0]).unwrap();
                if header.opcode == Opcode::HardResetClientV3 {
                    out.truncate(out.len() - wrapped);
                }
                assert_ne!(header.opcode, Opcode::ControlWkc);
                let packet = to.open(header, &mut out).unwrap();
                // Bytes that overtake the reset are dropped, and sent again later.
                let _ = to.handle(now, header, &packet, Renewable::No);
                while let Some((_, bytes)) = to.poll_tls() {
                    received[turn % 2].extend(bytes);
                }
            }
        }
        assert_eq!(received, [b"to the server".to_vec(), b"to the client".to_vec()]);
        assert!(client.is_settled() && server.is_settled());
    }

    #[test]
    fn a_client_sends_its_key_again_only_when_asked() {
        assert_eq!(sent_after(&WANT_KEY_AGAIN), Ok(vec![0x58, 0x20]));
        assert_eq!(sent_after(&[]), Ok(vec![0x20]));
        assert_eq!(sent_after(&[0, 7, 0, 0]), Ok(vec![0x20]));
        assert_eq!(sent_after(&[0, 1, 0]), Err(DropReason::Malformed));
    }
}
