//! What sessions of both roles consist of: the control channel, and the live part once data flows.

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::data::{DataChannel, HEADROOM, KeyExhausted, Payload};
use crate::drops::DropReason;
use crate::endpoint::{Keepalive, Traffic};
use crate::packet::{ControlBody, Header, Opcode, SessionId};
use crate::reliability::Reliability;
use crate::underlay::Underlay;
use crate::wrap::{Unwrapped, WrapKeys, WrapState};

/// From the first packet of a key to data that flows.
pub(crate) const HAND_WINDOW: Duration = Duration::from_secs(60);
/// How long a session that ended still acknowledges and retransmits.
pub(crate) const LINGER: Duration = Duration::from_secs(5);
/// The only key id in use. Renegotiation, which counts on from here with a reliability layer, a TLS session and data
/// keys of each key's own, is neither announced nor answered: a peer that starts one keeps its current key.
const KEY_ID: u8 = 0;

/// The control channel of a session: ids, wrapping state and the reliability layer of its key.
pub(crate) struct ControlChannel {
    local: SessionId,
    remote: Option<SessionId>,
    wrap: WrapState,
    reliability: Reliability,
    /// A message went to TLS and its record has not come back yet.
    encrypting: bool,
}

impl ControlChannel {
    /// A client's: its reset is due at once.
    pub(crate) fn client(now: Instant, local: SessionId, unix_time: u32) -> Self {
        Self {
            local,
            remote: None,
            wrap: WrapState::new(unix_time, 0),
            reliability: Reliability::with_reset(now, Opcode::HardResetClient),
            encrypting: false,
        }
    }

    /// A server's, made from the packet that returned the cookie. The cookie's own packet had replay id 1.
    pub(crate) fn server(local: SessionId, remote: SessionId, unix_time: u32) -> Self {
        Self {
            local,
            remote: Some(remote),
            wrap: WrapState::new(unix_time, 1),
            reliability: Reliability::after_reset(),
            encrypting: false,
        }
    }

    pub(crate) fn local(&self) -> SessionId {
        self.local
    }

    pub(crate) fn remote(&self) -> Option<SessionId> {
        self.remote
    }

    /// Takes a control packet that authenticated.
    pub(crate) fn handle(&mut self, now: Instant, header: Header, packet: &Unwrapped<'_>) -> Result<(), DropReason> {
        if header.key_id != KEY_ID {
            return Err(DropReason::UnknownKey);
        }
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
        self.wrap.accept(packet.replay)?;
        self.remote = Some(packet.sender);
        self.reliability.handle_acks(now, &body.acks);
        match body.message_id {
            Some(id) => self.reliability.handle_message(id, body.payload),
            None => Ok(()),
        }
    }

    /// Received bytes of the TLS stream, in order.
    pub(crate) fn poll_tls(&mut self) -> Option<Vec<u8>> {
        loop {
            let bytes = self.reliability.poll_received()?;
            if !bytes.is_empty() {
                return Some(bytes);
            }
        }
    }

    /// Queues bytes of the TLS stream.
    pub(crate) fn send_tls(&mut self, bytes: &[u8]) {
        self.encrypting = false;
        self.reliability.send(bytes);
    }

    /// Notes that a message was handed to TLS.
    pub(crate) fn expect_record(&mut self) {
        self.encrypting = true;
    }

    /// Whether the peer has acknowledged everything, including messages that TLS still had.
    pub(crate) fn is_settled(&self) -> bool {
        !self.encrypting && self.reliability.is_idle()
    }

    /// Writes the next packet that is due.
    pub(crate) fn poll_transmit(&mut self, now: Instant, keys: &WrapKeys, out: &mut Vec<u8>) -> bool {
        let Some(outgoing) = self.reliability.poll_send(now, self.remote) else { return false };
        let header = Header { opcode: outgoing.opcode, key_id: KEY_ID };
        let mut body = Vec::with_capacity(64 + outgoing.body.payload.len());
        outgoing.body.encode(&mut body);
        // Four thousand million control packets in one session do not happen; if they do, it falls silent and times out.
        let Some(replay) = self.wrap.next() else { return false };
        keys.seal(header, self.local, replay, &body, out).is_ok()
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.reliability.poll_timeout()
    }
}

