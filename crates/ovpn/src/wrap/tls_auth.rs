//! tls-auth: an HMAC before a clear body.

use aws_lc_rs::hmac;

use super::{PREFIX, Unwrapped, session_id};
use crate::drops::DropReason;
use crate::protection::{KeyDirection, TlsAuth};

/// Replay id and time.
const REPLAY: usize = 8;

pub(super) struct Keys {
    send: hmac::Key,
    receive: hmac::Key,
    /// Length of a tag.
    length: usize,
}

impl Keys {
    pub(super) fn new(auth: &TlsAuth) -> Self {
        let length = auth.digest.len();
        let key = |index| auth.digest.key(auth.key.hmac_field(index));
        let (send, receive) = match auth.direction {
            None => (0, 0),
            Some(KeyDirection::Zero) => (0, 1),
            Some(KeyDirection::One) => (1, 0),
        };
        Self { send: key(send), receive: key(receive), length }
    }

    pub(super) fn open<'a>(&self, datagram: &'a mut [u8]) -> Result<Unwrapped<'a>, DropReason> {
        let (head, body) = datagram.split_at_mut_checked(PREFIX + self.length + REPLAY).ok_or(DropReason::Malformed)?;
        let (prefix, rest) = head.split_at(PREFIX);
        let (tag, replay) = rest.split_at(self.length);
        let expected = tag_of(&self.receive, replay, prefix, body);
        aws_lc_rs::constant_time::verify_slices_are_equal(expected.as_ref(), tag).map_err(|_| DropReason::Wrap)?;
        let word = |at: usize| u32::from_be_bytes([replay[at], replay[at + 1], replay[at + 2], replay[at + 3]]);
        Ok(Unwrapped { sender: session_id(prefix)?, replay: Some((word(4), word(0))), body })
    }

    /// `out` holds the prefix.
    pub(super) fn seal(&self, replay: (u32, u32), body: &[u8], out: &mut Vec<u8>) {
        let mut pair = [0; REPLAY];
        pair[..4].copy_from_slice(&replay.1.to_be_bytes());
        pair[4..].copy_from_slice(&replay.0.to_be_bytes());
        let tag = tag_of(&self.send, &pair, out, body);
        out.extend_from_slice(tag.as_ref());
        out.extend_from_slice(&pair);
        out.extend_from_slice(body);
    }
}

/// The tag; the order differs from that on the wire.
fn tag_of(key: &hmac::Key, replay: &[u8], prefix: &[u8], body: &[u8]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    context.update(replay);
    context.update(prefix);
    context.update(body);
    context.sign()
}
