//! First packets: what is answered without keeping anything, and what makes a session.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Phase, Server, Session};
use crate::channel::ControlChannel;
use crate::cookie::CookieJar;
use crate::drops::DropReason;
use crate::endpoint::TlsInput;
use crate::packet::{Acks, ControlBody, Header, Opcode, SessionId};
use crate::protection::{ServerProtection, ServerV2};
use crate::tls_crypt_v2::{EARLY_NEGOTIATION, Metadata, WANT_KEY_AGAIN, split_wrapped};
use crate::underlay::{Transport, Underlay};
use crate::wrap::{Role, Unwrapped, WrapKeys};

/// First packets answered in each [`RATE_PERIOD`].
const RATE_LIMIT: u32 = 100;
const RATE_PERIOD: Duration = Duration::from_secs(10);

/// What opens the packets of those who have no session yet.
pub(super) struct Wrapping {
    /// With a key that all share, or none; `None` when all must bring their own.
    shared: Option<Arc<WrapKeys>>,
    v2: Option<ServerV2>,
}

/// How a first packet is wrapped.
struct First {
    keys: Arc<WrapKeys>,
    /// With tls-crypt-v2: what the client's key says about itself.
    metadata: Option<Metadata>,
}

impl Wrapping {
    pub(super) fn new(protection: &ServerProtection) -> Self {
        let (shared, v2) = match protection {
            ServerProtection::None => (Some(WrapKeys::new(Role::Server, None)), None),
            ServerProtection::Shared(shared) => (Some(WrapKeys::shared(Role::Server, shared)), None),
            ServerProtection::TlsCryptV2(v2) => {
                let beside = v2.beside.as_ref().map(|shared| WrapKeys::shared(Role::Server, shared));
                (beside, Some(v2.clone()))
            }
        };
        Self { shared: shared.map(Arc::new), v2 }
    }

    /// The keys of a packet, and the packet without what stands behind it.
    fn unwrap<'a>(&self, header: Header, datagram: &'a mut [u8]) -> Result<(First, &'a mut [u8]), DropReason> {
        if !carries_key(header.opcode) {
            let keys = self.shared.clone().ok_or(DropReason::Wrap)?;
            return Ok((First { keys, metadata: None }, datagram));
        }
        let v2 = self.v2.as_ref().ok_or(DropReason::Wrap)?;
        let (packet, wrapped) = split_wrapped(datagram)?;
        let of_older = |first| v2.older.iter().find_map(|key| key.unwrap(wrapped).ok()).ok_or(first);
        let unwrapped = v2.key.unwrap(wrapped).or_else(of_older)?;
        let keys = Arc::new(WrapKeys::new(Role::Server, Some(&unwrapped.key)));
        Ok((First { keys, metadata: Some(unwrapped.metadata) }, packet))
    }

    fn allows_noncookie(&self) -> bool {
        self.v2.as_ref().is_some_and(|v2| v2.allow_noncookie)
    }

    /// Whether a client's key is not too old at `unix_time`.
    fn is_young(&self, metadata: Option<&Metadata>, unix_time: i64) -> bool {
        let (Some(v2), Some(metadata)) = (&self.v2, metadata) else { return true };
        match (v2.max_age, metadata) {
            (None, _) => true,
            (Some(max_age), Metadata::Timestamp(made)) => {
                unix_time.saturating_sub(*made) <= i64::try_from(max_age.as_secs()).unwrap_or(i64::MAX)
            }
            (Some(_), Metadata::User(_) | Metadata::Other) => false,
        }
    }
}

fn carries_key(opcode: Opcode) -> bool {
    matches!(opcode, Opcode::HardResetClientV3 | Opcode::ControlWkc)
}

/// A packet of a session whose key is known already.
pub(super) fn without_wrapped_key(header: Header, datagram: &mut [u8]) -> Result<&mut [u8], DropReason> {
    if carries_key(header.opcode) { split_wrapped(datagram).map(|(packet, _)| packet) } else { Ok(datagram) }
}

