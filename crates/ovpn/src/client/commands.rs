//! What the server says over the control channel besides its push.

use std::time::{Duration, Instant};

use super::{Client, Phase};
use crate::endpoint::{EndReason, Event};
use crate::login::Advance;
use crate::negotiation::printable;
use crate::push::PushReply;

/// Most characters of the server's words that are passed on; enough for a web address with a ticket in it.
const MAX_TEXT: usize = 900;

impl Client {
    /// Obeys one command, which stands without its NUL.
    pub(super) fn handle_command(&mut self, now: Instant, command: &str) -> Result<(), EndReason> {
        let (name, text) = command.split_once(',').unwrap_or((command, ""));
        match name {
            "PUSH_REPLY" => self.handle_push(now, command),
            "AUTH_FAILED" => Err(self.refused(text)),
            "AUTH_PENDING" => {
                self.wait_longer(text);
                Ok(())
            }
            "RESTART" => {
                let (flags, text) = flags(text);
                if !flags.contains('P') {
                    self.config.login.drop_token();
                }
                Err(EndReason::ServerRestart { text: cleaned(text), next_remote: flags.contains('N') })
            }
            "HALT" => Err(EndReason::ServerHalt(cleaned(text))),
            "EXIT" => Err(EndReason::PeerExit),
            "INFO" | "INFO_PRE" => {
                self.events.push_back(Event::Info(cleaned(text)));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// What follows from `AUTH_FAILED,text`.
    fn refused(&mut self, text: &str) -> EndReason {
        if let Some(rest) = text.strip_prefix("TEMP") {
            let (flags, text) = flags(rest);
            let (mut backoff, mut advance) = (None, Advance::default());
            for flag in flags.split(',') {
                match flag.split_once(' ') {
                    Some(("backoff", seconds)) => backoff = seconds.parse().ok().map(Duration::from_secs),
                    Some(("advance", "no")) => advance = Advance::No,
                    Some(("advance", "addr")) => advance = Advance::Address,
                    Some(("advance", "remote")) => advance = Advance::Remote,
                    _ => {}
                }
            }
            return EndReason::RefusedForNow { text: cleaned(text.trim_start_matches(':')), backoff, advance };
        }
        if let Some(challenge) = text.strip_prefix("CRV1:") {
            // Flags, state and user name come first.
            let question = cleaned(challenge.splitn(4, ':').nth(3).unwrap_or_default());
            return EndReason::AuthFailed(format!(
                "it asks '{question}', and such questions (CRV1) cannot be answered here; use an account without them"
            ));
        }
        // Servers that were restarted do not know that what they refuse was a token.
        if self.config.login.drop_token() {
            return EndReason::TokenRefused(cleaned(text.strip_prefix("SESSION:").unwrap_or(text)));
        }
        let text = cleaned(text);
        EndReason::AuthFailed(if text.is_empty() { "wrong user name or password".to_owned() } else { text })
    }

    /// Gives the server the time that it asks for, though not more than stock clients do.
    fn wait_longer(&mut self, text: &str) {
        let Phase::Push { since, .. } = self.phase else { return };
        let limits = &self.config.renewal;
        let most = limits.hand_window.max(limits.after / 2);
        let asked = text.strip_prefix("timeout ").and_then(|seconds| seconds.trim().parse().ok());
        let timeout = asked.map_or(most, |seconds| Duration::from_secs(seconds).min(most));
        self.deadline = since + timeout;
        self.events.push_back(Event::LoginPending { timeout });
    }

    /// A push to a connected client has nothing for us but a token to renew keys with.
    pub(super) fn take_new_token(&mut self, command: &str) {
        let Phase::Connected { live, .. } = &mut self.phase else { return };
        let mut push = PushReply::new(self.config.pull.clone());
        // What is no push at all is ignored like any unknown command.
        if push.handle_message(command).is_ok()
            && let Some(token) = push.auth_token
        {
            self.config.login.take_token(token, push.auth_token_user);
            live.use_credentials(self.config.login.credentials().cloned());
        }
    }
}

/// Splits `[flags]rest`.
fn flags(text: &str) -> (&str, &str) {
    text.strip_prefix('[').and_then(|rest| rest.split_once(']')).unwrap_or(("", text))
}

fn cleaned(text: &str) -> String {
    printable(text, MAX_TEXT)
}
