//! The reliability layer of one key: ordered bytes over datagrams, with ids, individual acknowledgements and
//! retransmission.
//!
//! One instance carries the TLS byte stream of one key id, both ways. Message ids start at 0 with the (hard or soft)
//! reset; a server's session takes over at 1, because its reset was exchanged without keeping state.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::drops::DropReason;
use crate::packet::{Acks, ControlBody, Opcode, SessionId};

/// Most TLS bytes in one packet that makes an IP datagram of at most `packet` bytes: less IPv6 and UDP headers (48), the
/// largest wrapping, which is that of tls-auth with SHA-512 (81), and a body with four acks (29). Stock sends 16 bytes
/// where that leaves less.
pub(crate) fn max_payload(packet: u16) -> usize {
    usize::from(packet).saturating_sub(48 + 81 + 29).max(16)
}

/// Packets in flight. Stock peers and OpenVPN 3 both keep to this.
const SEND_WINDOW: u32 = 6;
/// Packets kept out of order; stock peers keep as many.
const RECEIVE_WINDOW: usize = 12;
/// Acks on a packet that also carries something else.
const PIGGYBACK: usize = 4;
/// Acks for later packets after which one is sent again without waiting.
const FAST_RETRANSMIT: u8 = 3;
const FIRST_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_TIMEOUT: Duration = Duration::from_secs(8);
/// How long acks wait at most while they are withheld: less than it takes a peer to send again.
const WITHHELD: Duration = Duration::from_millis(500);

struct InFlight {
    id: u32,
    opcode: Opcode,
    payload: Vec<u8>,
    /// When it is to be sent (again).
    due: Instant,
    /// How long to wait after the next sending.
    timeout: Duration,
    passed_over: u8,
}

/// What is to go out next, for the caller to frame: an opcode, and a body whose payload borrows from the layer.
pub(crate) struct Outgoing<'a> {
    pub(crate) opcode: Opcode,
    pub(crate) body: ControlBody<'a>,
}

/// See the module's documentation.
pub(crate) struct Reliability {
    next_send: u32,
    in_flight: VecDeque<InFlight>,
    unsent: VecDeque<u8>,
    next_receive: u32,
    /// Slot `i` holds message `next_receive + i`.
    received: VecDeque<Option<Vec<u8>>>,
    /// Ids to acknowledge.
    to_ack: VecDeque<u32>,
    /// Ids acknowledged most recently, newest first; repeated where there is room, so that a lost ack costs nothing.
    acked: VecDeque<u32>,
    withholding: Withholding,
}

/// Whether acks wait until what they are about has been read.
enum Withholding {
    No,
    /// They do, once there are some.
    Yes,
    /// There are, and this is how long they wait.
    Until(Instant),
}

impl Reliability {
    /// Starts with our reset at message 0, due at once; the peer's reset is expected as its message 0.
    pub(crate) fn with_reset(now: Instant, reset: Opcode) -> Self {
        let mut layer = Self::new(0, 0);
        layer.launch(now, reset, Vec::new());
        layer
    }

    /// Starts after the resets were exchanged statelessly. The acknowledgement of the peer's reset is remembered as
    /// sent, so it is repeated with the first packets.
    pub(crate) fn after_reset() -> Self {
        let mut layer = Self::new(1, 1);
        layer.acked.push_front(0);
        layer
    }

    fn new(next_send: u32, next_receive: u32) -> Self {
        Self {
            next_send,
            in_flight: VecDeque::new(),
            unsent: VecDeque::new(),
            next_receive,
            received: VecDeque::new(),
            to_ack: VecDeque::new(),
            acked: VecDeque::new(),
            withholding: Withholding::No,
        }
    }

    /// From now on acks wait until [`Self::release_acks`], half a second at most.
    pub(crate) fn withhold_acks(&mut self) {
        self.withholding = Withholding::Yes;
    }

    /// Acks go out at once again.
    pub(crate) fn release_acks(&mut self) {
        self.withholding = Withholding::No;
    }

    /// Queues an empty packet with the client's wrapped key.
    pub(crate) fn send_key_again(&mut self, now: Instant) {
        self.launch(now, Opcode::ControlWkc, Vec::new());
    }

