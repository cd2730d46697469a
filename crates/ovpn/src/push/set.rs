//! What a listener pushes beyond what the tunnel itself needs.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::{Dns, DnsAddress, DnsTransport, Dnssec, Ipv4Prefix, Ipv6Prefix, Redirect};

/// Longest option, bytes: several must fit into a message.
const MAX_OPTION: usize = 256;
/// All options of a set together, bytes.
const MAX_SET: usize = 16 * 1024;
/// Options that the listener says itself, by what a peer can and what was agreed with it.
const OWN: [&str; 17] = [
    "auth-token",
    "auth-token-user",
    "cipher",
    "comp-lzo",
    "compress",
    "ifconfig",
    "ifconfig-ipv6",
    "key-derivation",
    super::PATH_MTU,
    "peer-id",
    "ping",
    "ping-restart",
    "protocol-flags",
    "push-continuation",
    "route-gateway",
    "topology",
    "tun-mtu",
];

/// What peers are told to set on their hosts, besides addresses and what was agreed about the session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PushSet {
    /// IPv4 networks to reach through the tunnel.
    pub routes: Vec<Ipv4Prefix>,
    /// IPv6 networks to reach through the tunnel.
    pub routes_ipv6: Vec<Ipv6Prefix>,
    /// What of the default route goes through the tunnel.
    pub redirect: Option<Redirect>,
    /// Name resolution, in the dialect that the peer understands: `dns`, else `dhcp-option`.
    pub dns: Dns,
    /// No IPv6 packet may leave the peer's host past the tunnel.
    pub block_ipv6: bool,
    /// Further options as they stand, such as `inactive 3600`.
    pub options: Vec<String>,
}

/// A set cannot be pushed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushSetError {
    /// An option would not arrive as it is meant.
    #[error("{0:?} cannot be pushed: an option has 1 to 256 printable characters and no comma")]
    Text(String),
    /// An option is the listener's own.
    #[error("{0:?} cannot be pushed: the listener decides that by itself")]
    Own(String),
    /// Too much.
    #[error("more than {MAX_SET} bytes of options are to be pushed to a peer: leave out some routes or merge them")]
    TooLarge,
}

impl PushSet {
    /// Whether the set can be pushed.
    ///
    /// # Errors
    /// Names the option that cannot.
    pub fn check(&self) -> Result<(), PushSetError> {
        for option in &self.options {
            let name = option.split_ascii_whitespace().next().unwrap_or_default().trim_matches('"');
            if OWN.contains(&name) {
                return Err(PushSetError::Own(option.clone()));
            }
        }
        // A peer is told one of them.
        for dialect in [self.render(true), self.render(false)] {
            let mut all = 0;
            for option in dialect {
                let printable = option.bytes().all(|byte| (byte.is_ascii_graphic() && byte != b',') || byte == b' ');
                if option.trim().is_empty() || option.len() > MAX_OPTION || !printable {
                    return Err(PushSetError::Text(option));
                }
                all += option.len() + 1;
            }
            if all > MAX_SET {
                return Err(PushSetError::TooLarge);
            }
        }
        Ok(())
    }

    /// The options for a peer that understands `dns`, or does not.
    pub(crate) fn render(&self, knows_dns: bool) -> Vec<String> {
        let mut options = Vec::new();
        for route in &self.routes {
            let route = route.network();
            options.push(format!("route {} {}", route.address, route.netmask()));
        }
        options.extend(self.routes_ipv6.iter().map(|route| format!("route-ipv6 {}", route.network())));
        options.extend(self.redirect.map(Redirect::render));
        if self.block_ipv6 {
            options.push("block-ipv6".to_owned());
        }
        if knows_dns {
            self.dns.render(&mut options);
        } else {
            self.dns.render_as_dhcp(&mut options);
        }
        options.extend(self.options.iter().cloned());
        options
    }
}

impl Redirect {
    fn render(self) -> String {
        let through = self.ipv4 || self.ipv6;
        let mut option = if through { "redirect-gateway" } else { "redirect-private" }.to_owned();
        for (flag, word) in [
            (self.def1, " def1"),
            (self.local, " local"),
            (self.autolocal, " autolocal"),
            (self.bypass_dhcp, " bypass-dhcp"),
            (self.bypass_dns, " bypass-dns"),
            (self.block_local, " block-local"),
            (self.ipv6, " ipv6"),
            (through && !self.ipv4, " !ipv4"),
        ] {
            if flag {
                option.push_str(word);
            }
        }
        option
    }
}

impl Dns {
    fn render(&self, options: &mut Vec<String>) {
        options.extend(self.search_domains.iter().map(|domain| format!("dns search-domains {domain}")));
        for server in &self.servers {
            let number = server.priority;
            let mut addresses = format!("dns server {number} address");
            for DnsAddress { address, port } in &server.addresses {
                // Writing to a String cannot fail.
                let _ = match (address, port) {
                    (address, None) => write!(addresses, " {address}"),
                    (IpAddr::V4(address), Some(port)) => write!(addresses, " {address}:{port}"),
                    (IpAddr::V6(address), Some(port)) => write!(addresses, " [{address}]:{port}"),
                };
            }
            options.push(addresses);
            let domains = server.resolve_domains.iter();
            options.extend(domains.map(|domain| format!("dns server {number} resolve-domains {domain}")));
            options.extend(server.dnssec.map(|dnssec| {
                let word = match dnssec {
                    Dnssec::Yes => "yes",
                    Dnssec::Optional => "optional",
                    Dnssec::No => "no",
                };
                format!("dns server {number} dnssec {word}")
            }));
            options.extend(server.transport.map(|transport| {
                let word = match transport {
                    DnsTransport::Https => "DoH",
                    DnsTransport::Tls => "DoT",
                    DnsTransport::Plain => "plain",
                };
                format!("dns server {number} transport {word}")
            }));
            options.extend(server.sni.as_ref().map(|name| format!("dns server {number} sni {name}")));
        }
    }

