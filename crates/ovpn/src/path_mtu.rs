//! How large packets may be that get to the peer and back without fragments: path MTU discovery by probes, after RFC 8899
//! (DPLPMTUD).
//!
//! The client asks, the server answers. A probe is a message of the data channel, padded to the size that is tried and sent
//! with fragments forbidden; the answer has the same size, so that one exchange tries both ways. The vocabulary that
//! the protocol has for this (OCC messages 2 to 5) is not used: it has no number that joins an answer to its
//! question, its answer is not padded, and a stock peer gives a figure from its configuration. Both ends say beforehand that they
//! know these messages (`IV_PMTUD`, `path-mtu-discovery`), so that a stock peer never sees one.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::data::OCC;

/// The largest packets that a path carries in one piece, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathMtu {
    /// IP packets outside of the tunnel.
    pub outside: u16,
    /// IP packets inside of it: what is left when they are sealed.
    pub inside: u16,
}

/// Sizes that are tried are multiples of this, bytes inside. Those of all usual links are.
const GRID: u16 = 4;
/// Less than what any path carries that a tunnel is of use on: 576 bytes outside and the longest headers. Not tried.
const FLOOR: u16 = 496;
/// Most that is tried.
const CEILING: u16 = 9000;
/// What is in force while the path is searched that has swallowed larger packets: what IPv6 needs.
const FALLBACK: u16 = 1280;
/// For an answer.
const DEADLINE: Duration = Duration::from_secs(1);
/// Probes of a size that are lost before it counts as too large, in a search.
const TRIES: u8 = 3;
/// The same for the size in force: a wrong verdict is dearer.
const CONFIRMATIONS: u8 = 5;
/// So many small probes, which went out right behind large ones, must have been answered before those count as lost for their
/// size: in an outage, and when our own socket takes nothing, both are lost.
const WITNESSES: u8 = 2;
/// How often the size in force is tried again while there is traffic.
const CONFIRM: Duration = Duration::from_secs(5);
/// How often larger ones are tried (`PMTU_RAISE_TIMER`).
const RAISE: Duration = Duration::from_secs(600);

const PROBE: u8 = 0x70;
const ANSWER: u8 = 0x71;
const SEARCH: u8 = 0x72;
/// Bytes of a message without padding: its mark, kind, number and what is known.
const MESSAGE: usize = OCC.len() + 1 + 4 + 4;

/// Whether a message of the options channel, without its mark, is of this kind.
pub(crate) fn is_message(rest: &[u8]) -> bool {
    matches!(rest.first(), Some(&(PROBE | ANSWER | SEARCH)))
}

/// A message of the data channel between ends that discover the MTU of their path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// To be answered in the same size, with the same number.
    Probe {
        id: u32,
        known: Option<PathMtu>,
    },
    Answer {
        id: u32,
    },
    /// The path may be another one now.
    Search,
}

impl Message {
    /// The plaintext, padded to `size` if that is more.
    pub(crate) fn encode(self, size: u16) -> Vec<u8> {
        let (kind, id, known) = match self {
            Self::Probe { id, known } => (PROBE, id, known),
            Self::Answer { id } => (ANSWER, id, None),
            Self::Search => (SEARCH, 0, None),
        };
        let PathMtu { outside, inside } = known.unwrap_or(PathMtu { outside: 0, inside: 0 });
        let mut message = Vec::with_capacity(MESSAGE.max(size.into()));
        message.extend_from_slice(&OCC);
        message.push(kind);
        message.extend_from_slice(&id.to_be_bytes());
        message.extend_from_slice(&outside.to_be_bytes());
        message.extend_from_slice(&inside.to_be_bytes());
        message.resize(MESSAGE.max(size.into()), 0);
        message
    }

