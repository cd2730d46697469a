//! The calls of a driver.

use std::time::Instant;

use super::{Desk, Phase, Server, Session};
use crate::batch::{Batch, Packets};
use crate::data::KeyExhausted;
use crate::drops::DropReason;
use crate::endpoint::{
    Counters, EndReason, Endpoint, Event, PeerStatus, Received, SessionKey, TlsInput, TlsKey, TlsOutput,
};
use crate::inner;
use crate::live::Heard;
use crate::packet::{Header, Opcode};
use crate::underlay::Underlay;

impl Endpoint for Server {
    fn handle_datagram(&mut self, now: Instant, from: Underlay, datagram: &mut [u8]) -> Result<Received, DropReason> {
        let result = match datagram.first().copied().and_then(Header::decode) {
            None => Err(DropReason::Malformed),
            Some(header) => match header.opcode {
                Opcode::DataV1 | Opcode::DataV2 => self.handle_data(now, from, header, datagram),
                Opcode::HardResetClient
                | Opcode::HardResetClientV3
                | Opcode::Control
                | Opcode::ControlWkc
                | Opcode::Ack
                | Opcode::SoftReset => self.handle_control(now, from, header, datagram).map(|()| Received::Consumed),
                Opcode::HardResetServer => Err(DropReason::Malformed),
            },
        };
        result.inspect_err(|&reason| self.counters.drops.count(reason))
    }

    fn seal(&mut self, now: Instant, packets: &mut dyn Packets, out: &mut Batch) -> Result<(), DropReason> {
        let key = match inner::addresses(packets.head()) {
            Some((_, destination)) => self.by_address.get(&destination).copied().ok_or(DropReason::NoRoute),
            None => Err(DropReason::NotIp),
        };
        let result = key.and_then(|key| {
            let Some(Session { phase: Phase::Connected { live, .. }, remote, .. }) = self.sessions.get_mut(&key) else {
                return Err(DropReason::NoRoute);
            };
            let sealed = live.seal_all(now, *remote, packets, out);
            if live.is_renewal_due(now) {
                self.next_timeout = Some(now);
            }
            sealed.map_err(|KeyExhausted| {
                self.end(now, key, EndReason::KeyExhausted);
                // The one that was taken and not sealed; the others are counted below.
                self.count_drops(DropReason::NoRoute, 1);
                DropReason::NoRoute
            })
        });
        result.inspect_err(|&reason| self.count_drops(reason, packets.left()))
    }

    fn handle_closed(&mut self, now: Instant, at: Underlay) {
        let over = self.sessions.iter().filter(|(_, session)| session.remote == at).map(|(&key, _)| key);
        for key in over.collect::<Vec<_>>() {
            self.end(now, key, EndReason::ConnectionClosed);
            self.remove(key);
        }
        self.outbox.retain(|(to, _)| *to != at);
    }

    fn needs(&self, at: Underlay) -> bool {
        self.sessions.values().filter(|session| session.remote == at).any(|session| {
            let ended = matches!(session.phase, Phase::Ended { .. });
            !(ended && session.channel.is_settled() && session.channel.is_next_settled())
        })
    }

