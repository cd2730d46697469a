//! The push: what the server tells the client about addresses, timers and the data channel.

use std::net::Ipv4Addr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::login::Secret;
use crate::negotiation::printable;

/// Longest message; stock peers read commands into buffers of 1024 bytes.
const MAX_MESSAGE: usize = 940;
/// Routes taken from one push; the rest is ignored.
const MAX_ROUTES: usize = 256;
/// Ignored options remembered for the log.
const MAX_IGNORED: usize = 32;
/// Longest token that is taken, bytes: it must fit into a key exchange message.
const MAX_TOKEN: usize = 1024;
const REPLY: &str = "PUSH_REPLY";

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

    fn from_netmask(address: Ipv4Addr, mask: Ipv4Addr) -> Option<Self> {
        let mask = u32::from(mask);
        let prefix_len = mask.leading_ones();
        (mask.count_ones() == prefix_len).then_some(Self { address, prefix_len: prefix_len as u8 })
    }
}

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

/// How the two arguments of `ifconfig` are meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Topology {
    #[default]
    PointToPoint,
    Subnet,
}

/// The client's address as it is to be set on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ifconfig {
    /// An address in a network.
    Subnet(Ipv4Prefix),
    /// A pair of addresses.
    PointToPoint {
        /// Ours.
        local: Ipv4Addr,
        /// The other end's.
        remote: Ipv4Addr,
    },
}

impl Ifconfig {
    /// The client's own address.
    #[must_use]
    pub fn address(self) -> Ipv4Addr {
        match self {
            Self::Subnet(prefix) => prefix.address,
            Self::PointToPoint { local, .. } => local,
        }
    }
}

/// A route the server wants the client to have through the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PushedRoute {
    /// Where to.
    pub prefix: Ipv4Prefix,
    /// By which address inside of the tunnel, if not by the gateway of the push.
    pub gateway: Option<Ipv4Addr>,
}

/// Why a push cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// The message is not text or not a push reply.
    #[error("the push reply is malformed")]
    Malformed,
    /// There is no (usable) `ifconfig`.
    #[error("the server pushed no usable address")]
    Address,
    /// The server wants compression or its framing.
    #[error("the server pushed '{0}': compression is not supported, remove it from the server's configuration")]
    Compression(String),
    /// The cipher is not among ours.
    #[error("the server chose the data cipher '{0}', which is not in data-ciphers here")]
    Cipher(String),
    /// The epoch format without what it needs.
    #[error("the server pushed the epoch format without a peer id and exported keys")]
    Epochs,
    /// The peer id is out of range.
    #[error("the server pushed an impossible peer id")]
    PeerId,
}

/// A push reply, collected over continuation messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PushReply {
    topology: Topology,
    ifconfig: Option<(Ipv4Addr, Ipv4Addr)>,
    /// The server's address inside of the tunnel, or whatever gateway it named.
    pub gateway: Option<Ipv4Addr>,
    /// Routes through the tunnel.
    pub routes: Vec<PushedRoute>,
    /// Idle time after which a ping is sent.
    pub ping: Option<Duration>,
    /// Silence after which the session counts as dead.
    pub ping_restart: Option<Duration>,
    /// Number to put into data packets.
    pub peer_id: Option<u32>,
    /// Name of the data cipher.
    pub cipher: Option<String>,
    /// Keys come from the TLS exporter.
    pub tls_ekm: bool,
    /// Renewals are wrapped under keys that TLS exported.
    pub dynamic_tls_crypt: bool,
    /// Data packets are in the epoch format.
    pub epochs: bool,
    /// Exit notices go over the control channel.
    pub cc_exit: bool,
    /// MTU of the device, bytes.
    pub tun_mtu: Option<u16>,
    compression: Option<String>,
    /// Stands for the password from now on.
    pub auth_token: Option<Secret>,
    /// The user name that goes with the token, if it is another.
    pub auth_token_user: Option<String>,
    /// Options that were not followed, cleaned for the log.
    pub ignored: Vec<String>,
}

impl PushReply {
    /// Takes one message (without its NUL). True when it was the last one.
    ///
    /// # Errors
    /// [`PushError::Malformed`] when it is not a push reply.
    pub fn handle_message(&mut self, message: &str) -> Result<bool, PushError> {
        let mut options = message.split(',');
        if options.next() != Some(REPLY) {
            return Err(PushError::Malformed);
        }
        let mut last = true;
        for option in options {
            if option == "push-continuation 2" {
                last = false;
            } else if option != "push-continuation 1" {
                self.apply(option);
            }
        }
        Ok(last)
    }

    /// The address to set.
    ///
    /// # Errors
    /// When nothing usable was pushed, or options that change every packet.
    pub fn ifconfig(&self) -> Result<Ifconfig, PushError> {
        if let Some(option) = &self.compression {
            return Err(PushError::Compression(option.clone()));
        }
        let (local, second) = self.ifconfig.ok_or(PushError::Address)?;
        match self.topology {
            Topology::PointToPoint => Ok(Ifconfig::PointToPoint { local, remote: second }),
            Topology::Subnet => Ipv4Prefix::from_netmask(local, second).map(Ifconfig::Subnet).ok_or(PushError::Address),
        }
    }

    fn apply(&mut self, option: &str) {
        let words: Vec<&str> = option.split_ascii_whitespace().map(|word| word.trim_matches('"')).collect();
        if self.try_apply(option, &words).is_none() && self.ignored.len() < MAX_IGNORED {
            self.ignored.push(printable(option, 80));
        }
    }

