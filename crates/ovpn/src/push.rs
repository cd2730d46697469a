//! The push: what the server tells the client about addresses, routes, names, timers and the data channel.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

mod configured;
mod dns;
mod filter;
mod reply;
mod set;

pub use configured::{Configured, Ifconfig, Ipv6Ifconfig, PushedIpv6Route, PushedRoute, Redirect, RouteGateway};
pub use dns::{Dns, DnsAddress, DnsServer, DnsTransport, Dnssec};
pub use filter::{FilterAction, PullFilter, PullRules};
pub use reply::PushReply;
pub use set::{PushSet, PushSetError};

/// Longest message; stock peers read commands into buffers of 1024 bytes.
const MAX_MESSAGE: usize = 940;
const REPLY: &str = "PUSH_REPLY";
/// Ours alone, and pushed only to who announces it: the server answers probes of the path.
pub(crate) const PATH_MTU: &str = "path-mtu-discovery";

/// An IPv4 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ipv4Prefix {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its length, 0..=32.
    pub prefix_len: u8,
}

impl Ipv4Prefix {
    /// The mask in dotted form.
    #[must_use]
    pub fn netmask(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::MAX.checked_shl(32 - u32::from(self.prefix_len.min(32))).unwrap_or(0))
    }

    /// The network itself: host bits cleared.
    #[must_use]
    pub fn network(self) -> Self {
        Self { address: self.address & self.netmask(), ..self }
    }

    pub(crate) fn from_netmask(address: Ipv4Addr, mask: Ipv4Addr) -> Option<Self> {
        let mask = u32::from(mask);
        let prefix_len = mask.leading_ones();
        (mask.count_ones() == prefix_len).then_some(Self { address, prefix_len: prefix_len as u8 })
    }
}

impl FromStr for Ipv4Prefix {
    type Err = PrefixError;

    /// Reads `ADDRESS/LENGTH`.
    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let read = || {
            let (address, length) = text.split_once('/')?;
            let prefix_len = length.parse().ok().filter(|&length| length <= 32)?;
            Some(Self { address: address.parse().ok()?, prefix_len })
        };
        read().ok_or_else(|| PrefixError(text.to_owned()))
    }
}

impl fmt::Display for Ipv4Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

/// An IPv6 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ipv6Prefix {
    /// Its address.
    pub address: Ipv6Addr,
    /// Its length, 0..=128.
    pub prefix_len: u8,
}

impl Ipv6Prefix {
    /// The network itself: host bits cleared.
    #[must_use]
    pub fn network(self) -> Self {
        let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix_len.min(128))).unwrap_or(0);
        Self { address: self.address & Ipv6Addr::from(mask), ..self }
    }
}

impl FromStr for Ipv6Prefix {
    type Err = PrefixError;

    /// Reads `ADDRESS/LENGTH`.
    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let read = || {
            let (address, length) = text.split_once('/')?;
            let prefix_len = length.parse().ok().filter(|&length| length <= 128)?;
            Some(Self { address: address.parse().ok()?, prefix_len })
        };
        read().ok_or_else(|| PrefixError(text.to_owned()))
    }
}

impl fmt::Display for Ipv6Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

/// A text is no prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not ADDRESS/LENGTH, as in 10.8.0.0/24 or fd00:8::/64")]
pub struct PrefixError(String);

/// Splits options over as many messages as their length demands. Each message ends with one NUL.
pub(crate) fn encode(options: &[String]) -> Vec<Vec<u8>> {
    let mut messages = vec![REPLY.to_owned()];
    for option in options {
        let mut message = messages.pop().unwrap_or_default();
        if message.len() + 1 + option.len() > MAX_MESSAGE {
            messages.push(message + ",push-continuation 2");
            message = REPLY.to_owned();
        }
        message.push(',');
        message.push_str(option);
        messages.push(message);
    }
    if messages.len() > 1
        && let Some(last) = messages.last_mut()
    {
        last.push_str(",push-continuation 1");
    }
    messages.into_iter().map(|message| (message + "\0").into_bytes()).collect()
}

/// Why a push cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// The message is not text or not a push reply.
    #[error("the push reply is malformed")]
    Malformed,
    /// There is no usable address, of neither family.
    #[error("the server pushed no usable address")]
    Address,
    /// The server wants compression.
    #[error(
        "the server pushed '{0}': compression is not supported, because the length of a compressed packet tells about its \
         contents; remove it from the server's configuration, or have it push 'compress stub-v2'"
    )]
    Compression(String),
    /// The cipher is not among ours.
    #[error("the server chose the data cipher '{0}', which is not in data-ciphers here")]
    Cipher(String),
    /// The epoch format without what it needs.
    #[error("the server pushed the epoch format without a peer id, exported keys and a cipher that can have it")]
    Epochs,
    /// The peer id is out of range.
    #[error("the server pushed an impossible peer id")]
    PeerId,
    /// A pull filter rejects an option.
    #[error("the server pushed '{0}', which a pull-filter here rejects")]
    Rejected(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continues_long_replies() {
        let options: Vec<String> = (0..100).map(|i| format!("route 10.77.{i}.0 255.255.255.0")).collect();
        let messages = encode(&options);
        assert!(messages.len() > 2);
        let mut push = PushReply::default();
        for (at, message) in messages.iter().enumerate() {
            assert!(message.len() <= 1024);
            let text = std::str::from_utf8(message).unwrap().strip_suffix('\0').unwrap();
            assert_eq!(push.handle_message(text), Ok(at + 1 == messages.len()));
        }
        assert_eq!(push.routes.len(), 100);
        assert!(push.ignored.is_empty());
        assert_eq!(encode(&[]), [b"PUSH_REPLY\0"]);
    }

    #[test]
    fn netmasks() {
        for prefix_len in 0..=32 {
            let prefix = Ipv4Prefix { address: Ipv4Addr::LOCALHOST, prefix_len };
            assert_eq!(Ipv4Prefix::from_netmask(Ipv4Addr::LOCALHOST, prefix.netmask()), Some(prefix));
        }
    }
}
