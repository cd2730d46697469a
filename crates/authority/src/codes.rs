//! The join codes that were made: what is known of each without its secret.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use model::HostId;
use serde::{Deserialize, Serialize};

use crate::code::Secret;

/// Codes that can be open at a time: a person makes one, perhaps a second.
const MAX_OPEN: usize = 32;
/// How long a code that has ended is kept, so that whoever has it learns why it does not work.
const KEPT: Duration = Duration::from_secs(7 * 86_400);

/// A code's usual life.
pub const DEFAULT_LIFE: Duration = Duration::from_secs(3_600);
/// The longest life of a code.
pub const MAX_LIFE: Duration = Duration::from_secs(7 * 86_400);

/// Why no code was made or ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodesError {
    /// A life that a code cannot have.
    #[error("a code lives from one second to seven days")]
    Life,
    /// Too many.
    #[error("{MAX_OPEN} codes are open already: revoke some, or wait until they end")]
    TooMany,
    /// No code has this id.
    #[error("there is no code {0}: `agentctl code list` shows them")]
    Unknown(String),
    /// It has ended.
    #[error("the code {0} has ended already")]
    Ended(String),
}

/// Why a code does not let anybody in. Told apart only for who has the right secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No code has this secret.
    #[error("the code is wrong")]
    Wrong,
    /// It let somebody in already.
    #[error("the code was used already")]
    Used,
    /// Its time is over.
    #[error("the code has expired")]
    Expired,
    /// It was revoked.
    #[error("the code was revoked")]
    Revoked,
}

/// How a code stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeState {
    /// It can be used.
    Open,
    /// It was used then.
    Used(SystemTime),
    /// It was revoked then.
    Revoked(SystemTime),
    /// Its time is over.
    Expired,
}

impl fmt::Display for CodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Used(_) => "used",
            Self::Revoked(_) => "revoked",
            Self::Expired => "expired",
        })
    }
}

/// A code as it can be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeInfo {
    /// What it is called.
    pub id: String,
    /// Who is let in: the name of the home.
    pub home: HostId,
    /// Made at.
    pub created: SystemTime,
    /// Good until.
    pub expires: SystemTime,
    /// How it stands.
    pub state: CodeState,
}

/// All codes, as they are stored.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Codes {
    codes: Vec<Record>,
}

/// Times are seconds since 1970.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    id: String,
    /// SHA-256 of the secret, hexadecimal. 80 random bits need no slow hash.
    secret: String,
    home: HostId,
    created: u64,
    expires: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revoked: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    used: Option<Use>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Use {
    at: u64,
    /// The public key that it let in, hexadecimal.
    key: String,
}

impl Record {
    fn state(&self, now: u64) -> CodeState {
        match (&self.used, self.revoked) {
            (Some(used), _) => CodeState::Used(time(used.at)),
            (None, Some(at)) => CodeState::Revoked(time(at)),
            (None, None) if now >= self.expires => CodeState::Expired,
            (None, None) => CodeState::Open,
        }
    }

    fn info(&self, now: u64) -> CodeInfo {
        CodeInfo {
            id: self.id.clone(),
            home: self.home.clone(),
            created: time(self.created),
            expires: time(self.expires),
            state: self.state(now),
        }
    }
}

impl Codes {
    /// Makes a code's record.
    pub(crate) fn add(
        &mut self,
        secret: &Secret,
        home: &HostId,
        life: Duration,
        now: SystemTime,
    ) -> Result<CodeInfo, CodesError> {
        if life.as_secs() == 0 || life > MAX_LIFE {
            return Err(CodesError::Life);
        }
        let now = seconds(now);
        self.codes.retain(|code| now < code.expires.saturating_add(KEPT.as_secs()));
        if self.codes.iter().filter(|code| code.state(now) == CodeState::Open).count() >= MAX_OPEN {
            return Err(CodesError::TooMany);
        }
        let mut id = hex(&rand::random::<[u8; 3]>());
        while self.codes.iter().any(|code| code.id == id) {
            id = hex(&rand::random::<[u8; 3]>());
        }
        let expires = now.saturating_add(life.as_secs());
        let secret = hex(&secret.hash());
        let record = Record { id, secret, home: home.clone(), created: now, expires, revoked: None, used: None };
        let info = record.info(now);
        self.codes.push(record);
        Ok(info)
    }

    /// All that are kept, the newest last.
    pub(crate) fn infos(&self, now: SystemTime) -> Vec<CodeInfo> {
        self.codes.iter().map(|code| code.info(seconds(now))).collect()
    }

    pub(crate) fn revoke(&mut self, id: &str, now: SystemTime) -> Result<CodeInfo, CodesError> {
        let now = seconds(now);
        let code = self.codes.iter_mut().find(|code| code.id == id);
        let code = code.ok_or_else(|| CodesError::Unknown(id.chars().take(40).collect()))?;
        if code.state(now) != CodeState::Open {
            return Err(CodesError::Ended(code.id.clone()));
        }
        code.revoked = Some(now);
        Ok(code.info(now))
    }

    /// Uses a code up for the holder of a public key, and says who that is. The same holder may ask again while the
    /// code lives, because an answer can get lost on its way.
    pub(crate) fn redeem(&mut self, secret: &Secret, key: &[u8], now: SystemTime) -> Result<HostId, Refusal> {
        let (hash, key, now) = (hex(&secret.hash()), hex(key), seconds(now));
        let mut found = None;
        // All of them, so that the time it takes tells nothing.
        for code in &mut self.codes {
            if verify_slices_are_equal(code.secret.as_bytes(), hash.as_bytes()).is_ok() {
                found = Some(code);
            }
        }
        let code = found.ok_or(Refusal::Wrong)?;
        match code.state(now) {
            CodeState::Open => code.used = Some(Use { at: now, key }),
            CodeState::Used(_) if now < code.expires && code.used.as_ref().is_some_and(|used| used.key == key) => {}
            CodeState::Used(_) => return Err(Refusal::Used),
            CodeState::Revoked(_) => return Err(Refusal::Revoked),
            CodeState::Expired => return Err(Refusal::Expired),
        }
        Ok(code.home.clone())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map(|since| since.as_secs()).unwrap_or_default()
}

fn time(seconds: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(UNIX_EPOCH)
}
