//! Reasons for dropping a packet, and how often each happened.

use std::fmt;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)*) => {
        /// Why a packet was dropped. Dropping is never answered and never fatal to a session.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DropReason { $($(#[$doc])* $name,)* }

        impl DropReason {
            /// Every reason, in the order of the enum.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// A stable name in snake case, fit for a metric's label.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

reasons! {
    /// Empty, truncated, or an opcode that is not spoken.
    Malformed => "malformed",
    /// The control wrapping did not authenticate: another key, or noise.
    Wrap => "wrap",
    /// A packet id seen before, too old, or zero.
    Replay => "replay",
    /// The session id returned by the peer is not the cookie that was given to its address.
    Cookie => "cookie",
    /// A client's tls-crypt-v2 key is too old, or does not tell its age.
    KeyAge => "key_age",
    /// More first packets than are answered in a period.
    InitialRate => "initial_rate",
    /// As many handshakes in progress as are allowed.
    HandshakeLimit => "handshake_limit",
    /// A control packet of no session.
    UnknownSession => "unknown_session",
    /// A key id that has no key.
    UnknownKey => "unknown_key",
    /// A data packet of no peer, or from an address that is another peer's.
    UnknownPeer => "unknown_peer",
    /// More packets that come from unknown addresses and are not the peer's they claim to be than are tried in a period.
    FloatRate => "float_rate",
    /// A control packet outside of the receive window or otherwise out of turn.
    OutOfTurn => "out_of_turn",
    /// A data packet that does not authenticate.
    Authentication => "authentication",
    /// Compressed, or without the framing that was agreed on. Nothing compressed is ever opened.
    Compressed => "compressed",
    /// Decrypted or from the device, but not an IPv4 or IPv6 packet.
    NotIp => "not_ip",
    /// An inner source address that is not the peer's own.
    Source => "source",
    /// An inner source address that means something on a link only: hosts send from such ones of themselves, and there is
    /// no link here.
    LinkLocal => "link_local",
    /// From one peer to another, where that is not allowed.
    PeerToPeer => "peer_to_peer",
    /// An inner destination that no connected peer owns.
    NoRoute => "no_route",
    /// Larger than the tunnel carries.
    TooLarge => "too_large",
    /// The socket or the device did not take it.
    Blocked => "blocked",
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A counter for every [`DropReason`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops([u64; DropReason::ALL.len()]);

impl Drops {
    /// Counts one.
    pub fn count(&mut self, reason: DropReason) {
        self.count_many(reason, 1);
    }

    /// Counts so many.
    pub fn count_many(&mut self, reason: DropReason, packets: usize) {
        self.0[reason as usize] += packets as u64;
    }

    /// How often `reason` was counted.
    #[must_use]
    pub fn of(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// Adds all counters of `other`.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }

    /// Every reason with its count.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().map(|&reason| (reason, self.of(reason)))
    }
}
