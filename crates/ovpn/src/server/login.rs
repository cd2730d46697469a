//! Logins: who may come in, by certificate, password or token, and how those are told who may not.
//!
//! Passwords are judged elsewhere, which takes its time. Meanwhile the session stands as a [`Candidate`]; that of a
//! peer that renews its keys goes on.

use std::time::{Duration, Instant};

use super::{Phase, Server, Session};
use crate::auth_token::{Token, Tokens};
use crate::endpoint::{EndReason, Identity, SessionKey, TlsInput, TlsKey, TlsSession};
use crate::key_method2::{KeyMethod2, Randoms};
use crate::login::{Advance, Credentials, Decision, LoginRequest};
use crate::negotiation::{self, PeerInfo, printable};
use crate::underlay::Underlay;

/// Longest text of ours in a command; stock peers read commands of 1024 bytes.
const MAX_TEXT: usize = 900;

/// A client whose key exchange message was answered.
pub(super) struct Candidate {
    pub(super) deadline: Instant,
    pub(super) tls: TlsSession,
    pub(super) info: PeerInfo,
    pub(super) theirs: KeyMethod2,
    pub(super) ours: Randoms,
    /// Whether it has asked for its push.
    pub(super) wanted: bool,
}

/// How a connected peer showed who it is.
pub(super) struct PeerLogin {
    pub(super) username: Option<String>,
    pub(super) info: PeerInfo,
    pub(super) token: Option<Token>,
    /// The login of a renewal that nobody has decided about, and until when that is borne.
    pub(super) undecided: Option<(TlsKey, Instant)>,
}

enum Verdict {
    Accept(Option<Token>),
    Ask(Credentials),
    /// Why, and how the client is told.
    Refuse(EndReason, String),
}

impl Candidate {
    /// Who it is: the holder of the certificate, or else the user.
    pub(super) fn identity(&self) -> Identity {
        match &self.theirs.credentials {
            Some(known) if is_nobody(&self.tls.identity) => {
                Identity { common_name: known.username.clone(), san_uris: Vec::new() }
            }
            _ => self.tls.identity.clone(),
        }
    }
}

/// Whether no certificate was shown.
fn is_nobody(identity: &Identity) -> bool {
    *identity == Identity::default()
}

impl Server {
    /// Takes a decision about a [`LoginRequest`]. One that comes too late is ignored.
    pub fn decide(&mut self, now: Instant, id: TlsKey, decision: Decision) {
        let Some(session) = self.sessions.get_mut(&id.session) else { return };
        let deadline = match &mut session.phase {
            Phase::Deciding(candidate) if session.channel.current() == id => &mut candidate.deadline,
            Phase::Connected { peer, .. } => match &mut peer.login.undecided {
                Some((asked, deadline)) if *asked == id => deadline,
                _ => return,
            },
            _ => return,
        };
        let (reason, said) = match decision {
            Decision::Accept => return self.accept_login(now, id),
            Decision::Pending { timeout, info } => {
                let limits = &self.config.renewal;
                let timeout = timeout.min(limits.hand_window.max(limits.after / 2));
                *deadline = now + timeout;
                return self.ask_to_wait(now, id, timeout, &info);
            }
            Decision::Refuse { reason } => {
                let text = printable(&reason, MAX_TEXT);
                let said = if text.is_empty() { "AUTH_FAILED".to_owned() } else { format!("AUTH_FAILED,{text}") };
                (EndReason::LoginRefused(text), said)
            }
            Decision::Later { reason, backoff, advance } => {
                let text = printable(&reason, MAX_TEXT);
                let said = put_off(session.info(), backoff, Some(advance), &text);
                (EndReason::LoginPutOff(text), said)
            }
        };
        self.refuse(now, id, said, reason);
    }

    /// The next login that somebody must decide about.
    pub fn poll_login(&mut self) -> Option<LoginRequest> {
        self.logins.pop_front()
    }