    /// What of it the older dialect can say: servers for all names, at their usual port.
    fn render_as_dhcp(&self, options: &mut Vec<String>) {
        for server in self.servers.iter().filter(|server| server.resolve_domains.is_empty()) {
            for DnsAddress { address, port } in &server.addresses {
                match (address, port) {
                    (_, Some(port)) if *port != 53 => {}
                    (IpAddr::V4(address), _) => options.push(format!("dhcp-option DNS {address}")),
                    (IpAddr::V6(address), _) => options.push(format!("dhcp-option DNS6 {address}")),
                }
            }
        }
        for (at, domain) in self.search_domains.iter().enumerate() {
            let word = if at == 0 { "DOMAIN" } else { "DOMAIN-SEARCH" };
            options.push(format!("dhcp-option {word} {domain}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::push::{DnsServer, PushReply};
    use crate::underlay::Underlay;

    fn everything() -> PushSet {
        let server = DnsServer {
            priority: 3,
            addresses: vec![
                DnsAddress { address: "10.8.0.1".parse().unwrap(), port: None },
                DnsAddress { address: "fd00:8::1".parse().unwrap(), port: Some(53) },
            ],
            resolve_domains: vec!["a.example".to_owned(), "b.example".to_owned()],
            dnssec: Some(Dnssec::Optional),
            transport: Some(DnsTransport::Plain),
            sni: Some("dns.example".to_owned()),
        };
        PushSet {
            routes: vec!["10.9.0.0/16".parse().unwrap()],
            routes_ipv6: vec!["fd01::/48".parse().unwrap()],
            redirect: Some(Redirect { ipv4: true, ipv6: true, def1: true, bypass_dhcp: true, ..Redirect::default() }),
            dns: Dns { servers: vec![server], search_domains: vec!["c.example".to_owned(), "d.example".to_owned()] },
            block_ipv6: true,
            options: vec!["inactive 3600".to_owned()],
        }
    }

    #[test]
    fn what_is_pushed_is_what_is_read() {
        let set = everything();
        set.check().unwrap();
        for redirect in [
            Redirect { ipv6: true, ..Redirect::default() },
            Redirect { ipv4: true, local: true, autolocal: true, block_local: true, ..Redirect::default() },
            Redirect { def1: true, bypass_dns: true, ..Redirect::default() },
        ] {
            let set = PushSet { redirect: Some(redirect), ..everything() };
            let text = format!("PUSH_REPLY,ifconfig 10.8.0.6 10.8.0.5,{}", set.render(true).join(","));
            let mut push = PushReply::default();
            push.handle_message(&text).unwrap();
            let read = push.configured(Underlay::udp(([192, 0, 2, 1], 1).into()), 1500, 1600).unwrap();
            assert_eq!((read.redirect, &read.dns, read.block_ipv6), (Some(redirect), &set.dns, true));
            assert_eq!(read.routes.iter().map(|route| route.prefix).collect::<Vec<_>>(), set.routes);
            assert_eq!(read.routes_ipv6.iter().map(|route| route.prefix).collect::<Vec<_>>(), set.routes_ipv6);
            assert_eq!(read.ignored, ["inactive 3600"]);
        }
    }

    #[test]
    fn the_older_dialect_is_for_those_who_know_no_other() {
        let mut set = everything();
        set.dns.servers[0].resolve_domains.clear();
        let options = set.render(false).join(",");
        let expected = "dhcp-option DNS 10.8.0.1,dhcp-option DNS6 fd00:8::1,dhcp-option DOMAIN c.example,\
                        dhcp-option DOMAIN-SEARCH d.example";
        assert!(options.contains(expected) && !options.contains("dns "), "{options}");
    }

    #[test]
    fn what_would_not_arrive_is_refused() {
        let with = |option: &str| PushSet { options: vec![option.to_owned()], ..PushSet::default() }.check();
        for bad in ["", " ", "a,b", "a\0b", "a\nb", "é", &"a".repeat(257)] {
            assert_eq!(with(bad), Err(PushSetError::Text(bad.to_owned())));
        }
        for own in [
            "peer-id 3",
            "cipher AES-256-GCM",
            "protocol-flags x",
            "push-continuation 2",
            "ifconfig 1 2",
            " \"cipher\" x",
        ] {
            assert_eq!(with(own), Err(PushSetError::Own(own.to_owned())));
        }
        assert_eq!(with("route 10.0.0.0 255.0.0.0 net_gateway"), Ok(()));
        let many = PushSet { routes: vec!["10.0.0.0/8".parse().unwrap(); 700], ..PushSet::default() };
        assert_eq!(many.check(), Err(PushSetError::TooLarge));
    }
}
