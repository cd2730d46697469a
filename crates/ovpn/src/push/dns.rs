//! Pushed name resolution, in both dialects: `dns`, and the older `dhcp-option`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Servers taken from one push.
const MAX_SERVERS: usize = 32;
/// Addresses of one server; stock takes as many.
const MAX_ADDRESSES: usize = 8;
/// Domains of one list.
const MAX_DOMAINS: usize = 64;

/// How names are to be resolved while the tunnel is up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// The one to ask first comes first.
    pub servers: Vec<DnsServer>,
    /// Domains to complete short names with, in order.
    pub search_domains: Vec<String>,
}

impl Dns {
    /// Whether nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty() && self.search_domains.is_empty()
    }
}

/// A DNS server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsServer {
    /// Its number; lower ones go first. A push has 0..=127, those below 0 are a client's own.
    pub priority: i8,
    /// 1..=8 addresses; all the same server.
    pub addresses: Vec<DnsAddress>,
    /// Domains that it is for; empty for all.
    pub resolve_domains: Vec<String>,
    /// Whether answers must be signed.
    pub dnssec: Option<Dnssec>,
    /// How it is asked.
    pub transport: Option<DnsTransport>,
    /// Its name in TLS.
    pub sni: Option<String>,
}

/// An address of a DNS server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DnsAddress {
    /// The address.
    pub address: IpAddr,
    /// The port; `None` for the transport's usual one.
    pub port: Option<u16>,
}

/// Whether answers must be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dnssec {
    /// They must.
    Yes,
    /// Where they are, the signature must be right.
    Optional,
    /// Signatures are not looked at.
    No,
}

/// How a DNS server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsTransport {
    /// Over HTTPS.
    Https,
    /// Over TLS.
    Tls,
    /// In clear.
    Plain,
}

/// What was said so far, in either dialect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Collected {
    servers: BTreeMap<i8, DnsServer>,
    search_domains: Vec<String>,
    dhcp_servers: Vec<DnsAddress>,
    dhcp_domains: Vec<String>,
}

impl Collected {
    /// Takes the words behind `dns`.
    pub(super) fn dns(&mut self, words: &[&str]) -> Option<()> {
        match words {
            ["search-domains", domains @ ..] => extend(&mut self.search_domains, domains),
            ["server", number, rest @ ..] => {
                let priority: i8 = number.parse().ok().filter(|&number| number >= 0)?;
                if self.servers.len() >= MAX_SERVERS && !self.servers.contains_key(&priority) {
                    return None;
                }
                let mut server = self.servers.get(&priority).cloned().unwrap_or_default();
                server.priority = priority;
                match rest {
                    ["address", addresses @ ..] if !addresses.is_empty() => {
                        for address in addresses {
                            server.addresses.push(parse_address(address)?);
                        }
                        if server.addresses.len() > MAX_ADDRESSES {
                            return None;
                        }
                    }
                    ["resolve-domains", domains @ ..] => extend(&mut server.resolve_domains, domains)?,
                    ["dnssec", "yes"] => server.dnssec = Some(Dnssec::Yes),
                    ["dnssec", "optional"] => server.dnssec = Some(Dnssec::Optional),
                    ["dnssec", "no"] => server.dnssec = Some(Dnssec::No),
                    ["transport", "DoH"] => server.transport = Some(DnsTransport::Https),
                    ["transport", "DoT"] => server.transport = Some(DnsTransport::Tls),
                    ["transport", "plain"] => server.transport = Some(DnsTransport::Plain),
                    ["sni", name] if is_domain(name) => server.sni = Some((*name).to_owned()),
                    _ => return None,
                }
                self.servers.insert(priority, server);
                Some(())
            }
            _ => None,
        }
    }

    /// Takes the words behind `dhcp-option`; other options than those of name resolution are not followed.
    pub(super) fn dhcp_option(&mut self, words: &[&str]) -> Option<()> {
        match words {
            ["DNS" | "DNS6", address] => {
                let address = DnsAddress { address: address.parse().ok()?, port: None };
                (self.dhcp_servers.len() < MAX_ADDRESSES).then(|| self.dhcp_servers.push(address))
            }
            ["DOMAIN" | "DOMAIN-SEARCH" | "ADAPTER_DOMAIN_SUFFIX", domains @ ..] => {
                extend(&mut self.dhcp_domains, domains)
            }
            _ => None,
        }
    }

    /// What holds: `dns` wins over `dhcp-option`, for the servers and for the domains each.
    pub(super) fn settle(&self) -> Dns {
        let mut servers: Vec<DnsServer> =
            self.servers.values().filter(|server| !server.addresses.is_empty()).cloned().collect();
        if servers.is_empty() && !self.dhcp_servers.is_empty() {
            servers.push(DnsServer { addresses: self.dhcp_servers.clone(), ..DnsServer::default() });
        }
        let domains = if self.search_domains.is_empty() { &self.dhcp_domains } else { &self.search_domains };
        Dns { servers, search_domains: domains.clone() }
    }
}

