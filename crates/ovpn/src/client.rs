//! The dialing role: one session with one server.
//!
//! ```text
//! Reset ──server's reset──▶ Handshake ──TLS up──▶ KeyExchange ──server's message──▶ Push ──last reply──▶ Connected
//!   │ no answer               │ TLS fails, hand window over, refused                 │                  │ silence, goodbye
//!   └─────────────────────────┴──────────────────────── Ended ◀──────────────────────┴──────────────────┘
//! ```
//!
//! A client is used once: when it has ended, whoever drives it makes a new one with a new session id.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::channel::{ControlChannel, Renewable, Waiting};
use crate::data::{Cipher, DataSettings};
use crate::drops::DropReason;
use crate::endpoint::{
    Counters, EndReason, Event, Keepalive, PeerConnected, Received, RenewalLimits, SessionKey, TlsInput, TlsKey,
    TlsSession,
};
use crate::key_method2::{KeyMethod2, Randoms};
use crate::keys::{KeyBlock, KeyDerivation};
use crate::live::{Desk, Live, Opened, Terms};
use crate::login::Login;
use crate::negotiation::{self, printable};
use crate::packet::{Header, SessionId};
use crate::protection::ClientProtection;
use crate::push::{PullRules, PushError, PushReply};
use crate::underlay::Underlay;
use crate::wrap::Role;

mod commands;
mod endpoint;

/// Silence after which a handshake that had an answer is given up: a server that has forgotten us.
const PATIENCE: Duration = Duration::from_secs(10);
const FIRST_PUSH_REQUEST: Duration = Duration::from_secs(1);
const PUSH_REQUEST_INTERVAL: Duration = Duration::from_secs(5);
/// A client has one session.
const SESSION: SessionKey = 0;

/// What a client needs to know.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// How the server protects its control channel.
    pub protection: ClientProtection,
    /// Data ciphers we accept, best first.
    pub ciphers: Vec<Cipher>,
    /// MTU when the server pushes none, bytes.
    pub tun_mtu: u16,
    /// Largest MTU the server may push, bytes.
    pub max_mtu: u16,
    /// Whether the MTU of the path is discovered, with a server that takes part in that.
    pub path_mtu: bool,
    /// The best key derivation to announce; the server may still choose the PRF.
    pub key_derivation: KeyDerivation,
    /// Used as far as the server pushes nothing else.
    pub keepalive: Keepalive,
    /// How long the server may take for its first answer. The reset goes out at 0, 1, 3 and 7 s.
    pub first_answer: Duration,
    /// When keys are renewed.
    pub renewal: RenewalLimits,
    /// Whether dynamic tls-crypt is announced.
    pub dynamic_tls_crypt: bool,
    /// Whether the epoch format of data packets is announced.
    pub epochs: bool,
    /// Whether data packets may carry the number of the peer. Without it nothing that came after it is announced, so that
    /// the server pushes only when asked and keys come from the PRF.
    pub peer_ids: bool,
    /// Whether `EXIT` on the control channel and `protocol-flags` are announced. Without them goodbyes go over the data
    /// channel, and there is neither dynamic tls-crypt nor the epoch format.
    pub control_exit: bool,
    /// User name and password. [`Client::login`] tells what the next session starts with.
    pub login: Login,
    /// The rest about data packets.
    pub data: DataSettings,
    /// Largest IP datagram of the control channel, one of [`crate::endpoint::MAX_PACKET_SIZES`].
    pub max_packet_size: u16,
    /// What of the push is taken.
    pub pull: PullRules,
}

enum Phase {
    Reset,
    Handshake,
    KeyExchange {
        tls: Box<TlsSession>,
        ours: Randoms,
    },
    Push {
        material: Box<Material>,
        /// When the key exchange was done.
        since: Instant,
        next_request: Instant,
        push: Box<PushReply>,
    },
    Connected {
        live: Box<Live>,
        peer: Box<PeerConnected>,
        cc_exit: bool,
    },
    /// Only delivers last words.
    Ended,
}