    fn handle_tls(&mut self, now: Instant, tls: TlsKey, output: TlsOutput) {
        let key = tls.session;
        let Some(session) = self.sessions.get_mut(&key) else { return };
        self.dirty.insert(key);
        if tls != session.channel.current() {
            return self.handle_renewal(now, tls, output);
        }
        match output {
            TlsOutput::Ciphertext(bytes) => session.channel.send_tls(tls, &bytes),
            TlsOutput::Established(tls) => {
                if let Phase::Handshake { deadline } = session.phase {
                    session.phase = Phase::KeyExchange { deadline, tls };
                }
            }
            TlsOutput::Message(message) => self.handle_message(now, key, &message),
            TlsOutput::Failed(why) => self.end(now, key, EndReason::Tls(why)),
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        let (mut over, mut gone, mut taking_over) = (Vec::new(), Vec::new(), Vec::new());
        let mut next: Option<Instant> = None;
        for (&key, session) in &mut self.sessions {
            let due = match &mut session.phase {
                Phase::Handshake { deadline } | Phase::KeyExchange { deadline, .. } => {
                    if *deadline <= now {
                        over.push((key, EndReason::HandshakeTimeout));
                    }
                    Some(*deadline)
                }
                Phase::Deciding(candidate) => {
                    if candidate.deadline <= now {
                        over.push((key, EndReason::LoginUndecided));
                    }
                    Some(candidate.deadline)
                }
                Phase::Settling { deadline, .. } => {
                    if *deadline <= now {
                        over.push((key, EndReason::HandshakeTimeout));
                    }
                    Some(*deadline)
                }
                Phase::Connected { live, peer } => {
                    let undecided = peer.login.undecided.map(|(_, deadline)| deadline);
                    let mut desk = Desk {
                        channel: &mut session.channel,
                        tls: &mut self.tls,
                        rng: &mut *self.rng,
                        events: &mut self.events,
                        counters: &mut self.counters,
                    };
                    if let Some(reason) = live.handle_timeout(now, &mut desk) {
                        over.push((key, reason));
                    } else if undecided.is_some_and(|deadline| deadline <= now) {
                        over.push((key, EndReason::LoginUndecided));
                    } else {
                        match live.poll_ping(now) {
                            Some(Ok(datagram)) => self.outbox.push_back((session.remote, datagram)),
                            Some(Err(_)) => over.push((key, EndReason::KeyExhausted)),
                            None => {}
                        }
                    }
                    if peer.replaced.is_some_and(|until| until <= now) {
                        over.push((key, EndReason::Replaced));
                    }
                    if peer.takes_over.is_some_and(|at| at <= now) {
                        taking_over.push(key);
                    }
                    [live.poll_timeout(), undecided, peer.replaced, peer.takes_over].into_iter().flatten().min()
                }
                Phase::Ended { until } => {
                    if *until <= now {
                        gone.push(key);
                    }
                    Some(*until)
                }
            };
            let resend = session.channel.poll_timeout();
            if resend.is_some_and(|at| at <= now) {
                self.dirty.insert(key);
            }
            next = [next, due, resend].into_iter().flatten().min();
        }
        self.next_timeout = next;
        for key in taking_over {
            self.take_over(key);
        }
        for (key, reason) in over {
            match reason {
                EndReason::KeyExhausted => self.say_goodbye(now, key),
                EndReason::LoginUndecided => self.give_up_deciding(now, key),
                _ => {}
            }
            self.end(now, key, reason);
        }
        for key in gone {
            self.remove(key);
        }
    }

    fn poll_tls(&mut self) -> Option<(TlsKey, TlsInput)> {
        self.tls.pop_front()
    }

    fn poll_transmit(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<Underlay> {
        if let Some((to, datagram)) = self.outbox.pop_front() {
            *out = datagram;
            return Some(to);
        }
        while let Some(&key) = self.dirty.first() {
            if let Some(session) = self.sessions.get_mut(&key) {
                if session.channel.poll_transmit(now, out) {
                    if let Phase::Connected { live, .. } = &mut session.phase {
                        live.note_sent(now);
                    }
                    return Some(session.remote);
                }
                let due = session.channel.poll_timeout();
                self.next_timeout = [self.next_timeout, due].into_iter().flatten().min();
            }
            self.dirty.remove(&key);
        }
        None
    }

    fn poll_probe(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<Underlay> {
        self.poll_path_message(now, out)
    }

    fn handle_too_long(&mut self, _now: Instant, _to: Underlay) {
        // Without an answer the peer takes it that way.
    }

    fn doubt_path(&mut self, _now: Instant, to: Underlay) {
        self.want_search(to);
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.next_timeout
    }

    fn shut_down(&mut self, now: Instant) {
        self.closing = true;
        let keys: Vec<SessionKey> = self.sessions.keys().copied().collect();
        for key in keys {
            self.say_goodbye(now, key);
            self.end(now, key, EndReason::Local);
        }
    }

    fn is_flushed(&self) -> bool {
        self.outbox.is_empty() && self.sessions.values().all(|session| session.channel.is_settled())
    }

    fn count_drops(&mut self, reason: DropReason, packets: usize) {
        self.counters.drops.count_many(reason, packets);
    }

    fn counters(&self) -> Counters {
        let mut counters = self.counters.clone();
        for session in self.sessions.values() {
            if let Phase::Connected { live, .. } = &session.phase {
                counters.traffic.add(&live.traffic());
            }
        }
        counters
    }

    fn peers(&self) -> Vec<PeerStatus> {
        let mut peers = Vec::new();
        for session in self.sessions.values() {
            if let Phase::Connected { live, peer } = &session.phase
                && peer.replaced.is_none()
            {
                peers.push(PeerStatus {
                    connected: peer.connected.clone(),
                    since: live.since(),
                    last_heard: live.last_heard(),
                    traffic: live.traffic(),
                    path_mtu: live.path_mtu(),
                });
            }
        }
        peers
    }
}

impl Server {
    /// Takes output of a TLS connection that is not that of the key in use: it makes the next key, or is done with.
    fn handle_renewal(&mut self, now: Instant, tls: TlsKey, output: TlsOutput) {
        let key: SessionKey = tls.session;
        let Some((live, mut desk)) = self.live(key).filter(|(live, _)| live.renews_over(tls)) else {
            // Last words may go over it.
            if let (Some(session), TlsOutput::Ciphertext(bytes)) = (self.sessions.get_mut(&key), output) {
                session.channel.send_tls(tls, &bytes);
            }
            return;
        };
        match live.handle_renewal(now, output, &mut desk) {
            Ok(Heard::Nothing) => {}
            Ok(Heard::Command(command)) => self.handle_message(now, key, &command),
            Ok(Heard::Exchanged(credentials)) => self.examine_renewal(now, tls, credentials),
            Err(reason) => self.end(now, key, reason),
        }
        self.next_timeout = Some(now);
    }
}
