//! Reading a push reply.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::dns::Collected;
use super::filter::shown;
use super::{
    Configured, Ifconfig, Ipv4Prefix, Ipv6Ifconfig, Ipv6Prefix, PullRules, PushError, PushedIpv6Route, PushedRoute,
    REPLY, Redirect, RouteGateway,
};
use crate::data::Framing;
use crate::login::Secret;
use crate::mss::MssFix;
use crate::negotiation::printable;
use crate::underlay::Underlay;

/// Routes of a family taken from one push; the rest is ignored.
const MAX_ROUTES: usize = 256;
/// Ignored options remembered for the log.
const MAX_IGNORED: usize = 32;
/// Longest token that is taken, bytes: it must fit into a key exchange message.
const MAX_TOKEN: usize = 1024;
/// Smallest MTU taken, bytes: stock's.
const MIN_MTU: u32 = 100;

/// How the two arguments of `ifconfig` are meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Topology {
    #[default]
    PointToPoint,
    Subnet,
}

/// A push reply, collected over continuation messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PushReply {
    rules: PullRules,
    topology: Topology,
    ifconfig: Option<(Ipv4Addr, Ipv4Addr)>,
    ifconfig_ipv6: Option<Ipv6Ifconfig>,
    gateway: Option<Ipv4Addr>,
    gateway_ipv6: Option<Ipv6Addr>,
    /// IPv4 routes.
    pub routes: Vec<PushedRoute>,
    /// IPv6 routes.
    pub routes_ipv6: Vec<PushedIpv6Route>,
    route_metric: Option<u32>,
    redirect: Option<Redirect>,
    block_ipv6: bool,
    block_outside_dns: bool,
    dns: Collected,
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
    /// MTU of the device, bytes, at least 100.
    pub tun_mtu: Option<u32>,
    /// The server answers probes of the path ([`crate::path_mtu`]).
    pub path_mtu: bool,
    /// What TCP connections through the tunnel are to fit into.
    pub mss_fix: Option<MssFix>,
    /// Around every payload.
    pub framing: Framing,
    /// A compression that is not done.
    compression: Option<String>,
    /// Stands for the password from now on.
    pub auth_token: Option<Secret>,
    /// The user name that goes with the token, if it is another.
    pub auth_token_user: Option<String>,
    /// Options that were not followed, cleaned for the log.
    pub ignored: Vec<String>,
}

impl PushReply {
    /// A reply that is taken by `rules`.
    #[must_use]
    pub fn new(rules: PullRules) -> Self {
        Self { rules, ..Self::default() }
    }