    pub(crate) fn decode(plain: &[u8]) -> Option<Self> {
        let (&kind, rest) = plain.strip_prefix(&OCC)?.split_first()?;
        let &[a, b, c, d, e, f, g, h] = rest.first_chunk()?;
        let id = u32::from_be_bytes([a, b, c, d]);
        let known = PathMtu { outside: u16::from_be_bytes([e, f]), inside: u16::from_be_bytes([g, h]) };
        let is_possible = (FLOOR..=CEILING).contains(&known.inside);
        match kind {
            PROBE => Some(Self::Probe { id, known: is_possible.then_some(known) }),
            ANSWER => Some(Self::Answer { id }),
            SEARCH => Some(Self::Search),
            _ => None,
        }
    }
}

/// A search between what gets through and what does not.
#[derive(Clone, Copy)]
struct Search {
    /// Gets through, unless it is [`FLOOR`].
    low: u16,
    /// What is larger does not.
    high: u16,
    /// Bytes outside of `low`, if that was seen to get through.
    outside: Option<u16>,
}

#[derive(Clone, Copy)]
enum Purpose {
    Search(Search),
    /// Whether the size in force still gets through.
    Confirm,
    /// To let the peer know what was found.
    Report,
}

/// A size that is tried.
struct Question {
    purpose: Purpose,
    id: u32,
    /// Bytes of the plaintext.
    size: u16,
    /// Probes sent.
    tries: u8,
    /// Small ones answered.
    witnesses: u8,
    /// When the next follows or, after the last, the verdict.
    next: Instant,
}

/// The asking end. It is told what happened with the time, and gives probes.
pub(crate) struct Discovery {
    known: Option<PathMtu>,
    question: Option<Question>,
    ids: u32,
    confirm_at: Instant,
    search_at: Instant,
    /// Bytes that the tunnel had carried when the path was last tried.
    carried: u64,
    outbox: VecDeque<(Message, u16)>,
}

impl Discovery {
    /// Begins with a search.
    pub(crate) fn new(now: Instant) -> Self {
        let mut discovery = Self {
            known: None,
            question: None,
            ids: 0,
            confirm_at: now,
            search_at: now,
            carried: 0,
            outbox: VecDeque::new(),
        };
        discovery.search(now);
        discovery
    }

    /// What the path carries, once that is known.
    pub(crate) fn known(&self) -> Option<PathMtu> {
        self.known
    }

    /// Searches anew: the path may be another one. First it is tried whether the size in force gets through, so that a
    /// narrower path is no black hole for long.
    pub(crate) fn search(&mut self, now: Instant) {
        match (self.known, self.question.as_ref().map(|question| question.purpose)) {
            // What runs is not begun anew, so that it ends however often this is said.
            (None, Some(_)) => {}
            (Some(_), Some(Purpose::Confirm)) => self.search_at = now,
            (None, None) => self.ask_next(now, Search { low: FLOOR, high: CEILING, outside: None }),
            (Some(known), _) => {
                self.search_at = now;
                self.ask(now, Purpose::Confirm, known.inside);
            }
        }
    }

    /// Tries at once whether the size in force gets through: something said that it does not.
    pub(crate) fn doubt(&mut self, now: Instant) {
        match (self.known, self.question.as_ref().map(|question| question.purpose)) {
            (Some(known), Some(Purpose::Search(_))) => {
                self.search_at = now;
                self.ask(now, Purpose::Confirm, known.inside);
            }
            (_, Some(_)) => {}
            (_, None) => {
                self.confirm_at = now;
                self.carried = u64::MAX;
            }
        }
    }

    /// The next message and the size that it has to have.
    pub(crate) fn poll(&mut self) -> Option<(Message, u16)> {
        self.outbox.pop_front()
    }

    /// An answer came, whose plaintext is of `size` bytes and that came in an IP packet of `outside` bytes.
    pub(crate) fn handle_answer(&mut self, now: Instant, id: u32, size: usize, outside: u16) {
        if let Some(question) = &mut self.question
            && question.id == id
            && size == MESSAGE
        {
            question.witnesses = question.witnesses.saturating_add(1);
        }
        let asked = |question: &mut Question| question.id == id && usize::from(question.size).max(MESSAGE) == size;
        let Some(question) = self.question.take_if(asked) else { return };
        match question.purpose {
            Purpose::Search(search) => {
                self.ask_next(now, Search { low: question.size, outside: Some(outside), ..search });
            }
            Purpose::Confirm | Purpose::Report => self.rest(now),
        }
    }

