//! What a server can tell a connected peer at any time.

use std::time::Instant;

use super::{Phase, Server, Session};
use crate::endpoint::{EndReason, PeerId};
use crate::negotiation::printable;

const MAX_TEXT: usize = 900;

/// A message for a connected peer. Texts are for the person at the client; control characters are replaced, and what
/// is longer than 900 characters is cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// To connect anew. Ends the session.
    Restart {
        /// Why.
        text: String,
        /// Whether the client goes on with the password or token it has; otherwise it asks for it again.
        keep_login: bool,
        /// Whether it tries its next remote.
        next_remote: bool,
    },
    /// To give up. Ends the session.
    Halt {
        /// Why.
        text: String,
    },
    /// To know.
    Info {
        /// What.
        text: String,
    },
}

impl Server {
    /// Tells a peer something over the control channel. False when there is no such peer.
    pub fn notify(&mut self, now: Instant, peer: PeerId, notice: &Notice) -> bool {
        let Some(key) = self.session_of(peer) else { return false };
        let Some(Session { phase: Phase::Connected { live, .. }, channel, .. }) = self.sessions.get(&key) else {
            return false;
        };
        // Where a new key is nearly there, the peer listens over its connection only.
        let tls = live.newest_tls().unwrap_or_else(|| channel.current());
        let (text, ends) = match notice {
            Notice::Restart { text, keep_login, next_remote } => {
                let flags = format!("{}{}", if *keep_login { "P" } else { "" }, if *next_remote { "N" } else { "" });
                let flags = if flags.is_empty() { flags } else { format!("[{flags}]") };
                let text = flags + &printable(text, MAX_TEXT);
                (if text.is_empty() { "RESTART".to_owned() } else { format!("RESTART,{text}") }, true)
            }
            Notice::Halt { text } if text.is_empty() => ("HALT".to_owned(), true),
            Notice::Halt { text } => (format!("HALT,{}", printable(text, MAX_TEXT)), true),
            Notice::Info { text } => (format!("INFO,{}", printable(text, MAX_TEXT)), false),
        };
        self.say(tls, text);
        if ends {
            self.end(now, key, EndReason::Local);
        }
        true
    }
}