    /// Takes one message (without its NUL). True when it was the last one.
    ///
    /// # Errors
    /// [`PushError::Malformed`] when it is not a push reply, [`PushError::Rejected`] by a pull filter.
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
                // Rules see what would be obeyed, however it was quoted and spaced.
                let words: Vec<&str> = option.split_ascii_whitespace().map(|word| word.trim_matches('"')).collect();
                let option = words.join(" ");
                if !self.rules.takes(&option)? || self.try_apply(&option, &words).is_none() {
                    self.ignore(&option);
                }
            }
        }
        Ok(last)
    }

    /// What is to be set, for a session with the server at `remote`. `default_mtu` holds when none was pushed, and
    /// `max_mtu` bounds what was; both in bytes.
    ///
    /// # Errors
    /// When nothing usable was pushed, or real compression.
    pub fn configured(&self, remote: Underlay, default_mtu: u16, max_mtu: u16) -> Result<Configured, PushError> {
        if let Some(option) = &self.compression {
            return Err(PushError::Compression(option.clone()));
        }
        let ipv4 = self.ifconfig.map(|pair| ifconfig(self.topology, pair).ok_or(PushError::Address)).transpose()?;
        let ipv6 = self.ifconfig_ipv6;
        if ipv4.is_none() && ipv6.is_none() {
            return Err(PushError::Address);
        }
        let other_end = match ipv4 {
            Some(Ifconfig::PointToPoint { remote, .. }) => Some(remote),
            Some(Ifconfig::Subnet(_)) | None => None,
        };
        let mut ignored = self.ignored.clone();
        let mtu = match self.tun_mtu {
            None => default_mtu.min(max_mtu),
            Some(pushed) => u16::try_from(pushed).ok().filter(|&mtu| mtu <= max_mtu).unwrap_or_else(|| {
                ignored.push(format!("tun-mtu {pushed} (larger than {max_mtu}, which is used)"));
                max_mtu
            }),
        };
        let metric = self.route_metric;
        let or_metric = |own: Option<u32>| own.or(metric);
        Ok(Configured {
            ipv4,
            ipv6,
            gateway: self.gateway.or(other_end),
            gateway_ipv6: self.gateway_ipv6.or_else(|| ipv6.and_then(|ipv6| ipv6.remote)),
            routes: self.routes.iter().map(|&r| PushedRoute { metric: or_metric(r.metric), ..r }).collect(),
            routes_ipv6: self
                .routes_ipv6
                .iter()
                .map(|&r| PushedIpv6Route { metric: or_metric(r.metric), ..r })
                .collect(),
            redirect: self.redirect,
            block_ipv6: self.block_ipv6,
            route_metric: self.route_metric,
            block_outside_dns: self.block_outside_dns,
            dns: self.dns.settle(),
            mtu,
            remote,
            ignored,
        })
    }

    fn ignore(&mut self, option: &str) {
        if self.ignored.len() < MAX_IGNORED - 1 {
            self.ignored.push(shown(option));
        }
    }

    /// `None` for what is unknown, out of place or senseless: such options are skipped, never fatal.
    fn try_apply(&mut self, option: &str, words: &[&str]) -> Option<()> {
        match words {
            ["topology", "subnet"] => self.topology = Topology::Subnet,
            ["topology", "net30" | "p2p"] => self.topology = Topology::PointToPoint,
            ["ifconfig", local, second] => self.ifconfig = Some((local.parse().ok()?, second.parse().ok()?)),
            ["ifconfig-ipv6", address, rest @ ..] => self.ifconfig_ipv6 = Some(parse_ifconfig_ipv6(address, rest)?),
            ["route-gateway", gateway] => self.gateway = Some(gateway.parse().ok()?),
            ["route-ipv6-gateway", gateway] => self.gateway_ipv6 = Some(gateway.parse().ok()?),
            ["route-metric", metric] => self.route_metric = Some(metric.parse().ok()?),
            ["route", rest @ ..] => {
                let route = parse_route(rest).filter(|_| self.routes.len() < MAX_ROUTES)?;
                self.routes.push(route);
            }
            ["route-ipv6", rest @ ..] => {
                let route = parse_route_ipv6(rest).filter(|_| self.routes_ipv6.len() < MAX_ROUTES)?;
                self.routes_ipv6.push(route);
            }
            ["redirect-gateway", flags @ ..] => self.redirect.get_or_insert_default().add(true, flags),
            ["redirect-private", flags @ ..] => self.redirect.get_or_insert_default().add(false, flags),
            ["block-ipv6"] => self.block_ipv6 = true,
            ["block-outside-dns"] => self.block_outside_dns = true,
            ["dhcp-option", rest @ ..] => self.dns.dhcp_option(rest)?,
            ["dns", rest @ ..] => self.dns.dns(rest)?,
            ["ping", seconds] => self.ping = Some(Duration::from_secs(seconds.parse::<u32>().ok()?.into())),
            ["ping-restart" | "ping-exit", seconds] => {
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
            ["tun-mtu", mtu] => self.tun_mtu = Some(mtu.parse().ok().filter(|&mtu| mtu >= MIN_MTU)?),
            [super::PATH_MTU] => self.path_mtu = true,
            ["auth-token", token @ ..] => {
                self.auth_token = token.first().filter(|token| token.len() <= MAX_TOKEN).map(|&token| token.into());
            }
            ["auth-token-user", name @ ..] => self.auth_token_user = name.first().and_then(|name| decode_user(name)),
            ["mssfix", rest @ ..] => self.mss_fix = Some(MssFix::parse(rest)?),
            ["compress" | "comp-lzo", rest @ ..] => {
                let framing = match (words[0], rest) {
                    ("compress", ["stub-v2"]) => Some(Framing::StubV2),
                    ("compress", [] | ["stub"]) => Some(Framing::Stub),
                    ("comp-lzo", ["no"]) => Some(Framing::LzoStub),
                    _ => None,
                };
                self.framing = framing.unwrap_or_default();
                // As with other options, the last word counts.
                self.compression = framing.is_none().then(|| printable(option, 40));
            }
            _ => return None,
        }
        Some(())
    }
}

/// A user name in base64.
fn decode_user(name: &str) -> Option<String> {
    String::from_utf8(STANDARD.decode(name).ok()?).ok()
}