/// A session whose data flows.
pub(crate) struct Live {
    data: DataChannel,
    keepalive: Keepalive,
    since: Instant,
    last_sent: Instant,
    last_heard: Instant,
    traffic: Traffic,
}

/// An opened data packet.
pub(crate) enum Opened {
    Ping,
    Exit,
    Packet(Range<usize>),
}

impl Live {
    pub(crate) fn new(now: Instant, data: DataChannel, keepalive: Keepalive) -> Self {
        Self { data, keepalive, since: now, last_sent: now, last_heard: now, traffic: Traffic::default() }
    }

    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    pub(crate) fn last_heard(&self) -> Instant {
        self.last_heard
    }

    pub(crate) fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// A control packet of the peer authenticated.
    pub(crate) fn note_heard(&mut self, now: Instant) {
        self.last_heard = now;
    }

    /// A control packet went to the peer.
    pub(crate) fn note_sent(&mut self, now: Instant) {
        self.last_sent = now;
    }

    /// Opens a data packet in place and tells what it is. A packet for the device is an IPv4 packet whose header and
    /// length hold.
    pub(crate) fn open(&mut self, now: Instant, datagram: &mut [u8]) -> Result<Opened, DropReason> {
        let key_id = datagram.first().copied().and_then(Header::decode).map(|header| header.key_id);
        if key_id != Some(KEY_ID) {
            return Err(DropReason::UnknownKey);
        }
        let range = self.data.open(datagram)?;
        self.last_heard = now;
        let plain = datagram.get(range.clone()).unwrap_or_default();
        match Payload::classify(plain) {
            Payload::Ping | Payload::Other => Ok(Opened::Ping),
            Payload::Exit => Ok(Opened::Exit),
            Payload::Packet => {
                let length = ipv4_length(plain).ok_or(DropReason::NotIp)?;
                let range = range.start..range.start + length;
                self.traffic.received_packets += 1;
                self.traffic.received_bytes += length as u64;
                Ok(Opened::Packet(range))
            }
        }
    }

    /// Seals the packet at `buf[HEADROOM..]`.
    pub(crate) fn seal(&mut self, now: Instant, buf: &mut [u8]) -> Result<Range<usize>, KeyExhausted> {
        let range = self.data.seal(buf)?;
        self.last_sent = now;
        self.traffic.sent_packets += 1;
        self.traffic.sent_bytes += buf.len().saturating_sub(HEADROOM) as u64;
        Ok(range)
    }

    /// A datagram that carries a message of the data channel.
    pub(crate) fn message(&mut self, now: Instant, message: &[u8]) -> Result<Vec<u8>, KeyExhausted> {
        let mut buf = vec![0; HEADROOM];
        buf.extend_from_slice(message);
        let range = self.data.seal(&mut buf)?;
        self.last_sent = now;
        buf.drain(..range.start);
        Ok(buf)
    }

    /// A ping, if one is due.
    pub(crate) fn poll_ping(&mut self, now: Instant) -> Option<Result<Vec<u8>, KeyExhausted>> {
        let due = self.ping_at().is_some_and(|at| at <= now);
        due.then(|| self.message(now, Payload::ping()))
    }

    /// Whether the peer has been silent for too long.
    pub(crate) fn is_dead(&self, now: Instant) -> bool {
        self.dead_at().is_some_and(|at| at <= now)
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        [self.ping_at(), self.dead_at()].into_iter().flatten().min()
    }

    fn ping_at(&self) -> Option<Instant> {
        (!self.keepalive.ping.is_zero()).then(|| self.last_sent + self.keepalive.ping)
    }

    fn dead_at(&self) -> Option<Instant> {
        (!self.keepalive.ping_restart.is_zero()).then(|| self.last_heard + self.keepalive.ping_restart)
    }
}

/// The total length of an IPv4 packet, if `packet` holds one.
fn ipv4_length(packet: &[u8]) -> Option<usize> {
    if packet.len() < 20 || packet[0] >> 4 != 4 {
        return None;
    }
    let length = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    (20..=packet.len()).contains(&length).then_some(length)
}

/// A datagram that waits to be sent.
pub(crate) type Waiting = (Underlay, Vec<u8>);