/// What keys are made from once the push has said how.
struct Material {
    tls: TlsSession,
    ours: Randoms,
    theirs: KeyMethod2,
}

/// See the module's documentation.
pub struct Client {
    config: ClientConfig,
    remote: Underlay,
    rng: Box<dyn rand::CryptoRng + Send>,
    channel: ControlChannel,
    phase: Phase,
    /// Why the session is over.
    ended: Option<EndReason>,
    /// End of the hand window, or of the time for a login.
    deadline: Instant,
    /// When the handshake counts as abandoned by the server.
    patience: Instant,
    /// A goodbye is on its way over the control channel.
    leaving: bool,
    tls: VecDeque<(TlsKey, TlsInput)>,
    outbox: VecDeque<Waiting>,
    events: VecDeque<Event>,
    counters: Counters,
}

impl Client {
    /// Starts a session with the server at `remote`. `unix_time` is the current time in seconds, which need not be
    /// right: it only must not run backwards between uses of the same session id.
    pub fn new(
        config: ClientConfig,
        remote: Underlay,
        now: Instant,
        unix_time: u32,
        mut rng: Box<dyn rand::CryptoRng + Send>,
    ) -> Self {
        let mut id = [0; 8];
        while id == [0; 8] {
            rng.fill_bytes(&mut id);
        }
        Self {
            patience: now + config.first_answer,
            remote,
            rng,
            channel: ControlChannel::client(SESSION, now, SessionId(id), &config.protection, unix_time)
                .with_max_packet_size(config.max_packet_size),
            phase: Phase::Reset,
            ended: None,
            deadline: now + config.renewal.hand_window,
            leaving: false,
            tls: VecDeque::new(),
            outbox: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
            config,
        }
    }