    /// The last probe is too large for our own link.
    pub(crate) fn handle_refused(&mut self, now: Instant) {
        if let Some(question) = self.question.take() {
            self.fail(now, &question);
        }
    }

    /// Does what is due by `now`. The tunnel has carried so many bytes.
    pub(crate) fn handle_timeout(&mut self, now: Instant, carried: u64) {
        match &mut self.question {
            Some(question) if question.next > now => {}
            Some(question) => {
                let limit = if let Purpose::Search(_) = question.purpose { TRIES } else { CONFIRMATIONS };
                if question.tries >= limit && question.witnesses >= WITNESSES {
                    if let Some(question) = self.question.take() {
                        self.fail(now, &question);
                    }
                } else {
                    self.send(now);
                }
            }
            None if self.search_at <= now => {
                let known = self.known.map(|known| (known.inside, known.outside)).unzip();
                self.ask_next(now, Search { low: known.0.unwrap_or(FLOOR), high: CEILING, outside: known.1 });
            }
            None if self.confirm_at <= now => {
                let is_used = std::mem::replace(&mut self.carried, carried) != carried;
                match self.known {
                    Some(known) if is_used => self.ask(now, Purpose::Confirm, known.inside),
                    _ => self.confirm_at = now + CONFIRM,
                }
            }
            None => {}
        }
    }

    /// When [`Self::handle_timeout`] is to be called.
    pub(crate) fn poll_timeout(&self) -> Instant {
        self.question.as_ref().map_or_else(|| self.confirm_at.min(self.search_at), |question| question.next)
    }

    /// The size of a question does not get through.
    fn fail(&mut self, now: Instant, question: &Question) {
        match (question.purpose, &mut self.known) {
            (Purpose::Search(search), _) => {
                self.ask_next(now, Search { high: question.size.saturating_sub(GRID).max(search.low), ..search });
            }
            // A black hole. It may be one in one direction only, so that nothing else would tell.
            (Purpose::Confirm, Some(known)) => {
                let inside = if known.inside > FALLBACK { FALLBACK } else { FLOOR };
                let headers = known.outside.saturating_sub(known.inside);
                *known = PathMtu { inside, outside: inside + headers };
                self.ask_next(now, Search { low: FLOOR, high: (question.size - GRID).max(FLOOR), outside: None });
            }
            // The peer learns it with the next probe.
            (Purpose::Confirm | Purpose::Report, _) => self.rest(now),
        }
    }

    /// Goes on with a search, or ends it.
    fn ask_next(&mut self, now: Instant, search: Search) {
        let steps = search.high.saturating_sub(search.low) / GRID;
        if steps > 0 {
            let middle = search.low + steps.div_ceil(2) * GRID;
            return self.ask(now, Purpose::Search(search), middle);
        }
        self.search_at = now + RAISE;
        let before = self.known;
        if let Some(outside) = search.outside {
            self.known = Some(PathMtu { outside, inside: search.low });
        }
        if self.known == before {
            self.rest(now);
        } else {
            self.ask(now, Purpose::Report, 0);
        }
    }

    fn ask(&mut self, now: Instant, purpose: Purpose, size: u16) {
        self.ids = self.ids.wrapping_add(1);
        self.question = Some(Question { purpose, id: self.ids, size, tries: 0, witnesses: 0, next: now });
        self.outbox.clear();
        self.send(now);
    }

    /// Sends the probe of the question. With each repetition goes a small one, whose answer shows that the peer is there.
    fn send(&mut self, now: Instant) {
        let Some(question) = &mut self.question else { return };
        let probe = Message::Probe { id: question.id, known: self.known };
        self.outbox.push_back((probe, question.size));
        if question.tries > 0 && question.size > 0 {
            self.outbox.push_back((probe, 0));
        }
        question.tries = question.tries.saturating_add(1);
        question.next = now + DEADLINE;
    }

    fn rest(&mut self, now: Instant) {
        self.question = None;
        self.confirm_at = now + CONFIRM;
    }
}

#[cfg(test)]
mod tests;
