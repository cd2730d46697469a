//! Renewal of a live session's keys, which OpenVPN calls a soft reset or renegotiation.
//!
//! ```text
//! (none) ──we or the peer begin──▶ Reset ──peer's reset──▶ Handshake ──TLS up──▶ KeyExchange ──▶ Settling ──▶ (none)
//!   ▲                                └────── hand window over, TLS fails ──────────────┴─────────────┘ all acknowledged
//!   └── after a pause ───────────────┘
//! ```
//!
//! It is a complete key exchange over a TLS connection of its own, but without a push: what was agreed for the session
//! holds on. The key before stays in use until the new one is complete on both sides, and still opens packets for long
//! after. A renewal that fails costs nothing but another attempt.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{DataKey, GRACE, Live, Terms};
use crate::channel::{ControlChannel, Handled, Renewable};
use crate::endpoint::{Counters, EndReason, Event, TlsInput, TlsKey, TlsOutput, TlsSession};
use crate::key_method2::{KeyMethod2, Randoms};
use crate::keys::{KeyBlock, KeyDerivation};
use crate::login::Credentials;
use crate::packet::SessionId;
use crate::wrap::Role;

/// Pause after an attempt that failed.
pub(super) const RETRY: Duration = Duration::from_secs(10);

/// What a renewal works with besides the live part of its session.
pub(crate) struct Desk<'a> {
    pub(crate) channel: &'a mut ControlChannel,
    pub(crate) tls: &'a mut VecDeque<(TlsKey, TlsInput)>,
    pub(crate) rng: &'a mut dyn rand::CryptoRng,
    pub(crate) events: &'a mut VecDeque<Event>,
    pub(crate) counters: &'a mut Counters,
}

/// What a renewal has for its session.
pub(crate) enum Heard {
    Nothing,
    /// A message that is none of the key exchange: a command.
    Command(Vec<u8>),
    /// The peer's key exchange message was answered; this is whom it said to be.
    Exchanged(Option<Credentials>),
}

/// A new key in the making.
pub(super) struct Renewal {
    tls: TlsKey,
    key_id: u8,
    began: Instant,
    step: Step,
}

enum Step {
    /// The peer has not answered the reset.
    Reset,
    Handshake,
    KeyExchange {
        tls: Box<TlsSession>,
        /// Fresh on the server; on the client what was sent.
        ours: Randoms,
    },
    /// The new key opens packets; what we sent is not all acknowledged.
    Settling,
    /// The peer uses the new key, whatever is not acknowledged.
    Proven,
}

/// When a key that is taken into use now is to be renewed by us.
pub(super) fn due(now: Instant, terms: &Terms, rng: &mut dyn rand::CryptoRng) -> Option<Instant> {
    let after = terms.limits.after;
    let mut random = [0; 2];
    if terms.role == Role::Server {
        rng.fill_bytes(&mut random);
    }
    let early = after / 10 * u32::from(u16::from_le_bytes(random)) / u32::from(u16::MAX);
    (!after.is_zero()).then(|| now + (after - early))
}

impl Live {
    /// Whether a new key is in the making.
    pub(crate) fn is_renewing(&self) -> bool {
        self.renewal.is_some()
    }

    /// Whether `tls` is the connection of the key in the making.
    pub(crate) fn renews_over(&self, tls: TlsKey) -> bool {
        self.renewal.as_ref().is_some_and(|renewal| renewal.tls == tls)
    }

    /// The connection of a key that is made but not settled.
    pub(crate) fn newest_tls(&self) -> Option<TlsKey> {
        let renewal = self.renewal.as_ref()?;
        matches!(renewal.step, Step::Settling | Step::Proven).then_some(renewal.tls)
    }

    /// Whether the peer may begin a new key.
    pub(crate) fn renewable(&self) -> Renewable {
        match self.renewal.as_ref().map(|renewal| &renewal.step) {
            Some(Step::Settling | Step::Proven) => Renewable::Settling,
            _ => Renewable::Yes,
        }
    }

    /// Does what a control packet of the peer leads to.
    pub(crate) fn follow_peer(&mut self, now: Instant, handled: Handled, desk: &mut Desk<'_>) {
        match handled {
            Handled::Known => {}
            Handled::Begun(tls) => {
                // Who goes on to the next key has the one before.
                self.prove_newest(now);
                self.join_renewal(now, tls, desk.channel);
            }
            Handled::Overtaken { old, begun } => {
                self.prove_newest(now);
                self.complete_renewal(now, old, desk);
                self.join_renewal(now, begun, desk.channel);
            }
        }
        self.advance_renewal(now, desk);
    }