    /// Whether the session is over and a new client should be made. Its last event says why.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended)
    }

    /// Why the session is over, once it is.
    #[must_use]
    pub fn end_reason(&self) -> Option<&EndReason> {
        self.ended.as_ref()
    }

    /// What the next session with this server starts with: the token that this one was given, for instance.
    #[must_use]
    pub fn login(&self) -> &Login {
        &self.config.login
    }

    /// Whether the session outlives a renewal in which we show another certificate of the same name. Stock servers end one of which they
    /// lock the certificate, and say that authentication failed; ours are known by their discovery of the path's MTU.
    #[must_use]
    pub fn may_show_another_certificate(&self) -> bool {
        match &self.phase {
            Phase::Connected { live, .. } => live.is_with_ours(),
            _ => true,
        }
    }

    /// Whether data flows.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        matches!(self.phase, Phase::Connected { .. })
    }

    /// When the server has missed two of its signs of life and has had a second for the third, while data flows. `None`
    /// if it gives none. It gives them as often as it is given ours, which is what servers push.
    #[must_use]
    pub fn silent_at(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Connected { live, .. } => live.silent_at(),
            _ => None,
        }
    }

    fn handle_control(&mut self, now: Instant, header: Header, datagram: &mut [u8]) -> Result<(), DropReason> {
        let packet = self.channel.open(header, datagram)?;
        let renewable = match &self.phase {
            Phase::Connected { live, .. } => live.renewable(),
            _ => Renewable::No,
        };
        let handled = self.channel.handle(now, header, &packet, renewable)?;
        self.patience = now + PATIENCE;
        if let Some((live, mut desk)) = self.live() {
            live.note_heard(now);
            live.follow_peer(now, handled, &mut desk);
        }
        if matches!(self.phase, Phase::Reset) {
            self.phase = Phase::Handshake;
            self.tls.push_back((self.channel.current(), TlsInput::Start));
        }
        while let Some((tls, bytes)) = self.channel.poll_tls() {
            self.tls.push_back((tls, TlsInput::Ciphertext(bytes)));
        }
        Ok(())
    }

    /// The live part of a connected session, and what its renewals work with.
    fn live(&mut self) -> Option<(&mut Live, Desk<'_>)> {
        let Phase::Connected { live, .. } = &mut self.phase else { return None };
        let desk = Desk {
            channel: &mut self.channel,
            tls: &mut self.tls,
            rng: &mut *self.rng,
            events: &mut self.events,
            counters: &mut self.counters,
        };
        Some((live, desk))
    }

    fn handle_data(&mut self, now: Instant, datagram: &mut [u8]) -> Result<Received, DropReason> {
        // Data may overtake the push reply that makes its keys.
        let Phase::Connected { live, .. } = &mut self.phase else { return Err(DropReason::UnknownPeer) };
        match live.open(now, datagram)? {
            Opened::Message => {
                self.note_path();
                Ok(Received::Consumed)
            }
            Opened::Packet(range) => Ok(Received::Packet(range)),
            Opened::Exit => {
                self.end(EndReason::PeerExit);
                Ok(Received::Consumed)
            }
        }
    }

    fn handle_established(&mut self, tls: Box<TlsSession>) {
        if !matches!(self.phase, Phase::Handshake) {
            return;
        }
        let ours = Randoms::generate(&mut *self.rng);
        let message = KeyMethod2 {
            randoms: ours.clone(),
            options: self.options_string(),
            credentials: self.config.login.credentials().cloned(),
            peer_info: negotiation::client_info(&self.config),
        };
        self.send_message(message.encode(true));
        self.phase = Phase::KeyExchange { tls, ours };
    }

    fn handle_message(&mut self, now: Instant, message: &[u8]) -> Result<(), EndReason> {
        match &mut self.phase {
            Phase::KeyExchange { tls, ours } => {
                let theirs = KeyMethod2::decode(message, false)?;
                let material = Material { tls: (**tls).clone(), ours: ours.clone(), theirs };
                self.phase = Phase::Push {
                    material: Box::new(material),
                    since: now,
                    next_request: now + FIRST_PUSH_REQUEST,
                    push: Box::new(PushReply::new(self.config.pull.clone())),
                };
                Ok(())
            }
            Phase::Push { .. } | Phase::Connected { .. } => {
                let text = String::from_utf8_lossy(message);
                // What follows the last NUL was not terminated, and is ignored like stock peers do.
                let mut commands: Vec<&str> = text.split('\0').collect();
                commands.pop();
                commands.into_iter().try_for_each(|command| self.handle_command(now, command))
            }
            Phase::Reset | Phase::Handshake | Phase::Ended => Ok(()),
        }
    }

    fn handle_push(&mut self, now: Instant, command: &str) -> Result<(), EndReason> {
        let options = self.options_string();
        let Phase::Push { material, push, .. } = &mut self.phase else {
            self.take_new_token(command);
            return Ok(());
        };
        if !push.handle_message(command)? {
            return Ok(());
        }
        let configured = push.configured(self.remote, self.config.tun_mtu, self.config.max_mtu)?;
        let named = push.cipher.clone();
        let named = named.or_else(|| negotiation::cipher_of_options(&material.theirs.options).map(str::to_owned));
        let cipher = match &named {
            Some(named) => named.parse().ok().filter(|cipher| self.config.ciphers.contains(cipher)),
            None => self.config.data.fallback,
        };
        let cipher = cipher.ok_or_else(|| PushError::Cipher(printable(named.as_deref().unwrap_or("none"), 40)))?;
        if push.peer_id.is_some_and(|id| id > 0x00ff_ffff) {
            return Err(PushError::PeerId.into());
        }
        if push.epochs && !(push.tls_ekm && push.peer_id.is_some() && cipher.is_aead()) {
            return Err(PushError::Epochs.into());
        }
        if let Some(token) = push.auth_token.take() {
            self.config.login.take_token(token, push.auth_token_user.take());
        }
        let (key_derivation, block) = if push.tls_ekm {
            (KeyDerivation::Ekm, material.tls.exporter.clone())
        } else {
            let server = self.channel.remote().unwrap_or(SessionId([0; 8]));
            let local = self.channel.local();
            (KeyDerivation::Prf, KeyBlock::from_prf(&material.ours, &material.theirs.randoms, local, server))
        };
        if push.dynamic_tls_crypt && self.config.dynamic_tls_crypt {
            self.channel.use_dynamic_tls_crypt(&material.tls.dynamic_tls_crypt);
        }
        let keepalive = Keepalive {
            ping: push.ping.unwrap_or(self.config.keepalive.ping),
            ping_restart: push.ping_restart.unwrap_or(self.config.keepalive.ping_restart),
        };
        let peer = PeerConnected {
            peer: push.peer_id.unwrap_or_default(),
            identity: material.tls.identity.clone(),
            remote: self.remote,
            address: configured.gateway,
            address_ipv6: configured.gateway_ipv6,
            cipher,
            key_derivation,
            tls_version: material.tls.version.clone(),
            software: String::new(),
        };
        let terms = Terms {
            role: Role::Client,
            peer: peer.peer,
            identity: peer.identity.clone(),
            sends_peer_id: push.peer_id,
            cipher,
            framing: push.framing,
            data: DataSettings { mss_fix: push.mss_fix.unwrap_or(self.config.data.mss_fix), ..self.config.data },
            remote: self.remote,
            epochs: push.epochs,
            derivation: key_derivation,
            options,
            credentials: self.config.login.credentials().cloned(),
            peer_info: negotiation::client_info(&self.config),
            limits: self.config.renewal,
            path_mtu: push.path_mtu && self.config.path_mtu,
        };
        let live = Live::new(now, terms, &block, keepalive, &mut *self.rng).map_err(|_| EndReason::KeyExhausted)?;
        self.events.push_back(Event::Configured(configured));
        self.events.push_back(Event::Connected(peer.clone()));
        self.counters.handshakes_completed += 1;
        let cc_exit = push.cc_exit;
        self.phase = Phase::Connected { live: Box::new(live), peer: Box::new(peer), cc_exit };
        Ok(())
    }

    fn options_string(&self) -> String {
        let tls_auth = self.config.protection.tls_auth();
        negotiation::options_string(Role::Client, self.config.tun_mtu, self.remote, self.config.data.digest, tls_auth)
    }

    fn send_message(&mut self, message: Vec<u8>) {
        let tls = self.channel.current();
        self.channel.expect_record(tls);
        self.tls.push_back((tls, TlsInput::Message(message)));
    }

    fn handle_live_timeout(&mut self, now: Instant) {
        let Some((live, mut desk)) = self.live() else { return };
        if let Some(reason) = live.handle_timeout(now, &mut desk) {
            self.end(reason);
        } else if let Some(ping) = live.poll_ping(now) {
            match ping {
                Ok(datagram) => self.outbox.push_back((self.remote, datagram)),
                Err(_) => self.end(EndReason::KeyExhausted),
            }
        }
        self.note_path();
    }

    /// Tells what is newly known of the path.
    fn note_path(&mut self) {
        if let Phase::Connected { live, peer, .. } = &mut self.phase
            && let Some(path_mtu) = live.poll_path_mtu()
        {
            self.events.push_back(Event::PathMtu { peer: peer.peer, path_mtu });
        }
    }

    fn end(&mut self, reason: EndReason) {
        self.ended.get_or_insert_with(|| reason.clone());
        match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Ended => {}
            Phase::Connected { live, peer, .. } => {
                self.counters.traffic.add(&live.traffic());
                let (peer, identity) = (peer.peer, peer.identity);
                self.events.push_back(Event::Disconnected { peer, identity, reason });
            }
            Phase::Reset | Phase::Handshake | Phase::KeyExchange { .. } | Phase::Push { .. } => {
                self.counters.handshakes_failed += 1;
                self.events.push_back(Event::HandshakeFailed { remote: self.remote, reason });
            }
        }
    }
}
