//! The first byte, session ids, and the body of control packets, as they stand after unwrapping.

use std::fmt;

/// A session's id: 8 bytes, never all zero on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub [u8; 8]);

impl SessionId {
    /// Zero stands for "undefined" and must not be accepted from a peer.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.0 == [0; 8]
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What a packet is: the upper five bits of its first byte.
///
/// Opcodes that belong to modes this crate does not speak (key method 1's 1 and 2) are not decoded at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// Starts a new key in a running session.
    SoftReset = 3,
    /// TLS bytes.
    Control = 4,
    /// Only acknowledgements.
    Ack = 5,
    /// Data without a peer id.
    DataV1 = 6,
    /// The client's first packet.
    HardResetClient = 7,
    /// The server's first packet.
    HardResetServer = 8,
    /// Data with a peer id.
    DataV2 = 9,
    /// The client's first packet under tls-crypt-v2, with its wrapped key behind it.
    HardResetClientV3 = 10,
    /// TLS bytes, or none, with the client's wrapped key behind the packet.
    ControlWkc = 11,
}

impl Opcode {
    fn decode(value: u8) -> Option<Self> {
        Some(match value {
            3 => Self::SoftReset,
            4 => Self::Control,
            5 => Self::Ack,
            6 => Self::DataV1,
            7 => Self::HardResetClient,
            8 => Self::HardResetServer,
            9 => Self::DataV2,
            10 => Self::HardResetClientV3,
            11 => Self::ControlWkc,
            _ => return None,
        })
    }
}

/// The first byte of every packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the packet is.
    pub opcode: Opcode,
    /// Which key of the session it belongs to, 0..=7.
    pub key_id: u8,
}

impl Header {
    /// Reads the first byte; `None` for an opcode that this crate does not speak.
    #[must_use]
    pub fn decode(byte: u8) -> Option<Self> {
        Some(Self { opcode: Opcode::decode(byte >> 3)?, key_id: byte & 7 })
    }

    /// The first byte.
    #[must_use]
    pub fn encode(self) -> u8 {
        (self.opcode as u8) << 3 | (self.key_id & 7)
    }
}

/// Most acknowledgements that one packet may carry.
pub const MAX_ACKS: usize = 8;

/// Up to [`MAX_ACKS`] acknowledged message ids.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Acks {
    ids: [u32; MAX_ACKS],
    len: u8,
}

impl Acks {
    /// Adds an id; returns false, and adds nothing, when full.
    pub fn push(&mut self, id: u32) -> bool {
        let Some(slot) = self.ids.get_mut(usize::from(self.len)) else { return false };
        *slot = id;
        self.len += 1;
        true
    }

    /// The ids in wire order.
    #[must_use]
    pub fn as_slice(&self) -> &[u32] {
        self.ids.get(..usize::from(self.len)).unwrap_or_default()
    }
}

impl fmt::Debug for Acks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_slice().fmt(f)
    }
}

/// A control packet's body: what follows the sender's session id, unwrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlBody<'a> {
    /// Message ids of the receiver that the sender acknowledges.
    pub acks: Acks,
    /// The receiver's session id; present exactly when there are acks.
    pub ack_session: Option<SessionId>,
    /// This packet's message id; absent exactly in [`Opcode::Ack`].
    pub message_id: Option<u32>,
    /// TLS bytes, or nothing.
    pub payload: &'a [u8],
}

impl<'a> ControlBody<'a> {
    /// Reads a body. `None` when it is truncated or has more than [`MAX_ACKS`] acks.
    #[must_use]
    pub fn decode(opcode: Opcode, body: &'a [u8]) -> Option<Self> {
        let (&count, mut rest) = body.split_first()?;
        let mut acks = Acks::default();
        for _ in 0..count {
            let (id, tail) = rest.split_first_chunk::<4>()?;
            if !acks.push(u32::from_be_bytes(*id)) {
                return None;
            }
            rest = tail;
        }
        let mut ack_session = None;
        if count > 0 {
            let (session, tail) = rest.split_first_chunk::<8>()?;
            ack_session = Some(SessionId(*session));
            rest = tail;
        }
        let mut message_id = None;
        if opcode != Opcode::Ack {
            let (id, tail) = rest.split_first_chunk::<4>()?;
            message_id = Some(u32::from_be_bytes(*id));
            rest = tail;
        }
        Some(Self { acks, ack_session, message_id, payload: rest })
    }

    /// Appends the body to `out`. Acks without an `ack_session` are left out, as the wire has no form for them.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self.ack_session {
            Some(session) if !self.acks.as_slice().is_empty() => {
                out.push(self.acks.len);
                for id in self.acks.as_slice() {
                    out.extend_from_slice(&id.to_be_bytes());
                }
                out.extend_from_slice(&session.0);
            }
            _ => out.push(0),
        }
        if let Some(id) = self.message_id {
            out.extend_from_slice(&id.to_be_bytes());
        }
        out.extend_from_slice(self.payload);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn arbitrary_bodies_do_not_panic_and_read_back(bytes: Vec<u8>, count in 0u8..10, ack: bool) {
            let opcode = if ack { Opcode::Ack } else { Opcode::Control };
            let body = [&[count][..], &bytes].concat();
            if let Some(decoded) = ControlBody::decode(opcode, &body) {
                prop_assert!(usize::from(count) <= MAX_ACKS);
                let mut again = Vec::new();
                decoded.encode(&mut again);
                prop_assert_eq!(again, body);
            }
            let _ = ControlBody::decode(opcode, &bytes);
        }

        #[test]
        fn first_bytes_read_back(byte: u8) {
            if let Some(header) = Header::decode(byte) {
                prop_assert_eq!(header.encode(), byte);
            }
        }
    }
}
