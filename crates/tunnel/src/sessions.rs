//! The dialer's endpoint: the session that carries the tunnel and, while the way to the peer changes, another beside it.
//!
//! ```text
//! rising ──connected──▶ carrying ──another carries──▶ draining ──1 s──▶ leaving ──goodbye acknowledged, or 5 s──▶ gone
//! ```
//!
//! There is at most one that rises and one that carries. What is to be sent goes over the one that carries; what comes
//! in is taken from all. To whoever started the tunnel this is one peer: that another session carries is told by one
//! more [`Event::Connected`], and an end only when nothing is left that could carry.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ovpn::batch::{Batch, Packets};
use ovpn::client::{Client, ClientConfig};
use ovpn::drops::DropReason;
use ovpn::endpoint::{
    Configured, Counters, EndReason, Endpoint, Event, PeerStatus, Received, Retry, SessionKey, TlsInput, TlsKey,
    TlsOutput,
};
use ovpn::login::Login;
use ovpn::underlay::{Transport, Underlay};
use tokio::sync::watch;

use crate::driver::Role;
use crate::report::Command;
use crate::scout::{Search, Way};
use crate::sockets::{Opened, Sockets};

/// How long the session over a later remote goes on before the earlier ones are looked at, and how often after that.
const FIRST_LOOK: Duration = Duration::from_secs(10);
/// The same where earlier remotes answer, but sessions with them do not come to be.
const LONGEST_LOOK: Duration = Duration::from_secs(300);
/// Before another remote is tried after one that led to nothing.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the session before goes on taking packets when another carries.
const DRAINING: Duration = Duration::from_secs(1);
/// How long it may take to say goodbye after that.
const LEAVING: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Rising(Search),
    Carrying,
    Draining { until: Instant },
    Leaving { until: Instant },
}

struct Session {
    key: SessionKey,
    /// Its remote's place in the list.
    place: usize,
    remote: Underlay,
    client: Client,
    stage: Stage,
    /// TLS connections it has had.
    generations: u32,
}

/// See the module's documentation.
pub(crate) struct Sessions {
    /// What sessions begin with, also for whoever looks for other ways.
    config: watch::Sender<ClientConfig>,
    /// Whether the MTU is what the route to the server carries.
    fit_route: bool,
    /// A handful at most.
    sessions: Vec<Session>,
    next_key: SessionKey,
    /// What is told to whoever looks for other ways.
    search: watch::Sender<Search>,
    look: Duration,
    /// The place of the last other remote that was tried.
    tried: usize,
    /// Before the next one is.
    pause: Duration,
    /// The session that carries has heard nothing for too long.
    silent: bool,
    /// What was last reported.
    configured: Option<Configured>,
    /// The end of the session that carried, while another one rises that may take over.
    held: Option<Event>,
    events: VecDeque<Event>,
    closing: VecDeque<TlsKey>,
    /// Of sessions that are gone.
    base: Counters,
    /// Why the last one ended that did so by itself.
    ended: Option<EndReason>,
}

impl Sessions {
    /// Begins with a session with the server at `remote`, whose place is `place`. What should be looked for beside it is
    /// sent to `search`.
    pub(crate) fn new(
        config: watch::Sender<ClientConfig>,
        fit_route: bool,
        place: usize,
        remote: Underlay,
        now: Instant,
        search: watch::Sender<Search>,
    ) -> Self {
        let mut sessions = Self {
            config,
            fit_route,
            sessions: Vec::new(),
            next_key: 0,
            search,
            look: FIRST_LOOK,
            tried: place,
            pause: Duration::ZERO,
            silent: false,
            configured: None,
            held: None,
            events: VecDeque::new(),
            closing: VecDeque::new(),
            base: Counters::default(),
            ended: None,
        };
        sessions.begin(place, remote, now, Search::Nothing);
        sessions
    }

    /// Why the last session ended that did so by itself.
    pub(crate) fn end_reason(&self) -> Option<&EndReason> {
        self.ended.as_ref()
    }

    /// What the next session starts with.
    pub(crate) fn login(&self) -> Login {
        let carrying = self.sessions.iter().find(|session| session.stage == Stage::Carrying);
        carrying.map_or_else(|| self.config.borrow().login.clone(), |session| session.client.login().clone())
    }