    /// Judges a candidate as far as that can be done here.
    pub(super) fn examine(&mut self, now: Instant, key: SessionKey, candidate: Candidate) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let (tls, remote) = (session.channel.current(), session.remote);
        match self.judge(now, &candidate.tls.identity, candidate.theirs.credentials.as_ref()) {
            Verdict::Accept(token) => self.welcome(now, key, candidate, token),
            Verdict::Refuse(reason, said) => self.refuse(now, tls, said, reason),
            Verdict::Ask(credentials) => {
                self.ask(tls, remote, &candidate.tls.identity, credentials, false);
                if let Some(session) = self.sessions.get_mut(&key) {
                    self.next_timeout = Some(now);
                    session.phase = Phase::Deciding(Box::new(candidate));
                }
            }
        }
    }

    /// Judges who renews the keys of a connected peer: it must be the same user.
    pub(super) fn examine_renewal(&mut self, now: Instant, tls: TlsKey, credentials: Option<Credentials>) {
        if !self.config.admission.passwords {
            return;
        }
        let Some(session) = self.sessions.get_mut(&tls.session) else { return };
        let Phase::Connected { peer, live } = &mut session.phase else { return };
        let (remote, certificate) = (session.remote, live.certificate().clone());
        if credentials.as_ref().map(|known| &known.username) != peer.login.username.as_ref() {
            let said = "AUTH_FAILED,the user name is another than before".to_owned();
            return self.refuse(now, tls, said, EndReason::IdentityChanged);
        }
        let login = peer.login.token.map(|token| token.login);
        match self.judge(now, &certificate, credentials.as_ref()) {
            Verdict::Accept(Some(token)) if login.is_some_and(|login| login != token.login) => {
                let said = "AUTH_FAILED,SESSION:the token is of another session".to_owned();
                self.refuse(now, tls, said, EndReason::IdentityChanged);
            }
            Verdict::Accept(token) => self.renew_token(tls, token),
            Verdict::Refuse(reason, said) => self.refuse(now, tls, said, reason),
            Verdict::Ask(credentials) => {
                let deadline = now + self.config.renewal.hand_window;
                if let Some(Session { phase: Phase::Connected { peer, .. }, .. }) = self.sessions.get_mut(&tls.session)
                {
                    // Renewals that follow quickly do not put the end off.
                    let first = peer.login.undecided.map_or(deadline, |(_, first)| first);
                    peer.login.undecided = Some((tls, first));
                }
                self.next_timeout = Some(now);
                self.ask(tls, remote, &certificate, credentials, true);
            }
        }
    }

    fn judge(&self, now: Instant, certificate: &Identity, credentials: Option<&Credentials>) -> Verdict {
        let refuse =
            |text: &str| Verdict::Refuse(EndReason::LoginRefused(text.to_owned()), format!("AUTH_FAILED,{text}"));
        let admission = &self.config.admission;
        if !admission.passwords {
            return if is_nobody(certificate) { refuse("a certificate is needed") } else { Verdict::Accept(None) };
        }
        let Some(credentials) = credentials else { return refuse("a user name and a password are needed") };
        if credentials.username.is_empty() || credentials.username.contains(char::is_control) {
            return refuse("this cannot be a user name");
        }
        match &admission.tokens {
            Some(tokens) if Tokens::is_token(&credentials.password) => {
                let time = self.unix_time(now);
                match tokens.check(credentials, time) {
                    Some(token) => Verdict::Accept(Some(Token { made: time, ..token })),
                    None => {
                        let text = "the token is over";
                        let said = format!("AUTH_FAILED,SESSION:{text}");
                        Verdict::Refuse(EndReason::LoginRefused(text.to_owned()), said)
                    }
                }
            }
            _ => Verdict::Ask(credentials.clone()),
        }
    }

    fn ask(&mut self, id: TlsKey, remote: Underlay, identity: &Identity, credentials: Credentials, is_renewal: bool) {
        let certificate = Some(identity.clone()).filter(|identity| !is_nobody(identity));
        self.logins.push_back(LoginRequest { id, remote, certificate, credentials, is_renewal });
    }

    fn accept_login(&mut self, now: Instant, id: TlsKey) {
        let token = self.config.admission.tokens.is_some().then(|| {
            let time = self.unix_time(now);
            let mut login = [0; 12];
            self.rng.fill_bytes(&mut login);
            Token { login, since: time, made: time }
        });
        let Some(session) = self.sessions.get_mut(&id.session) else { return };
        match &mut session.phase {
            Phase::Deciding(_) => {}
            Phase::Connected { peer, .. } => {
                peer.login.undecided = None;
                return self.renew_token(id, token);
            }
            _ => return,
        }
        let deciding = std::mem::replace(&mut session.phase, Phase::Ended { until: now });
        if let Phase::Deciding(candidate) = deciding {
            session.phase = Phase::Handshake { deadline: candidate.deadline };
            self.welcome(now, id.session, *candidate, token);
            // The client has perhaps acknowledged everything long ago.
            self.advance(now, id.session);
        }
    }

    fn ask_to_wait(&mut self, now: Instant, tls: TlsKey, timeout: Duration, info: &str) {
        self.next_timeout = Some(now);
        let Some(session) = self.sessions.get(&tls.session) else { return };
        // A peer that is connected waits for nothing.
        if !matches!(session.phase, Phase::Deciding(_)) {
            return;
        }
        let knows = session.info().is_some_and(|info| info.has(negotiation::PROTO_AUTH_PENDING));
        self.say(
            tls,
            if knows { format!("AUTH_PENDING,timeout {}", timeout.as_secs()) } else { "AUTH_PENDING".to_owned() },
        );
        if !info.is_empty() {
            self.say(tls, format!("INFO_PRE,{}", printable(info, MAX_TEXT)));
        }
    }

    /// Nobody decided in time.
    pub(super) fn give_up_deciding(&mut self, now: Instant, key: SessionKey) {
        let Some(session) = self.sessions.get(&key) else { return };
        let tls = match &session.phase {
            Phase::Connected { peer, .. } => peer.login.undecided.map(|(tls, _)| tls),
            _ => Some(session.channel.current()),
        };
        let said = put_off(session.info(), None, None, "nobody could decide in time");
        if let Some(tls) = tls {
            self.refuse(now, tls, said, EndReason::LoginUndecided);
        }
    }

    /// Admits who has shown who it is, if there is a place.
    fn welcome(&mut self, now: Instant, key: SessionKey, candidate: Candidate, token: Option<Token>) {
        let Some(tls) = self.sessions.get(&key).map(|session| session.channel.current()) else { return };
        let info = candidate.info.clone();
        if let Err(reason) = self.prepare(now, key, candidate, token) {
            let text = reason.to_string();
            let said = match reason {
                EndReason::Full => put_off(Some(&info), None, None, &text),
                _ => format!("AUTH_FAILED,{text}"),
            };
            self.refuse(now, tls, said, reason);
        }
    }

    /// The option that gives a client its token.
    pub(super) fn token_option(&self, token: Option<Token>, username: Option<&str>) -> Option<String> {
        let tokens = self.config.admission.tokens.as_ref()?;
        let secret = token?.sign(&tokens.key, username?);
        Some(format!("auth-token {}", secret.expose()))
    }

    /// Gives a peer that has renewed its keys the token for the next time.
    fn renew_token(&mut self, tls: TlsKey, token: Option<Token>) {
        let Some(Session { phase: Phase::Connected { peer, .. }, .. }) = self.sessions.get_mut(&tls.session) else {
            return;
        };
        // The login that began the session stays its login.
        let token = match (peer.login.token, token) {
            (Some(first), Some(new)) => Some(Token { login: first.login, ..new }),
            (_, new) => new,
        };
        peer.login.token = token;
        let username = peer.login.username.clone();
        if let Some(option) = self.token_option(token, username.as_deref()) {
            self.say(tls, format!("PUSH_REPLY,{option}"));
        }
    }

    /// Queues a command over one of the TLS connections of a session.
    pub(super) fn say(&mut self, tls: TlsKey, text: String) {
        let Some(session) = self.sessions.get_mut(&tls.session) else { return };
        session.channel.expect_record(tls);
        self.tls.push_back((tls, TlsInput::Message((text + "\0").into_bytes())));
        self.dirty.insert(tls.session);
    }

    /// Ends a session with these last words.
    fn refuse(&mut self, now: Instant, tls: TlsKey, said: String, reason: EndReason) {
        self.say(tls, said);
        self.end(now, tls.session, reason);
    }

    /// Seconds since 1970, as far as the clock was right at the start.
    fn unix_time(&self, now: Instant) -> u64 {
        u64::from(self.unix_time) + now.saturating_duration_since(self.started).as_secs()
    }
}

impl Session {
    fn info(&self) -> Option<&PeerInfo> {
        match &self.phase {
            Phase::Deciding(candidate) => Some(&candidate.info),
            Phase::Settling { peer, .. } | Phase::Connected { peer, .. } => Some(&peer.login.info),
            Phase::Handshake { .. } | Phase::KeyExchange { .. } | Phase::Ended { .. } => None,
        }
    }
}

/// Tells a client to come back later, if it understands that; all others must take it for a plain refusal.
fn put_off(info: Option<&PeerInfo>, backoff: Option<Duration>, advance: Option<Advance>, text: &str) -> String {
    if !info.is_some_and(|info| info.has(negotiation::PROTO_AUTH_FAIL_TEMP)) {
        return "AUTH_FAILED".to_owned();
    }
    let backoff = backoff.map(|time| format!("backoff {}", time.as_secs()));
    let advance = advance.map(|to| format!("advance {}", to.as_str()));
    let flags: Vec<String> = backoff.into_iter().chain(advance).collect();
    let flags = if flags.is_empty() { String::new() } else { format!("[{}]", flags.join(",")) };
    format!("AUTH_FAILED,TEMP{flags}:{text}")
}