    /// The peer has shown that it takes packets under the newest key.
    pub(super) fn prove_newest(&mut self, now: Instant) {
        let Some(new) = self.keys.last_mut() else { return };
        if new.usable_at.is_none()
            && let Some(renewal) = &mut self.renewal
        {
            renewal.step = Step::Proven;
        }
        new.usable_at = Some(new.usable_at.map_or(now, |at| at.min(now)));
    }

    /// The control channel has begun a new key, by the peer's wish or ours.
    fn join_renewal(&mut self, now: Instant, tls: TlsKey, channel: &ControlChannel) {
        if let Some(old) = self.keys.last_mut() {
            old.dies_at.get_or_insert(now + self.terms.limits.overlap);
        }
        self.renewal = Some(Renewal { tls, key_id: channel.next_key_id(), began: now, step: Step::Reset });
    }

    /// Goes on as far as what was received and acknowledged allows.
    fn advance_renewal(&mut self, now: Instant, desk: &mut Desk<'_>) {
        let Some(renewal) = &mut self.renewal else { return };
        match renewal.step {
            // Only now, because the peer takes TLS bytes only after it knows of the key.
            Step::Reset if desk.channel.is_renewal_answered() => {
                renewal.step = Step::Handshake;
                desk.tls.push_back((renewal.tls, TlsInput::Start));
            }
            Step::Settling if desk.channel.is_renewal_settled() => self.finish_renewal(now, desk),
            Step::Proven => self.finish_renewal(now, desk),
            Step::Reset | Step::Handshake | Step::KeyExchange { .. } | Step::Settling => {}
        }
    }

    /// Takes output of the TLS connection of the key in the making.
    ///
    /// # Errors
    /// When the session must end.
    pub(crate) fn handle_renewal(
        &mut self,
        now: Instant,
        output: TlsOutput,
        desk: &mut Desk<'_>,
    ) -> Result<Heard, EndReason> {
        let Some(renewal) = &mut self.renewal else { return Ok(Heard::Nothing) };
        match output {
            TlsOutput::Ciphertext(bytes) => {
                desk.channel.send_tls(renewal.tls, &bytes);
                Ok(Heard::Nothing)
            }
            // The key is in use, and this is the session's connection from now on.
            TlsOutput::Failed(why) if matches!(renewal.step, Step::Proven) => Err(EndReason::Tls(why)),
            TlsOutput::Failed(why) => {
                self.fail_renewal(now, EndReason::Tls(why), desk);
                Ok(Heard::Nothing)
            }
            TlsOutput::Established(tls) => {
                if tls.identity != self.terms.identity {
                    return Err(EndReason::IdentityChanged);
                }
                if !matches!(renewal.step, Step::Handshake) {
                    return Ok(Heard::Nothing);
                }
                let mut ours = Randoms::generate(desk.rng);
                let key = renewal.tls;
                if self.terms.role == Role::Server {
                    ours.pre_master = [0; 48];
                }
                renewal.step = Step::KeyExchange { tls, ours: ours.clone() };
                if self.terms.role == Role::Client {
                    // A server that has the acknowledgement of its answer seals with the new key at once, while that answer
                    // may still be with TLS here.
                    desk.channel.withhold_acks(key);
                    self.send_key_exchange(key, ours, desk);
                }
                Ok(Heard::Nothing)
            }
            TlsOutput::Message(message) => match std::mem::replace(&mut renewal.step, Step::Settling) {
                Step::KeyExchange { tls, ours } => {
                    match self.exchange(&tls, ours, &message, desk) {
                        // The peer's message may have come with the last acknowledgement.
                        Ok(credentials) => {
                            self.advance_renewal(now, desk);
                            Ok(Heard::Exchanged(credentials))
                        }
                        Err(reason) => {
                            self.fail_renewal(now, reason, desk);
                            Ok(Heard::Nothing)
                        }
                    }
                }
                Step::Settling => Ok(Heard::Command(message)),
                Step::Proven => {
                    renewal.step = Step::Proven;
                    Ok(Heard::Command(message))
                }
                before @ (Step::Reset | Step::Handshake) => {
                    renewal.step = before;
                    Ok(Heard::Nothing)
                }
            },
        }
    }

