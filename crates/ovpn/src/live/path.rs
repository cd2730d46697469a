//! The part of a session that knows how large packets may be that the path carries ([`crate::path_mtu`]).

use std::collections::VecDeque;
use std::time::Instant;

use super::{Live, Terms};
use crate::path_mtu::{Discovery, Message, PathMtu};
use crate::underlay::Transport;
use crate::wrap::Role;

/// Datagrams for the peer that may wait. It asks one question at a time, twice.
const MAX_WAITING: usize = 4;

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Path {
    mtu: Option<PathMtu>,
    /// Whether `mtu` was not told yet.
    is_news: bool,
    /// A client's questions.
    discovery: Option<Discovery>,
    /// The number of the client's last question, on a server.
    asked: u32,
    /// A server's answers, with their sizes.
    waiting: VecDeque<(Message, u16)>,
}

impl Path {
    pub(super) fn new(now: Instant, terms: &Terms) -> Self {
        // A stream has no packets that could be too large.
        let asks = terms.path_mtu && terms.role == Role::Client && terms.remote.transport == Transport::Udp;
        Self { discovery: asks.then(|| Discovery::new(now)), ..Self::default() }
    }

    pub(super) fn mtu(&self) -> Option<PathMtu> {
        self.mtu
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.discovery.as_ref().map(Discovery::poll_timeout)
    }
}

impl Live {
    /// What the path carries, where that is known.
    pub(crate) fn path_mtu(&self) -> Option<PathMtu> {
        self.path.mtu
    }

    /// The same, when it was not told yet.
    pub(crate) fn poll_path_mtu(&mut self) -> Option<PathMtu> {
        std::mem::take(&mut self.path.is_news).then_some(self.path.mtu).flatten()
    }

    /// The next datagram that must not be fragmented.
    pub(crate) fn poll_probe(&mut self, now: Instant) -> Option<Vec<u8>> {
        let answer = self.path.waiting.pop_front();
        let (message, size) = answer.or_else(|| self.path.discovery.as_mut()?.poll())?;
        // Without keys the session is at its end.
        self.message(now, &message.encode(size)).ok()
    }

    /// Takes a message about the path, which came in an IP packet of `outside` bytes.
    pub(super) fn handle_path_message(&mut self, now: Instant, plain: &[u8], outside: usize) {
        let outside = u16::try_from(outside).unwrap_or(u16::MAX);
        match (Message::decode(plain), &mut self.path.discovery) {
            (Some(Message::Probe { id, known }), None) if self.terms.path_mtu && self.terms.role == Role::Server => {
                // One that was overtaken knows less.
                if id >= self.path.asked {
                    self.path.asked = id;
                    self.set_path_mtu(known);
                }
                self.queue(Message::Answer { id }, plain.len());
            }
            (Some(Message::Answer { id }), Some(discovery)) => {
                discovery.handle_answer(now, id, plain.len(), outside);
            }
            (Some(Message::Search), Some(discovery)) => discovery.search(now),
            _ => {}
        }
        self.follow_discovery();
    }

    /// Asks the client to search anew.
    pub(crate) fn want_search(&mut self) {
        if self.terms.path_mtu {
            self.queue(Message::Search, 0);
        }
    }

    fn queue(&mut self, message: Message, size: usize) {
        if self.path.waiting.len() < MAX_WAITING {
            self.path.waiting.push_back((message, u16::try_from(size).unwrap_or(u16::MAX)));
        }
    }

    /// The last probe is too large for our own link.
    pub(crate) fn handle_too_long(&mut self, now: Instant) {
        if let Some(discovery) = &mut self.path.discovery {
            discovery.handle_refused(now);
        }
        self.follow_discovery();
    }

    /// Something says that packets may be too large for the path by now.
    pub(crate) fn doubt_path(&mut self, now: Instant) {
        if let Some(discovery) = &mut self.path.discovery {
            discovery.doubt(now);
        }
    }

    /// Does what is due.
    pub(super) fn check_path(&mut self, now: Instant) {
        if let Some(discovery) = &mut self.path.discovery {
            discovery.handle_timeout(now, self.traffic.received_bytes + self.traffic.sent_bytes);
        }
        self.follow_discovery();
    }

    fn follow_discovery(&mut self) {
        if let Some(discovery) = &self.path.discovery {
            self.set_path_mtu(discovery.known());
        }
    }

    fn set_path_mtu(&mut self, mtu: Option<PathMtu>) {
        if self.path.mtu != mtu {
            (self.path.mtu, self.path.is_news) = (mtu, true);
            self.mss_limit = self.terms.mss_limit(mtu);
        }
    }
}
