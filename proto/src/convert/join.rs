//! Join codes.

use model::{JoinCodeInfo, JoinCodeState};

use super::{InvalidMessage, MAX_TEXT, invalid, parse};
use crate::v1;
use crate::v1::join_code::State;

impl From<JoinCodeInfo> for v1::JoinCode {
    fn from(code: JoinCodeInfo) -> Self {
        let state = match code.state {
            JoinCodeState::Open => State::Open,
            JoinCodeState::Used => State::Used,
            JoinCodeState::Revoked => State::Revoked,
            JoinCodeState::Expired => State::Expired,
        };
        Self {
            id: code.id,
            home: code.home.to_string(),
            created: code.created,
            expires: code.expires,
            state: state.into(),
        }
    }
}

impl TryFrom<v1::JoinCode> for JoinCodeInfo {
    type Error = InvalidMessage;

    fn try_from(code: v1::JoinCode) -> Result<Self, InvalidMessage> {
        let state = match code.state() {
            State::Open => JoinCodeState::Open,
            State::Used => JoinCodeState::Used,
            State::Revoked => JoinCodeState::Revoked,
            State::Expired => JoinCodeState::Expired,
            State::Unspecified => return Err(invalid("JoinCode.state", "missing or unknown")),
        };
        if code.id.len() > MAX_TEXT {
            return Err(invalid("JoinCode.id", "longer than 1024 bytes"));
        }
        let home = parse("JoinCode.home", &code.home)?;
        Ok(Self { id: code.id, home, created: code.created, expires: code.expires, state })
    }
}