    /// Takes the peer's key exchange message, answers it on the server, and makes the key. Gives the credentials of a
    /// client.
    fn exchange(
        &mut self,
        tls: &TlsSession,
        ours: Randoms,
        message: &[u8],
        desk: &mut Desk<'_>,
    ) -> Result<Option<Credentials>, EndReason> {
        let Some(Renewal { tls: key, key_id, .. }) = self.renewal else { return Ok(None) };
        let KeyMethod2 { randoms: theirs, credentials, .. } =
            KeyMethod2::decode(message, self.terms.role == Role::Server)?;
        let local = desk.channel.local();
        let remote = desk.channel.remote().unwrap_or(SessionId([0; 8]));
        let block = match (self.terms.derivation, self.terms.role) {
            (KeyDerivation::Ekm, _) => tls.exporter.clone(),
            (KeyDerivation::Prf, Role::Client) => KeyBlock::from_prf(&ours, &theirs, local, remote),
            (KeyDerivation::Prf, Role::Server) => KeyBlock::from_prf(&theirs, &ours, remote, local),
        };
        self.keys.push(DataKey {
            key_id,
            channel: self.terms.data_channel(key_id, &block).map_err(|_| EndReason::KeyExhausted)?,
            usable_at: None,
            dies_at: None,
            packets: 0,
            bytes: 0,
        });
        if self.terms.role == Role::Server {
            self.send_key_exchange(key, ours, desk);
        }
        desk.channel.release_acks(key);
        Ok(credentials)
    }

    fn send_key_exchange(&self, key: TlsKey, randoms: Randoms, desk: &mut Desk<'_>) {
        let Terms { options, credentials, peer_info, .. } = &self.terms;
        let (options, credentials, peer_info) = (options.clone(), credentials.clone(), peer_info.clone());
        let message = KeyMethod2 { randoms, options, credentials, peer_info }.encode(self.terms.role == Role::Client);
        desk.channel.expect_record(key);
        desk.tls.push_back((key, TlsInput::Message(message)));
    }

    fn finish_renewal(&mut self, now: Instant, desk: &mut Desk<'_>) {
        let old = desk.channel.finish_renewal();
        self.complete_renewal(now, old, desk);
    }

    /// The control channel has gone on to the new key.
    fn complete_renewal(&mut self, now: Instant, old: Option<TlsKey>, desk: &mut Desk<'_>) {
        let Some(renewal) = self.renewal.take() else { return };
        if let Some(new) = self.keys.last_mut() {
            // Unless it is proven, the peer may still miss acknowledgements of its own, and refuse the key until then.
            new.usable_at.get_or_insert((renewal.began + self.terms.late_switch()).max(now + GRACE));
        }
        if self.keys.len() > 2 {
            self.keys.remove(0);
        }
        self.renew_at = due(now, &self.terms, desk.rng);
        if let Some(old) = old {
            desk.tls.push_back((old, TlsInput::Close));
        }
        desk.counters.renewals_completed += 1;
        desk.events.push_back(Event::Renewed { peer: self.terms.peer, key_id: renewal.key_id });
    }

    fn fail_renewal(&mut self, now: Instant, reason: EndReason, desk: &mut Desk<'_>) {
        if self.renewal.as_ref().is_some_and(|renewal| matches!(renewal.step, Step::Proven)) {
            return self.finish_renewal(now, desk);
        }
        if self.renewal.take().is_none() {
            return;
        }
        self.keys.retain(|key| key.usable_at.is_some());
        self.renew_at = self.renew_at.map(|due| due.max(now + RETRY));
        if let Some(tls) = desk.channel.abandon_renewal() {
            desk.tls.push_back((tls, TlsInput::Close));
        }
        desk.counters.renewals_failed += 1;
        desk.events.push_back(Event::RenewalFailed { peer: self.terms.peer, reason });
    }

    /// Gives up on a renewal that takes too long, and begins one that is due.
    pub(super) fn check_renewal(&mut self, now: Instant, desk: &mut Desk<'_>) {
        self.advance_renewal(now, desk);
        match &self.renewal {
            Some(renewal) if renewal.began + self.terms.limits.hand_window <= now => {
                self.fail_renewal(now, EndReason::HandshakeTimeout, desk);
            }
            None if self.renew_at.is_some_and(|due| due <= now) => {
                let tls = desk.channel.begin_renewal(now);
                self.join_renewal(now, tls, desk.channel);
            }
            Some(_) | None => {}
        }
    }

    pub(super) fn renewal_timeout(&self) -> Option<Instant> {
        match &self.renewal {
            Some(renewal) if matches!(renewal.step, Step::Proven) => Some(renewal.began),
            Some(renewal) => Some(renewal.began + self.terms.limits.hand_window),
            None => self.renew_at,
        }
    }

    /// Whether a data packet has given [`Self::handle_timeout`] something to do: the key is worn out, or the new one is
    /// proven.
    pub(crate) fn is_renewal_due(&self, now: Instant) -> bool {
        self.renewal_timeout().is_some_and(|due| due <= now)
    }
}