    fn begin(&mut self, place: usize, remote: Underlay, now: Instant, search: Search) {
        let login = self.login();
        self.config.send_modify(|config| config.login = login);
        let mut config = self.config.borrow().clone();
        if self.fit_route {
            // What is pushed counts before `tun_mtu`, as far as `max_mtu` lets it.
            let (peer, ClientConfig { max_mtu, data, .. }) = (remote.address.ip(), &mut config);
            crate::mtu::fit(peer, max_mtu, &mut data.mss_fix);
        }
        let client = Client::new(config, remote, now, crate::unix_time(), crate::rng());
        let (key, stage) = (self.next_key, Stage::Rising(search));
        self.next_key += 1;
        self.sessions.push(Session { key, place, remote, client, stage, generations: 0 });
    }

    fn carrying(&mut self) -> Option<&mut Session> {
        self.sessions.iter_mut().find(|session| session.stage == Stage::Carrying)
    }

    fn is_rising(&self) -> bool {
        self.sessions.iter().any(|session| matches!(session.stage, Stage::Rising(_)))
    }

    /// Follows what happened to the sessions. To be called after anything but plain data.
    fn advance(&mut self, now: Instant) {
        for at in 0..self.sessions.len() {
            while let Some(event) = self.sessions[at].client.poll_event() {
                self.follow(now, at, event);
            }
        }
        let silent_at = self.carrying().and_then(|session| session.client.silent_at());
        self.silent = silent_at.is_some_and(|at| at <= now);
        let alive = silent_at.is_some() && !self.silent;
        if alive {
            self.pause = Duration::ZERO;
        }
        for session in &mut self.sessions {
            match session.stage {
                Stage::Rising(Search::Other { .. }) if alive => {
                    tracing::debug!(remote = %session.remote, "the tunnel's peer is heard again; the other way is not needed");
                    session.leave(now);
                }
                Stage::Draining { until } if until <= now => session.leave(now),
                Stage::Rising(_) | Stage::Carrying | Stage::Draining { .. } | Stage::Leaving { .. } => {}
            }
        }
        self.remove_ended(now);
        let search = self.wanted();
        self.search.send_if_modified(|old| std::mem::replace(old, search) != search);
    }

    fn follow(&mut self, now: Instant, at: usize, event: Event) {
        let session = &self.sessions[at];
        match (session.stage, event) {
            // Reported when it is known that it carries.
            (Stage::Rising(_), Event::Configured(configured)) => {
                if self.configured.as_ref() != Some(&configured) {
                    self.configured = Some(configured.clone());
                    self.events.push_back(Event::Configured(configured));
                }
            }
            (Stage::Rising(search), Event::Connected(peer)) => {
                for other in self.sessions.iter_mut().filter(|other| other.stage == Stage::Carrying) {
                    other.stage = Stage::Draining { until: now + DRAINING };
                }
                self.sessions[at].stage = Stage::Carrying;
                self.tried = self.sessions[at].place;
                self.held = None;
                if matches!(search, Search::Better { .. }) {
                    self.look = FIRST_LOOK;
                }
                self.events.push_back(Event::Connected(peer));
            }
            (Stage::Rising(search), Event::HandshakeFailed { remote, reason }) => {
                match search {
                    Search::Better { .. } => self.look = (self.look * 2).min(LONGEST_LOOK),
                    Search::Other { .. } | Search::Nothing => self.pause = PAUSE,
                }
                if search == Search::Nothing || self.carrying().is_none() {
                    self.events.extend(self.held.take());
                    self.events.push_back(Event::HandshakeFailed { remote, reason });
                } else {
                    tracing::debug!(%remote, %reason, "another way to the tunnel's peer does not work");
                }
            }
            (Stage::Carrying, Event::Disconnected { peer, identity, reason }) => {
                if reason.retry() == Retry::Never {
                    // It holds for every way to the server.
                    for other in self.sessions.iter_mut().filter(|other| matches!(other.stage, Stage::Rising(_))) {
                        other.leave(now);
                    }
                }
                let event = Event::Disconnected { peer, identity, reason };
                if self.is_rising() {
                    self.held = Some(event);
                } else {
                    self.events.push_back(event);
                }
            }
            (Stage::Rising(_) | Stage::Carrying, event) => self.events.push_back(event),
            (Stage::Draining { .. } | Stage::Leaving { .. }, _) => {}
        }
    }