    /// `None` for what is unknown, out of place or senseless: such options are skipped, never fatal.
    fn try_apply(&mut self, option: &str, words: &[&str]) -> Option<()> {
        match words {
            ["topology", "subnet"] => self.topology = Topology::Subnet,
            ["topology", "net30" | "p2p"] => self.topology = Topology::PointToPoint,
            ["ifconfig", local, second] => self.ifconfig = Some((local.parse().ok()?, second.parse().ok()?)),
            ["route-gateway", gateway] => self.gateway = Some(gateway.parse().ok()?),
            ["route", rest @ ..] => {
                let route = parse_route(rest).filter(|_| self.routes.len() < MAX_ROUTES)?;
                self.routes.push(route);
            }
            ["ping", seconds] => self.ping = Some(Duration::from_secs(seconds.parse::<u32>().ok()?.into())),
            ["ping-restart", seconds] => {
                self.ping_restart = Some(Duration::from_secs(seconds.parse::<u32>().ok()?.into()));
            }
            ["peer-id", id] => self.peer_id = Some(id.parse().unwrap_or(u32::MAX)),
            ["cipher", name] => self.cipher = Some(printable(name, 40)),
            ["protocol-flags", flags @ ..] => {
                self.tls_ekm |= flags.contains(&"tls-ekm");
                self.cc_exit |= flags.contains(&"cc-exit");
                self.dynamic_tls_crypt |= flags.contains(&"dyn-tls-crypt");
                self.epochs |= flags.contains(&"aead-epoch");
            }
            ["key-derivation", "tls-ekm"] => self.tls_ekm = true,
            ["tun-mtu", mtu] => self.tun_mtu = Some(mtu.parse().ok()?),
            // A token is a secret: whatever is wrong with it, it does not go among the ignored options.
            ["auth-token", token @ ..] => {
                self.auth_token = token.first().filter(|token| token.len() <= MAX_TOKEN).map(|&token| token.into());
            }
            ["auth-token-user", name @ ..] => self.auth_token_user = name.first().and_then(|name| decode_user(name)),
            ["compress" | "comp-lzo", ..] => self.compression = Some(printable(option, 40)),
            _ => return None,
        }
        Some(())
    }
}

/// A user name in base64.
fn decode_user(name: &str) -> Option<String> {
    String::from_utf8(STANDARD.decode(name).ok()?).ok()
}

fn parse_route(words: &[&str]) -> Option<PushedRoute> {
    let mut words = words.iter();
    let address = words.next()?.parse().ok()?;
    let mask = words.next().map_or(Some(Ipv4Addr::BROADCAST), |mask| mask.parse().ok())?;
    let gateway = match words.next().copied() {
        None | Some("vpn_gateway" | "default") => None,
        // The way outside of the tunnel is the host's business.
        Some("net_gateway") => return None,
        Some(gateway) => Some(gateway.parse().ok()?),
    };
    Some(PushedRoute { prefix: Ipv4Prefix::from_netmask(address, mask)?, gateway })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn follows_a_stock_reply() {
        let mut push = PushReply::default();
        let last = push.handle_message(
            "PUSH_REPLY,tun-ipv6,route-gateway 10.8.0.1,topology subnet,ping 10,ping-restart 60,\
             ifconfig-ipv6 fd00:8::1000/64 fd00:8::1,ifconfig 10.8.0.2 255.255.255.0,peer-id 0,cipher AES-256-GCM,\
             protocol-flags cc-exit tls-ekm dyn-tls-crypt,tun-mtu 1500,route 10.9.0.0 255.255.0.0,up /bin/true",
        );
        assert_eq!(last, Ok(true));
        let prefix = Ipv4Prefix { address: Ipv4Addr::new(10, 8, 0, 2), prefix_len: 24 };
        assert_eq!(push.ifconfig(), Ok(Ifconfig::Subnet(prefix)));
        assert_eq!(push.gateway, Some(Ipv4Addr::new(10, 8, 0, 1)));
        assert_eq!((push.ping, push.ping_restart), (Some(Duration::from_secs(10)), Some(Duration::from_secs(60))));
        assert_eq!((push.peer_id, push.tun_mtu), (Some(0), Some(1500)));
        assert!(push.tls_ekm && push.cc_exit);
        assert_eq!(push.routes.len(), 1);
        assert_eq!(push.ignored, ["tun-ipv6", "ifconfig-ipv6 fd00:8::1000/64 fd00:8::1", "up /bin/true"]);
    }

    #[test]
    fn refuses_compression_and_missing_addresses() {
        let mut push = PushReply::default();
        push.handle_message("PUSH_REPLY,compress lz4-v2,ifconfig 10.8.0.6 10.8.0.5").unwrap();
        assert!(matches!(push.ifconfig(), Err(PushError::Compression(_))));
        assert_eq!(PushReply::default().ifconfig(), Err(PushError::Address));
        let mut push = PushReply::default();
        push.handle_message("PUSH_REPLY,topology subnet,ifconfig 10.8.0.6 255.0.255.0").unwrap();
        assert_eq!(push.ifconfig(), Err(PushError::Address));
        assert_eq!(PushReply::default().handle_message("PUSH_UPDATE,route"), Err(PushError::Malformed));
    }

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

    proptest! {
        #[test]
        fn arbitrary_text_does_not_panic(text in "PUSH_REPLY(,(route|ifconfig|peer-id|ping|cipher|topology)[ -~]{0,30}){0,20}", other: String) {
            let mut push = PushReply::default();
            let _ = push.handle_message(&text);
            let _ = push.handle_message(&other);
            let _ = push.ifconfig();
        }
    }
}