impl Server {
    /// Takes a control packet that belongs to no session.
    pub(super) fn handle_first(
        &mut self,
        now: Instant,
        from: Underlay,
        header: Header,
        datagram: &mut [u8],
    ) -> Result<(), DropReason> {
        let (first, datagram) = self.wrapping.unwrap(header, datagram)?;
        let packet = first.keys.open(datagram)?;
        if header.key_id != 0 || self.closing {
            return Err(DropReason::UnknownSession);
        }
        let is_reset = matches!(header.opcode, Opcode::HardResetClient | Opcode::HardResetClientV3);
        let needs_state = is_reset && first.needs_state(&packet);
        if is_reset && !needs_state {
            let reply = answer_reset(&first, &self.cookies, now, from, self.unix_time, &packet)?;
            self.take_turn(now, from.transport)?;
            self.outbox.push_back((from, reply));
            return Ok(());
        }
        let local = if needs_state {
            if !self.wrapping.allows_noncookie() {
                return Err(DropReason::OutOfTurn);
            }
            check_reset(&packet)?;
            self.take_turn(now, from.transport)?;
            self.random_session_id()
        } else {
            check_return(&self.cookies, now, from, header, &packet)?
        };
        let unix_time = i64::from(self.unix_time) + now.saturating_duration_since(self.started).as_secs() as i64;
        if !self.wrapping.is_young(first.metadata.as_ref(), unix_time) {
            return Err(DropReason::KeyAge);
        }
        if self.sessions.len().saturating_sub(self.admitted) >= self.config.max_handshakes {
            return Err(DropReason::HandshakeLimit);
        }
        let key = self.next_session;
        self.next_session += 1;
        let (sender, keys) = (packet.sender, Arc::clone(&first.keys));
        let channel = if needs_state {
            ControlChannel::server_without_cookie(key, now, local, sender, keys, self.unix_time)
        } else {
            ControlChannel::server(key, local, sender, keys, self.unix_time)
        };
        let channel = channel.with_max_packet_size(self.config.max_packet_size);
        self.tls.push_back((channel.current(), TlsInput::Start));
        let phase = Phase::Handshake { deadline: now + self.config.renewal.hand_window };
        self.sessions.insert(key, Session { remote: from, channel, phase });
        self.by_source.insert((from, sender), key);
        // Have the deadline taken up.
        self.next_timeout = Some(now);
        self.handle_session(now, key, header, &packet)
    }

    /// Counts a first packet against its period's limit. A connection shows that its address is real; how many there are
    /// is limited elsewhere.
    fn take_turn(&mut self, now: Instant, transport: Transport) -> Result<(), DropReason> {
        if transport != Transport::Udp {
            return Ok(());
        }
        let (since, count) = &mut self.rate;
        if now.saturating_duration_since(*since) >= RATE_PERIOD {
            (*since, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        if *count <= RATE_LIMIT { Ok(()) } else { Err(DropReason::InitialRate) }
    }

    fn random_session_id(&mut self) -> SessionId {
        let mut id = [0; 8];
        while id == [0; 8] {
            self.rng.fill_bytes(&mut id);
        }
        SessionId(id)
    }
}

impl First {
    /// A client that does not say that it can send its key again cannot be answered without keeping its key.
    fn needs_state(&self, packet: &Unwrapped<'_>) -> bool {
        let can_send_again = packet.replay.is_some_and(|(_, id)| id >> 24 == EARLY_NEGOTIATION >> 24);
        self.metadata.is_some() && !can_send_again
    }
}

fn check_reset(packet: &Unwrapped<'_>) -> Result<(), DropReason> {
    let body = ControlBody::decode(Opcode::HardResetClient, packet.body).ok_or(DropReason::Malformed)?;
    if body.message_id != Some(0) || body.ack_session.is_some() {
        return Err(DropReason::OutOfTurn);
    }
    Ok(())
}

/// The stateless answer to a client's reset: our session id is a cookie.
fn answer_reset(
    first: &First,
    cookies: &CookieJar,
    now: Instant,
    from: Underlay,
    unix_time: u32,
    packet: &Unwrapped<'_>,
) -> Result<Vec<u8>, DropReason> {
    check_reset(packet)?;
    let local = cookies.bake(now, from, packet.sender);
    let mut acks = Acks::default();
    acks.push(0);
    let payload: &[u8] = if first.metadata.is_some() { &WANT_KEY_AGAIN } else { &[] };
    let mut clear = Vec::with_capacity(40);
    ControlBody { acks, ack_session: Some(packet.sender), message_id: Some(0), payload }.encode(&mut clear);
    let header = Header { opcode: Opcode::HardResetServer, key_id: 0 };
    let mut reply = Vec::with_capacity(128);
    first.keys.seal(header, local, (unix_time, 1), &clear, &mut reply)?;
    Ok(reply)
}

/// Checks the packet that is to make a session; gives the session id that was our cookie.
fn check_return(
    cookies: &CookieJar,
    now: Instant,
    from: Underlay,
    header: Header,
    packet: &Unwrapped<'_>,
) -> Result<SessionId, DropReason> {
    if !matches!(header.opcode, Opcode::Control | Opcode::ControlWkc | Opcode::Ack) {
        return Err(DropReason::UnknownSession);
    }
    let body = ControlBody::decode(header.opcode, packet.body).ok_or(DropReason::Malformed)?;
    let local = body.ack_session.ok_or(DropReason::Cookie)?;
    if body.acks.as_slice().iter().any(|&id| id > 1) || body.message_id.is_some_and(|id| id > 1) {
        return Err(DropReason::OutOfTurn);
    }
    if !cookies.check(now, from, packet.sender, local) {
        return Err(DropReason::Cookie);
    }
    Ok(local)
}