fn ifconfig(topology: Topology, (local, second): (Ipv4Addr, Ipv4Addr)) -> Option<Ifconfig> {
    match topology {
        Topology::PointToPoint => Some(Ifconfig::PointToPoint { local, remote: second }),
        Topology::Subnet => Ipv4Prefix::from_netmask(local, second).map(Ifconfig::Subnet),
    }
}

fn parse_ifconfig_ipv6(address: &str, rest: &[&str]) -> Option<Ipv6Ifconfig> {
    let prefix: Ipv6Prefix = address.parse().ok()?;
    let remote = match rest {
        [] => None,
        [remote, ..] => Some(remote.parse().ok()?),
    };
    Some(Ipv6Ifconfig { address: prefix.address, prefix_len: prefix.prefix_len, remote })
}

/// `NETWORK [MASK [GATEWAY [METRIC]]]`
fn parse_route(words: &[&str]) -> Option<PushedRoute> {
    let (address, rest) = words.split_first()?;
    let (mask, rest) = rest.split_first().map_or((None, rest), |(mask, rest)| (Some(*mask), rest));
    let mask = match mask {
        None | Some("default") => Ipv4Addr::BROADCAST,
        Some(mask) => mask.parse().ok()?,
    };
    let (gateway, metric) = parse_way(rest, "net_gateway")?;
    let prefix = Ipv4Prefix::from_netmask(address.parse().ok()?, mask)?;
    Some(PushedRoute { prefix: prefix.network(), gateway, metric })
}

/// `PREFIX [GATEWAY [METRIC]]`
fn parse_route_ipv6(words: &[&str]) -> Option<PushedIpv6Route> {
    let (prefix, rest) = words.split_first()?;
    let prefix: Ipv6Prefix =
        if prefix.contains('/') { prefix.parse() } else { format!("{prefix}/128").parse() }.ok()?;
    let (gateway, metric) = parse_way(rest, "net_gateway_ipv6")?;
    Some(PushedIpv6Route { prefix: prefix.network(), gateway, metric })
}

