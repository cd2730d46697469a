//! Wrapping of control packets: tls-crypt, or nothing.

use aws_lc_rs::cipher::{
    AES_256, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext, UnboundCipherKey,
};
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;

use crate::drops::DropReason;
use crate::packet::{Header, SessionId};
use crate::replay::TimedReplayWindow;
use crate::static_key::StaticKey;

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
/// The prefix with replay id and time: what is authenticated but not encrypted.
const AD: usize = PREFIX + 8;
const TAG: usize = 32;

/// Keys of the wrapping, shared by all sessions of an endpoint.
pub struct WrapKeys {
    role: Role,
    /// What the keys were made from.
    key: Option<StaticKey>,
    crypt: Option<TlsCrypt>,
}

struct TlsCrypt {
    send: Direction,
    receive: Direction,
}

struct Direction {
    cipher: [u8; 32],
    hmac: hmac::Key,
}

impl WrapKeys {
    /// tls-crypt with a static key, or no wrapping.
    #[must_use]
    pub fn new(role: Role, key: Option<&StaticKey>) -> Self {
        let crypt = key.map(|key| {
            let direction = |index| {
                let mut cipher = [0; 32];
                cipher.copy_from_slice(key.cipher(index));
                Direction { cipher, hmac: hmac::Key::new(hmac::HMAC_SHA256, key.hmac(index)) }
            };
            // The server sends with key 0, the client with key 1: the opposite order of the data channel's.
            let (send, receive) = match role {
                Role::Server => (0, 1),
                Role::Client => (1, 0),
            };
            TlsCrypt { send: direction(send), receive: direction(receive) }
        });
        Self { role, key: key.cloned(), crypt }
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
        let Some(crypt) = &self.crypt else {
            let (prefix, body) = datagram.split_at_mut_checked(PREFIX).ok_or(DropReason::Malformed)?;
            return Ok(Unwrapped { sender: session_id(prefix)?, replay: None, body });
        };
        let (head, body) = datagram.split_at_mut_checked(AD + TAG).ok_or(DropReason::Malformed)?;
        let (ad, tag) = head.split_at(AD);
        let mut iv = [0; 16];
        iv.copy_from_slice(&tag[..16]);
        crypt.receive.decrypt(iv, body)?;
        let mut context = hmac::Context::with_key(&crypt.receive.hmac);
        context.update(ad);
        context.update(body);
        aws_lc_rs::constant_time::verify_slices_are_equal(context.sign().as_ref(), tag)
            .map_err(|_| DropReason::Wrap)?;
        let word = |at: usize| u32::from_be_bytes([ad[at], ad[at + 1], ad[at + 2], ad[at + 3]]);
        Ok(Unwrapped { sender: session_id(ad)?, replay: Some((word(PREFIX + 4), word(PREFIX))), body })
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
        let Some(crypt) = &self.crypt else {
            out.extend_from_slice(body);
            return Ok(());
        };
        out.extend_from_slice(&replay.1.to_be_bytes());
        out.extend_from_slice(&replay.0.to_be_bytes());
        let mut context = hmac::Context::with_key(&crypt.send.hmac);
        context.update(out);
        context.update(body);
        let tag = context.sign();
        let mut iv = [0; 16];
        iv.copy_from_slice(&tag.as_ref()[..16]);
        out.extend_from_slice(tag.as_ref());
        let clear = out.len();
        out.extend_from_slice(body);
        crypt.send.encrypt(iv, &mut out[clear..])
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

impl Direction {
    fn encrypt(&self, iv: [u8; 16], data: &mut [u8]) -> Result<(), DropReason> {
        let key = UnboundCipherKey::new(&AES_256, &self.cipher).and_then(EncryptingKey::ctr);
        key.and_then(|key| key.less_safe_encrypt(data, EncryptionContext::Iv128(FixedLength::from(iv))))
            .map(drop)
            .map_err(|_| DropReason::Wrap)
    }

    fn decrypt(&self, iv: [u8; 16], data: &mut [u8]) -> Result<(), DropReason> {
        let key = UnboundCipherKey::new(&AES_256, &self.cipher).and_then(DecryptingKey::ctr);
        key.and_then(|key| key.decrypt(data, DecryptionContext::Iv128(FixedLength::from(iv))).map(drop))
            .map_err(|_| DropReason::Wrap)
    }
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
