//! Wrapping of control packets: tls-auth, tls-crypt, or nothing.

use crate::drops::DropReason;
use crate::packet::{Header, SessionId};
use crate::protection::SharedKey;
use crate::replay::TimedReplayWindow;
use crate::static_key::StaticKey;

mod tls_auth;
pub(crate) mod tls_crypt;

/// Which side of a session we are. TLS roles are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Dials, sends the first packet, asks for a push.
    Client,
    /// Answers, assigns addresses.
    Server,
}

/// Opcode, session id.
const PREFIX: usize = 9;

/// Keys of the wrapping, shared by all sessions of an endpoint, or a session's own.
pub struct WrapKeys {
    role: Role,
    /// What the keys were made from.
    key: Option<StaticKey>,
    mode: Mode,
}

enum Mode {
    Plain,
    TlsAuth(tls_auth::Keys),
    TlsCrypt(tls_crypt::Keys),
}

impl WrapKeys {
    /// tls-crypt with a static key, or no wrapping.
    #[must_use]
    pub fn new(role: Role, key: Option<&StaticKey>) -> Self {
        let mode = key.map_or(Mode::Plain, |key| Mode::TlsCrypt(tls_crypt::Keys::new(role, key)));
        Self { role, key: key.cloned(), mode }
    }

    /// With a key that all sessions share.
    #[must_use]
    pub fn shared(role: Role, shared: &SharedKey) -> Self {
        match shared {
            SharedKey::TlsCrypt(key) => Self::new(role, Some(key)),
            SharedKey::TlsAuth(auth) => {
                Self { role, key: Some(auth.key.clone()), mode: Mode::TlsAuth(tls_auth::Keys::new(auth)) }
            }
        }
    }

    /// Dynamic tls-crypt: what wraps the packets of a session's renewals, from what TLS exported and these keys.
    #[must_use]
    pub fn dynamic(&self, exported: &StaticKey) -> Self {
        let mixed = self.key.as_ref().map_or_else(|| exported.clone(), |key| key.xor(exported));
        Self::new(self.role, Some(&mixed))
    }

    /// Unwraps `datagram` in place and returns the sender's session id, the replay pair (time, id) where the wrapping
    /// has one, and the clear body. Nothing of it may be used before the pair was accepted by the session's window.
    ///
    /// # Errors
    /// [`DropReason::Malformed`] when it is too short, [`DropReason::Wrap`] when it does not authenticate.
    pub fn open<'a>(&self, datagram: &'a mut [u8]) -> Result<Unwrapped<'a>, DropReason> {
        match &self.mode {
            Mode::Plain => {
                let (prefix, body) = datagram.split_at_mut_checked(PREFIX).ok_or(DropReason::Malformed)?;
                Ok(Unwrapped { sender: session_id(prefix)?, replay: None, body })
            }
            Mode::TlsAuth(keys) => keys.open(datagram),
            Mode::TlsCrypt(keys) => keys.open(datagram),
        }
    }

    /// Wraps `body` into `out`, which is cleared first. `replay` is (time, id); both are ignored without wrapping.
    ///
    /// # Errors
    /// [`DropReason::Wrap`] when the cipher fails, which it does not for packets of our sizes.
    pub fn seal(
        &self,
        header: Header,
        sender: SessionId,
        replay: (u32, u32),
        body: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), DropReason> {
        out.clear();
        out.push(header.encode());
        out.extend_from_slice(&sender.0);
        match &self.mode {
            Mode::Plain => {
                out.extend_from_slice(body);
                Ok(())
            }
            Mode::TlsAuth(keys) => {
                keys.seal(replay, body, out);
                Ok(())
            }
            Mode::TlsCrypt(keys) => keys.seal(replay, body, out),
        }
    }
}

/// A control packet that authenticated.
pub struct Unwrapped<'a> {
    /// Who says it sent the packet.
    pub sender: SessionId,
    /// Replay (time, id), where the wrapping has one.
    pub replay: Option<(u32, u32)>,
    /// The body from the ack count on.
    pub body: &'a [u8],
}

/// The session id of a control packet's sender, which is not encrypted in any mode.
pub(crate) fn session_id(packet: &[u8]) -> Result<SessionId, DropReason> {
    let id = packet.get(1..).and_then(|rest| rest.first_chunk::<8>()).ok_or(DropReason::Malformed)?;
    let id = SessionId(*id);
    if id.is_zero() { Err(DropReason::Malformed) } else { Ok(id) }
}

/// The replay state of one session: our counter and the peer's window.
#[derive(Debug)]
pub(crate) struct WrapState {
    time: u32,
    sent: u32,
    received: TimedReplayWindow,
}

impl WrapState {
    /// `sent` is how many packets went out already under the same time.
    pub(crate) fn new(time: u32, sent: u32) -> Self {
        Self { time, sent, received: TimedReplayWindow::default() }
    }

    /// A state for other keys of the same session.
    pub(crate) fn fresh(&self) -> Self {
        Self::new(self.time, 0)
    }

    /// The pair for the next packet; `None` when the counter is used up, which ends the session.
    pub(crate) fn next(&mut self) -> Option<(u32, u32)> {
        self.sent = self.sent.checked_add(1)?;
        Some((self.time, self.sent))
    }

    /// Records the pair of an authenticated packet.
    pub(crate) fn accept(&mut self, replay: Option<(u32, u32)>) -> Result<(), DropReason> {
        match replay {
            Some((time, id)) if !self.received.accept(time, id) => Err(DropReason::Replay),
            _ => Ok(()),
        }
    }
}