    /// Removes sessions that are over. The last words of one that carried go on.
    fn remove_ended(&mut self, now: Instant) {
        let mut at = 0;
        while let Some(session) = self.sessions.get_mut(at) {
            let over = match session.stage {
                Stage::Leaving { until } => until <= now || session.client.is_flushed(),
                _ if session.client.has_ended() => {
                    // One that gave way to another has nothing to say about the end.
                    if !matches!(session.stage, Stage::Draining { .. }) {
                        self.config.send_modify(|config| config.login.clone_from(session.client.login()));
                        self.ended = session.client.end_reason().cloned();
                    }
                    session.leave(now);
                    session.client.is_flushed()
                }
                _ => false,
            };
            if over {
                self.remove(at);
            } else {
                at += 1;
            }
        }
    }

    fn remove(&mut self, at: usize) {
        let session = self.sessions.remove(at);
        crate::report::add(&mut self.base, &session.client.counters());
        let tls = |generation| TlsKey { session: session.key, generation };
        self.closing.extend((0..session.generations).map(tls));
    }

    /// Announces what is looked for, also where it is what has just led to nothing.
    fn look_again(&mut self) {
        let search = self.wanted();
        self.search.send_replace(search);
    }

    fn wanted(&mut self) -> Search {
        let (tried, look, pause, silent) = (self.tried, self.look, self.pause, self.silent);
        let rising = self.is_rising();
        match self.carrying() {
            _ if rising => Search::Nothing,
            Some(session) if silent => Search::Other { than: session.place, after: tried, pause },
            Some(session) if session.place > 0 => Search::Better { than: session.place, pause: look },
            _ => Search::Nothing,
        }
    }
}

impl Session {
    fn leave(&mut self, now: Instant) {
        self.stage = Stage::Leaving { until: now + LEAVING };
        self.client.shut_down(now);
    }
}

impl Role for Sessions {
    fn obey(&mut self, _now: Instant, command: Command) -> bool {
        match command {
            Command::Reconnect => true,
            Command::Identify(identity) => {
                if let Some(protection) = identity.protection.for_client() {
                    self.config.send_modify(|config| config.protection = protection);
                }
                // Rather now than refused at the next renewal.
                self.carrying().is_some_and(|session| !session.client.may_show_another_certificate())
            }
            // A dialer's only peer is left by stopping the tunnel.
            Command::Disconnect { .. } | Command::Notify { .. } | Command::Decide { .. } => false,
        }
    }

    fn has_ended(&self) -> bool {
        !self.sessions.iter().any(|session| matches!(session.stage, Stage::Rising(_) | Stage::Carrying))
    }

    fn carries(&self, to: Underlay) -> bool {
        self.sessions.iter().any(|session| session.stage == Stage::Carrying && session.remote == to)
    }

    fn take(&mut self, now: Instant, way: Way, sockets: &mut Sockets) {
        self.advance(now);
        let Way { search, place, remote, opened } = way;
        if search != self.wanted() {
            return;
        }
        self.tried = place;
        let shared = |session: &Session| {
            session.remote.transport == Transport::Udp && session.remote.address.is_ipv6() == remote.address.is_ipv6()
        };
        let is_datagrams = matches!(opened, Opened::Udp(_));
        // A session that only says goodbye gives way where it shares a place with the new one.
        while let Some(at) = self.sessions.iter().position(|session| {
            matches!(session.stage, Stage::Draining { .. } | Stage::Leaving { .. })
                && (session.remote == remote || (is_datagrams && shared(session)))
        }) {
            self.remove(at);
        }
        if self.sessions.iter().any(|session| session.remote == remote) {
            // Two remotes are one.
            self.pause = PAUSE;
            self.advance(now);
            return self.look_again();
        }
        sockets.forget(remote);
        let in_use = is_datagrams && self.sessions.iter().any(shared);
        if !in_use && let Err(error) = sockets.add(remote, opened) {
            tracing::debug!(%remote, %error, "a socket cannot be used");
            self.pause = PAUSE;
            return self.look_again();
        }
        tracing::debug!(%remote, "trying another way to the tunnel's peer");
        self.begin(place, remote, now, search);
        self.advance(now);
    }
}