/// `ADDRESS`, `IPV4:PORT` or `[IPV6]:PORT`.
fn parse_address(text: &str) -> Option<DnsAddress> {
    if let Ok(address) = text.parse() {
        return Some(DnsAddress { address, port: None });
    }
    let (host, port) = text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    let (host, port) = if text.ends_with(']') { (text, None) } else { (host, port) };
    let address = match host.strip_prefix('[') {
        Some(rest) => IpAddr::V6(rest.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?),
        None => IpAddr::V4(host.parse::<Ipv4Addr>().ok()?),
    };
    let port = port.map(|port| port.parse().ok().filter(|&port| port != 0).ok_or(())).transpose().ok()?;
    Some(DnsAddress { address, port })
}

/// Adds what each word lists, which may be several domains with commas written as blanks. All or nothing.
fn extend(list: &mut Vec<String>, domains: &[&str]) -> Option<()> {
    let fits = !domains.is_empty() && list.len() + domains.len() <= MAX_DOMAINS;
    if !fits || !domains.iter().all(|domain| is_domain(domain)) {
        return None;
    }
    list.extend(domains.iter().map(|&domain| domain.to_owned()));
    Some(())
}

/// Whether a text may stand in a resolver's configuration.
fn is_domain(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && !text.starts_with('-')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str, port: Option<u16>) -> DnsAddress {
        DnsAddress { address: text.parse().unwrap(), port }
    }

    #[test]
    fn addresses_with_and_without_ports() {
        for (text, expected) in [
            ("10.8.0.1", Some(address("10.8.0.1", None))),
            ("10.8.0.1:5353", Some(address("10.8.0.1", Some(5353)))),
            ("fd00::1", Some(address("fd00::1", None))),
            ("[fd00::1]", Some(address("fd00::1", None))),
            ("[fd00::1]:853", Some(address("fd00::1", Some(853)))),
            ("10.8.0.1:0", None),
            ("10.8.0.1:", None),
            ("[10.8.0.1]:53", None),
            ("[fd00::1", None),
            ("dns.example", None),
            ("", None),
        ] {
            assert_eq!(parse_address(text), expected, "{text}");
        }
    }

    #[test]
    fn the_newer_dialect_wins() {
        let mut dns = Collected::default();
        dns.dhcp_option(&["DNS", "10.8.0.1"]).unwrap();
        dns.dhcp_option(&["DNS6", "fd00::1"]).unwrap();
        dns.dhcp_option(&["DOMAIN", "old.example"]).unwrap();
        dns.dhcp_option(&["DOMAIN-SEARCH", "older.example"]).unwrap();
        let old = dns.settle();
        assert_eq!(old.servers.len(), 1);
        assert_eq!(old.servers[0].addresses, [address("10.8.0.1", None), address("fd00::1", None)]);
        assert_eq!(old.search_domains, ["old.example", "older.example"]);

        dns.dns(&["server", "7", "address", "10.9.0.7"]).unwrap();
        dns.dns(&["server", "1", "address", "10.9.0.1:5353", "[fd00::9]:53"]).unwrap();
        dns.dns(&["server", "1", "resolve-domains", "a.example", "b.example"]).unwrap();
        dns.dns(&["server", "1", "dnssec", "optional"]).unwrap();
        dns.dns(&["server", "1", "transport", "DoT"]).unwrap();
        dns.dns(&["server", "1", "sni", "dns.example"]).unwrap();
        dns.dns(&["search-domains", "new.example"]).unwrap();
        let new = dns.settle();
        assert_eq!(new.search_domains, ["new.example"]);
        assert_eq!(new.servers.iter().map(|server| server.priority).collect::<Vec<_>>(), [1, 7]);
        let first = &new.servers[0];
        assert_eq!(first.addresses, [address("10.9.0.1", Some(5353)), address("fd00::9", Some(53))]);
        assert_eq!(first.resolve_domains, ["a.example", "b.example"]);
        assert_eq!((first.dnssec, first.transport), (Some(Dnssec::Optional), Some(DnsTransport::Tls)));
        assert_eq!(first.sni.as_deref(), Some("dns.example"));
    }

    #[test]
    fn nothing_gets_into_a_resolvers_file_but_domains_and_addresses() {
        let mut dns = Collected::default();
        for bad in ["a;b", "a\nnameserver 1", "", "-x", "ä.example", &"a".repeat(254)] {
            assert_eq!(dns.dns(&["search-domains", bad]), None, "{bad}");
            assert_eq!(dns.dhcp_option(&["DOMAIN", bad]), None, "{bad}");
            assert_eq!(dns.dns(&["server", "0", "sni", bad]), None, "{bad}");
        }
        assert_eq!(dns.dns(&["server", "128", "address", "10.0.0.1"]), None);
        assert_eq!(dns.dns(&["server", "-1", "address", "10.0.0.1"]), None);
        assert_eq!(dns.dhcp_option(&["WINS", "10.0.0.1"]), None);
        let nine = ["10.0.0.1"; 9];
        assert_eq!(dns.dns(&[&["server", "0", "address"][..], &nine].concat()), None);
        assert!(dns.settle().is_empty());
        // A server without an address is none.
        dns.dns(&["server", "0", "dnssec", "yes"]).unwrap();
        assert!(dns.settle().is_empty());
        for number in 0..=127_u8 {
            let _ = dns.dns(&["server", &number.to_string(), "address", "10.0.0.1"]);
            let _ = dns.dns(&["search-domains", "example"]);
        }
        assert_eq!((dns.settle().servers.len(), dns.settle().search_domains.len()), (MAX_SERVERS, MAX_DOMAINS));
    }
}