    /// Queues bytes of the stream.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.unsent.extend(bytes);
    }

    /// Whether everything that was queued has been acknowledged.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && self.unsent.is_empty()
    }

    /// Whether the peer's message 0, its reset, was taken.
    pub(crate) fn has_received(&self) -> bool {
        self.next_receive > 0 || matches!(self.received.front(), Some(Some(_)))
    }

    /// Takes the acks of a packet of ours.
    pub(crate) fn handle_acks(&mut self, now: Instant, acks: &Acks) {
        for &id in acks.as_slice() {
            let Some(at) = self.in_flight.iter().position(|packet| packet.id == id) else { continue };
            self.in_flight.remove(at);
            for earlier in self.in_flight.iter_mut().take(at) {
                earlier.passed_over = earlier.passed_over.saturating_add(1);
                if earlier.passed_over == FAST_RETRANSMIT {
                    earlier.due = now;
                }
            }
        }
    }

    /// Takes the peer's message. It will be acknowledged unless it is outside of the window.
    ///
    /// # Errors
    /// [`DropReason::OutOfTurn`] when it is ahead of the window.
    pub(crate) fn handle_message(&mut self, now: Instant, id: u32, payload: &[u8]) -> Result<(), DropReason> {
        let ahead = id.wrapping_sub(self.next_receive) as usize;
        if ahead < RECEIVE_WINDOW {
            if self.received.len() <= ahead {
                self.received.resize_with(ahead + 1, || None);
            }
            if let Some(slot @ None) = self.received.get_mut(ahead) {
                *slot = Some(payload.to_vec());
            }
        } else if id >= self.next_receive {
            return Err(DropReason::OutOfTurn);
        }
        if !self.to_ack.contains(&id) && self.to_ack.len() < 2 * RECEIVE_WINDOW {
            self.to_ack.push_back(id);
            if matches!(self.withholding, Withholding::Yes) {
                self.withholding = Withholding::Until(now + WITHHELD);
            }
        }
        Ok(())
    }

    /// The next bytes of the stream in order, if they are there. Taking them moves the window.
    pub(crate) fn poll_received(&mut self) -> Option<Vec<u8>> {
        let payload = self.received.front_mut()?.take()?;
        self.received.pop_front();
        self.next_receive = self.next_receive.wrapping_add(1);
        Some(payload)
    }

    /// What is to be sent now: the lowest packet that is due, else an ack packet if acks wait. `peer` is the session
    /// id that acks are addressed to; without one nothing is acknowledged yet. New packets have at most `max_payload`
    /// bytes of the stream.
    pub(crate) fn poll_send(
        &mut self,
        now: Instant,
        peer: Option<SessionId>,
        max_payload: usize,
    ) -> Option<Outgoing<'_>> {
        while !self.unsent.is_empty() && self.has_room() {
            let take = self.unsent.len().min(max_payload);
            let payload = self.unsent.drain(..take).collect();
            self.launch(now, Opcode::Control, payload);
        }
        if matches!(self.withholding, Withholding::Until(end) if end <= now) {
            self.withholding = Withholding::No;
        }
        if let Some(at) = self.in_flight.iter().position(|packet| packet.due <= now) {
            let acks = self.take_acks(PIGGYBACK, peer);
            let packet = &mut self.in_flight[at];
            packet.due = now + packet.timeout;
            packet.timeout = (packet.timeout * 2).min(MAX_TIMEOUT);
            packet.passed_over = 0;
            return Some(Outgoing {
                opcode: packet.opcode,
                body: ControlBody { acks, ack_session: peer, message_id: Some(packet.id), payload: &packet.payload },
            });
        }
        if self.to_ack.is_empty() || peer.is_none() || !matches!(self.withholding, Withholding::No) {
            return None;
        }
        let acks = self.take_acks(crate::packet::MAX_ACKS, peer);
        let body = ControlBody { acks, ack_session: peer, message_id: None, payload: &[] };
        Some(Outgoing { opcode: Opcode::Ack, body })
    }

    /// When [`Self::poll_send`] has something next, as far as that is known now. With acks or bytes waiting it has
    /// something already.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let withheld = if let Withholding::Until(end) = self.withholding { Some(end) } else { None };
        self.in_flight.iter().map(|packet| packet.due).chain(withheld).min()
    }

    fn has_room(&self) -> bool {
        self.in_flight.front().is_none_or(|lowest| self.next_send.wrapping_sub(lowest.id) < SEND_WINDOW)
    }

    fn launch(&mut self, now: Instant, opcode: Opcode, payload: Vec<u8>) {
        self.in_flight.push_back(InFlight {
            id: self.next_send,
            opcode,
            payload,
            due: now,
            timeout: FIRST_TIMEOUT,
            passed_over: 0,
        });
        self.next_send = self.next_send.wrapping_add(1);
    }

    fn take_acks(&mut self, limit: usize, peer: Option<SessionId>) -> Acks {
        let mut acks = Acks::default();
        if peer.is_none() {
            return acks;
        }
        let fresh = if matches!(self.withholding, Withholding::No) { self.to_ack.len().min(limit) } else { 0 };
        for id in self.to_ack.drain(..fresh) {
            acks.push(id);
            self.acked.retain(|&old| old != id);
            self.acked.push_front(id);
        }
        for &id in self.acked.iter().skip(fresh).take(limit - fresh) {
            acks.push(id);
        }
        self.acked.truncate(crate::packet::MAX_ACKS);
        acks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_PAYLOAD: usize = 1000;
    const PEER: Option<SessionId> = Some(SessionId([1; 8]));

    fn sent(layer: &mut Reliability, now: Instant) -> Option<(Opcode, Option<u32>, Vec<u32>)> {
        let out = layer.poll_send(now, PEER, MAX_PAYLOAD)?;
        Some((out.opcode, out.body.message_id, out.body.acks.as_slice().to_vec()))
    }

    fn acks(ids: &[u32]) -> Acks {
        let mut acks = Acks::default();
        ids.iter().for_each(|&id| assert!(acks.push(id)));
        acks
    }

    #[test]
    fn six_in_flight_counted_from_the_lowest() {
        let now = Instant::now();
        let mut layer = Reliability::after_reset();
        layer.send(&vec![0; MAX_PAYLOAD * 10]);
        for id in 1..=6 {
            assert_eq!(sent(&mut layer, now).unwrap().1, Some(id));
        }
        assert!(sent(&mut layer, now).is_none());
        layer.handle_acks(now, &acks(&[2, 3]));
        assert!(sent(&mut layer, now).is_none(), "message 1 still holds the window");
        layer.handle_acks(now, &acks(&[1]));
        assert_eq!(sent(&mut layer, now).unwrap().1, Some(7));
    }

    #[test]
    fn backs_off_and_fast_retransmits() {
        let start = Instant::now();
        let mut layer = Reliability::with_reset(start, Opcode::HardResetClient);
        let mut at = start;
        for wait in [1, 2, 4, 8, 8] {
            assert_eq!(sent(&mut layer, at).unwrap().1, Some(0));
            assert!(sent(&mut layer, at + Duration::from_millis(wait * 1000 - 1)).is_none());
            at += Duration::from_secs(wait);
            assert_eq!(layer.poll_timeout(), Some(at));
        }
        let mut layer = Reliability::after_reset();
        layer.send(&vec![0; MAX_PAYLOAD * 5]);
        while sent(&mut layer, start).is_some() {}
        layer.handle_acks(start, &acks(&[2, 3]));
        assert!(sent(&mut layer, start).is_none());
        layer.handle_acks(start, &acks(&[4]));
        assert_eq!(sent(&mut layer, start).unwrap().1, Some(1));
    }

    #[test]
    fn acknowledges_duplicates_and_repeats_recent_acks() {
        let now = Instant::now();
        let mut layer = Reliability::after_reset();
        for id in [1, 3, 2, 1] {
            layer.handle_message(now, id, &[id as u8]).unwrap();
        }
        assert_eq!(layer.handle_message(now, 13, &[]), Err(DropReason::OutOfTurn));
        assert_eq!(sent(&mut layer, now), Some((Opcode::Ack, None, vec![1, 3, 2, 0])));
        let stream: Vec<u8> = std::iter::from_fn(|| layer.poll_received()).flatten().collect();
        assert_eq!(stream, [1, 2, 3]);
        assert!(sent(&mut layer, now).is_none(), "nothing new: an ack is never answered by an ack");
        layer.handle_message(now, 2, &[9]).unwrap();
        assert!(layer.poll_received().is_none(), "a duplicate is not delivered again");
        layer.send(&[1]);
        assert_eq!(sent(&mut layer, now), Some((Opcode::Control, Some(1), vec![2, 3, 1, 0])));
    }

    #[test]
    fn withheld_acks_wait_for_their_release_or_half_a_second() {
        let now = Instant::now();
        let mut layer = Reliability::with_reset(now, Opcode::SoftReset);
        assert_eq!(sent(&mut layer, now), Some((Opcode::SoftReset, Some(0), vec![])));
        layer.handle_acks(now, &acks(&[0]));
        layer.withhold_acks();
        layer.handle_message(now, 0, &[]).unwrap();
        layer.handle_message(now + WITHHELD / 2, 1, &[]).unwrap();
        assert_eq!(layer.poll_timeout(), Some(now + WITHHELD));
        let soon = now + WITHHELD - Duration::from_millis(1);
        assert_eq!(sent(&mut layer, soon), None);
        layer.send(&[1]);
        assert_eq!(sent(&mut layer, soon), Some((Opcode::Control, Some(1), vec![])), "nor with something else");
        assert_eq!(sent(&mut layer, now + WITHHELD), Some((Opcode::Ack, None, vec![0, 1])));
        layer.withhold_acks();
        layer.handle_message(soon, 2, &[]).unwrap();
        layer.release_acks();
        assert_eq!(sent(&mut layer, soon), Some((Opcode::Ack, None, vec![2, 1, 0])));
    }

    #[test]
    fn acknowledges_nothing_before_the_peer_is_known() {
        let now = Instant::now();
        let mut layer = Reliability::with_reset(now, Opcode::HardResetClient);
        layer.handle_message(now, 0, &[]).unwrap();
        assert!(layer.poll_send(now, None, MAX_PAYLOAD).unwrap().body.acks.as_slice().is_empty());
        assert!(layer.poll_send(now, None, MAX_PAYLOAD).is_none());
        assert!(layer.poll_send(now, PEER, MAX_PAYLOAD).is_some());
    }
}