/// `[GATEWAY [METRIC]]`, with `net` for the way past the tunnel.
fn parse_way<A: std::str::FromStr>(words: &[&str], net: &str) -> Option<(RouteGateway<A>, Option<u32>)> {
    let gateway = match words.first().copied() {
        None | Some("vpn_gateway" | "default") => RouteGateway::Vpn,
        Some(gateway) if gateway == net || gateway == "net_gateway" => RouteGateway::Net,
        Some(gateway) => RouteGateway::Address(gateway.parse().ok()?),
    };
    let metric = match words.get(1).copied() {
        None | Some("default") => None,
        Some(metric) => Some(metric.parse().ok()?),
    };
    Some((gateway, metric))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn remote() -> Underlay {
        Underlay::udp("192.0.2.1:1194".parse().unwrap())
    }

    fn read(text: &str) -> PushReply {
        let mut push = PushReply::default();
        assert_eq!(push.handle_message(text), Ok(true));
        push
    }

    fn configured(text: &str) -> Result<Configured, PushError> {
        read(text).configured(remote(), 1420, 1600)
    }

    #[test]
    fn follows_a_stock_reply() {
        let push = read(
            "PUSH_REPLY,tun-ipv6,route-gateway 10.8.0.1,topology subnet,ping 10,ping-restart 60,\
             ifconfig-ipv6 fd00:8::1000/64 fd00:8::1,ifconfig 10.8.0.2 255.255.255.0,peer-id 0,cipher AES-256-GCM,\
             protocol-flags cc-exit tls-ekm dyn-tls-crypt,tun-mtu 1500,route 10.9.0.0 255.255.0.0,up /bin/true",
        );
        assert_eq!((push.ping, push.ping_restart), (Some(Duration::from_secs(10)), Some(Duration::from_secs(60))));
        assert_eq!((push.peer_id, push.tun_mtu), (Some(0), Some(1500)));
        assert!(push.tls_ekm && push.cc_exit);
        let configured = push.configured(remote(), 1420, 1600).unwrap();
        assert_eq!(configured.ipv4, Some(Ifconfig::Subnet("10.8.0.2/24".parse().unwrap())));
        let ipv6 = configured.ipv6.unwrap();
        assert_eq!((ipv6.prefix().to_string(), ipv6.remote), ("fd00:8::1000/64".to_owned(), "fd00:8::1".parse().ok()));
        assert_eq!(configured.gateway, Some(Ipv4Addr::new(10, 8, 0, 1)));
        assert_eq!(configured.gateway_ipv6, ipv6.remote);
        assert_eq!((configured.mtu, configured.remote), (1500, remote()));
        assert_eq!(configured.routes.len(), 1);
        assert_eq!(configured.ignored, ["tun-ipv6", "up /bin/true"]);
        assert_eq!((configured.redirect, configured.block_ipv6), (None, false));
    }

    #[test]
    fn routes_with_their_ways() {
        let routes = configured(
            "PUSH_REPLY,topology subnet,ifconfig 10.8.0.2 255.255.255.0,route-metric 7,route 10.9.0.5,\
             route 10.10.1.1 255.255.0.0 vpn_gateway 50,route 192.0.2.9 255.255.255.255 net_gateway,\
             route 10.11.0.0 255.255.0.0 10.8.0.9,route-ipv6 fd01::1/48,route-ipv6 fd02::5 fd00:8::9 3,\
             route-ipv6 fd03::/16 net_gateway_ipv6,route 10.0.0.0 255.0.255.0,route name.example,route-ipv6 fd00::/129",
        )
        .unwrap();
        let ipv4: Vec<_> = routes.routes.iter().map(|r| (r.prefix.to_string(), r.gateway, r.metric)).collect();
        let (vpn, net) = (RouteGateway::Vpn, RouteGateway::Net);
        assert_eq!(
            ipv4,
            [
                ("10.9.0.5/32".to_owned(), vpn, Some(7)),
                ("10.10.0.0/16".to_owned(), vpn, Some(50)),
                ("192.0.2.9/32".to_owned(), net, Some(7)),
                ("10.11.0.0/16".to_owned(), RouteGateway::Address(Ipv4Addr::new(10, 8, 0, 9)), Some(7)),
            ]
        );
        let ipv6: Vec<_> = routes.routes_ipv6.iter().map(|r| (r.prefix.to_string(), r.gateway, r.metric)).collect();
        assert_eq!(
            ipv6,
            [
                ("fd01::/48".to_owned(), RouteGateway::Vpn, Some(7)),
                ("fd02::5/128".to_owned(), RouteGateway::Address("fd00:8::9".parse().unwrap()), Some(3)),
                ("fd03::/16".to_owned(), RouteGateway::Net, Some(7)),
            ]
        );
        assert_eq!(routes.ignored, ["route 10.0.0.0 255.0.255.0", "route name.example", "route-ipv6 fd00::/129"]);
    }

    #[test]
    fn the_default_route_and_names() {
        let all = configured(
            "PUSH_REPLY,ifconfig 10.8.0.6 10.8.0.5,redirect-gateway def1 bypass-dhcp ipv6,redirect-gateway local,\
             block-ipv6,block-outside-dns,dhcp-option DNS 10.8.0.1,dhcp-option DOMAIN example",
        )
        .unwrap();
        let expected =
            Redirect { ipv4: true, ipv6: true, def1: true, local: true, bypass_dhcp: true, ..Redirect::default() };
        assert_eq!(all.redirect, Some(expected));
        assert!(all.block_ipv6 && all.block_outside_dns);
        assert_eq!((all.dns.servers.len(), all.dns.search_domains.len()), (1, 1));
        let (local, remote) = (Ipv4Addr::new(10, 8, 0, 6), Ipv4Addr::new(10, 8, 0, 5));
        assert_eq!(all.ipv4, Some(Ifconfig::PointToPoint { local, remote }));
        assert_eq!(all.gateway, Some(remote));
        let only = |options: &str| {
            configured(&format!("PUSH_REPLY,ifconfig-ipv6 fd00::2/64,{options}")).unwrap().redirect.unwrap()
        };
        assert_eq!(only("redirect-gateway !ipv4 ipv6"), Redirect { ipv6: true, ..Redirect::default() });
        assert_eq!(only("redirect-private def1"), Redirect { def1: true, ..Redirect::default() });
    }

    #[test]
    fn an_address_of_either_family_is_enough() {
        let ipv6 = configured("PUSH_REPLY,ifconfig-ipv6 fd00:8::1000/64 fd00:8::1").unwrap();
        assert_eq!((ipv6.ipv4, ipv6.address(), ipv6.mtu), (None, None, 1420));
        assert_eq!(configured("PUSH_REPLY"), Err(PushError::Address));
        assert_eq!(configured("PUSH_REPLY,ifconfig-ipv6 fd00:8::1000 fd00:8::1"), Err(PushError::Address));
        let hole = "PUSH_REPLY,topology subnet,ifconfig 10.8.0.6 255.0.255.0,ifconfig-ipv6 fd00::2/64";
        assert_eq!(configured(hole), Err(PushError::Address));
        assert_eq!(PushReply::default().handle_message("PUSH_UPDATE,route"), Err(PushError::Malformed));
    }

    #[test]
    fn framings_are_taken_and_compression_is_refused() {
        for (option, framing) in [
            ("compress stub-v2", Some(Framing::StubV2)),
            ("compress stub", Some(Framing::Stub)),
            ("compress", Some(Framing::Stub)),
            ("comp-lzo no", Some(Framing::LzoStub)),
            ("comp-lzo yes,compress stub-v2", Some(Framing::StubV2)),
            ("compress lz4-v2", None),
            ("compress lz4", None),
            ("compress lzo", None),
            ("compress migrate", None),
            ("comp-lzo", None),
            ("comp-lzo yes", None),
            ("comp-lzo adaptive", None),
            ("compress stub-v2,comp-lzo adaptive", None),
        ] {
            let text = format!("PUSH_REPLY,{option},ifconfig 10.8.0.6 10.8.0.5");
            match (framing, configured(&text)) {
                (Some(framing), Ok(_)) => assert_eq!(read(&text).framing, framing, "{option}"),
                (None, Err(error)) => {
                    assert!(error.to_string().contains("compression is not supported"), "{option}: {error}");
                }
                (_, other) => panic!("{option}: {other:?}"),
            }
        }
    }

    #[test]
    fn segment_sizes() {
        for (option, value) in [
            ("mssfix 1400", Some(MssFix::Payload(1400))),
            ("mssfix 1400 mtu", Some(MssFix::Datagram(1400))),
            ("mssfix 1400 fixed", Some(MssFix::Inner(1400))),
            ("mssfix 0", Some(MssFix::Off)),
            ("mssfix", Some(MssFix::default())),
            ("mssfix 10", None),
            ("mssfix x", None),
            ("mssfix 1400 x", None),
        ] {
            assert_eq!(read(&format!("PUSH_REPLY,{option}")).mss_fix, value, "{option}");
        }
    }

    #[test]
    fn an_mtu_is_bounded_and_that_is_told() {
        let pushed = |mtu: &str| configured(&format!("PUSH_REPLY,ifconfig 10.8.0.6 10.8.0.5,tun-mtu {mtu}")).unwrap();
        assert_eq!((pushed("1400").mtu, pushed("1600").mtu, pushed("100").mtu), (1400, 1600, 100));
        for large in ["1601", "65536", "4294967295"] {
            let pushed = pushed(large);
            assert_eq!(pushed.mtu, 1600);
            assert_eq!(pushed.ignored, [format!("tun-mtu {large} (larger than 1600, which is used)")]);
        }
        for senseless in ["99", "0", "-1", "x", "4294967296"] {
            let pushed = pushed(senseless);
            assert_eq!((pushed.mtu, pushed.ignored), (1420, vec![format!("tun-mtu {senseless}")]));
        }
    }

    #[test]
    fn what_the_rules_pass_over_is_told() {
        let mut push = PushReply::new(PullRules { filters: Vec::new(), route_nopull: true });
        push.handle_message("PUSH_REPLY,ifconfig 10.8.0.6 10.8.0.5,\"route\"\t10.0.0.0,dhcp-option DNS 10.8.0.1")
            .unwrap();
        let configured = push.configured(remote(), 1420, 1600).unwrap();
        assert!(configured.routes.is_empty() && configured.dns.is_empty());
        assert_eq!(configured.ignored, ["route 10.0.0.0", "dhcp-option DNS 10.8.0.1"]);
    }

    proptest! {
        #[test]
        fn arbitrary_text_does_not_panic(
            text in "PUSH_REPLY(,(route|route-ipv6|ifconfig|ifconfig-ipv6|dns server|dhcp-option|redirect-gateway|peer-id\
                     |ping|cipher|topology|tun-mtu|mssfix|compress|comp-lzo)[ -~]{0,30}){0,20}",
            other: String,
        ) {
            let mut push = PushReply::default();
            let _ = push.handle_message(&text);
            let _ = push.handle_message(&other);
            let _ = push.configured(remote(), 1420, 1600);
            prop_assert!(push.ignored.len() < MAX_IGNORED);
        }
    }
}