impl Endpoint for Sessions {
    fn handle_datagram(&mut self, now: Instant, from: Underlay, datagram: &mut [u8]) -> Result<Received, DropReason> {
        let Some(session) = self.sessions.iter_mut().find(|session| session.remote == from) else {
            self.count_drops(DropReason::UnknownPeer, 1);
            return Err(DropReason::UnknownPeer);
        };
        let result = session.client.handle_datagram(now, from, datagram);
        if session.client.has_ended() || self.silent || result == Ok(Received::Consumed) {
            self.advance(now);
        }
        result
    }

    fn seal(&mut self, now: Instant, packets: &mut dyn Packets, out: &mut Batch) -> Result<(), DropReason> {
        let Some(session) = self.carrying() else {
            self.count_drops(DropReason::NoRoute, packets.left());
            return Err(DropReason::NoRoute);
        };
        let result = session.client.seal(now, packets, out);
        if session.client.has_ended() {
            self.advance(now);
        }
        result
    }

    fn handle_closed(&mut self, now: Instant, at: Underlay) {
        for session in &mut self.sessions {
            session.client.handle_closed(now, at);
        }
        self.advance(now);
    }

    fn needs(&self, at: Underlay) -> bool {
        self.sessions.iter().any(|session| session.client.needs(at))
    }

    fn handle_tls(&mut self, now: Instant, key: TlsKey, output: TlsOutput) {
        if let Some(session) = self.sessions.iter_mut().find(|session| session.key == key.session) {
            // A client knows only its own.
            session.client.handle_tls(now, TlsKey { session: 0, ..key }, output);
            self.advance(now);
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        for session in &mut self.sessions {
            session.client.handle_timeout(now);
        }
        self.advance(now);
    }

    fn poll_tls(&mut self) -> Option<(TlsKey, TlsInput)> {
        for session in &mut self.sessions {
            if let Some((TlsKey { generation, .. }, input)) = session.client.poll_tls() {
                session.generations = session.generations.max(generation + 1);
                return Some((TlsKey { session: session.key, generation }, input));
            }
        }
        self.closing.pop_front().map(|key| (key, TlsInput::Close))
    }

    fn poll_transmit(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<Underlay> {
        self.sessions.iter_mut().find_map(|session| session.client.poll_transmit(now, out))
    }

    fn poll_probe(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<Underlay> {
        self.sessions.iter_mut().find_map(|session| session.client.poll_probe(now, out))
    }

    fn handle_too_long(&mut self, now: Instant, to: Underlay) {
        for session in &mut self.sessions {
            session.client.handle_too_long(now, to);
        }
        self.advance(now);
    }

    fn doubt_path(&mut self, now: Instant, to: Underlay) {
        for session in &mut self.sessions {
            session.client.doubt_path(now, to);
        }
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let of_session = |session: &Session| {
            let own = match session.stage {
                Stage::Carrying if !self.silent => session.client.silent_at(),
                Stage::Draining { until } | Stage::Leaving { until } => Some(until),
                Stage::Rising(_) | Stage::Carrying => None,
            };
            [own, session.client.poll_timeout()].into_iter().flatten().min()
        };
        self.sessions.iter().filter_map(of_session).min()
    }

    fn shut_down(&mut self, now: Instant) {
        for session in &mut self.sessions {
            session.client.shut_down(now);
        }
        for at in 0..self.sessions.len() {
            while let Some(event) = self.sessions[at].client.poll_event() {
                self.follow(now, at, event);
            }
        }
        self.events.extend(self.held.take());
    }

    fn is_flushed(&self) -> bool {
        self.sessions.iter().all(|session| session.client.is_flushed())
    }

    fn count_drops(&mut self, reason: DropReason, packets: usize) {
        self.base.drops.count_many(reason, packets);
    }

    fn counters(&self) -> Counters {
        let mut counters = self.base.clone();
        for session in &self.sessions {
            crate::report::add(&mut counters, &session.client.counters());
        }
        counters
    }

    fn peers(&self) -> Vec<PeerStatus> {
        let carrying = self.sessions.iter().find(|session| session.stage == Stage::Carrying);
        carrying.map(|session| session.client.peers()).unwrap_or_default()
    }
}
