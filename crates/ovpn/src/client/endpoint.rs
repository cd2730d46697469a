//! The calls of a driver.

use std::time::Instant;

use super::{Client, PUSH_REQUEST_INTERVAL, Phase};
use crate::batch::{Batch, Packets};
use crate::data::{KeyExhausted, Payload};
use crate::drops::DropReason;
use crate::endpoint::{Counters, EndReason, Endpoint, Event, PeerStatus, Received, TlsInput, TlsKey, TlsOutput};
use crate::live::Heard;
use crate::packet::{Header, Opcode};
use crate::underlay::Underlay;

impl Endpoint for Client {
    fn handle_datagram(&mut self, now: Instant, from: Underlay, datagram: &mut [u8]) -> Result<Received, DropReason> {
        let header = datagram.first().copied().and_then(Header::decode);
        let result = match header {
            _ if from != self.remote => Err(DropReason::UnknownPeer),
            None => Err(DropReason::Malformed),
            Some(header) => match header.opcode {
                Opcode::DataV1 | Opcode::DataV2 => self.handle_data(now, datagram),
                Opcode::HardResetServer | Opcode::Control | Opcode::Ack | Opcode::SoftReset => {
                    self.handle_control(now, header, datagram).map(|()| Received::Consumed)
                }
                Opcode::HardResetClient | Opcode::HardResetClientV3 | Opcode::ControlWkc => Err(DropReason::Malformed),
            },
        };
        result.inspect_err(|&reason| self.counters.drops.count(reason))
    }

    fn seal(&mut self, now: Instant, packets: &mut dyn Packets, out: &mut Batch) -> Result<(), DropReason> {
        let is_ip = packets.head().first().is_some_and(|byte| matches!(byte >> 4, 4 | 6));
        let result = match &mut self.phase {
            Phase::Connected { .. } if !is_ip => Err(DropReason::NotIp),
            Phase::Connected { live, .. } => {
                live.seal_all(now, self.remote, packets, out).map_err(|KeyExhausted| {
                    self.end(EndReason::KeyExhausted);
                    // The one that was taken and not sealed; the others are counted below.
                    self.count_drops(DropReason::NoRoute, 1);
                    DropReason::NoRoute
                })
            }
            _ => Err(DropReason::NoRoute),
        };
        result.inspect_err(|&reason| self.count_drops(reason, packets.left()))
    }

    fn handle_closed(&mut self, _now: Instant, at: Underlay) {
        if at == self.remote {
            self.end(EndReason::ConnectionClosed);
        }
    }

    fn needs(&self, at: Underlay) -> bool {
        at == self.remote && !(self.has_ended() && self.is_flushed())
    }

    fn handle_tls(&mut self, now: Instant, key: TlsKey, output: TlsOutput) {
        let result = if key == self.channel.current() {
            match output {
                TlsOutput::Ciphertext(bytes) => {
                    self.channel.send_tls(key, &bytes);
                    Ok(())
                }
                TlsOutput::Established(tls) => {
                    self.handle_established(tls);
                    Ok(())
                }
                TlsOutput::Message(message) => self.handle_message(now, &message),
                TlsOutput::Failed(why) => Err(EndReason::Tls(why)),
            }
        } else {
            match self.live() {
                Some((live, mut desk)) if live.renews_over(key) => match live.handle_renewal(now, output, &mut desk) {
                    Ok(Heard::Command(command)) => self.handle_message(now, &command),
                    Ok(Heard::Nothing | Heard::Exchanged(_)) => Ok(()),
                    Err(reason) => Err(reason),
                },
                _ => Ok(()),
            }
        };
        if let Err(reason) = result {
            self.end(reason);
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        match &mut self.phase {
            Phase::Reset if now >= self.patience => self.end(EndReason::NoAnswer),
            Phase::Handshake | Phase::KeyExchange { .. } | Phase::Push { .. }
                if now >= self.deadline.min(self.patience) =>
            {
                self.end(EndReason::HandshakeTimeout);
            }
            Phase::Push { next_request, .. } if now >= *next_request => {
                *next_request = now + PUSH_REQUEST_INTERVAL;
                self.send_message(b"PUSH_REQUEST\0".to_vec());
            }
            Phase::Connected { .. } => self.handle_live_timeout(now),
            Phase::Reset | Phase::Handshake | Phase::KeyExchange { .. } | Phase::Push { .. } | Phase::Ended => {}
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
        if !self.channel.poll_transmit(now, out) {
            return None;
        }
        if let Phase::Connected { live, .. } = &mut self.phase {
            live.note_sent(now);
        }
        Some(self.remote)
    }

    fn poll_probe(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<Underlay> {
        let Phase::Connected { live, .. } = &mut self.phase else { return None };
        *out = live.poll_probe(now)?;
        Some(self.remote)
    }

    fn handle_too_long(&mut self, now: Instant, to: Underlay) {
        if let Phase::Connected { live, .. } = &mut self.phase
            && to == self.remote
        {
            live.handle_too_long(now);
            self.note_path();
        }
    }

    fn doubt_path(&mut self, now: Instant, to: Underlay) {
        if let Phase::Connected { live, .. } = &mut self.phase
            && to == self.remote
        {
            live.doubt_path(now);
        }
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let own = match &self.phase {
            Phase::Reset | Phase::Handshake | Phase::KeyExchange { .. } => Some(self.deadline.min(self.patience)),
            Phase::Push { next_request, .. } => Some(self.deadline.min(self.patience).min(*next_request)),
            Phase::Connected { live, .. } => live.poll_timeout(),
            Phase::Ended => None,
        };
        [own, self.channel.poll_timeout()].into_iter().flatten().min()
    }

    fn shut_down(&mut self, now: Instant) {
        if let Phase::Connected { live, cc_exit, .. } = &mut self.phase {
            let cc_exit = *cc_exit;
            // While a key is in the making, the peer may have left the TLS connection that a command would go over.
            if (!cc_exit || live.is_renewing())
                && let Ok(datagram) = live.message(now, &Payload::exit())
            {
                self.outbox.push_back((self.remote, datagram));
            }
            if cc_exit {
                self.leaving = true;
                self.send_message(b"EXIT\0".to_vec());
            }
        }
        self.end(EndReason::Local);
    }

    fn is_flushed(&self) -> bool {
        self.outbox.is_empty() && (!self.leaving || self.channel.is_settled())
    }

    fn count_drops(&mut self, reason: DropReason, packets: usize) {
        self.counters.drops.count_many(reason, packets);
    }

    fn counters(&self) -> Counters {
        let mut counters = self.counters.clone();
        if let Phase::Connected { live, .. } = &self.phase {
            counters.traffic.add(&live.traffic());
        }
        counters
    }

    fn peers(&self) -> Vec<PeerStatus> {
        match &self.phase {
            Phase::Connected { live, peer, .. } => vec![PeerStatus {
                connected: (**peer).clone(),
                since: live.since(),
                last_heard: live.last_heard(),
                traffic: live.traffic(),
                path_mtu: live.path_mtu(),
            }],
            _ => Vec::new(),
        }
    }
}
